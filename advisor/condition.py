"""Conditions: what a rule's `when` says, checked against the facts' types when it is loaded, evaluated by simpleeval.

simpleeval walks the parsed expression and never calls `eval`. It has no types, so the check here is what refuses an unknown fact, a text
compared with a number, or a misspelt value ("reserach") before any plan is made. (The library `rule-engine` has typed contexts, but builds
its parser's tables at every import: 0.6 s, more than a whole `ftadvise plan` may take.)

A rule file may come from anyone. What a condition can do is bounded by its grammar, not by watching it: facts, constants, comparisons, and,
or, not, and lists of those. There is no call, no attribute, no arithmetic, so nothing to reach files with and nothing that grows. Length
and depth are limited, so that neither parser nor evaluation can be made to recurse or to last.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ftadvise.advisor.facts import STAGE_OF_FACT, FactType
from ftadvise.profiles.errors import InputError, did_you_mean

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
}
MAX_LENGTH = 1000
MAX_DEPTH = 24
"""Levels of nesting. `a and (b or not c in (d, e))` has six; the parser's own limits lie near 100."""


class Condition:
    """A condition over facts, such as `gpu_count == 1 and "A100" in gpu_name`.

    Raises:
        InputError: on construction, when the text is not such a condition: broken syntax, an unknown fact, a wrong type or value.
    """

    __slots__ = ("_evaluator", "_node", "names", "stage", "text")

    def __init__(self, text: str, types: Mapping[str, tuple[FactType, tuple[str, ...]]]) -> None:
        if len(text) > MAX_LENGTH:
            raise InputError(f"a condition has at most {MAX_LENGTH} characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what Python only warns of, such as an unknown escape, is wrong here
                self._node = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"{text!r} is not a condition ({getattr(error, 'msg', None) or error})") from None
        if _deeper_than(self._node, MAX_DEPTH):
            raise InputError(f"a condition nests at most {MAX_DEPTH} levels deep")
        self.text = text
        self._evaluator: Any = None
        self.names: frozenset[str] = frozenset(node.id for node in ast.walk(self._node) if isinstance(node, ast.Name))
        if _Checker(types).type_of(self._node) != "bool":
            raise InputError(f"{text!r} is not true or false", hint="compare it with something, such as gpu_memory_gib <= 12")
        self.stage = max((STAGE_OF_FACT.get(name, 0) for name in self.names), default=0)
        """The stage at which all its facts are known (index into `facts.STAGE_NAMES`)."""

    def matches(self, facts: Mapping[str, Any]) -> bool:
        """Whether the condition holds for these facts."""
        if self._evaluator is None:
            from simpleeval import EvalWithCompoundTypes

            self._evaluator = EvalWithCompoundTypes(operators=_OPERATORS, functions={})
        self._evaluator.names = facts
        return bool(self._evaluator.eval(self.text, previously_parsed=self._node))

    def __eq__(self, other: object) -> bool:
        """Conditions are equal when they say the same."""
        return isinstance(other, Condition) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def _deeper_than(node: ast.AST, limit: int) -> bool:
    """Whether the tree has more levels than `limit`; level by level, because recursion is what a deep tree would break."""
    level = [node]
    for _ in range(limit):
        level = [child for parent in level for child in ast.iter_child_nodes(parent)]
        if not level:
            return False
    return True


class _Checker:
    """Types of expressions. Anything but facts, constants, comparisons, and/or/not and lists of constants is refused."""

    def __init__(self, types: Mapping[str, tuple[FactType, tuple[str, ...]]]) -> None:
        self._types = types

    def type_of(self, node: ast.expr) -> FactType:
        if isinstance(node, ast.Name):
            if node.id not in self._types:
                raise InputError(
                    f"unknown fact {node.id!r}", hint=did_you_mean(node.id, self._types) or f"known facts: {', '.join(self._types)}"
                )
            return self._types[node.id][0]
        if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str)):
            return "bool" if isinstance(node.value, bool) else "text" if isinstance(node.value, str) else "number"
        if isinstance(node, ast.BoolOp):
            for value in node.values:
                self._expect(value, "bool")
            return "bool"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._expect(node.operand, "bool")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self._expect(node.operand, "number")
        if isinstance(node, ast.Compare):
            left = node.left
            for comparison, right in zip(node.ops, node.comparators, strict=True):
                self._check_comparison(left, comparison, right)
                left = right
            return "bool"
        raise InputError(f"{ast.unparse(node)!r} is not allowed in a condition", hint="use facts, constants, comparisons, and, or, not, in")

    def _expect(self, node: ast.expr, wanted: FactType) -> FactType:
        found = self.type_of(node)
        if found != wanted:
            raise InputError(f"{ast.unparse(node)!r} is a {found}, where a {wanted} is needed")
        return wanted

    def _check_comparison(self, left: ast.expr, comparison: ast.cmpop, right: ast.expr) -> None:
        if isinstance(comparison, (ast.In, ast.NotIn)):
            if isinstance(right, (ast.Tuple, ast.List)):
                for item in right.elts:
                    self._check_same(left, item)
            else:
                self._expect(left, "text")
                self._expect(right, "text")
        elif isinstance(comparison, (ast.Eq, ast.NotEq)):
            self._check_same(left, right)
        elif type(comparison) in _OPERATORS:
            self._expect(left, "number")
            self._expect(right, "number")
        else:
            raise InputError("`is` is not allowed in a condition", hint="use ==")

    def _check_same(self, left: ast.expr, right: ast.expr) -> None:
        self._expect(right, self.type_of(left))
        for fact, constant in ((left, right), (right, left)):
            if isinstance(fact, ast.Name) and isinstance(constant, ast.Constant):
                values = self._types[fact.id][1]
                if values and constant.value not in values:
                    hint = did_you_mean(str(constant.value), values) or f"its values: {', '.join(values)}"
                    raise InputError(f"{fact.id} is never {constant.value!r}", hint=hint)

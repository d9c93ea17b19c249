"""Conditions: what a rule's `when` says, checked against the facts' types when it is loaded, evaluated by simpleeval.

simpleeval walks the parsed expression and never calls `eval`. It has no types, so the check here is what refuses an unknown fact, a text
compared with a number, or a misspelt value ("reserach") before any plan is made. (The library `rule-engine` has typed contexts, but builds
its parser's tables at every import: 0.6 s, more than a whole `ftadvise plan` may take.)
"""

from __future__ import annotations

import ast
import operator
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


class Condition:
    """A condition over facts, such as `gpu_count == 1 and "A100" in gpu_name`.

    Raises:
        InputError: on construction, when the text is not such a condition: broken syntax, an unknown fact, a wrong type or value.
    """

    __slots__ = ("_node", "names", "text")

    def __init__(self, text: str, types: Mapping[str, tuple[FactType, tuple[str, ...]]]) -> None:
        if len(text) > MAX_LENGTH:
            raise InputError(f"a condition has at most {MAX_LENGTH} characters")
        try:
            self._node = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"{text!r} is not a condition ({getattr(error, 'msg', None) or error})") from None
        self.text = text
        self.names: frozenset[str] = frozenset(node.id for node in ast.walk(self._node) if isinstance(node, ast.Name))
        if _Checker(types).type_of(self._node) != "bool":
            raise InputError(f"{text!r} is not true or false", hint="compare it with something, such as gpu_memory_gib <= 12")

    @property
    def stage(self) -> int:
        """The stage at which all its facts are known (see `STAGE_OF_FACT`)."""
        return max((STAGE_OF_FACT.get(name, 0) for name in self.names), default=0)

    def matches(self, facts: Mapping[str, Any]) -> bool:
        """Whether the condition holds for these facts."""
        from simpleeval import EvalWithCompoundTypes

        evaluator = EvalWithCompoundTypes(operators=_OPERATORS, functions={}, names=facts)
        return bool(evaluator.eval(self.text, previously_parsed=self._node))


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

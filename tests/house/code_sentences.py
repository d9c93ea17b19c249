"""The English sentences that the code can show as errors, hints and notes, as patterns: f"{path}: no such file" is "{}: no such file"."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ftadvise.profiles import errors

_ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.FtadviseError)}


_MESSAGE_AT = dict.fromkeys(_ERRORS, 0) | {"_fail": 0, "problem": 3}
"""Which argument of a call is the message."""


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Line and pattern of every message and hint of an error, and of every note, that is written out in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            for argument in _shown(node):
                for pattern in _patterns(argument):
                    yield node.lineno, pattern


def _shown(call: ast.Call) -> list[ast.expr]:
    """The arguments of a call that people come to see."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "append" and ast.unparse(call.func).endswith("notes.append"):
        return call.args
    if name not in _MESSAGE_AT:
        return []
    at = _MESSAGE_AT[name]
    return [*call.args[at : at + 1], *(keyword.value for keyword in call.keywords if keyword.arg == "hint")]


def _patterns(node: ast.expr) -> Iterator[str]:
    """Each text that an expression can be, as far as it is written out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from _patterns(node.body)
        yield from _patterns(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _patterns(value)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for left in _patterns(node.left) or ["{}"]:
            for right in list(_patterns(node.right)) or ["{}"]:
                yield left + right
    elif isinstance(node, ast.Call):  # "; ".join((one, other))
        for argument in node.args:
            if isinstance(argument, (ast.Tuple, ast.List)):
                for element in argument.elts:
                    yield from _patterns(element)

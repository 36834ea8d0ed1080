"""Finds every call of `event` in the sources: messages, levels and fields, by the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = Path(__file__).parents[2] / "src" / "oxidicom"

METHODS: Final = frozenset(
    ("debug", "info", "warning", "warn", "error", "exception", "critical", "log")
)
"""Methods of a logger, which only `event` may call."""

_WITH_ERROR: Final = ("exception", "traceback")


class LogCall(NamedTuple):
    where: str
    messages: frozenset[str]
    """Empty if they are not constants."""
    levels: frozenset[str]
    """Empty if they are not constants."""
    fields: frozenset[str]
    optional: frozenset[str]


def log_calls(source: Path = SOURCE) -> list[LogCall]:
    found = []
    for path in sorted(source.rglob("*.py")):
        module = ast.parse(path.read_text())
        for function in _functions(module):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and _name(call.func) == "event":
                    where = f"{path.relative_to(source)}:{call.lineno}"
                    found.append(_log_call(where, call, function, module))
    return found


def direct_calls(source: Path = SOURCE) -> list[str]:
    """Return the places that call methods of a logger."""
    return [
        f"{path.relative_to(source)}:{call.lineno}"
        for path in sorted(source.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in METHODS
        and _name(call.func.value) in ("log", "logger", "_logger", "logging")
    ]


def _functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions and methods of a module, without nested ones."""
    for holder in ast.walk(module):
        if isinstance(holder, (ast.Module, ast.ClassDef)):
            for each in holder.body:
                if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield each


def _log_call(where: str, call: ast.Call, function: ast.AST, module: ast.Module) -> LogCall:
    _, level, message = call.args
    fields: set[str] = set()
    optional: set[str] = set()
    for keyword in call.keywords:
        if keyword.arg is None:
            optional |= _keys_of(keyword.value, function, module)
        elif keyword.arg != "exc_info":
            fields.add(keyword.arg)
        elif isinstance(keyword.value, ast.Name):  # surely an error
            fields.update(_WITH_ERROR)
        else:
            optional.update(_WITH_ERROR)
    levels = {each.attr for each in ast.walk(level) if isinstance(each, ast.Attribute)}
    return LogCall(
        where,
        frozenset(_constants(message)),
        frozenset(level.replace("WARNING", "WARN") for level in levels if level.isupper()),
        frozenset(fields),
        frozenset(optional),
    )


def _constants(message: ast.expr) -> Iterator[str]:
    if isinstance(message, ast.IfExp):
        yield from _constants(message.body)
        yield from _constants(message.orelse)
    elif isinstance(message, ast.Constant):
        assert isinstance(message.value, str)
        yield message.value


def _keys_of(value: ast.expr, function: ast.AST, module: ast.Module) -> set[str]:
    """Return the keys of a `**value`: of a name's assignment, or of what a function returns."""
    if isinstance(value, ast.Name):
        assigned = [
            each.value
            for each in ast.walk(function)
            if isinstance(each, (ast.Assign, ast.AnnAssign))
            and each.value is not None
            and value.id in map(_name, _targets(each))
        ]
        assert assigned, f"where does {value.id} come from?"
        return {key for each in assigned for key in _keys_of(each, function, module)}
    if isinstance(value, ast.Call):
        name = _name(value.func)
        if name == "trace_fields":
            return {"trace_id", "span_id"}
        [called] = [each for each in _functions(module) if each.name == name]
        returned = [each.value for each in ast.walk(called) if isinstance(each, ast.Return)]
        return {key for each in returned if each for key in _keys_of(each, called, module)}
    return {
        each.value
        for each in ast.walk(value)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }


def _targets(assignment: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return assignment.targets if isinstance(assignment, ast.Assign) else [assignment.target]


def _name(expression: ast.expr) -> str | None:
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else None

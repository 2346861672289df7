"""Parameters of a run: declared in the job, given when a run is asked for, and read as `.params.X` in templates."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from agent.spec.document import nearest, shorten
from agent.spec.jobspec import ParamSpec, ParamType

Value = str | int | float | bool

_TEXTS: Final = {
    ParamType.STRING: re.compile(r".*", re.DOTALL),
    ParamType.INTEGER: re.compile(r"[+-]?[0-9]+"),
    ParamType.NUMBER: re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"),
    ParamType.BOOLEAN: re.compile(r"true|false"),
}
_EXPECTED: Final = {
    ParamType.STRING: "a text",
    ParamType.INTEGER: "a whole number",
    ParamType.NUMBER: "a number",
    ParamType.BOOLEAN: "true or false",
}
INTEGER_MAX: Final = 2**63 - 1  # as Go's templates have it, and so that JSON keeps it


def read(kind: ParamType, value: object) -> Value:
    """A parameter's value, of its type. value: of JSON, or its text. Raises ValueError, which says what is expected."""
    if isinstance(value, str) and _TEXTS[kind].fullmatch(value):
        return _of_text(kind, value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int) and number and kind in (ParamType.INTEGER, ParamType.NUMBER):
        return _bounded(value)
    if isinstance(value, float) and kind is ParamType.NUMBER and math.isfinite(value):
        return value
    if isinstance(value, bool) and kind is ParamType.BOOLEAN:
        return value
    told = shorten(value) if isinstance(value, str) else repr(value)[:100]
    raise ValueError(f"{_EXPECTED[kind]} is expected, not {told}")


def _of_text(kind: ParamType, text: str) -> Value:
    if kind is ParamType.INTEGER:
        return _bounded(int(text))
    if kind is ParamType.NUMBER:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{shorten(text)} is too large a number")
        return value
    return text == "true" if kind is ParamType.BOOLEAN else text


def _bounded(value: int) -> int:
    if abs(value) > INTEGER_MAX:
        raise ValueError(f"{value} is too large a whole number; at most {INTEGER_MAX} are kept exactly")
    return value


def defaults(declared: Mapping[str, ParamSpec]) -> dict[str, Value]:
    """The values of those that have a default."""
    return {name: read(one.type, one.default) for name, one in declared.items() if one.default is not None}


def values(declared: Mapping[str, ParamSpec], given: Mapping[str, object]) -> tuple[dict[str, Value], dict[str, str]]:
    """What a run has that is given some of them.

    Returns all values, and {name: what is wrong}; the values are worth something only where nothing is wrong.
    """
    made, wrong = defaults(declared), {}
    for name, value in given.items():
        if name not in declared:
            wrong[name] = f"the job has no such parameter{nearest(name, declared)}"
            continue
        try:
            made[name] = read(declared[name].type, value)
        except ValueError as error:
            wrong[name] = str(error)
    for name, one in declared.items():
        if name not in made and name not in wrong:
            wrong[name] = f"{_EXPECTED[one.type]} is required: the job gives no default"
    return made, wrong

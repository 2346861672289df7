"""The values templates work on, as Go sees them.

nil is None, bool and string are bool and str, float64 is float, int is int, uint8 (a byte of a string) is Byte,
[]string is StringList, time.Time is GoTime. A context comes from JSON or YAML: its mappings are
map[string]interface {}, its lists []interface {}, and all its numbers float64, as encoding/json decodes them. They are
read where they lie, item by item and only what is asked for, so that a caller's own Mapping sees every access.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from agent.spec.template.errors import ValueRefused
from agent.spec.template.gotime import MONTHS, WEEKDAYS, GoTime, from_datetime
from agent.spec.template.literals import as_bytes, well_formed


class Byte(int):
    """Go's uint8."""


class Int64(int):
    """Go's int64."""


class Month(int):
    """Go's time.Month, an integer that prints as its name."""

    def __str__(self) -> str:
        return MONTHS[self - 1]


class Weekday(int):
    """Go's time.Weekday, likewise."""

    def __str__(self) -> str:
        return WEEKDAYS[self]


class StringList(tuple[str, ...]):
    """Go's []string."""

    __slots__ = ()


Value = bool | int | float | str | GoTime | list[object] | tuple[object, ...] | Mapping[str, object] | None


def from_context(raw: object) -> Value:
    """A value of the context as Go's. Raises ValueRefused where Go has nothing like it."""
    if raw is None or isinstance(raw, bool | float | GoTime | StringList | list | tuple | Mapping):
        return raw
    if isinstance(raw, str):
        return well_formed(str(raw))
    if isinstance(raw, int):
        try:
            return float(raw)
        except OverflowError:
            raise ValueRefused("number of the context is too large for float64") from None
    if isinstance(raw, datetime):
        return from_datetime(raw)
    raise ValueRefused(f"a value of type {type(raw).__name__} cannot be used in a template")


# A subclass of int comes before int.
_TYPE_NAMES: tuple[tuple[type, str], ...] = (
    (type(None), "<nil>"),
    (bool, "bool"),
    (Byte, "uint8"),
    (Int64, "int64"),
    (Month, "time.Month"),
    (Weekday, "time.Weekday"),
    (int, "int"),
    (float, "float64"),
    (str, "string"),
    (GoTime, "time.Time"),
    (StringList, "[]string"),
    (Mapping, "map[string]interface {}"),
)


def type_name(value: Value) -> str:
    """The type as Go names it."""
    return next((name for kind, name in _TYPE_NAMES if isinstance(value, kind)), "[]interface {}")


def items(value: list[object] | tuple[object, ...]) -> Iterator[Value]:
    """The elements of a slice."""
    return iter(value) if isinstance(value, StringList) else map(from_context, value)


def item_at(value: list[object] | tuple[object, ...], index: int) -> Value:
    """One element of a slice; `index` is in range."""
    return value[index] if isinstance(value, StringList) else from_context(value[index])


def sorted_keys(value: Mapping[str, object]) -> list[str]:
    """The keys of a map in Go's order. Raises ValueRefused where one is no string."""
    keys = list(value)
    for key in keys:
        if not isinstance(key, str):
            raise ValueRefused(f"a map key of type {type(key).__name__} cannot be used in a template")
    return sorted(keys)


def length(value: Value) -> int | None:
    """What len gives, strings counted in bytes; None where the type has no length."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(as_bytes(value))
    return len(value) if isinstance(value, Mapping | list | tuple) else None


def truth(value: Value) -> bool:
    """Go's truth: not the zero value of its type, and not empty. A time is always true."""
    return True if isinstance(value, GoTime) else bool(value)

"""What templates can call: Go's predefined functions, and Optimus' own.

Sources: https://pkg.go.dev/text/template (Functions); the template functions of Optimus (Date ... dateFromStr), whose
`trunc` leaves negative lengths alone and whose `list` and `join` take strings only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from agent.spec.template.errors import ValueRefused
from agent.spec.template.gofmt import TEXT_MAX, sprint, sprintf, sprintln
from agent.spec.template.gotime import DATE_ONLY, RFC3339, ZERO, GoTime
from agent.spec.template.literals import INT_MAX, INT_MIN, as_bytes, from_bytes, go_quote
from agent.spec.template.timeparse import parse_duration, parse_time
from agent.spec.template.values import Byte, Int64, StringList, Value, from_context, item_at, length, truth, type_name


class Type(StrEnum):
    """Types of parameters, named as Go names them."""

    STRING = "string"
    INT = "int"
    STRINGS = "[]string"
    TIME = "time.Time"
    ANY = "interface {}"  # handed over as it is
    REFLECT = "reflect.Value"  # likewise; Go's own functions take these

    @property
    def nillable(self) -> bool:
        """Whether nil is one of its values."""
        return self not in (Type.STRING, Type.INT, Type.TIME)


@dataclass(frozen=True, slots=True)
class Function:
    """A function and the types it takes; `rest` is the type of any further arguments, None where there may be none."""

    call: Callable[..., Value]
    parameters: tuple[Type, ...] = ()
    rest: Type | None = None


# Optimus' functions

_TIME_TEXT_MAX = 4096


def _check_short(*texts: str) -> None:
    """Layouts, times and durations are short; reading a long one could take for ever."""
    for text in texts:
        if len(text) > _TIME_TEXT_MAX:
            raise ValueRefused(f"layout, time or duration longer than {_TIME_TEXT_MAX} characters")


def _date_of(text: str) -> str:
    _check_short(text)
    return parse_time(RFC3339, text).format(DATE_ONLY)


def _replace(old: str, new: str, text: str) -> str:
    count = text.count(old) if old else len(text) + 1
    if len(text) + count * (len(new) - len(old)) > TEXT_MAX:
        raise ValueRefused(f"text longer than {TEXT_MAX >> 20} MiB")
    return text.replace(old, new)


def _trunc(most: int, text: str) -> str:
    return from_bytes(as_bytes(text)[:most]) if most >= 0 else text


def _date(layout: str, moment: Value) -> str:
    _check_short(layout)
    if isinstance(moment, GoTime):
        return moment.utc().format(layout)
    if type(moment) in (int, Int64):
        return GoTime(int(moment)).format(layout)  # type: ignore[arg-type]  # one of the two
    # Optimus would print the time it is now: another text each time the same run is rendered.
    raise ValueRefused(f"a date needs a time (see toDate) or seconds since 1970; got {type_name(moment)}")


def _date_modify(duration: str, moment: GoTime) -> GoTime:
    _check_short(duration)
    try:
        return moment.add(parse_duration(duration))
    except ValueRefused:  # as Optimus: what is no duration changes nothing
        return moment


def _to_date(layout: str, text: str) -> GoTime:
    _check_short(layout, text)
    try:
        return parse_time(layout, text)
    except ValueRefused:  # as Optimus: what does not fit the layout is the year 1
        return ZERO


def _join(separator: str, texts: StringList) -> str:
    if sum(map(len, texts)) + len(separator) * len(texts) > TEXT_MAX:
        raise ValueRefused(f"text longer than {TEXT_MAX >> 20} MiB")
    return separator.join(texts)


def _moved(change: str, value: int) -> int:
    """A day or month after a change: `+2` and `-2` move it, `2` sets it, the empty string leaves it."""
    if not change:
        return value
    digits = change[1:] if change[0] in "+-" else change
    if not re.fullmatch(r"[+-]?[0-9]+", digits):
        raise ValueRefused(f"strconv.Atoi: parsing {go_quote(digits)}: invalid syntax")
    number = int(digits) if len(digits) <= 20 else INT_MAX + 1
    if not INT_MIN <= number <= INT_MAX:
        raise ValueRefused(f"strconv.Atoi: parsing {go_quote(digits)}: value out of range")
    return {"+": value + number, "-": value - number}.get(change[0], number)


def _date_from(day: str, month: str, moment: GoTime) -> GoTime:
    now = moment.civil()
    moved_day = _moved(day, now.day)
    return moment.with_date(_moved(month, now.month), moved_day)


def _date_from_str(day: str, month: str, text: str) -> str:
    _check_short(text)
    return _date_from(day, month, parse_time(RFC3339, text)).format(DATE_ONLY)


# Go's functions


def _index_argument(index: Value, most: int) -> int:
    if index is None:
        raise ValueRefused("cannot index slice/array with nil")
    if not isinstance(index, int) or isinstance(index, bool):
        raise ValueRefused(f"cannot index slice/array with type {type_name(index)}")
    if not 0 <= index <= most:
        raise ValueRefused(f"index out of range: {int(index)}")
    return int(index)


def _index(item: Value, *indexes: Value) -> Value:
    if item is None:
        raise ValueRefused("index of untyped nil")
    for index in indexes:
        if item is None:
            raise ValueRefused("index of nil pointer")
        if isinstance(item, Mapping):
            if not isinstance(index, str):
                wrong = "is nil" if index is None else f"has type {type_name(index)}"
                raise ValueRefused(f"value {wrong}; should be {'of type ' if index is None else ''}string")
            item = from_context(item[index]) if index in item else None
            continue
        if isinstance(item, str):
            data = as_bytes(item)
            item = Byte(data[_index_argument(index, len(data) - 1)])
        elif isinstance(item, list | tuple):
            item = item_at(item, _index_argument(index, len(item) - 1))
        else:
            raise ValueRefused(f"can't index item of type {type_name(item)}")
    return item


def _slice(item: Value, *indexes: Value) -> Value:
    if item is None:
        raise ValueRefused("slice of untyped nil")
    if len(indexes) > 3:
        raise ValueRefused(f"too many slice indexes: {len(indexes)}")
    if not isinstance(item, str | list | tuple):
        raise ValueRefused(f"can't slice item of type {type_name(item)}")
    if isinstance(item, str) and len(indexes) == 3:
        raise ValueRefused("cannot 3-index slice a string")
    content = as_bytes(item) if isinstance(item, str) else item
    bounds = [_index_argument(index, len(content)) for index in indexes]
    ordered = [*bounds, *(0, len(content))[len(bounds) :]]
    for low, high in pairwise(ordered):
        if low > high:
            raise ValueRefused(f"invalid slice index: {low} > {high}")
    start, end = ordered[:2]
    if isinstance(item, StringList):
        return StringList(item[start:end])
    part = content[start:end]
    return from_bytes(part) if isinstance(part, bytes) else part


def _len(item: Value) -> int:
    size = length(item)
    if size is None:
        raise ValueRefused("len of nil pointer" if item is None else f"len of type {type_name(item)}")
    return size


def _call(function: Value, *_: Value) -> Value:
    # No value of a template is a function, so there is nothing it could call.
    raise ValueRefused("call of nil" if function is None else f"non-function of type {type_name(function)}")


_INCOMPARABLE = "invalid type for comparison"


def _basic_kind(value: Value) -> str:
    """Go's kind of comparison; empty for what is not a basic type."""
    if isinstance(value, Byte):
        return "uint"
    kinds = ((bool, "bool"), (int, "int"), (float, "float"), (str, "string"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "")


def _eq(left: Value, *rights: Value) -> bool:
    if not rights:
        raise ValueRefused("missing argument for comparison")
    return any(_equal(left, right) for right in rights)


def _equal(left: Value, right: Value) -> bool:
    left_kind, right_kind = _basic_kind(left), _basic_kind(right)
    if left is None or right is None:
        return left is right
    if left_kind != right_kind and {left_kind, right_kind} != {"int", "uint"}:
        raise ValueRefused(f"incompatible types for comparison: {type_name(left)} and {type_name(right)}")
    if not left_kind and not (isinstance(left, GoTime) and isinstance(right, GoTime)):
        raise ValueRefused(f"non-comparable types {type_name(left)} and {type_name(right)}")
    return left == right


def _lt(left: Value, right: Value) -> bool:
    left_kind, right_kind = _basic_kind(left), _basic_kind(right)
    if not left_kind or not right_kind:
        raise ValueRefused(_INCOMPARABLE)
    if left_kind == right_kind == "bool":
        raise ValueRefused(_INCOMPARABLE)
    if left_kind != right_kind and {left_kind, right_kind} != {"int", "uint"}:
        raise ValueRefused(f"incompatible types for comparison: {type_name(left)} and {type_name(right)}")
    if isinstance(left, str) and isinstance(right, str):
        return as_bytes(left) < as_bytes(right)
    assert isinstance(left, int | float), "the other basic kinds are numbers"
    assert isinstance(right, int | float), "and both are of one kind"
    return left < right


def _le(left: Value, right: Value) -> bool:
    return _lt(left, right) or _equal(left, right)


_HTML = {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _text_of(values: Sequence[Value]) -> str:
    """What the escaping functions escape: the values as an action would print them."""
    return sprint(["<no value>" if value is None else value for value in values])


def _html(*values: Value) -> str:
    return re.sub("[\0\"'&<>]", lambda char: _HTML[char[0]], _text_of(values))


def _js_char(char: str) -> str:
    code = ord(char)
    if char in _JS:
        return _JS[char]
    if code >= 0x80 and char.isprintable():
        return char
    return f"\\u{0xFFFD if 0xDC80 <= code <= 0xDCFF else code:04X}"


def _js(*values: Value) -> str:
    return re.sub("[\0-\x1f\\\\'\"<>&=\x80-\U0010ffff]", lambda char: _js_char(char[0]), _text_of(values))


def _url_byte(byte: re.Match[bytes]) -> bytes:
    return b"+" if byte[0] == b" " else b"%%%02X" % byte[0][0]


def _url_query(*values: Value) -> str:
    return re.sub(b"[^A-Za-z0-9_.~-]", _url_byte, as_bytes(_text_of(values))).decode("ascii")


AND, OR = "and", "or"
"""The two functions that stop at the first argument that decides: they are given the arguments up to that one."""


def _last(*values: Value) -> Value:
    return values[-1]


_TWO = (Type.REFLECT, Type.REFLECT)

FUNCTIONS: Mapping[str, Function] = {
    "Date": Function(_date_of, (Type.STRING,)),
    "replace": Function(_replace, (Type.STRING, Type.STRING, Type.STRING)),
    "trunc": Function(_trunc, (Type.INT, Type.STRING)),
    "date": Function(_date, (Type.STRING, Type.ANY)),
    "date_modify": Function(_date_modify, (Type.STRING, Type.TIME)),
    "toDate": Function(_to_date, (Type.STRING, Type.STRING)),
    "unixEpoch": Function(lambda moment: str(moment.seconds), (Type.TIME,)),
    "list": Function(lambda *texts: StringList(texts), (), Type.STRING),
    "join": Function(_join, (Type.STRING, Type.STRINGS)),
    "dateFrom": Function(_date_from, (Type.STRING, Type.STRING, Type.TIME)),
    "dateFromStr": Function(_date_from_str, (Type.STRING, Type.STRING, Type.STRING)),
    AND: Function(_last, (Type.REFLECT,), Type.REFLECT),
    OR: Function(_last, (Type.REFLECT,), Type.REFLECT),
    "not": Function(lambda value: not truth(value), (Type.REFLECT,)),
    "call": Function(_call, (Type.REFLECT,), Type.REFLECT),
    "html": Function(_html, (), Type.ANY),
    "index": Function(_index, (Type.REFLECT,), Type.REFLECT),
    "js": Function(_js, (), Type.ANY),
    "len": Function(_len, (Type.REFLECT,)),
    "print": Function(lambda *values: sprint(values), (), Type.ANY),
    "printf": Function(lambda layout, *values: sprintf(layout, values), (Type.STRING,), Type.ANY),
    "println": Function(lambda *values: sprintln(values), (), Type.ANY),
    "slice": Function(_slice, (Type.REFLECT,), Type.REFLECT),
    "urlquery": Function(_url_query, (), Type.ANY),
    "eq": Function(_eq, (Type.REFLECT,), Type.REFLECT),
    "ne": Function(lambda left, right: not _equal(left, right), _TWO),
    "lt": Function(_lt, _TWO),
    "le": Function(_le, _TWO),
    "gt": Function(lambda left, right: not _le(left, right), _TWO),
    "ge": Function(lambda left, right: not _lt(left, right), _TWO),
}

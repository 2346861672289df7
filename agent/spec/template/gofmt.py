"""Go's package fmt for the values of templates: Sprint, Sprintln and Sprintf, with its error marks.

Source: https://pkg.go.dev/fmt (Printing, Format errors).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.spec.template.errors import ValueRefused
from agent.spec.template.gotime import MONTHS, GoTime
from agent.spec.template.literals import RUNE_MAX, as_bytes, can_backquote, from_bytes, go_quote
from agent.spec.template.values import Byte, Month, Value, Weekday, from_context, items, sorted_keys, type_name

TEXT_MAX = 16 << 20
"""Characters one call may produce."""

_NUMBER_MAX = 1_000_000  # a width or precision that is an argument
_SHORTEST_EXPONENT = 6  # from here on %v and %g write a float with an exponent

DEPTH_MAX = 50
"""How deep a value that is printed may nest."""


def sprint(values: Sequence[Value]) -> str:
    """The values one after another, with a space between two of which neither is a string."""
    out = _Writer()
    after_string = False
    for index, value in enumerate(values):
        is_string = isinstance(value, str)
        if index and not is_string and not after_string:
            out.write(" ")
        out.write(format_value(value, "v", _PLAIN))
        after_string = is_string
    return out.text()


def sprintln(values: Sequence[Value]) -> str:
    """The values with a space between them, and a newline."""
    out = _Writer()
    for index, value in enumerate(values):
        out.write(" " if index else "")
        out.write(format_value(value, "v", _PLAIN))
    return out.text() + "\n"


class _Writer:
    """Collects text up to TEXT_MAX."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0

    def write(self, part: str) -> None:
        self._length += len(part)
        if self._length > TEXT_MAX:
            raise ValueRefused(f"text longer than {TEXT_MAX >> 20} MiB")
        self._parts.append(part)

    def text(self) -> str:
        return "".join(self._parts)


@dataclass(frozen=True, slots=True)
class _Flags:
    """What stands between % and the verb. `go_syntax` is the # of %#v, which is then no # any more."""

    minus: bool = False
    plus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    width: int | None = None
    precision: int | None = None
    go_syntax: bool = False

    def pad(self, text: str, *, zero: bool | None = None) -> str:
        if self.width is None:
            return text
        missing = self.width - len(text if text.isascii() else from_bytes(as_bytes(text)))
        if missing <= 0:
            return text
        if self.minus:
            return text + " " * missing
        fill = "0" if (self.zero if zero is None else zero) else " "
        return fill * missing + text


_PLAIN = _Flags()


class _BadVerb(Exception):
    """The verb does not fit the type."""


def format_value(value: Value, verb: str, flags: _Flags, depth: int = 0) -> str:
    """One value under one verb. A verb that does not fit gives Go's mark, %!d(string=x)."""
    if value is None:
        return _format_nil(verb, flags, depth)
    if depth == 0 and verb == "T":
        return flags.pad(_truncate(type_name(value), flags))
    try:
        if isinstance(value, Mapping):
            return _format_map(value, verb, flags, depth)
        if isinstance(value, list | tuple):
            return _format_list(value, verb, flags, depth)
        return _format_basic(value, verb, flags)
    except _BadVerb:
        return f"%!{verb}({type_name(value)}={format_value(value, 'v', flags)})"


def _format_basic(value: bool | int | float | str | GoTime, verb: str, flags: _Flags) -> str:  # noqa: FBT001  # a value
    match value:
        case bool():
            return _format_bool(value, verb, flags)
        case int():
            return _format_int(value, verb, flags)
        case float():
            return _format_float(value, verb, flags)
        case str():
            return _format_string(value, verb, flags)
        case _:
            return _format_time(value, verb, flags)


def _format_nil(verb: str, flags: _Flags, depth: int) -> str:
    if depth:
        return "interface {}(nil)" if flags.go_syntax else "<nil>"
    return flags.pad("<nil>") if verb in "vT" else f"%!{verb}(<nil>)"


def _format_bool(value: bool, verb: str, flags: _Flags) -> str:  # noqa: FBT001  # the value itself
    if verb not in "tv":
        raise _BadVerb
    return flags.pad("true" if value else "false")


def _format_int(value: int, verb: str, flags: _Flags) -> str:
    if isinstance(value, Month | Weekday) and verb in "vsxXq" and not flags.go_syntax:
        return _format_string(str(value), verb, flags)
    match verb:
        case "v" if flags.go_syntax and isinstance(value, Byte):
            return _integer(value, "x", replace(flags, sharp=True))
        case "v" | "d":
            return _integer(value, "d", flags)
        case "b" | "o" | "O" | "x" | "X":
            return _integer(value, verb, flags)
        case "c":
            return flags.pad(_rune(value))
        case "q":
            return flags.pad(go_quote(_rune(value), "'", ascii_only=flags.plus))
        case "U":
            return _unicode(value, flags)
    raise _BadVerb


def _rune(code: int) -> str:
    return chr(code) if 0 <= code <= RUNE_MAX and not 0xD800 <= code <= 0xDFFF else "\ufffd"


def _unicode(value: int, flags: _Flags) -> str:
    code = value % (1 << 64)
    text = f"U+{code:0{max(flags.precision or 4, 4)}X}"
    if flags.sharp and code <= RUNE_MAX and chr(code).isprintable():
        text += f" '{chr(code)}'"
    return flags.pad(text, zero=False)


def _integer(value: int, verb: str, flags: _Flags) -> str:
    sign = "-" if value < 0 else "+" if flags.plus else " " if flags.space else ""
    digits = format(abs(value), verb.lower() if verb == "O" else verb)
    least = 0
    if flags.precision is not None:
        least = flags.precision
        if least == 0 and value == 0:
            return " " * (flags.width or 0)
    elif flags.zero and flags.width is not None and not flags.minus:
        least = flags.width - len(sign)
    digits = digits.rjust(least, "0")
    prefix = "0o" if verb == "O" else ""
    if flags.sharp and verb == "b":
        prefix = "0b"
    elif flags.sharp and verb == "o" and digits[0] != "0":
        prefix = "0"
    elif flags.sharp and verb in "xX":
        prefix = "0" + verb
    return flags.pad(sign + prefix + digits, zero=False)


def _format_float(value: float, verb: str, flags: _Flags) -> str:
    precision = flags.precision
    if verb in "vgG":
        number = _shortest(value) if precision is None else f"{value:.{precision}g}"
        number = number.upper() if verb == "G" else number
    elif verb in "feEF":
        number = f"{value:.{6 if precision is None else precision}{verb.lower() if verb == 'F' else verb}}"
    elif verb in "xX":
        number = _hexadecimal(value, precision)
        number = number.upper() if verb == "X" else number
    elif verb == "b":
        number = _binary(value)
    else:
        raise _BadVerb
    if math.isnan(value) or math.isinf(value):
        return _not_a_number(value, flags)
    sign, number = ("-", number[1:]) if number[0] == "-" else ("+", number)
    if flags.space and sign == "+" and not flags.plus:
        sign = " "
    if flags.sharp and verb != "b":
        number = _keep_point(number, verb, precision)
    if not flags.plus and sign == "+":
        return flags.pad(number)
    if flags.zero and not flags.minus and flags.width is not None:
        return sign + number.rjust(flags.width - 1, "0")
    return flags.pad(sign + number)


def _not_a_number(value: float, flags: _Flags) -> str:
    if math.isnan(value):
        return flags.pad("+NaN" if flags.plus else " NaN" if flags.space else "NaN", zero=False)
    sign = "-" if value < 0 else " " if flags.space and not flags.plus else "+"
    return flags.pad(f"{sign}Inf", zero=False)


def _shortest(value: float) -> str:
    """The fewest digits that read back as the same number; with an exponent below -4 and from 6 on."""
    text = repr(value)
    if math.isnan(value) or math.isinf(value):
        return text
    sign = "-" if text[0] == "-" else ""
    mantissa, _, exponent = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))  # digits before the decimal point
    digits = digits.rstrip("0")
    if not digits:
        return sign + "0"
    if point - 1 < -4 or point - 1 >= _SHORTEST_EXPONENT:
        tail = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{'-' if point < 1 else '+'}{abs(point - 1):02}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if len(digits) <= point:
        return sign + digits.ljust(point, "0")
    return f"{sign}{digits[:point]}.{digits[point:]}"


def _keep_point(number: str, verb: str, precision: int | None) -> str:
    """The # flag: always a decimal point, and for %g the trailing zeros."""
    mantissa, mark, exponent = re.split(r"([eEpP]|$)", number, maxsplit=1)[:3]
    wanted = 0
    if verb in "vgG":
        wanted = (6 if precision is None else precision) - len(re.sub(r"^0\.0*|\.", "", mantissa))
    if "." not in mantissa:
        mantissa += "."
    return mantissa + "0" * wanted + mark + exponent


def _hexadecimal(value: float, precision: int | None) -> str:
    if math.isnan(value) or math.isinf(value):
        return "0"
    sign = "-" if math.copysign(1, value) < 0 else ""
    fraction, exponent = math.frexp(abs(value))
    mantissa, exponent = (int(fraction * (1 << 53)), exponent - 1) if value else (0, 0)
    if precision is not None and precision < 13:
        drop = 4 * (13 - precision)
        mantissa, rest = divmod(mantissa, 1 << drop)
        half = 1 << (drop - 1)
        mantissa += rest > half or (rest == half and mantissa % 2 == 1)
        mantissa <<= drop
        if mantissa >> 53:
            mantissa, exponent = mantissa >> 1, exponent + 1
    digits = f"{mantissa & ((1 << 52) - 1):013x}"
    digits = digits.rstrip("0") if precision is None else digits[:precision].ljust(precision, "0")
    point = "." if digits else ""
    return f"{sign}0x{mantissa >> 52}{point}{digits}p{'-' if exponent < 0 else '+'}{abs(exponent):02}"


def _binary(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return "0"
    fraction, exponent = math.frexp(value)
    mantissa, exponent = (int(fraction * (1 << 53)), exponent - 53) if value else (0, -1074)
    return f"{mantissa}p{exponent:+d}"


def _truncate(text: str, flags: _Flags) -> str:
    return text if flags.precision is None else text[: flags.precision]


def _format_string(value: str, verb: str, flags: _Flags) -> str:
    if verb == "s" or (verb == "v" and not flags.go_syntax):
        return flags.pad(_truncate(value, flags))
    if verb in "vq":
        text = _truncate(value, flags)
        if flags.sharp and can_backquote(text):
            return flags.pad(f"`{text}`")
        return flags.pad(go_quote(text, ascii_only=flags.plus))
    if verb not in "xX":
        raise _BadVerb
    data = as_bytes(value)[: flags.precision]
    prefix = "0" + verb if flags.sharp and data else ""
    text = data.hex(" ").replace(" ", f" {prefix}") if flags.space else data.hex()
    return flags.pad(prefix + (text if verb == "x" else text.upper()))


def _format_time(value: GoTime, verb: str, flags: _Flags) -> str:
    if verb == "v" and flags.go_syntax:
        now = value.civil()
        zone = "time.UTC" if value.zone == "UTC" else f"time.Location({go_quote(value.zone)})"
        clock = f"{now.hour}, {now.minute}, {now.second}, {value.nanos}"
        return flags.pad(f"time.Date({now.year}, time.{MONTHS[now.month - 1]}, {now.day}, {clock}, {zone})")
    if verb not in "vsxXq":
        raise _BadVerb
    return _format_string(str(value), verb, flags)


def _format_map(value: Mapping[str, object], verb: str, flags: _Flags, depth: int) -> str:
    _refuse_address(verb, depth)
    pairs = (
        f"{format_value(key, verb, flags, depth + 1)}:{format_value(from_context(value[key]), verb, flags, depth + 1)}"
        for key in sorted_keys(value)
    )
    if flags.go_syntax:
        return _join("map[string]interface {}{", pairs, ", ", "}", depth)
    return _join("map[", pairs, " ", "]", depth)


def _format_list(value: list[object] | tuple[object, ...], verb: str, flags: _Flags, depth: int) -> str:
    _refuse_address(verb, depth)
    elements = (format_value(item, verb, flags, depth + 1) for item in items(value))
    if flags.go_syntax:
        return _join(f"{type_name(value)}{{", elements, ", ", "}", depth)
    return _join("[", elements, " ", "]", depth)


def _join(opening: str, parts: Iterable[str], separator: str, closing: str, depth: int) -> str:
    if depth > DEPTH_MAX:
        raise ValueRefused(f"value nested deeper than {DEPTH_MAX} levels")
    out = _Writer()
    out.write(opening)
    for index, part in enumerate(parts):
        out.write(separator if index else "")
        out.write(part)
    out.write(closing)
    return out.text()


def _refuse_address(verb: str, depth: int) -> None:
    if verb == "p" and depth == 0:
        raise ValueRefused("%p prints an address, which differs from run to run")


_FLAG_NAMES = {"-": "minus", "+": "plus", "#": "sharp", " ": "space", "0": "zero"}


def sprintf(layout: str, values: Sequence[Value]) -> str:
    """The values as `layout` says."""
    return _Sprintf(layout, values).run()


class _Sprintf:
    """One call: where it is in the layout, and which argument comes next."""

    def __init__(self, layout: str, values: Sequence[Value]) -> None:
        self._layout = layout
        self._values = values
        self._pos = 0
        self._argument = 0
        self._reordered = False
        self._good_index = True
        self._after_index = False
        self._out = _Writer()

    def run(self) -> str:
        while True:
            percent = self._layout.find("%", self._pos)
            if percent < 0:
                self._out.write(self._layout[self._pos :])
                break
            self._out.write(self._layout[self._pos : percent])
            self._pos = percent + 1
            self._directive()
        if not self._reordered and self._argument < len(self._values):
            extra = (
                "<nil>" if value is None else f"{type_name(value)}={format_value(value, 'v', _PLAIN)}"
                for value in self._values[self._argument :]
            )
            self._out.write(_join("%!(EXTRA ", extra, ", ", ")", 0))
        return self._out.text()

    def _peek(self) -> str:
        return self._layout[self._pos : self._pos + 1]

    def _directive(self) -> None:
        self._good_index, self._after_index = True, False
        flags = self._flags()
        self._index()
        flags = self._width(flags)
        flags = self._precision(flags)
        if not self._after_index:
            self._index()
        verb = self._peek()
        if not verb:
            self._out.write("%!(NOVERB)")
            return
        self._pos += 1
        if verb == "%":
            self._out.write("%")
        elif not self._good_index:
            self._out.write(f"%!{verb}(BADINDEX)")
        elif self._argument >= len(self._values):
            self._out.write(f"%!{verb}(MISSING)")
        else:
            if verb == "v":
                flags = replace(flags, go_syntax=flags.sharp, sharp=False, plus=False)
            self._out.write(format_value(self._values[self._argument], verb, flags))
            self._argument += 1

    def _flags(self) -> _Flags:
        flags = _PLAIN
        while self._peek() in _FLAG_NAMES:
            flags = replace(flags, **{_FLAG_NAMES[self._peek()]: True})
            self._pos += 1
        return flags

    def _index(self) -> None:
        """An explicit argument index, [n]."""
        self._after_index = False
        if self._peek() != "[":
            return
        self._reordered = True
        end = self._layout.find("]", self._pos)
        if end < 0:
            self._pos += 1
            self._good_index = False
            return
        inside = self._layout[self._pos + 1 : end]
        self._pos = end + 1
        number = int(inside) if re.fullmatch(r"[0-9]{1,7}", inside) else 0
        self._after_index = number > 0 or inside.strip("0") == "" != inside
        if 1 <= number <= len(self._values):
            self._argument = number - 1
        else:
            self._good_index = False

    def _number(self) -> int | None:
        digits = re.compile(r"[0-9]*").match(self._layout, self._pos)
        assert digits is not None, "the pattern matches everywhere"
        if len(digits[0].lstrip("0")) > 7:
            self._pos = len(self._layout)  # Go gives up on the rest
            return None
        self._pos = digits.end()
        return int(digits[0]) if digits[0] else None

    def _star(self) -> int | None:
        """A width or precision that is an argument; None where the argument is no int that will do."""
        self._pos += 1
        value = self._values[self._argument] if self._argument < len(self._values) else None
        self._argument += self._argument < len(self._values)
        good = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _NUMBER_MAX
        return int(value) if good else None  # type: ignore[arg-type]  # an int where good

    def _width(self, flags: _Flags) -> _Flags:
        if self._peek() == "*":
            width = self._star()
            self._after_index = False
            if width is None:
                self._out.write("%!(BADWIDTH)")
            elif width < 0:
                return replace(flags, width=-width, minus=True, zero=False)
            return replace(flags, width=width)
        width = self._number()
        if self._after_index and width is not None:
            self._good_index = False
        return replace(flags, width=width)

    def _precision(self, flags: _Flags) -> _Flags:
        if self._peek() != "." or self._pos + 1 >= len(self._layout):
            return flags
        self._pos += 1
        if self._after_index:
            self._good_index = False
        self._index()
        if self._peek() != "*":
            return replace(flags, precision=self._number() or 0)
        precision = self._star()
        self._after_index = False
        if precision is None or precision < 0:
            self._out.write("%!(BADPREC)")
            return flags
        return replace(flags, precision=precision)

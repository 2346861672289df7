"""Times and durations read as Go reads them.

Source: https://pkg.go.dev/time (Layout, Parse, ParseDuration). Where a text names no zone it is in UTC, as if UTC were
the local zone too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.spec.template.errors import ValueRefused
from agent.spec.template.gotime import (
    ELEMENT,
    MONTHS,
    NANOS,
    WEEKDAYS,
    GoTime,
    date_of,
    days_in,
    days_until,
    is_leap,
    seconds_at,
)


def quote(text: str) -> str:
    """A text in the quotes of package time: bytes outside ASCII as hex."""
    out = []
    for char in text:
        if char < " " or char >= "\x80":
            out.append("".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape")))
        else:
            out.append("\\" + char if char in '"\\' else char)
    return '"' + "".join(out) + '"'


def parse_time(layout: str, text: str) -> GoTime:
    """The moment that `text` means when read as `layout`; UTC where it names no zone.

    Raises ValueRefused with Go's sentence where the text does not fit.
    """
    return _Parse(layout, text).run()


class _Misfit(Exception):
    """The rest of the text does not fit the element."""


def _digits(text: str, most: int, least: int = 1) -> tuple[int, str]:
    count = 0
    while count < most and text[count : count + 1].isascii() and text[count : count + 1].isdigit():
        count += 1
    if count < least:
        raise _Misfit
    return int(text[:count]), text[count:]


def _signed(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]*", text):
        raise _Misfit
    magnitude = int(text.lstrip("+-0") or "0")
    return -magnitude if text[:1] == "-" else magnitude


def _name(names: Sequence[str], text: str, *, whole: bool) -> tuple[int, str]:
    for index, name in enumerate(names):
        wanted = name if whole else name[:3]
        found = text[: len(wanted)]
        if found.isascii() and found.lower() == wanted.lower():
            return index, text[len(wanted) :]
    raise _Misfit


def _zone_length(text: str) -> int:
    """How much of `text` is an abbreviation such as CEST, GMT+3 or +03; 0 where it cannot be one."""
    if len(text) < 3:
        return 0
    if text[:4] in ("ChST", "MeST"):
        return 4
    if text[:3] == "GMT":
        return 3 + _signed_hours_length(text[3:])
    if text[0] in "+-":
        return _signed_hours_length(text)
    upper = len(re.match(r"[A-Z]{0,6}", text)[0])  # type: ignore[index]  # the pattern matches every text
    if upper == 5 and text[4] == "T":
        return 5
    if upper == 4 and (text[3] == "T" or text[:4] == "WITA"):
        return 4
    return 3 if upper == 3 else 0


def _signed_hours_length(text: str) -> int:
    found = re.match(r"[+-]([0-9]+)", text)
    return found.end() if found and int(found[1].lstrip("0")[:3] or "0") <= 23 else 0


class _Parse:
    """One reading of one text; the fields are what has been read so far."""

    def __init__(self, layout: str, text: str) -> None:
        self.layout, self.text, self.rest = layout, text, text
        self.year, self.month, self.day, self.yearday = 0, -1, -1, -1
        self.hour, self.minute, self.second, self.nanos = 0, 0, 0, 0
        self.half = ""  # AM or PM
        self.utc = False
        self.offset: int | None = None
        self.zone = ""
        self.out_of_range = ""

    def run(self) -> GoTime:
        start = 0
        for element in ELEMENT.finditer(self.layout):
            self._skip(self.layout[start : element.start()])
            start = element.end()
            held = self.rest
            try:
                self._read(element[0], self.layout[start:])
                misfit = False
            except _Misfit:
                misfit = True
            if self.out_of_range:
                raise self._error(f"{self.out_of_range} out of range")
            if misfit:
                raise self._cannot(held, element[0])
        self._skip(self.layout[start:])
        if self.rest:
            raise self._error(f"extra text: {quote(self.rest)}")
        return self._moment()

    def _cannot(self, value: str, element: str) -> ValueRefused:
        whole = f"parsing time {quote(self.text)} as {quote(self.layout)}"
        return ValueRefused(f"{whole}: cannot parse {quote(value)} as {quote(element)}")

    def _error(self, message: str) -> ValueRefused:
        return ValueRefused(f"parsing time {quote(self.text)}: {message}")

    def _skip(self, prefix: str) -> None:
        """Passes the layout's own text; a run of spaces stands for any run of spaces, even none at the end."""
        for part in re.findall(" +|[^ ]+", prefix):
            if part[0] == " ":
                if self.rest and self.rest[0] != " ":
                    raise self._cannot(self.rest, prefix)
                self.rest = self.rest.lstrip(" ")
            elif self.rest.startswith(part):
                self.rest = self.rest[len(part) :]
            else:
                raise self._cannot(self.rest, prefix)

    def _take(self, length: int) -> str:
        if len(self.rest) < length:
            raise _Misfit
        taken, self.rest = self.rest[:length], self.rest[length:]
        return taken

    def _read(self, element: str, following: str) -> None:
        if element[0] in ".,":
            self._read_fraction(element)
        elif element[0] in "-Z":
            self._read_offset(element)
        elif element == "MST":
            self._read_zone()
        elif element in ("PM", "pm"):
            half = self._take(2)
            if half not in (("PM", "AM") if element == "PM" else ("pm", "am")):
                raise _Misfit
            self.half = half.upper()
        elif element in ("15", "3", "03", "4", "04", "5", "05"):
            self._read_clock(element, following)
        else:
            self._read_date(element)

    def _read_date(self, element: str) -> None:
        match element:
            case "2006":
                if not self.rest[:1].isascii() or not self.rest[:1].isdigit():
                    raise _Misfit
                self.year = _signed(self._take(4))
            case "06":
                self.year = _signed(self._take(2))
                self.year += 1900 if self.year >= 69 else 2000
            case "January" | "Jan":
                self.month, self.rest = _name(MONTHS, self.rest, whole=element == "January")
                self.month += 1
            case "Monday" | "Mon":
                _, self.rest = _name(WEEKDAYS, self.rest, whole=element == "Monday")
            case "1" | "01":
                self.month, self.rest = _digits(self.rest, 2, len(element))
                if not 1 <= self.month <= 12:
                    self.out_of_range = "month"
            case "2" | "_2" | "02":
                if element == "_2":
                    self.rest = self.rest.removeprefix(" ")
                self.day, self.rest = _digits(self.rest, 2, 2 if element == "02" else 1)
            case _:
                if element == "__2":
                    self.rest = self.rest.removeprefix(" ").removeprefix(" ")
                self.yearday, self.rest = _digits(self.rest, 3, 3 if element == "002" else 1)

    def _read_clock(self, element: str, following: str) -> None:
        value, self.rest = _digits(self.rest, 2, 1 if element == "15" else len(element))
        if element in ("15", "3", "03"):
            self.hour = value
            if value > (23 if element == "15" else 12):
                self.out_of_range = "hour"
        elif element in ("4", "04"):
            self.minute = value
            if value > 59:
                self.out_of_range = "minute"
        else:
            self.second = value
            if value > 59:
                self.out_of_range = "second"
                return
            # A fraction may follow the seconds even where the layout has none.
            fraction = re.match(r"[.,]([0-9]+)", self.rest)
            upcoming = ELEMENT.search(following)
            if fraction and not (upcoming and upcoming[0][0] in ".,"):
                self.nanos = int(fraction[1][:9].ljust(9, "0"))
                self.rest = self.rest[fraction.end() :]

    def _read_fraction(self, element: str) -> None:
        if element[1] == "0":
            taken = self._take(len(element))
            if taken[0] not in ".,":
                raise _Misfit
            nanos = _signed(taken[1:10])
            if nanos < 0:
                self.out_of_range = "fractional second"
            self.nanos = nanos * 10 ** (10 - min(len(taken), 10))
            return
        fraction = re.match(r"[.,]([0-9]+)", self.rest)
        if fraction:
            self.nanos = int(fraction[1][:9].ljust(9, "0"))
            self.rest = self.rest[fraction.end() :]

    def _read_offset(self, element: str) -> None:
        if element[0] == "Z" and self.rest[:1] == "Z":
            self.rest = self.rest[1:]
            self.utc = True
            return
        taken = self._take(len(element))
        if any(taken[at] != ":" for at in range(len(element)) if element[at] == ":"):
            raise _Misfit
        digits = taken[1:].replace(":", "").ljust(6, "0")
        hours, rest = _digits(digits, 2, 2)
        minutes, rest = _digits(rest, 2, 2)
        seconds, _ = _digits(rest, 2, 2)
        for value, most, unit in ((hours, 24, "hour"), (minutes, 60, "minute"), (seconds, 60, "second")):
            if value > most:
                self.out_of_range = f"time zone offset {unit}"
        if taken[0] not in "+-":
            raise _Misfit
        self.offset = (hours * 60 + minutes) * 60 + seconds
        if taken[0] == "-":
            self.offset = -self.offset

    def _read_zone(self) -> None:
        if self.rest.startswith("UTC"):
            self.rest = self.rest[3:]
            self.utc = True
            return
        length = _zone_length(self.rest)
        if not length:
            raise _Misfit
        self.zone = self._take(length)

    def _month_and_day(self) -> tuple[int, int]:
        if self.yearday < 0:
            return max(self.month, 1), self.day if self.day >= 0 else 1
        if not 1 <= self.yearday <= (366 if is_leap(self.year) else 365):
            raise self._error("day-of-year out of range")
        _, month, day = date_of(days_until(self.year, 1, self.yearday))
        if self.month >= 0 and self.month != month:
            raise self._error("day-of-year does not match month")
        if self.day >= 0 and self.day != day:
            raise self._error("day-of-year does not match day")
        return month, day

    def _moment(self) -> GoTime:
        hour = self.hour
        if self.half == "PM" and hour < 12:
            hour += 12
        elif self.half == "AM" and hour == 12:
            hour = 0
        month, day = self._month_and_day()
        if not 1 <= day <= days_in(month, self.year):
            raise self._error("day out of range")
        seconds = seconds_at(self.year, month, day, hour, self.minute, self.second)
        if self.utc:
            return GoTime(seconds, self.nanos)
        if self.offset is not None:
            if self.offset == 0 and self.zone == "":
                return GoTime(seconds, self.nanos)
            return GoTime(seconds - self.offset, self.nanos, self.offset, self.zone)
        if self.zone:
            # Go keeps an abbreviation it cannot place at offset 0; of GMT+3 it shifts the clock and not the moment.
            hours = _signed(self.zone[3:]) if self.zone.startswith("GMT") else 0
            return GoTime(seconds, self.nanos, hours * 3600, self.zone)
        return GoTime(seconds, self.nanos)


_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000}  # the micro sign and the letter mu
_UNITS |= {"s": NANOS, "m": 60 * NANOS, "h": 3600 * NANOS}
_DURATION_PART = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]+)")


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as -1.5h or 2h45m. Raises ValueRefused where it is none."""
    invalid = ValueRefused(f"time: invalid duration {quote(text)}")
    negative = text[:1] == "-"
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        part = _DURATION_PART.match(rest)
        if part is None or not (part[1] or len(part[2] or "") > 1):
            raise invalid
        unit = _UNITS.get(part[3])
        if unit is None:
            raise ValueRefused(f"time: unknown unit {quote(part[3])} in duration {quote(text)}")
        fraction = (part[2] or ".")[1:19]
        total += int(part[1][-40:] or "0") * unit
        if fraction:
            total += int(int(fraction) * (unit / 10.0 ** len(fraction)))
        if total > 1 << 63 or len(part[1]) > 40:
            raise invalid
        rest = rest[part.end() :]
    if total == 1 << 63 and not negative:
        raise invalid
    return -total if negative else total

"""Go's time.Time as far as templates need it: layouts made of the reference time, durations, a calendar without end.

Python's datetime stops at the years 1 and 9999 and at microseconds; Go's stops nowhere near and counts nanoseconds.
Source: https://pkg.go.dev/time (Layout, Time.Format, Parse, ParseDuration, Date).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from agent.spec.template.errors import ValueRefused

RFC3339 = "2006-01-02T15:04:05Z07:00"
DATE_ONLY = "2006-01-02"
_STRING_LAYOUT = "2006-01-02 15:04:05.999999999 -0700 MST"
_SECONDS_A_DAY = 86_400
_NANOS = 1_000_000_000

# fmt: off
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)
# fmt: on
WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365)

# Each alternative is one element of a layout. Order matters where one begins with another; what follows matters where
# Go looks ahead: "Month" is a word, "_2006" is an underscore and a year, ".0001" is no fraction.
_ELEMENT = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|0[1-6]|002|15|1|2006|2|__2|_2(?!006)|3|4|5|PM|pm"
    r"|-070000|-07:00:00|-0700|-07:00|-07|Z070000|Z07:00:00|Z0700|Z07:00|Z07|[.,](?:0+|9+)(?![0-9])"
)


class Civil(NamedTuple):
    """A moment on the wall clock of its zone."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    weekday: int
    yearday: int


@dataclass(frozen=True, slots=True)
class GoTime:
    """A moment: seconds since the Unix epoch, nanoseconds in that second, and the zone it is shown in.

    `offset` is the zone's, in seconds east of UTC; `zone` its abbreviation, empty where it has none.
    """

    seconds: int
    nanos: int = 0
    offset: int = 0
    zone: str = "UTC"

    def __str__(self) -> str:
        return self.format(_STRING_LAYOUT)

    def utc(self) -> GoTime:
        """The same moment, shown in UTC."""
        return GoTime(self.seconds, self.nanos)

    def add(self, nanoseconds: int) -> GoTime:
        """The moment `nanoseconds` later (earlier, where negative)."""
        carry, nanos = divmod(self.nanos + nanoseconds, _NANOS)
        return GoTime(self.seconds + carry, nanos, self.offset, self.zone)

    def civil(self) -> Civil:
        """What calendar and clock of the zone show."""
        days, second_of_day = divmod(self.seconds + self.offset, _SECONDS_A_DAY)
        year, month, day = _date_of(days)
        hour, rest = divmod(second_of_day, 3600)
        return Civil(year, month, day, hour, rest // 60, rest % 60, (days + 4) % 7, days - _days_until(year, 1, 1) + 1)

    def with_date(self, month: int, day: int) -> GoTime:
        """The same clock on another day of the year; months and days out of range roll over, as Go's time.Date does."""
        now = self.civil()
        seconds = _seconds_at(now.year, month, day, now.hour, now.minute, now.second)
        return GoTime(seconds - self.offset, self.nanos, self.offset, self.zone)

    def format(self, layout: str) -> str:
        """The moment written as `layout` writes the reference time, Mon Jan 2 15:04:05 MST 2006."""
        now = self.civil()
        return _ELEMENT.sub(lambda element: self._write(element[0], now), layout)

    def _write(self, element: str, now: Civil) -> str:
        if element[0] in ".,":
            return self._write_fraction(element)
        if element[0] in "-Z":
            return self._write_offset(element)
        if element == "MST":
            return self.zone or self._write_offset("-0700")
        return _WRITERS[element](now)

    def _write_fraction(self, element: str) -> str:
        digits = f"{self.nanos:09}"[: len(element) - 1]
        if element[1] == "0":
            return element[0] + digits
        digits = digits.rstrip("0")
        return element[0] + digits if digits else ""

    def _write_offset(self, element: str) -> str:
        if element[0] == "Z" and self.offset == 0:
            return "Z"
        minutes = int(self.offset / 60)  # towards zero, as Go divides
        colon = ":" if ":" in element else ""
        text = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}"
        if len(element) > 3:
            text += f"{colon}{abs(minutes) % 60:02}"
        if len(element) > 6:
            text += f"{colon}{abs(self.offset) % 60:02}"
        return text


ZERO = GoTime(-62_135_596_800)
"""January 1, year 1: what Go's toDate gives for a text that does not fit its layout."""


def from_datetime(moment: datetime) -> GoTime:
    """A datetime as Go's time; one without a zone is UTC."""
    offset = moment.utcoffset()
    aware = moment if offset is not None else moment.replace(tzinfo=UTC)
    offset_s = int(offset.total_seconds()) if offset is not None else 0
    since_epoch = aware - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = since_epoch.days * _SECONDS_A_DAY + since_epoch.seconds
    return GoTime(seconds, since_epoch.microseconds * 1000, offset_s, (aware.tzname() or "") if offset_s else "UTC")


_WRITERS: Mapping[str, Callable[[Civil], str]] = {
    "2006": lambda now: f"-{-now.year:04}" if now.year < 0 else f"{now.year:04}",
    "06": lambda now: f"{abs(now.year) % 100:02}",
    "January": lambda now: MONTHS[now.month - 1],
    "Jan": lambda now: MONTHS[now.month - 1][:3],
    "01": lambda now: f"{now.month:02}",
    "1": lambda now: str(now.month),
    "Monday": lambda now: WEEKDAYS[now.weekday],
    "Mon": lambda now: WEEKDAYS[now.weekday][:3],
    "02": lambda now: f"{now.day:02}",
    "_2": lambda now: f"{now.day:2}",
    "2": lambda now: str(now.day),
    "002": lambda now: f"{now.yearday:03}",
    "__2": lambda now: f"{now.yearday:3}",
    "15": lambda now: f"{now.hour:02}",
    "03": lambda now: f"{now.hour % 12 or 12:02}",
    "3": lambda now: str(now.hour % 12 or 12),
    "04": lambda now: f"{now.minute:02}",
    "4": lambda now: str(now.minute),
    "05": lambda now: f"{now.second:02}",
    "5": lambda now: str(now.second),
    "PM": lambda now: "PM" if now.hour >= 12 else "AM",
    "pm": lambda now: "pm" if now.hour >= 12 else "am",
}


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days_in(month: int, year: int) -> int:
    if month == 2 and _is_leap(year):
        return 29
    return _DAYS_BEFORE[month] - _DAYS_BEFORE[month - 1]


def _days_until(year: int, month: int, day: int) -> int:
    """Days from the epoch to a date of the proleptic Gregorian calendar; month in 1..12, day any number."""
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 + _DAYS_BEFORE[month - 1] + day - 1
    return days + (1 if month > 2 and _is_leap(year) else 0) - 719_162


def _date_of(days: int) -> tuple[int, int, int]:
    """Year, month and day of a day counted from the epoch."""
    cycle, rest = divmod(days + 719_162, 146_097)  # 400 years
    century = min(rest // 36_524, 3)
    rest -= century * 36_524
    four, rest = divmod(rest, 1_461)
    single = min(rest // 365, 3)
    year = cycle * 400 + century * 100 + four * 4 + single + 1
    yearday = days - _days_until(year, 1, 1)
    month = next(m for m in range(12, 0, -1) if days >= _days_until(year, m, 1))
    return year, month, yearday - (_days_until(year, month, 1) - _days_until(year, 1, 1)) + 1


def _seconds_at(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    year += (month - 1) // 12
    days = _days_until(year, (month - 1) % 12 + 1, day)
    return days * _SECONDS_A_DAY + hour * 3600 + minute * 60 + second


# Parsing


def quote(text: str) -> str:
    """A text in the quotes of package time: bytes outside ASCII as hex."""
    out = []
    for char in text:
        if char < " " or char > "~":
            out.append("".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape")))
        else:
            out.append("\\" + char if char in '"\\' else char)
    return '"' + "".join(out) + '"'


def parse(layout: str, text: str) -> GoTime:
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
        for element in _ELEMENT.finditer(self.layout):
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
            upcoming = _ELEMENT.search(following)
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
        if not 1 <= self.yearday <= (366 if _is_leap(self.year) else 365):
            raise self._error("day-of-year out of range")
        _, month, day = _date_of(_days_until(self.year, 1, self.yearday))
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
        if not 1 <= day <= _days_in(month, self.year):
            raise self._error("day out of range")
        seconds = _seconds_at(self.year, month, day, hour, self.minute, self.second)
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
_UNITS |= {"s": _NANOS, "m": 60 * _NANOS, "h": 3600 * _NANOS}
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

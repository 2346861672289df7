"""Go's time.Time as far as templates need it: a calendar without end, and times written by layouts.

Python's datetime stops at the years 1 and 9999 and at microseconds; Go's stops nowhere near and counts nanoseconds.
Source: https://pkg.go.dev/time (Layout, Time.Format, Date). How times are read: timeparse.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

RFC3339 = "2006-01-02T15:04:05Z07:00"
DATE_ONLY = "2006-01-02"
_STRING_LAYOUT = "2006-01-02 15:04:05.999999999 -0700 MST"
_SECONDS_A_DAY = 86_400
NANOS = 1_000_000_000

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
ELEMENT = re.compile(
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
        carry, nanos = divmod(self.nanos + nanoseconds, NANOS)
        return GoTime(self.seconds + carry, nanos, self.offset, self.zone)

    def civil(self) -> Civil:
        """What calendar and clock of the zone show."""
        days, second_of_day = divmod(self.seconds + self.offset, _SECONDS_A_DAY)
        year, month, day = date_of(days)
        hour, rest = divmod(second_of_day, 3600)
        return Civil(year, month, day, hour, rest // 60, rest % 60, (days + 4) % 7, days - days_until(year, 1, 1) + 1)

    def with_date(self, month: int, day: int) -> GoTime:
        """The same clock on another day of the year; months and days out of range roll over, as Go's time.Date does."""
        now = self.civil()
        seconds = seconds_at(now.year, month, day, now.hour, now.minute, now.second)
        return GoTime(seconds - self.offset, self.nanos, self.offset, self.zone)

    def format(self, layout: str) -> str:
        """The moment written as `layout` writes the reference time, Mon Jan 2 15:04:05 MST 2006."""
        now = self.civil()
        return ELEMENT.sub(lambda element: self._write(element[0], now), layout)

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


def is_leap(year: int) -> bool:
    """Whether the year has a 29 February."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def days_in(month: int, year: int) -> int:
    """Days of a month, 1 to 12."""
    if month == 2 and is_leap(year):
        return 29
    return _DAYS_BEFORE[month] - _DAYS_BEFORE[month - 1]


def days_until(year: int, month: int, day: int) -> int:
    """Days from the epoch to a date of the proleptic Gregorian calendar; month in 1..12, day any number."""
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 + _DAYS_BEFORE[month - 1] + day - 1
    return days + (1 if month > 2 and is_leap(year) else 0) - 719_162


def date_of(days: int) -> tuple[int, int, int]:
    """Year, month and day of a day counted from the epoch."""
    cycle, rest = divmod(days + 719_162, 146_097)  # 400 years
    century = min(rest // 36_524, 3)
    rest -= century * 36_524
    four, rest = divmod(rest, 1_461)
    single = min(rest // 365, 3)
    year = cycle * 400 + century * 100 + four * 4 + single + 1
    yearday = days - days_until(year, 1, 1)
    month = next(m for m in range(12, 0, -1) if days >= days_until(year, m, 1))
    return year, month, yearday - (days_until(year, month, 1) - days_until(year, 1, 1)) + 1


def seconds_at(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    """Seconds since the epoch; a month or day out of range rolls over into its neighbours."""
    year += (month - 1) // 12
    days = days_until(year, (month - 1) % 12 + 1, day)
    return days * _SECONDS_A_DAY + hour * 3600 + minute * 60 + second

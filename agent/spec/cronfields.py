"""Cron's five fields: what they say, and which local times they match.

Only the wall clock is known here, one that never changes; what a time zone makes of it stands in `agent.spec.cron`.
Times are naive and local.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

_RESOLUTION = timedelta(microseconds=1)
_ONE_MINUTE = timedelta(minutes=1)
_ONE_DAY = timedelta(days=1)

_T = TypeVar("_T")
_LEAP_YEAR = 2000
_SUNDAY_AGAIN = 7  # Sunday's other number


@dataclass(frozen=True, slots=True)
class Fields:
    """What the five fields allow, on a wall clock that never changes; times are naive and local.

    Attributes:
        minutes, hours, months: allowed values, ascending.
        days: allowed days of the month; 0 stands for the last. None: the field is free.
        weekdays: allowed (weekday, which), Sunday = 0; which: 0 = each, 1 to 5 = that one of the month, -1 = the last.
            None: the field is free.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: tuple[int, ...]
    days: frozenset[int] | None
    weekdays: frozenset[tuple[int, int]] | None

    @property
    def every_hour(self) -> bool:
        return len(self.hours) == 24

    def first(self, low: datetime, high: datetime) -> datetime | None:
        """Find the first match in [low, high)."""
        at = low.replace(second=0, microsecond=0)
        at = at if at == low else at + _ONE_MINUTE
        while at < high:
            if at.month not in self.months:
                at = _month_after(at)
                continue
            clock = self._clock_from(at.hour, at.minute) if self._is_day(at) else None
            if clock is not None:
                found = at.replace(hour=clock[0], minute=clock[1])
                return found if found < high else None
            at = _midnight(at) + _ONE_DAY
        return None

    def last(self, low: datetime, high: datetime) -> datetime | None:
        """Find the last match in [low, high)."""
        at = (high - _RESOLUTION).replace(second=0, microsecond=0)
        while at >= low:
            if at.month not in self.months:
                at = _midnight(at).replace(day=1) - _ONE_MINUTE
                continue
            clock = self._clock_until(at.hour, at.minute) if self._is_day(at) else None
            if clock is not None:
                found = at.replace(hour=clock[0], minute=clock[1])
                return found if found >= low else None
            at = _midnight(at) - _ONE_MINUTE
        return None

    def _is_day(self, at: datetime) -> bool:
        """Tell whether the day fields allow the day of `at`: either of the two, where both are given."""
        if self.days is None and self.weekdays is None:
            return True
        by_day = self.days is not None and (at.day in self.days or (0 in self.days and (at + _ONE_DAY).day == 1))
        return by_day or (self.weekdays is not None and self._is_weekday(at, self.weekdays))

    @staticmethod
    def _is_weekday(at: datetime, weekdays: frozenset[tuple[int, int]]) -> bool:
        weekday = at.isoweekday() % 7
        if (weekday, 0) in weekdays or (weekday, (at.day + 6) // 7) in weekdays:
            return True
        return (weekday, -1) in weekdays and (at + 7 * _ONE_DAY).month != at.month

    def _clock_from(self, hour: int, minute: int) -> tuple[int, int] | None:
        """Find the first allowed (hour, minute) of a day at or after the given one."""
        for h in self.hours:
            if h > hour:
                return h, self.minutes[0]
            if h == hour and self.minutes[-1] >= minute:
                return h, next(m for m in self.minutes if m >= minute)
        return None

    def _clock_until(self, hour: int, minute: int) -> tuple[int, int] | None:
        """Find the last allowed (hour, minute) of a day at or before the given one."""
        for h in reversed(self.hours):
            if h < hour:
                return h, self.minutes[-1]
            if h == hour and self.minutes[0] <= minute:
                return h, next(m for m in reversed(self.minutes) if m <= minute)
        return None


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0)


def _month_after(at: datetime) -> datetime:
    return (_midnight(at).replace(day=1) + 32 * _ONE_DAY).replace(day=1)


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five fields: its name, its bounds (inclusive) and its names for values."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        if self.names == _WEEKDAYS:
            return "0-7 or SUN-SAT, 1#2 (the second Monday) or L5 (the last Friday), in lists, ranges and steps"
        extra = " or L (the last)" if self.name == "day of month" else ""
        extra = f" or {self.names[0].upper()}-{self.names[-1].upper()}" if self.names else extra
        return f"{self.low}-{self.high}{extra}, in lists, ranges and steps"

    def number(self, text: str) -> int:
        """Read one value, a number or a name."""
        if text in self.names:
            return self.names.index(text) + self.low
        high = _SUNDAY_AGAIN if self.names == _WEEKDAYS else self.high
        if not text.isdecimal() or not self.low <= int(text) <= high:
            raise _Fault("is out of range" if text.isdecimal() else "is not understood")
        return int(text)


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day of week", 0, 6, _WEEKDAYS)
_FIELDS = (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)

_ITEM = re.compile(r"(?P<low>\*|[a-z]+|[0-9]{1,4})(-(?P<high>[a-z]+|[0-9]{1,4}))?(/(?P<step>[0-9]{1,4}))?")
_NTH_ITEM = re.compile(r"(?P<days>[a-z0-9-]+)#(?P<which>[1-5])")
_LAST_ITEM = re.compile(r"l(?P<day>[0-7])")


class _Fault(ValueError):
    """What is wrong with one item of a field; `_read` adds where it stands."""


def _given(values: set[_T], word: str, other: str, *, free: set[_T]) -> frozenset[_T] | None:
    """Decide whether a day field restricts anything, and so takes part in "either counts"; None: it does not.

    A star does not. A range over everything does not either where the other field's text has a star, as in croniter.
    """
    if word == "?" or "*" in word.split(",") or (values == free and "*" in other):
        return None
    return frozenset(values)


def _read(text: str, field: _Field, word: str, read_item: Callable[[str], Iterable[_T]]) -> set[_T]:
    values: set[_T] = set()
    for item in word.split(","):
        try:
            values.update(read_item(item))
        except _Fault as fault:
            raise ValueError(f'cron "{text}": {field.name} "{item}" {fault}: expected {field.expected}') from None
    return values


def _range(field: _Field, item: str) -> Iterable[int]:
    """Read `*`, `5`, `1-5`, `22-2` (over the end), each with a step: `*/15`, `10/15` (from 10 on), `1-5/2`."""
    match = _ITEM.fullmatch(item)
    if match is None or (match["low"] == "*" and match["high"]):
        raise _Fault("is not understood")
    step = int(match["step"] or 1)
    if step == 0:
        raise _Fault("has a step of 0")
    size = field.high - field.low + 1
    if match["low"] == "*":
        low, high = field.low, field.high
    else:
        low = field.number(match["low"])
        high = field.number(match["high"]) if match["high"] else field.high if match["step"] else low
        if match["high"] and low == high:  # one value to some programs, all values to others
            raise _Fault("is a range from a value to itself")
        if low == _SUNDAY_AGAIN and field is _WEEKDAY:
            low, high = 0, high % _SUNDAY_AGAIN
    if high < low:
        high += size
    return [(value - field.low) % size + field.low for value in range(low, high + 1, step)]


def _day_item(item: str) -> Iterable[int]:
    if item == "l":
        return [0]
    if item == "?":
        return []
    return _range(_DAY, f"{item[:-1]}31" if item.endswith("-l") else item)


def _weekday_item(item: str) -> Iterable[tuple[int, int]]:
    if item == "?":
        return []
    last = _LAST_ITEM.fullmatch(item)
    if last is not None:
        return [(int(last["day"]) % 7, -1)]
    nth = _NTH_ITEM.fullmatch(item)
    if nth is not None:
        return [(weekday, int(nth["which"])) for weekday in _range(_WEEKDAY, nth["days"])]
    return [(weekday, 0) for weekday in _range(_WEEKDAY, item)]


def read_fields(text: str) -> Fields:
    """Read the five fields of a cron expression.

    Raises:
        ValueError: the text is none, or no day of the calendar matches; the message names the field and what it takes.
    """
    words = text.split()
    if len(words) != len(_FIELDS):
        names = ", ".join(field.name for field in _FIELDS)
        raise ValueError(f'cron "{text}" has {len(words)} fields: expected {len(_FIELDS)} ({names})')
    minute, hour, day, month, weekday = (word.lower() for word in words)
    months = _read(text, _MONTH, month, partial(_range, _MONTH))
    days = _given(_read(text, _DAY, day, _day_item), day, weekday, free={*range(1, 32)})
    weekdays = _given(_read(text, _WEEKDAY, weekday, _weekday_item), weekday, day, free={(n, 0) for n in range(7)})
    if weekdays is None and days is not None:
        longest = max(calendar.monthrange(_LEAP_YEAR, m)[1] for m in months)
        if min(days) > longest:
            raise ValueError(
                f'cron "{text}": day of month "{day}" never comes in month "{month}": expected at most {longest}'
            )
    return Fields(
        minutes=tuple(sorted(_read(text, _MINUTE, minute, partial(_range, _MINUTE)))),
        hours=tuple(sorted(_read(text, _HOUR, hour, partial(_range, _HOUR)))),
        months=tuple(sorted(months)),
        days=days,
        weekdays=weekdays,
    )

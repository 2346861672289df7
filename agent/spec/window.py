"""The stretch of data a run stands for: its window, from the time the run is scheduled at.

Three versions of a job's `task.window` are understood, as Optimus has them; existing jobs count on the quirks of each:

- version 1: a month is 30 days; truncating to a week moves the end *forward* to the coming Sunday, and truncating to a
  month gives that month from its first to its last day;
- version 2: everything truncates down, months are calendar months;
- version 3: whole units on the wall clock of a location, days and longer by the calendar, hours by elapsed time.

A job without a window has the incremental one: from tick to tick of its own schedule.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Protocol
from zoneinfo import ZoneInfo

from agent.spec import duration
from agent.spec.cron import Schedule, load_location

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_THIRTY_DAYS = timedelta(days=30)  # a month in version 1
_SHORTEST_MONTH = timedelta(days=28)
_SIZE_V1 = "24h"
_SPAN_TEXT_MAX = 64  # characters

_MONTHS_V1 = re.compile(r"([+-]?)([0-9]{1,6})M")
_MONTHS_V2 = re.compile(r"([+-]?[0-9]{1,6})M(.*)", re.DOTALL)
_SPAN_V3 = re.compile(r"(-?[0-9]{1,8})([hdwMy])")
_TRUNCATE = ("h", "d", "w", "M")
_TRUNCATE_V3 = ("h", "d", "w", "M", "y", "None")


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time, `end` excluded.

    Attributes:
        start, end: aware; in UTC, and those of version 3 at the offset that its location has then. `start` is later
            only where a shift by months runs over the ends of both months.
    """

    start: datetime
    end: datetime


class Window(Protocol):
    """Says which stretch of data belongs to a time."""

    def interval(self, reference: datetime) -> Interval:
        """Find the window of a scheduled time.

        Args:
            reference: aware; the time the run stands for.

        Raises:
            ValueError: `reference` has no zone, or the window leaves the years 1 to 9999.
        """
        ...


def parse(version: int, *, size: str, offset: str, shift_by: str, truncate_to: str, location: str) -> Window:
    """Read a window as a job spec writes it; an empty text is a key that is not there.

    Args:
        version: the version of the job spec: 1, 2 or 3.
        size: how long the window is. Versions 1 and 2: Go durations with months, `1M24h`; 3: one number with h, d, w, M
            or y. Empty: 24h in version 1, no length in the others.
        offset: versions 1 and 2: how far the window moves after it is truncated.
        shift_by: version 3: the same, in the syntax of its `size`.
        truncate_to: h, d, w or M; in version 3 also y and None, and empty there means the unit of `size`.
        location: version 3: the IANA zone whose wall clock counts; empty means UTC.

    Raises:
        ValueError: a value is none of these, or belongs to another version; the message names it and what is expected.
    """
    if version not in {1, 2, 3}:
        raise ValueError(f"window version {version} is not known: expected 1, 2 or 3")
    if version == 3:
        _refuse_foreign(version, offset=offset)
        return _parse_v3(size=size, shift_by=shift_by, truncate_to=truncate_to, location=location)
    _refuse_foreign(version, shift_by=shift_by, location="" if location == "UTC" else location)
    _check_truncate(truncate_to, _TRUNCATE)
    if version == 1:
        return _WindowV1(_span_v1("size", size or _SIZE_V1), _span_v1("offset", offset or "0"), truncate_to)
    return _WindowV2(_span_v2("size", size or "0"), _span_v2("offset", offset or "0"), truncate_to)


def incremental(schedule: Schedule, reference: datetime) -> Interval:
    """Find the window of a job that names none: from the tick before `reference` (aware) up to it.

    Between ticks the window is the one of the coming tick: from the tick before to the tick after `reference`.
    """
    end = reference.astimezone(UTC) if schedule.is_tick(reference) else schedule.next(reference)
    return Interval(schedule.prev(reference), end)


def _refuse_foreign(version: int, **given: str) -> None:
    for key, value in given.items():
        if value:
            expected = "expected shift_by" if key == "offset" else "expected in version 3 only"
            raise ValueError(f'window {key} "{value}" has no meaning in version {version}: {expected}')


def _check_truncate(text: str, known: tuple[str, ...]) -> None:
    if text and text not in known:
        raise ValueError(f'window truncate_to "{text}" is not known: expected one of {", ".join(known)}')


def _utc(reference: datetime) -> datetime:
    if reference.tzinfo is None:
        raise ValueError(f"reference {reference.isoformat()} has no zone: expected an aware datetime")
    return reference.astimezone(UTC)


def _out_of_range(reference: datetime) -> ValueError:
    return ValueError(f"window of {reference.isoformat()} leaves the years 1 to 9999: expected a smaller size or shift")


# --- versions 1 and 2


@dataclass(frozen=True, slots=True)
class _WindowV1:
    """Sizes and offsets are plain lengths of time; a month is 30 days."""

    size: timedelta
    offset: timedelta
    truncate_to: str

    def interval(self, reference: datetime) -> Interval:
        try:
            at = _utc(reference)
            if self.truncate_to == "M":
                return self._months(at)
            end = _truncate(at, "d" if self.truncate_to == "w" else self.truncate_to)
            if self.truncate_to == "w":
                end += (7 - end.isoweekday() % 7) * _DAY
            end += self.offset
            return Interval(end - self.size, end)
        except OverflowError as error:
            raise _out_of_range(reference) from error

    def _months(self, at: datetime) -> Interval:
        """From the first day of a month to the *last* day (its midnight) of the same or a later one."""
        first = _add_months(_truncate(at, "M"), _whole_months(self.offset))
        earlier = max(0, _whole_months(self.size) - 1)
        return Interval(_add_months(first, -earlier), _add_months(first, 1) - _DAY)


@dataclass(frozen=True, slots=True)
class _SpanV2:
    """A length of `months` calendar months and `rest`."""

    months: int
    rest: timedelta

    def add_to(self, at: datetime, sign: int) -> datetime:
        return _add_months(at + sign * self.rest, sign * self.months)


@dataclass(frozen=True, slots=True)
class _WindowV2:
    """The reference truncates down, moves by the offset, and the window ends there; all in UTC."""

    size: _SpanV2
    offset: _SpanV2
    truncate_to: str

    def interval(self, reference: datetime) -> Interval:
        try:
            end = self.offset.add_to(_truncate(_utc(reference), self.truncate_to), 1)
            return Interval(self.size.add_to(end, -1), end)
        except OverflowError as error:
            raise _out_of_range(reference) from error


def _span_v1(key: str, text: str) -> timedelta:
    """Read a Go duration that may have one count of months anywhere in it; the sign of the months is theirs alone."""
    rest, months = text, timedelta(0)
    found = _MONTHS_V1.search(text) if len(text) <= _SPAN_TEXT_MAX else None
    if found:
        months = int(f"{found[1]}{found[2]}") * _THIRTY_DAYS
        rest = (text[: found.start()] + text[found.end() :]).strip() or "0"
    span = months + _rest(key, text, rest)
    if key == "size":
        _refuse_negative(text, negative=span < timedelta(0))
    return span


def _span_v2(key: str, text: str) -> _SpanV2:
    """Read `<months>M<Go duration>`, either part alone, or `0`; a minus before the months holds for the rest too."""
    months, rest = 0, text
    found = _MONTHS_V2.fullmatch(text)
    if found:
        months, rest = int(found[1]), found[2]
        rest = f"-{rest}" if months < 0 and rest else rest or "0"
    span = _SpanV2(months, _rest(key, text, rest))
    if key == "size":
        _refuse_negative(text, negative=months < 0 or months * _SHORTEST_MONTH + span.rest < timedelta(0))
    return span


def _rest(key: str, text: str, rest: str) -> timedelta:
    try:
        return duration.parse(rest)
    except ValueError as error:
        expected = 'months and a Go duration, such as "24h", "1M" or "1M24h"'
        raise ValueError(f'window {key} "{text[:_SPAN_TEXT_MAX]}" is not understood: expected {expected}') from error


def _refuse_negative(text: str, *, negative: bool) -> None:
    if negative:
        raise ValueError(f'window size "{text}" is negative: expected at least 0; offset and shift_by move a window')


def _truncate(at: datetime, unit: str) -> datetime:
    """Set a time back to the start of its hour, day, week (Monday), month or year; any other unit leaves it."""
    if unit == "h":
        return at.replace(minute=0, second=0, microsecond=0)
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "d":
        return day
    if unit == "w":
        return day - day.weekday() * _DAY
    if unit == "M":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if unit == "y" else at


def _whole_months(span: timedelta) -> int:
    """Count the whole 30 days in a length, towards zero."""
    return span // _THIRTY_DAYS if span >= timedelta(0) else -(-span // _THIRTY_DAYS)


def _add_months(at: datetime, months: int) -> datetime:
    """Add calendar months as Go's `AddDate` does: a day the month does not have runs on into the next month."""
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise OverflowError(f"year {year}")
    over = max(0, at.day - monthrange(year, month + 1)[1])
    return at.replace(year=year, month=month + 1, day=at.day - over) + over * _DAY


# --- version 3
#
# A time on the way is either an instant (aware, UTC) or a local time (naive) that becomes one at the very end: a day
# that has no midnight begins at 01:00, but the day before it still begins at 00:00.


@dataclass(frozen=True, slots=True)
class _SpanV3:
    """A count of one unit: h, d, w, M, y, or None for no length."""

    count: int
    unit: str

    def add_to(self, at: datetime, zone: ZoneInfo, sign: int) -> datetime:
        """Move an instant or a local time: hours by elapsed time, the other units by the calendar of `zone`."""
        count = sign * self.count
        if count == 0:
            return at
        if self.unit == "h":
            return _resolve(at, zone) + count * _HOUR
        local = _local(at, zone)
        if self.unit in {"d", "w"}:
            return local + count * (7 if self.unit == "w" else 1) * _DAY
        return _add_months(local, count * (12 if self.unit == "y" else 1))


@dataclass(frozen=True, slots=True)
class _WindowV3:
    """The reference goes back to the start of `unit`; the window ends there; then both its ends move by the shift."""

    size: _SpanV3
    shift_by: _SpanV3
    unit: str
    zone: ZoneInfo

    def interval(self, reference: datetime) -> Interval:
        try:
            end = self._align(_utc(reference))
            start = self.size.add_to(end, self.zone, -1)
            start, end = (self.shift_by.add_to(at, self.zone, 1) for at in (start, end))
            return Interval(_on_clock(start, self.zone), _on_clock(end, self.zone))
        except OverflowError as error:
            raise _out_of_range(reference) from error

    def _align(self, at: datetime) -> datetime:
        if self.unit == "None":
            return at
        local = _local(at, self.zone)
        start = _truncate(local, self.unit)
        # An hour that comes twice has two starts: the elapsed time leads to the one the reference is in.
        return at - (local - start) if self.unit == "h" else start


def _parse_v3(*, size: str, shift_by: str, truncate_to: str, location: str) -> _WindowV3:
    length = _span_v3("size", size)
    _refuse_negative(size, negative=length.count < 0)
    _check_truncate(truncate_to, _TRUNCATE_V3)
    return _WindowV3(length, _span_v3("shift_by", shift_by), truncate_to or length.unit, load_location(location))


def _span_v3(key: str, text: str) -> _SpanV3:
    if text in {"", "None"}:
        return _SpanV3(0, "None")
    found = _SPAN_V3.fullmatch(text)
    if found is None:
        expected = 'one number with h, d, w, M or y, such as "1d" or "-2h"'
        raise ValueError(f'window {key} "{text[:_SPAN_TEXT_MAX]}" is not understood: expected {expected}')
    return _SpanV3(int(found[1]), found[2])


def _local(at: datetime, zone: ZoneInfo) -> datetime:
    return at if at.tzinfo is None else at.astimezone(zone).replace(tzinfo=None)


def _on_clock(at: datetime, zone: ZoneInfo) -> datetime:
    """An instant or a local time as the clocks of `zone` show it, at a fixed offset: lengths are elapsed time."""
    offset = _resolve(at, zone).astimezone(zone).utcoffset()
    return _resolve(at, zone).astimezone(timezone(offset) if offset else UTC)


def _resolve(at: datetime, zone: ZoneInfo) -> datetime:
    """Find the instant of a local time: the first of two; one that does not exist moves forward by what is skipped."""
    return at.replace(tzinfo=zone, fold=0).astimezone(UTC) if at.tzinfo is None else at

"""When a job is due: five-field cron, `@daily` and its like, `@every 1h30m`, in any time zone.

The fields are matched on the wall clock of the job's location. What a change of that clock does to them is Airflow's
behaviour, said as rules:

- a local time that does not exist moves forward by what the clock skips, and so does not fire twice with what is there;
- a fixed time that comes twice fires on its second pass;
- a schedule of every hour follows elapsed time: none is skipped, and none is late, when the clock is set back.

The ticks of a schedule are thus one fixed set of instants: `next`, `prev` and `is_tick` look into that set, whatever
time they are asked from. Between two changes of the clock (a `_Span`) the wall clock runs evenly, so the search goes
span by span; only the first tick of a span may come from the clock before it (`_CronRule._carried`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent.spec import duration
from agent.spec.cronfields import Fields, read_fields

_RESOLUTION = timedelta(microseconds=1)  # the clock's own resolution: turns "at or after" into "after"
_ONE_HOUR = timedelta(hours=1)
_ONE_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - instants in here are UTC without tzinfo, local times are naive
_YEAR_MIN, _YEAR_MAX = 2, 9998  # a year clear of what datetime can hold, for the zone's offset
_EXPRESSION_MAX = 512  # characters

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """The ticks of a job; made by `parse`.

    Attributes:
        expression: what the user wrote.
        location: the IANA name of the zone whose wall clock counts.
        rule: finds the ticks.
    """

    expression: str
    location: str
    rule: _Rule

    def next(self, after: datetime) -> datetime:
        """Find the first tick later than `after` (aware); the result is in UTC.

        Raises:
            ValueError: `after` has no zone, or there is no tick before the year 9998.
        """
        return self._aware(self.rule.next(_instant(after)))

    def prev(self, before: datetime) -> datetime:
        """Find the last tick earlier than `before` (aware); the result is in UTC.

        Raises:
            ValueError: `before` has no zone, or there is no tick since the year 2.
        """
        return self._aware(self.rule.prev(_instant(before)))

    def is_tick(self, t: datetime) -> bool:
        """Tell whether the schedule is due exactly at `t` (aware)."""
        at = _instant(t)
        return self.rule.next(at - _RESOLUTION) == at

    def iter(self, after: datetime) -> Iterator[datetime]:
        """Yield the ticks later than `after` (aware), in order, without end."""
        while True:
            after = self.next(after)
            yield after

    @staticmethod
    def _aware(at: datetime) -> datetime:
        return at.replace(tzinfo=UTC)


def ticks(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    """List the first `count` ticks later than `after` (aware), in UTC."""
    return list(islice(schedule.iter(after), count))


def parse(expr: str, *, location: str = "UTC", start: datetime | None = None) -> Schedule:
    """Read a schedule's interval.

    Args:
        expr: five cron fields (minute, hour, day of month, month, day of week), a macro such as `@daily`, or `@every`
            with a Go duration. Names (JAN, MON), 7 for Sunday, `L` (last day of the month), `MON#2` (second Monday),
            `L5` (last Friday), ranges over the end (`22-2`) are understood. With both day fields given, either counts.
        location: an IANA zone; empty means UTC.
        start: where `@every` counts from, in both directions: an aware time, or a naive one on the location's wall
            clock. Without it the epoch. Cron fields do not look at it.

    Raises:
        ValueError: the text, or the location, is none; the message names the field, its text and what is expected.
    """
    zone = load_location(location)
    text = expr.strip()
    if len(text) > _EXPRESSION_MAX:
        raise ValueError(f"cron expression of {len(text)} characters: expected at most {_EXPRESSION_MAX}")
    words = text.split()
    if words and words[0].lower() == "@every":
        return Schedule(text, zone.key, _every(text, words[1:], zone, start))
    macro = _MACROS.get(text.lower())
    if macro is None and text.startswith("@"):
        known = ", ".join(_MACROS)
        raise ValueError(f'cron "{text}" is no known macro: expected one of {known} or "@every 1h30m"')
    return Schedule(text, zone.key, _CronRule(read_fields(macro or text), zone.key))


@lru_cache(maxsize=1024)
def load_location(name: str) -> ZoneInfo:
    """Find a time zone by its IANA name; empty means UTC.

    Raises:
        ValueError: there is no such zone, or the name means "the zone of this host", which no two agents need to share.
    """
    expected = 'expected an IANA name such as "Asia/Jakarta"'
    if name.lower() in {"local", "localtime"}:
        raise ValueError(f'location "{name}" is another zone on another host: {expected}')
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: the name of a folder, such as "America"
        raise ValueError(f'location "{name}" is no time zone: {expected}') from error


def _instant(t: datetime) -> datetime:
    """Turn an aware time into UTC without tzinfo, the form in which this module counts."""
    if t.tzinfo is None:
        raise ValueError(f"time {t.isoformat()} has no zone: expected an aware datetime")
    if not _YEAR_MIN <= t.year <= _YEAR_MAX:
        raise _out_of_range(t)
    return t.astimezone(UTC).replace(tzinfo=None)


def _out_of_range(t: datetime) -> ValueError:
    return ValueError(f"no tick around {t.isoformat()}: expected a time in the years {_YEAR_MIN} to {_YEAR_MAX}")


class _Rule(Protocol):
    """Finds ticks; instants are UTC without tzinfo, both bounds are exclusive."""

    def next(self, after: datetime) -> datetime: ...

    def prev(self, before: datetime) -> datetime: ...


# --- @every


@dataclass(frozen=True, slots=True)
class _EveryRule:
    """Ticks at `anchor` and every `period` before and after it."""

    anchor: datetime
    period: timedelta

    def next(self, after: datetime) -> datetime:
        return self._at((after - self.anchor) // self.period + 1)

    def prev(self, before: datetime) -> datetime:
        return self._at(-((self.anchor - before) // self.period) - 1)

    def _at(self, count: int) -> datetime:
        try:
            return self.anchor + count * self.period
        except OverflowError as error:
            raise ValueError(f"tick {count} of @every {duration.format(self.period)} is out of range") from error


def _every(text: str, words: list[str], zone: ZoneInfo, start: datetime | None) -> _EveryRule:
    if len(words) != 1:
        raise ValueError(f'cron "{text}": expected one duration, such as "@every 1h30m"')
    period = duration.parse(words[0])
    if period < timedelta(seconds=1) or period.microseconds:
        raise ValueError(f'cron "{text}": expected whole seconds, at least 1s')
    if start is None:
        return _EveryRule(_EPOCH, period)
    return _EveryRule(_instant(start if start.tzinfo else start.replace(tzinfo=zone)), period)


# --- cron fields in a zone


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of time in which a zone's offset stays the same; spans also end with each year (UTC).

    Attributes:
        start, end: its instants, [start, end).
        offset: local time - UTC. `before` and `after`: the offsets just before `start` and from `end` on.
    """

    start: datetime
    end: datetime
    offset: timedelta
    before: timedelta
    after: timedelta


@dataclass(frozen=True, slots=True)
class _CronRule:
    """The ticks of `fields` on the wall clock of `zone` (an IANA name)."""

    fields: Fields
    zone: str

    def next(self, after: datetime) -> datetime:
        span = _span_at(self.zone, after)
        carried = self._carried(span, after)
        if carried is not None and carried > after:
            return carried
        low = after + _RESOLUTION
        while True:
            found = self.fields.first(low + span.offset, self._end(span) + span.offset)
            if found is not None:
                return found - span.offset
            span = _span_at(self.zone, span.end)
            carried = self._carried(span, span.start)
            if carried is not None:
                return carried
            low = span.start

    def prev(self, before: datetime) -> datetime:
        span = _span_at(self.zone, before - _RESOLUTION)
        high = min(before, self._end(span))
        while True:
            carried = self._carried(span, span.start)
            low = span.start if carried is None else carried + _RESOLUTION
            found = self.fields.last(low + span.offset, high + span.offset)
            if found is not None:
                return found - span.offset
            if carried is not None and carried < before:
                return carried
            span = _span_at(self.zone, span.start - _RESOLUTION)
            high = self._end(span)

    def _end(self, span: _Span) -> datetime:
        """Say when the span's own ticks end: a fixed time that comes twice waits for its second pass."""
        repeated = span.offset - span.after
        return span.end - repeated if repeated > timedelta(0) and not self.fields.every_hour else span.end

    def _carried(self, span: _Span, at: datetime) -> datetime | None:
        """Find the tick that the clock before `span` still gives inside it, if it may matter at `at` or later.

        It is the first one that clock would have shown from the change on, if it stands in the skipped hour (so it
        moves forward) or, in a schedule of every hour, follows the last tick before the change within an hour (elapsed
        time). What the new clock shows up to then is not a tick.
        """
        skipped = span.offset - span.before
        reach = max(skipped, _ONE_HOUR if self.fields.every_hour else skipped)
        if not skipped or reach <= timedelta(0) or at >= span.start + reach:
            return None
        change = span.start + span.before
        found = self.fields.first(change, change + reach)
        if found is None:
            return None
        if found >= change + skipped and self.fields.last(found - _ONE_HOUR, change) is None:
            return None
        return found - span.before


def _span_at(zone: str, at: datetime) -> _Span:
    if not _YEAR_MIN <= at.year <= _YEAR_MAX:
        raise _out_of_range(at)
    return next(span for span in _spans(zone, at.year) if at < span.end)


@lru_cache(maxsize=4096)
def _spans(zone: str, year: int) -> tuple[_Span, ...]:
    """Cut a year (UTC) at the changes of a zone's offset.

    The zone is asked day by day (no zone changes twice in a day), and each change is found to the second by bisection.
    What a change carries over or repeats is looked for within its year: no zone has needed more since 1995.
    """
    info = load_location(zone)

    def offset_at(at: datetime) -> timedelta:
        return info.fromutc(at.replace(tzinfo=info)).replace(tzinfo=None) - at

    start, end = datetime(year, 1, 1), datetime(year + 1, 1, 1)  # noqa: DTZ001 - UTC
    edges, offsets = [start], [offset_at(start)]
    for number in range((end - start).days):
        day = start + number * _ONE_DAY
        low, high = -1, 86_399  # the last second of the day before, and of this one
        if offset_at(day + timedelta(seconds=high)) == offsets[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            changed = offset_at(day + timedelta(seconds=middle)) != offsets[-1]
            low, high = (low, middle) if changed else (middle, high)
        edges.append(day + timedelta(seconds=high))
        offsets.append(offset_at(edges[-1]))
    before = [offset_at(start - timedelta(seconds=1)), *offsets]
    after = [*offsets[1:], offset_at(end)]
    return tuple(map(_Span, edges, [*edges[1:], end], offsets, before, after))

"""The ticks of a schedule within bounds."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.spec import cron, schedules


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_both_ends_are_in_it() -> None:
    daily = schedules.schedule_of("@daily", "UTC", "2024-01-01")
    days = [at("2024-01-01"), at("2024-01-02"), at("2024-01-03")]
    assert list(schedules.within(daily, days[0], days[2])) == days
    assert list(schedules.within(daily, days[0], days[2], reverse=True)) == days[::-1]
    assert list(schedules.within(daily, at("2024-01-01T00:01"), at("2024-01-01T23:59"))) == []


def test_every_counts_from_the_start_date_and_without_one_from_the_epoch() -> None:
    first, last = at("2024-01-01T00:00"), at("2024-01-01T12:00")
    every = schedules.schedule_of("@every 7h", "Asia/Jakarta", "2024-01-01")
    assert list(schedules.within(every, first, last)) == [at("2024-01-01T00:00"), at("2024-01-01T07:00")]
    assert schedules.schedule_of("@every 7h", "UTC", "").is_tick(at("1970-01-01T07:00"))


def test_at_the_end_of_all_years_there_are_none_left() -> None:
    daily = cron.parse("@daily")
    last, first = at("9998-12-31"), at("0002-01-01")
    assert list(schedules.within(daily, last, last)) == [last]
    assert list(schedules.within(daily, first, first, reverse=True)) == [first]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3_000), st.sampled_from(["* * * * *", "*/7 3,4 * * *", "@every 17m"]))
def test_backwards_are_the_same_as_forwards(begin: int, length: int, interval: str) -> None:
    first = datetime.fromtimestamp(1_700_000_000 + 60 * begin, UTC)
    last = datetime.fromtimestamp(first.timestamp() + 60 * length, UTC)
    schedule = schedules.schedule_of(interval, "Europe/Berlin", "")
    forwards = list(schedules.within(schedule, first, last))
    assert forwards == list(schedules.within(schedule, first, last, reverse=True))[::-1]
    assert all(first <= one <= last and schedule.is_tick(one) for one in forwards)

"""Which ticks of an upstream a run waits for: OPTIMUS' rule, its examples, and what must hold for any two jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.spec.bundle import Bundle
from agent.spec.compile import interval_of, schedule_of
from agent.spec.jobspec import JobSpec, ScheduleSpec, TaskSpec, WindowSpec
from agent.spec.ticks import awaited_ticks, last_tick, next_ticks

AT = datetime(2022, 10, 2, 23, tzinfo=UTC)
MANY = 10_000


def job(interval: str, **schedule: str) -> JobSpec:
    start = schedule.pop("start_date", "2020-01-01")
    made = ScheduleSpec(interval=interval, start_date=start, **schedule)
    return JobSpec(version=2, name="up", owner="o", schedule=made, task=TaskSpec(name="shell"))


def down(size: str = "", version: int = 2, interval: str = "", **window: str) -> Bundle:
    spec = WindowSpec(size=size, **window) if size or window else None
    made = replace(job(interval), version=version, name="down", task=TaskSpec(name="shell", window=spec))
    return Bundle(job=made, project="p", namespace="n", plugins={})


def awaited(bundle: Bundle, upstream: JobSpec | None, at: datetime = AT) -> list[str]:
    return [f"{one:%m-%dT%H:%M}" for one in awaited_ticks(bundle, upstream, at, MANY)]


def test_a_daily_upstream_before_a_daily_window_is_one_tick() -> None:
    assert awaited(down("24h"), job("0 22 * * *")) == ["10-02T22:00"]


def test_an_hourly_upstream_before_a_daily_window_is_its_hours() -> None:
    assert awaited(down("24h"), job("0 * * * *")) == [f"10-02T{hour:02}:00" for hour in range(24)]


def test_a_daily_upstream_before_a_weeks_window_is_its_days() -> None:
    found = awaited(down("168h"), job("0 22 * * *"))
    assert found == ["09-26T22:00", *(f"09-{day}T22:00" for day in range(27, 31)), "10-01T22:00", "10-02T22:00"]


def test_the_window_is_the_downstreams_at_the_upstreams_tick_not_at_its_own() -> None:
    """Its own window at T would end at 10-02T00 and have no tick of 22:00 of that day."""
    assert awaited(down("24h", truncate_to="d"), job("0 22 * * *")) == ["10-01T22:00"]
    assert awaited(down("1d", 3, shift_by="1d"), job("0 22 * * *")) == ["10-02T22:00"]


def test_an_incremental_window_goes_back_to_the_downstreams_own_tick() -> None:
    assert awaited(down(version=3, interval="0 0 * * *"), job("0 */12 * * *")) == ["10-02T12:00", "10-03T00:00"]
    assert awaited(down(version=3), job("0 22 * * *")) == ["10-02T22:00"]  # without a schedule it has no length


def test_an_upstream_without_a_schedule_or_one_that_is_not_here_stands_for_the_same_time() -> None:
    assert awaited(down("24h"), None) == ["10-02T23:00"]
    assert awaited(down("24h"), job("")) == ["10-02T23:00"]


def test_ticks_outside_of_the_upstreams_dates_are_none() -> None:
    upstream = job("0 22 * * *", start_date="2022-10-01")
    assert awaited(down("168h"), upstream) == ["10-01T22:00", "10-02T22:00"]
    assert awaited(down("24h"), upstream, datetime(2022, 9, 30, tzinfo=UTC)) == []
    ended = job("0 22 * * *", end_date="2022-09-30")
    assert awaited(down("48h"), ended) == ["09-28T22:00", "09-29T22:00"]


def test_more_ticks_than_a_run_may_wait_for_are_an_error() -> None:
    with pytest.raises(ValueError, match="more than 23 ticks of up"):
        awaited_ticks(down("24h"), job("0 * * * *"), AT, 23)
    assert len(awaited_ticks(down("24h"), job("0 * * * *"), AT, 24)) == 24


@given(
    at=st.datetimes(datetime(2021, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    cron=st.sampled_from(["0 22 * * *", "*/30 * * * *", "0 6 * * 1", "@every 5h"]),
    hours=st.integers(1, 200),
)
@settings(deadline=None)
def test_what_is_awaited_are_all_ticks_of_the_window_and_no_others(at: datetime, cron: str, hours: int) -> None:
    upstream, bundle = job(cron), down(f"{hours}h")
    last = last_tick(upstream, at)
    assert last is not None
    assert last <= at < next_ticks(upstream, last, 1)[0]
    window, found = interval_of(bundle, last), awaited_ticks(bundle, upstream, at, MANY)
    assert all(schedule_of(upstream).is_tick(one) for one in found)
    assert all(window.start < one <= window.end for one in found)
    assert len(found) == sum(1 for one in next_ticks(upstream, window.start, len(found) + 1) if one <= window.end)
    assert not found or found[-1] <= last

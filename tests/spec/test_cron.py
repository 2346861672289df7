"""When a job is due: what was measured, the rules one by one, and what must hold in every zone."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.spec import cron
from agent.spec.cron import Schedule

_VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "cron_dst.json").read_text())

# Changes of an hour, half an hour and two, at midnight, out of step with the hour, around Ramadan, of a whole day.
_ZONES = [
    "UTC",
    "Asia/Kolkata",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Antarctica/Troll",
    "Asia/Beirut",
    "America/Havana",
    "America/Santiago",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/St_Johns",
]
_NO_DEADLINE = settings(deadline=None)  # a slow machine is no failure
_TIMES = st.datetimes(datetime(2005, 1, 1), datetime(2045, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds it


def _next(schedule: Schedule, after: str, count: int) -> list[str]:
    return [f"{t:%Y-%m-%dT%H:%M}" for t in cron.ticks(schedule, datetime.fromisoformat(after), count)]


def _numbers(low: int, high: int) -> st.SearchStrategy[str]:
    """Make the text of one field without names."""
    number = st.integers(low, high)
    step = st.integers(1, high)
    item = st.one_of(
        number.map(str),
        step.map("*/{}".format),
        st.builds("{}/{}".format, st.integers(low, high - 1), step),
        st.lists(number, min_size=2, max_size=2, unique=True).map(lambda ends: f"{min(ends)}-{max(ends)}"),
    )
    return st.just("*") | st.lists(item, min_size=1, max_size=3).map(",".join)


_MINUTES, _HOURS = _numbers(0, 59), _numbers(0, 23)
_DAYS = st.one_of(_numbers(1, 28), st.sampled_from(["L", "15,L", "5,31", "28-L", "?"]))
_MONTHS = st.one_of(_numbers(1, 12), st.sampled_from(["JAN", "mar-may", "NOV,dec"]))
_WEEKDAYS = st.one_of(_numbers(0, 6), st.sampled_from(["SUN", "mon-fri", "7", "5-7", "0-7", "FRI-MON", "?"]))
_NTH = st.sampled_from(["1#2", "MON#1", "fri#5", "MON#2,THU#4", "L5", "7#3"])
_EXPRESSIONS = st.one_of(
    st.tuples(_MINUTES, _HOURS, st.just("*"), st.just("*"), st.just("*")),
    st.tuples(_MINUTES, _HOURS, _DAYS, _MONTHS, _WEEKDAYS),
    st.tuples(_MINUTES, _HOURS, st.just("*"), _MONTHS, _NTH),
).map(" ".join)


# --- what was measured on Airflow


@pytest.mark.parametrize("vector", _VECTORS, ids=lambda v: f"{v['cron']} {v['tz']}")
def test_the_ticks_are_the_ones_measured_on_airflow(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(ValueError, match="6 fields"):
            cron.parse(vector["cron"], location=vector["tz"])
        return
    schedule = cron.parse(vector["cron"], location=vector["tz"])
    found = cron.ticks(schedule, datetime.fromisoformat(vector["after"]), len(vector["next"]))
    assert [t.isoformat() for t in found] == vector["next"]


def _stepped(expression: str, zone: ZoneInfo, after: datetime) -> datetime:
    """Step from one tick to the next as the vectors show it, straight from the wall clock: an independent model."""
    wall = after.astimezone(zone).replace(tzinfo=None, fold=0)
    fields = croniter(expression, start_time=wall)
    due: datetime = fields.get_next(datetime)
    if fields.expanded[1] == ["*"]:
        return after + (due - wall)
    skipped = due.replace(tzinfo=zone, fold=0).utcoffset(), due.replace(tzinfo=zone, fold=1).utcoffset()
    assert skipped[0] is not None
    assert skipped[1] is not None
    due += max(timedelta(0), skipped[1] - skipped[0])
    return due.replace(tzinfo=zone, fold=1).astimezone(UTC)


@_NO_DEADLINE
@given(
    minutes=_MINUTES, hours=_HOURS, zone=st.sampled_from(_ZONES[2:]), pick=st.integers(0), lead=st.integers(200, 1600)
)
@example(minutes="15,45", hours="2", zone="America/New_York", pick=0, lead=200)
@example(minutes="45", hours="*", zone="Australia/Lord_Howe", pick=0, lead=200)
@example(minutes="0", hours="*", zone="Australia/Lord_Howe", pick=1, lead=200)
def test_stepping_through_a_change_of_the_clock_gives_the_ticks_of_the_measured_rule(
    minutes: str, hours: str, zone: str, pick: int, lead: int
) -> None:
    changes = [
        span.start for year in range(2008, 2030) for span in cron._spans(zone, year) if span.before != span.offset
    ]
    at = (changes[pick % len(changes)] - timedelta(minutes=lead)).replace(tzinfo=UTC)
    expression = f"{minutes} {hours} * * *"
    for tick in cron.ticks(cron.parse(expression, location=zone), at, 40):
        at = _stepped(expression, ZoneInfo(zone), at)
        assert tick == at


@_NO_DEADLINE
@given(_EXPRESSIONS, _TIMES)
def test_on_an_even_clock_the_fields_match_as_in_croniter(expression: str, at: datetime) -> None:
    schedule = cron.parse(expression)
    wall = at.replace(tzinfo=None)
    fields = croniter(expression, start_time=wall)
    following = [fields.get_next(datetime).replace(tzinfo=UTC) for _ in range(5)]
    assert cron.ticks(schedule, at, 5) == following


# --- the rules for a changing clock


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # 02:00-03:00 does not come: the time moves forward once, and not onto one that is there.
        (
            "15,45 2 * * *",
            "America/New_York",
            "2026-03-08T00:00-05:00",
            ["2026-03-08T07:15", "2026-03-09T06:15", "2026-03-09T06:45"],
        ),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", ["2026-03-29T01:30", "2026-03-30T00:30"]),
        # Asked from within the skipped hour's stretch, the moved tick is still to come.
        ("30 2 * * *", "America/New_York", "2026-03-08T07:10Z", ["2026-03-08T07:30", "2026-03-09T06:30"]),
        # 01:00-02:00 comes twice: fixed times fire in the second pass, wherever one asks from.
        ("30 1 * * *", "America/New_York", "2026-11-01T05:45Z", ["2026-11-01T06:30", "2026-11-02T06:30"]),
        # Lord Howe sets its clock by half an hour; every hour is counted in elapsed time.
        (
            "0 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T13:30Z",
            ["2026-04-04T14:00", "2026-04-04T15:00", "2026-04-04T15:30", "2026-04-04T16:30"],
        ),
        (
            "45 * * * *",
            "Australia/Lord_Howe",
            "2026-10-03T14:30Z",
            ["2026-10-03T15:15", "2026-10-03T16:15", "2026-10-03T16:45"],
        ),
        # Every hour of some days: elapsed time holds within a day, and never fires on a day that is not named.
        ("0 * * * MON-FRI", "America/New_York", "2026-10-31T03:00Z", ["2026-11-02T05:00", "2026-11-02T06:00"]),
        ("0 * * * MON-FRI", "America/New_York", "2026-03-07T04:00Z", ["2026-03-09T04:00", "2026-03-09T05:00"]),
        # Santiago goes from Sunday 00:00 back to Saturday 23:00: that is no Sunday yet.
        ("0 * * * SUN", "America/Santiago", "2026-04-04T12:00Z", ["2026-04-05T04:00", "2026-04-05T05:00"]),
        # Beirut skips 00:00-01:00; Samoa skipped the whole of 30 December 2011.
        ("0 0 * * *", "Asia/Beirut", "2026-03-28T12:00Z", ["2026-03-28T22:00", "2026-03-29T21:00"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T12:00Z", ["2011-12-29T22:00", "2011-12-30T22:00"]),
    ],
)
def test_a_change_of_the_clock_neither_loses_nor_doubles_a_tick(
    expression: str, zone: str, after: str, expected: list[str]
) -> None:
    schedule = cron.parse(expression, location=zone)
    assert _next(schedule, after, len(expected)) == expected
    found = cron.ticks(schedule, datetime.fromisoformat(after), len(expected))
    assert [schedule.prev(t) for t in found[1:]] == found[:-1]


# --- the syntax


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@Midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("0 0 * * 7", "0 0 * * SUN"),
        ("0 0 * * 5-7", "0 0 * * FRI,SAT,SUN"),
        ("0 0 * * 7-2", "0 0 * * 0-2"),
        ("0 0 * * 0-7", "0 0 * * *"),
        ("0 0 ? * ?", "0 0 * * *"),
        ("0 0 ? jan-Mar mon", "0 0 * 1,2,3 1"),
        ("0 22-2 * * *", "0 22,23,0,1,2 * * *"),
        ("10/20 * * * *", "10,30,50 * * * *"),
        ("1-10/4 */7 * * *", "1,5,9 0,7,14,21 * * *"),
        ("0 0 28-L * *", "0 0 28,29,30,31 * *"),
        ("0 0 * * MON-WED#2", "0 0 * * 1#2,2#2,3#2"),
        ("  05\t4  * * *  ", "5 4 * * *"),
        ("0 0 1-31 * */2", "0 0 * * 0,2,4,6"),  # a range over everything beside a star restricts nothing
        ("0 0 */2 * 0-6", "0 0 1-31/2 * *"),
        ("0 0 1-31 * 1", "0 0 * * *"),  # else either day field counts
        ("0 0 *,5 * 1", "0 0 * * 1"),
    ],
)
def test_two_ways_to_write_a_schedule_mean_the_same(expression: str, same: str) -> None:
    assert _next(cron.parse(expression), "2026-01-01T00:00Z", 40) == _next(cron.parse(same), "2026-01-01T00:00Z", 40)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 0 L * *", ["2026-01-31", "2026-02-28", "2026-03-31"]),
        ("0 0 15,L 2 *", ["2026-02-15", "2026-02-28", "2027-02-15"]),
        ("0 0 * * MON#2", ["2026-01-12", "2026-02-09", "2026-03-09"]),
        ("0 0 * * 4#5", ["2026-01-29", "2026-04-30", "2026-07-30"]),
        ("0 0 * * L5", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 * * L7", ["2026-01-25", "2026-02-22", "2026-03-29"]),
        ("0 0 13 * FRI", ["2026-01-02", "2026-01-09", "2026-01-13"]),
        ("0 0 1 * MON#2", ["2026-01-12", "2026-02-01", "2026-02-09"]),
        ("0 0 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("0 0 31 2,4 MON#5", ["2029-04-30", "2030-04-29", "2035-04-30"]),
    ],
)
def test_the_days_are_found(expression: str, expected: list[str]) -> None:
    found = cron.ticks(cron.parse(expression), datetime(2026, 1, 1, tzinfo=UTC), 3)
    assert [t.date() for t in found] == [date.fromisoformat(day) for day in expected]


def test_the_rarest_day_is_found_forwards_and_backwards_across_a_century() -> None:
    schedule = cron.parse("0 0 * 2 MON#5")  # a 29 February that is a Monday
    assert schedule.next(datetime(2073, 1, 1, tzinfo=UTC)) == datetime(2112, 2, 29, tzinfo=UTC)
    assert schedule.prev(datetime(2112, 2, 29, tzinfo=UTC)) == datetime(2072, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "has 0 fields: expected 5 (minute, hour, day of month, month, day of week)"),
        ("* * * *", "has 4 fields"),
        ("60 * * * *", 'minute "60" is out of range: expected 0-59'),
        ("* 24 * * *", 'hour "24" is out of range: expected 0-23'),
        ("* * 0 * *", 'day of month "0" is out of range: expected 1-31 or L'),
        ("* * 32 * *", 'day of month "32"'),
        ("* * * 13 *", 'month "13" is out of range: expected 1-12 or JAN-DEC'),
        ("* * * MAI *", 'month "mai" is not understood'),
        ("* * * * 8", 'day of week "8" is out of range: expected 0-7 or SUN-SAT'),
        ("* * * * MON#6", 'day of week "mon#6" is not understood'),
        ("* * * * MON#0", 'day of week "mon#0"'),
        ("* * * * L", 'day of week "l"'),
        ("* * L-3 * *", 'day of month "l-3"'),
        ("* * 15W * *", 'day of month "15w"'),
        ("MON * * * *", 'minute "mon"'),
        ("*-5 * * * *", 'minute "*-5" is not understood'),
        ("-1 * * * *", 'minute "-1"'),
        ("1,,2 * * * *", 'minute "" is not understood'),
        ("*/0 * * * *", 'minute "*/0" has a step of 0'),
        ("5-5 * * * *", 'minute "5-5" is a range from a value to itself'),
        ("? * * * *", 'minute "?"'),
        ("\u0665 * * * *", 'minute "\u0665" is not understood'),
        ("0 0 30 2 *", 'day of month "30" never comes in month "2": expected at most 29'),
        ("0 0 31 2,4,JUN *", "expected at most 30"),
        ("@dayly", "no known macro: expected one of @yearly"),
        ("@every", "expected one duration"),
        ("@every 1h 30m", "expected one duration"),
        ("@every soon", 'duration "soon"'),
        ("@every 500ms", "expected whole seconds, at least 1s"),
        ("@every 1.5s", "expected whole seconds, at least 1s"),
        ("@every -1h", "expected whole seconds, at least 1s"),
        ("*," * 400 + "* * * * *", "expected at most 512"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_field_and_what_is_expected(expression: str, says: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        cron.parse(expression)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "America", "../etc/passwd", "/etc/localtime", "localtime", "Local", "a\0b"]
)
def test_a_location_that_is_no_zone_everywhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected an IANA name"):
        cron.parse("@daily", location=name)


def test_an_empty_location_is_utc() -> None:
    assert cron.parse("@daily", location="") == cron.parse("@daily")
    assert cron.parse("@daily", location="").location == "UTC"


# --- @every


def test_every_counts_from_the_start_in_both_directions() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    schedule = cron.parse("@every 7h", start=start)
    assert _next(schedule, "2026-01-01T00:00Z", 4) == [
        "2026-01-01T07:00",
        "2026-01-01T14:00",
        "2026-01-01T21:00",
        "2026-01-02T04:00",
    ]
    assert schedule.is_tick(start)
    assert schedule.prev(start) == start - timedelta(hours=7)
    assert schedule.next(start - timedelta(seconds=1)) == start


def test_every_without_a_start_counts_from_the_epoch() -> None:
    assert _next(cron.parse("@every 36h"), "1970-01-01T00:00Z", 2) == ["1970-01-02T12:00", "1970-01-04T00:00"]


def test_a_start_without_a_zone_stands_on_the_wall_clock_of_the_location() -> None:
    schedule = cron.parse("@EVERY 24h", location="Asia/Jakarta", start=datetime(2026, 1, 1))  # noqa: DTZ001 - the point
    assert _next(schedule, "2026-01-01T00:00Z", 1) == ["2026-01-01T17:00"]


# --- the ends of time


@pytest.mark.parametrize("expression", ["@daily", "@every 24h", "0 0 29 2 *"])
def test_a_time_at_the_ends_of_the_calendar_is_refused(expression: str) -> None:
    schedule = cron.parse(expression, location="Asia/Jakarta")
    with pytest.raises(ValueError, match="years 2 to 9998"):
        schedule.next(datetime.max.replace(tzinfo=UTC))
    with pytest.raises(ValueError, match="years 2 to 9998"):
        schedule.prev(datetime.min.replace(tzinfo=UTC))


def test_a_tick_past_the_ends_of_the_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        cron.parse("@every 2000000h", start=datetime(9900, 1, 1, tzinfo=UTC)).next(datetime(9998, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="years 2 to 9998"):
        cron.parse("0 0 29 2 *", location="Asia/Jakarta").next(datetime(9998, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="years 2 to 9998"):
        cron.parse("0 0 29 2 *", location="Asia/Jakarta").prev(datetime(3, 1, 1, tzinfo=UTC))


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no zone: expected an aware datetime"):
        cron.parse("@daily").next(datetime(2026, 1, 1))  # noqa: DTZ001 - the point


# --- what holds for every schedule in every zone


@_NO_DEADLINE
@given(_EXPRESSIONS, st.sampled_from(_ZONES), _TIMES)
@example("30 2 * * *", "America/New_York", datetime(2026, 3, 8, 7, 10, tzinfo=UTC))
@example("0 * * * *", "Australia/Lord_Howe", datetime(2026, 4, 4, 15, 15, tzinfo=UTC))
@example("0 0 30 12 *", "Pacific/Apia", datetime(2011, 12, 30, 10, 0, tzinfo=UTC))
def test_next_and_prev_look_at_one_set_of_ticks_from_both_sides(expression: str, zone: str, at: datetime) -> None:
    schedule = cron.parse(expression, location=zone)
    before, after = schedule.prev(at), schedule.next(at)
    assert before < at < after
    assert before.tzinfo is UTC
    assert after.tzinfo is UTC
    assert schedule.is_tick(before)
    assert schedule.is_tick(after)
    assert schedule.next(schedule.prev(after)) == after
    assert schedule.prev(schedule.next(before)) == before
    assert schedule.next(before) == (at if schedule.is_tick(at) else after)
    assert schedule.prev(after) == (at if schedule.is_tick(at) else before)


@_NO_DEADLINE
@given(_EXPRESSIONS, st.sampled_from(_ZONES), _TIMES, st.timedeltas(timedelta(0), timedelta(days=2)))
def test_a_later_question_never_has_an_earlier_answer(
    expression: str, zone: str, at: datetime, later: timedelta
) -> None:
    schedule = cron.parse(expression, location=zone)
    assert schedule.next(at) <= schedule.next(at + later)
    assert schedule.prev(at) <= schedule.prev(at + later)


@_NO_DEADLINE
@given(_EXPRESSIONS, st.sampled_from(_ZONES), _TIMES)
def test_ticks_strictly_increase_and_are_there_again_backwards(expression: str, zone: str, at: datetime) -> None:
    schedule = cron.parse(expression, location=zone)
    found = cron.ticks(schedule, at, 12)
    assert all(one < two for one, two in pairwise(found))
    back, cursor = [], found[-1] + timedelta(microseconds=1)
    for _ in found:
        cursor = schedule.prev(cursor)
        back.append(cursor)
    assert back[::-1] == found


@_NO_DEADLINE
@given(st.integers(1, 10**7), _TIMES, _TIMES)
def test_every_ticks_at_whole_periods_from_its_start(seconds: int, start: datetime, at: datetime) -> None:
    schedule = cron.parse(f"@every {seconds}s", start=start)
    period = timedelta(seconds=seconds)
    before, after = schedule.prev(at), schedule.next(at)
    assert before < at < after
    assert after - before in {period, 2 * period}
    assert (after - start) % period == timedelta(0)


@_NO_DEADLINE
@given(st.text(max_size=40) | st.text(alphabet="0123456789*/-,#LW?@ MONJAevry", max_size=30))
def test_any_text_gives_a_schedule_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        schedule = cron.parse(text)
        assert schedule.next(datetime(2026, 1, 1, tzinfo=UTC)) > datetime(2026, 1, 1, tzinfo=UTC)

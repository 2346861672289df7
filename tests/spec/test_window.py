"""Windows: Optimus' own cases, its rules one by one, and what must hold for any job."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.spec import cron, window
from agent.spec.compile import rfc3339
from agent.spec.window import Interval

_VECTORS = Path(__file__).parents[1] / "vectors"
_ZONES = [
    "UTC",
    "Asia/Kolkata",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Beirut",
    "America/Havana",
    "Africa/Cairo",
]
_NO_DEADLINE = settings(deadline=None)  # a slow machine is no failure
_TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds it


def _load(name: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((_VECTORS / name).read_text())
    return vectors


def _of(version: int, at: str, **texts: str) -> tuple[str, str]:
    """Give the window of a time as two texts in UTC."""
    keys = {"size": "", "offset": "", "shift_by": "", "truncate_to": "", "location": "", **texts}
    found = window.parse(version, **keys).interval(datetime.fromisoformat(at))
    return rfc3339(found.start), rfc3339(found.end)


def _expected(vector: dict[str, Any]) -> Interval:
    return Interval(datetime.fromisoformat(vector["start"]), datetime.fromisoformat(vector["end"]))


@pytest.mark.parametrize("vector", _load("window_vectors_v1_v2.json"), ids=lambda v: f"v{v['version']} {v['size']}")
def test_versions_1_and_2_give_what_optimus_gives(vector: dict[str, Any]) -> None:
    made = window.parse(
        vector["version"],
        size=vector["size"],
        offset=vector["offset"],
        shift_by="",
        truncate_to=vector["truncate_to"],
        location="",
    )
    assert made.interval(datetime.fromisoformat(vector["schedule_time"])) == _expected(vector)


@pytest.mark.parametrize("vector", _load("window_vectors_v3.json"), ids=lambda v: v["name"])
def test_version_3_gives_what_optimus_gives(vector: dict[str, Any]) -> None:
    made = window.parse(
        3,
        size=vector["size"],
        offset="",
        shift_by=vector["shift_by"],
        truncate_to=vector["truncate_to"],
        location=vector["location"],
    )
    assert made.interval(datetime.fromisoformat(vector["reference"])) == _expected(vector)


@pytest.mark.parametrize("vector", _load("window_vectors_incremental.json"), ids=lambda v: v["name"])
def test_a_job_without_a_window_gets_what_lies_between_its_ticks(vector: dict[str, Any]) -> None:
    schedule = cron.parse(vector["schedule"])
    assert window.incremental(schedule, datetime.fromisoformat(vector["reference"])) == _expected(vector)


# --- version 1


def test_version_1_has_a_size_of_a_day_and_no_offset_where_nothing_is_said() -> None:
    assert _of(1, "2020-07-10T06:33:22Z") == ("2020-07-09T06:33:22Z", "2020-07-10T06:33:22Z")
    assert _of(1, "2020-07-10T06:33:22Z", truncate_to="h") == ("2020-07-09T06:00:00Z", "2020-07-10T06:00:00Z")


@pytest.mark.parametrize(
    ("at", "end"),
    [
        ("2020-07-10T06:33:22Z", "2020-07-12T00:00:00Z"),
        ("2020-07-11T23:59:59Z", "2020-07-12T00:00:00Z"),
        ("2020-07-12T00:00:00Z", "2020-07-19T00:00:00Z"),  # a Sunday moves a whole week
        ("2020-07-13T00:00:00Z", "2020-07-19T00:00:00Z"),
    ],
)
def test_version_1_moves_the_end_of_a_week_forward_to_sunday(at: str, end: str) -> None:
    assert _of(1, at, size="168h", truncate_to="w")[1] == end


@pytest.mark.parametrize(
    ("size", "offset", "start", "end"),
    [
        ("720h", "-720h", "2021-02-01", "2021-02-28"),
        ("1440h", "0", "2021-02-01", "2021-03-31"),
        ("2M", "1M", "2021-03-01", "2021-04-30"),
        ("24h", "719h", "2021-03-01", "2021-03-31"),
        ("24h", "-719h", "2021-03-01", "2021-03-31"),
        ("", "-721h", "2021-02-01", "2021-02-28"),
        ("1M24h", "-1M24h", "2021-03-01", "2021-03-31"),  # the minus is the month's alone: -29 days
    ],
)
def test_version_1_gives_whole_months_to_their_last_day(size: str, offset: str, start: str, end: str) -> None:
    found = _of(1, "2021-03-31T06:33:22Z", size=size, offset=offset, truncate_to="M")
    assert found == (f"{start}T00:00:00Z", f"{end}T00:00:00Z")


def test_a_month_of_version_1_is_30_days_wherever_it_stands_in_the_text() -> None:
    expected = ("2021-02-28T00:00:00Z", "2021-03-31T00:00:00Z")
    assert _of(1, "2021-03-31T00:00:00Z", size="1M24h") == expected
    assert _of(1, "2021-03-31T00:00:00Z", size="24h 1M") == expected


# --- version 2


def test_version_2_without_a_size_has_no_length() -> None:
    assert _of(2, "2022-07-05T02:10:10Z", truncate_to="d") == ("2022-07-05T00:00:00Z", "2022-07-05T00:00:00Z")


@pytest.mark.parametrize(
    ("at", "end"),
    [
        ("2022-07-05T02:10:10Z", "2022-07-04T00:00:00Z"),
        ("2022-07-04T00:00:00Z", "2022-07-04T00:00:00Z"),
        ("2022-07-03T23:59:59Z", "2022-06-27T00:00:00Z"),
    ],
)
def test_version_2_truncates_a_week_down_to_monday(at: str, end: str) -> None:
    assert _of(2, at, size="24h", truncate_to="w")[1] == end


def test_version_2_counts_in_utc_whatever_the_zone_of_the_time() -> None:
    assert _of(2, "2022-07-01T02:00:00+05:30", size="1M", truncate_to="M") == (
        "2022-05-01T00:00:00Z",
        "2022-06-01T00:00:00Z",
    )


@pytest.mark.parametrize(
    ("at", "size", "offset", "expected"),
    [
        ("2022-03-31T00:00:00Z", "1M", "", ("2022-03-03T00:00:00Z", "2022-03-31T00:00:00Z")),
        ("2022-01-31T00:00:00Z", "24h", "1M", ("2022-03-02T00:00:00Z", "2022-03-03T00:00:00Z")),
        ("2022-07-31T00:00:00Z", "0", "1M24h", ("2022-09-01T00:00:00Z", "2022-09-01T00:00:00Z")),
        ("2022-07-05T00:00:00Z", "2M-24h", "", ("2022-05-06T00:00:00Z", "2022-07-05T00:00:00Z")),
        ("2022-07-05T00:00:00Z", "24h", "-12M", ("2021-07-04T00:00:00Z", "2021-07-05T00:00:00Z")),
    ],
)
def test_version_2_moves_by_hours_first_and_runs_over_the_end_of_a_short_month(
    at: str, size: str, offset: str, expected: tuple[str, str]
) -> None:
    assert _of(2, at, size=size, offset=offset) == expected


# --- version 3


@pytest.mark.parametrize(
    ("texts", "start", "end"),
    [
        ({"size": "1y"}, "2022-01-01T00:00:00Z", "2023-01-01T00:00:00Z"),
        ({"size": "1y", "truncate_to": "M"}, "2022-11-01T00:00:00Z", "2023-11-01T00:00:00Z"),
        ({"size": "2h", "truncate_to": "None"}, "2023-11-10T08:20:50Z", "2023-11-10T10:20:50Z"),
        ({"size": "3d", "shift_by": "-2h"}, "2023-11-06T22:00:00Z", "2023-11-09T22:00:00Z"),
        ({"size": "3M", "shift_by": "-3d"}, "2023-07-29T00:00:00Z", "2023-10-29T00:00:00Z"),
        ({"size": "27d", "shift_by": "-3d", "truncate_to": "M"}, "2023-10-02T00:00:00Z", "2023-10-29T00:00:00Z"),
        ({"size": "1w", "shift_by": "1y"}, "2024-10-30T00:00:00Z", "2024-11-06T00:00:00Z"),
        ({"size": "1M", "shift_by": "-1w"}, "2023-09-24T00:00:00Z", "2023-10-25T00:00:00Z"),
        ({}, "2023-11-10T10:20:50Z", "2023-11-10T10:20:50Z"),
        ({"truncate_to": "d"}, "2023-11-10T00:00:00Z", "2023-11-10T00:00:00Z"),
        ({"size": "None", "shift_by": "None"}, "2023-11-10T10:20:50Z", "2023-11-10T10:20:50Z"),
        ({"size": "1d", "location": "Asia/Kolkata"}, "2023-11-08T18:30:00Z", "2023-11-09T18:30:00Z"),
        ({"size": "2h", "location": "Asia/Kolkata"}, "2023-11-10T07:30:00Z", "2023-11-10T09:30:00Z"),
        ({"size": "1w", "location": "Asia/Kolkata"}, "2023-10-29T18:30:00Z", "2023-11-05T18:30:00Z"),
        ({"size": "1y", "location": "Asia/Kolkata"}, "2021-12-31T18:30:00Z", "2022-12-31T18:30:00Z"),
    ],
)
def test_version_3_aligns_in_its_location_takes_the_size_and_shifts_both_ends(
    texts: dict[str, str], start: str, end: str
) -> None:
    assert _of(3, "2023-11-10T15:50:50+05:30", **texts) == (start, end)


def test_version_3_shifts_each_end_by_the_calendar() -> None:
    found = _of(3, "2024-04-30T00:00:00Z", size="30d", shift_by="-2M")
    assert found == ("2024-01-31T00:00:00Z", "2024-03-01T00:00:00Z")  # 30 April - 2M = "30 February" = 1 March


@pytest.mark.parametrize(
    ("at", "texts", "expected"),
    [
        # New York has a day of 23 hours on 8 March and one of 25 hours on 1 November.
        ("2026-03-09T12:00:00Z", {"size": "1d"}, ("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z")),
        ("2026-11-02T12:00:00Z", {"size": "1d"}, ("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z")),
        ("2026-11-02T12:00:00Z", {"size": "24h", "truncate_to": "d"}, ("2026-11-01T05:00:00Z", "2026-11-02T05:00:00Z")),
        # 01:30 comes twice: each pass has an hour of its own.
        ("2026-11-01T05:30:00Z", {"size": "1h"}, ("2026-11-01T04:00:00Z", "2026-11-01T05:00:00Z")),
        ("2026-11-01T06:30:00Z", {"size": "1h"}, ("2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z")),
        # 02:30 does not come at all on 8 March: it moves forward to 03:30.
        (
            "2026-03-09T06:30:00Z",
            {"size": "1d", "truncate_to": "None"},
            ("2026-03-08T07:30:00Z", "2026-03-09T06:30:00Z"),
        ),
    ],
)
def test_version_3_counts_days_by_the_calendar_and_hours_by_elapsed_time_where_the_clock_changes(
    at: str, texts: dict[str, str], expected: tuple[str, str]
) -> None:
    assert _of(3, at, location="America/New_York", **texts) == expected


def test_a_day_without_a_midnight_begins_with_its_first_hour() -> None:
    # Santiago's clock goes from 23:59:59 on 5 September 2026 to 01:00 on the 6th.
    texts = {"size": "1d", "location": "America/Santiago"}
    assert _of(3, "2026-09-07T10:00:00Z", **texts) == ("2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z")
    assert _of(3, "2026-09-06T10:00:00Z", **texts) == ("2026-09-05T04:00:00Z", "2026-09-06T04:00:00Z")
    assert _of(3, "2026-09-06T10:00:00Z", shift_by="-1h", **texts)[1] == "2026-09-06T03:00:00Z"


# --- what is refused


@pytest.mark.parametrize(
    ("version", "texts", "says"),
    [
        (0, {}, "window version 0"),
        (4, {}, "window version 4"),
        (1, {"truncate_to": "y"}, 'truncate_to "y"'),
        (1, {"size": "60"}, 'size "60"'),
        (1, {"size": "2d"}, 'size "2d"'),
        (1, {"size": "-24h"}, "negative"),
        (1, {"size": "-1M"}, "negative"),
        (1, {"size": "1M1M"}, 'size "1M1M"'),
        (1, {"offset": "x"}, 'offset "x"'),
        (1, {"offset": "1" * 100 + "M"}, "offset"),
        (2, {"truncate_to": "H"}, 'truncate_to "H"'),
        (2, {"truncate_to": "m"}, 'truncate_to "m"'),
        (2, {"size": "60S"}, 'size "60S"'),
        (2, {"size": "60"}, 'size "60"'),
        (2, {"size": "2d"}, 'size "2d"'),
        (2, {"size": "-24h"}, "negative"),
        (2, {"size": "-45M24h30m"}, "negative"),
        (2, {"size": "0M-24h"}, "negative"),
        (2, {"size": "M"}, 'size "M"'),
        (2, {"size": "1M2M"}, 'size "1M2M"'),
        (2, {"offset": "24h1M"}, 'offset "24h1M"'),
        (2, {"offset": "-1M-24h"}, 'offset "-1M-24h"'),
        (2, {"shift_by": "1d"}, 'shift_by "1d"'),
        (2, {"location": "Asia/Jakarta"}, 'location "Asia/Jakarta"'),
        (3, {"size": "3g"}, 'size "3g"'),
        (3, {"size": "24h30m"}, 'size "24h30m"'),
        (3, {"size": "1.5h"}, 'size "1.5h"'),
        (3, {"size": "+1d"}, 'size "+1d"'),
        (3, {"size": "-1d"}, "negative"),
        (3, {"size": "1d", "shift_by": "2p"}, 'shift_by "2p"'),
        (3, {"size": "1d", "truncate_to": "g"}, 'truncate_to "g"'),
        (3, {"size": "1d", "offset": "1h"}, "expected shift_by"),
        (3, {"size": "1d", "location": "Unknown"}, 'location "Unknown"'),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused_with_key_text_and_what_is_expected(
    version: int, texts: dict[str, str], says: str
) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        _of(version, "2026-01-01T00:00:00Z", **texts)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("version", "texts"),
    [
        (1, {"size": "2000000h"}),
        (2, {"size": "100000M"}),
        (2, {"offset": "-100000M"}),
        (3, {"size": "99999999y"}),
        (3, {"size": "99999999d"}),
    ],
)
def test_a_window_that_leaves_the_calendar_is_refused(version: int, texts: dict[str, str]) -> None:
    at = "0100-01-01T00:00:00Z"
    with pytest.raises(ValueError, match="leaves the years 1 to 9999"):
        _of(version, at, **texts)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_time_without_a_zone_is_refused(version: int) -> None:
    with pytest.raises(ValueError, match="has no zone"):
        _of(version, "2026-01-01T00:00:00", size="24h")


# --- what holds for every window


@_NO_DEADLINE
@given(_TIMES, st.sampled_from(_ZONES), st.sampled_from(["1h", "1d", "1w", "1M", "1y"]))
def test_windows_of_version_3_touch_and_hold_the_time_just_after_the_last_one(
    at: datetime, zone: str, size: str
) -> None:
    made = window.parse(3, size=size, offset="", shift_by="", truncate_to="", location=zone)
    found = made.interval(at)
    assert found.start < found.end <= at
    assert made.interval(found.end) == found
    if size != "1h":  # hours are lengths: where the clock changes out of step with them they overlap
        assert made.interval(found.start).end == found.start


@_NO_DEADLINE
@given(
    _TIMES,
    st.sampled_from([1, 2]),
    st.sampled_from(["", "0", "1h30m", "24h", "1M", "2M12h"]),
    st.sampled_from(["", "-24h", "1M"]),
    st.sampled_from(["", "h", "d", "w", "M"]),
)
def test_no_window_ends_before_it_starts(at: datetime, version: int, size: str, offset: str, truncate_to: str) -> None:
    made = window.parse(version, size=size, offset=offset, shift_by="", truncate_to=truncate_to, location="UTC")
    found = made.interval(at)
    assert found.start <= found.end


@_NO_DEADLINE
@given(_TIMES, st.sampled_from(_ZONES), st.sampled_from(["0 0 * * *", "30 2 * * *", "0 * * * *", "0 0 L * *"]))
def test_incremental_windows_join_without_gap_or_overlap(at: datetime, zone: str, expression: str) -> None:
    schedule = cron.parse(expression, location=zone)
    found = window.incremental(schedule, at)
    assert found.start < at <= found.end
    following = window.incremental(schedule, found.end + timedelta(microseconds=1))
    assert following.start == found.end


@_NO_DEADLINE
@given(st.integers(1, 3), st.text(max_size=12), st.text(max_size=12), st.text(max_size=3))
def test_any_texts_give_a_window_or_a_value_error(version: int, size: str, move: str, truncate_to: str) -> None:
    keys = {"offset": move, "shift_by": ""} if version < 3 else {"offset": "", "shift_by": move}
    try:
        made = window.parse(version, size=size, truncate_to=truncate_to, location="", **keys)
        made.interval(datetime(2026, 1, 1, tzinfo=UTC))
    except ValueError:
        return

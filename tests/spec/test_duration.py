"""Durations are read and written as Go does it."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.spec import duration

_GO_RANGE = timedelta(microseconds=(2**63 - 1) // 1_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", timedelta(0)),
        ("+0", timedelta(0)),
        ("-0", timedelta(0)),
        ("0s", timedelta(0)),
        ("15m", timedelta(minutes=15)),
        ("1h30m", timedelta(minutes=90)),
        ("45m24h", timedelta(hours=24, minutes=45)),
        ("-24h", timedelta(hours=-24)),
        ("+5s", timedelta(seconds=5)),
        ("1.5h", timedelta(minutes=90)),
        (".5m", timedelta(seconds=30)),
        ("5.s", timedelta(seconds=5)),
        ("-1.5s", timedelta(seconds=-1, milliseconds=-500)),
        ("3us", timedelta(microseconds=3)),
        ("3\u00b5s", timedelta(microseconds=3)),
        ("3\u03bcs", timedelta(microseconds=3)),
        ("250ms", timedelta(milliseconds=250)),
        ("1999ns", timedelta(microseconds=1)),
        ("-1999ns", timedelta(microseconds=-1)),
        ("600ns600ns", timedelta(microseconds=1)),
        ("1m1m", timedelta(minutes=2)),
        ("2540400h10m10s", timedelta(hours=2540400, minutes=10, seconds=10)),
    ],
)
def test_a_go_duration_is_read(text: str, expected: timedelta) -> None:
    assert duration.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("-", "is empty"),
        ("60", "without a unit"),
        ("3.", "without a unit"),
        ("1h5", "without a unit"),
        ("1..5s", "without a unit"),
        ("2d", 'unknown unit "d"'),
        ("60S", 'unknown unit "S"'),
        ("1 h", 'unknown unit " h"'),
        ("--1h", 'unknown unit "-"'),
        ("h", 'no number before "h"'),
        (".s", 'no number before "s"'),
        ("\u0665m", 'unknown unit "\u0665m"'),
        ("1_000s", 'unknown unit "_"'),
        ("3000000h", "out of range"),
        ("9" * 200 + "s", "201 characters"),
    ],
)
def test_what_is_no_duration_is_refused_with_the_text_and_what_is_expected(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        duration.parse(text)
    assert says in str(refused.value)
    assert text[:32] in str(refused.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(microseconds=7), "7\u00b5s"),
        (timedelta(microseconds=1_100), "1.1ms"),
        (timedelta(milliseconds=200), "200ms"),
        (timedelta(seconds=2, milliseconds=200), "2.2s"),
        (timedelta(minutes=1), "1m0s"),
        (timedelta(minutes=3, seconds=30), "3m30s"),
        (timedelta(hours=1), "1h0m0s"),
        (timedelta(hours=-26, seconds=-1), "-26h0m1s"),
        (timedelta(microseconds=-5), "-5\u00b5s"),
    ],
)
def test_a_duration_is_written_as_go_writes_it(value: timedelta, text: str) -> None:
    assert duration.format(value) == text


@settings(deadline=None)  # a slow machine is no failure
@given(st.timedeltas(min_value=-_GO_RANGE, max_value=_GO_RANGE))
def test_what_is_written_is_read_back_as_the_same_duration(value: timedelta) -> None:
    assert duration.parse(duration.format(value)) == value


@settings(deadline=None)  # a slow machine is no failure
@given(st.text(max_size=40) | st.text(alphabet="0123456789.+-hmsnu\u00b5 ", max_size=40))
def test_any_text_gives_a_duration_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(duration.parse(text), timedelta)

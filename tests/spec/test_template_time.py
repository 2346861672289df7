"""Times in templates: Go's layouts, written and read (agent/spec/template/gotime.py, timeparse.py)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spec.template.errors import ValueRefused
from agent.spec.template.gotime import RFC3339, GoTime, from_datetime
from agent.spec.template.timeparse import parse_duration, parse_time

MOMENT = GoTime(1_612_951_506, 120_300_000)  # 2021-02-10 10:05:06.1203 UTC, a Wednesday


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ("2006-01-02T15:04:05Z07:00", "2021-02-10T10:05:06Z"),
        ("20060102", "20210210"),
        ("Monday, January 2 2006 at 3:4:5pm", "Wednesday, February 10 2021 at 10:5:6am"),
        ("Mon Jan _2 15:04:05 MST 2006", "Wed Feb 10 10:05:06 UTC 2021"),
        ("02/Jan/06 03PM", "10/Feb/21 10AM"),
        ("1/2/06", "2/10/21"),
        ("002 __2", "041  41"),
        ("15h04m05s", "10h05m06s"),
        (".000 .999 ,000 ,999999 .9 .0000000000", ".120 .12 ,120 ,1203 .1 .120300000"),
        (".0001 .00x .9 5.9", ".0002 .12x .1 6.1"),
        ("-0700 -07:00 -07 -070000 -07:00:00", "+0000 +00:00 +00 +000000 +00:00:00"),
        ("Z0700 Z07:00 Z07 Z070000 Z07:00:00", "Z Z Z Z Z"),
        ("Month Janet Monkey", "Month Janet Monkey"),
        ("Jan_2 _2006 2006_01", "Feb10 _2021 2021_02"),
        ("__2006", " 41021"),
        ("PMpm", "AMam"),
        ("é 2006 %Y", "é 2021 %Y"),
        ("00 07 2007", "00 07 10007"),
        ("", ""),
    ],
)
def test_a_layout_is_the_reference_time_written_another_way(layout: str, text: str) -> None:
    assert MOMENT.format(layout) == text


def test_hours_around_noon_and_midnight() -> None:
    shown = [GoTime(hour * 3600).format("3PM 03pm 15") for hour in (0, 1, 11, 12, 13, 23)]
    assert shown == ["12AM 12am 00", "1AM 01am 01", "11AM 11am 11", "12PM 12pm 12", "1PM 01pm 13", "11PM 11pm 23"]


@pytest.mark.parametrize(
    ("offset", "zone", "text"),
    [
        (19_800, "", "2021-02-10 15:35 +0530 +05:30 +05 +05:30 +0530"),
        (-12_600, "NST", "2021-02-10 06:35 -0330 -03:30 -03 -03:30 NST"),
    ],
)
def test_a_time_is_shown_in_its_zone(offset: int, zone: str, text: str) -> None:
    moment = GoTime(MOMENT.seconds, 0, offset, zone)
    assert moment.format("2006-01-02 15:04 -0700 -07:00 -07 Z07:00 MST") == text


def test_offsets_may_have_seconds() -> None:
    east, west = GoTime(0, 0, 3_661, ""), GoTime(0, 0, -3_661, "")
    assert east.format("-07:00:00 Z070000") == "+01:01:01 +010101"
    assert west.format("-07:00:00 Z070000") == "-01:01:01 -010101"


def test_a_time_prints_with_the_nanoseconds_it_has() -> None:
    assert str(GoTime(1_612_951_506)) == "2021-02-10 10:05:06 +0000 UTC"
    assert str(MOMENT) == "2021-02-10 10:05:06.1203 +0000 UTC"


def test_years_have_no_end() -> None:
    assert GoTime(-62_135_596_800).format("2006 06") == "0001 01"
    assert GoTime(-62_167_219_201).format("2006-01-02 06") == "-0001-12-31 01"
    assert GoTime(253_402_300_800).format("2006-01-02 06") == "10000-01-01 00"


@given(st.datetimes(), st.integers(-86_399, 86_399))
def test_the_calendar_agrees_with_pythons(moment: datetime, offset: int) -> None:
    moment = min(max(moment, datetime(2, 1, 1)), datetime(9998, 1, 1))  # noqa: DTZ001  # room for the offset
    zoned = moment.replace(tzinfo=timezone(timedelta(seconds=offset)))
    ours = from_datetime(zoned)
    shown = ours.format("2006-01-02 15:04:05.000000 002 Monday")
    assert shown == f"{zoned.year:04}{zoned:-%m-%d %H:%M:%S.%f %j %A}"
    assert ours.utc() == from_datetime(zoned.astimezone(UTC))


LAYOUTS = (
    "2006-01-02T15:04:05.999999999Z07:00",
    "Mon, 02 Jan 2006 15:04:05.000000000 -0700",
    "06-1-2 3:04:05.000000000PM",
)


@given(st.integers(0, 4_000_000_000), st.integers(0, 999_999_999), st.sampled_from(LAYOUTS))
def test_what_is_written_reads_back(seconds: int, nanos: int, layout: str) -> None:
    moment = GoTime(seconds, nanos)
    text = moment.format(layout)
    again = parse_time(layout, text)
    assert again.format(layout) == text
    if "2006" in layout:
        assert again == moment


@pytest.mark.parametrize(
    ("layout", "text", "shown"),
    [
        ("2006-01-02", "2021-02-10", "2021-02-10 00:00:00 +0000 UTC"),
        (RFC3339, "2021-02-10T10:00:00.123456789123Z", "2021-02-10 10:00:00.123456789 +0000 UTC"),
        (RFC3339, "2021-02-10T10:00:00,5Z", "2021-02-10 10:00:00.5 +0000 UTC"),
        (RFC3339, "2021-02-10T1:00:00+00:00", "2021-02-10 01:00:00 +0000 UTC"),
        (RFC3339, "2021-02-10T10:00:00-05:30", "2021-02-10 10:00:00 -0530 -0530"),
        ("2006-01-02 -07", "2021-02-10 +02", "2021-02-10 00:00:00 +0200 +0200"),
        ("2006-01-02 -0700 MST", "2021-02-10 +0200 CEST", "2021-02-10 00:00:00 +0200 CEST"),
        ("2006-01-02 -0700 MST", "2021-02-10 +0000 GMT", "2021-02-10 00:00:00 +0000 GMT"),
        ("2006-01-02 -07:00:00", "2021-02-10 +02:00:01", "2021-02-10 00:00:00 +0200 +0200"),
        ("2006-01-02 Z070000", "2021-02-10 -020001", "2021-02-10 00:00:00 -0200 -0200"),
        ("2006-01-02 MST", "2021-02-10 UTC", "2021-02-10 00:00:00 +0000 UTC"),
        ("2006-01-02 MST", "2021-02-10 PST", "2021-02-10 00:00:00 +0000 PST"),
        ("2006-01-02 MST", "2021-02-10 CEST", "2021-02-10 00:00:00 +0000 CEST"),
        ("2006-01-02 MST", "2021-02-10 WITA", "2021-02-10 00:00:00 +0000 WITA"),
        ("2006-01-02 MST", "2021-02-10 ABCDT", "2021-02-10 00:00:00 +0000 ABCDT"),
        ("2006-01-02 MST", "2021-02-10 ChST", "2021-02-10 00:00:00 +0000 ChST"),
        ("2006-01-02 MST", "2021-02-10 GMT+3", "2021-02-10 03:00:00 +0300 GMT+3"),
        ("2006-01-02 MST", "2021-02-10 GMT", "2021-02-10 00:00:00 +0000 GMT"),
        ("2006-01-02 MST", "2021-02-10 GMT-00000000000000000005", "2021-02-09 19:00:00 -0500 GMT-00000000000000000005"),
        ("2006-01-02 MST", "2021-02-10 +03", "2021-02-10 00:00:00 +0000 +03"),
        ("Jan 2, 2006", "feb 3, 2021", "2021-02-03 00:00:00 +0000 UTC"),
        ("Monday January 2 2006", "tuesday FEBRUARY 3 2021", "2021-02-03 00:00:00 +0000 UTC"),
        ("Mon Jan _2 2006", "Wed Feb  3 2021", "2021-02-03 00:00:00 +0000 UTC"),
        ("1/_2/06", "2/3/69", "1969-02-03 00:00:00 +0000 UTC"),
        ("1/2/06", "12/31/68", "2068-12-31 00:00:00 +0000 UTC"),
        ("06", "+5", "2005-01-01 00:00:00 +0000 UTC"),
        ("2006 002", "2021 041", "2021-02-10 00:00:00 +0000 UTC"),
        ("2006 __2", "2020  60", "2020-02-29 00:00:00 +0000 UTC"),
        ("2006 002", "2020 366", "2020-12-31 00:00:00 +0000 UTC"),
        ("2006-01-02 002", "2021-02-10 041", "2021-02-10 00:00:00 +0000 UTC"),
        ("3:04PM", "3:05PM", "0000-01-01 15:05:00 +0000 UTC"),
        ("3:04pm", "12:05am", "0000-01-01 00:05:00 +0000 UTC"),
        ("03:04 PM", "12:05 PM", "0000-01-01 12:05:00 +0000 UTC"),
        ("15:04:05.000", "10:00:00.123", "0000-01-01 10:00:00.123 +0000 UTC"),
        ("15:04:05.0000000000000", "10:00:00.1234567891234", "0000-01-01 10:00:00.123456789 +0000 UTC"),
        ("15:04:05.999", "10:00:00", "0000-01-01 10:00:00 +0000 UTC"),
        ("15:04:05.999", "10:00:00.123456", "0000-01-01 10:00:00.123456 +0000 UTC"),
        ("5 4", "7.5 8", "0000-01-01 00:08:07.5 +0000 UTC"),
        ("2006  01", "2021 02", "2021-02-01 00:00:00 +0000 UTC"),
        ("2006 01 ", "2021    02", "2021-02-01 00:00:00 +0000 UTC"),
        ("", "", "0000-01-01 00:00:00 +0000 UTC"),
    ],
)  # fmt: skip
def test_reading_a_time(layout: str, text: str, shown: str) -> None:
    assert str(parse_time(layout, text)) == shown


@pytest.mark.parametrize(
    ("layout", "text", "why"),
    [
        ("2006-01-02", "notadate", 'parsing time "notadate" as "2006-01-02": cannot parse "notadate" as "2006"'),
        ("2006-01-02", "2021/02/10", 'cannot parse "/02/10" as "-"'),
        ("2006-01-02", "2021-02-30", ": day out of range"),
        ("2006-01-02", "2021-02-00", ": day out of range"),
        ("2006-01-02", "2021-13-01", ": month out of range"),
        ("2006-01-02", "2021-00-01", ": month out of range"),
        ("2006-01-02", "2021-1-01", 'cannot parse "1-01" as "01"'),
        ("2006-01-02", "2021-02-1", 'cannot parse "1" as "02"'),
        ("2006-01-02", "202", 'cannot parse "202" as "2006"'),
        ("2006-01-02", "20a1-01-01", 'cannot parse "20a1-01-01" as "2006"'),
        ("2006-01-02", "2021-02-10x", ': extra text: "x"'),
        ("2006", "é\n", 'parsing time "\\xc3\\xa9\\x0a" as "2006": cannot parse "\\xc3\\xa9\\x0a" as "2006"'),
        ("06", "x1", 'cannot parse "x1" as "06"'),
        ("06", "1", 'cannot parse "1" as "06"'),
        ("Jan", "Foo", 'cannot parse "Foo" as "Jan"'),
        ("Monday", "Tue", 'cannot parse "Tue" as "Monday"'),
        ("15:04", "24:00", ": hour out of range"),
        ("3:04", "13:00", ": hour out of range"),
        ("15:04", "23:60", ": minute out of range"),
        ("15:04:05", "23:00:60", ": second out of range"),
        ("15:04", "x", 'cannot parse "x" as "15"'),
        ("3PM", "3pm", 'cannot parse "pm" as "PM"'),
        ("3pm", "3p", 'cannot parse "p" as "pm"'),
        ("2006 002", "2021 366", ": day-of-year out of range"),
        ("2006 002", "2021 000", ": day-of-year out of range"),
        ("2006 002", "2021 41", 'cannot parse "41" as "002"'),
        ("2006-01 002", "2021-03 041", ": day-of-year does not match month"),
        ("2006-01-02 002", "2021-02-11 041", ": day-of-year does not match day"),
        ("2006 -07:00", "2021 +0200", 'cannot parse "+0200" as "-07:00"'),
        ("2006 -07:00", "2021 +02.00", 'cannot parse "+02.00" as "-07:00"'),
        ("2006 -0700", "2021 +ab00", 'cannot parse "+ab00" as "-0700"'),
        ("2006 -0700", "2021 x0200", 'cannot parse "x0200" as "-0700"'),
        ("2006 -0700", "2021 +2500", ": time zone offset hour out of range"),
        ("2006 -0700", "2021 +0061", ": time zone offset minute out of range"),
        ("2006 -070000", "2021 +000061", ": time zone offset second out of range"),
        ("2006 MST", "2021 XY", 'cannot parse "XY" as "MST"'),
        ("2006 MST", "2021 abc", 'cannot parse "abc" as "MST"'),
        ("2006 MST", "2021 ABCD", 'cannot parse "ABCD" as "MST"'),
        ("2006 MST", "2021 ABCDE", 'cannot parse "ABCDE" as "MST"'),
        ("2006 MST", "2021 ABCDEF", 'cannot parse "ABCDEF" as "MST"'),
        ("2006 MST", "2021 +24", 'cannot parse "+24" as "MST"'),
        ("05.000", "01.12", 'cannot parse ".12" as ".000"'),
        ("05.000", "01x123", 'cannot parse "x123" as ".000"'),
        ("05.000", "01.1x3", 'cannot parse ".1x3" as ".000"'),
        ("05.000", "01.-12", ": fractional second out of range"),
        ("2006 01", "2021x01", 'cannot parse "x01" as " "'),
    ],
)  # fmt: skip
def test_a_text_that_does_not_fit_its_layout_is_refused_with_gos_words(layout: str, text: str, why: str) -> None:
    with pytest.raises(ValueRefused) as caught:
        parse_time(layout, text)
    assert caught.value.message.endswith(why)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("1ns", 1),
        ("1us", 1_000),
        ("1µs", 1_000),
        ("1\u03bcs", 1_000),
        ("1.5ms", 1_500_000),
        ("-24h", -86_400_000_000_000),
        ("+2h45m", 9_900_000_000_000),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("1.000000000000000000000001s", 1_000_000_000),
        ("9223372036854775807ns", (1 << 63) - 1),
        ("-9223372036854775808ns", -(1 << 63)),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "-", "1", "h", ".s", "1x", "1d", "1h ", "9223372036854775808ns", "9" * 50 + "h", "1.h2"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueRefused, match="time: "):
        parse_duration(text)


def test_time_is_added_across_seconds_and_kept_in_its_zone() -> None:
    assert GoTime(1, 900_000_000).add(200_000_000) == GoTime(2, 100_000_000)
    assert GoTime(1, 0, 60, "X").add(-1) == GoTime(0, 999_999_999, 60, "X")

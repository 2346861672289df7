"""The methods of a time that templates may call: `(toDate "2006-01-02" .x).AddDate 0 -1 0`.

Source: https://pkg.go.dev/time (Time). No other value of a template has methods.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.spec.template.functions import Function, Type
from agent.spec.template.gotime import ZERO, GoTime
from agent.spec.template.values import Int64, Month, Weekday


def _add_date(moment: GoTime, years: int, months: int, days: int) -> GoTime:
    now = moment.civil()
    return moment.with_date(now.month + 12 * years + months, now.day + days)


def _instant(moment: GoTime) -> tuple[int, int]:
    return moment.seconds, moment.nanos


METHODS: Mapping[str, Function] = {
    "AddDate": Function(_add_date, (Type.INT, Type.INT, Type.INT)),
    "After": Function(lambda moment, other: _instant(moment) > _instant(other), (Type.TIME,)),
    "Before": Function(lambda moment, other: _instant(moment) < _instant(other), (Type.TIME,)),
    "Equal": Function(lambda moment, other: _instant(moment) == _instant(other), (Type.TIME,)),
    "Format": Function(lambda moment, layout: moment.format(layout), (Type.STRING,)),
    "IsZero": Function(lambda moment: _instant(moment) == _instant(ZERO)),
    "String": Function(str),
    "UTC": Function(lambda moment: moment.utc()),
    "Unix": Function(lambda moment: Int64(moment.seconds)),
    "Year": Function(lambda moment: moment.civil().year),
    "Month": Function(lambda moment: Month(moment.civil().month)),
    "Day": Function(lambda moment: moment.civil().day),
    "Weekday": Function(lambda moment: Weekday(moment.civil().weekday)),
    "YearDay": Function(lambda moment: moment.civil().yearday),
    "Hour": Function(lambda moment: moment.civil().hour),
    "Minute": Function(lambda moment: moment.civil().minute),
    "Second": Function(lambda moment: moment.civil().second),
    "Nanosecond": Function(lambda moment: moment.nanos),
}

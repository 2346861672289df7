"""Durations as Go writes them: `15m`, `1h30m`, `1.5s`, `-24h`, `0`.

Job specs carry them for retries, time-outs, windows and `@every`. The syntax is the one of Go's `time.ParseDuration`
and the output the one of `Duration.String` (https://pkg.go.dev/time#ParseDuration).
"""

from __future__ import annotations

import re
from datetime import timedelta

_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "\N{MICRO SIGN}s": 1_000,
    "\N{GREEK SMALL LETTER MU}s": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_NS_MAX = 2**63 - 1  # Go counts in a signed 64-bit integer of nanoseconds: a little over 292 years
_TEXT_MAX = 128  # characters; nothing sensible is longer, and int() is quadratic in its digits
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")
_EXPECTED = 'a number with a unit (ns, us, ms, s, m, h), such as "15m", "1h30m" or "0"'


def parse(text: str) -> timedelta:
    """Read a duration in Go's syntax.

    Args:
        text: an optional sign, then numbers each followed by their unit (ns, us, ms, s, m, h); `0` needs no unit.

    Returns:
        The duration. What is finer than a microsecond is cut off towards zero.

    Raises:
        ValueError: not a duration, or one of more than 292 years; the message names the text and what is expected.
    """
    if len(text) > _TEXT_MAX:
        raise ValueError(f'duration "{text[:32]}..." has {len(text)} characters: expected {_EXPECTED}')
    negative = text.startswith("-")
    body = text[1:] if text[:1] in {"-", "+"} else text
    total_ns = 0 if body == "0" else _sum_ns(text, body)
    if total_ns > _NS_MAX:
        raise ValueError(f'duration "{text}" is out of range: expected less than 292 years')
    span = timedelta(microseconds=total_ns // 1_000)
    return -span if negative else span


def _sum_ns(text: str, body: str) -> int:
    """Add up the numbers of an unsigned duration, in nanoseconds; `text` is what the error shows."""
    if not body:
        raise ValueError(f'duration "{text}" is empty: expected {_EXPECTED}')
    total_ns, position = 0, 0
    while position < len(body):
        part = _PART.match(body, position)
        if part is None:
            raise ValueError(f'duration "{text}" has a number without a unit: expected {_EXPECTED}')
        whole, fraction, unit = part[1], part[2] or "", part[3]
        if unit not in _UNIT_NS or not (whole or fraction):
            fault = f'unknown unit "{unit}"' if unit not in _UNIT_NS else f'no number before "{unit}"'
            raise ValueError(f'duration "{text}" has {fault}: expected {_EXPECTED}')
        digits = int(whole + fraction)
        total_ns += digits * _UNIT_NS[unit] // 10 ** len(fraction)
        position = part.end()
    return total_ns


def format(td: timedelta) -> str:  # noqa: A001 - read as `duration.format(td)`, the counterpart of `duration.parse`
    """Write a duration as Go's `Duration.String` does: `1h30m0s`, `1.5s`, `250ms`, `0s`.

    Args:
        td: any duration.

    Returns:
        Text that `parse` reads back as the same duration, as long as it is within Go's 292 years.
    """
    micros = td // timedelta(microseconds=1)
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    if micros == 0:
        return "0s"
    if micros < 1_000:
        return f"{sign}{micros}\N{MICRO SIGN}s"
    if micros < 1_000_000:
        return f"{sign}{_decimal(micros, 3)}ms"
    minutes, micros = divmod(micros, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_decimal(micros, 6)}s"


def _decimal(value: int, places: int) -> str:
    """Write `value` / 10^`places` with no zeros at its end."""
    whole, rest = divmod(value, 10**places)
    return f"{whole}.{rest:0{places}d}".rstrip("0") if rest else str(whole)

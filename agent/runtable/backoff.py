"""How long a failed attempt waits for its next try."""

from __future__ import annotations

import hashlib
import math

_DELAY_S_MAX = 86_400  # a day: past it a growing delay is capped, whatever the count of tries


def retry_delay_ms(
    *,
    delay_s: float,
    exponential: bool,
    max_delay_s: float | None,
    dag: str,
    task: str,
    logical: str,
    try_number: int,
    multiplier: float = 2.0,
) -> int:
    """Compute the wait before the next try, as Airflow does (`TaskInstance.next_retry_datetime`).

    The delay grows with each try, and its jitter comes from the names, not from chance: the same attempt waits equally
    long on every agent and at every replay of the log, while tasks that failed together come back apart.

    Args:
        delay_s: the delay the job asks for, in seconds, >= 0.
        exponential: whether it grows at all.
        max_delay_s: bound on a delay that grows, in seconds; None or 0: none but a day.
        dag, task, logical: job, instance and the time the run stands for, the last as Airflow prints it
            (`2026-01-01 02:00:00+00:00`); they only spread the jitter.
        try_number: the try that has failed, from 1.
        multiplier: growth from one try to the next; 0 and 1 mean a constant delay.

    Returns:
        The wait in milliseconds: `delay_s` itself where constant, else whole seconds from b up to 2b - 1, where
        b = ceil(delay_s * multiplier^(try_number - 1)) and at least 1.

    Raises:
        ValueError: an argument is out of its range.
    """
    if try_number < 1:
        raise ValueError(f"try number {try_number}: tries count from 1")
    if not (0 <= delay_s < math.inf and 0 <= multiplier < math.inf):
        raise ValueError(f"delay {delay_s} s, multiplier {multiplier}: expected finite numbers from 0 on")
    if max_delay_s is not None and not max_delay_s >= 0:
        raise ValueError(f"longest delay {max_delay_s} s: expected a number from 0 on, or None")
    if not exponential or multiplier in {0, 1}:
        return round(delay_s * 1_000)
    base_s = max(1, math.ceil(_grown_s(delay_s, multiplier, try_number)))
    seed = f"{dag}#{task}#{logical}#{try_number}".encode()
    jitter = int.from_bytes(hashlib.sha1(seed, usedforsecurity=False).digest(), "big")
    wait_s: float = min(base_s + jitter % base_s, _DELAY_S_MAX)
    if max_delay_s:
        wait_s = min(wait_s, max_delay_s)
    return round(wait_s * 1_000)


def _grown_s(delay_s: float, multiplier: float, try_number: int) -> float:
    """Grow the delay; past any use it is a day, since floating point ends at some hundred tries."""
    try:
        return min(delay_s * float(multiplier) ** (try_number - 1), _DELAY_S_MAX)
    except OverflowError:
        return _DELAY_S_MAX if delay_s else 0

"""The wait before a retry: Airflow's numbers, the same on every agent."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.runtable.backoff import retry_delay_ms

_VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "backoff.json").read_text())
_DAY_MS = 86_400_000
_NAMES: dict[str, Any] = {"dag": "d", "task": "t", "logical": "2026-01-01 02:00:00+00:00"}


@pytest.mark.parametrize("vector", _VECTORS, ids=lambda v: f"{v['retry_delay']}s")
def test_the_waits_are_the_ones_measured_on_airflow(vector: dict[str, Any]) -> None:
    waits = [
        retry_delay_ms(
            delay_s=vector["retry_delay"],
            exponential=True,
            multiplier=vector["multiplier"],
            max_delay_s=vector["max_retry_delay"],
            dag=vector["dag"],
            task=vector["task"],
            logical=vector["logical"],
            try_number=number,
        )
        for number in range(1, 9)
    ]
    assert waits == [1_000 * wait for wait in vector["delays_try1_to_8"]]


@pytest.mark.parametrize(("exponential", "multiplier"), [(False, 2.0), (True, 0.0), (True, 1.0)])
def test_a_delay_that_does_not_grow_is_waited_as_it_is(exponential: bool, multiplier: float) -> None:
    for number in (1, 2, 5_000):
        wait = retry_delay_ms(
            delay_s=0.25, exponential=exponential, max_delay_s=None, try_number=number, multiplier=multiplier, **_NAMES
        )
        assert wait == 250


@pytest.mark.parametrize("number", [60, 1_024, 1_100, 10**9])
def test_a_huge_number_of_tries_waits_a_day_and_does_not_overflow(number: int) -> None:
    assert retry_delay_ms(delay_s=300, exponential=True, max_delay_s=None, try_number=number, **_NAMES) == _DAY_MS
    assert retry_delay_ms(delay_s=300, exponential=True, max_delay_s=60.5, try_number=number, **_NAMES) == 60_500
    assert retry_delay_ms(delay_s=0, exponential=True, max_delay_s=0, try_number=number, **_NAMES) == 1_000


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"try_number": 0}, "count from 1"),
        ({"delay_s": -1}, "from 0 on"),
        ({"delay_s": math.inf}, "from 0 on"),
        ({"delay_s": math.nan}, "from 0 on"),
        ({"multiplier": -2.0}, "from 0 on"),
        ({"max_delay_s": -1}, "or None"),
        ({"max_delay_s": math.nan}, "or None"),
    ],
)
def test_an_argument_out_of_range_is_refused(bad: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"delay_s": 1, "exponential": True, "max_delay_s": None, "try_number": 1, **_NAMES}
    with pytest.raises(ValueError, match=says):
        retry_delay_ms(**{**arguments, **bad})


@settings(deadline=None)  # a slow machine is no failure
@given(
    delay_s=st.floats(0, 1e9),
    multiplier=st.floats(0, 1e3),
    max_delay_s=st.none() | st.floats(0, 1e6),
    number=st.integers(1, 2_000),
    task=st.text(max_size=10),
)
def test_a_growing_wait_lies_between_its_base_and_twice_that_within_its_bounds(
    delay_s: float, multiplier: float, max_delay_s: float | None, number: int, task: str
) -> None:
    arguments: dict[str, Any] = {**_NAMES, "task": task, "try_number": number, "max_delay_s": max_delay_s}
    wait = retry_delay_ms(delay_s=delay_s, exponential=True, multiplier=multiplier, **arguments)
    assert wait == retry_delay_ms(delay_s=delay_s, exponential=True, multiplier=multiplier, **arguments)
    if multiplier in {0, 1}:
        assert wait == round(delay_s * 1_000)
    elif not max_delay_s:
        assert 1_000 <= wait <= _DAY_MS
    else:
        assert wait <= max(1, round(max_delay_s * 1_000))

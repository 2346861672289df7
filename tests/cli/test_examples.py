"""The project in `examples/` is what a new user sees first: it is right, and shows what it says it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import prime

EXAMPLES = Path(__file__).parents[2] / "examples"


def told(*words: str) -> Any:
    """The JSON of a command in the examples' folder."""
    done = prime("job", *words, "-o", "json", folder=EXAMPLES)
    assert (done.code, done.err) == (0, "")
    return done.json()


def test_the_examples_have_no_errors_and_no_warnings() -> None:
    assert told("validate") == {"jobs": 3, "errors": [], "warnings": []}


def test_the_daily_job_compiles_to_the_day_before() -> None:
    answer = told("compile", "sales.daily-orders", "--at", "2026-03-02T02:00:00Z")
    query = "\n".join([
        "insert into toy://warehouse/sales.orders",
        "select id, customer, amount",
        "from shop.events",
        "where created_at >= '2026-03-01' and created_at < '2026-03-02'",
        "",
        "  and created_at > current_date - 30",
    ])  # fmt: skip
    assert answer == {
        "job": "sales.daily-orders",
        "scheduled_at": "2026-03-02T02:00:00Z",
        "window": {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"},
        "envs": {
            "WAREHOUSE": "warehouse",
            "TABLE": "sales.orders",
            "LOAD_METHOD": "APPEND",
            "WAREHOUSE_USER": "loader",
            "DSTART": "2026-03-01T00:00:00Z",
            "DEND": "2026-03-02T00:00:00Z",
            "EXECUTION_TIME": "2026-03-02T02:00:00Z",
            "JOB_DESTINATION": "toy://warehouse/sales.orders",
        },
        "secrets": {"WAREHOUSE_PASSWORD": "***"},
        "assets": {
            "query.sql": query,
            "where.tmpl": "created_at >= '{{ .DSTART | Date }}' and created_at < '{{ .DEND | Date }}'\n",
        },
    }


@pytest.mark.parametrize(
    ("hook", "envs"), [("profile", {"TABLE": "sales.orders"}), ("page", {"TEAM": "sales"}), ("freshness", {})]
)
def test_hooks_see_the_values_of_their_task(hook: str, envs: dict[str, str]) -> None:
    answer = told("compile", "sales.daily-orders", "--at", "2026-03-02T02:00:00Z", "--instance", hook)
    assert answer["envs"].items() >= envs.items()
    assert answer["secrets"] == {}  # only the task asks for one


def test_the_weekly_job_has_the_clock_of_its_place() -> None:
    ticks = {"ticks": ["2026-01-05T05:00:00Z", "2026-01-12T05:00:00Z"]}  # noon of Mondays in Jakarta
    assert told("next", "sales.weekly-report", "--after", "2020-01-01", "--count", "2") == ticks
    after = told("next", "sales.weekly-report", "--after", ticks["ticks"][0], "--count", "1")
    assert after == {"ticks": ticks["ticks"][1:]}


def test_a_job_without_a_schedule_has_no_next_tick() -> None:
    done = prime("job", "next", "sales.broken-import", folder=EXAMPLES)
    assert (done.code, "has no schedule.interval" in done.out) == (0, True)

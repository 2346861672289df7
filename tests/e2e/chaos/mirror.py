"""What stands in the database, read as any program would."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import Any, Final

from tests.e2e.chaos.history import Attempt, Instance, Record

_RUNS: Final = "SELECT run_id, state, reason FROM prime_runs"
_INSTANCES: Final = "SELECT run_id, name, state, reason FROM prime_instances ORDER BY name"
_ATTEMPTS: Final = (
    "SELECT run_id, instance, number, agent, state, reason, exit_code FROM prime_attempts ORDER BY number"
)


def rows(url: str) -> list[Record]:
    """Every run in it. url: as agents take it."""
    runs, instances, attempts = _select(url, _RUNS, _INSTANCES, _ATTEMPTS)
    tries: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for run, instance, *rest in attempts:
        tries[run, instance].append(Attempt(*rest))
    parts: dict[str, list[Instance]] = defaultdict(list)
    for run, name, state, reason in instances:
        parts[run].append(Instance(name, state, reason, tuple(tries[run, name])))
    return [Record(run, state, reason, tuple(parts[run])) for run, state, reason in runs]


def _select(url: str, *statements: str) -> list[list[tuple[Any, ...]]]:
    if url.startswith("sqlite:"):
        lite = sqlite3.connect(url.removeprefix("sqlite:///"))
        try:
            return [lite.execute(one).fetchall() for one in statements]
        finally:
            lite.close()
    import psycopg

    with psycopg.connect(url) as connection:
        return [connection.execute(one.encode()).fetchall() for one in statements]

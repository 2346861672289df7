"""Why a replay is where it is (P11): what it waits for, since when and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.runtable.model import Run
from agent.runtable.replay_rows import Replay
from agent.runtable.replays import BAD, unfinished
from agent.runtable.table import Table

NAMES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class ReplayExplanation:
    """since_ms, until_ms: milliseconds since the epoch, None = nothing is awaited that has a beginning, or an end."""

    why: str
    since_ms: int | None = None
    until_ms: int | None = None


def explain_replay(table: Table, replay: Replay) -> ReplayExplanation:
    """What it waits for; of one that has ended, how it came to that."""
    if replay.final:
        return ReplayExplanation(_why_final(replay), replay.finished_at_ms)
    runs = list(unfinished(table, replay))
    if not runs:
        return ReplayExplanation(_why_no_run(table))
    awaited = f"{_names(runs)} to end"
    if replay.cancelled_by is not None:
        why = f"being cancelled by {replay.cancelled_by}: waits for {awaited}"
    elif replay.stopped:
        why = f"stops after a failure, as it was asked to: waits for {awaited}"
    elif replay.exhausted:
        why = f"has made all its runs: waits for {awaited}"
    elif len(runs) < replay.plan.parallel:
        why = _why_no_run(table)
    else:
        why = f"waits for {awaited} ({replay.plan.parallel} at once)"
    ends = [run.end_due_ms for run in runs if run.end_due_ms is not None]
    return ReplayExplanation(why, runs[0].created_at_ms, max(ends, default=None))


def _why_no_run(table: Table) -> str:
    limits = table.rows.limits
    if len(table.rows.runs) >= limits.runs_max or table.bytes_used >= limits.bytes_max:
        return "waits for room in the run table, which is full"
    return "its next run is about to be made"


def _why_final(replay: Replay) -> str:
    if replay.cancelled_by is not None:
        return f"cancelled by {replay.cancelled_by}; `replay resume` lets it go on"
    if replay.stopped:
        return "stopped after a failure, as it was asked to; `replay resume` lets it go on"
    failed = replay.count(*BAD)
    if failed:
        return f"{failed} of its ticks have not succeeded; `replay resume --failed` runs these again"
    return "all its ticks have been run"


def _names(runs: list[Run]) -> str:
    names = ", ".join(run.id for run in runs[:NAMES_MAX])
    more = f" and {len(runs) - NAMES_MAX} more" if len(runs) > NAMES_MAX else ""
    return f"{'runs' if len(runs) > 1 else 'run'} {names}{more}"

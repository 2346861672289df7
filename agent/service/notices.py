"""What a run is to tell of, as the table keeps it; and what waits to be delivered."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from typing import Final

from agent.errors import Refusal
from agent.records import run_of
from agent.runtable.model import Run, RunState
from agent.runtable.notice_rows import Event, EventKind, Wanted
from agent.service.common import Context
from agent.spec import notices
from agent.spec.bundle import Bundle
from agent.spec.notices import Wish
from agent.store.errors import HistoryError
from agent.store.history import RunFilter

LEARN_RUNS: Final = 20  # the newest successful ones
LEARN_RUNS_MIN: Final = 5
LEARN_FACTOR: Final = 2.0
LEARN_MIN_MS: Final = 60_000


async def wants(context: Context, bundle: Bundle) -> tuple[Wanted, ...]:
    """What a run of this bundle is to tell of. Thresholds that are to be learned are learned now. Raises Refusal."""
    found = list(notices.wishes(bundle.job))
    if len(found) > notices.WISHES_MAX:
        text = f"the job asks for {len(found)} different messages; at most {notices.WISHES_MAX} are kept for a run"
        raise Refusal("spec_invalid", text, 422)
    learned: dict[str, int | None] = {}
    if any(wish.auto for wish in found):
        runs = await asyncio.to_thread(_last_runs, context, bundle)
        learned = {wish.instance: threshold_ms(runs, wish.instance) for wish in found if wish.auto}
    return tuple(
        _wanted(bundle, wish, learned) for wish in found if not wish.auto or learned[wish.instance] is not None
    )


def _wanted(bundle: Bundle, wish: Wish, learned: dict[str, int | None]) -> Wanted:
    within_ms = learned[wish.instance] if wish.auto else None
    if wish.within_s is not None:
        within_ms = max(1, int(wish.within_s * 1000))
    endpoint = f"{bundle.project}/{bundle.namespace}: {wish.shown}"
    resolves = wish.scheme == notices.PAGERDUTY
    return Wanted(EventKind(wish.on), endpoint, wish.place, wish.instance, within_ms, resolves)


def _last_runs(context: Context, bundle: Bundle) -> list[Run]:
    """The newest successful runs of the job that this agent's history has; none where it cannot be read."""
    wanted = RunFilter(project=bundle.project, job=bundle.job.name, state=RunState.SUCCESS)
    try:
        rows, _cursor = context.replica.history.list(wanted, LEARN_RUNS)
    except HistoryError:
        return []
    return [run_of(row) for row in rows]


def threshold_ms(runs: list[Run], instance: str) -> int | None:
    """How long an instance may take, by how long it took: twice the median, at least a minute.

    None where fewer than five of the runs say anything.
    """
    took = list(_took_ms(runs, instance))
    if len(took) < LEARN_RUNS_MIN:
        return None
    return max(LEARN_MIN_MS, round(LEARN_FACTOR * statistics.median(took)))


def _took_ms(runs: list[Run], name: str) -> Iterator[int]:
    for run in runs:
        instance = run.instance(name)
        last = instance.last if instance is not None else None
        if last is not None and last.started_at_ms is not None and last.finished_at_ms is not None:
            yield max(0, last.finished_at_ms - last.started_at_ms)


class Events:
    """What is not delivered, and what never will be."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def all(self, run_id: str | None = None) -> list[Event]:
        """Those that wait, then those that were given up, each oldest first. run_id: only of this run."""
        rows = self._context.replica.table.rows
        every = (*rows.events.values(), *rows.given_up.values())
        return [event for event in every if run_id is None or event.run_id == run_id]

    @property
    def given_up(self) -> int:
        """How many were given up, ever."""
        return self._context.replica.table.rows.events_given_up

"""How many runs of a job there may be at a time, and what becomes of one that is too many (R2).

Judged in `apply`, when a run is accepted or brought back and each time one of its job ends, so no election and no race
lets two through. Each run is judged by the limits it was accepted with; those of a newer spec bind newer runs. What
counts is how many of the job have their place, whatever their own limits are.

A run that has no limit, or finds a place and nobody who waits for one, begins. Else its `overlap` says:

    queue            it is *held*, behind those that were accepted before it
    skip             it ends at once
    cancel_previous  of the older ones that are not being ended the newest `max_active - 1` are kept, the others
                     cancelled; it is held until enough of them have ended (P3)

A run that an operator brings back is held whatever its `overlap` says: somebody wants that very run.

A held run waits for its queue time-out at most (P1); its own time begins with its place, or where it has one with its
gates. The one in front has the next place that is free by its own limits, and nobody overtakes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Final

from agent.runtable import gates, lifecycle
from agent.runtable.model import Audit, InstanceState, Overlap, Reason, Run, RunState
from agent.runtable.table import Table
from agent.runtable.waiting import JobKey

RUNS_TOLD_MAX: Final = 3  # in one sentence


def is_limited(run: Run) -> bool:
    """Whether it may have to wait for others of its job."""
    return run.max_active > 0 and run.overlap is not Overlap.ALLOW


def job_of(run: Run) -> JobKey:
    """The job whose runs share its places."""
    return run.project, run.job


def has_place(table: Table, run: Run) -> bool:
    """Whether a run that is not in the table yet can begin."""
    job = job_of(run)
    return not is_limited(run) or (not table.places.held(job) and len(table.places.active(job)) < run.max_active)


def line_is_full(table: Table, run: Run, *, returns: bool = False) -> bool:
    """Whether it would have to wait behind as many as may wait (P12). returns: it is brought back."""
    waits = returns or run.overlap is Overlap.QUEUE  # who cancels the others shortens the line
    return waits and not has_place(table, run) and len(table.places.held(job_of(run))) >= table.rows.limits.held_max


def accept(table: Table, run: Run, who: str, via: str) -> list[str]:
    """Put a new run into the table, as its limits say. Returns the runs that were changed by it, its own the last."""
    free = has_place(table, run)
    if free or run.overlap is Overlap.SKIP:
        table.add_run(run)
        if not free:
            _skip(table, run)
        return [run.id]
    _hold(table, run)
    older = _cancel_older(table, run, who, via) if run.overlap is Overlap.CANCEL_PREVIOUS else []
    return [*older, run.id]


def bring_back(table: Table, run: Run) -> None:
    """Put a run that had ended into the table again. Its gates wait again where they have to."""
    run.held = False
    if has_place(table, run):
        _give_place(table, run)
    else:
        _hold(table, run)


def begin(table: Table, job: JobKey) -> list[str]:
    """Give the places that are free to those that wait for them, in order. Returns which these are."""
    begun = []
    while (first := next(iter(table.places.held(job)), None)) is not None:
        run = table.rows.runs[first]
        if len(table.places.active(job)) >= run.max_active:
            break
        _give_place(table, run)
        begun.append(first)
    return begun


def _give_place(table: Table, run: Run) -> None:
    run.held = False
    run.state = RunState.RUNNING if any(instance.attempts for instance in run.instances) else RunState.QUEUED
    gates.start_time(run, table.rows.time_ms)
    table.add_run(run)


def expire(table: Table, run: Run) -> None:
    """A held run has waited for its queue time-out: end it, without a fail hook, which would need a place as well."""
    message = f"no place was free in time: {in_the_way(table, run)}"
    run.reason = Reason.QUEUE_TIMEOUT
    for instance in run.instances:
        if not instance.final:
            lifecycle.enter(table, run, instance, InstanceState.CANCELLED, Reason.QUEUE_TIMEOUT, message)


def in_the_way(table: Table, run: Run) -> str:
    """Which runs have the places, how many may have one, and how many stand before it."""
    names = [one.id for one in _runs(table, table.places.active(job_of(run))) if one.id != run.id]
    told = ", ".join(names[:RUNS_TOLD_MAX])
    more = f" and {len(names) - RUNS_TOLD_MAX} more" if len(names) > RUNS_TOLD_MAX else ""
    places = "1 run" if run.max_active == 1 else f"{run.max_active} runs"
    have = f"run {told} has its place" if len(names) == 1 else f"runs {told}{more} have theirs"
    ahead = sum(1 for _ in takewhile(lambda one: one != run.id, table.places.held(job_of(run))))
    wait = f"; before it {ahead} {'waits' if ahead == 1 else 'wait'} as well" if ahead else ""
    return f"the job {run.job} may have {places} at a time, and {have}{wait}"


def _hold(table: Table, run: Run) -> None:
    run.held, run.state = True, RunState.QUEUED
    run.deadline_ms = table.rows.time_ms + run.queue_timeout_ms
    table.add_run(run)


def _skip(table: Table, run: Run) -> None:
    message = f"{in_the_way(table, run)} (overlap: skip)"
    for instance in run.instances:
        lifecycle.enter(table, run, instance, InstanceState.SKIPPED, None, message)


def _cancel_older(table: Table, run: Run, who: str, via: str) -> list[str]:
    """Those that wait come first in what is returned, so that none of them begins while the others end."""
    job = job_of(run)
    unfinished = _runs(table, [*table.places.active(job), *table.places.held(job)])
    going = [one for one in unfinished if one is not run and not one.ending]
    surplus = going[: max(0, len(going) - (run.max_active - 1))]
    what = f"cancel, as run {run.id} of the job was accepted (overlap: cancel_previous)"
    for one in surplus:
        one.cancelled_by = f"run {run.id}"
        one.audit.append(Audit(table.rows.time_ms, who, via, what))
        lifecycle.end_early(table, one, Reason.CANCELLED, teardown=False, unheard=False)
    return [one.id for one in sorted(surplus, key=lambda one: not one.held)]


def _runs(table: Table, run_ids: Iterable[str]) -> Sequence[Run]:
    """In an order that rows alone decide: an index may have another after a restart."""
    return sorted((table.rows.runs[run_id] for run_id in run_ids), key=lambda run: (run.created_at_ms, run.id))

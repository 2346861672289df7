"""The rows of replays: a job over its ticks of the past (ARCHITECTURE.md, "What runs wait for").

The row says what is to be done and how far that is; its runs are made a few at a time. So it is as large with ten
thousand ticks as with ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from agent.runtable.audit import Audit
from agent.runtable.bounds import Count

PARALLEL_MAX: Final = 100  # runs of a replay at once, so that a cancel, which ends them all, is short (P12)
TICKS_MAX: Final = 100_000  # of a replay
AUDIT_MAX: Final = 100  # entries that are kept, the newest


class ReplayState(StrEnum):
    """What a replay is."""

    RUNNING = "running"  # it makes runs, or waits for those that it has made
    SUCCESS = "success"
    FAILED = "failed"  # all of it was done, and something failed; or it was to stop there
    CANCELLED = "cancelled"


class Reprocess(StrEnum):
    """Which ticks that have had a run are run again: the `reprocess_behavior` of Airflow's backfills, by its words."""

    NONE = "none"  # none: only ticks without a run
    FAILED = "failed"  # those whose last run did not succeed
    COMPLETED = "completed"  # all


class ReplayPlan(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a replay is to do; fixed when it is accepted.

    run: the `SubmitRun` that each run is made of, encoded; its id and its time stand for none.
    bundle: the blob that it names.  interval, location, start_date: the schedule, as the job had it then.
    first_ms, last_ms: ticks from and to, both inclusive.  total: how many these are.
    gated: its runs wait for what their job depends on.
    reverse: the last tick first.  parallel: runs at once.  stop_on_failure: make no run more once one has failed.
    """

    project: str
    job: str
    run: bytes
    bundle: str
    interval: str
    location: str
    start_date: str
    first_ms: Count
    last_ms: Count
    total: Count = 0
    reverse: bool = False
    parallel: Count = 1
    stop_on_failure: bool = False
    reprocess: Reprocess = Reprocess.COMPLETED
    gated: bool = False

    def comes_after(self, tick_ms: int, before_ms: int | None) -> bool:
        """Whether a tick comes later in this replay than another one; None = before all."""
        if before_ms is None:
            return True
        return tick_ms < before_ms if self.reverse else tick_ms > before_ms


class Replay(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A replay, and how far it is.

    round: 1, and one more with each resume: a round goes over all ticks, and passes by those that are done.
    cursor: the last tick that was looked at in this round.  reached: the furthest of any round.  None = none yet.
    exhausted: no tick is left in this round.  whole: some round has come to its end.
    stopped: a run of this round has failed, and it is to stop then.
    failed_again: this round runs ticks again whose run failed; those that were cancelled, each does.
    made: ticks that were given a run.  passed: ticks that were not, by `ReplayPlan.reprocess`.
    counts: how many of `made` have ended how, by the state of the run that counts for the tick: its last.
    """

    id: str
    plan: ReplayPlan
    who: str
    via: str
    created_at_ms: int
    state: ReplayState = ReplayState.RUNNING
    round: Count = 1
    cursor: Count | None = None
    reached: Count | None = None
    exhausted: bool = False
    whole: bool = False
    stopped: bool = False
    failed_again: bool = False
    made: Count = 0
    passed: Count = 0
    counts: Mapping[str, Count] = {}
    cancelled_by: str | None = None
    finished_at_ms: int | None = None
    audit: tuple[Audit, ...] = ()

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state is not ReplayState.RUNNING

    @property
    def goes_on(self) -> bool:
        """Whether it is to make more runs, as soon as as many may run."""
        return not (self.final or self.exhausted or self.stopped or self.cancelled_by is not None)

    def count(self, *states: str) -> int:
        """How many ticks have ended so."""
        return sum(self.counts.get(state, 0) for state in states)

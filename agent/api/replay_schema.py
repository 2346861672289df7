"""Bodies and answers about replays: see `schema.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from agent.api.schema import AuditView, Config, MetaView, Name, ReadQuery, Request, View
from agent.runtable.replay_rows import PARALLEL_MAX, ReplayState, Reprocess

When = Annotated[str, msgspec.Meta(min_length=10, max_length=40)]


class ReplayBody(Request, frozen=True):
    """A replay of an applied job: its ticks from `start` to `end`, both inclusive.

    start, end: RFC 3339, or a date, which is that whole day where the job's schedule is; without `end`: `start` alone.
    parallel: runs at once.  reverse: the last tick first.  stop_on_failure: make no run more once one has failed.
    reprocess: which ticks that have had a run are run again: none, those whose last run failed, or all.
    check_dependencies: its runs wait for what the job depends on.
    config overrides values of the task's config; params: values of the job's own.
    """

    project: Name
    job: Name
    start: When
    end: When | None = None
    parallel: Annotated[int, msgspec.Meta(ge=1, le=PARALLEL_MAX)] = 1
    reverse: bool = False
    stop_on_failure: bool = False
    reprocess: Reprocess = Reprocess.COMPLETED
    check_dependencies: bool = True
    config: Config = msgspec.field(default_factory=dict)
    params: dict[str, Any] = msgspec.field(default_factory=dict)


class CancelReplayBody(Request, frozen=True):
    """assume_stopped: the caller's word that work of its runs on lost agents has ended."""

    assume_stopped: bool = False


class ResumeReplayBody(Request, frozen=True):
    """failed: run again the ticks that have failed, too."""

    failed: bool = False


class ReplaysQuery(ReadQuery, frozen=True):
    """Which replays."""

    project: str | None = None
    job: str | None = None
    state: ReplayState | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class ReplayView(View, frozen=True):
    """A replay.

    start, end: what was asked for, as moments.  ticks: how many these have; made: those that were given a run, passed:
    those that were not, by `reprocess`.  counts: how those with a run have ended, by state.  cursor: the tick that was
    looked at last.  runs: the ids of those that go on.  why: what it waits for, `since` and at most `until` when.
    """

    id: str
    project: str
    job: str
    start: datetime
    end: datetime
    state: ReplayState
    ticks: int
    made: int
    passed: int
    counts: dict[str, int]
    runs: list[str]
    cursor: datetime | None
    round: int
    parallel: int
    reverse: bool
    stop_on_failure: bool
    reprocess: Reprocess
    check_dependencies: bool
    requested_by: str
    via: str
    created_at: datetime
    finished_at: datetime | None
    cancelled_by: str | None
    why: str
    since: datetime | None
    until: datetime | None
    audit: list[AuditView]


class ReplayAnswer(View, frozen=True):
    """A replay."""

    replay: ReplayView
    meta: MetaView


class ReplaysAnswer(View, frozen=True):
    """Replays, newest first."""

    replays: list[ReplayView]
    meta: MetaView


class AcceptedReplayAnswer(View, frozen=True):
    """A replay that was accepted or changed. duplicate: the same request was answered before, with this one."""

    replay: ReplayView
    index: int
    duplicate: bool = False
    notes: list[str] = msgspec.field(default_factory=list)


class WindowView(View, frozen=True):
    """The data that a run stands for: from, and up to."""

    start: datetime
    end: datetime


class PlannedTickView(View, frozen=True):
    """What a replay would do with a tick: run it, or pass it by; and why."""

    scheduled_at: datetime
    window: WindowView
    run: bool
    why: str


class PlanAnswer(View, frozen=True):
    """What a replay would do now. total: ticks; ticks: these, the first 10,000.  refused: why it would not be taken."""

    total: int
    ticks: list[PlannedTickView]
    refused: str | None
    notes: list[str] = msgspec.field(default_factory=list)

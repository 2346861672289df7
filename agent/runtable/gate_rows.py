"""The rows of gates: what a run waits for before any of its instances (ARCHITECTURE.md, "What runs wait for")."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from agent.runtable.bounds import Count

GATE_TIMEOUT_MS: Final = 15 * 3_600_000
POKE_MS: Final = 900_000


class TriggerRule(StrEnum):
    """Airflow's rules, by its names: which states of what stands before let an instance start (`trigger_rules.py`)."""

    ALL_SUCCESS = "all_success"
    ALL_FAILED = "all_failed"
    ALL_DONE = "all_done"
    ALL_DONE_MIN_ONE_SUCCESS = "all_done_min_one_success"
    ALL_DONE_SETUP_SUCCESS = "all_done_setup_success"
    ALL_SKIPPED = "all_skipped"
    ALWAYS = "always"
    NONE_FAILED = "none_failed"
    NONE_FAILED_MIN_ONE_SUCCESS = "none_failed_min_one_success"
    NONE_SKIPPED = "none_skipped"
    ONE_DONE = "one_done"
    ONE_FAILED = "one_failed"
    ONE_SUCCESS = "one_success"


class GateKind(StrEnum):
    """What a gate waits for."""

    RUN = "run"  # another run, by its id
    TICKS = "ticks"  # runs of a job for given times, the newest that stands for each (`tick_runs.py`)
    HTTP = "http"  # a GET that is answered with 2xx


class GateState(StrEnum):
    """What a gate is."""

    WAITING = "waiting"
    OPEN = "open"
    FAILED = "failed"  # ends its run as upstream_failed
    SKIPPED = "skipped"  # ends its run as skipped


class OnFailure(StrEnum):
    """What a gate does whose rule says that it will never open."""

    WAIT = "wait"  # go on waiting: someone may mend it. To a run gate nothing new comes by itself, so there: as FAIL
    FAIL = "fail"  # the run ends as upstream_failed
    SKIP = "skip"  # the run ends as skipped


class GatePlan(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a run waits for; fixed when the run is accepted.

    project, job: whose run or ticks.  run_id: of a run gate.  ticks_ms: of a ticks gate.  name: of an http gate, by
    which the run's bundle knows the request.
    rule: over the states of what is awaited (`trigger_rules.decide`).
    timeout_ms: how long it waits at most; None only for a run gate, whose run has an end of its own.
    every_ms: of an http gate, between two requests.
    """

    kind: GateKind
    project: str = ""
    job: str = ""
    run_id: str = ""
    ticks_ms: tuple[Count, ...] = ()
    name: str = ""
    rule: TriggerRule = TriggerRule.ALL_SUCCESS
    on_failure: OnFailure = OnFailure.WAIT
    timeout_ms: Count | None = GATE_TIMEOUT_MS
    every_ms: Count = POKE_MS


class Gate(msgspec.Struct, array_like=True, gc=False):
    """What a run waits for, and how that stands.

    since_ms: when it came into its state.  due_ms: while it waits: until when; None = as long as its run goes on.
    timed_out: it has failed by that.
    next_ms: when the next request of an http gate is due; asked: how many were answered; message: how the last was.
    """

    plan: GatePlan
    state: GateState = GateState.WAITING
    since_ms: Count = 0
    due_ms: Count | None = None
    timed_out: bool = False
    next_ms: Count = 0
    asked: Count = 0
    message: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is not decided yet."""
        return self.state is GateState.WAITING

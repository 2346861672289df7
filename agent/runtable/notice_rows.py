"""The rows of what somebody is to be told of: what a run's job asks for, and the events that are not delivered yet.

No address, header or secret stands in them: `place` says where the endpoint is found in the bundle's job, which is read
when an event is delivered.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent.runtable.bounds import Count


class EventKind(StrEnum):
    """What has happened."""

    FAILURE = "failure"  # a run has ended failed or upstream_failed
    SUCCESS = "success"  # a run has ended with success
    RETRY = "retry"  # an instance has failed, and waits for its next try
    SLA_MISS = "sla_miss"  # a run or an instance takes longer than it may
    REPLAY = "replay"  # a replay has begun, or ended
    RESOLVED = "resolved"  # a run whose failure was told was run again, and has succeeded


class Wanted(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One thing that one endpoint is to be told of a run; fixed when the run is accepted.

    endpoint: its name, by which what is sent to it stays in order.  place: where it is found in the bundle's job.
    instance, within_ms: of SLA_MISS alone: how long that instance may take, or the run where it is "".
    resolves: whether it is told too when what failed has succeeded after all.
    """

    on: EventKind
    endpoint: str
    place: str
    instance: str = ""
    within_ms: Count | None = None
    resolves: bool = False


class Event(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One thing to tell one endpoint. id: the idempotency key: the same at every try, and never given again.

    at_ms: when it happened.  state, reason, instance, attempt, message: what is told.
    tries: how many have failed.  next_due_ms: not before.  give_up_ms: the deadline of it all.  error: of the last try.
    """

    id: str
    kind: EventKind
    endpoint: str
    place: str
    run_id: str
    project: str
    namespace: str
    job: str
    bundle: str
    scheduled_at_ms: Count
    at_ms: int
    next_due_ms: int
    give_up_ms: int
    state: str = ""
    reason: str = ""
    instance: str = ""
    attempt: int = 0
    message: str = ""
    tries: Count = 0
    error: str = ""
    given_up_ms: int | None = None

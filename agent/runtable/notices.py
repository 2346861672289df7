"""Events that somebody is to be told of: made where the thing happens, delivered by the leader, cleared by a command.

Every pending event has its own next try and its own end (`give_up_ms`), so nothing waits for ever, and an endpoint that
is dead holds up nobody else. What is given up stays visible with its reason, the newest `GIVEN_UP_MAX` of it.

    a run ends, a retry is due to be waited for, a deadline of `sla.py` passes -> tell -> Event rows
    Delivered -> the row goes        NotDelivered -> its next try, or it is given up

Who has something else to tell of calls `tell` with its own `Subject`, as `replayed` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from agent.runtable import commands as c
from agent.runtable import sla
from agent.runtable.model import Instance, InstancePlan, InstanceState, Run, RunState
from agent.runtable.notice_rows import Event, EventKind, Wanted
from agent.runtable.replay_rows import Replay
from agent.runtable.table import Table

WANTED_MAX: Final = 100  # of one run
EVENTS_MAX: Final = 10_000  # pending, in all
ENDPOINT_EVENTS_MAX: Final = 1_000  # pending, for one endpoint
GIVEN_UP_MAX: Final = 1_000  # that are still shown
GIVE_UP_MS: Final = 86_400_000
BACKOFF_FIRST_MS: Final = 1_000
BACKOFF_MAX_MS: Final = 900_000
WAIT_MAX_MS: Final = 3_600_000  # that an endpoint may ask for
TEXT_MAX: Final = 500  # characters of a message or an error
_ENDED: Final = {
    RunState.SUCCESS: EventKind.SUCCESS,
    RunState.FAILED: EventKind.FAILURE,
    RunState.UPSTREAM_FAILED: EventKind.FAILURE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an event is of: a run, or something else with an id and a bundle in which its endpoints are found."""

    id: str
    project: str
    namespace: str
    job: str
    bundle: str
    scheduled_at_ms: int = 0


def of_run(run: Run) -> Subject:
    """A run as the subject of an event."""
    return Subject(
        id=run.id,
        project=run.project,
        namespace=run.namespace,
        job=run.job,
        bundle=run.bundle,
        scheduled_at_ms=run.scheduled_at_ms,
    )


def well_formed(plans: Iterable[InstancePlan], wants: tuple[Wanted, ...]) -> bool:
    """Whether what a run is to tell of is within bounds, and of its own instances."""
    names = {plan.name for plan in plans} | {""}
    return len(wants) <= WANTED_MAX and all(wanted.instance in names for wanted in wants)


# -- what happens ------------------------------------------------------------------------------------------------------


def ended(table: Table, run: Run) -> None:
    """A run has ended: tell who wants to know. Its state is set, its record is not packed yet."""
    kind = _ENDED.get(run.state)
    if kind is None:
        return
    told, message = of_run(run), _what_failed(run)
    tell(table, told, run.wants, kind, state=run.state, reason=run.reason or "", message=message)
    if kind is EventKind.FAILURE:
        run.alarmed = True
    elif run.alarmed:
        run.alarmed = False
        resolving = (wanted for wanted in run.wants if wanted.on is EventKind.FAILURE and wanted.resolves)
        for number, wanted in enumerate(resolving):
            _add(table, told, wanted, number, EventKind.RESOLVED, {"state": run.state})


def retried(table: Table, run: Run, instance: Instance) -> None:
    """An instance has failed, and waits for its next try."""
    tell(
        table,
        of_run(run),
        run.wants,
        EventKind.RETRY,
        state=instance.state,
        reason=instance.reason or "",
        instance=instance.plan.name,
        attempt=len(instance.attempts),
        message=instance.message,
    )


def replayed(table: Table, replay: Replay) -> None:
    """A replay has begun, or ended: tell who wants to know of its job's replays."""
    plan, run = replay.plan, c.decode(replay.plan.run)
    assert isinstance(run, c.SubmitRun)
    subject = Subject(
        id=replay.id,
        project=plan.project,
        namespace=run.namespace,
        job=plan.job,
        bundle=plan.bundle,
        scheduled_at_ms=plan.first_ms,
    )
    ended = ", ".join(f"{count} {state}" for state, count in sorted(replay.counts.items()))
    tell(table, subject, run.wants, EventKind.REPLAY, state=replay.state, attempt=replay.round, message=ended)


def check_slas(table: Table, run: Run) -> None:
    """Tell of what takes too long, once each, and wait for the rest."""
    if not run.wants:
        return
    for number in sla.missed(run, table.rows.time_ms):
        wanted = run.wants[number]
        run.missed = (*run.missed, number)
        instance = run.instance(wanted.instance)
        what = f"the instance {wanted.instance}" if wanted.instance else "the run"
        fields: dict[str, str | int] = {
            "state": str(run.state if instance is None else instance.state),
            "instance": wanted.instance,
            "attempt": 0 if instance is None else len(instance.attempts),
            "message": f"{what} takes longer than {(wanted.within_ms or 0) / 1000:g} s",
        }
        _add(table, of_run(run), wanted, number, EventKind.SLA_MISS, fields)
    table.deadlines.add_slas(run)


def reopened(run: Run) -> None:
    """A run that had ended is brought back: how long it took then is no news, nor how long it has been away."""
    of_the_run = (number for number, wanted in enumerate(run.wants) if not wanted.instance)
    run.missed = tuple(sorted({*run.missed, *of_the_run}))


def cleared(run: Run, names: Iterable[str]) -> None:
    """Instances are run again: their time counts anew."""
    chosen = set(names)
    run.missed = tuple(n for n in run.missed if n < len(run.wants) and run.wants[n].instance not in chosen)


def _what_failed(run: Run) -> str:
    bad = (InstanceState.FAILED, InstanceState.CANCELLED)
    one = next((i for i in run.instances if i.state in bad and not i.plan.allow_failure), None)
    if run.state is RunState.SUCCESS or one is None:
        return ""
    why = f" ({one.reason})" if one.reason else ""
    return f"{one.plan.name} {one.state}{why}" + (f": {one.message}" if one.message else "")


# -- rows --------------------------------------------------------------------------------------------------------------


def tell(
    table: Table,
    subject: Subject,
    wants: Iterable[Wanted],
    kind: EventKind,
    *,
    state: str = "",
    reason: str = "",
    instance: str = "",
    attempt: int = 0,
    message: str = "",
) -> None:
    """Make an event for every endpoint that wants to be told of this.

    Arguments: `subject`, what it is of; `wants`, of which those of `kind` count; the rest is told as it is. To be
    called at most once in a command for one subject, kind, instance and attempt.
    """
    fields: dict[str, str | int] = {
        "state": str(state),
        "reason": str(reason),
        "instance": instance,
        "attempt": attempt,
        "message": message,
    }
    for number, wanted in enumerate(wants):
        if wanted.on is kind:
            _add(table, subject, wanted, number, kind, fields)


def _add(
    table: Table, subject: Subject, wanted: Wanted, number: int, kind: EventKind, fields: dict[str, str | int]
) -> None:
    rows = table.rows
    values = {**fields, "message": str(fields.get("message", ""))[:TEXT_MAX]}
    event = Event(
        _id(table, subject, wanted, number, kind, values),
        kind,
        wanted.endpoint,
        wanted.place,
        subject.id,
        subject.project,
        subject.namespace,
        subject.job,
        subject.bundle,
        subject.scheduled_at_ms,
        rows.time_ms,
        rows.time_ms,
        rows.time_ms + GIVE_UP_MS,
        **values,  # type: ignore[arg-type]
    )
    if event.id in rows.events:
        return
    here = table.outbox.get(event.endpoint, {})
    if len(here) >= ENDPOINT_EVENTS_MAX:
        _give_up(table, rows.events[next(iter(here))], f"more than {ENDPOINT_EVENTS_MAX} events wait for its endpoint")
    elif len(rows.events) >= EVENTS_MAX:
        _give_up(table, next(iter(rows.events.values())), f"more than {EVENTS_MAX} events wait")
    table.add_event(event)


def _id(
    table: Table, subject: Subject, wanted: Wanted, number: int, kind: EventKind, values: dict[str, str | int]
) -> str:
    """A key that no other event ever has: of the log entry that made it, and of what and for whom it is."""
    rows = table.rows
    made = (rows.cluster, rows.generation, rows.index, subject.id, kind, wanted.place, number)
    text = "/".join(map(str, (*made, values.get("instance", ""), values.get("attempt", 0))))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:24]


def delivered(table: Table, cmd: c.Delivered) -> str:
    """An endpoint has taken an event."""
    if cmd.event not in table.rows.events:
        return "unknown_event"
    table.drop_event(cmd.event)
    return "ok"


def not_delivered(table: Table, cmd: c.NotDelivered) -> str:
    """A try has failed: the next one is later each time, unless there is no sense in any."""
    event = table.rows.events.get(cmd.event)
    if event is None:
        return "unknown_event"
    if event.tries != cmd.tries:
        return "stale"
    error, now_ms = cmd.error[:TEXT_MAX], table.rows.time_ms
    if cmd.final:
        _give_up(table, msgspec.structs.replace(event, tries=event.tries + 1), error)
        return "ok"
    wait_ms = max(backoff_ms(event.tries), min(cmd.wait_ms, WAIT_MAX_MS))
    due_ms = min(now_ms + wait_ms, event.give_up_ms)
    table.rows.events[event.id] = later = msgspec.structs.replace(
        event, tries=event.tries + 1, next_due_ms=due_ms, error=error
    )
    table.size(f"event/{event.id}", later)
    return "ok"


def backoff_ms(tries: int) -> int:
    """How long to wait after a try, the `tries`-th from 0, that has failed."""
    return min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS << min(tries, 20))


def due(table: Table, event_id: str) -> None:
    """The time of an event is over."""
    event = table.rows.events[event_id]
    _give_up(table, event, f"not delivered in time; {event.error or 'it was never tried'}")


def _give_up(table: Table, event: Event, why: str) -> None:
    rows = table.rows
    table.drop_event(event.id)
    rows.events_given_up += 1
    row = msgspec.structs.replace(event, error=why[:TEXT_MAX], given_up_ms=rows.time_ms)
    rows.given_up[event.id] = row
    table.size(f"given_up/{event.id}", row)
    while len(rows.given_up) > GIVEN_UP_MAX:
        oldest = next(iter(rows.given_up))
        del rows.given_up[oldest]
        table.size(f"given_up/{oldest}", None)

"""What a run waits for, gate by gate: each run and tick with its state, since when, until when (P11, R22)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from agent.runtable.gate_rows import Gate, GateKind, GateState, OnFailure, TriggerRule
from agent.runtable.gates import MISSING, run_state
from agent.runtable.model import Run, RunState
from agent.runtable.table import Table
from agent.runtable.tick_runs import tick_run

AWAITED_MAX: Final = 1000  # told of one gate, those first that keep it shut (P12)
FORGOTTEN: Final = "forgotten"
_GOOD: Final = frozenset({RunState.SUCCESS.value})


@dataclass(frozen=True, slots=True)
class Awaited:
    """One run or tick. run_id: "" = there is none yet. scheduled_at_ms: of a tick. state: a run's, or "missing"."""

    job: str
    run_id: str
    scheduled_at_ms: int | None
    state: str


@dataclass(frozen=True, slots=True)
class GateExplanation:
    """One gate's answer. Times are milliseconds since the epoch.

    until_ms: None = it waits no more, or as long as what it waits for takes.
    count: how many runs or ticks it waits for, of which `awaited` tells the first.
    """

    kind: str
    what: str
    state: str
    why: str
    since_ms: int
    until_ms: int | None
    count: int
    awaited: tuple[Awaited, ...]


def explain_gates(table: Table, run: Run) -> list[GateExplanation]:
    """One line for each gate of the run, in order. What it waits for is told as it stands now."""
    return [_explanation(table, gate) for gate in run.gates]


def _explanation(table: Table, gate: Gate) -> GateExplanation:
    awaited = _awaited(table, gate)
    awaited.sort(key=lambda one: one.state in _GOOD)
    return GateExplanation(
        gate.plan.kind,
        what_of(gate),
        gate.state,
        _why(gate, awaited),
        gate.since_ms,
        gate.due_ms,
        len(awaited),
        tuple(awaited[:AWAITED_MAX]),
    )


def _awaited(table: Table, gate: Gate) -> list[Awaited]:
    plan = gate.plan
    job = f"{plan.project}/{plan.job}"
    if plan.kind is GateKind.RUN:
        return [Awaited(job, plan.run_id, None, run_state(table, plan.run_id) or FORGOTTEN)]
    found = []
    for tick_ms in plan.ticks_ms:
        run_id, state = tick_run(table, plan.project, plan.job, tick_ms) or ("", MISSING)
        found.append(Awaited(job, run_id, tick_ms, state))
    return found


def what_of(gate: Gate) -> str:
    """What a gate waits for, in words."""
    plan = gate.plan
    if plan.kind is GateKind.RUN:
        return f"run {plan.run_id} of {plan.project}/{plan.job}"
    if plan.kind is GateKind.HTTP:
        return f"http {plan.name}"
    ticks = f"{len(plan.ticks_ms)} ticks" if len(plan.ticks_ms) != 1 else f"tick {_moment(plan.ticks_ms[0])}"
    return f"{plan.project}/{plan.job}: {ticks}"


def gate_sentence(gate: Gate) -> str:
    """How a gate ended its run."""
    if gate.timed_out:
        return f"{what_of(gate)} was awaited in vain"
    return f"{what_of(gate)} {'means that it is skipped' if gate.state is GateState.SKIPPED else 'failed'}"


def _why(gate: Gate, awaited: list[Awaited]) -> str:
    rule = "" if gate.plan.rule is TriggerRule.ALL_SUCCESS else f" (trigger rule {gate.plan.rule})"
    if gate.plan.kind is GateKind.HTTP:
        return _why_http(gate) + rule
    good = sum(one.state in _GOOD for one in awaited)
    told = f"{good} of {len(awaited)} succeeded" if len(awaited) != 1 else f"it is {awaited[0].state}"
    if not gate.waits:
        return f"{_ended(gate)}; {told}{rule}"
    after = "; a failed one may still be mended" if gate.plan.on_failure is OnFailure.WAIT else ""
    return f"waits: {told}{rule}" + (after if gate.plan.kind is GateKind.TICKS else "")


def _why_http(gate: Gate) -> str:
    if gate.state is GateState.OPEN:
        return f"met: {gate.message}"
    last = f"asked {gate.asked} times, last answer: {gate.message}" if gate.asked else "not asked yet"
    if not gate.waits:
        return f"{_ended(gate)}; {last}"
    return f"waits for an answer with 2xx: {last}; asked again at {_moment(gate.next_ms)}"


def _ended(gate: Gate) -> str:
    if gate.timed_out:
        return "its time is over"
    return {GateState.OPEN: "open", GateState.SKIPPED: "its run is skipped"}.get(gate.state, "its run cannot begin")


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

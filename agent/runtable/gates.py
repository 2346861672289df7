"""What a run waits for before any of its instances (ARCHITECTURE.md, "What runs wait for").

`settle` is the one place that opens a gate or shuts it; it is called whenever something that a run waits for has
changed, and is pure as all that `apply.py` calls.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from agent.runtable import commands as c
from agent.runtable.gate_rows import Gate, GateKind, GatePlan, GateState, OnFailure
from agent.runtable.lifecycle import enter
from agent.runtable.model import InstanceState, Run, RunState
from agent.runtable.table import Table
from agent.runtable.tick_runs import tick_run
from agent.runtable.trigger_rules import Decision, decide

GATES_MAX: Final = 100  # of a run (P12)
TICKS_MAX: Final = 10_000  # that a run waits for: a year of hours, and some (P12)
MESSAGE_CHARACTERS_MAX: Final = 500
MISSING: Final = "missing"  # the state of a tick without a run; it is not final, so it is waited for


# -- what is awaited ---------------------------------------------------------------------------------------------------


def run_state(table: Table, run_id: str) -> RunState | None:
    """The state of a run, which may have finished; None = nothing is known of it any more."""
    run = table.rows.runs.get(run_id)
    if run is not None:
        return run.state
    row = table.rows.finished.get(run_id)
    return row.state if row is not None else None


def awaited_states(table: Table, gate: Gate) -> list[str]:
    """The states of all that a gate waits for."""
    plan = gate.plan
    if plan.kind is GateKind.RUN:
        return [run_state(table, plan.run_id) or RunState.FAILED]  # what is forgotten cannot succeed any more
    if plan.kind is GateKind.TICKS:
        known = [tick_run(table, plan.project, plan.job, tick_ms) for tick_ms in plan.ticks_ms]
        return [one[1] if one is not None else MISSING for one in known]
    return [MISSING]  # an answer with 2xx opens it at once


def verdict(table: Table, gate: Gate) -> GateState:
    """What becomes of a gate that waits, by the states of what it waits for."""
    plan = gate.plan
    decision = decide(plan.rule, awaited_states(table, gate))
    if decision is Decision.RUN:
        return GateState.OPEN
    if decision is Decision.SKIPPED:
        return GateState.SKIPPED
    if decision is Decision.WAIT or (plan.on_failure is OnFailure.WAIT and plan.kind is not GateKind.RUN):
        return GateState.WAITING
    return GateState.SKIPPED if plan.on_failure is OnFailure.SKIP else GateState.FAILED


# -- how a run waits ---------------------------------------------------------------------------------------------------


def refuse(table: Table, plans: Sequence[GatePlan], beside: Collection[str] = ()) -> str | None:
    """Why a run cannot be accepted with these gates. beside: ids of runs that are accepted with it, before it."""
    if len(plans) > GATES_MAX or sum(len(plan.ticks_ms) for plan in plans) > TICKS_MAX:
        return "too_many_gates"
    if not all(map(_well_formed, plans)):
        return "invalid"
    named = [plan.run_id for plan in plans if plan.kind is GateKind.RUN]
    unknown = any(run_id not in beside and run_state(table, run_id) is None for run_id in named)
    return "unknown_run" if unknown else None


def _well_formed(plan: GatePlan) -> bool:
    if plan.ticks_ms and plan.kind is not GateKind.TICKS:
        return False
    if plan.timeout_ms is None:
        return plan.kind is GateKind.RUN
    return plan.timeout_ms > 0 and plan.every_ms > 0


def put(run: Run, plans: Sequence[GatePlan], now_ms: int) -> None:
    """Give a run that is being accepted its gates: its time does not run before they are open."""
    run.gates = [_waiting(plan, now_ms) for plan in plans]
    if run.gates:
        run.deadline_ms = 0


def _waiting(plan: GatePlan, now_ms: int) -> Gate:
    due_ms = None if plan.timeout_ms is None else now_ms + plan.timeout_ms
    return Gate(plan, since_ms=now_ms, due_ms=due_ms, next_ms=now_ms)


def wait_again(run: Run, now_ms: int, beside: Collection[str] = ()) -> None:
    """A finished run is brought back: it waits again where it had not got through, and for those brought back with it.

    beside: ids of these.
    """
    for number, gate in enumerate(run.gates):
        if gate.state is not GateState.OPEN or gate.plan.run_id in beside:
            run.gates[number] = _waiting(gate.plan, now_ms)
    start_time(run, now_ms)


def start_time(run: Run, now_ms: int) -> None:
    """A run has its place: its time runs, unless a gate of it waits."""
    run.deadline_ms = 0 if any(gate.waits for gate in run.gates) else now_ms + run.timeout_ms


def settle(table: Table, run: Run) -> None:
    """Judge the gates of a run that waits, by what they wait for now, and begin or end it where that is decided.

    One that waits for its place as well (`limits.py`) is ended too, and begins with its place.
    """
    if run.begun or run.ending:
        return
    for number, gate in enumerate(run.gates):
        if gate.waits:
            _move(table, run, number, verdict(table, gate))
    shut_by = run.shut_by
    if shut_by is not None:
        skips = shut_by.state is GateState.SKIPPED
        _end(table, run, InstanceState.SKIPPED if skips else InstanceState.UPSTREAM_FAILED)
    elif not run.held and all(gate.state is GateState.OPEN for gate in run.gates):
        start_time(run, table.rows.time_ms)
        table.deadlines.add_run(run)


def _move(table: Table, run: Run, number: int, state: GateState) -> None:
    gate = run.gates[number]
    if state is not gate.state:
        gate.state, gate.since_ms, gate.due_ms = state, table.rows.time_ms, None
        table.index_gate(run, number)


def _end(table: Table, run: Run, state: InstanceState) -> None:
    """Nothing of it starts: its fail hooks neither, for nothing of it has failed."""
    for instance in run.instances:
        if not instance.final:
            enter(table, run, instance, state)


def time_out(table: Table, run: Run, number: int) -> None:
    """The time of a gate is over."""
    run.gates[number].timed_out = True
    _move(table, run, number, GateState.FAILED)


def answered(table: Table, cmd: c.GateAnswered) -> str:
    """A request of an http gate was answered."""
    run = table.rows.runs.get(cmd.run_id)
    if run is None:
        return "run_final" if cmd.run_id in table.rows.finished else "unknown_run"
    gate = run.gates[cmd.gate] if cmd.gate < len(run.gates) else None
    if gate is None or gate.plan.kind is not GateKind.HTTP:
        return "unknown_gate"
    if not gate.waits or gate.asked != cmd.asked:
        return "stale"
    gate.asked += 1
    gate.message = cmd.message[:MESSAGE_CHARACTERS_MAX]
    gate.next_ms = table.rows.time_ms + gate.plan.every_ms
    if cmd.met:
        _move(table, run, cmd.gate, GateState.OPEN)
    else:
        table.awaiting.index(run, cmd.gate)
    return "ok"

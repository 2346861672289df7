"""What must hold of gates after every command: the part of `invariants.py` that speaks of what runs wait for."""

from __future__ import annotations

from agent.runtable.gate_rows import GateKind, GateState
from agent.runtable.gates import verdict
from agent.runtable.model import InstanceState, Run
from agent.runtable.table import Table


def check_gates(table: Table, run: Run) -> None:
    """Raise AssertionError for a run that waits in vain, or goes on although it has to wait."""
    waiting = [gate for gate in run.gates if gate.waits]
    assert run.shut_by is None, f"{run.id}: a gate has ended it, and it goes on"
    assert run.begun == (not waiting and not run.held), f"{run.id}: begun although it waits, or waits for nothing (P1)"
    if not run.begun:
        idle = all(one.final or one.state is InstanceState.PENDING for one in run.instances)
        assert idle, f"{run.id}: an instance is at work before the run has begun"
    for number, gate in enumerate(run.gates):
        where = f"{run.id}, gate {number} ({gate.plan.kind})"
        assert gate.waits or gate.due_ms is None, f"{where}: has a deadline it cannot need"
        if gate.waits:
            there = gate.plan.kind is GateKind.RUN and gate.plan.run_id in table.rows.runs
            assert there or gate.due_ms is not None, f"{where}: waits without a deadline (P1)"
            assert verdict(table, gate) is GateState.WAITING, f"{where}: is decided, and waits"

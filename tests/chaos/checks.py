"""What the promises say of the log, looked at when its entries are applied for the first time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from agent.runtable import commands as c
from agent.runtable.apply import Applied
from agent.runtable.model import RunState
from agent.runtable.table import Table
from consensus.messages import Entry, EntryKind
from tests.simulator.invariants import Violation

if TYPE_CHECKING:
    from tests.chaos.cluster import ChaosCluster


class Checks:
    """index: the last entry that anybody has applied. final: how each run has ended."""

    def __init__(self, cluster: ChaosCluster) -> None:
        self._cluster = cluster
        self.index = 0
        self.final: dict[str, RunState] = {}
        self.run_of_key: dict[str, str] = {}
        self.answers: dict[str, str] = {}  # key -> the run or pipeline that a client was told of
        self.runs_of: dict[str, tuple[str, ...]] = {}  # of each pipeline
        self.accepted = 0
        self.counts: Counter[str] = Counter()

    def answered(self, key: str, run_id: str) -> None:
        """P2: a client was told that its request has this run."""
        if self.answers.setdefault(key, run_id) != run_id:
            self._cluster.broke(Violation(f"same request, same run (P2): {key} is {self.answers[key]} and {run_id}"))

    def applied_first(self, table: Table, entry: Entry, applied: Applied) -> None:
        """See `machine.Judge`."""
        self.index = entry.index
        command = c.decode(entry.data) if entry.kind is EntryKind.NORMAL and entry.data else None
        if command is None:
            return
        self.counts[f"{type(command).__name__} {applied.code}"] += 1
        if self._cluster.trace is not None:
            self._cluster.note(f"applied {entry.index}: {applied.code} {command}")
        for one in applied.finished:
            if one.run.id in self.final:
                raise Violation(f"final is final (P4): {one.run.id} ends again at {entry.index}")
            self.final[one.run.id] = one.run.state
            self.counts[f"runs that ended {one.run.state}"] += 1
        if isinstance(command, c.SubmitRun | c.SubmitPipeline):
            self._submitted(command, applied)
        elif isinstance(command, c.Assign) and applied.ok:
            self._assigned(table, command)
        elif isinstance(command, c.AgentLost) and applied.ok:
            self._lost(table, command)

    def _submitted(self, command: c.SubmitRun | c.SubmitPipeline, applied: Applied) -> None:
        asked = command.run_id if isinstance(command, c.SubmitRun) else command.pipeline
        if applied.code == "ok" and isinstance(command, c.SubmitPipeline):
            self.runs_of[asked] = tuple(one.run_id for one in command.runs)
        if applied.code == "ok":
            self.accepted += len(self.runs_of.get(asked, (asked,)))
        if applied.code == "ok" and self.run_of_key.setdefault(command.request, asked) != asked:
            raise Violation(f"same request, same run (P2): {command.request} is accepted again")
        if applied.ok and self.run_of_key[command.request] != applied.run_id:
            raise Violation(f"same request, same run (P2): {command.request} gets {applied.run_id}")

    def _assigned(self, table: Table, command: c.Assign) -> None:
        """What a run waits for has succeeded before anything of it is handed out."""
        run = table.rows.runs[command.run_id]
        for gate in run.gates:
            if self.final.get(gate.plan.run_id) is not RunState.SUCCESS:
                raise Violation(f"a run begins after those it waits for: {run.id} before {gate.plan.run_id}")

    def _lost(self, table: Table, command: c.AgentLost) -> None:
        """P3: whatever of that epoch could be fenced has ended before its loss counts."""
        engine = self._cluster.host(command.agent).engine
        for work in engine.works.values():
            if work.outcome is None and not work.waits and work.intent.epoch <= command.epoch:
                text = f"{work.name} runs when {command.agent} is lost with epoch {command.epoch}"
                raise Violation(f"lost means stopped (P3): {text}")

    def left(self) -> list[str]:
        """P1: the runs that a client was told of, and that have not ended."""
        told = [run_id for one in self.answers.values() for run_id in self.runs_of.get(one, (one,))]
        return sorted(run_id for run_id in told if run_id not in self.final)

"""Short ways to say things to a run table, with the invariants checked after every command."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from agent.runtable import commands as c
from agent.runtable import invariants
from agent.runtable.apply import Applied, apply
from agent.runtable.gate_rows import GatePlan
from agent.runtable.lifecycle import FinishedRun
from agent.runtable.model import (
    Agent,
    Attempt,
    Instance,
    InstanceKind,
    InstancePlan,
    InstanceState,
    OnAgentLost,
    Origin,
    Overlap,
    Reason,
    RetryPolicy,
    Run,
    TriggerRule,
)
from agent.runtable.notice_rows import Wanted
from agent.runtable.planner import plan
from agent.runtable.replay_invariants import check_replay_step
from agent.runtable.table import Table, pack_run, unpack_run

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


def task(name: str = "bq2bq", after: tuple[str, ...] = (), **fields: object) -> InstancePlan:
    """A task's plan, run by the mock executor."""
    return _plan(name, InstanceKind.TASK, after, fields)


def hook(name: str, kind: InstanceKind, after: tuple[str, ...] = (), **fields: object) -> InstancePlan:
    """A hook's plan."""
    return _plan(name, kind, after, fields)


def _plan(name: str, kind: InstanceKind, after: tuple[str, ...], fields: dict[str, object]) -> InstancePlan:
    retry = fields.pop("retry", RetryPolicy())
    timeout_ms = fields.pop("timeout_ms", None)
    executor = fields.pop("executor", "mock")
    choice = fields.pop("on_agent_lost", OnAgentLost.RERUN)
    labels = fields.pop("labels", {})
    rule = fields.pop("rule", TriggerRule.ALL_SUCCESS)
    allow, codes = fields.pop("allow_failure", False), fields.pop("skip_exit_codes", ())
    pool, slots, weight = fields.pop("pool", ""), fields.pop("pool_slots", 1), fields.pop("weight", 1)
    assert not fields
    assert isinstance(pool, str)
    assert isinstance(slots, int)
    assert isinstance(weight, int)
    assert isinstance(rule, TriggerRule)
    assert isinstance(allow, bool)
    assert isinstance(codes, tuple)
    assert isinstance(retry, RetryPolicy)
    assert timeout_ms is None or isinstance(timeout_ms, int)
    assert isinstance(executor, str)
    assert isinstance(choice, OnAgentLost)
    assert isinstance(labels, dict)
    constraints = tuple(sorted(labels.items()))
    placed = (executor, retry, timeout_ms, choice, constraints)
    return InstancePlan(name, kind, name, after, *placed, rule, allow, codes, pool, slots, weight)


def at_level_2(monkeypatch: pytest.MonkeyPatch, command: type[c.Command]) -> None:
    """The program is of a release in which this command came to be."""
    levels: dict[type[c.Command], int] = {**c.LEVELS, command: 2}
    monkeypatch.setattr(c, "LEVELS", levels)
    monkeypatch.setattr(c, "LEVEL", 2)


NO_RETRY = RetryPolicy()


def job_with_hooks(retry: RetryPolicy = NO_RETRY) -> tuple[InstancePlan, ...]:
    """pre -> task -> post, and a fail hook."""
    return (
        hook("check", InstanceKind.PRE),
        task("bq2bq", ("check",), retry=retry),
        hook("notify", InstanceKind.POST, ("bq2bq",)),
        hook("rescue", InstanceKind.FAIL),
    )


@dataclass
class Driver:
    """A run table with one agent, a clock that only moves when told, and a planner that is asked by hand."""

    table: Table = field(default_factory=Table)
    now_ms: int = START_MS
    index: int = 0
    seq: int = 0
    finished: list[FinishedRun] = field(default_factory=list)
    log: list[bytes] = field(default_factory=list)

    def say(self, command: c.AnyCommand, *, checked: bool = True) -> Applied:
        """Apply a command and check every invariant, the promise that final is final included.

        checked: not where thousands of commands would make that the whole of a test's time.
        """
        if not checked:
            self.index += 1
            self.log.append(c.encode(command))
            return apply(self.table, self.index, self.log[-1])
        before = {run.id: unpack_run(pack_run(run)) for run in self.table.rows.runs.values()}
        replays = dict(self.table.rows.replays)
        self.index += 1
        self.log.append(c.encode(command))
        applied = apply(self.table, self.index, self.log[-1])
        invariants.check(self.table)
        for run in (*self.table.rows.runs.values(), *(f.run for f in applied.finished)):
            old = before.get(run.id)
            if old is not None:
                cleared = command.instances if isinstance(command, c.ClearRun) else ()
                invariants.check_step({i.plan.name: i.state for i in old.instances}, run, cleared)
                invariants.check_attempts(old, run)
        for replay_id, replay in self.table.rows.replays.items():
            if replay_id in replays:
                check_replay_step(replays[replay_id], replay)
        self.finished += applied.finished
        return applied

    def found(self, slots: int = 4, executors: tuple[str, ...] = ("mock",)) -> Driver:
        """A cluster of one agent with a project."""
        self.say(c.Found(self.now_ms, "c1", 1))
        self.say(c.AgentUp(self.now_ms, Agent("a1", 0, "127.0.0.1:1", "http://127.0.0.1:2", slots, executors, "0")))
        self.say(c.PutProject(self.now_ms, "p"))
        return self

    def up(
        self,
        agent: str = "a1",
        slots: int = 4,
        *,
        node: int = 0,
        labels: dict[str, str] | None = None,
        executors: tuple[str, ...] = ("mock",),
        clean: bool = False,
        of: int = 0,
        unfenceable: tuple[str, ...] = (),
    ) -> Applied:
        """An agent says that it is there. of: the epoch whose work has ended, if it is clean."""
        row = Agent(
            agent,
            0,
            "127.0.0.1:1",
            "http://h",
            slots,
            executors,
            "0",
            node=node,
            labels=labels or {},
            unfenceable=unfenceable,
        )
        return self.say(c.AgentUp(self.now_ms, row, clean, of))

    def lose(self, agent: str = "a1", epoch: int | None = None) -> Applied:
        """The leader declares an agent lost, in its present epoch where none is given."""
        known = self.table.rows.agents.get(agent)
        return self.say(c.AgentLost(self.now_ms, agent, epoch or (known.epoch if known is not None else 1)))

    def cancel(self, run_id: str = "r1", *, assume_stopped: bool = False, teardown: bool = False) -> Applied:
        """An operator cancels a run."""
        return self.say(c.CancelRun(self.now_ms, run_id, "me", "a1", assume_stopped, teardown))

    def mark(self, name: str, state: InstanceState, run_id: str = "r1", *, assume_stopped: bool = False) -> Applied:
        """An operator marks an instance."""
        return self.say(c.MarkInstance(self.now_ms, run_id, name, state, "me", "a1", assume_stopped))

    def attempt(self, name: str = "bq2bq", run_id: str = "r1") -> Attempt:
        """The newest attempt of an instance."""
        attempt = self.instance(name, run_id).last
        assert attempt is not None
        return attempt

    def submit(
        self,
        *plans: InstancePlan,
        run_id: str = "r1",
        request: str = "",
        body: str = "b",
        origin: Origin = Origin.MANUAL,
        timeout_ms: int = 72 * HOUR_MS,
        queue_timeout_ms: int = 24 * HOUR_MS,
        project: str = "p",
        job: str = "j",
        max_active: int = 0,
        overlap: Overlap = Overlap.ALLOW,
        scheduled_at_ms: int = START_MS,
        gates: tuple[GatePlan, ...] = (),
        checked: bool = True,
        wants: tuple[Wanted, ...] = (),
    ) -> Applied:
        """Ask for a run of these instances."""
        return self.say(
            c.SubmitRun(
                self.now_ms,
                run_id,
                project,
                "n",
                job,
                scheduled_at_ms,
                origin,
                "me",
                "a1",
                request,
                body,
                HOUR_MS,
                "bundle",
                timeout_ms,
                queue_timeout_ms,
                plans or (task(),),
                max_active,
                overlap,
                gates,
                "",
                wants,
            ),
            checked=checked,
        )

    def plan(self) -> list[c.AnyCommand]:
        """Let the planner plan once, and apply what it proposes."""
        commands = plan(self.table, self.now_ms)
        for command in commands:
            self.say(command)
        return commands

    def pass_time(self, ms: int) -> None:
        """Let time pass, and let the planner see it."""
        self.now_ms += ms
        self.plan()

    def start(self, name: str, run_id: str = "r1") -> Applied:
        """The worker says that the newest attempt has started."""
        attempt = self.instance(name, run_id).last
        assert attempt is not None
        self.seq += 1
        return self.say(
            c.InstanceStarted(
                self.now_ms, run_id, name, attempt.number, attempt.agent, attempt.epoch, self.seq, self.now_ms, None, {}
            )
        )

    def end(self, name: str, reason: Reason | None = None, run_id: str = "r1", exit_code: int | None = None) -> Applied:
        """The worker says how the newest attempt has ended."""
        attempt = self.instance(name, run_id).last
        assert attempt is not None
        self.seq += 1
        code = exit_code if exit_code is not None else (0 if reason is None else 1)
        return self.say(
            c.InstanceEnded(
                self.now_ms,
                run_id,
                name,
                attempt.number,
                attempt.agent,
                attempt.epoch,
                self.seq,
                reason,
                code,
                "",
                attempt.started_at_ms,
                self.now_ms,
                None,
                {},
            )
        )

    def go(self, name: str, reason: Reason | None = None, run_id: str = "r1", *, exit_code: int | None = None) -> None:
        """Assign, start and end the newest attempt of an instance."""
        self.plan()
        self.start(name, run_id)
        self.end(name, reason, run_id, exit_code)

    def run(self, run_id: str = "r1") -> Run:
        """The run, in the table or finished."""
        if run_id in self.table.rows.runs:
            return self.table.rows.runs[run_id]
        return next(f.run for f in reversed(self.finished) if f.run.id == run_id)

    def instance(self, name: str, run_id: str = "r1") -> Instance:
        """An instance of a run."""
        instance = self.run(run_id).instance(name)
        assert instance is not None
        return instance

    def states(self, run_id: str = "r1") -> dict[str, InstanceState]:
        """The state of every instance of a run."""
        return {i.plan.name: i.state for i in self.run(run_id).instances}

"""Random commands in random order: every invariant after every one, and the same rows on every replica.

`Driver.say` runs `invariants.check` after each command. A failure prints the commands that led to it.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, get_args, get_origin

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from agent.runtable import commands as c
from agent.runtable.apply import REFUSALS, apply
from agent.runtable.explain import explain
from agent.runtable.model import (
    Agent,
    InstanceKind,
    InstancePlan,
    InstanceState,
    Limits,
    Origin,
    Reason,
    RetryPolicy,
)
from agent.runtable.planner import plan
from agent.runtable.table import Table, unpack_run
from tests.runtable.builders import HOUR_MS, START_MS, Driver, hook, task

NAMES = ("a", "b", "t", "p", "f", "g")


@st.composite
def jobs(draw: st.DrawFn) -> tuple[InstancePlan, ...]:
    """Some pre hooks, a task, some post and fail hooks."""
    retry = RetryPolicy(draw(st.integers(0, 2)), draw(st.sampled_from([0, 1, 60])), draw(st.booleans()), None)
    timeout_ms = draw(st.sampled_from([None, 1000, HOUR_MS]))
    plans = []
    if draw(st.booleans()):
        plans.append(hook("a", InstanceKind.PRE, retry=retry))
        if draw(st.booleans()):
            plans.append(hook("b", InstanceKind.PRE, draw(st.sampled_from([(), ("a",)]))))
    plans.append(task("t", tuple(one.name for one in plans), retry=retry, timeout_ms=timeout_ms))
    if draw(st.booleans()):
        plans.append(hook("p", InstanceKind.POST, ("t",)))
    if draw(st.booleans()):
        plans.append(hook("f", InstanceKind.FAIL))
        if draw(st.booleans()):
            plans.append(hook("g", InstanceKind.FAIL, ("f",), retry=retry))
    return tuple(plans)


class RunTableMachine(RuleBasedStateMachine):
    """One table under random commands, its twin fed from the log, and a loaded copy from time to time."""

    runs = Bundle("runs")

    @initialize(slots=st.integers(0, 3))
    def found(self, slots: int) -> None:
        self.driver = Driver().found(slots=slots)
        self.driver.say(c.SetLimits(START_MS, Limits(runs_max=5, finished_max=3)))
        self.twin = Table()
        self.count = 0

    @rule(
        target=runs,
        plans=jobs(),
        request=st.sampled_from(["", "k1", "k2"]),
        origin=st.sampled_from([Origin.MANUAL, Origin.SCHEDULE]),
        body=st.sampled_from(["x", "y"]),
    )
    def submit(self, plans: tuple[InstancePlan, ...], request: str, origin: Origin, body: str) -> str:
        self.count += 1
        return self.driver.submit(
            *plans, run_id=f"r{self.count}", request=request, origin=origin, body=body, timeout_ms=4 * HOUR_MS
        ).run_id

    @rule()
    def plan_once(self) -> None:
        self.driver.plan()

    @rule(ms=st.sampled_from([1, 1000, 60_000, HOUR_MS, 30 * HOUR_MS]))
    def pass_time(self, ms: int) -> None:
        self.driver.pass_time(ms)

    @rule(run_id=runs, name=st.sampled_from(NAMES), reason=st.sampled_from([None, None, *Reason]))
    def end(self, run_id: str, name: str, reason: Reason | None) -> None:
        if self._has_attempt(run_id, name):
            self.driver.end(name, reason, run_id)

    @rule(run_id=runs, name=st.sampled_from(NAMES))
    def start(self, run_id: str, name: str) -> None:
        if self._has_attempt(run_id, name):
            self.driver.start(name, run_id)

    @rule(run_id=runs)
    def cancel(self, run_id: str) -> None:
        self.driver.say(c.CancelRun(self.driver.now_ms, run_id, "me", "a1"))

    @rule(run_id=runs, name=st.sampled_from(NAMES), state=st.sampled_from(InstanceState))
    def mark(self, run_id: str, name: str, state: InstanceState) -> None:
        self.driver.say(c.MarkInstance(self.driver.now_ms, run_id, name, state, "me", "a1"))

    @rule(run_id=runs, names=st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    def clear(self, run_id: str, names: list[str]) -> None:
        record = next((f.record for f in reversed(self.driver.finished) if f.run.id == run_id), b"")
        row = self.driver.table.rows.finished.get(run_id)
        index = row.index if row is not None else 0
        self.driver.say(c.ClearRun(self.driver.now_ms, run_id, tuple(names), record, index, "me", "a1", "clear"))

    @rule(slots=st.integers(0, 3))
    def agent_up(self, slots: int) -> None:
        self.driver.say(c.AgentUp(self.driver.now_ms, Agent("a1", 0, "", "", slots, ("mock",), "0")))

    @rule()
    def restart_from_a_snapshot(self) -> None:
        self.driver.table = Table.load(self.driver.table.dump())

    @invariant()
    def a_replica_that_applied_the_same_log_has_the_same_rows(self) -> None:
        for index, data in enumerate(self.driver.log[self.twin.rows.index :], start=self.twin.rows.index + 1):
            apply(self.twin, index, data)
        assert self.twin.dump() == self.driver.table.dump()

    @invariant()
    def everything_that_waits_is_explained_p11(self) -> None:
        for run in self.driver.table.rows.runs.values():
            assert all(e.why for e in explain(self.driver.table, run))

    def teardown(self) -> None:
        """Whatever was said, everything accepted ends once its work does and time passes (P1)."""
        driver = self.driver
        driver.say(c.AgentUp(driver.now_ms, Agent("a1", 0, "", "", 8, ("mock",), "0")))
        for _ in range(40):
            driver.pass_time(HOUR_MS)
            for run in list(driver.table.rows.runs.values()):
                for instance in run.instances:
                    if instance.open_attempt is not None:
                        driver.end(instance.plan.name, Reason.EXIT_CODE, run.id)
        assert driver.table.rows.runs == {}

    def _has_attempt(self, run_id: str, name: str) -> bool:
        run = self.driver.table.rows.runs.get(run_id)
        instance = run.instance(name) if run is not None else None
        return instance is not None and instance.last is not None


RunTableMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRunTable = RunTableMachine.TestCase


@given(st.binary(max_size=200))
@example(b"\x91\xa3\x00\x00\x80")  # a text that is no UTF-8
@settings(max_examples=300)
def test_no_bytes_make_apply_raise(data: bytes) -> None:
    applied = apply(Driver().found().table, 9, data)
    assert applied.code in REFUSALS or applied.ok
    assert unpack_run(data) is None


WORDS = st.sampled_from(["", "p", "n", "j", "r1", "t", "a1"]) | st.text(max_size=3)
COUNTS = st.sampled_from([0, 1, 2, START_MS, 2**53]) | st.integers(0, 2**53)


def values(kind: object) -> st.SearchStrategy[object]:
    """Values of a field's type, within the bounds that decoding enforces."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return COUNTS if arguments[0] is int else st.floats(0, 1e9)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(WORDS, values(arguments[1]), max_size=2)
    if arguments:  # a union
        return st.one_of([values(one) for one in arguments])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {field.name: values(field.type) for field in msgspec.structs.fields(kind)}
        return st.builds(kind, **fields)
    simple = {str: WORDS, bytes: st.binary(max_size=20), bool: st.booleans(), int: st.integers(1, 3)}
    return simple[kind] if kind in simple else st.none()


commands = st.one_of([values(kind) for kind in get_args(c.AnyCommand)])


@given(st.lists(commands, max_size=8))
@settings(max_examples=200, deadline=None)
def test_no_sequence_of_commands_makes_apply_raise(sequence: list[c.AnyCommand]) -> None:
    driver = Driver().found()
    for command in sequence:
        data = c.encode(command)
        assert c.decode(data) == command
        driver.index += 1
        applied = apply(driver.table, driver.index, data)
        assert applied.code in {"ok", "duplicate"} or applied.code in REFUSALS
        plan(driver.table, driver.now_ms)
        driver.table.dump()

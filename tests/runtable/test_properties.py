"""Random commands in random order: every invariant after every one, and the same rows on every replica.

`Driver.say` runs `invariants.check` after each command. A failure prints the commands that led to it.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, get_args, get_origin

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, initialize, invariant, multiple, rule

from agent.runtable import commands as c
from agent.runtable.apply import REFUSALS, apply
from agent.runtable.explain import explain
from agent.runtable.explain_gates import explain_gates
from agent.runtable.gate_rows import GateKind, GatePlan, OnFailure
from agent.runtable.model import (
    AttemptState,
    InstanceKind,
    InstancePlan,
    InstanceState,
    LeaseTerms,
    Limits,
    OnAgentLost,
    Origin,
    Overlap,
    Reason,
    RetryPolicy,
    RetryRule,
    RunState,
    TriggerRule,
)
from agent.runtable.notice_rows import EventKind, Wanted
from agent.runtable.planner import plan
from agent.runtable.replay_rows import Reprocess
from agent.runtable.replay_words import explain_replay
from agent.runtable.table import Table, unpack_run
from tests.runtable.builders import HOUR_MS, START_MS, Driver, hook, task
from tests.runtable.replaying import Replaying, plan_of, template

NAMES = ("s", "a", "b", "t", "p", "f", "g", "d")
RULES = st.sampled_from([TriggerRule.ALL_SUCCESS, *TriggerRule])
CODES = st.sampled_from([(), (), (1, 99)])
AGENTS = st.sampled_from(["a1", "a2", "a3"])
PICK = st.integers(0, 9)
CLEAN = st.sampled_from([True, True, False])
WANTS = (
    Wanted(EventKind.FAILURE, "pager", "0", resolves=True),
    Wanted(EventKind.SUCCESS, "hook", "1"),
    Wanted(EventKind.RETRY, "hook", "2"),
    Wanted(EventKind.SLA_MISS, "pager", "3", within_ms=HOUR_MS),
    Wanted(EventKind.SLA_MISS, "hook", "4", "t", 60_000),
    Wanted(EventKind.REPLAY, "hook", "5"),
)
Owned = tuple[str, str, int, str, int]  # run, instance, number, agent, epoch


@st.composite
def jobs(draw: st.DrawFn) -> tuple[InstancePlan, ...]:
    """Some setup and pre hooks, a task, some post, fail and teardown hooks."""
    rules = draw(st.sampled_from([(), (RetryRule(1, False),), (RetryRule(1, True, 7),)]))
    retry = RetryPolicy(draw(st.integers(0, 2)), draw(st.sampled_from([0, 1, 60])), draw(st.booleans()), None, rules)
    timeout_ms = draw(st.sampled_from([None, 1000, HOUR_MS]))
    choice, labels = draw(st.sampled_from(OnAgentLost)), draw(st.sampled_from([{}, {}, {"gpu": "yes"}]))
    plans = []
    if draw(st.booleans()):
        plans.append(hook("a", InstanceKind.PRE, retry=retry, on_agent_lost=choice, skip_exit_codes=draw(CODES)))
        if draw(st.booleans()):
            plans.append(hook("b", InstanceKind.PRE, draw(st.sampled_from([(), ("a",)])), rule=draw(RULES)))
    before = tuple(one.name for one in plans)
    allow, codes = draw(st.booleans()), draw(CODES)
    plans.append(
        task(
            "t",
            before,
            retry=retry,
            timeout_ms=timeout_ms,
            on_agent_lost=choice,
            labels=labels,
            pool=draw(st.sampled_from(["", "", "x"])),
            weight=draw(st.sampled_from([1, 1, 5])),
            allow_failure=allow,
            skip_exit_codes=codes,
        )
    )
    if draw(st.booleans()):
        plans.insert(0, hook("s", InstanceKind.SETUP, retry=retry, skip_exit_codes=draw(CODES)))
    if draw(st.booleans()):
        plans.append(hook("p", InstanceKind.POST, ("t",), rule=draw(RULES)))
    if draw(st.booleans()):
        plans.append(hook("f", InstanceKind.FAIL))
        if draw(st.booleans()):
            plans.append(hook("g", InstanceKind.FAIL, ("f",), retry=retry))
    if draw(st.booleans()):
        names, down = tuple(one.name for one in plans), TriggerRule.ALL_DONE_SETUP_SUCCESS
        plans.append(hook("d", InstanceKind.TEARDOWN, names, rule=down, retry=retry, on_agent_lost=choice))
    return tuple(plans)


@st.composite
def gates(draw: st.DrawFn) -> list[GatePlan]:
    """Up to two gates of ticks or http: ticks of the job k, which is among those that are asked for."""
    made = []
    for kind in draw(st.lists(st.sampled_from([GateKind.TICKS, GateKind.HTTP]), max_size=2)):
        ticks = draw(st.lists(st.integers(START_MS, START_MS + 2), max_size=2)) if kind is GateKind.TICKS else ()
        rule, on_failure = draw(RULES), draw(st.sampled_from(OnFailure))
        timeout_ms = draw(st.sampled_from([1000, HOUR_MS]))
        made.append(GatePlan(kind, "p", "k", "", tuple(ticks), "h", rule, on_failure, timeout_ms, 60_000))
    return made


SHAPES = [("",), ("", "0"), ("", "0", "01"), ("", "0", "0", "12")]
REQUEST = st.sampled_from(["", "", "k1", "k2"])


class RunTableMachine(RuleBasedStateMachine):
    """One table under random commands, its twin fed from the log, and a loaded copy from time to time."""

    runs = Bundle("runs")
    attempts = Bundle("attempts")

    @initialize(slots=st.integers(0, 3))
    def found(self, slots: int) -> None:
        self.driver = Replaying()
        self.driver.found(slots=slots)
        self.driver.up("a2", 2, node=2, labels={"gpu": "yes"}, unfenceable=("mock",))
        self.driver.say(c.SetLimits(START_MS, Limits(runs_max=8, finished_max=6, held_max=3)))
        self.driver.say(c.PutProject(START_MS, "p", pools={"x": 1}))
        self.twin = Table()
        self.count = 0
        self.said: c.ReplayTicks | None = None
        self.image = (self.driver.table.image(), self.driver.table.dump())

    @rule(
        target=runs,
        plans=jobs(),
        request=st.sampled_from(["", "k1", "k2"]),
        origin=st.sampled_from([Origin.MANUAL, Origin.SCHEDULE, Origin.REPLAY]),
        body=st.sampled_from(["x", "y"]),
        job=st.sampled_from(["j", "k"]),
        limits=st.tuples(st.sampled_from([0, 1, 1, 2]), st.sampled_from(Overlap)),
        told=st.booleans(),
    )
    def submit(
        self,
        plans: tuple[InstancePlan, ...],
        request: str,
        origin: Origin,
        body: str,
        job: str,
        limits: tuple[int, Overlap],
        told: bool,
    ) -> str:
        self.count += 1
        return self.driver.submit(
            *plans,
            run_id=f"r{self.count}",
            request=request,
            origin=origin,
            body=body,
            job=job,
            scheduled_at_ms=START_MS + self.count % 3,
            timeout_ms=4 * HOUR_MS,
            max_active=limits[0],
            overlap=limits[1],
            wants=WANTS if told else (),
        ).run_id

    @rule(pick=PICK, what=st.sampled_from(["delivered", "failed", "hopeless", "stale"]))
    def an_event_is_tried(self, pick: int, what: str) -> None:
        driver, events = self.driver, list(self.driver.table.rows.events.values())
        if not events:
            return
        event = events[pick % len(events)]
        word: c.AnyCommand = c.Delivered(driver.now_ms, event.id)
        if what != "delivered":
            tries = event.tries + (what == "stale")
            word = c.NotDelivered(driver.now_ms, event.id, tries, "it answered 500", 7000 * pick, what == "hopeless")
        assert driver.say(word).ok is (what != "stale")
        assert (event.id in driver.table.rows.events) is (what in ("failed", "stale"))
        assert (event.id in driver.table.rows.given_up) is (what == "hopeless")

    @rule(
        target=runs,
        plans=jobs(),
        gates=gates(),
        after=st.lists(PICK, max_size=2),
        tick=PICK,
        request=REQUEST,
        limits=st.sampled_from([(0, Overlap.ALLOW), (1, Overlap.QUEUE), (1, Overlap.CANCEL_PREVIOUS)]),
    )
    def submit_gated(
        self,
        plans: tuple[InstancePlan, ...],
        gates: list[GatePlan],
        after: list[int],
        tick: int,
        request: str,
        limits: tuple[int, Overlap],
    ) -> str:
        """A run that waits, for runs that are there among others."""
        self.count += 1
        plan = GatePlan(GateKind.RUN, "p", "j", rule=TriggerRule.ALL_SUCCESS, timeout_ms=None)
        known = [*self.driver.table.rows.runs, *self.driver.table.rows.finished, "nobody"]
        named = [msgspec.structs.replace(plan, run_id=known[one % len(known)]) for one in after]
        origin = Origin.SCHEDULE if tick < 2 else Origin.MANUAL
        return self.driver.submit(
            *plans,
            run_id=f"r{self.count}",
            request=request,
            origin=origin,
            job="k",
            scheduled_at_ms=START_MS + tick,
            gates=(*gates, *named),
            timeout_ms=4 * HOUR_MS,
            max_active=limits[0],
            overlap=limits[1],
        ).run_id

    @rule(target=runs, plans=jobs(), gates=gates(), shape=st.sampled_from(SHAPES), request=REQUEST)
    def submit_pipeline(
        self, plans: tuple[InstancePlan, ...], gates: list[GatePlan], shape: tuple[str, ...], request: str
    ) -> MultipleResults[str]:
        """shape: of each run, the places of those that it waits for."""
        ids = [f"r{self.count + place}" for place in range(1, 1 + len(shape))]
        self.count += len(shape)
        made = []
        for run_id, after in zip(ids, shape, strict=True):
            edges = [GatePlan(GateKind.RUN, "p", "j", ids[int(one)], timeout_ms=None) for one in after]
            some = [msgspec.structs.replace(one, rule=gates[0].rule if gates else one.rule) for one in edges]
            made.append(c.PipelineRun(run_id, "p", "n", "j", "b", HOUR_MS, HOUR_MS, plans, (*gates, *some)))
        now_ms, pipeline = self.driver.now_ms, f"p-{self.count}"
        applied = self.driver.say(
            c.SubmitPipeline(now_ms, pipeline, START_MS, "me", "a1", request, "x", HOUR_MS, tuple(made))
        )
        return multiple(*(ids if applied.code == "ok" else ()))

    @rule(pick=PICK, met=st.booleans())
    def a_request_is_answered(self, pick: int, met: bool) -> None:
        due = self.driver.table.awaiting.polls_due(self.driver.now_ms, 10)
        for _next_ms, run_id, number in due[pick : pick + 1]:
            asked = self.driver.table.rows.runs[run_id].gates[number].asked
            assert self.driver.say(c.GateAnswered(self.driver.now_ms, run_id, number, asked, met, "503")).ok

    @rule(pick=PICK, assume=st.booleans(), teardown=st.booleans())
    def cancel_pipeline(self, pick: int, assume: bool, teardown: bool) -> None:
        known = [*sorted(self.driver.table.pipelines), "p-nobody"]
        pipeline = known[pick % len(known)]
        self.driver.say(c.CancelPipeline(self.driver.now_ms, pipeline, "me", "a1", assume, teardown))

    @rule(run_ids=st.lists(runs, min_size=1, max_size=3, unique=True), assume=st.booleans())
    def bring_back(self, run_ids: list[str], assume: bool) -> None:
        cleared = []
        for run_id in run_ids:
            one = next((f for f in reversed(self.driver.finished) if f.run.id == run_id), None)
            row = self.driver.table.rows.finished.get(run_id)
            names = tuple(i.plan.name for i in one.run.instances) if one is not None else ("t",)
            index = row.index if row is not None else 0
            cleared.append(c.ClearedRun(run_id, names, one.record if one is not None else b"", index))
        self.driver.say(c.ClearRuns(self.driver.now_ms, tuple(cleared), "me", "a1", "retry", assume))

    @rule(
        count=st.integers(1, 4), first=st.integers(0, 6), parallel=st.integers(1, 2), reverse=st.booleans(),
        stop=st.booleans(), reprocess=st.sampled_from(Reprocess), plans=jobs(),
    )  # fmt: skip
    def create_replay(
        self, count: int, first: int, parallel: int, reverse: bool, stop: bool, reprocess: Reprocess,
        plans: tuple[InstancePlan, ...],
    ) -> None:  # fmt: skip
        plan = plan_of(
            count, first=first, parallel=parallel, reverse=reverse, stop=stop, reprocess=reprocess,
            run=msgspec.structs.replace(template(*plans, timeout_ms=4 * HOUR_MS), wants=WANTS),
        )  # fmt: skip
        self.count += 1
        self.driver.create(plan, f"r-{self.count}")

    @rule(count=st.integers(1, 3), gates=st.just([]) | gates())
    def lead_replays(self, count: int, gates: list[GatePlan]) -> None:
        for replay_id in list(self.driver.table.replaying.ready):
            said = self.driver.next(replay_id, count)
            self.said = msgspec.structs.replace(said, gates=(tuple(gates),) * len(said.ticks))
            self.driver.say(self.said)

    @rule()
    def a_leader_of_before_says_again_what_it_said(self) -> None:
        if self.said is not None:
            self.driver.say(self.said)

    @rule(pick=PICK, what=st.sampled_from(["cancel", "assume", "resume", "failed"]))
    def someone_runs_a_replay(self, pick: int, what: str) -> None:
        known = list(self.driver.table.rows.replays)
        replay_id = known[pick % len(known)] if known else "r-0"
        if what in {"cancel", "assume"}:
            self.driver.stop(assume=what == "assume", replay_id=replay_id)
        else:
            self.driver.resume(failed=what == "failed", replay_id=replay_id)

    @rule(target=runs)
    def a_run_of_a_replay_is_named(self) -> MultipleResults[str]:
        rows = self.driver.table.rows
        return multiple(*(run_id for key, run_id in rows.ticks.items() if "/r-" in key))

    @rule()
    def plan_once(self) -> None:
        self.driver.plan()

    @rule(ms=st.sampled_from([1, 1000, 60_000, 60_000, HOUR_MS, 30 * HOUR_MS]))
    def pass_time(self, ms: int) -> None:
        self.driver.pass_time(ms)

    @rule(pick=PICK, reason=st.sampled_from([None, None, *Reason]))
    def end(self, pick: int, reason: Reason | None) -> None:
        for run_id, name in self._picked(pick):
            self.driver.end(name, reason, run_id)

    @rule(pick=PICK)
    def start(self, pick: int) -> None:
        for run_id, name in self._picked(pick):
            self.driver.start(name, run_id)

    @rule(target=attempts, pick=PICK)
    def an_owner_writes_down_its_attempt(self, pick: int) -> MultipleResults[Owned]:
        picked = self._picked(pick)
        found = [(*key, self.driver.attempt(key[1], key[0])) for key in picked]
        return multiple(*((run, name, one.number, one.agent, one.epoch) for run, name, one in found))

    @rule(owned=attempts, ended=st.booleans())
    def an_owner_speaks_late(self, owned: Owned, ended: bool) -> None:
        """Whatever has become of its attempt; an attempt that has ended is not changed by it."""
        driver, now_ms = self.driver, self.driver.now_ms
        driver.seq += 1
        said: c.AnyCommand = c.InstanceStarted(now_ms, *owned, driver.seq, now_ms, None, {})
        if ended:
            said = c.InstanceEnded(now_ms, *owned, driver.seq, None, 0, "", now_ms, now_ms, None, {}, "0" * 64)
        run = driver.table.rows.runs.get(owned[0])
        instance = run.instance(owned[1]) if run is not None else None
        attempt = instance.open_attempt if instance is not None else None
        mine = attempt is not None and (attempt.number, attempt.agent, attempt.epoch) == owned[2:]
        started = mine and attempt is not None and attempt.state is AttemptState.RUNNING
        assert driver.say(said).ok is (mine and (ended or not started))

    @rule(run_id=runs, assume=st.booleans(), teardown=st.booleans())
    def cancel(self, run_id: str, assume: bool, teardown: bool) -> None:
        self.driver.cancel(run_id, assume_stopped=assume, teardown=teardown)

    @rule(run_id=runs, name=st.sampled_from(["", *NAMES]), state=st.sampled_from(InstanceState), assume=st.booleans())
    def mark(self, run_id: str, name: str, state: InstanceState, assume: bool) -> None:
        self.driver.mark(name, state, run_id, assume_stopped=assume)

    @rule(run_id=runs, names=st.lists(st.sampled_from(NAMES), max_size=3, unique=True), assume=st.booleans())
    def clear(self, run_id: str, names: list[str], assume: bool) -> None:
        record = next((f.record for f in reversed(self.driver.finished) if f.run.id == run_id), b"")
        row = self.driver.table.rows.finished.get(run_id)
        index = row.index if row is not None else 0
        self.driver.say(
            c.ClearRun(self.driver.now_ms, run_id, tuple(names), record, index, "me", "a1", "clear", assume)
        )

    @rule(
        target=runs,
        job=st.sampled_from(["j", "k"]),
        tick=st.integers(0, 1),
        state=st.sampled_from([RunState.SUCCESS, RunState.FAILED, RunState.RUNNING]),
    )
    def another_scheduler_reports(self, job: str, tick: int, state: RunState) -> str:
        self.count += 1
        run_id = f"r{self.count}"
        return self.driver.say(
            c.ImportRun(self.driver.now_ms, run_id, "p", "", job, START_MS + tick, state, "me", "a1")
        ).run_id

    @rule(name=AGENTS, slots=st.integers(0, 3), node=st.integers(0, 4), gpu=st.sampled_from(["yes", "no"]), clean=CLEAN)
    def agent_up(self, name: str, slots: int, node: int, gpu: str, clean: bool) -> None:
        unfenceable = ("mock",) if node % 2 else ()
        self.driver.up(name, slots, node=node, labels={"gpu": gpu}, clean=clean, unfenceable=unfenceable)

    @rule(name=AGENTS, epoch=st.sampled_from([None, None, 1, 2]))
    def agent_lost(self, name: str, epoch: int | None) -> None:
        self.driver.lose(name, epoch)

    @rule(name=AGENTS, what=st.sampled_from(["drain", "go on", "remove", "change the terms"]))
    def someone_runs_the_cluster(self, name: str, what: str) -> None:
        now_ms = self.driver.now_ms
        if what == "remove":
            self.driver.say(c.AgentRemoved(now_ms, name))
        elif what == "change the terms":
            self.driver.say(c.SetLeaseTerms(now_ms, LeaseTerms(1000)))
        else:
            self.driver.say(c.AgentDraining(now_ms, name, what == "drain"))

    @rule()
    def restart_from_a_snapshot(self) -> None:
        self.driver.table = Table.load([self.driver.table.dump()])

    @rule()
    def an_image_is_of_its_own_index_whatever_came_after(self) -> None:
        image, dump = self.image
        assert b"".join(image) == dump
        self.image = (self.driver.table.image(), self.driver.table.dump())

    @invariant()
    def an_image_is_of_the_rows_as_they_are(self) -> None:
        assert self.driver.table.dump() == Table(self.driver.table.rows).dump()

    @invariant()
    def a_replica_that_applied_the_same_log_has_the_same_rows(self) -> None:
        for index, data in enumerate(self.driver.log[self.twin.rows.index :], start=self.twin.rows.index + 1):
            apply(self.twin, index, data)
        assert self.twin.dump() == self.driver.table.dump()

    @invariant()
    def no_pool_is_over_its_slots(self) -> None:
        assert self.driver.table.taken.slots.get(("p", "x"), 0) <= 1

    @invariant()
    def everything_that_waits_is_explained_p11(self) -> None:
        for run in self.driver.table.rows.runs.values():
            assert all(e.why for e in explain(self.driver.table, run))
            assert all(gate.why for gate in explain_gates(self.driver.table, run))
        for replay in self.driver.table.rows.replays.values():
            assert explain_replay(self.driver.table, replay).why

    def teardown(self) -> None:
        """Whatever was said, everything accepted ends once its work does and time passes (P1).

        What is on agents that were lost is never heard of again.
        """
        driver = self.driver
        driver.up("a9", 8, labels={"gpu": "yes"})
        for _ in range(40):
            driver.pass_time(HOUR_MS)
            driver.lead()
            for run in list(driver.table.rows.runs.values()):
                for instance in run.instances:
                    if instance.open_attempt is not None and instance.state is not InstanceState.UNKNOWN:
                        driver.end(instance.plan.name, Reason.EXIT_CODE, run.id)
        assert driver.table.rows.runs == {}
        assert not driver.table.awaiting.of_runs
        assert not driver.table.awaiting.of_ticks
        assert all(replay.final for replay in driver.table.rows.replays.values())
        driver.pass_time(24 * HOUR_MS)
        assert driver.table.rows.events == {}

    def _picked(self, pick: int) -> list[tuple[str, str]]:
        """One of the instances with an open attempt, if there is any."""
        keys = sorted(key for keys in self.driver.table.assigned.values() for key in keys)
        return [keys[pick % len(keys)]] if keys else []


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
COUNTS = (0, 1, 2, START_MS, 2**53)


def values(kind: object) -> st.SearchStrategy[object]:
    """Values of a field's type, within the bounds that decoding enforces."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        least, most = arguments[1].ge, arguments[1].le
        edges = st.sampled_from([n for n in COUNTS if least <= n <= most])
        return edges | st.integers(least, most) if arguments[0] is int else st.floats(least, most)
    if origin is tuple:
        several = st.lists(values(arguments[0]), max_size=3).map(tuple)
        return several if arguments[-1] is Ellipsis else st.tuples(*map(values, arguments))
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
        driver.table.awaiting.polls_due(driver.now_ms, 9)
        driver.table.dump()

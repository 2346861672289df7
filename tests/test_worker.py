"""The worker over a whole agent: what it does when it is killed, what it leaves behind, and where secrets are.

A restart is acted by cancelling the worker and starting another on the same table, journal and engine.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec.structs import replace

from agent import retired
from agent import worker as worker_module
from agent.attempt import EndNote, Intent
from agent.errors import Refusal
from agent.gate import FOREVER, Open
from agent.housekeeping import named_in
from agent.runtable import commands as c
from agent.store.errors import BlobMissing
from agent.worker import Worker
from executors.base import AttemptSpec, Started
from executors.errors import EngineUnreachable, ExecutorError, ImageError
from executors.mock import MockEngine, MockExecutor
from tests.api.harness import AGENT, Prime, in_loop, prime
from tests.restarts import (
    GATE,
    Faulty,
    attempts,
    cleaned,
    entries,
    faulty,
    journaled,
    kill,
    name_of,
    records,
    shown,
    start,
    taken_up,
)


class Usage(NamedTuple):
    """What the worker asks of a disk."""

    free: int


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask an engine that is away again at once."""
    monkeypatch.setattr(worker_module, "ENGINE_WAIT_S", 0.01)
    monkeypatch.setattr(retired, "ENGINE_WAIT_S", 0.01)


# -- a killed agent ----------------------------------------------------------------------------------------------------


@in_loop
async def test_p3_an_intent_without_a_start_is_lost_and_never_started_again(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply()
        executor.held.add("start")  # the agent dies between its intent and the engine's hearing of it
        run = await agent.submit()
        await executor.met.wait()
        first = name_of(agent, run)
        assert (await entries(agent))[first].started is None
        await kill(agent)
        start(agent)
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "failed", "agent_lost"), (2, "success", None)]
        assert agent.engine.starts == {name_of(agent, run, 2): 1}


@in_loop
async def test_p3_a_start_whose_answer_was_lost_is_found_and_not_repeated(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        first = await agent.running(run["id"])
        executor.held.add("attach")
        await kill(agent)
        start(agent, executor)
        await executor.met.wait()
        await kill(agent)  # and dies again while it looks
        start(agent)
        agent.engine.release(first)
        assert shown(await agent.ended(run["id"])) == [(1, "success", None)]
        assert agent.engine.starts == {first: 1}


@in_loop
async def test_p4_an_end_that_was_journaled_and_not_told_is_told_as_it_was(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        await kill(agent)
        note = EndNote("exit_code", 7, "as it was journaled", 1, 2, {"fact": "kept"}, None)
        await journaled(agent, lambda: agent.worker._journal.ended(name, msgspec.msgpack.encode(note)))
        agent.engine.release(name)  # the engine says 0: the journal is believed
        start(agent)
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "failed", "exit_code")]
        assert ended["instances"][0]["attempts"][0]["exit_code"] == 7
        index = agent.replica.applied_index
        await cleaned(agent)
        await kill(agent)
        start(agent)  # nothing is left to tell
        await agent.call("GET", "/healthz")
        assert agent.replica.applied_index == index


@in_loop
async def test_a_reason_of_a_later_version_is_told_as_an_executors_error(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        await kill(agent)
        note = EndNote("meteorite", None, "it fell", 1, 2, {}, None)
        await journaled(agent, lambda: agent.worker._journal.ended(name, msgspec.msgpack.encode(note)))
        start(agent)
        assert shown(await agent.ended(run["id"])) == [(1, "failed", "executor_error")]


@in_loop
async def test_an_attempt_is_found_again_and_each_line_is_copied_once(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE, MOCK_OUTPUT="one\ntwo\n", MOCK_ERRORS="e\n", MOCK_OUTPUT_AT_END="3\n")
        run = await agent.submit()
        name = await agent.running(run["id"])
        copied = []
        async for line in agent.logs.follow(run["id"], "container", 1, ended=lambda: False):
            copied.append(line)
            if len(copied) == 3:
                break
        for _ in range(3):
            await kill(agent)
            await taken_up(start(agent), name)
        agent.engine.release(name)
        assert shown(await agent.ended(run["id"])) == [(1, "success", None)]
        assert records(agent, run) == ["one", "two", "e", "3"]
        assert agent.engine.starts == {name: 1}


@in_loop
async def test_a_found_attempt_keeps_its_capability(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        capability = agent.worker.driven[name].capability
        assert await journaled(agent, lambda: Worker.executors_in(agent.worker._journal)) == {"mock"}
        await kill(agent)
        worker = start(agent)
        await taken_up(worker, name)
        materials = await worker.materials(capability)
        assert materials is not None
        assert materials.run_id == run["id"]
        assert await worker.materials("") is None


@in_loop
async def test_p3_a_deadline_of_another_boot_is_over(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply()
        executor.held.add("start")
        run = await agent.submit()
        await executor.met.wait()
        await kill(agent)
        slow = Faulty(agent.engine)
        slow.absence_is_proof = False  # within the same boot it would have to wait for the not-after
        start(agent, slow, boot_id="another boot")
        assert shown(await agent.ended(run["id"]))[0] == (1, "failed", "agent_lost")


@in_loop
async def test_p3_what_may_still_begin_is_waited_for_until_its_not_after(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply()
        executor.held.add("start")
        run = await agent.submit()
        await executor.met.wait()
        await kill(agent)
        slow = Faulty(agent.engine)
        slow.absence_is_proof = False
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        start(agent, slow, boottime_s=lambda: now_s + slow.start_window_s - 0.1)
        ended = await agent.ended(run["id"])
        assert shown(ended)[0] == (1, "failed", "agent_lost")
        assert agent.engine.starts[name_of(agent, run)] == 0


@in_loop
async def test_p3_a_refusal_that_was_journaled_holds_after_a_restart(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, _executor):
        await agent.apply()
        await kill(agent)
        run = await agent.submit()
        await agent.until(lambda: attempts(agent, run))
        await journaled(agent, lambda: agent.worker._journal.refuse(name_of(agent, run), "the reason given then"))
        start(agent)
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "failed", "executor_error")]
        assert "the reason given then" in str(ended["instances"][0])
        assert not agent.engine.starts


class Ahead(Open):
    """The gate of an agent whose leader says more than its own table."""

    def __init__(self) -> None:
        self.told: set[tuple[str, str, int]] = set()
        self.lease_until_s = FOREVER
        self.shut = False
        self._news = asyncio.get_running_loop().create_future()

    def stops(self) -> set[tuple[str, str, int]]:
        return self.told

    def may_start(self, _epoch: int) -> bool:
        return not self.shut

    def until_s(self, _epoch: int) -> float:
        return self.lease_until_s

    def news(self) -> asyncio.Future[None]:
        return self._news

    def tell(self, *attempts: tuple[str, str, int]) -> None:
        self.told.update(attempts)
        news, self._news = self._news, asyncio.get_running_loop().create_future()
        news.set_result(None)


@in_loop
async def test_what_the_leader_wants_stopped_is_stopped_before_the_table_here_says_so_p3(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await kill(agent)
        gate = Ahead()
        start(agent, gate=gate)
        await agent.apply(MOCK_DURATION_MS=GATE)
        told, other = await agent.submit(), await agent.submit()
        for run in (told, other):
            await agent.running(run["id"])
        assert not agent.worker.is_stopping((told["id"], "container", 1))
        gate.tell((told["id"], "container", 1), ("a run that is not known here yet", "container", 1))
        ended = await agent.ended(told["id"])
        assert shown(ended) == [(1, "failed", "exit_code")], "why it was stopped is for the leader's table to say"
        assert attempts(agent, other)[0].open
        assert not agent.worker.is_stopping((other["id"], "container", 1))


@in_loop
@pytest.mark.parametrize("fenceable", [True, False])
async def test_work_that_cannot_be_fenced_goes_on_when_its_lease_has_ended_and_its_agent_returns_with_it_p3(
    tmp_path: Path, fenceable: bool
) -> None:
    async with prime(tmp_path) as agent:
        await kill(agent)
        executor, gate = MockExecutor(agent.engine), Ahead()
        executor.fenceable = fenceable
        start(agent, executor, gate)
        replica = agent.replica
        row = replace(replica.table.rows.agents["agent-1"], unfenceable=() if fenceable else ("mock",))
        assert (await replica.propose(c.AgentUp(replica.clock_ms(), row))).ok
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        gate.lease_until_s = 0.0
        gate.tell()
        if fenceable:
            await agent.until(lambda: attempts(agent, run)[0].reason == "fenced")
            return
        assert (await replica.propose(c.AgentLost(replica.clock_ms(), "agent-1", 1))).ok
        assert agent.worker.settled(1)
        gate.lease_until_s = FOREVER
        assert (await replica.propose(c.AgentUp(replica.clock_ms(), row, True, 1))).ok
        agent.engine.release(name)
        assert shown(await agent.ended(run["id"])) == [(1, "success", None)]


class Slow(MockExecutor):
    """One that has to fetch something, which comes when the test says so. started: what starts were asked with."""

    def __init__(self, engine: MockEngine) -> None:
        super().__init__(engine)
        self.fetching, self.fetched = asyncio.Event(), asyncio.Event()
        self.error: ExecutorError | None = None
        self.started: list[AttemptSpec] = []

    async def fetch(self, spec: AttemptSpec) -> None:
        self.fetching.set()
        await self.fetched.wait()
        if self.error is not None:
            raise self.error

    async def start(self, spec: AttemptSpec) -> Started:
        self.started.append(spec)
        return await super().start(spec)


@asynccontextmanager
async def slow(root: Path) -> AsyncIterator[tuple[Prime, Slow, Ahead, Any]]:
    """An attempt, its run, whose image is being fetched."""
    async with prime(root) as agent:
        await kill(agent)
        executor, gate = Slow(agent.engine), Ahead()
        start(agent, executor, gate)
        await agent.apply()
        run = await agent.submit()
        await executor.fetching.wait()
        yield agent, executor, gate, run


@in_loop
async def test_an_image_that_takes_longer_than_a_lease_costs_no_attempt(tmp_path: Path) -> None:
    async with slow(tmp_path) as (agent, executor, gate, run):
        assert await entries(agent) == {}, "nothing has begun yet"
        gate.lease_until_s = clock_gettime(CLOCK_BOOTTIME) - 1
        gate.shut = True
        gate.tell()
        executor.fetched.set()
        assert (await agent.replica.propose(c.PutProject(agent.replica.clock_ms(), "q"))).ok
        assert not executor.started, "no lease now"
        gate.lease_until_s = until_s = clock_gettime(CLOCK_BOOTTIME) + 5
        gate.shut = False
        gate.tell()
        assert shown(await agent.ended(run["id"])) == [(1, "success", None)]
        assert [one.not_after_s for one in executor.started] == [until_s]


@in_loop
async def test_what_is_to_stop_while_its_image_is_fetched_never_starts(tmp_path: Path) -> None:
    async with slow(tmp_path) as (agent, executor, _gate, run):
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel", {})
        executor.fetched.set()
        assert (await agent.ended(run["id"]))["state"] == "cancelled"
        assert not executor.started


@in_loop
async def test_an_image_that_cannot_be_fetched_fails_the_attempt_and_an_engine_that_is_away_is_left_to_the_start(
    tmp_path: Path,
) -> None:
    async with slow(tmp_path) as (agent, executor, _gate, run):
        executor.error = ImageError("there is none of that name")
        executor.fetched.set()
        assert shown(await agent.ended(run["id"])) == [(1, "failed", "image")]
        executor.error = EngineUnreachable("away")
        again = await agent.submit()
        assert shown(await agent.ended(again["id"])) == [(1, "success", None)]
        assert len(executor.started) == 1


@in_loop
async def test_an_attempt_is_said_to_be_stopping_for_as_long_as_its_stop_takes(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        executor.held.add("stop")
        run = await agent.submit()
        await agent.running(run["id"])
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel", {})
        await executor.met.wait()
        assert agent.worker.is_stopping((run["id"], "container", 1))
        assert attempts(agent, run)[0].open


# -- what is left over -------------------------------------------------------------------------------------------------


@in_loop
async def test_what_no_record_knows_is_ended_and_removed(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await kill(agent)
        labels = {"io.prime.agent": "agent-1"}
        for name, mine in (("stray", labels), ("another-agents", {"io.prime.agent": "agent-2"})):
            agent.engine.start(
                AttemptSpec(name, tmp_path, tmp_path, labels=mine, environment={"MOCK_DURATION_MS": GATE})
            )
        executor = Faulty(agent.engine)
        executor.failing["stop"] = EngineUnreachable("away")
        worker = start(agent, executor, labels=labels)
        await executor.met.wait()
        executor.failing.clear()
        await worker.leftovers.end_strays(["mock"])  # as when the engine answers again
        assert agent.engine.names({}) == {"another-agents"}


@in_loop
async def test_ended_attempts_are_removed_and_forgotten(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        await agent.ended((await agent.submit())["id"])
        await cleaned(agent)
        assert await entries(agent) == {}
        assert agent.engine.names({}) == frozenset()
        assert list((tmp_path / "attempts").iterdir()) == []


@in_loop
async def test_what_an_earlier_agent_has_left_is_removed_at_the_start(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE)
        await kill(agent)
        start(agent, keep_ended_s=3600.0)
        run = await agent.submit()
        name = await agent.running(run["id"])
        agent.engine.release(name)
        await agent.ended(run["id"])
        await kill(agent)  # within the time in which an ended attempt can be looked at
        assert agent.engine.names({}) == {name}
        await journaled(agent, lambda: agent.worker._journal.refuse("refused-once", "and told"))
        start(agent, keep_ended_s=0.0)
        while await entries(agent):
            pass
        assert agent.engine.names({}) == frozenset()
        assert list((tmp_path / "attempts").iterdir()) == []


@in_loop
async def test_p3_work_that_the_table_has_closed_is_ended_at_the_start(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await kill(agent)
        intent = Intent("0000000000000000", "container", 1, 1, "mock", "", "capability")
        journal = agent.worker._journal
        await journaled(agent, lambda: journal.intend("closed", msgspec.msgpack.encode(intent), 0.0, "boot"))
        agent.engine.start(AttemptSpec("closed", tmp_path, tmp_path, environment={"MOCK_DURATION_MS": GATE}))
        start(agent)
        while await entries(agent):
            pass
        assert agent.engine.names({}) == frozenset()


@in_loop
async def test_what_cannot_be_removed_stays_in_the_journal_for_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply()
        executor.failing["remove"] = ExecutorError("a removal does not end")
        run = await agent.submit()
        await agent.ended(run["id"])
        await executor.met.wait()
        await cleaned(agent)
        assert list(await entries(agent)) == [name_of(agent, run)]
        assert "an ended attempt cannot be removed" in caplog.messages
        await kill(agent)
        executor.failing["remove"] = EngineUnreachable("away")
        executor.met.clear()
        start(agent, executor)
        await executor.met.wait()
        executor.failing.clear()
        while await entries(agent):
            pass


@in_loop
async def test_the_end_of_the_agent_removes_what_its_time_allows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        await kill(agent)
        executor = Faulty(agent.engine)
        worker = start(agent, executor, keep_ended_s=3600.0)
        await agent.ended((await agent.submit())["id"])
        await kill(agent)
        executor.held.add("remove")
        await worker.retired.remove_now(0.01)
        assert "ended attempts are left; the next start removes them" in caplog.messages
        executor.held.clear()
        await worker.retired.remove_now(60.0)
        assert await entries(agent) == {}


# -- a full disk -------------------------------------------------------------------------------------------------------


@in_loop
async def test_p1_on_a_full_disk_an_attempt_waits_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = {"bytes": 0}
    monkeypatch.setattr(worker_module, "FULL_WAIT_S", 0.01)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(free["bytes"]))
    async with prime(tmp_path) as agent:
        await agent.apply()
        run = await agent.submit()
        while "the disk is full; an attempt waits" not in caplog.messages:  # noqa: ASYNC110  nothing else tells
            await asyncio.sleep(0)
        assert attempts(agent, run)[0].started_at_ms is None
        explain = f"/api/v1/runs/{run['id']}/explain"
        assert "its agent's disk has been full for" in (await agent.ok("GET", explain))["explanations"][0]["why"]
        free["bytes"] = 1 << 40
        assert shown(await agent.ended(run["id"])) == [(1, "success", None)]
        assert "disk" not in (await agent.ok("GET", explain))["explanations"][0]["why"]


@in_loop
async def test_what_waits_for_room_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0))
    async with prime(tmp_path) as agent:
        await agent.apply()
        run = await agent.submit()
        while "the disk is full; an attempt waits" not in caplog.messages:  # noqa: ASYNC110  nothing else tells
            await asyncio.sleep(0)
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        ended = await agent.ended(run["id"])
        assert (ended["state"], shown(ended)[0][2]) == ("cancelled", "cancelled")
        assert ended["instances"][0]["attempts"][0]["started_at"] is None


# -- secrets -----------------------------------------------------------------------------------------------------------


@in_loop
async def test_p1_an_attempt_that_cannot_be_compiled_any_more_fails_with_the_reason(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.ok("PUT", "/api/v1/projects/p", {})
        await agent.ok("PUT", "/api/v1/projects/p/secrets/TOKEN", {"value": "s3cr3t"})
        await agent.apply(PASSWORD="{{ .secret.TOKEN }}")
        await kill(agent)
        run = await agent.submit()
        await agent.ok("DELETE", "/api/v1/projects/p/secrets/TOKEN")  # after it was accepted
        start(agent)
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "failed", "executor_error")]
        assert "TOKEN" in str(ended["instances"][0])
        assert not agent.engine.starts


@in_loop
async def test_p8_a_secret_is_nowhere_on_the_disk_once_the_work_has_ended(tmp_path: Path) -> None:
    value = "hunter2-hunter2"
    async with prime(tmp_path) as agent:
        await agent.ok("PUT", "/api/v1/projects/p", {})
        await agent.ok("PUT", "/api/v1/projects/p/secrets/TOKEN", {"value": value})
        await agent.apply(PASSWORD="x{{ .secret.TOKEN }}y", MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        holding = [path for path in tmp_path.rglob("*") if path.is_file() and value.encode() in path.read_bytes()]
        assert [path.name for path in holding] == [".secret"]
        assert holding[0].stat().st_mode & 0o777 == 0o600
        agent.engine.release(name)
        await agent.ended(run["id"])
        await cleaned(agent)
        await agent.replica.history_settled()
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or value.encode() not in path.read_bytes(), path


# -- telling -----------------------------------------------------------------------------------------------------------


class Far:
    """The other agents, which hold what is spread to them once `room` is set. says: what they answer first, in turn."""

    def __init__(self, *says: Exception) -> None:
        self.says, self.room, self.asked = list(says), asyncio.Event(), list[str]()
        self.met, self.all = asyncio.Event(), set[str]()

    async def fetch_whole(self, kind: str, digest: str, *, read: bool = False) -> None:
        """It is here."""

    async def spread_whole(self, kind: str, digest: str) -> None:
        """As `spread`."""
        assert kind == "manifest"
        await self.spread([digest])

    async def spread(self, digests: Sequence[str]) -> None:
        """Wait for room."""
        self.asked.append(digests[-1])
        self.all |= set(digests)
        self.met.set()
        if self.says:
            raise self.says.pop(0)
        await self.room.wait()


@in_loop
async def test_work_that_ends_at_once_is_not_told_of_before_others_have_what_was_rendered_p1(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        far = agent.worker.teller.network = Far(Refusal("no_majority", "too few", 503))
        await agent.apply()
        run = await agent.submit()
        while not any(driven.ended for driven in agent.worker.driven.values()):
            await far.met.wait()
            far.met.clear()
        for _ in range(5):
            await agent.replica.caught_up()
            assert agent.replica.table.rows.runs[run["id"]].instances[0].attempts[0].open
        far.room.set()
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "success", None)]
        (manifest,) = set(far.asked)
        assert len(far.asked) == 2  # once more after a refusal, and not again once they have it
        kept = agent.service.context.provisioner.blobs.get(manifest)
        assert far.all == {manifest, *named_in("manifest", kept)}


@in_loop
async def test_work_that_ends_at_once_is_told_of_once_and_other_work_when_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prime(tmp_path) as agent:
        told: list[type[c.InstanceStarted | c.InstanceEnded]] = []
        monkeypatch.setattr(agent.worker, "on_word", lambda word: told.append(type(word)))
        monkeypatch.setattr(worker_module, "START_HOLD_S", 3600.0)
        await agent.apply()
        run = await agent.ended((await agent.submit())["id"])
        assert told == [c.InstanceEnded]
        assert run["instances"][0]["attempts"][0]["started_at"] is not None
        monkeypatch.setattr(worker_module, "START_HOLD_S", 0.0)
        await agent.apply("slow", MOCK_DURATION_MS=GATE)
        slow = await agent.submit("slow")
        agent.engine.release(await agent.running(slow["id"]))
        await agent.ended(slow["id"])
        assert told == [c.InstanceEnded, c.InstanceStarted, c.InstanceEnded]


@in_loop
async def test_what_a_run_is_made_of_is_fetched_where_it_is_missing_or_damaged_p9(tmp_path: Path) -> None:
    class Others(Far):
        """They have the bundle."""

        async def fetch_whole(self, kind: str, digest: str, *, read: bool = False) -> None:
            assert kind == "bundle"
            self.asked.append(digest)
            path = agent.service.context.blobs.path(digest)
            path.unlink(missing_ok=True)
            path.write_bytes(whole[digest])

    async with prime(tmp_path, slots=0) as agent:
        far = agent.worker.teller.network = Others()
        far.room.set()
        await agent.apply()
        runs = [(await agent.submit(sent={"config": {"A": text}}))["id"] for text in "12"]
        paths = [agent.service.context.blobs.path(agent.replica.table.rows.runs[run].bundle) for run in runs]
        whole = {path.name: path.read_bytes() for path in paths}
        paths[0].unlink()
        paths[1].write_bytes(b"x")
        row = agent.replica.table.rows.agents[AGENT]
        await agent.replica.propose(c.AgentUp(agent.replica.clock_ms(), replace(row, slots=1)))
        for run in runs:
            assert shown(await agent.ended(run)) == [(1, "success", None)]
        assert {path.name for path in paths} <= set(far.asked)


@in_loop
async def test_what_was_rendered_and_is_lost_holds_no_word_back(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        far = agent.worker.teller.network = Far(*[BlobMissing("it is gone")] * 2)
        await agent.apply()
        assert shown(await agent.ended((await agent.submit())["id"])) == [(1, "success", None)]
        assert far.asked


@in_loop
async def test_an_outcome_is_told_again_until_it_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        refused = asyncio.Event()

        async def full(_command: object) -> None:
            refused.set()
            raise Refusal("disk_full", "the agent's disk is full", 507, retry_after_s=30)

        with monkeypatch.context() as patch:
            patch.setattr(agent.replica, "propose", full)
            agent.engine.release(name)
            await refused.wait()
        assert shown(await agent.ended(run["id"])) == [(1, "success", None)]
        assert "the outcome is not taken yet" in caplog.messages

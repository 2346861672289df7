"""The worker over a whole agent: what it does when it is killed, what it leaves behind, and where secrets are.

A restart is acted by cancelling the worker and starting another on the same table, journal and engine.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from agent import worker as worker_module
from agent.attempt import EndNote, Intent
from agent.errors import Refusal
from agent.worker import Worker
from executors.base import AttemptSpec
from executors.errors import EngineUnreachable, ExecutorError
from tests.api.harness import in_loop, prime
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


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask an engine that is away again at once."""
    monkeypatch.setattr(worker_module, "ENGINE_WAIT_S", 0.01)


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
        await worker.end_strays(["mock"])  # as when the engine answers again
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
        await worker.remove_ended(0.01)
        assert "ended attempts are left; the next start removes them" in caplog.messages
        executor.held.clear()
        await worker.remove_ended(60.0)
        assert await entries(agent) == {}


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

"""The worker over a whole agent: attempts that nobody can follow any more, and errors that nobody foresaw.

Each ends its attempt, once that is proven (P3), and never the agent (P1, P12).
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from agent import retired
from agent import worker as worker_module
from agent.store.errors import JournalError
from executors import proc
from executors.base import AttemptSpec
from executors.errors import EngineUnreachable, ExecutorError, StateLost, StillRunning, Unsettled
from executors.process import ProcessExecutor
from tests.api.harness import TEST_TIMEOUT_S, Prime, in_loop, prime
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
    shown,
    start,
)

ERROR = RuntimeError("what it says may quote a s3cr3t")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask an engine that is away again at once."""
    monkeypatch.setattr(worker_module, "ENGINE_WAIT_S", 0.01)
    monkeypatch.setattr(retired, "ENGINE_WAIT_S", 0.01)
    monkeypatch.setattr(retired, "STOP_WAIT_MAX_S", 0.01)


def message_of(run: object) -> str:
    return str(run["instances"][0]["attempts"][0]["message"])  # type: ignore[index]  # JSON


async def goes_on(agent: Prime) -> None:
    """The worker is the same and takes work."""
    assert not agent.tasks[-1].done()
    await agent.apply("afterwards")
    assert (await agent.ended((await agent.submit("afterwards"))["id"]))["state"] == "success"


# -- lost --------------------------------------------------------------------------------------------------------------


@in_loop
async def test_p3_work_whose_state_is_lost_is_ended_before_it_is_said_to_have_failed(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        executor.failing = {"wait": StateLost("its record is damaged"), "stop": StillRunning("it does not die")}
        run = await agent.submit()
        name = await agent.running(run["id"])
        for _ in range(3):
            executor.met.clear()
            await executor.met.wait()
        assert attempts(agent, run)[0].open
        del executor.failing["stop"]
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "failed", "executor_error")]
        assert message_of(ended) == "its record is damaged; what was left of it has been ended"
        assert agent.engine.starts == {name: 1}
        explained = await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain")
        assert "its record is damaged" in explained["explanations"][0]["why"]


@in_loop
async def test_what_stays_open_because_it_is_not_proven_ended_is_said_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """P11."""
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        executor.failing = {"wait": StateLost("lost"), "stop": ExecutorError("who knows")}
        run = await agent.submit()
        await agent.running(run["id"])
        while "an attempt cannot be proven ended: it stays open, and is stopped again" not in caplog.messages:
            executor.met.clear()
            await executor.met.wait()
        (record, *_) = [one for one in caplog.records if "cannot be proven" in one.message]
        assert (record.run, record.error) == (run["id"], "who knows")  # type: ignore[attr-defined]  # its fields
        executor.failing.clear()
        await agent.ended(run["id"])


@in_loop
async def test_p11_what_stays_open_because_it_is_not_proven_ended_is_explained(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        executor.failing = {"wait": StateLost("lost"), "stop": ExecutorError("who knows")}
        run = await agent.submit()
        await agent.running(run["id"])
        before_s = time.time()
        while not retired.UNPROVEN.of_run(run["id"]):
            executor.met.clear()
            await executor.met.wait()
        (told,) = (await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain"))["explanations"]
        said = re.fullmatch(
            r"attempt 1 on agent-1 cannot be proven to have ended, since (\S+): who knows\..*", told["why"]
        )
        assert said is not None, told
        assert -1 <= datetime.fromisoformat(said[1]).timestamp() - before_s <= TEST_TIMEOUT_S
        assert told["until"] is None
        executor.failing.clear()
        await agent.ended(run["id"])
        assert not retired.UNPROVEN.of_run(run["id"])
        (told,) = (await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain"))["explanations"]
        assert told["why"].startswith("failed (executor_error)")


@pytest.mark.parametrize("error", [None, StateLost("its record is damaged"), ExecutorError("404: what is that?")])
@in_loop
async def test_p3_work_that_had_started_and_cannot_be_found_is_ended_and_not_started_again(
    tmp_path: Path, error: ExecutorError | None
) -> None:
    """None: the engine has forgotten it."""
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        await kill(agent)
        if error is None:
            del agent.engine._attempts[name]
        else:
            executor.failing["attach"] = error
        start(agent, executor)
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "failed", "executor_error")]
        assert "what was left of it has been ended" in message_of(ended)
        assert str(error or "knows nothing of it any more") in message_of(ended)
        assert ended["instances"][0]["attempts"][0]["started_at"] is not None
        assert agent.engine.starts == {name: 1}


@in_loop
async def test_p3_a_start_that_is_unsettled_and_then_lost_is_ended(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply()
        executor.failing = {"start": Unsettled("too many open files"), "attach": StateLost("it runs, unrecorded")}
        run = await agent.submit()
        assert shown(await agent.ended(run["id"])) == [(1, "failed", "executor_error")]
        assert await agent.worker._executors["mock"].list_names({}) == frozenset()


@in_loop
async def test_p1_work_whose_state_is_lost_can_be_cancelled(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        executor.failing = {"wait": Unsettled("not now")}
        run = await agent.submit()
        await agent.running(run["id"])
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        executor.failing["wait"] = StateLost("never")
        ended = await agent.ended(run["id"])
        assert (ended["state"], shown(ended)) == ("cancelled", [(1, "cancelled", "cancelled")])


# -- not foreseen ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["start", "wait"])
@in_loop
async def test_p12_an_error_that_nobody_foresaw_ends_its_attempt_and_not_the_agent(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        executor.failing[method] = ERROR
        run = await agent.submit()
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "failed", "executor_error")]
        assert "RuntimeError" in message_of(ended)
        assert "s3cr3t" not in str(ended)
        (record,) = [one for one in caplog.records if "an error of the agent itself" in one.message]
        assert record.exc_info is not None
        executor.failing.clear()
        await goes_on(agent)


@in_loop
async def test_p12_nor_does_one_when_it_is_looked_for_after_a_restart(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        await kill(agent)
        executor.failing["attach"] = ERROR
        start(agent, executor)
        assert shown(await agent.ended(run["id"])) == [(1, "failed", "executor_error")]
        assert agent.engine.starts == {name: 1}
        executor.failing.clear()
        await goes_on(agent)


@in_loop
async def test_p3_an_attempt_that_the_agents_error_met_is_open_until_it_is_proven_ended(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        executor.failing = {"wait": ERROR, "stop": ERROR}
        run = await agent.submit()
        await agent.running(run["id"])
        for _ in range(3):
            executor.met.clear()
            await executor.met.wait()
        assert attempts(agent, run)[0].open
        await agent.apply("meanwhile")
        other = await agent.submit("meanwhile")
        while other["id"] not in {one.run_id for one in agent.worker.driven.values()}:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0)
        executor.failing.clear()
        assert shown(await agent.ended(run["id"])) == [(1, "failed", "executor_error")]
        assert (await agent.ended(other["id"]))["state"] in ("success", "failed")


@in_loop
async def test_p1_an_error_that_nobody_foresaw_while_work_is_prepared_refuses_it_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", {}.__getitem__)
            run = await agent.submit()
            ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "failed", "executor_error")]
        assert "KeyError" in message_of(ended)
        assert not agent.engine.starts
        await goes_on(agent)


@in_loop
async def test_p9_a_journal_that_fails_ends_the_agent(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        agent.worker._journal._failure = "the disk has failed"
        agent.engine.release(name)
        working = agent.tasks.pop()
        with pytest.raises(ExceptionGroup) as caught:
            await working
        assert caught.group_contains(JournalError, match="the disk has failed")
        assert attempts(agent, run)[0].open
        agent.worker._journal._failure = None


@in_loop
async def test_p12_an_error_that_nobody_foresaw_while_it_cleans_up_costs_that_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply()
        executor.failing["remove"] = ERROR
        run = await agent.submit()
        await agent.ended(run["id"])
        await executor.met.wait()
        await cleaned(agent)
        assert list(await entries(agent)) == [name_of(agent, run)]
        (record,) = [one for one in caplog.records if one.message == "an ended attempt cannot be removed"]
        assert record.exc_info is not None
        executor.failing.clear()
        await goes_on(agent)


# -- strays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ERROR, EngineUnreachable("away")])
@pytest.mark.parametrize("method", ["list_names", "stop"])
@in_loop
async def test_p12_strays_that_cannot_be_ended_hold_up_nothing(tmp_path: Path, method: str, error: Exception) -> None:
    async with prime(tmp_path) as agent:
        await kill(agent)
        agent.engine.start(AttemptSpec("stray", tmp_path, tmp_path, environment={"MOCK_DURATION_MS": GATE}))
        executor = Faulty(agent.engine)
        executor.failing[method] = error
        worker = start(agent, executor)
        await executor.met.wait()
        executor.failing.clear()
        await goes_on(agent)
        await worker.leftovers.end_strays(["mock"])
        assert "stray" not in agent.engine.names({})


@in_loop
async def test_p3_a_stray_process_is_ended_and_what_it_was_given_is_removed(tmp_path: Path) -> None:
    """It is known by its name alone; the journal has no row that would say where it works."""
    async with prime(tmp_path) as agent, ProcessExecutor(tmp_path / "attempts") as executor:
        await kill(agent)
        labels = {"io.prime.agent": "agent-1"}
        name = "prime-cluster1-1-0123456789abcdef-some-hook-2"
        directory = tmp_path / "attempts" / "0123456789abcdef" / "some-hook" / "2"
        (directory / "in").mkdir(parents=True)
        (directory / "in" / ".secret").write_text("PASSWORD='s3cr3t'\n")
        spec = AttemptSpec(name, directory, tmp_path / "log", ("sleep", "600"), labels=labels)
        pid = int((await executor.start(spec)).facts["pid"])
        (task,) = proc.descendants(pid)
        try:
            worker = start(agent, executor, labels=labels)
            until_s = time.monotonic() + 30
            while await executor.list_names(labels) or [*(tmp_path / "attempts").iterdir()]:
                assert time.monotonic() < until_s, "it is still listed"
                await asyncio.sleep(0)
            assert proc.start_ticks(task) is None
            assert not worker.driven
        finally:
            if proc.start_ticks(task) is not None:
                os.kill(task, signal.SIGKILL)


@in_loop
async def test_what_is_being_begun_is_no_stray(tmp_path: Path) -> None:
    """P1: the journal has no row of it yet."""
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        name = await agent.running(run["id"])
        await journaled(agent, lambda: agent.worker._journal.forget([name]))
        await agent.worker.leftovers.end_strays(["mock"])
        assert agent.engine.names({}) == {name}
        agent.engine.release(name)
        agent.worker.driven[name].task.cancel()  # type: ignore[union-attr]  # it has one

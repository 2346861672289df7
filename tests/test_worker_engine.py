"""The worker over a whole agent: what it does when its engine fails, and when work is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import retired
from agent import worker as worker_module
from executors.errors import EngineUnreachable, ExecutorError, StartRefused, Unsettled
from tests.api.harness import in_loop, prime
from tests.restarts import (
    GATE,
    attempts,
    faulty,
    journaled,
    kill,
    name_of,
    records,
    shown,
    start,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask an engine that is away again at once."""
    monkeypatch.setattr(worker_module, "ENGINE_WAIT_S", 0.01)
    monkeypatch.setattr(retired, "ENGINE_WAIT_S", 0.01)


# -- an engine that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "reason"), [("image", "image"), ("executor_error", "executor_error")])
@in_loop
async def test_a_start_that_fails_ends_the_attempt_with_the_engines_reason(
    tmp_path: Path, error: str, reason: str
) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_START_ERROR=error)
        ended = await agent.ended((await agent.submit())["id"])
        assert shown(ended) == [(1, "failed", reason)]
        assert f"MOCK_START_ERROR={error}" in str(ended["instances"][0])
        assert agent.worker.ended_counts["mock", reason] == 1
        assert agent.worker.starts == 0


@in_loop
async def test_p3_a_refused_start_is_followed_by_a_new_attempt(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply()
        executor.failing["start"] = StartRefused("it came after its not-after")
        run = await agent.submit()
        await executor.met.wait()
        executor.failing.clear()
        ended = await agent.ended(run["id"])
        assert shown(ended)[0] == (1, "failed", "fenced")
        assert shown(ended)[-1][1:] == ("success", None)
        assert agent.engine.starts[name_of(agent, run)] == 0


@in_loop
async def test_p3_an_unanswered_start_is_asked_about_and_not_tried_again(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply()
        executor.failing = {one: EngineUnreachable("away") for one in ("start", "attach")}
        run = await agent.submit()
        await executor.met.wait()
        executor.met.clear()
        await executor.met.wait()
        assert attempts(agent, run)[0].open  # nothing is decided while the engine is away
        executor.failing.clear()
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "failed", "agent_lost"), (2, "success", None)]
        assert agent.engine.starts == {name_of(agent, run, 2): 1}


@pytest.mark.parametrize("error", [EngineUnreachable("away"), Unsettled("500: the engine is confused")])
@in_loop
async def test_p3_running_work_is_waited_for_while_its_engine_is_away(tmp_path: Path, error: ExecutorError) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE, MOCK_OUTPUT="one\n")
        executor.failing["wait"] = error
        executor.failing["logs"] = EngineUnreachable("away")
        run = await agent.submit()
        name = await agent.running(run["id"])
        await executor.met.wait()
        executor.met.clear()
        agent.engine.release(name)
        await executor.met.wait()
        assert attempts(agent, run)[0].open
        executor.failing.clear()
        assert shown(await agent.ended(run["id"])) == [(1, "success", None)]
        assert records(agent, run) == ["one"]


@in_loop
async def test_output_that_the_engine_does_not_have_any_more_costs_no_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_OUTPUT="lost\n")
        executor.failing["logs"] = ExecutorError("there is no such container")
        assert shown(await agent.ended((await agent.submit())["id"])) == [(1, "success", None)]
        assert "output is incomplete" in caplog.messages


@in_loop
async def test_output_that_does_not_come_is_not_waited_for_longer_than_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "LOG_DRAIN_S", 0.01)
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply()
        executor.held.add("logs")
        assert shown(await agent.ended((await agent.submit())["id"])) == [(1, "success", None)]
        assert "output is incomplete: the engine gave no more" in caplog.messages


@in_loop
async def test_an_executor_that_is_not_there_fails_the_attempt_and_says_so(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        await kill(agent)
        start(agent)
        agent.worker._executors = {}
        ended = await agent.ended((await agent.submit())["id"])
        assert shown(ended) == [(1, "failed", "executor_error")]
        assert "has no executor 'mock'" in str(ended["instances"][0])


# -- stopping ----------------------------------------------------------------------------------------------------------


@in_loop
async def test_p3_what_is_stopped_before_it_began_never_begins(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        await kill(agent)
        run = await agent.submit()
        await agent.until(lambda: attempts(agent, run))
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        start(agent)
        ended = await agent.ended(run["id"])
        assert ended["state"] == "cancelled"
        assert not agent.engine.starts


@in_loop
async def test_a_cancelled_attempt_that_was_refused_before_a_restart_is_cancelled(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        await kill(agent)
        run = await agent.submit()
        await agent.until(lambda: attempts(agent, run))
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        await journaled(agent, lambda: agent.worker._journal.refuse(name_of(agent, run), "stopped"))
        start(agent)
        ended = await agent.ended(run["id"])
        assert (ended["state"], shown(ended)[0][2]) == ("cancelled", "cancelled")


@in_loop
async def test_work_that_was_told_to_stop_and_says_that_all_is_well_is_cancelled_and_run_again_by_a_retry(
    tmp_path: Path,
) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE, MOCK_TERM_EXIT_CODE="0")
        run = await agent.submit()
        await agent.running(run["id"])
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        ended = await agent.ended(run["id"])
        assert (ended["state"], shown(ended)) == ("cancelled", [(1, "cancelled", "cancelled")])
        assert ended["instances"][0]["attempts"][0]["exit_code"] == 0
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/retry", {})
        agent.engine.release(await agent.running(run["id"]))
        assert shown(await agent.ended(run["id"])) == [(1, "cancelled", "cancelled"), (2, "success", None)]


@in_loop
async def test_running_work_is_stopped_and_its_end_awaited(tmp_path: Path) -> None:
    async with faulty(tmp_path) as (agent, executor):
        await agent.apply(MOCK_DURATION_MS=GATE)
        executor.failing["stop"] = ExecutorError("it still runs after SIGKILL")
        run = await agent.submit()
        name = await agent.running(run["id"])
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        await executor.met.wait()
        assert attempts(agent, run)[0].open  # P4: no end is claimed that has not happened
        executor.failing.clear()
        ended = await agent.ended(run["id"])
        assert (ended["state"], ended["instances"][0]["attempts"][0]["exit_code"]) == ("cancelled", 143)
        assert agent.engine.starts == {name: 1}


@in_loop
async def test_a_stop_that_was_wanted_before_a_restart_is_made_after_it(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS=GATE)
        run = await agent.submit()
        await agent.running(run["id"])
        await kill(agent)
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        start(agent)
        assert (await agent.ended(run["id"]))["state"] == "cancelled"

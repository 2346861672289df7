"""The worker over a whole agent: what it does when it is killed, when its engine fails, and when work is stopped.

A restart is acted by cancelling the worker and starting another on the same table, journal and engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import worker as worker_module
from agent.attempt import EndNote, Intent
from agent.errors import Refusal
from agent.runtable.model import Attempt
from agent.store.journal import JournalEntry
from agent.worker import Worker
from executors.base import AttemptSpec, LogLine, Outcome, Started
from executors.errors import EngineUnreachable, ExecutorError, StartRefused
from executors.mock import MockEngine, MockExecutor
from tests.api.harness import Prime, in_loop, prime

GATE = "gate"


class Faulty(MockExecutor):
    """A mock engine's executor whose calls fail as the test says.

    failing: {method: the error it raises}; met: set when one was raised. held: methods that never answer.
    """

    def __init__(self, engine: MockEngine) -> None:
        super().__init__(engine)
        self.failing: dict[str, ExecutorError] = {}
        self.held: set[str] = set()
        self.met = asyncio.Event()

    async def _meet(self, method: str) -> None:
        if method in self.held:
            self.met.set()
            await asyncio.Event().wait()
        if method in self.failing:
            self.met.set()
            raise self.failing[method]

    async def start(self, spec: AttemptSpec) -> Started:
        await self._meet("start")
        return await super().start(spec)

    async def attach(self, name: str, directory: Path) -> Started | None:
        await self._meet("attach")
        return await super().attach(name, directory)

    async def wait(self, name: str, directory: Path) -> Outcome:
        await self._meet("wait")
        return await super().wait(name, directory)

    async def stop(self, name: str, directory: Path, grace_s: float) -> None:
        await self._meet("stop")
        await super().stop(name, directory, grace_s)

    async def remove(self, name: str, directory: Path) -> None:
        await self._meet("remove")
        await super().remove(name, directory)

    async def logs(
        self, name: str, directory: Path, since_ns: int = 0, *, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        await self._meet("logs")
        async for line in super().logs(name, directory, since_ns, follow=follow):
            yield line


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask an engine that is away again at once."""
    monkeypatch.setattr(worker_module, "ENGINE_WAIT_S", 0.01)


async def kill(agent: Prime) -> None:
    """End the worker as a killed agent would: nothing more is journaled or told. What runs goes on."""
    task = agent.tasks.pop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def start(agent: Prime, executor: MockExecutor | None = None, **settings: Any) -> Worker:
    """Start another worker on what the last one has left."""
    old = agent.worker
    agent.worker = Worker(
        old.replica,
        old._journal,
        old._journal_thread,
        {"mock": executor or MockExecutor(agent.engine)},
        old._provisioner,
        old._logs,
        replace(old._settings, **settings),
    )
    agent.tasks.append(asyncio.create_task(agent.worker.run_forever()))
    return agent.worker


@asynccontextmanager
async def faulty(root: Path) -> AsyncIterator[tuple[Prime, Faulty]]:
    """An agent whose engine fails on demand."""
    async with prime(root) as agent:
        await kill(agent)
        executor = Faulty(agent.engine)
        start(agent, executor)
        yield agent, executor


def name_of(agent: Prime, run: Any, number: int = 1) -> str:
    rows = agent.replica.table.rows
    return f"prime-{rows.cluster}-{rows.generation}-{run['id']}-container-{number}"


def attempts(agent: Prime, run: Any) -> list[Attempt]:
    """The attempts of the run's task, as the table has them now."""
    found = agent.replica.run(run["id"])
    assert found is not None
    return found.instances[0].attempts


def shown(run: Any) -> list[tuple[int, str, str | None]]:
    """(number, state, reason) of each attempt of an ended run's task."""
    return [(one["number"], one["state"], one["reason"]) for one in run["instances"][0]["attempts"]]


async def journaled(agent: Prime, call: Callable[[], Any]) -> Any:
    return await agent.worker._journaled(call)


async def entries(agent: Prime) -> dict[str, JournalEntry]:
    return {entry.name: entry for entry in await journaled(agent, agent.worker._journal.entries)}


async def cleaned(agent: Prime) -> None:
    """Wait until the clean-up has nothing left to do."""
    while agent.worker._ended or agent.worker.driven:  # noqa: ASYNC110  nothing tells when the clean-up is done
        await asyncio.sleep(0)


async def taken_up(worker: Worker, name: str) -> None:
    """Wait until the worker has found the attempt again."""
    while name not in worker.driven or worker.driven[name].started is None:  # noqa: ASYNC110  as above
        await asyncio.sleep(0)


def records(agent: Prime, run: Any, number: int = 1) -> list[str]:
    return [line.data.decode() for line in agent.logs.read(run["id"], "container", number) if isinstance(line, LogLine)]


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


@pytest.mark.parametrize("error", [EngineUnreachable("away"), ExecutorError("500: the engine is confused")])
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

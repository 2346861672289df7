"""What the engine in memory does beyond the contract."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from executors.base import AttemptSpec
from executors.errors import EngineUnreachable, ExecutorError, ImageError, StartRefused
from executors.mock import MockEngine, MockExecutor, create
from tests.executors.contract import in_loop

NOWHERE = Path("/nonexistent")


def a_spec(**environment: str) -> AttemptSpec:
    return AttemptSpec("prime-mock", NOWHERE, NOWHERE, command=("sync", "--all"), environment=environment)


@pytest.mark.parametrize(
    ("word", "error"),
    [("image", ImageError), ("executor_error", ExecutorError), ("unreachable", EngineUnreachable)],
)
@in_loop
async def test_a_start_fails_as_the_environment_says(word: str, error: type[ExecutorError]) -> None:
    executor = create({})
    spec = a_spec(MOCK_START_ERROR=word)
    with pytest.raises(error, match="prime-mock: sync --all"):
        await executor.start(spec)
    assert await executor.attach(spec.name, NOWHERE) is None
    assert executor.engine.starts[spec.name] == 0


@in_loop
async def test_work_without_a_duration_has_ended_when_its_start_returns() -> None:
    executor = MockExecutor()
    spec = a_spec()
    await executor.start(spec)
    waiting = executor.wait(spec.name, NOWHERE)
    with pytest.raises(StopIteration) as done:  # it needs no turn of the event loop
        waiting.send(None)
    assert done.value.value.succeeded


@in_loop
async def test_work_with_a_duration_ends_after_it() -> None:
    loop = asyncio.get_running_loop()
    executor = MockExecutor()
    spec = a_spec(MOCK_DURATION_MS="30", MOCK_EXIT_CODE="2")
    began_s = loop.time()
    await executor.start(spec)
    assert (await executor.wait(spec.name, NOWHERE)).exit_code == 2
    assert loop.time() - began_s >= 0.029


@in_loop
async def test_a_stop_ends_work_with_a_duration_for_good() -> None:
    executor = MockExecutor()
    spec = a_spec(MOCK_DURATION_MS="20", MOCK_OUTPUT_AT_END="end\n")
    await executor.start(spec)
    await executor.stop(spec.name, NOWHERE, 5)
    outcome = await executor.wait(spec.name, NOWHERE)
    executor.engine.release(spec.name)
    assert outcome.exit_code == 143
    assert await executor.wait(spec.name, NOWHERE) == outcome
    assert [line async for line in executor.logs(spec.name, NOWHERE)] == []


@in_loop
async def test_work_that_ignores_a_stop_may_still_end_by_itself_within_the_grace() -> None:
    executor = MockExecutor()
    spec = a_spec(MOCK_DURATION_MS="gate", MOCK_TERM_EXIT_CODE="ignore", MOCK_EXIT_CODE="5")
    await executor.start(spec)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(executor.stop(spec.name, NOWHERE, 30))
        tasks.create_task(asyncio.to_thread(lambda: None)).add_done_callback(
            lambda _: executor.engine.release(spec.name)
        )
    assert (await executor.wait(spec.name, NOWHERE)).exit_code == 5


@in_loop
async def test_what_was_stopped_before_its_start_never_starts() -> None:
    """P3: also for an agent that was started again since."""
    engine = MockEngine()
    spec = a_spec()
    await MockExecutor(engine).stop(spec.name, NOWHERE, 1)
    with pytest.raises(StartRefused, match="stop"):
        await MockExecutor(engine).start(spec)
    assert engine.starts[spec.name] == 0


@in_loop
async def test_running_work_cannot_be_removed() -> None:
    executor = MockExecutor()
    spec = a_spec(MOCK_DURATION_MS="gate")
    await executor.start(spec)
    with pytest.raises(ExecutorError, match="running"):
        await executor.remove(spec.name, NOWHERE)
    await executor.stop(spec.name, NOWHERE, 0)
    await executor.remove(spec.name, NOWHERE)


@in_loop
async def test_what_was_never_started_cannot_be_waited_for() -> None:
    executor = MockExecutor()
    with pytest.raises(ExecutorError, match="no start"):
        await executor.wait("unknown", NOWHERE)
    with pytest.raises(ExecutorError, match="no start"):
        await anext(executor.logs("unknown", NOWHERE))


@in_loop
async def test_engines_of_their_own_know_nothing_of_each_other() -> None:
    one, other = MockExecutor(), MockExecutor()
    await one.start(replace(a_spec(), labels={"a": "b"}))
    assert await one.list_names({"a": "b"}) == {"prime-mock"}
    assert await other.list_names({}) == frozenset()

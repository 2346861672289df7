"""Acting an agent's death and its engine's failures on the agent of `tests.api.harness`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.gate import Gate
from agent.runtable.model import Attempt
from agent.store.journal import JournalEntry
from agent.worker import Worker
from executors.base import AttemptSpec, Executor, LogLine, Outcome, Started
from executors.mock import MockEngine, MockExecutor
from tests.api.harness import Prime, prime

GATE = "gate"


class Faulty(MockExecutor):
    """A mock engine's executor whose calls fail as the test says.

    failing: {method: the error it raises}; met: set when one was raised. held: methods that never answer.
    """

    def __init__(self, engine: MockEngine) -> None:
        super().__init__(engine)
        self.failing: dict[str, Exception] = {}
        self.held: set[str] = set()
        self.met = asyncio.Event()

    async def _meet(self, method: str) -> None:
        if method in self.held:
            self.met.set()
            await asyncio.Event().wait()
        if method in self.failing:
            self.met.set()
            raise self.failing[method]

    async def fetch(self, spec: AttemptSpec) -> None:
        await self._meet("fetch")

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

    async def list_names(self, labels: Mapping[str, str]) -> frozenset[str]:
        await self._meet("list_names")
        return await super().list_names(labels)

    async def logs(
        self, name: str, directory: Path, since_ns: int = 0, *, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        await self._meet("logs")
        async for line in super().logs(name, directory, since_ns, follow=follow):
            yield line


async def kill(agent: Prime) -> None:
    """End the worker as a killed agent would: nothing more is journaled or told. What runs goes on."""
    task = agent.tasks.pop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def start(agent: Prime, executor: Executor | None = None, gate: Gate | None = None, **settings: Any) -> Worker:
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
        gate,
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
    while agent.worker.retired._waiting or agent.worker.driven:  # noqa: ASYNC110  nothing tells when the clean-up is done
        await asyncio.sleep(0)


async def taken_up(worker: Worker, name: str) -> None:
    """Wait until the worker has found the attempt again."""
    while name not in worker.driven or worker.driven[name].started is None:  # noqa: ASYNC110  as above
        await asyncio.sleep(0)


def records(agent: Prime, run: Any, number: int = 1) -> list[str]:
    return [line.data.decode() for line in agent.logs.read(run["id"], "container", number) if isinstance(line, LogLine)]

"""A whole agent in one event loop: real log, table, history, blobs and worker, an engine in memory, real sockets."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from agent.api.access import Access
from agent.api.callback import build_callback_app
from agent.api.elsewhere import Elsewhere
from agent.api.face import Face
from agent.api.logs import nothing_more_comes
from agent.api.outputs import missing
from agent.api.server import build_app
from agent.api.serving import Runner
from agent.archiving import Outputs
from agent.cluster.calls import Calls
from agent.keyring import Keyring
from agent.leader import lead
from agent.metrics import Metrics
from agent.peers import Peers
from agent.provision import Provisioner
from agent.replaying import go_on
from agent.replica import Replica, found
from agent.runtable import commands as c
from agent.runtable.model import Agent
from agent.service import Context, Service
from agent.store.blobs import BlobStore
from agent.store.database import MirrorStatus
from agent.store.history import History
from agent.store.journal import Journal
from agent.store.logs import LogStore
from agent.worker import Settings, Worker
from consensus.durable import DurableLog
from consensus.wal_identity import Identity
from executors.mock import MockEngine, MockExecutor

TEST_TIMEOUT_S = 150
AGENT = "agent-1"
CALLBACK_HOST = "callbacks.test:1"
P = ParamSpec("P")


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a coroutine test in an event loop of its own, with an end."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(TEST_TIMEOUT_S):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


@dataclass(slots=True)
class State:
    """What a test may change about the agent under its feet."""

    not_ready: str | None = None
    mirror: MirrorStatus | None = None


@dataclass(slots=True)
class Prime:
    """The agent under test and a client of its HTTP face."""

    replica: Replica
    worker: Worker
    engine: MockEngine
    service: Service
    logs: LogStore
    face: Face
    state: State
    client: TestClient[web.Request, web.Application]
    callbacks: TestClient[web.Request, web.Application]
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    async def call(
        self, method: str, path: str, sent: object = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """(status, JSON answer)."""
        async with self.client.request(method, path, json=sent, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def ok(self, method: str, path: str, sent: object = None, **more: Any) -> Any:
        """The answer of a request that must be granted."""
        status, answer = await self.call(method, path, sent, **more)
        assert status < 300, answer
        return answer

    async def refused(self, method: str, path: str, sent: object = None, **more: Any) -> tuple[int, str]:
        """(status, code) of a request that must be refused, after checking the problem's form (RFC 9457)."""
        async with self.client.request(method, path, json=sent, **more) as response:
            return await refusal(response)

    async def apply(self, name: str = "hello", project: str = "p", namespace: str = "n", **config: str) -> Any:
        """Apply a job that runs on the mock engine."""
        spec = {"path": f"{name}/job.yaml", "yaml": job_yaml(name, **config)}
        return await self.ok("POST", f"/api/v1/projects/{project}/namespaces/{namespace}/jobs", {"specs": [spec]})

    async def submit(self, name: str = "hello", sent: object = None, **headers: str) -> Any:
        """Ask for a run; returns its JSON."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        answer = await self.ok("POST", f"/api/v1/projects/p/jobs/{name}/runs", sent or {}, headers=named)
        return answer["run"]

    async def ended(self, run_id: str) -> Any:
        """The run's JSON once it has ended."""
        return (await self.ok("GET", f"/api/v1/runs/{run_id}/wait?timeout=30"))["run"]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something applied has made the condition true."""
        while True:
            changed = self.replica.changed()
            if condition():
                return
            await asyncio.shield(changed)

    async def running(self, run_id: str, instance: str = "container") -> str:
        """Wait until the instance runs; returns its attempt's name."""

        def is_running() -> bool:
            run = self.replica.run(run_id)
            found = run.instance(instance) if run is not None else None
            return found is not None and found.state == "running"

        await self.until(is_running)
        return next(
            one.name for one in self.worker.driven.values() if one.run_id == run_id and one.instance == instance
        )


async def refusal(response: ClientResponse) -> tuple[int, str]:
    """(status, code) of a problem, whose form is checked."""
    problem = json.loads(await response.read())
    assert response.content_type == "application/problem+json"
    assert problem["status"] == response.status
    assert problem["detail"]
    assert problem["title"]
    assert problem["type"].endswith(problem["code"])
    assert "Traceback" not in problem["detail"]
    if response.status in (429, 503, 507):
        assert int(response.headers["Retry-After"]) >= 1
    return response.status, problem["code"]


def job_yaml(name: str = "hello", hooks: str = "", **config: str) -> str:
    """A job whose task runs on the mock engine, with these config values."""
    lines = "".join(f"    {key}: {json.dumps(value)}\n" for key, value in {"IMAGE": "none", **config}.items())
    return (
        f"version: 2\nname: {name}\nowner: someone\ntask:\n  name: container\n  executor: mock\n"
        f"  config:\n{lines}{hooks}"
    )


def _worker(replica: Replica, journal: Journal, thread: ThreadPoolExecutor, root: Path, more: Any) -> Worker:
    engine, provisioner, logs = more
    settings = Settings(
        agent_id=AGENT,
        attempts=root / "attempts",
        boot_id="boot",
        boottime_s=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        labels={},
        callback_host=lambda _executor: CALLBACK_HOST,
        log_limit_bytes=1 << 20,
        keep_ended_s=0.0,
    )
    return Worker(replica, journal, thread, {"mock": MockExecutor(engine)}, provisioner, logs, settings)


@asynccontextmanager
async def prime(root: Path, *, slots: int = 8, access: Access | None = None, archive: str = "") -> AsyncIterator[Prime]:
    """An agent that has founded a cluster of one below `root`. Everything is closed at the end.

    archive: its URL. Nothing is put there by itself: a test runs `face.archiver`.
    """
    async with AsyncExitStack() as stack:
        durable = DurableLog.open(root / "log", Identity("cluster1", 1, 1), segment_bytes=1 << 20)
        found(durable)
        history = History.open(root / "history.db")
        metrics = Metrics()
        replica_peers = Peers(1)
        replica = Replica(
            durable,
            replica_peers,
            history,
            clock_ms=lambda: time.time_ns() // 10**6,
            on_sync=metrics.fsync_seconds.observe,
        )
        stack.push_async_callback(replica.close)
        keyring = Keyring.open(root / "secret.key", create=True)
        blobs, logs = BlobStore(root / "blobs"), LogStore(root / "logs")
        provisioner = Provisioner(blobs, keyring)
        service = Service(Context(replica, blobs, provisioner, keyring, AGENT))
        thread = stack.enter_context(ThreadPoolExecutor(1))
        journal = await asyncio.wrap_future(thread.submit(Journal, root / "journal.db"))
        stack.callback(lambda: thread.submit(journal.close).result())
        engine = MockEngine()
        worker = _worker(replica, journal, thread, root, (engine, provisioner, logs))
        state, calls = State(), Calls(replica_peers)
        nothing_more = partial(nothing_more_comes, replica, worker)
        outputs = Outputs.open(
            root,
            archive,
            ("cluster1", 1),
            logs,
            lambda *key: worker.knows_its_work and nothing_more(*key),
            calls,
        )
        face = Face(
            service=service,
            worker=worker,
            logs=logs,
            agent_id=AGENT,
            address="127.0.0.1:9101",
            version="1.2.3",
            not_ready=lambda: state.not_ready,
            mirror=lambda: state.mirror,
            metrics=metrics,
            seen=_alone,
            elsewhere=Elsewhere(
                calls, replica, logs.directory, lambda *_attempt: True, partial(missing, outputs.removals, AGENT)
            ),
            fetched=outputs.fetched,
            archiver=outputs.archiver,
            removals=outputs.removals,
            access=access or Access(),
        )
        client, callbacks = [await _served(app, stack) for app in (build_app(face), build_callback_app(face))]
        under_test = Prime(replica, worker, engine, service, logs, face, state, client, callbacks)
        tasks = under_test.tasks
        tasks.append(asyncio.create_task(replica.run_forever(), name="replica"))
        stack.push_async_callback(_end, tasks)
        await replica.caught_up()
        now_ms = replica.clock_ms()
        await replica.propose(c.Found(now_ms, "cluster1", 1))
        row = Agent(AGENT, 0, "127.0.0.1:9101", "http://127.0.0.1:9100", slots, ("mock",), "1.2.3", node=1)
        await replica.propose(c.AgentUp(now_ms, row))
        tasks += [
            asyncio.create_task(one)
            for one in (lead(replica), go_on(replica, service.replays.gates_of), worker.run_forever())
        ]
        yield under_test


async def _alone() -> None:
    return None


class _Served(TestServer):
    async def _make_runner(self, **options: Any) -> Runner:
        return Runner(self.app, **options)


async def _served(app: web.Application, stack: AsyncExitStack) -> TestClient[web.Request, web.Application]:
    """A client of the application, which is served as the agent itself serves it: it writes its own access log."""
    server = _Served(app)
    await server.start_server(access_log=None)
    return await stack.enter_async_context(TestClient(server))


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    failures: list[BaseException] = []
    for task in reversed(tasks):  # one after the other, as the agent itself: what is told at the end is still taken
        task.cancel()
        failures += [one for one in await asyncio.gather(task, return_exceptions=True) if isinstance(one, Exception)]
    if failures:
        raise failures[0]

"""Builds one agent from its settings and runs it: everything in one TaskGroup.

Order of the start: identity and disk, then the log is replayed, then the faces listen, then work begins. Order of the
stop: the faces close, the worker lets go of its attempts (which go on), the log is closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from agent import __version__
from agent.api.callback import build_callback_app
from agent.api.face import Face
from agent.api.server import build_app
from agent.config import AgentConfig, host_port
from agent.engines import Engines, load_executors
from agent.errors import AgentStopped, ConfigError, PrimeError
from agent.housekeeping import Housekeeper, Keep
from agent.identity import Identity, boot_id, boottime_s, load_identity, machine_id
from agent.keyring import Keyring
from agent.leader import lead
from agent.metrics import Metrics
from agent.provision import Provisioner
from agent.records import mirrored
from agent.replica import Replica
from agent.runtable import commands as c
from agent.runtable.model import Agent
from agent.service import Context, Service
from agent.store import database
from agent.store.blobs import BlobStore
from agent.store.history import History
from agent.store.journal import Journal
from agent.store.logs import LogStore
from agent.worker import Settings, Worker
from consensus.errors import LogError
from consensus.wal import Wal

log = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 16 * 1024 * 1024
TERM: Final = 1  # of a cluster of one
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
LAG_COUNTED_MAX: Final = 10_000  # finished runs that the database lacks; more are shown as so many
REMOVE_S: Final = 10.0  # for what is left of ended attempts, at the agent's end
SHUTDOWN_S: Final = 5.0  # for answers that are under way


def clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Daemon:
    """The parts of a running agent. `http` is where it really listens."""

    config: AgentConfig
    identity: Identity
    replica: Replica
    worker: Worker
    service: Service
    logs: LogStore
    engines: Engines
    housekeeper: Housekeeper
    metrics: Metrics
    mirror: database.Mirror | None
    http: str = ""
    starting: str | None = "the log is being read"
    callback_hosts: dict[str, str] = field(default_factory=dict)


async def serve(
    config: AgentConfig, *, started: Callable[[Daemon], None] | None = None, stop: asyncio.Event | None = None
) -> None:
    """Run an agent until `stop` is set, or SIGTERM or SIGINT comes. started: called once it is ready.

    Raises ConfigError for settings or files that cannot be used, AgentStopped when it had to stop by itself (P9).
    """
    ending = stop or asyncio.Event()
    with _signals(ending):
        async with AsyncExitStack() as stack:
            daemon = await _build(config, stack)
            try:
                await _run(daemon, stack, ending, started)
            except* PrimeError as errors:
                raise _first(errors) from errors


def _first(errors: BaseExceptionGroup[PrimeError]) -> PrimeError:
    one = errors.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one


@contextmanager
def _signals(ending: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, ending.set)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


# -- building --------------------------------------------------------------------------------------------------------


async def _build(config: AgentConfig, stack: AsyncExitStack) -> Daemon:
    """Open everything on disk, read the log, make the parts. Everything opened is closed by `stack`."""
    data = config.data_dir
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    identity = load_identity(data)
    wal = await asyncio.to_thread(_open_log, data / "log")
    stack.callback(wal.close)
    keyring = Keyring.open(Path(config.secret_key) if config.secret_key else data / "secret.key", create=True)
    history = await asyncio.to_thread(History.open, data / "history.db")
    metrics = Metrics()
    replica = Replica(
        wal,
        history,
        clock_ms=clock_ms,
        snapshot_bytes=config.snapshot_bytes,
        on_sync=metrics.fsync_seconds.observe,
    )
    stack.push_async_callback(replica.close)
    count = await asyncio.to_thread(replica.recover)
    log.info("log read", extra={"entries": count, "index": replica.applied_index})
    blobs = await asyncio.to_thread(BlobStore, data / "blobs")
    logs = LogStore(data / "logs")
    settings = {"process": {"attempts_root": str(data / "attempts")}, "docker": _docker_settings(config)}
    engines = Engines(load_executors(config.executors, settings))
    stack.push_async_callback(engines.close)
    provisioner = Provisioner(blobs, keyring)
    fallback: dict[str, str] = {}
    service = Service(Context(replica, blobs, provisioner, keyring, identity.agent, fallback))
    callback_hosts: dict[str, str] = {}
    journal, thread = await _open_journal(data / "journal.db", engines, stack)
    worker = Worker(
        replica,
        journal,
        thread,
        engines.executors,
        provisioner,
        logs,
        Settings(
            agent_id=identity.agent,
            attempts=data / "attempts",
            boot_id=boot_id(),
            boottime_s=boottime_s,
            labels={
                "io.prime.cluster": identity.cluster,
                "io.prime.agent": identity.agent,
                "io.prime.machine": machine_id(),
            },
            callback_host=lambda executor: callback_hosts.get(executor, ""),
            log_limit_bytes=config.log_limit_bytes,
            keep_ended_s=config.keep_ended_s,
            network=config.docker_network or None,
            pull=config.pull,
        ),
    )
    keep = Keep(
        int(config.log_keep_s * 1000), config.log_max_bytes, int(config.history_keep_s * 1000), config.history_max_bytes
    )
    daemon = Daemon(
        config,
        identity,
        replica,
        worker,
        service,
        logs,
        engines,
        Housekeeper(replica, worker, blobs, logs, keep),
        metrics,
        database.Mirror(config.database, mirrored) if config.database else None,
        callback_hosts=callback_hosts,
    )
    await engines.probe()
    fallback.update({one: other for one, other in config.fallback if one not in engines.ready})
    return daemon


def _open_log(directory: Path) -> Wal:
    try:
        wal = Wal.open(directory, segment_bytes=SEGMENT_BYTES)
    except LogError as error:
        raise AgentStopped(str(error)) from error
    if wal.recovery.torn_bytes:
        log.warning("a torn end of the log was cut", extra={"bytes": wal.recovery.torn_bytes})
    return wal


def _docker_settings(config: AgentConfig) -> dict[str, str]:
    return {"pull": config.pull, **({"network": config.docker_network} if config.docker_network else {})}


async def _open_journal(path: Path, engines: Engines, stack: AsyncExitStack) -> tuple[Journal, ThreadPoolExecutor]:
    """The journal, in the thread that owns it. Refuses to start without an executor that it names."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
    stack.callback(thread.shutdown)
    journal = await asyncio.get_running_loop().run_in_executor(thread, Journal, path)
    stack.callback(lambda: thread.submit(journal.close).result())
    for kind in await asyncio.get_running_loop().run_in_executor(thread, Worker.executors_in, journal):
        if kind not in engines.executors:
            raise ConfigError(
                f"attempts of the executor {kind!r} may still run; start with --executors {kind} as well until they end"
            )
    return journal, thread


# -- running ---------------------------------------------------------------------------------------------------------


async def _run(
    daemon: Daemon, stack: AsyncExitStack, ending: asyncio.Event, started: Callable[[Daemon], None] | None
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[Any]] = []

        def go(name: str, work: Coroutine[Any, Any, Any]) -> None:
            tasks.append(group.create_task(work, name=name))

        go("replica", daemon.replica.run_forever())
        await _listen(daemon, stack)
        await _join(daemon)
        go("leader", lead(daemon.replica))
        go("worker", daemon.worker.run_forever())
        go("engines", daemon.engines.watch(lambda: _engine_came(daemon, stack)))
        go("housekeeping", daemon.housekeeper.run_forever(lambda: _mirrored(daemon)))
        if daemon.mirror is not None:
            go("mirror", _mirror(daemon, daemon.mirror))
        daemon.starting = None
        log.info("agent ready", extra={"agent": daemon.identity.agent, "http": daemon.http})
        if started is not None:
            started(daemon)
        await ending.wait()
        log.info("agent stopping", extra={"agent": daemon.identity.agent})
        daemon.starting = "the agent is stopping"
        log_keeper, *others = tasks
        for task in reversed(others):
            task.cancel()
        await asyncio.wait(others)  # what they propose at their end is still taken
        log_keeper.cancel()
    await daemon.worker.remove_ended(REMOVE_S)


async def _listen(daemon: Daemon, stack: AsyncExitStack) -> None:
    """Open the HTTP face, and the callback listeners of the executors that answer; write down where they are."""
    daemon.http = f"http://{await _serve_on(build_app(_face(daemon)), daemon.config.http, stack)}"
    await _listen_for_callbacks(daemon, stack)
    path = daemon.config.data_dir / "agent.json"
    note = {"agent": daemon.identity.agent, "http": daemon.http, "pid": os.getpid(), "version": __version__}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(note))
    temporary.rename(path)


async def _listen_for_callbacks(daemon: Daemon, stack: AsyncExitStack) -> None:
    """One listener for each address by which attempts of an executor reach this host, on those interfaces alone."""
    for kind in sorted(daemon.engines.ready - daemon.callback_hosts.keys()):
        host = await daemon.engines.executors[kind].callback_host()
        if host is not None:
            daemon.callback_hosts[kind] = await _serve_on(build_callback_app(_face(daemon)), f"{host}:0", stack)


async def _serve_on(app: web.Application, address: str, stack: AsyncExitStack) -> str:
    host, port = host_port(address, "--http")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError(f"{address}: cannot listen there: {error.strerror or error}") from error
    bound = runner.addresses[0]
    return f"{bound[0]}:{bound[1]}"


def _face(daemon: Daemon) -> Face:
    return Face(
        service=daemon.service,
        worker=daemon.worker,
        logs=daemon.logs,
        agent_id=daemon.identity.agent,
        address=daemon.config.bind,
        version=__version__,
        not_ready=lambda: daemon.starting,
        mirror=lambda: _mirror_status(daemon),
        metrics=daemon.metrics,
    )


async def _join(daemon: Daemon) -> None:
    """Found the cluster if there is none yet, and say that this agent is there."""
    if not daemon.replica.table.rows.cluster:
        await daemon.replica.propose(c.Found(clock_ms(), daemon.identity.cluster, 1))
    await _announce(daemon)


async def _announce(daemon: Daemon) -> None:
    agent = Agent(
        daemon.identity.agent,
        0,
        daemon.config.bind,
        daemon.http,
        daemon.config.slots_or_default,
        tuple(sorted(daemon.engines.ready)),
        __version__,
    )
    await daemon.replica.propose(c.AgentUp(clock_ms(), agent))


async def _engine_came(daemon: Daemon, stack: AsyncExitStack) -> None:
    await _listen_for_callbacks(daemon, stack)
    await daemon.worker.end_strays(daemon.engines.ready)
    await _announce(daemon)


def _mirror_status(daemon: Daemon) -> database.MirrorStatus | None:
    """How the database stands now. What it lacks is counted when asked: its last step knew nothing of later runs."""
    if daemon.mirror is None:
        return None
    status = daemon.mirror.status()
    if status.watermark is None:
        return status
    waiting = daemon.replica.history.tail(status.watermark, 0, count_limit=LAG_COUNTED_MAX).behind
    return replace(status, behind=waiting + daemon.replica.leaving)


def _mirrored(daemon: Daemon) -> tuple[int, int] | None:
    """How far the database has the history: what it lacks is kept. None = there is no database."""
    if daemon.mirror is None:
        return None
    return daemon.mirror.status().watermark or (0, 0)


async def _mirror(daemon: Daemon, mirror: database.Mirror) -> None:
    """Tail the history into the database for as long as this agent leads (P5)."""
    wake = asyncio.Event()

    async def wake_on_change() -> None:
        while True:
            changed = daemon.replica.changed()
            wake.set()
            await asyncio.shield(changed)

    async with asyncio.TaskGroup() as group:
        waker = group.create_task(wake_on_change())
        generation = daemon.replica.table.rows.generation
        await database.run(mirror, daemon.replica.history, wake, generation=generation, term=TERM)
        log.error("another writer owns the database; this agent no longer writes it", extra={"database": mirror.name})
        waker.cancel()

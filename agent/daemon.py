"""Builds one agent from its settings and runs it: everything in one TaskGroup.

Order of the start: identity and sockets, then the cluster it belongs to (`_enter`), then the log is replayed and the
parts are made (`_build`), then they run. Order of the stop: another one leads, the worker lets go of its attempts
(which go on), the log is closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from agent import __version__, intact, keyring
from agent.api.access import Access
from agent.api.callback import build_callback_app
from agent.api.door import Door, build_waiting_app
from agent.api.elsewhere import Elsewhere
from agent.api.face import Face
from agent.api.logs import nothing_more_comes
from agent.api.outputs import missing
from agent.api.server import build_app
from agent.archiving import Outputs
from agent.cluster import keys as cluster_keys
from agent.cluster.blobs import Blobs
from agent.cluster.calls import Asker
from agent.cluster.checkup import Checkup
from agent.cluster.formation import Member
from agent.cluster.forward import Forward
from agent.cluster.founding import Belonging, Founding, Join, Welcome
from agent.cluster.gossip import Gossiping
from agent.cluster.history import Backfill
from agent.cluster.leases import Leases
from agent.cluster.link import Link, open_link
from agent.cluster.members import Members
from agent.cluster.promise import PromiseFile
from agent.cluster.standing import Founder
from agent.cluster.steward import Steward
from agent.config import WILDCARDS, AgentConfig, host_port
from agent.engines import Engines, load_executors
from agent.errors import AgentStopped, ConfigError, PrimeError, Refusal
from agent.housekeeping import Housekeeper, Keep, named_in
from agent.http_gates import HttpGates
from agent.identity import Identity, boot_id, boottime_s, load_identity, machine_id, save_identity
from agent.journal_thread import JournalThread
from agent.keyring import Keyring
from agent.leader import lead
from agent.metrics import Metrics
from agent.mirroring import Mirroring
from agent.notifier import Notifier
from agent.presence import Presence
from agent.provision import Provisioner
from agent.records import mirrored
from agent.replaying import go_on
from agent.replica import Replica, found
from agent.retired import NO_ROOM
from agent.runtable import commands as c
from agent.runtable.apply import REFUSALS
from agent.runtable.model import Agent
from agent.service import Context, Service
from agent.store import database
from agent.store.blobs import BlobStore
from agent.store.history import History
from agent.store.logs import LogStore
from agent.watchdog import Watchdog, fenceable
from agent.worker import Settings, Worker
from consensus.durable import DurableLog
from consensus.errors import LogError
from consensus.messages import NONE
from consensus.wal_identity import Identity as NodeIdentity
from transport.gossip import Metadata

log = logging.getLogger(__name__)
T = TypeVar("T")

SEGMENT_BYTES: Final = 16 * 1024 * 1024
THREADS: Final = 32
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
READY_LOOK_S: Final = 0.2
HAND_OVER_S: Final = 1.0
REMOVE_S: Final = 10.0  # for what is left of ended attempts, at the agent's end


def clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Daemon:
    """The parts of a running agent."""

    config: AgentConfig
    identity: Identity
    entered: Entered
    replica: Replica
    worker: Worker
    service: Service
    logs: LogStore
    engines: Engines
    housekeeper: Housekeeper
    metrics: Metrics
    mirror: Mirroring | None
    blobs: Blobs
    backfill: Backfill
    leases: Leases
    steward: Steward
    members: Members
    elsewhere: Elsewhere
    gossip: Gossiping
    checkup: Checkup
    notifier: Notifier
    outputs: Outputs
    access: Access = field(default_factory=Access)
    presence: Presence | None = None
    starting: str | None = "the log is being read"
    callback_hosts: dict[str, str] = field(default_factory=dict)

    @property
    def http(self) -> str:
        """The URL where it answers users."""
        host, _port = host_port(self.config.http, "--http")
        if host not in WILDCARDS:
            return f"http://{self.entered.door.address}"
        reached = self.entered.link.address.rpartition(":")[0]  # of all its addresses, the one that others use
        return f"http://{reached}:{self.entered.door.address.rpartition(':')[2]}"

    def not_ready(self) -> str | None:
        """Why it takes no work now; None = it does."""
        if self.starting is not None:
            return self.starting
        if self.replica.held is not None:
            return self.replica.held
        if self.replica.driver.disk_full or NO_ROOM:
            return "the disk is full: work waits until some space is free"
        if self.replica.leader == NONE:
            return "no leader is known: too few agents can be reached, or one is being elected"
        return self.presence.problem if self.presence is not None else None

    def describe(self) -> Agent:
        """Its row in the table, as it is now."""
        executors = self.engines.executors
        return Agent(
            self.identity.agent,
            0,
            self.entered.link.address,
            self.http,
            self.config.slots_or_default,
            tuple(sorted(self.engines.ready)),
            __version__,
            level=c.LEVEL,
            node=self.identity.node,
            labels=dict(self.config.labels),
            unfenceable=tuple(sorted(name for name in self.engines.ready if not fenceable(executors[name]))),
        )

    def as_member(self) -> Member:
        """What outsiders are told of the cluster."""
        rows = self.replica.table.rows
        members = sorted((row.node, row.id, row.address) for row in rows.agents.values() if row.node)
        return Member(rows.cluster, rows.generation, tuple(Founder(name, node, at) for node, name, at in members))

    async def let_in(self, _asker: Asker, question: Join) -> Welcome:
        """Take an agent into the cluster. Raises Refusal."""
        me = question.me
        row = Agent(me.id, 0, me.address, "", 0, (), question.version, node=me.node, level=question.level)
        known = self.replica.table.rows.agents.get(me.id)
        # Who asks has never been a member for itself, so it has run nothing, even if it was held for lost meanwhile.
        clean = known is not None and known.lost
        applied = await self.replica.propose(c.AgentUp(clock_ms(), row, clean, known.epoch if known is not None else 0))
        if not applied.ok:
            raise Refusal(applied.code, REFUSALS[applied.code], 409)
        member = self.as_member()
        text = await asyncio.to_thread(keyring.key_file_text, _secret_key(self.config))
        return Welcome(member.cluster, member.generation, member.members, text)


async def serve(
    config: AgentConfig, *, started: Callable[[Daemon], None] | None = None, stop: asyncio.Event | None = None
) -> None:
    """Run an agent until `stop` is set, or SIGTERM or SIGINT comes. started: called once it is ready.

    Raises ConfigError for settings or files that cannot be used, AgentStopped when it had to stop by itself (P9).
    """
    access = Access.of(config)
    ending = stop or asyncio.Event()
    # Most of what it does waits for a disk: many syncs at once cost little more than one.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="work"))
    with _signals(ending):
        async with AsyncExitStack() as stack:
            entered = await _until(ending, _enter(config, stack))
            if entered is None:
                return
            daemon = await _build(entered, stack)
            daemon.access = access
            try:
                await _run(daemon, stack, ending, started)
            except ExceptionGroup as errors:
                raise _first(errors) from errors


async def _until(ending: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives, None if the agent is to end before. Raises what the work raises."""
    task, end = asyncio.ensure_future(work), asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, end):
            one.cancel()
        await asyncio.gather(task, end, return_exceptions=True)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The first of our own errors in it, or the whole where there is none."""
    ours = errors.subgroup(PrimeError)
    if ours is None:
        return errors
    one: Exception = ours.exceptions[0]
    return _first(one) if isinstance(one, ExceptionGroup) else one


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


# -- coming to belong to a cluster -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entered:
    """An agent that knows its cluster, and has not opened its log yet. told: whom it may ask there, {node: address}."""

    config: AgentConfig
    identity: Identity
    door: Door
    link: Link
    founding: Founding
    founders: tuple[Founder, ...]
    told: dict[int, str]


async def _enter(config: AgentConfig, stack: AsyncExitStack) -> Entered:
    """Listen, and go on until this agent belongs to a cluster. Everything opened is closed by `stack`."""
    data = config.data_dir
    intact.prepare(data, _secret_key(config))
    identity = load_identity(data)
    door = Door.open(config.http, "--http")
    stack.push_async_callback(door.close)
    await door.show(build_waiting_app(lambda: "this agent waits until it belongs to a cluster"))
    _write_note(data, identity, door)
    link = open_link(config, identity)
    stack.push_async_callback(link.close)
    promises = await asyncio.to_thread(PromiseFile.open, data, identity.agent)
    stack.callback(promises.close)
    me = Founder(identity.agent, identity.node, link.address)
    founding = Founding(
        me,
        config.join,
        config.bootstrap_expect,
        promises,
        link.calls,
        link.transport,
        version=__version__,
        member=Member(identity.cluster, identity.generation, ()) if identity.cluster else None,
    )
    stack.push_async_callback(founding.close)
    if identity.cluster:
        return Entered(config, identity, door, link, founding, (), {})
    belonging = await founding.belong()
    identity = replace(identity, cluster=belonging.cluster, generation=belonging.generation)
    link.belongs(identity)
    await asyncio.to_thread(_keep_secret_key, config, link, belonging)
    told = {one.node: one.address for one in belonging.members}
    return Entered(config, identity, door, link, founding, belonging.founders, told)


def _secret_key(config: AgentConfig) -> Path:
    return Path(config.secret_key) if config.secret_key else config.data_dir / intact.KEY


def _keep_secret_key(config: AgentConfig, link: Link, belonging: Belonging) -> None:
    """The key of the cluster's secrets, where this agent has none: handed over to it, or the founders' own."""
    path = _secret_key(config)
    if path.exists():
        return
    text = belonging.secret_keys or keyring.HEADER + keyring.derived_key(link.ring.keys[0], belonging.cluster)
    keyring.create_key_file(path, text)


def _write_note(data: Path, identity: Identity, door: Door) -> None:
    """Where this agent answers, for programs on this host."""
    note = {"agent": identity.agent, "http": f"http://{door.here}", "pid": os.getpid(), "version": __version__}
    temporary = data / "agent.tmp"
    temporary.write_text(json.dumps(note))
    temporary.rename(data / "agent.json")


# -- building --------------------------------------------------------------------------------------------------------


async def _build(entered: Entered, stack: AsyncExitStack) -> Daemon:
    """Open everything on disk, read the log, make the parts. Everything opened is closed by `stack`."""
    config, identity, link = entered.config, entered.identity, entered.link
    data = config.data_dir
    durable = await asyncio.to_thread(_open_log, data / "log", identity, entered.founders)
    stack.callback(durable.close)
    keys = Keyring.open(_secret_key(config), create=True)
    history = await asyncio.to_thread(History.open, data / "history.db")
    metrics = Metrics()
    replica = Replica(
        durable,
        link.peers,
        history,
        clock_ms=clock_ms,
        snapshot_bytes=config.snapshot_bytes,
        on_sync=metrics.fsync_seconds.observe,
    )
    stack.push_async_callback(replica.close)
    log.info("log read", extra={"snapshot": replica.applied_index, "index": durable.storage.last_index()})
    Forward(link.calls, replica)
    store = await asyncio.to_thread(BlobStore, data / "blobs")
    blobs = Blobs(store, replica, link.calls, named_in)
    backfill = Backfill(replica, link.calls)
    logs = LogStore(data / "logs")
    settings = {"process": {"attempts_root": str(data / "attempts")}, "docker": _docker_settings(config)}
    engines = Engines(load_executors(config.executors, settings))
    stack.push_async_callback(engines.close)
    provisioner = Provisioner(store, keys)
    fallback: dict[str, str] = {}
    leases = Leases(replica, link.calls, identity.agent, boottime_s, Watchdog(data))
    steward = Steward(
        replica,
        link.calls,
        lambda: blobs.lacking + backfill.lacking,
        blobs.looked,
        bound=lambda: leases.bound,
    )
    service = Service(
        Context(
            replica,
            store,
            provisioner,
            keys,
            identity.agent,
            fallback,
            spread=blobs.spread,
            fetch=blobs.fetch,
            fetch_whole=blobs.fetch_whole,
            transfer=steward.transfer,
        )
    )
    callback_hosts: dict[str, str] = {}
    thread = await _open_journal(data / "journal.db", engines, stack)
    intact.complete(data)
    worker = Worker(
        replica,
        thread.journal,
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
        leases,
        blobs,
    )
    nothing_more = partial(nothing_more_comes, replica, worker)
    outputs = Outputs.open(
        data,
        config.log_archive,
        (identity.cluster, replica.table.rows.generation or identity.generation),
        logs,
        lambda *key: worker.knows_its_work and nothing_more(*key),
        link.calls,
    )
    why_missing = partial(missing, outputs.removals, identity.agent)
    keep = Keep(
        int(config.log_keep_s * 1000), config.log_max_bytes, int(config.history_keep_s * 1000), config.history_max_bytes
    )
    daemon = Daemon(
        config,
        identity,
        entered,
        replica,
        worker,
        service,
        logs,
        engines,
        Housekeeper(replica, worker, store, logs, keep, blobs.fetch_whole, outputs.for_retention),
        metrics,
        Mirroring(replica, database.Mirror(config.database, mirrored)) if config.database else None,
        blobs,
        backfill,
        leases,
        steward,
        Members(replica, link.transport, link.calls, identity.agent, link.address, entered.told),
        Elsewhere(link.calls, replica, logs.directory, nothing_more, why_missing),
        Gossiping(replica, link.peers, Metadata(link.address, entered.door.address, __version__, dict(config.labels))),
        Checkup(replica, link.calls, partial(intact.mark_differs, data)),
        Notifier(replica, keys, service.context.load, config.pagerduty_url),
        outputs,
        callback_hosts=callback_hosts,
    )
    worker.on_output = outputs.archiver.ended
    worker.on_word = daemon.gossip.tell
    link.calls.serve(Join, daemon.let_in, outsiders=True)
    await engines.probe()
    fallback.update({one: other for one, other in config.fallback if one not in engines.ready})
    return daemon


def _open_log(directory: Path, identity: Identity, founders: Sequence[Founder]) -> DurableLog:
    """The log of this node; a founder's begins with all founders, one that joins has none before its first snapshot.

    Its incarnation is 1: a lost disk makes another agent.
    """
    try:
        node = NodeIdentity(identity.cluster, identity.node, 1)
        durable = DurableLog.open(directory, node, segment_bytes=SEGMENT_BYTES)
        if founders:
            found(durable, [Agent(one.id, 1, one.address, "", 0, (), "", node=one.node) for one in founders])
    except LogError as error:
        raise AgentStopped(str(error)) from error
    if durable.recovery.torn_bytes:
        log.warning("a torn end of the log was cut", extra={"bytes": durable.recovery.torn_bytes})
    return durable


def _docker_settings(config: AgentConfig) -> dict[str, str]:
    return {"pull": config.pull, **({"network": config.docker_network} if config.docker_network else {})}


async def _open_journal(path: Path, engines: Engines, stack: AsyncExitStack) -> JournalThread:
    """The journal, in the thread that owns it. Refuses to start without an executor that it names."""
    thread = await asyncio.to_thread(JournalThread, path)
    stack.callback(thread.shutdown)
    for kind in await asyncio.get_running_loop().run_in_executor(thread, Worker.executors_in, thread.journal):
        if kind not in engines.executors:
            raise ConfigError(
                f"attempts of the executor {kind!r} may still run; start with --executors {kind} as well until they end"
            )
    return thread


# -- running ---------------------------------------------------------------------------------------------------------


async def _run(
    daemon: Daemon, stack: AsyncExitStack, ending: asyncio.Event, started: Callable[[Daemon], None] | None
) -> None:
    presence = daemon.presence = Presence(daemon.replica, daemon.describe, daemon.worker.settled, daemon.steward.let_go)
    daemon.worker.on_ended = presence.changed
    daemon.leases.is_stopping = daemon.worker.is_stopping
    link = daemon.entered.link
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[Any]] = []

        def go(name: str, work: Coroutine[Any, Any, Any]) -> None:
            tasks.append(group.create_task(work, name=name))

        go("replica", daemon.replica.run_forever())
        daemon.members.update()
        go("members", daemon.members.run_forever())
        go("keys", cluster_keys.watch(link.ring, link.use_keys))
        go("belongs", _remember(daemon))
        go("refused", link.watch_forever())
        go("founding", daemon.entered.founding.watch_forever())
        await daemon.entered.door.show(build_app(_face(daemon)))
        await _listen_for_callbacks(daemon, stack)
        go("presence", presence.run_forever())
        go("gossip", daemon.gossip.run_forever())
        go("leases", daemon.leases.run_forever())
        go("checkup", daemon.checkup.run_forever())
        go("steward", daemon.steward.run_forever())
        go("blobs", daemon.blobs.sync_forever(daemon.housekeeper.named_by_table))
        go("backfill", daemon.backfill.run_forever())
        have = daemon.service.context.have
        go("http gates", HttpGates(daemon.replica, daemon.service.context.provisioner, have).run_forever())
        go("leader", lead(daemon.replica, daemon.steward.unheard))
        go("replays", go_on(daemon.replica, daemon.service.replays.gates_of))
        go("notifier", daemon.notifier.run_forever())
        go("worker", daemon.worker.run_forever())
        go("engines", daemon.engines.watch(lambda: _engine_came(daemon, stack)))
        go("archive", daemon.outputs.archiver.run_forever())
        go("housekeeping", daemon.housekeeper.run_forever(lambda: daemon.mirror.mirrored() if daemon.mirror else None))
        if daemon.mirror is not None:
            go("mirror", daemon.mirror.run_forever())
        daemon.starting = None
        log.info("agent started", extra={"agent": daemon.identity.agent, "http": daemon.http})
        if started is not None:
            go("started", _tell_started(daemon, started))
        await ending.wait()
        log.info("agent stopping", extra={"agent": daemon.identity.agent})
        daemon.starting = "the agent is stopping"
        await _hand_over(daemon.replica)
        log_keeper, *others = tasks
        for task in reversed(others):
            task.cancel()
        await asyncio.wait(others)  # what they propose at their end is still taken
        log_keeper.cancel()
    await daemon.worker.retired.remove_now(REMOVE_S)


async def _tell_started(daemon: Daemon, started: Callable[[Daemon], None]) -> None:
    while daemon.not_ready() is not None:
        changed = daemon.replica.changed()
        await asyncio.wait((changed,), timeout=READY_LOOK_S)
    started(daemon)


async def _remember(daemon: Daemon) -> None:
    """Note what this agent belongs to, once its table says so: before, another start asks again."""
    while not daemon.replica.table.rows.agents:
        await asyncio.shield(daemon.replica.changed())
    identity = replace(daemon.identity, generation=daemon.replica.table.rows.generation)
    await asyncio.to_thread(save_identity, daemon.config.data_dir, identity)
    daemon.entered.founding.hang_up()
    while True:
        changed = daemon.replica.changed()
        daemon.entered.founding.belongs(daemon.as_member())
        await asyncio.shield(changed)


async def _hand_over(replica: Replica) -> None:
    """Let another member lead before this one stops leading: nobody waits for an election."""
    status = replica.driver.status()
    ready = [
        (one.match, node)
        for node, one in status.progress.items()
        if node != status.id and node in status.config.voters.incoming and one.recent_active
    ]
    if not replica.leads or not ready:
        return
    news = replica.leader_changed()
    replica.driver.transfer(max(ready)[1])
    await asyncio.wait((news,), timeout=HAND_OVER_S)


async def _listen_for_callbacks(daemon: Daemon, stack: AsyncExitStack) -> None:
    """One listener for each address by which attempts of an executor reach this host, on those interfaces alone."""
    for kind in sorted(daemon.engines.ready - daemon.callback_hosts.keys()):
        host = await daemon.engines.executors[kind].callback_host()
        if host is not None:
            door = Door.open(f"{host}:0", "callbacks")
            stack.push_async_callback(door.close)
            await door.show(build_callback_app(_face(daemon)))
            daemon.callback_hosts[kind] = door.address


def _face(daemon: Daemon) -> Face:
    return Face(
        service=daemon.service,
        worker=daemon.worker,
        logs=daemon.logs,
        agent_id=daemon.identity.agent,
        address=daemon.entered.link.address,
        version=__version__,
        not_ready=daemon.not_ready,
        mirror=lambda: daemon.mirror.status() if daemon.mirror is not None else None,
        metrics=daemon.metrics,
        seen=daemon.steward.seen,
        elsewhere=daemon.elsewhere,
        fetched=daemon.outputs.fetched,
        archiver=daemon.outputs.archiver,
        removals=daemon.outputs.removals,
        access=daemon.access,
        provisional=daemon.gossip.provisional,
    )


async def _engine_came(daemon: Daemon, stack: AsyncExitStack) -> None:
    await _listen_for_callbacks(daemon, stack)
    await daemon.worker.leftovers.end_strays(daemon.engines.ready)
    if daemon.presence is not None:
        daemon.presence.changed()

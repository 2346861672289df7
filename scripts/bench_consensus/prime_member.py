"""One member of prime's consensus: the real driver, log and transport, and a state machine that only counts."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.driver import Driver
from agent.peers import Peers
from consensus.durable import DurableLog
from consensus.messages import ConfState, Entry, HardState, SnapshotMeta
from consensus.ready import Role
from consensus.wal_identity import Identity
from scripts.bench_consensus.measure import COMMAND_BYTES, load_of, resident_mb
from scripts.bench_consensus.prime_state import LargeTable, Probe, Seen
from scripts.bench_consensus.processes import MemberConfig, member_config, say
from transport.frames import Envelope, Frame, Kind, Lane
from transport.zmq import CurveKey, Transport

CLUSTER: Final = "bench"
KEY: Final = CurveKey.of_cluster(b"the key of a bench on loopback..")
MARK_BYTES: Final = 2  # of a remote client's request: which of its connections waits for the answer
COMMITS_BEFORE_TRANSFER: Final = 50


class CounterLoader:
    """Reads what a Counter's snapshot holds."""

    def __init__(self) -> None:
        self._state = b""

    def feed(self, data: bytes) -> None:
        """See driver.Loader."""
        self._state += data

    def finish(self) -> tuple[int, bytes]:
        """See driver.Loader."""
        return msgspec.msgpack.decode(self._state, type=tuple[int, bytes]) if self._state else (0, b"")


class Counter:
    """The state machine: how many commands it has seen, and the last."""

    def __init__(self) -> None:
        self.count, self.last = 0, b""

    def apply(self, entry: Entry) -> int:
        """See driver.Machine."""
        self.count += 1
        self.last = entry.data
        return self.count

    def ready(self) -> bool:
        """See driver.Machine: always."""
        return True

    def applied(self) -> None:
        """See driver.Machine: nobody waits for it."""

    def snapshot(self) -> Iterable[bytes]:
        """See driver.Machine."""
        return [msgspec.msgpack.encode((self.count, self.last))]

    def loader(self) -> CounterLoader:
        """See driver.Machine."""
        return CounterLoader()

    def restore(self, _meta: SnapshotMeta, state: tuple[int, bytes]) -> Iterable[object]:
        """See driver.Machine."""
        self.count, self.last = state
        return ()

    async def before_snapshot(self, _index: int) -> None:
        """See driver.Machine: nothing else is kept."""


class Member:
    """Everything a bench asks of one member."""

    def __init__(self, config: MemberConfig) -> None:
        begin_s = time.perf_counter()
        self._directory = Path(config.data_dir) / "log"
        self.durable = open_log(self._directory, config)
        self.open_s = time.perf_counter() - begin_s
        self.syncs = 0
        rows = config.options.get("rows", 0)
        self._probe = Probe(config.id) if rows else None
        self._peers = self._probe or Peers(config.id)
        self._transport = Transport(
            Envelope(CLUSTER, 1, config.id, 1), KEY, self._peers.on_frames, bind=config.addresses[config.id]
        )
        self._peers.transport = self._transport
        self._peers.on_request = self._on_request
        self._others = [number for number in config.addresses if number != config.id]
        for number in self._others:
            self._transport.connect(number, config.addresses[number])
        self._driver = Driver(
            self.durable,
            LargeTable(rows) if rows else self._counter(),
            self._peers,
            jitter=random.Random(config.id).randrange,
            snapshot_bytes=config.options.get("snapshot_bytes", 1 << 60),
            on_sync=self._on_sync,
            on_failed=lambda error: sys.exit(repr(error)),
        )
        self._driver.on_role = self._on_role

    def _counter(self) -> Counter:
        counter, loader = Counter(), CounterLoader()
        for chunk in self.durable.read_snapshot():
            loader.feed(chunk)
        counter.restore(self.durable.snapshot_meta(), loader.finish())
        return counter

    def start(self) -> None:
        """Take part."""
        if self._probe is not None:
            self._probe.watch()
        self._driver.start()

    async def close(self) -> None:
        """Stop."""
        await self._driver.close()
        self._transport.close()
        self.durable.close()

    def _on_sync(self, _took_s: float) -> None:
        self.syncs += 1

    def _on_role(self, role: Role) -> None:
        """A new leader says so, and when its first entry of the bench's is committed."""
        if role is Role.LEADER:
            say({"event": "leader", "at_ns": time.monotonic_ns()})
            self._driver.submit(bytes(COMMAND_BYTES)).add_done_callback(_say_commit)

    def _on_request(self, frame: Frame) -> None:
        """A remote client's proposal: its mark, then the command. The answer: its mark, and whether it is committed."""
        future = self._driver.submit(frame.payload[MARK_BYTES:])
        future.add_done_callback(partial(self._answer, frame))

    def _answer(self, frame: Frame, future: asyncio.Future[Any]) -> None:
        committed = not future.cancelled() and future.exception() is None
        self._transport.answer(frame, frame.payload[:MARK_BYTES] + bytes([committed]))

    # -- what is asked -----------------------------------------------------------------------------------------------

    async def leads(self) -> bool:
        """Whether it leads and serves."""
        return self._driver.node.role is Role.LEADER and self._driver.applied == self._driver.node.committed

    async def applied(self) -> int:
        """The index of the last entry that its machine has applied; -1 while it is not connected to all others."""
        sent = [self._transport.send(number, lane, b"", Kind.GOSSIP) for number in self._others for lane in Lane]
        return self._driver.applied if all(sent) else -1

    async def stats(self) -> dict[str, Any]:
        """Memory, processor time used, size of the log on disk, seconds it took to open it."""
        files = [path for path in self._directory.rglob("*") if path.is_file()]
        return {
            "resident_mb": resident_mb("self"),
            "cpu_s": time.process_time(),
            "syncs": self.syncs,
            "log_bytes": sum(path.stat().st_blocks * 512 for path in files),
            "first_index": self.durable.storage.first_index(),
            "open_s": self.open_s,
        }

    async def load(self, in_flight: int, seconds: float = 0.0, count: int = 0) -> dict[str, Any]:
        """So many coroutines that propose, each one command at a time, for so many seconds or commands."""
        latencies_ns: list[int] = []
        errors = 0
        padding = bytes(COMMAND_BYTES - 8)
        numbers = itertools.count()  # no two commands share their memory
        begin_ns, begin_syncs = time.perf_counter_ns(), self.syncs
        end_ns = begin_ns + int((seconds or 1e6) * 1e9)
        most = count or 1 << 60

        async def place() -> None:
            nonlocal errors
            now_ns = time.perf_counter_ns()
            while now_ns < end_ns and len(latencies_ns) < most:
                try:
                    await self._driver.propose(next(numbers).to_bytes(8) + padding)
                except Exception:  # counted: the bench shows it
                    errors += 1
                    await asyncio.sleep(0.01)
                    now_ns = time.perf_counter_ns()
                else:
                    begun_ns, now_ns = now_ns, time.perf_counter_ns()
                    latencies_ns.append(now_ns - begun_ns)

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(place())
        load = load_of(in_flight, (time.perf_counter_ns() - begin_ns) / 1e9, latencies_ns, errors)
        ratio = round(load.count / max(self.syncs - begin_syncs, 1), 2)
        return msgspec.to_builtins(msgspec.structs.replace(load, records_per_sync=ratio))  # type: ignore[no-any-return]

    async def snapshot(self) -> dict[str, float]:
        """Make a snapshot and keep nothing of the log behind it. Seconds it took, MiB of state."""
        begin_s = time.perf_counter()
        await self._driver.snapshot()
        took_s = time.perf_counter() - begin_s
        self.durable.trim(0, 0)
        return {"seconds": took_s, "mib": self.durable.head.size / 2**20}

    async def forget(self) -> None:
        """Forget what the probe has seen."""
        assert self._probe is not None
        self._probe.forget()

    async def seen(self) -> Seen:
        """What the probe has seen since."""
        assert self._probe is not None
        return self._probe.seen()

    async def transfer(self, to: int) -> int:
        """Propose all the while, hand leadership over; returns when the last proposal here was answered, in ns."""
        last_ns = 0
        for count in range(1 << 60):
            if count == COMMITS_BEFORE_TRANSFER:
                self._driver.transfer(to)
            try:
                await self._driver.propose(bytes(COMMAND_BYTES))
            except Exception:
                break
            last_ns = time.monotonic_ns()
        return last_ns


def open_log(directory: Path, config: MemberConfig) -> DurableLog:
    """The member's log; a new one begins with a snapshot that names the members."""
    identity = Identity(CLUSTER, config.id, 1)
    fresh = not directory.exists()
    durable = DurableLog.open(directory, identity)
    if fresh:
        with durable:
            meta = SnapshotMeta(1, 1, ConfState(tuple(sorted(config.addresses))))
            durable.install_snapshot(meta, HardState(1, 0, 1), [])
        durable = DurableLog.open(directory, identity)
    durable.prepare()
    return durable


def _say_commit(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and future.exception() is None:
        say({"event": "commit", "at_ns": time.monotonic_ns()})


async def serve(member: Member) -> None:
    """Answer the bench until it closes the pipe."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    handlers: dict[str, Callable[..., Awaitable[Any]]] = {
        "leads": member.leads,
        "applied": member.applied,
        "stats": member.stats,
        "load": member.load,
        "transfer": member.transfer,
        "snapshot": member.snapshot,
        "forget": member.forget,
        "seen": member.seen,
    }
    while line := await reader.readline():
        asked = msgspec.json.decode(line)
        try:
            say({"answer": await handlers[asked.pop("do")](**asked)})
        except Exception as error:  # told to the one who asked
            say({"failed": repr(error)})


async def main() -> None:
    """One member, until the bench has had enough of it."""
    member = Member(member_config())
    gc.collect()
    gc.freeze()
    member.start()
    try:
        await serve(member)
    finally:
        await member.close()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is and is wanted."""
    if member_config().options.get("loop") == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())

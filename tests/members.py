"""Members of a cluster in one process: real cores, logs and drivers; a network in memory that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from agent.driver import Driver
from agent.peers import Peers
from consensus.durable import DurableLog
from consensus.messages import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from consensus.ready import Role
from consensus.wal_identity import Identity
from transport.frames import Envelope
from transport.memory import Network, Transport


class Pages:
    """A book's lines as they come in a snapshot."""

    def __init__(self) -> None:
        self._text = bytearray()

    def feed(self, data: bytes) -> None:
        self._text += data

    def finish(self) -> list[bytes]:
        return bytes(self._text).splitlines()


class Book:
    """A state machine that keeps every entry's data, in order."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.changed = asyncio.Event()
        self.open = True

    def apply(self, entry: Entry) -> int:
        if entry.kind == EntryKind.NORMAL and entry.data:
            self.lines.append(entry.data)
        return len(self.lines)

    def ready(self) -> bool:
        return self.open

    def applied(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def snapshot(self) -> Iterable[bytes]:
        return [line + b"\n" for line in self.lines]

    def loader(self) -> Pages:
        return Pages()

    def restore(self, _meta: SnapshotMeta, state: list[bytes]) -> Iterable[object]:
        old, self.lines = self.lines, state
        return old

    async def before_snapshot(self, _index: int) -> None:
        return None


class Member:
    """One of them. `stop` and `start` are a process' end and beginning."""

    def __init__(self, cluster: Cluster, node: int) -> None:
        self.cluster, self.node = cluster, node
        self.failed: list[BaseException] = []
        self.durable: DurableLog | None = None

    def start(self) -> None:
        """Open the log and join the network."""
        cluster, node = self.cluster, self.node
        self.durable = durable = DurableLog.open(
            cluster.root / str(node), Identity("c", node, 1), segment_bytes=cluster.segment_bytes
        )
        if node in cluster.voters and not durable.snapshot_meta().index:
            begin = HardState(1, 0, 1)
            head = durable.install_snapshot(SnapshotMeta(1, 1, ConfState(cluster.voters)), begin, [])
            durable.storage.install_snapshot(head.snapshot)
            durable.storage.hard_state = begin
        self.book = Book()
        self.book.lines = b"".join(durable.read_snapshot()).splitlines()
        self.peers = Peers(node)
        envelope = Envelope("c", 1, node, 1)
        self.transport = Transport(envelope, cluster.network, self.peers.on_frames, bind=str(node))
        for other in range(1, 10):
            if other != node:
                self.transport.connect(other, str(other))
        self.peers.transport = self.transport
        self.driver = Driver(
            durable,
            self.book,
            self.peers,
            jitter=cluster.rng.randrange,
            snapshot_bytes=cluster.snapshot_bytes,
            on_failed=self.failed.append,
        )
        self.driver.start()

    async def stop(self) -> None:
        """Leave the network and let go of the log."""
        if self.durable is None:
            return
        self.transport.close()
        await self.driver.close()
        self.durable.close()
        self.durable = None

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something applied has made the condition true."""
        while not condition():
            await asyncio.wait_for(self.book.changed.wait(), 20)


class Cluster:
    """Some members, all voters at first."""

    def __init__(self, root: Path, size: int, snapshot_bytes: int, segment_bytes: int) -> None:
        self.root, self.rng, self.network = root, Random(1), Network()
        self.snapshot_bytes, self.segment_bytes = snapshot_bytes, segment_bytes
        self.voters = tuple(range(1, size + 1))
        self.members = {node: Member(self, node) for node in self.voters}

    def join(self, node: int) -> Member:
        """Start one that is no member yet: its log begins empty, with nobody to vote."""
        member = self.members[node] = Member(self, node)
        member.start()
        return member

    @property
    def up(self) -> list[Member]:
        """Those that run."""
        return [one for one in self.members.values() if one.durable is not None]

    async def leader(self, among: Iterable[int] = ()) -> Member:
        """Wait for a leader that has applied its own entry."""
        async with asyncio.timeout(20):
            while True:
                for one in self.up:
                    if one.driver.leads and (not among or one.node in among):
                        return one
                await asyncio.sleep(0.01)

    def followers(self) -> list[Member]:
        """Those that do not lead."""
        return [one for one in self.up if one.driver.node.role is not Role.LEADER]

    def cut(self, *groups: Iterable[int]) -> None:
        """Let only members of the same group hear each other; none = everybody."""
        sides = [{str(node) for node in group} for group in groups]
        self.network.lose = lambda sender, receiver: (
            bool(sides) and not any(sender in side and receiver in side for side in sides)
        )


@asynccontextmanager
async def cluster(
    root: Path, size: int = 3, *, snapshot_bytes: int = 2**30, segment_bytes: int = 1 << 20
) -> AsyncIterator[Cluster]:
    """A cluster that runs, and is stopped at the end. No member may have failed."""
    one = Cluster(root, size, snapshot_bytes, segment_bytes)
    for member in one.members.values():
        member.start()
    try:
        yield one
    finally:
        for member in one.members.values():
            await member.stop()
    assert [member.failed for member in one.members.values()] == [[]] * len(one.members)


async def agree(one: Cluster, lines: list[Any] | None = None) -> list[bytes]:
    """Wait until all that run have the same book, with these lines if given. Returns it."""
    async with asyncio.timeout(20):
        while True:
            books = [member.book.lines for member in one.up]
            if all(book == books[0] for book in books) and (lines is None or books[0] == lines):
                return books[0]
            await asyncio.sleep(0.01)

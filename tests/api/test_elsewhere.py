"""Output of attempts that ran on another agent is the same here as there (P6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.api import elsewhere as module
from agent.api import tailing
from agent.api.elsewhere import Elsewhere, Part, ReadLog, Wanted
from agent.api.tailing import Marked
from agent.cluster.calls import Asker
from agent.errors import Refusal
from agent.runtable import commands as c
from agent.runtable.model import Agent
from agent.store.logs import LogStore
from executors.base import LogLine, Stream
from executors.segments import Gap, SegmentWriter
from tests.api.harness import in_loop
from tests.cluster.replicas import Member, cluster
from tests.runtable.builders import START_MS
from transport.frames import Lane

ATTEMPT = ("r1", "shell", 1)
ALL = Wanted(*ATTEMPT, since_ns=0, stream="", tail=-1, after="")


@dataclass
class There:
    """An agent with an attempt's output, and one that reads it."""

    holder: Member
    reader: Member
    logs: LogStore
    elsewhere: Elsewhere
    ended: bool = True

    @property
    def directory(self) -> Path:
        return self.logs.directory(*ATTEMPT)

    def write(self, *lines: str, stream: Stream = Stream.STDOUT) -> None:
        with SegmentWriter(self.directory, limit_bytes=1 << 30) as writer:
            for line in lines:
                writer.write(stream, f"{line}\n".encode(), 1)

    async def here(self, **wanted: object) -> list[Marked]:
        """As the agent itself reads it."""
        batches = tailing.batches(self.directory, 1, ended=lambda: True, **wanted)  # type: ignore[arg-type]
        return [one async for batch in batches for one in batch]

    async def read(self, wanted: Wanted = ALL, *, follow: bool = False) -> list[Marked]:
        """As the other one does."""
        agent = self.reader.replica.table.rows.agents[f"a{self.holder.node}"]
        return [one async for batch in self.elsewhere.batches(agent, wanted, follow=follow) for one in batch]


async def lost(_run: str, _instance: str, _number: int) -> Refusal:
    return Refusal("output_lost", "nothing is left of it", 410)


@asynccontextmanager
async def two(root: Path) -> AsyncIterator[There]:
    async with cluster(root) as one:
        leader = await one.leader()
        reader = next(member for member in one.up if member is not leader)
        logs = LogStore(root / "logs")
        there = There(
            leader,
            reader,
            logs,
            Elsewhere(reader.calls, reader.replica, LogStore(root / "none").directory, lambda *_attempt: True, lost),
        )
        Elsewhere(leader.calls, leader.replica, logs.directory, lambda *_attempt: there.ended, lost)
        yield there


def texts(records: list[Marked]) -> list[str]:
    return [record.data.decode() for _mark, record in records if isinstance(record, LogLine)]


@in_loop
async def test_it_is_the_same_with_the_same_marks_and_filters(tmp_path: Path) -> None:
    async with two(tmp_path) as there:
        there.write(*(f"out {number}" for number in range(700)))
        there.write("bad", stream=Stream.STDERR)
        whole = await there.here()
        assert await there.read() == whole
        assert await there.read(Wanted(*ATTEMPT, 0, "stderr", -1, "")) == await there.here(stream=Stream.STDERR)
        assert texts(await there.read(Wanted(*ATTEMPT, 0, "", 3, ""))) == ["out 698", "out 699", "bad"]
        assert await there.read(Wanted(*ATTEMPT, 2, "", -1, "")) == []
        middle = str(whole[300][0])
        assert await there.read(Wanted(*ATTEMPT, 0, "", -1, middle)) == whole[301:]


@in_loop
async def test_what_is_more_than_one_part_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 1000)
    async with two(tmp_path) as there:
        there.write(*(f"{number:05d}" for number in range(3000)))
        assert texts(await there.read()) == [f"{number:05d}" for number in range(3000)]


@in_loop
async def test_missing_output_shows_as_the_same_gap(tmp_path: Path) -> None:
    async with two(tmp_path) as there:
        with SegmentWriter(there.directory, limit_bytes=1 << 30, segment_bytes=4096) as writer:
            for number in range(2000):
                writer.write(Stream.STDOUT, f"{number}\n".encode(), 1)
        segments = sorted(there.directory.glob("*.log"))
        assert len(segments) > 4
        segments[2].unlink()
        read = await there.read()
        assert read == await there.here()
        assert any(isinstance(record, Gap) for _mark, record in read)


@in_loop
async def test_it_is_followed_to_its_end_and_a_tail_of_nothing_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.02)
    async with two(tmp_path) as there:
        there.ended = False
        wanted = Wanted(*ATTEMPT, 0, "", 2, "")
        asked = asyncio.Event()
        ask = there.elsewhere.part

        async def tell(agent: Agent, question: Wanted) -> Part:
            part = await ask(agent, question)
            asked.set()
            return part

        monkeypatch.setattr(there.elsewhere, "part", tell)
        following = asyncio.create_task(there.read(wanted, follow=True))
        await asked.wait()  # there was nothing yet, of which two lines were wanted
        there.write("one", "two", "three", "four")
        asked.clear()
        await asked.wait()
        there.write("last")
        there.ended = True
        assert texts(await following) == ["one", "two", "three", "four", "last"]


@in_loop
async def test_an_agent_that_lags_behind_says_nothing_of_an_attempt_it_does_not_know_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "APPLY_S", 0.2)
    async with two(tmp_path) as there:
        index = there.holder.replica.applied_index
        ahead = ReadLog(ALL, index + 1)
        there.write()
        with pytest.raises(Refusal) as caught:
            await there.reader.calls.ask(there.holder.node, ahead, Part, lane=Lane.BULK)
        assert (caught.value.code, caught.value.status) == ("unreachable", 503)
        monkeypatch.setattr(module, "APPLY_S", 20)
        asking = asyncio.create_task(there.reader.calls.ask(there.holder.node, ahead, Part, lane=Lane.BULK))
        await there.holder.replica.propose(c.PutProject(START_MS, "q"))
        assert await asking == Part((), ended=True)


@in_loop
async def test_an_agent_that_does_not_answer_may_answer_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are 503, so that a client that follows comes back, as nothing is done twice by reading."""

    async def never(_asker: Asker, _question: ReadLog) -> Part:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(module, "ASK_S", 0.1)
    async with two(tmp_path) as there:
        there.holder.calls.serve(ReadLog, never)
        with pytest.raises(Refusal) as caught:
            await there.read()
        assert (caught.value.code, caught.value.status) == ("unreachable", 503)
        there.reader.transport.disconnect(there.holder.node)
        with pytest.raises(Refusal) as caught:
            await there.read()
        assert (caught.value.code, caught.value.status) == ("unreachable", 503)


@in_loop
async def test_what_is_no_place_in_an_output_is_refused(tmp_path: Path) -> None:
    async with two(tmp_path) as there:
        for wanted in (
            Wanted("r1", "shell", -1, 0, "", -1, ""),
            Wanted(*ATTEMPT, -1, "", -1, ""),
            Wanted(*ATTEMPT, 0, "x", -1, ""),
            Wanted(*ATTEMPT, 0, "", -2, ""),
        ):
            with pytest.raises(Refusal, match="no place"):
                await there.read(wanted)


@in_loop
async def test_nobody_waits_for_the_output_of_an_agent_that_is_lost(tmp_path: Path) -> None:
    """It is 409: a client that follows goes on with what comes after, as nobody knows when that agent returns."""
    async with two(tmp_path) as there:
        there.reader.transport.disconnect(there.holder.node)
        rows = there.reader.replica.table.rows.agents
        name = f"a{there.holder.node}"
        agent = rows[name]
        rows[name] = replace(agent, lost=True, lost_at_ms=START_MS)
        for _ in range(2):
            with pytest.raises(Refusal, match="which is lost; it is there again when that agent is") as caught:
                await there.elsewhere.part(agent, ALL)
            assert (caught.value.code, caught.value.status) == ("output_away", 409)
            rows.pop(name, None)  # removed while its output was read

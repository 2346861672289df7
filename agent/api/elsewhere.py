"""Output of attempts that ran on other agents: read there, a part at a time, and passed on here.

Nothing stays open between two parts: whoever reads names the place to go on from, as a client does who comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final

import msgspec

from agent.api import tailing
from agent.api.tailing import Mark, Marked
from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.errors import Refusal
from agent.replica import Replica
from agent.runtable.model import Agent
from agent.store.errors import LogsError
from executors.base import LogLine, Stream
from executors.segments import Gap
from transport.frames import Lane

PART_BYTES: Final = 512 * 1024
PART_RECORDS: Final = 2048
POLL_S: Final = 0.3
APPLY_S: Final = 5.0  # until this agent knows of the attempt that the other one has seen
ASK_S: Final = 15.0  # a tail is found by reading all that comes before it


class Wanted(msgspec.Struct, array_like=True, frozen=True):
    """Whose output, and which of it: as `tailing.batches`. after: a mark's text, "" = from the beginning."""

    run: str
    instance: str
    attempt: int
    since_ns: int
    stream: str
    tail: int
    after: str


class ReadLog(Question, frozen=True):
    """The next part of an attempt's output. index: of the table in which the asker has seen the attempt."""

    wanted: Wanted
    index: int


class Record(msgspec.Struct, array_like=True, frozen=True):
    """A line: numbers are (time_ns, partial). Or a gap, of no stream: (missing segments, damaged bytes)."""

    mark: str
    stream: str
    numbers: tuple[int, int]
    data: bytes = b""


class Part(Answer, frozen=True):
    """ended: nothing more comes after these."""

    records: tuple[Record, ...]
    ended: bool


class Elsewhere:
    """Reads other agents' output, and lets them read this one's."""

    def __init__(
        self,
        calls: Calls,
        replica: Replica,
        directory: Callable[[str, str, int], Path],
        ended: Callable[[str, str, int], bool],
        missing: Callable[[str, str, int], Awaitable[Refusal]],
    ) -> None:
        """Each of an attempt's log, by (run, instance, number).

        ended: nothing more is written to it. missing: what is to be said where nothing is left of it.
        """
        self._missing = missing
        self._calls, self._replica, self._directory, self._ended = calls, replica, directory, ended
        calls.serve(ReadLog, self._serve)

    async def batches(
        self, agent: Agent, wanted: Wanted, *, follow: bool, first: Part | None = None
    ) -> AsyncGenerator[list[Marked], None]:
        """As `tailing.batches`, from that agent. first: a part asked for before. Raises Refusal as `part`."""
        while True:
            part, first = first or await self.part(agent, wanted), None
            wanted = msgspec.structs.replace(wanted, tail=-1)  # what comes now is behind what there was
            if part.records:
                yield [_marked(record) for record in part.records]
                wanted = msgspec.structs.replace(wanted, after=part.records[-1].mark)
            elif part.ended or not follow:
                return
            else:
                await asyncio.sleep(POLL_S)

    async def part(self, agent: Agent, wanted: Wanted) -> Part:
        """What comes next. Raises Refusal where the agent cannot be reached (503), or is lost (409)."""
        question = ReadLog(wanted, self._replica.applied_index)
        try:
            return await self._calls.ask(agent.node, question, Part, timeout_s=ASK_S, lane=Lane.BULK)
        except Refusal as refusal:
            if refusal.code not in {"unreachable", "no_answer"}:
                raise
            row = self._replica.table.rows.agents.get(agent.id)
            lost = row is None or row.lost
            how = "is lost" if lost else "does not answer"
            text = f"the output is on agent {agent.id}, which {how}; it is there again when that agent is"
            if lost:  # who follows a run does not wait for it: that may take days
                raise Refusal("output_away", text, 409) from refusal
            raise Refusal("unreachable", text, 503, retry_after_s=1) from refusal

    async def _serve(self, _asker: Asker, question: ReadLog) -> Part:
        wanted = question.wanted
        after = Mark.parse(wanted.after)
        if min(wanted.attempt, wanted.since_ns) < 0 or wanted.tail < -1 or wanted.stream not in {"", *Stream}:
            raise Refusal("invalid", "this is no place in an attempt's output", 422)
        if not await self._replica.wait_applied(question.index, APPLY_S):
            raise Refusal("unreachable", "the agent that has the output lags behind; try again", 503, retry_after_s=1)
        ended = self._ended(wanted.run, wanted.instance, wanted.attempt)  # before the look: it sees the last of it
        directory = self._directory(wanted.run, wanted.instance, wanted.attempt)
        if ended and not directory.exists():
            raise await self._why_missing(wanted)
        records: list[Record] = []
        size = 0
        batches = tailing.batches(
            directory,
            wanted.attempt,
            ended=lambda: True,
            since_ns=wanted.since_ns,
            stream=Stream(wanted.stream) if wanted.stream else None,
            tail=wanted.tail if wanted.tail >= 0 else None,
            after=after,
        )
        try:
            async with aclosing(batches):
                async for batch in batches:
                    records += [_record(*one) for one in batch]
                    size += sum(len(one[1].data) for one in batch if isinstance(one[1], LogLine))
                    if size >= PART_BYTES or len(records) >= PART_RECORDS:
                        break
        except LogsError as error:
            raise Refusal("logs", str(error), 500) from error
        return Part(tuple(records), ended)

    async def _why_missing(self, wanted: Wanted) -> Refusal:
        try:
            return await self._missing(wanted.run, wanted.instance, wanted.attempt)
        except LogsError as error:
            return Refusal("logs", str(error), 500)


def _record(mark: Mark, line: LogLine | Gap) -> Record:
    if isinstance(line, Gap):
        return Record(str(mark), "", (line.missing_segments, line.damaged_bytes))
    return Record(str(mark), line.stream, (line.time_ns, int(line.partial)), line.data)


def _marked(record: Record) -> Marked:
    mark = Mark.parse(record.mark)
    assert mark is not None  # of an agent of this cluster
    first, second = record.numbers
    if not record.stream:
        return mark, Gap(missing_segments=first, damaged_bytes=second)
    return mark, LogLine(time_ns=first, stream=Stream(record.stream), data=record.data, partial=bool(second))

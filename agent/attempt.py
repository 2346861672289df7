"""One attempt on this agent: what the journal keeps of it, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from agent.runtable import commands as c
from agent.runtable.model import Reason
from agent.store.blobs import name_of


class Intent(msgspec.Struct, array_like=True, frozen=True):
    """What the journal keeps of an attempt before it is started. capability: opens the callback listener to it."""

    run_id: str
    instance: str
    number: int
    epoch: int
    executor: str
    compiled: str
    capability: str


class StartNote(msgspec.Struct, array_like=True, frozen=True):
    """What the journal keeps of a start."""

    started_at_ms: int
    facts: dict[str, str]


class EndNote(msgspec.Struct, array_like=True, frozen=True):
    """What the journal keeps of an end. outputs: their blob, which is put on disks when they are told."""

    reason: str | None
    exit_code: int | None
    message: str
    started_at_ms: int | None
    finished_at_ms: int
    facts: dict[str, str]
    compiled: str | None
    outputs: bytes | None = None


@dataclass(slots=True)
class Driven:
    """An attempt that has a task of its own. stop: set when the table wants it stopped.

    stopping: its engine was told to stop it, for the table. fenced: the same, since the agent's lease has ended.
    waits: it runs on when the agent is lost (`Instance.outlives_loss`).
    kept: the names of the blobs that hold what was rendered; spread: they are on a majority of disks.
    sealed: the secrets it was prepared with, encrypted (`provision.sealed_secrets`).
    telling: tells of its start, as long as that takes.
    broken: the kind of the error that nobody foresaw, once there was one: the attempt is only ended from there on.
    """

    name: str
    run_id: str
    instance: str
    number: int
    epoch: int
    executor: str
    capability: str = ""
    compiled: str | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    started: StartNote | None = None
    started_seq: int = 0
    stopping: bool = False
    fenced: bool = False
    waits: bool = False
    ended: bool = False  # nothing more is written to its log
    broken: str = ""
    kept: tuple[str, ...] = ()
    spread: bool = False
    sealed: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    telling: asyncio.Task[None] | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """Which attempt it is: run, instance, number."""
        return self.run_id, self.instance, self.number

    async def tell_no_more(self) -> None:
        """Its end says when it began."""
        if self.telling is not None:
            self.telling.cancel()
            await asyncio.gather(self.telling, return_exceptions=True)

    def fields(self) -> dict[str, object]:
        """What a log line of this attempt carries."""
        return {"run": self.run_id, "instance": self.instance, "attempt": self.number, "executor": self.executor}

    def start_command(self, now_ms: int, agent: str) -> c.InstanceStarted:
        """The word that it has started."""
        note = self.started
        assert note is not None
        return c.InstanceStarted(
            now_ms,
            self.run_id,
            self.instance,
            self.number,
            agent,
            self.epoch,
            self.started_seq,
            note.started_at_ms,
            self.compiled,
            note.facts,
        )

    def end_command(self, now_ms: int, agent: str, seq: int, note: EndNote) -> c.InstanceEnded:
        """The word how it has ended. A reason that this version does not know is an executor's error."""
        known = note.reason in set(Reason)
        reason = None if note.reason is None else Reason(note.reason) if known else Reason.EXECUTOR_ERROR
        return c.InstanceEnded(
            now_ms,
            self.run_id,
            self.instance,
            self.number,
            agent,
            self.epoch,
            seq,
            reason,
            note.exit_code,
            note.message,
            note.started_at_ms,
            note.finished_at_ms,
            note.compiled,
            note.facts,
            name_of(note.outputs) if note.outputs is not None else None,
        )

"""What the use cases share: who asks, what a write answers, how a no is said."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec

from agent.errors import Refusal
from agent.keyring import Keyring
from agent.provision import Provisioner
from agent.replica import Replica
from agent.runtable import commands as c
from agent.runtable.apply import REFUSALS, Applied
from agent.runtable.model import Origin, Role, Run
from agent.spec.document import nearest
from agent.spec.errors import Position, Problem
from agent.spec.job import JobSpec
from agent.store.blobs import BlobStore
from agent.store.errors import BlobMissing

ID_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32
ID_CHARACTERS: Final = 16

STATUS: Final = {
    "unknown_project": 404,
    "unknown_job": 404,
    "unknown_run": 404,
    "unknown_pipeline": 404,
    "unknown_replay": 404,
    "unknown_instance": 404,
    "unknown_secret": 404,
    "unknown_agent": 404,
    "unknown_token": 404,
    "table_full": 429,
    "line_full": 429,
    "too_many_replays": 429,
    "idempotency_conflict": 422,
    "invalid": 422,
    "too_many_gates": 422,
    "dependency_circle": 422,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. principal: scopes request keys; name: what is shown as requested_by; role: what it may do.

    address: the client's, "" = not known.
    """

    principal: str = "local"
    name: str = "anonymous"
    role: Role = Role.ADMIN
    address: str = ""


@dataclass(frozen=True, slots=True)
class JobFile:
    """One job as its author has it. parents: (path, text) of the `this.yaml`s above it, nearest first."""

    path: str
    text: str
    assets: Mapping[str, bytes] = field(default_factory=dict)
    parents: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is asked for with. key: the client's Idempotency-Key, "" = none. config: overrides the task's.

    params: of JSON, as they were given.  check_dependencies: wait for what the job depends on.
    """

    scheduled_at: datetime | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    body_hash: str = ""
    origin: Origin = Origin.MANUAL
    params: Mapping[str, object] = field(default_factory=dict)
    check_dependencies: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """A write that was done.

    index: of the log, for `min_index`.  duplicate: the same request was answered before; `run` is what it got.
    notes: what a user should know although nothing is wrong.
    """

    index: int
    run: Run | None = None
    duplicate: bool = False
    names: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


class JobBlob(msgspec.Struct, frozen=True):
    """The blob of an applied job.

    path: of its file; positions: of the values in it, by their keys. Both are for messages.
    """

    job: JobSpec
    assets: dict[str, str] = {}
    path: str = ""
    positions: dict[str, Position] = {}


async def _nowhere(*_named: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Context:
    """What every use case works with. agent: this agent's id; fallback: executors that stand in for absent ones.

    spread: puts blobs of these names on a majority of disks; fetch: one from another agent on this one; fetch_whole:
    (kind, name), with all that it names. transfer: lets the member of that number lead. By default the agent is alone.
    """

    replica: Replica
    blobs: BlobStore
    provisioner: Provisioner
    keyring: Keyring
    agent: str
    fallback: Mapping[str, str] = field(default_factory=dict)
    spread: Callable[[Sequence[str]], Awaitable[None]] = _nowhere
    fetch: Callable[[str], Awaitable[None]] = _nowhere
    fetch_whole: Callable[[str, str], Awaitable[None]] = _nowhere
    transfer: Callable[[int], Awaitable[None]] = _nowhere

    async def store(self, data: Sequence[bytes], also: Iterable[str] = ()) -> list[str]:
        """Make blobs durable before something names them (P1). Returns their names. Raises Refusal, BlobError.

        also: names of others that will be named with them: they are held as well, and young again, so that nobody
        sweeps them meanwhile.
        """
        digests = await asyncio.to_thread(self.blobs.put_all, data)
        await self.spread([*digests, *also])
        return digests

    async def have(self, digests: Iterable[str]) -> None:
        """Fetch those that are not on this disk. Raises BlobError."""
        wanted = list(digests)
        if not wanted:
            return
        for digest in await asyncio.to_thread(lambda: [one for one in wanted if not self.blobs.has(one)]):
            await self.fetch(digest)

    async def load(self, digest: str) -> bytes:
        """A blob, wherever it is. Raises BlobError."""
        try:
            return await asyncio.to_thread(self.blobs.get, digest)
        except BlobMissing:
            await self.fetch(digest)
        return await asyncio.to_thread(self.blobs.get, digest)

    def now_ms(self) -> int:
        """This agent's clock."""
        return self.replica.clock_ms()

    async def propose(self, command: c.AnyCommand) -> Applied:
        """Propose, and raise Refusal where the table said no."""
        applied = await self.replica.propose(command)
        if applied.ok:
            return applied
        status = STATUS.get(applied.code, 409)
        raise Refusal(applied.code, REFUSALS[applied.code], status, retry_after_s=5 if status == 429 else None)


def new_id() -> str:
    """A run id: 80 random bits, easy to read aloud and safe in paths, labels and host names."""
    bits = secrets.randbits(5 * ID_CHARACTERS)
    return "".join(ID_ALPHABET[bits >> 5 * place & 31] for place in range(ID_CHARACTERS))


def unknown(code: str, what: str, name: str, known: Iterable[str]) -> Refusal:
    """A 404 that names the nearest that is there."""
    hint = nearest(name, tuple(known))
    return Refusal(code, f"there is no {what} {name!r}{hint}", 404)

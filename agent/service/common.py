"""What the use cases share: who asks, what a write answers, how a no is said."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
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
from agent.runtable.model import Origin, Run
from agent.spec.document import nearest
from agent.spec.errors import Problem
from agent.spec.job import JobSpec
from agent.store.blobs import BlobStore

ID_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32
ID_CHARACTERS: Final = 16

STATUS: Final = {
    "unknown_project": 404,
    "unknown_job": 404,
    "unknown_run": 404,
    "unknown_instance": 404,
    "unknown_secret": 404,
    "table_full": 429,
    "idempotency_conflict": 422,
    "invalid": 422,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. principal: scopes request keys; name: what is shown as requested_by."""

    principal: str = "local"
    name: str = "anonymous"


@dataclass(frozen=True, slots=True)
class JobFile:
    """One job as its author has it. parents: (path, text) of the `this.yaml`s above it, nearest first."""

    path: str
    text: str
    assets: Mapping[str, bytes] = field(default_factory=dict)
    parents: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is asked for with. key: the client's Idempotency-Key, "" = none. config: overrides the task's."""

    scheduled_at: datetime | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    body_hash: str = ""
    origin: Origin = Origin.MANUAL


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
    """The blob of an applied job. path: of its file, for messages."""

    job: JobSpec
    assets: dict[str, str] = {}
    path: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What every use case works with. agent: this agent's id; fallback: executors that stand in for absent ones."""

    replica: Replica
    blobs: BlobStore
    provisioner: Provisioner
    keyring: Keyring
    agent: str
    fallback: Mapping[str, str] = field(default_factory=dict)

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
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARACTERS))


def unknown(code: str, what: str, name: str, known: Iterable[str]) -> Refusal:
    """A 404 that names the nearest that is there."""
    hint = nearest(name, tuple(known))
    return Refusal(code, f"there is no {what} {name!r}{hint}", 404)

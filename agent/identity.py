"""Who this agent is: ids that are made once and stay with its data directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.errors import ConfigError
from agent.files import sync_directory
from agent.service.common import new_id

FILE: Final = "identity.json"
NODE_MAX: Final = 2**53 - 1  # numbers up to here survive any JSON; two agents get the same one never in practice


@dataclass(frozen=True, slots=True)
class Identity:
    """agent: unique for ever, readable by its host's name; node: its number for Raft. Both are never given again.

    cluster, generation: what it belongs to; "" and 0 until it has founded one or joined.
    """

    agent: str
    node: int
    cluster: str = ""
    generation: int = 0


def load_identity(data_dir: Path) -> Identity:
    """The identity in the data directory, made there at its first start. Raises ConfigError for an unreadable one."""
    path = data_dir / FILE
    if path.exists():
        try:
            return _identity(json.loads(path.read_text()))
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(
                f"{path}: is no identity of an agent ({error}); restore it from a copy of the data directory"
            ) from error
    if any(data_dir.glob("log/*.wal")):
        raise ConfigError(f"{path}: is missing, but there is a log; restore it from a copy of the data directory")
    host = re.sub(r"[^a-z0-9-]", "-", socket.gethostname().lower()).strip("-")[:30] or "agent"
    identity = Identity(f"{host}-{new_id()[:6]}", secrets.randbelow(NODE_MAX) + 1)
    _write_durably(path, _encoded(identity))
    return load_identity(data_dir)


def save_identity(data_dir: Path, identity: Identity) -> None:
    """Put it in the place of the one before, durably: this agent has come to belong to a cluster."""
    _write_durably(data_dir / FILE, _encoded(identity), replace=True)


def _encoded(identity: Identity) -> bytes:
    return json.dumps(asdict(identity)).encode()


def _identity(found: Any) -> Identity:
    identity = msgspec.convert(found, Identity)
    if not identity.agent or not 0 < identity.node <= NODE_MAX or bool(identity.cluster) != (identity.generation > 0):
        raise ValueError("agent is a text, node a positive number; a cluster has a generation")
    return identity


def _write_durably(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Give the file its name only when it is whole. Unless it replaces one: of two that start at once one wins."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if replace:
        temporary.replace(path)
    else:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
        temporary.unlink()
    sync_directory(path.parent)


def boot_id() -> str:
    """The kernel's name of this boot: deadlines of another one mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boottime_s() -> float:
    """CLOCK_BOOTTIME: seconds since the boot, those asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def machine_id() -> str:
    """The host's own id, or its name where it has none (a container)."""
    try:
        return Path("/etc/machine-id").read_text().strip() or socket.gethostname()
    except OSError:
        return socket.gethostname()

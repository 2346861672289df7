"""Who this agent is: ids that are made once and stay with its data directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Final

from agent.errors import ConfigError
from agent.service.common import new_id

FILE: Final = "identity.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """agent: unique for ever, readable by its host's name; cluster: the one it has founded."""

    agent: str
    cluster: str


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
    identity = Identity(f"{host}-{new_id()[:6]}", new_id()[:8])
    _write_durably(path, json.dumps(asdict(identity)).encode())
    return load_identity(data_dir)


def _identity(found: Any) -> Identity:
    identity = Identity(**found)
    if not all(isinstance(one, str) and one for one in astuple(identity)):
        raise TypeError("agent and cluster are texts")
    return identity


def _write_durably(path: Path, data: bytes) -> None:
    """Give the file its name only when it is whole, and only if nobody else has: of two that start at once one wins."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(temporary)
    temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


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

"""What a watchdog knows: which attempts it guards, until when they may run, which it has ended. And the same on disk.

`Watched` is pure. `StateFile` holds the words that made it, one JSON object a line, so that a watchdog that was killed
is followed by one that knows as much. A line is written before what it says is acknowledged or done.

This file is for the watchdog, which has nothing but the standard library.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from executors.process_state import sync_directory

FILE: Final = "watchdog.state"
LINES_MAX: Final = 4096  # then it is written anew, with what still counts
GUARDS_MAX: Final = 65_536  # attempts at a time (P12)
FOREVER: Final = float("inf")
NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Guard:
    """One attempt. epoch: its agent's. waits: it runs on though its agent is lost. end: see `fence_ends`."""

    name: str
    epoch: int
    waits: bool
    end: dict[str, Any]


class Watched:
    """All that is guarded. Times are seconds of CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        """Nothing, and no lease."""
        self.until_s = NEVER
        self.epoch = 0
        self.stop_s = 3.0
        self.guards: dict[str, Guard] = {}
        self.fenced: dict[str, int] = {}  # name -> when that was decided, in milliseconds since the epoch

    def may_guard(self, guard: Guard, now_s: float, *, runs: bool) -> str:
        """Why an attempt is not taken; "" = it may be. runs: it is said to run already, so it is taken whatever counts.

        What was fenced stays so: no word and no lease takes it back.
        """
        if guard.name in self.fenced:
            return "it was fenced"
        if runs:
            return ""
        if len(self.guards) >= GUARDS_MAX:
            return f"{GUARDS_MAX} attempts are guarded already"
        if now_s >= self.until(guard.epoch):
            return "the agent has no lease"
        return ""

    def guard(self, guard: Guard) -> None:
        """From now on it ends with its lease."""
        self.guards[guard.name] = guard

    def release(self, name: str) -> None:
        """Its end is known to the agent for good."""
        self.guards.pop(name, None)
        self.fenced.pop(name, None)

    def renew(self, until_s: float, epoch: int, stop_s: float) -> None:
        """A lease. It never gets shorter, but for one of a later epoch; one of an earlier epoch is worth nothing.

        stop_s goes with it: the leader has a margin for the two of one grant, not for a mixture.
        """
        if epoch > self.epoch or (epoch == self.epoch and until_s >= self.until_s):
            self.until_s, self.epoch, self.stop_s = until_s, epoch, stop_s

    def bind(self, until_s: float) -> None:
        """The agent is alone no more: what had no end gets one."""
        if self.until_s == FOREVER:
            self.until_s = until_s

    def fence(self, name: str, at_ms: int) -> None:
        """It is decided that this one ends."""
        self.fenced.setdefault(name, at_ms)

    def until(self, epoch: int) -> float:
        """How long attempts of that epoch may run."""
        return self.until_s if epoch == self.epoch else NEVER

    def due(self, now_s: float) -> list[Guard]:
        """Those whose lease has ended, and that are not fenced yet."""
        return [
            one
            for one in self.guards.values()
            if not one.waits and one.name not in self.fenced and now_s >= self.until(one.epoch)
        ]

    def next_due_s(self) -> float:
        """When there will be some if no lease comes; infinity = never."""
        ends = [self.until(one.epoch) for one in self.guards.values() if not one.waits and one.name not in self.fenced]
        return min(ends, default=FOREVER)

    # -- the same as lines -------------------------------------------------------------------------------------------

    def take(self, line: dict[str, Any]) -> None:
        """Do what a line says. Raises KeyError, TypeError for one that says nothing."""
        match line["do"]:
            case "guard":
                self.guard(Guard(line["name"], line["epoch"], line["waits"], line["end"]))
            case "release":
                self.release(line["name"])
            case "renew":
                self.renew(line["until_s"], line["epoch"], line["stop_s"])
            case "bind":
                self.bind(line["until_s"])
            case "fence":
                self.fence(line["name"], line["at_ms"])
            case other:
                raise KeyError(other)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What has to be said to a new one."""
        yield {"do": "renew", "until_s": self.until_s, "epoch": self.epoch, "stop_s": self.stop_s}
        for guard in self.guards.values():
            yield {"do": "guard", **asdict(guard)}
        for name, at_ms in self.fenced.items():
            yield {"do": "fence", "name": name, "at_ms": at_ms}


class StateFile:
    """The lines on disk. One watchdog has it at a time."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        """Read what the one before has left, and write it anew. Raises OSError.

        boot_id: of this boot. What another one's watchdog guarded has ended with it; what it had fenced is still told.
        """
        self.watched = Watched()
        self.damaged = 0
        self._path, self._boot_id = directory / FILE, boot_id
        self._read()
        self._fd = -1
        self.write_anew(self.watched.lines())

    def _read(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        boot_id = ""
        for text in data.split(b"\n")[:-1]:  # what has no end was never acknowledged
            try:
                line = json.loads(text)
                if "boot_id" in line:
                    boot_id = line["boot_id"]
                else:
                    self.watched.take(line)
            except (ValueError, KeyError, TypeError):
                self.damaged += 1  # the agent says again what it knows
        if boot_id != self._boot_id:
            before, self.watched = self.watched, Watched()
            self.watched.fenced = before.fenced

    def write_anew(self, lines: Iterable[dict[str, Any]]) -> None:
        """Put these lines in the place of all others, durably. Raises OSError: then nothing has changed."""
        temporary = self._path.with_name(f"{self._path.name}.new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_whole(fd, _encoded([{"boot_id": self._boot_id}, *lines]))
            os.fsync(fd)
            temporary.rename(self._path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd = fd
        sync_directory(self._path.parent)

    def write(self, lines: Iterable[dict[str, Any]], *, sync: bool) -> None:
        """Add lines. sync: they are durable when this returns. Raises OSError: then nothing is known of them."""
        data = _encoded(lines)
        length = os.fstat(self._fd).st_size
        try:
            _write_whole(self._fd, data)
        except OSError:
            os.ftruncate(self._fd, length)  # half a line would spoil the next one
            raise
        if sync:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_whole(fd: int, data: bytes) -> None:
    if os.write(fd, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _encoded(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

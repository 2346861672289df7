"""Ending local attempts and whole processes from outside, by what /proc says; see `proc.py` for how they are known.

One look at /proc serves all attempts that are to end: with many of them, a look for each would take longer than a lease
leaves room for.

This file is for the watchdog, which has nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from executors.proc import DIRECTORY_VARIABLE, start_ticks
from executors.process_state import EXIT, RECORD

_LIMIT_LINE: Final = b"Max realtime timeout"
_VARIABLE: Final = f"{DIRECTORY_VARIABLE}=".encode()
_DATA: Final = b"/data"  # where a container finds its attempt's directory


@dataclass(frozen=True, slots=True)
class Seen:
    """One process, as far as it says whose it is."""

    pid: int
    start_ticks: int
    parent: int
    session: int
    limit_us: int
    directory: str


def look() -> dict[int, Seen]:
    """All processes that run now."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  names, not paths, and often
        if name.isdigit() and (one := _look_at(int(name))) is not None:
            found[one.pid] = one
    return found


def _look_at(pid: int) -> Seen | None:
    fields = _read(pid, "stat").rpartition(b")")[2].split()  # from the third on, proc(5)
    if not fields or (fields[0] in (b"Z", b"X") and int(fields[17]) <= 1):
        return None
    limit = next((line for line in _read(pid, "limits").splitlines() if line.startswith(_LIMIT_LINE)), b"")
    soft = limit[len(_LIMIT_LINE) :].split()[:1]
    variables = _read(pid, "environ").split(b"\0")
    directory = next((one[len(_VARIABLE) :] for one in variables if one.startswith(_VARIABLE)), b"")
    return Seen(
        pid,
        int(fields[19]),
        int(fields[1]),
        int(fields[3]),
        int(soft[0]) if soft and soft[0].isdigit() else 0,
        os.fsdecode(directory),
    )


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""


def work_of(end: Mapping[str, Any], seen: Mapping[int, Seen], boot_id: str) -> list[Seen]:
    """What runs of a local attempt, without its supervisor: that one has to tell how it ended.

    end: `state` and `directory`, the attempt's, and `limit_us`, its mark.
    """
    record = _record(Path(end["state"]), boot_id)
    supervisor = _same(seen.get(record.get("pid", 0)), record.get("start_ticks"))
    task = record.get("task_pid", 0)
    work = [
        one
        for one in seen.values()
        if one is not supervisor
        and (
            one.limit_us == end["limit_us"]
            or one.directory == end["directory"]
            or (task and one.session == task and _of_that_session(one, seen.get(task), record["task_start_ticks"]))
        )
    ]
    return work if supervisor is None else _with_below(supervisor, work, seen)


def _record(state: Path, boot_id: str) -> dict[str, Any]:
    """What the supervisor has written at its start; nothing where that is not there, or not to be believed."""
    try:
        record = json.loads((state / RECORD).read_bytes())
        numbers = [record[name] for name in ("pid", "start_ticks", "task_pid", "task_start_ticks")]
        known = record["boot_id"] == boot_id and all(type(one) is int for one in numbers)
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return dict(record) if known else {}


def _same(one: Seen | None, ticks: int | None) -> Seen | None:
    return one if one is not None and one.start_ticks == ticks else None


def _of_that_session(one: Seen, leader: Seen | None, ticks: int) -> bool:
    """Whether it is not a later session of the same number."""
    return one.start_ticks >= ticks and (leader is None or leader.start_ticks == ticks)


def _with_below(root: Seen, work: Iterable[Seen], seen: Mapping[int, Seen]) -> list[Seen]:
    """What runs below `root` as well: a supervisor takes in all that its task leaves."""
    found = {one.pid: one for one in work}
    parents = [root.pid]
    while parents:
        parent = parents.pop()
        for one in seen.values():
            if one.parent == parent:
                found[one.pid] = one
                parents.append(one.pid)
    return list(found.values())


def has_ended(end: Mapping[str, Any], seen: Mapping[int, Seen], boot_id: str) -> bool:
    """Whether nothing of a local attempt runs, as far as one look tells."""
    return (Path(end["state"]) / EXIT).exists() or not work_of(end, seen, boot_id)


def send(pid: int, ticks: int, number: signal.Signals, wait_s: float = 0.0) -> bool:
    """Signal a process, if it is still that one. Returns whether it is gone, after `wait_s` seconds at most."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if start_ticks(pid) != ticks:  # looked at with the handle open: what that refers to cannot change any more
            return True
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended; or a set-uid process
            signal.pidfd_send_signal(fd, number)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(wait_s * 1000)) if wait_s else False
    finally:
        os.close(fd)


def kill_mounted(directory: str) -> int:
    """SIGKILL the processes of the container that has `directory` at /data; how many there were.

    For when its engine does not answer: the mount is there from before the container's first program runs, and no
    program can take it from its parents.
    """
    end = b"/" + b"/".join(os.fsencode(directory).split(b"/")[-4:])  # mounts are told from their file system's root
    killed = 0
    for name in os.listdir("/proc"):  # noqa: PTH208  as above
        if not name.isdigit():
            continue
        pid = int(name)
        ticks = start_ticks(pid)
        mounts = (line.split(b" ")[3:5] for line in _read(pid, "mountinfo").splitlines())
        if ticks is not None and any(point == _DATA and root.endswith(end) for root, point in mounts):
            send(pid, ticks, signal.SIGKILL)
            killed += 1
    return killed

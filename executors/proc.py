"""What /proc says of processes, and how those of one attempt are told from all others.

While its supervisor lives, an attempt's processes are the supervisor's descendants, wherever they went: it is their
subreaper. Without it they are known by marks, any one of which is enough:

- a resource limit, which the kernel hands on to every child and no program has a use for: `RLIMIT_RTTIME`, the time
  that real-time scheduling may take without a pause, set to a number of the attempt's own, tens of thousands of years.
  A change of session, of user, or of the environment leaves it as it is;
- the session that the task leads;
- JOB_DIR in the environment, whose value is the attempt's directory.

What escapes all three has changed its limits on purpose.

This file is for the supervisor as well, which has nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from executors.errors import StillRunning

DIRECTORY_VARIABLE: Final = "JOB_DIR"
_LIMIT: Final = resource.RLIMIT_RTTIME
_LIMIT_LINE: Final = b"Max realtime timeout"
_LIMIT_US_MIN: Final = 2**40  # twelve days: below this a mark could be felt
_LIMIT_US_MAX: Final = 2**62
_KILL_ROUNDS_MAX: Final = 100
_KILL_WAIT_MS: Final = 100
_DEAD: Final = (b"Z", b"X")


@dataclass(frozen=True, slots=True)
class Marks:
    """How the processes of one attempt are known. directory: the attempt's; limit_us: see `limit_mark`.

    task: (process number, start ticks) of the process that leads their session; None where it is not known.
    """

    directory: str
    limit_us: int
    task: tuple[int, int] | None = None


def limit_mark(digest: int) -> int:
    """The limit that marks the processes of an attempt, in microseconds. digest: a number of the attempt's own.

    It lies below this process's own limit, so that it can be set without privileges also where this agent is itself
    a task with such a mark. Raises ValueError where that leaves no room.
    """
    hard = resource.getrlimit(_LIMIT)[1]
    top = _LIMIT_US_MAX if hard == resource.RLIM_INFINITY else hard
    mark = top // 2 + digest % (top // 4)
    if mark < _LIMIT_US_MIN:
        raise ValueError(
            f"this agent's own limit of real-time scheduling (RLIMIT_RTTIME) is {hard} us: with so little, work cannot "
            "be marked as its own; start it without (systemd: LimitRTTIME=infinity)"
        )
    return mark


def set_limit_mark(limit_us: int) -> None:
    """Mark this process and all that it will start. Raises OSError, ValueError."""
    resource.setrlimit(_LIMIT, (limit_us, limit_us))


def boot_id() -> str:
    """The kernel's name of this boot: process numbers of another mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True, slots=True)
class _Process:
    """What is needed of /proc/<pid>/stat (proc(5))."""

    parent: int
    group: int
    session: int
    start_ticks: int


def _look(pid: int) -> _Process | None:
    """None if there is no such process, or nothing of it but an entry that nobody has collected yet."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(b")")[2].split()  # from the third on
    threads = int(fields[17])
    if fields[0] in _DEAD and threads <= 1:  # the first thread may end before the others
        return None
    return _Process(int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  names, not paths, and often


def start_ticks(pid: int) -> int | None:
    """Clock ticks after boot at which `pid` started: with the boot id, a process's name for ever. None = gone."""
    found = _look(pid)
    return None if found is None else found.start_ticks


def descendants(root: int) -> dict[int, int]:
    """Processes below `root`: {pid: process group}."""
    children: dict[int, list[tuple[int, int]]] = {}
    for pid in _all():
        found = _look(pid)
        if found is not None:
            children.setdefault(found.parent, []).append((pid, found.group))
    below: dict[int, int] = {}
    parents = [root]
    while parents:
        for pid, group in children.get(parents.pop(), []):
            below[pid] = group
            parents.append(pid)
    return below


# -- those of one attempt ----------------------------------------------------------------------------------------------


def marked(marks: Marks) -> list[int]:
    """Processes with one of the attempt's marks, its supervisor included."""
    return [pid for pid in _all() if _belongs(pid, marks)]


def _belongs(pid: int, marks: Marks) -> bool:
    found = _look(pid)
    if found is None:
        return False
    return (
        _in_session(found, marks.task)
        or _read(pid, "limits").find(_limit_line(marks.limit_us)) >= 0
        or f"\0{DIRECTORY_VARIABLE}={marks.directory}\0".encode(errors="surrogateescape")
        in b"\0" + _read(pid, "environ")
    )


def _in_session(found: _Process, task: tuple[int, int] | None) -> bool:
    """Whether the task leads its session. The task's number may be a later session's by now."""
    if task is None or found.session != task[0] or found.start_ticks < task[1]:
        return False
    leader = _look(task[0])
    return leader is None or leader.start_ticks == task[1]


def _limit_line(limit_us: int) -> bytes:
    """The beginning of the limit's line in /proc/<pid>/limits, as fs/proc/base.c prints it: soft, then hard."""
    return b"%-25s %-20d %-20d " % (_LIMIT_LINE, limit_us, limit_us)


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended, or is another user's
        return b""


def end_marked(marks: Marks) -> None:
    """SIGKILL all processes with one of the attempt's marks, until there are none. Blocks.

    Raises StillRunning if some are there after ten seconds.
    """
    seen_none = 0
    for _ in range(_KILL_ROUNDS_MAX):
        pids = marked(marks)
        seen_none = 0 if pids else seen_none + 1
        if seen_none == 2:  # one look may miss a process that forks and ends while it looks
            return
        for pid in pids:
            _kill_and_wait(pid, marks)
    raise StillRunning(
        f"{marks.directory}: processes {marked(marks)} of this attempt do not end though they are killed"
    )


def _kill_and_wait(pid: int, marks: Marks) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not _belongs(pid, marks):  # looked at again: what the handle refers to cannot change any more
            return
        with contextlib.suppress(PermissionError, ProcessLookupError):  # a set-uid process; or it has ended
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(_KILL_WAIT_MS)
    finally:
        os.close(fd)

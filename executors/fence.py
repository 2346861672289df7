"""The watchdog: a small process beside each agent that ends the agent's attempts when their lease has ended (P3).

An attempt outlives its agent. Where the agent is dead or stuck, nobody else on its host would stop the work before
another agent is given it. So the agent tells the watchdog of each attempt *before* it starts it, and of each lease
before it counts on it; without an acknowledgement there is no start, and no lease.

`python -I -S fence.py DIRECTORY` is the watchdog of the agent whose data directory that is: one at a time, held by a
lock. It listens on `watchdog.sock` there, says so by a line on its standard output, and goes on in a session of its own
when its agent is killed; the next agent of that directory takes it over. It ends by itself once it has no agent and
nothing that it guards can run.

Messages are JSON objects, one a line. The agent's carry a number `n`, which the answer repeats beside `ok`:

    hello                           -> until_s, epoch, guards (names), fenced ({name: ms}), version, pid
    guard name epoch waits end runs -> once it is durable; or ok false and `why`: it may not start
    release name                    the attempt's end is on record
    renew until_s epoch stop_s      a lease
    bind until_s                    the agent is alone no more; once it is durable
    look                            what was fenced before was told before the answer
    here                            answers the event "over"
    bye                             the agent ends as it should
    retire                          the watchdog ends at once, for one of another version; what it knows stays on disk

The watchdog's own carry an `event`: "over", a lease has ended, is anybody there; "fenced" with `name` and `at_ms`, this
attempt is about to be ended.

When CLOCK_BOOTTIME passes the end of the lease: an agent that does not answer is killed, the attempts are noted as
fenced, durably, and then they are ended: SIGTERM at once, SIGKILL `stop_s` after the lease's end (`fence_ends`). No
disk is waited for: the notes have `MARK_S`, for what is not ended in time is worse than what is not noted.

This program has nothing but the standard library, so that it starts at once and takes little memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import json
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":  # isolated mode leaves this file's package out of the path
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from executors.fence_ends import Ends, boottime_s, may_run, problem_of
from executors.fence_proc import send
from executors.fence_state import LINES_MAX, NEVER, Guard, StateFile
from executors.proc import boot_id, start_ticks

VERSION: Final = 1
SOCKET: Final = "watchdog.sock"
LOCK: Final = "watchdog.lock"
ERROR: Final = "watchdog.error"
READY: Final = b"ready\n"
LOCK_S: Final = 5.0  # how long the one before may take to end
REPLY_S: Final = 1.0  # how long an agent may take to say that it is there, at most a third of the grace
MARK_S: Final = 0.5
KILL_S: Final = 1.0
GREETING_S: Final = 15.0  # how long a new one waits for its agent
IDLE_LOOK_S: Final = 2.0  # without an agent: between looks whether anything runs still
MESSAGE_BYTES_MAX: Final = 64 * 1024
PEERS_MAX: Final = 8
_CREDENTIALS: Final = struct.Struct("iII")


Then = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Write:
    """lines: to be added, or `anew`: all there is to say. then: told why it failed, or ""."""

    lines: list[dict[str, Any]]
    sync: bool = False
    anew: bool = False
    then: Then | None = None


class Disk:
    """Writes lines in a thread of its own: a disk that hangs must not hold up the watchdog."""

    def __init__(self, file: StateFile, wake: Callable[[], None]) -> None:
        """wake: called when there is something in `done`, to be called by whoever takes it."""
        self._file, self._wake = file, wake
        self._due: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, lines: list[dict[str, Any]], *, sync: bool = False, then: Then | None = None) -> None:
        """Add lines."""
        self._due.put(_Write(lines, sync, then=then))

    def write_anew(self, lines: list[dict[str, Any]]) -> None:
        """Put these lines in the place of all others."""
        self._due.put(_Write(lines, anew=True))

    def close(self) -> None:
        """Write what is due, as far as a second reaches."""
        self._due.put(None)
        self._thread.join(KILL_S)

    def _run(self) -> None:
        items: list[_Write | None] = []
        while None not in items:
            items = [self._due.get()]
            while not self._due.empty():  # one sync for all that waits
                items.append(self._due.get())
            for anew, group in itertools.groupby((one for one in items if one is not None), lambda one: one.anew):
                self._carry_out(list(group), anew=anew)

    def _carry_out(self, batch: list[_Write], *, anew: bool) -> None:
        why = ""
        try:
            if anew:
                self._file.write_anew(batch[-1].lines)
            else:
                lines = [line for one in batch for line in one.lines]
                self._file.write(lines, sync=any(one.sync for one in batch))
        except OSError as error:
            why = f"what the watchdog has to keep cannot be written: {error}"
        for one in batch:
            if one.then is not None:
                self.done.put(partial(one.then, why))
        self._wake()


class Peer:
    """One connection. process: who is at its other end, (number, start ticks)."""

    def __init__(self, sock: socket.socket, process: tuple[int, int]) -> None:
        self.sock, self.process = sock, process
        self.rest = b""

    def send(self, message: dict[str, Any]) -> None:
        """What cannot be sent at once is not sent: whoever does not read gets nothing more."""
        with contextlib.suppress(OSError):
            self.sock.send(json.dumps(message).encode() + b"\n", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Watchdog:
    """One data directory's."""

    def __init__(self, directory: Path, listener: socket.socket) -> None:
        """Raises OSError where what it has to know cannot be read or written."""
        self._listener = listener
        self._wake_fd, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        file = StateFile(directory, boot_id())
        self._watched = file.watched
        self._disk = Disk(file, self._wake)
        self._ends = Ends(self._wake)
        self._peers: dict[int, Peer] = {}
        self._agent: Peer | None = None
        self._process: tuple[int, int] | None = None  # the agent's, until it says bye or is seen ended
        self._asked_s: float | None = None  # when it was asked whether it is there; None = not since it answered
        self._answered = False
        self._marking_until_s: float | None = None
        self._marking: list[tuple[Guard, float]] = []  # and when each is to be killed
        self._idle_since_s = boottime_s()
        self._looking: threading.Thread | None = None
        self._hellos = 0
        self._nothing_runs_since: int | None = None  # the number of the hello since which that was seen
        self._lines = 0
        self._retired = False
        again = [one for one in self._watched.guards.values() if one.name in self._watched.fenced]
        self._ends.begin([(one, NEVER) for one in again])  # by the one before, which was killed: their grace is over

    def run(self) -> None:
        """Until there is nothing to guard and no agent."""
        while not (self._retired or (self._agent is None and self._is_idle())):
            self._poll(self._wait_s())
            while not self._disk.done.empty():
                self._disk.done.get()()
            self._enforce(boottime_s())
        self._disk.close()

    # -- what it hears -----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is awake
            os.write(self._wake_write, b"\0")

    def _wait_s(self) -> float:
        now_s = boottime_s()
        ends = [self._watched.next_due_s() - now_s]
        if ends[0] <= 0:  # an answer is waited for
            ends = [0.02]
        if self._marking_until_s is not None:
            ends.append(self._marking_until_s - now_s)
        if self._agent is None:
            ends.append(IDLE_LOOK_S)
        return min(60.0, max(0.0, min(ends)))  # CLOCK_BOOTTIME runs on while the host sleeps; poll's clock does not

    def _poll(self, wait_s: float) -> None:
        poll = select.poll()
        for fd in (self._listener.fileno(), self._wake_fd, *self._peers):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(wait_s * 1000):
            if fd == self._wake_fd:
                os.read(fd, 4096)
            elif fd == self._listener.fileno():
                self._accept()
            elif fd in self._peers:
                self._receive(self._peers[fd])

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        ticks = start_ticks(pid)
        if uid not in (0, os.geteuid()) or ticks is None or len(self._peers) >= PEERS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        self._peers[sock.fileno()] = Peer(sock, (pid, ticks))

    def _receive(self, peer: Peer) -> None:
        try:
            data = peer.sock.recv(MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, peer.rest = (peer.rest + data).split(b"\n")
        if not data or len(peer.rest) > MESSAGE_BYTES_MAX:
            self._hang_up(peer)
        for line in lines:
            try:
                message = json.loads(line)
                self._take(peer, message)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                peer.send({"ok": False, "why": f"{type(error).__name__}: {error}"})
                self._hang_up(peer)
                return

    def _hang_up(self, peer: Peer) -> None:
        self._peers.pop(peer.sock.fileno(), None)
        peer.sock.close()
        if peer is self._agent:
            self._agent = None
            self._idle_since_s = boottime_s()

    def _take(self, peer: Peer, message: dict[str, Any]) -> None:
        number, do = message.get("n"), message["do"]
        if do == "hello":
            self._hello(peer, number)
        elif peer is not self._agent:
            peer.send({"n": number, "ok": False, "why": "say hello first; another agent may have, since"})
        elif do == "here":
            self._answered = True
        elif do == "look":
            peer.send({"n": number, "ok": True})
        elif do == "bye":
            self._process = None
        elif do == "retire":
            self._retired = True
        elif do == "guard":
            self._guard(peer, number, message)
        else:
            self._watched.take(message)
            if do == "release":
                self._ends.release(message["name"])
            line = {name: value for name, value in message.items() if name != "n"}
            if do == "bind":  # what a later one must know: an end that it does not know of is none
                self._keep([line], sync=True, then=lambda why: peer.send({"n": number, "ok": not why, "why": why}))
            else:
                self._keep([line])
                peer.send({"n": number, "ok": True})

    def _keep(self, lines: list[dict[str, Any]], *, sync: bool = False, then: Then | None = None) -> None:
        self._disk.write(lines, sync=sync, then=then)
        self._lines += len(lines)
        if self._lines > LINES_MAX + len(self._watched.guards):
            self._lines = 0
            self._disk.write_anew(list(self._watched.lines()))

    def _hello(self, peer: Peer, number: object) -> None:
        before, self._agent, self._process = self._agent, peer, peer.process
        if before is not None and before is not peer:
            self._hang_up(before)
            self._agent = peer
        self._asked_s, self._answered = None, False
        self._hellos += 1
        watched = self._watched
        told = {"guards": list(watched.guards), "fenced": watched.fenced, "version": VERSION, "pid": os.getpid()}
        peer.send({"n": number, "ok": True, "until_s": watched.until_s, "epoch": watched.epoch, **told})

    def _guard(self, peer: Peer, number: object, message: dict[str, Any]) -> None:
        guard = Guard(message["name"], message["epoch"], message["waits"], message["end"])
        runs = bool(message.get("runs"))
        why = problem_of(guard.end) or self._watched.may_guard(guard, boottime_s(), runs=runs)
        if why:
            peer.send({"n": number, "ok": False, "why": why})
            return
        self._watched.guard(guard)  # at once: what is about to be kept is guarded already

        def kept(why: str) -> None:
            if why and not runs:
                self._watched.release(guard.name)
            peer.send({"n": number, "ok": runs or not why, "why": why})

        line = {"do": "guard", "name": guard.name, "epoch": guard.epoch, "waits": guard.waits, "end": guard.end}
        self._keep([line], sync=True, then=kept)

    # -- what it does ------------------------------------------------------------------------------------------------

    def _enforce(self, now_s: float) -> None:
        if self._marking_until_s is not None:
            if now_s >= self._marking_until_s:
                self._marked(self._marking)
            return
        due = self._watched.due(now_s)
        if not due:
            self._asked_s, self._answered = None, False
        elif self._agent_is_settled(now_s):
            self._mark(due, now_s)

    def _agent_is_settled(self, now_s: float) -> bool:
        """Whether the agent is there and well, or dead. A stuck one is killed: it could go on where it was."""
        if self._answered or not self._agent_runs():
            return True
        if self._asked_s is None:
            self._asked_s = now_s
            if self._agent is not None:
                self._agent.send({"event": "over"})
            return False
        if now_s - self._asked_s < min(REPLY_S, self._watched.stop_s / 3):
            return False
        assert self._process is not None
        return send(*self._process, signal.SIGKILL, KILL_S)

    def _agent_runs(self) -> bool:
        if self._process is not None and start_ticks(self._process[0]) != self._process[1]:
            self._process = None
        return self._process is not None

    def _mark(self, due: list[Guard], now_s: float) -> None:
        at_ms = time.time_ns() // 10**6
        for guard in due:
            self._watched.fence(guard.name, at_ms)
            if self._agent is not None:
                self._agent.send({"event": "fenced", "name": guard.name, "at_ms": at_ms})
        marking = [(one, self._watched.until(one.epoch) + self._watched.stop_s) for one in due]
        self._marking, self._marking_until_s = marking, now_s + MARK_S
        lines = [{"do": "fence", "name": one.name, "at_ms": at_ms} for one in due]
        self._keep(lines, sync=True, then=lambda _why: self._marked(marking))

    def _marked(self, marking: list[tuple[Guard, float]]) -> None:
        """They are noted, or that takes too long."""
        if self._marking is marking:
            self._marking, self._marking_until_s = [], None
            self._ends.begin(marking)

    # -- its own end -------------------------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        """Whether nothing that it guards can run any more, now that it has no agent."""
        left = [one for one in self._watched.guards.values() if not self._ends.ended(one.name)]
        if not left:
            came = self._hellos > 0 or boottime_s() - self._idle_since_s > GREETING_S
            return came and self._marking_until_s is None and not self._agent_runs()
        now_s = boottime_s()
        if self._nothing_runs_since == self._hellos:
            return True
        if now_s - self._idle_since_s > IDLE_LOOK_S and (self._looking is None or not self._looking.is_alive()):
            self._idle_since_s = now_s
            self._looking = threading.Thread(target=self._look, args=(left, self._hellos), daemon=True)
            self._looking.start()
        return False

    def _look(self, guards: list[Guard], hellos: int) -> None:
        if not may_run(guards, self._agent_runs):
            self._nothing_runs_since = hellos
            self._wake()


def holder(directory: Path) -> tuple[int, int] | None:
    """The watchdog of that data directory that runs, (number, start ticks).

    None where none does, or one that has just taken the lock and has not said yet who it is. Raises OSError.
    """
    try:
        pid, ticks, boot = (directory / LOCK).read_text(encoding="ascii").split()
        process = int(pid), int(ticks)
    except (FileNotFoundError, ValueError):  # none was there yet, or it is killed or slow while it writes this
        return None
    return process if boot == boot_id() and start_ticks(process[0]) == process[1] else None


def _lock(directory: Path) -> int | None:
    """The lock that one watchdog holds; None where another one keeps it."""
    fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until_s = boottime_s() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if boottime_s() >= until_s:
                return None
            time.sleep(0.02)
        else:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {start_ticks(os.getpid())} {boot_id()}\n".encode(), 0)
            return fd


def _listen() -> socket.socket:
    """By a name relative to the working directory, since a socket's path has no more than 108 bytes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    Path(SOCKET).unlink(missing_ok=True)
    os.umask(0o177)
    listener.bind(SOCKET)
    os.umask(0o077)
    listener.listen(PEERS_MAX)
    return listener


def main(directory: Path) -> int:
    """Be the watchdog of that data directory. Returns an exit code: 0, or 75 where there is one already."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever ends its agent means the agent
    os.chdir(directory)
    if _lock(directory) is None:
        return 75
    with contextlib.suppress(OSError):  # it takes privileges
        Path("/proc/self/oom_score_adj").write_text("-1000", encoding="ascii")
    watchdog = Watchdog(directory, _listen())
    os.write(1, READY)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    gc.freeze()
    watchdog.run()
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: fence.py DIRECTORY, an agent's data directory")
    if os.fork() > 0:
        os._exit(0)  # nobody has to wait for the one that goes on
    _directory = Path(sys.argv[1]).absolute()
    try:
        sys.exit(main(_directory))
    except Exception:
        with contextlib.suppress(OSError):
            (_directory / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        raise

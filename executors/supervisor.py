"""The small process that owns one local attempt and outlives the agent.

`python -I -S supervisor.py --server` is a warm fork server: for each socket it is handed over its standard input (a
SOCK_SEQPACKET pair, SCM_RIGHTS), it forks a supervisor, which reads its Order from that socket, answers on it once, and
goes on alone in a session of its own. The server ends when the agent's end of its standard input is closed.

What a supervisor keeps on disk is told in `process_state.py`.

Its task is forked first and waits at a gate. Then the record is written, and after it the stop file is looked for, as
the agent writes that one before it looks for the record: so a stop and a start that meet cannot both miss the other.
Then supervisor and task are marked (`proc.py`), so that whatever is marked has had a record. The not-after is compared
by the task itself, as the last thing before exec.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # isolated mode leaves this file's package out of the path
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from executors.base import Stream
from executors.proc import boot_id, descendants, set_limit_mark, start_ticks
from executors.process_state import EXIT, LOCK, RECORD, STOP, stop_grace_s, sync_directory, write_json
from executors.segments import SegmentWriter

DECIDED = b"decided"  # a supervisor's answer: what came of the start is in the files. Any other says why it failed

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PIPE_BYTES = 256 * 1024
_READ_BYTES = 128 * 1024
_RESCAN_S = 0.1  # while processes are being killed: look for new ones this often
_RECORD_RETRY_S = 1.0  # a full disk: how often to try to write exit.json
_ORDER_BYTES_MAX = 16 * 1024 * 1024
_LENGTH = struct.Struct("!I")
_GO = b"go"
_REFUSED = b"refused"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Order:
    """What the agent asks of a supervisor: `AttemptSpec`'s fields, with paths as strings and all defaults filled in.

    state: the directory of what is kept of the attempt. limit_us: the mark of its processes, see `proc.limit_mark`.
    """

    name: str
    state: str
    limit_us: int
    directory: str
    log_directory: str
    command: list[str]
    environment: dict[str, str]
    labels: dict[str, str]
    memory_bytes: int | None
    not_after_s: float
    stop_grace_s: float
    log_limit_bytes: int

    def encode(self) -> bytes:
        """Length and JSON, as it goes over the socket."""
        body = json.dumps(asdict(self)).encode()
        if len(body) > _ORDER_BYTES_MAX:
            raise ValueError(f"{self.name}: environment and command are {len(body)} bytes, {_ORDER_BYTES_MAX} at most")
        return _LENGTH.pack(len(body)) + body


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def _kill(pid: int, number: signal.Signals) -> None:
    # EPERM: a set-uid process. It cannot be ended by us; the attempt lasts until it ends by itself.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


class _Pump:
    """Moves what the task writes into its log. The task never waits for a full disk: what cannot be kept is counted."""

    def __init__(self, writer: SegmentWriter, pipes: dict[int, Stream]) -> None:
        self._writer = writer
        self._time_ns = 0
        self.pipes = pipes
        self.dropped_bytes = 0
        self.error = ""
        for fd in pipes:
            os.set_blocking(fd, False)
            # A bigger pipe means fewer wake-ups. Refused where the user's pipes together are too big: then it stays.
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def read(self, fd: int) -> int:
        """Move one piece; returns its bytes, 0 at the end (the pipe is closed then) and -1 if there is nothing now."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return -1
        if data:
            self._time_ns = max(self._time_ns, time.time_ns())  # in order, though the clock may be set back
            try:
                self._writer.write(self.pipes[fd], data, self._time_ns)
            except OSError as error:
                self._drop(len(data), error)
        else:
            del self.pipes[fd]
            os.close(fd)
        return len(data)

    def finish(self) -> None:
        """Take what is still in the pipes and close the log. All writers are dead, or none of ours: no waiting."""
        for fd in list(self.pipes):
            left = _PIPE_BYTES
            while left > 0 and (count := self.read(fd)) > 0:
                left -= count
        try:
            self._writer.close()
        except OSError as error:
            self._drop(0, error)

    def _drop(self, count: int, error: OSError) -> None:
        self.dropped_bytes += count
        self.error = str(error)


class Supervisor:
    """One attempt, from its record to its exit file."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._state = Path(order.state)
        self._task = 0  # pid; it leads a session and a process group of the same number
        self._status: int | None = None  # wait status, once it has ended
        self._finished_at_ms = 0
        self._stop_at: float | None = None  # CLOCK_MONOTONIC when stopping turns into killing
        self._started_at_ms = 0
        self._wake_fd, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # it wakes the loop; the byte in the pipe says which
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def record(self) -> dict[str, Any]:
        """What is kept about this process and its task: `process_records.Record`."""
        return {
            "name": self._order.name,
            "labels": self._order.labels,
            "directory": self._order.directory,
            "log_directory": self._order.log_directory,
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "task_pid": self._task,
            "task_start_ticks": start_ticks(self._task),
            "limit_us": self._order.limit_us,
            "boot_id": boot_id(),
            "started_at_ms": self._started_at_ms,
        }

    def start(self) -> bool:
        """Start the task; True if it runs. Whatever comes of it is recorded when this returns."""
        writer = SegmentWriter(Path(self._order.log_directory), limit_bytes=self._order.log_limit_bytes)
        self._started_at_ms = time.time_ns() // 10**6
        gate, status = self._fork(writer)
        write_json(self._state / RECORD, self.record())
        sync_directory(self._state.parent)
        if (self._state / STOP).exists():
            os.close(gate)  # the task ends, having begun nothing
            message, refused = "a stop was asked for before the start", True
        else:
            message, refused = self._let_go(gate, status)
        if not message:
            return True
        os.waitpid(self._task, 0)
        self._pump.finish()
        self._write_exit(None, "executor_error", message, refused=refused)
        return False

    def _fork(self, writer: SegmentWriter) -> tuple[int, int]:
        """Fork the task. Returns (its gate, to write to; what it says if it does not run, to read)."""
        stdout, stdout_task = os.pipe()
        stderr, stderr_task = os.pipe()
        status, status_task = os.pipe()
        gate_task, gate = os.pipe()
        parent = os.getpid()
        self._task = os.fork()
        if self._task == 0:
            os.close(gate)  # or it would never see that nobody can open it any more
            _become_task(self._order, parent, gate_task, (stdout_task, stderr_task), status_task)
        for fd in (stdout_task, stderr_task, status_task, gate_task):
            os.close(fd)
        self._pump = _Pump(writer, {stdout: Stream.STDOUT, stderr: Stream.STDERR})
        return gate, status

    def _let_go(self, gate: int, status: int) -> tuple[str, bool]:
        """Mark this process and let the task begin. Returns (why it does not run, refused); ("", False) if it runs."""
        set_limit_mark(self._order.limit_us)
        os.write(gate, _GO)
        os.close(gate)
        with os.fdopen(status, "rb") as file:
            message = file.read()  # ends empty with a successful exec, which closes the other end
        if message == _REFUSED:
            return f"the start came after its not-after ({self._order.not_after_s:.3f} s after boot)", True
        return message.decode(errors="replace"), False

    def run(self) -> None:
        """Until the task and all that it started have ended: pump, stop when asked, kill what is left; then record."""
        poll = select.poll()
        for fd in (self._wake_fd, *self._pump.pipes):
            poll.register(fd, select.POLLIN)
        while self._reap():
            timeout_s = self._enforce()
            for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000):
                if fd == self._wake_fd:
                    if signal.SIGTERM in os.read(fd, 4096):
                        self._begin_stop()
                elif self._pump.read(fd) == 0:
                    poll.unregister(fd)
        self._pump.finish()
        self._write_end()

    def _reap(self) -> bool:
        """Collect ended children; False once there are none left, adopted ones included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._task:
                self._status, self._finished_at_ms = status, time.time_ns() // 10**6

    def _enforce(self) -> float | None:
        """Kill what must not live any longer. Returns the seconds until it has to be looked at again; None = never."""
        if self._stop_at is None:
            if self._status is None:
                return None
        else:
            left_s = self._stop_at - time.monotonic()
            if left_s > 0:
                return left_s  # also for what outlives the task: a stop gives its grace to all
        for pid in descendants(os.getpid()):
            _kill(pid, signal.SIGKILL)
        return _RESCAN_S

    def _begin_stop(self) -> None:
        """SIGTERM to all; SIGKILL after the grace. Asked again, only the earlier end counts."""
        asked_s = stop_grace_s(self._state)  # None: the disk was full when it was to be written
        stop_at = time.monotonic() + (self._order.stop_grace_s if asked_s is None else asked_s)
        first = self._stop_at is None
        self._stop_at = stop_at if self._stop_at is None else min(self._stop_at, stop_at)
        if not first:
            return
        group = 0
        if self._status is None:  # once the task is reaped its number may be another's
            group = self._task
            with contextlib.suppress(ProcessLookupError, PermissionError):  # as in _kill
                os.killpg(group, signal.SIGTERM)
        for pid, its_group in descendants(os.getpid()).items():
            if its_group != group:
                _kill(pid, signal.SIGTERM)

    def _write_end(self) -> None:
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        message = ""
        if code < 0:
            message = f"ended by {signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'}"
            code = 128 - code
        facts = {}
        if self._pump.error:
            facts = {"log_bytes_dropped": str(self._pump.dropped_bytes), "log_error": self._pump.error}
        self._write_exit(code, "exit_code" if code else None, message, facts=facts)

    def _write_exit(
        self,
        code: int | None,
        reason: str | None,
        message: str,
        *,
        refused: bool = False,
        facts: dict[str, str] | None = None,
    ) -> None:
        end = {
            "name": self._order.name,
            "exit_code": code,
            "reason": reason,
            "message": message,
            "refused": refused,
            "started_at_ms": self._started_at_ms,
            # Not before the start, though the clock may be set back.
            "finished_at_ms": max(self._started_at_ms, self._finished_at_ms or time.time_ns() // 10**6),
            "facts": facts or {},
        }
        while True:
            try:
                self._state.mkdir(mode=0o700, exist_ok=True)  # somebody may have removed it
                write_json(self._state / EXIT, end)
            except (FileNotFoundError, FileExistsError, NotADirectoryError):
                return  # what holds it is gone, and the agent's data with it: nobody asks any more
            except OSError:  # most likely a full disk. An end that is not recorded has not happened yet: wait for room
                time.sleep(_RECORD_RETRY_S)
            else:
                return

    def abort(self, message: str) -> None:
        """The start, or this program, has failed: leave no process behind, and if there is a record, an end to it."""
        while left := descendants(os.getpid()):
            for pid in left:
                _kill(pid, signal.SIGKILL)
            time.sleep(_RESCAN_S)
            self._reap()
        if (self._state / RECORD).exists():
            self._write_exit(None, "executor_error", message)


def _become_task(order: Order, parent: int, gate: int, output: tuple[int, int], status: int) -> NoReturn:
    """In the forked child: turn into the task once the gate is opened, or say why not on `status`."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError):  # numbers that the C library keeps for itself
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if os.read(gate, len(_GO)) != _GO:  # it was closed: there is no start
            os._exit(1)
        set_limit_mark(order.limit_us)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (output[0], 1), (output[1], 2)):
            os.dup2(fd, target, inheritable=True)  # all others are closed by exec (PEP 446)
        os.umask(0o022)
        os.chdir(order.directory)
        _limit(resource.RLIMIT_CORE, 0)
        if order.memory_bytes is not None:
            _limit(resource.RLIMIT_AS, order.memory_bytes)
        if time.clock_gettime(time.CLOCK_BOOTTIME) > order.not_after_s:
            os.write(status, _REFUSED)
            os._exit(1)
        os.execvpe(order.command[0], order.command, order.environment)  # noqa: S606  no shell is meant
    except BaseException as error:  # the parent tells the agent
        os.write(status, _why_not_run(order, error).encode(errors="replace"))
    os._exit(1)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _why_not_run(order: Order, error: BaseException) -> str:
    program = order.command[0]
    no_program = isinstance(error, FileNotFoundError) and error.filename != order.directory
    if no_program and "/" not in program:
        return f"{program}: command not found in PATH={order.environment.get('PATH', '')}"
    reason = error.strerror if isinstance(error, OSError) else repr(error)
    return f"{program}: cannot be run in {order.directory}: {reason}"


def _receive_order(report: socket.socket) -> Order | None:
    """None if the agent left before it had said everything: then there is no start."""

    def receive(count: int) -> bytes:
        data = b""
        while len(data) < count and (piece := report.recv(min(count - len(data), 1024 * 1024))):
            data += piece
        return data

    head = receive(_LENGTH.size)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
    body = receive(min(length, _ORDER_BYTES_MAX))
    return Order(**json.loads(body)) if length and len(body) == length else None


def _answer(report: socket.socket, answer: bytes) -> None:
    if report.fileno() < 0:
        return  # answered before
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the agent is gone: the files say the same
        report.sendall(answer)
    report.close()


def supervise(report: socket.socket) -> None:
    """In a forked child: one attempt, from order to end. Answers once on `report`."""
    os.setsid()
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):  # nothing of the agent's is held open by what outlives it
        os.dup2(null, target)
    order = _receive_order(report)
    if order is None:
        return
    state = Path(order.state)
    supervisor = None
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = os.open(state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX)  # waits for another start of this attempt to be decided
        if (state / RECORD).exists() or (state / EXIT).exists():
            _answer(report, DECIDED)
            return
        supervisor = Supervisor(order)
        runs = supervisor.start()
        os.close(lock_fd)
        _answer(report, DECIDED)
        if runs:
            supervisor.run()
    except BaseException as error:
        message = f"the supervisor failed: {type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # the directory itself may be what failed
            (state / "supervisor.error").write_text(traceback.format_exc(), encoding="utf-8")
        if supervisor is not None:
            supervisor.abort(message)
        _answer(report, message.encode(errors="replace"))


def serve(control: socket.socket) -> None:
    """Fork a supervisor for each socket that comes over `control`, until its other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps supervisors
    gc.collect()
    gc.freeze()  # a forked child's collector would copy every page it looks at
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        for fd in fds:
            os.set_inheritable(fd, False)
            report = socket.socket(fileno=fd)
            try:
                pid = os.fork()
            except OSError as error:
                _answer(report, f"no process for the attempt: {error}".encode())
                continue
            if pid == 0:
                control.close()
                try:
                    supervise(report)
                finally:
                    os._exit(0)
            report.close()


if __name__ == "__main__":
    if sys.argv[1:] != ["--server"]:
        sys.exit("usage: supervisor.py --server, with a SOCK_SEQPACKET socket as standard input")
    with socket.socket(fileno=os.dup(0)) as _control:
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        serve(_control)

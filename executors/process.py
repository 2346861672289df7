"""Runs attempts as processes of this machine, each under a supervisor that outlives the agent.

The agent holds nothing that matters: all there is to know about an attempt is in files of its own directory
(`executors/supervisor.py`), so an agent that was killed goes on where it was (P3).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from executors import supervisor
from executors.base import AttemptSpec, LogLine, Outcome, Started
from executors.errors import EngineUnreachable, ExecutorError, StartRefused
from executors.segments import Cursor
from executors.supervisor import EXIT, RECORD, STATE_DIRECTORY, STOP, Order, state_path

_STARTS_IN_FLIGHT_MAX = 32
_FOLLOW_INTERVAL_S = 0.1
_STOP_SLACK_S = 10.0  # a supervisor that has not ended its attempt this long after the grace is stuck: end it as well
_LEFTOVER_ROUNDS_MAX = 100
_LEFTOVER_WAIT_MS = 100
_ROOT_DEPTH_MAX = 4  # <attempts_root>/<run>/<instance>/<attempt>
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _ForkServer:
    """The warm process that supervisors are forked from. Started when first needed, and anew when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Its process number, if it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def ask(self, order: bytes) -> bytes:
        """Fork a supervisor, give it `order`, return its answer; empty if it died first: then it started nothing.

        Raises EngineUnreachable if no server can be started.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            self._hand_over(theirs)
            theirs.close()
            answer = b""
            try:
                await loop.sock_sendall(ours, order)
                while piece := await loop.sock_recv(ours, 64 * 1024):
                    answer += piece
            except (BrokenPipeError, ConnectionResetError):
                return b""
            return answer

    def _hand_over(self, sock: socket.socket) -> None:
        if self.pid is None:
            self._start()
        assert self._control is not None
        try:
            socket.send_fds(self._control, [b"\0"], [sock.fileno()])
        except (BrokenPipeError, ConnectionResetError):  # it died since: a new one, and its failure is the caller's
            self._start()
            socket.send_fds(self._control, [b"\0"], [sock.fileno()])

    def _start(self) -> None:
        self._reap()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # cannot fill: _STARTS_IN_FLIGHT_MAX one-byte messages
        command = [sys.executable, "-I", "-S", "-X", "utf8", supervisor.__file__, "--server"]
        environment = {"LANG": "C.UTF-8"}  # none of the agent's, which may hold its keys
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise EngineUnreachable(f"the fork server cannot be started: {' '.join(command)}: {error}") from error
        self._control = ours

    def _reap(self) -> None:
        if self._control is not None:
            self._control.close()  # this is what ends it
            self._control = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    async def close(self) -> None:
        """End the server, once it has forked for all orders that it was given. Attempts go on."""
        process, control = self._process, self._control
        self._process = self._control = None  # a start that comes meanwhile has a new one
        if control is not None:
            control.close()
        if process is not None and process.poll() is None:
            fd = os.pidfd_open(process.pid)  # not reaped yet, so it is still there
            try:
                await _readable(fd)
            finally:
                os.close(fd)
                process.wait()

    def discard(self) -> None:
        """Kill a server that does not answer; the next start has a new one. An order that is with it dies with it."""
        if self._process is not None:
            self._process.kill()
        self._reap()


async def _readable(fd: int) -> None:
    """Wait until `fd` is readable. For a pidfd: until its process has ended."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


@contextlib.contextmanager
def _pidfd(record: Mapping[str, Any]) -> Iterator[int | None]:
    """A handle on the supervisor of `record`; None if it is gone: its number may be another process's by now."""
    fd = None
    if record["boot_id"] == supervisor.boot_id():
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(record["pid"])
    try:
        # The handle is taken first: what it refers to cannot change any more while it is looked at.
        yield fd if supervisor.start_ticks(record["pid"]) == record["start_ticks"] else None
    finally:
        if fd is not None:
            os.close(fd)


async def _gone(record: Mapping[str, Any], send: signal.Signals | None = None) -> None:
    """Return when the supervisor of `record` has ended, after sending it a signal."""
    with _pidfd(record) as fd:
        if fd is None:
            return
        if send is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                signal.pidfd_send_signal(fd, send)
        await _readable(fd)


def _started(record: Mapping[str, Any]) -> Started:
    return Started(record["name"], record["started_at_ms"], {"pid": str(record["pid"])})


def _outcome(end: Mapping[str, Any]) -> Outcome:
    return Outcome(
        exit_code=end["exit_code"],
        reason=end["reason"],
        message=end["message"],
        started_at_ms=None if end["refused"] else end["started_at_ms"],
        finished_at_ms=end["finished_at_ms"],
        facts=end["facts"],
    )


def _read(name: str, directory: Path, file: str) -> dict[str, Any] | None:
    """A state file of the attempt. Raises ExecutorError if it is damaged or another attempt's."""
    try:
        value = supervisor.read_json(state_path(directory, file))
    except ValueError as error:
        raise ExecutorError(str(error)) from error
    if value is not None and value["name"] != name:
        raise ExecutorError(f"{directory} belongs to the attempt {value['name']}, not to {name}")
    return value


def _order(spec: AttemptSpec) -> Order:
    command = [*(spec.entrypoint or ()), *spec.command]
    if not command:
        raise ExecutorError(f"{spec.name}: no command; a process has no image that would bring one")
    directory = str(spec.directory.absolute())
    defaults = {"PATH": _DEFAULT_PATH, "HOME": str(Path("~").expanduser()), "LANG": "C.UTF-8"}
    return Order(
        name=spec.name,
        directory=directory,
        log_directory=str(spec.log_directory.absolute()),
        command=command,
        environment=defaults | dict(spec.environment) | {supervisor.MARK: directory},
        labels=dict(spec.labels),
        memory_bytes=spec.resources.memory_bytes,
        not_after_s=spec.not_after_s,
        stop_grace_s=spec.stop_grace_s,
        log_limit_bytes=spec.log_limit_bytes,
    )


class ProcessExecutor:
    """`executors.base.Executor` for local processes.

    attempts_root: the directory under which all attempts' directories are; `list_names` looks there.

    An attempt sees exactly its environment, PATH, HOME and LANG where it sets none, and JOB_DIR, its directory.
    Its memory limit is an address space limit (RLIMIT_AS); `cpu_cores`, `image`, `pull` and `network` have no meaning
    here. Whatever it started is ended when it ends.
    """

    kind = "process"
    fenceable = True
    captures_logs = True
    start_window_s = 10.0
    absence_is_proof = False  # an order may be with a supervisor that has not written its record yet

    def __init__(self, attempts_root: Path) -> None:
        self._root = attempts_root
        self._server = _ForkServer()
        self._starts = asyncio.Semaphore(_STARTS_IN_FLIGHT_MAX)

    @property
    def server_pid(self) -> int | None:
        """The fork server's process number; None while there is none."""
        return self._server.pid

    async def open(self) -> None:
        """Nothing to connect to: the fork server is started by the first start."""

    async def start(self, spec: AttemptSpec) -> Started:
        """See `Executor.start`. The same refusal or failure is raised again for an attempt that did not start."""
        found = self._find(spec.name, spec.directory)
        if found is not None:
            return found
        try:
            order = _order(spec).encode()
        except ValueError as error:
            raise ExecutorError(str(error)) from error
        async with self._starts:
            answer = await self._ask(spec.name, order)
            found = self._find(spec.name, spec.directory)
            if not answer and found is None:
                # Whoever had the order died with it, most likely the fork server, and left no record: nothing has
                # begun, and nobody is left who could begin it. A dying server still takes orders, so not to that one.
                await self._server.close()
                answer = await self._ask(spec.name, order)
                found = self._find(spec.name, spec.directory)
        if found is not None:
            return found
        failure = answer.decode(errors="replace") or "its supervisors died before they could start it"
        raise ExecutorError(f"{spec.name}: {failure}")

    async def _ask(self, name: str, order: bytes) -> bytes:
        try:
            async with asyncio.timeout(self.start_window_s):
                return await self._server.ask(order)
        except TimeoutError:
            self._server.discard()
            raise EngineUnreachable(f"{name}: its supervisor has not answered in {self.start_window_s} s") from None

    def _find(self, name: str, directory: Path) -> Started | None:
        """An attempt for which there was a start. Raises what that start raised, if it failed."""
        end = _read(name, directory, EXIT)
        if end is not None and end["refused"]:
            raise StartRefused(f"{name}: {end['message']}")
        if end is not None and end["reason"] == "executor_error":
            raise ExecutorError(f"{name}: {end['message']}")
        record = _read(name, directory, RECORD)
        return None if record is None else _started(record)

    async def attach(self, name: str, directory: Path) -> Started | None:
        """See `Executor.attach`. None also where the start was refused; of a command that could not be run, `wait`
        tells.
        """
        end = _read(name, directory, EXIT)
        if end is not None and end["refused"]:
            return None
        record = _read(name, directory, RECORD)
        return None if record is None else _started(record)

    async def wait(self, name: str, directory: Path) -> Outcome:
        """See `Executor.wait`. Raises ExecutorError where there was never a start."""
        end = _read(name, directory, EXIT)
        if end is None:
            record = self._record(name, directory)
            await _gone(record)
            end = await self._end(name, directory, record)
        return _outcome(end)

    def _record(self, name: str, directory: Path) -> dict[str, Any]:
        record = _read(name, directory, RECORD)
        if record is None:
            raise ExecutorError(f"{name}: there was no start of it in {directory}")
        return record

    async def _end(self, name: str, directory: Path, record: Mapping[str, Any]) -> dict[str, Any]:
        """How an attempt without a living supervisor ended. If nobody has recorded it: end what is left, record it."""
        end = _read(name, directory, EXIT)
        if end is None:
            if record["boot_id"] == supervisor.boot_id():
                await asyncio.to_thread(_kill_leftovers, record["directory"])
                message = "the supervisor died before its attempt; what was left of it has been killed"
            else:
                message = "the machine was restarted while it ran"
            end = {
                "name": name,
                "exit_code": None,
                "reason": "agent_lost",
                "message": message,
                "refused": False,
                "started_at_ms": record["started_at_ms"],
                "finished_at_ms": time.time_ns() // 10**6,
                "facts": {},
            }
            supervisor.write_json(state_path(directory, EXIT), end)
        return end

    async def stop(self, name: str, directory: Path, grace_s: float) -> None:
        """See `Executor.stop`. An attempt that was never started never will be: a mark in its directory says so.

        Raises ExecutorError if some process of it cannot be ended.
        """
        if _read(name, directory, EXIT) is not None:
            return
        state = state_path(directory, "")
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        supervisor.write_json(state / STOP, {"name": name, "grace_s": grace_s})
        record = _read(name, directory, RECORD)  # after the mark, as a start looks for the mark after its record
        if record is None:
            return
        try:
            async with asyncio.timeout(grace_s + _STOP_SLACK_S):
                await _gone(record, signal.SIGTERM)
        except TimeoutError:
            await _gone(record, signal.SIGKILL)
        await self._end(name, directory, record)

    async def logs(
        self, name: str, directory: Path, since_ns: int = 0, *, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        """See `Executor.logs`. Gaps are left out here; `segments.read` shows them.

        Raises ExecutorError where there was never a start.
        """
        record = self._record(name, directory)
        ended = asyncio.ensure_future(_gone(record))
        try:
            with Cursor(Path(record["log_directory"]), since_ns=since_ns) as cursor:
                while True:
                    last = ended.done() or not follow  # looked at before reading, so that the last lines are not missed
                    batch = await asyncio.to_thread(cursor.poll)
                    for line in batch:
                        if isinstance(line, LogLine):
                            yield line
                    if not batch:
                        if last:
                            return
                        await asyncio.wait({ended}, timeout=_FOLLOW_INTERVAL_S)
        finally:
            ended.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ended

    async def remove(self, name: str, directory: Path) -> None:
        """See `Executor.remove`. Raises ExecutorError while it runs: stop it first."""
        record = _read(name, directory, RECORD)
        if record is not None and _read(name, directory, EXIT) is None:
            with _pidfd(record) as fd:
                if fd is not None:
                    raise ExecutorError(f"{name} is running; stop it before it is removed")
        removed = directory / f"{STATE_DIRECTORY}.removed"
        with contextlib.suppress(FileNotFoundError):  # removed already
            (directory / STATE_DIRECTORY).rename(removed)  # at once: a half removed state would look like a lost one
        if removed.exists():
            await asyncio.to_thread(shutil.rmtree, removed)

    async def list_names(self, labels: Mapping[str, str]) -> frozenset[str]:
        """See `Executor.list_names`: what is under the root, refused starts included until they are removed."""
        try:
            return await asyncio.to_thread(_names_below, self._root, labels)
        except ValueError as error:
            raise ExecutorError(str(error)) from error

    async def callback_host(self) -> str | None:
        """See `Executor.callback_host`."""
        return "127.0.0.1"

    async def close(self) -> None:
        """End the fork server only; running attempts go on."""
        await self._server.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _names_below(root: Path, labels: Mapping[str, str]) -> frozenset[str]:
    names = set()
    level = [root]
    for _ in range(_ROOT_DEPTH_MAX):
        below: list[Path] = []
        for directory in level:
            record = supervisor.read_json(state_path(directory, RECORD))
            if record is None:
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    below += (
                        Path(entry.path) for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)
                    )
            elif labels.items() <= record["labels"].items():
                names.add(record["name"])
        level = below
    return frozenset(names)


def _kill_leftovers(directory: str) -> None:
    """SIGKILL all processes that carry the attempt's mark, until there are none. Raises ExecutorError if some stay."""
    for _ in range(_LEFTOVER_ROUNDS_MAX):
        pids = supervisor.marked(directory)
        if not pids:
            return
        for pid in pids:
            _kill_and_wait(pid)
    raise ExecutorError(f"{directory}: processes {supervisor.marked(directory)} of this attempt cannot be killed")


def _kill_and_wait(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(_LEFTOVER_WAIT_MS)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def create(config: Mapping[str, str]) -> ProcessExecutor:
    """The entry point. config: {"attempts_root": path}. Raises ExecutorError if it is missing."""
    if "attempts_root" not in config:
        raise ExecutorError("executor process: attempts_root is missing: the directory that holds the attempts")
    return ProcessExecutor(Path(config["attempts_root"]))

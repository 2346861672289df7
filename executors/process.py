"""Runs attempts as processes of this machine, each under a supervisor that outlives the agent.

The agent holds nothing that matters: all there is to know about an attempt is in files beside the attempts'
directories (`process_state.py`), found by the attempt's name, so an agent that was killed goes on where it was (P3).
Where those are lost or damaged, the attempt's processes are still known by their marks (`proc.py`): they can be ended,
and are not taken for ended before they are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from executors import proc
from executors.base import AttemptSpec, LogLine, Outcome, Started
from executors.errors import EngineUnreachable, ExecutorError, StartRefused, StateLost
from executors.fork_server import ForkServer, readable
from executors.process_records import End, Record, load, load_if_whole, told_apart
from executors.process_state import EXIT, RECORD, STOP, write_json
from executors.segments import Cursor
from executors.supervisor import DECIDED, Order

_STARTS_IN_FLIGHT_MAX = 32
_FOLLOW_INTERVAL_S = 0.1
_STOP_SLACK_S = 10.0  # a supervisor that has not ended its attempt this long after the grace is stuck: end it as well
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,239}")  # a file's name


@contextlib.contextmanager
def _pidfd(record: Record) -> Iterator[int | None]:
    """A handle on the supervisor of `record`; None if it is gone: its number may be another process's by now."""
    fd = None
    if record.boot_id == proc.boot_id():
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(record.pid)
    try:
        # The handle is taken first: what it refers to cannot change any more while it is looked at.
        yield fd if proc.start_ticks(record.pid) == record.start_ticks else None
    finally:
        if fd is not None:
            os.close(fd)


async def _gone(record: Record, send: signal.Signals | None = None) -> None:
    """Return when the supervisor of `record` has ended, after sending it a signal."""
    with _pidfd(record) as fd:
        if fd is None:
            return
        if send is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                signal.pidfd_send_signal(fd, send)
        await readable(fd)


class ProcessExecutor:
    """`executors.base.Executor` for local processes.

    attempts_root: the directory under which all attempts' directories are. What is kept of them is in its sibling, of
        the same name and `-state`.

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
        root = attempts_root.absolute()
        self._states = root.with_name(f"{root.name}-state")
        self._server = ForkServer()
        self._starts = asyncio.Semaphore(_STARTS_IN_FLIGHT_MAX)

    @property
    def server_pid(self) -> int | None:
        """The fork server's process number; None while there is none."""
        return self._server.pid

    def state(self, name: str) -> Path:
        """Where the files of `process_state.py` of an attempt are. Raises ExecutorError for a name that names none."""
        if not _NAME.fullmatch(name):
            raise ExecutorError(f"{name!r} cannot be an attempt's name: letters, digits, '_', '.' and '-', 240 at most")
        return self._states / name

    async def open(self) -> None:
        """Make room for what is kept. The fork server is started by the first start. Raises EngineUnreachable."""
        try:
            self._states.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._states.chmod(0o700)
        except OSError as error:
            raise EngineUnreachable(f"nothing can be kept of attempts in {self._states}: {error}") from error

    # -- start and attach --------------------------------------------------------------------------------------------

    async def fetch(self, spec: AttemptSpec) -> None:
        """There is nothing to get."""

    async def start(self, spec: AttemptSpec) -> Started:
        """See `Executor.start`. The same refusal or failure is raised again for an attempt that did not start."""
        try:
            with told_apart(spec.name):
                return await self._start(spec)
        except StateLost as lost:
            # It may run, and nobody could tell how it goes. Who hears of an error is promised that it does not run.
            await asyncio.to_thread(proc.end_marked, self._marks(spec.name, spec.directory, None))
            raise ExecutorError(f"{lost}; what ran of it has been ended") from lost

    async def _start(self, spec: AttemptSpec) -> Started:
        found = self._find(spec.name)
        if found is not None:
            return found
        try:
            order = self._order(spec).encode()
        except ValueError as error:
            raise ExecutorError(f"{spec.name}: {error}") from error
        async with self._starts:
            answer = await self._ask(spec.name, order)
            found = self._find(spec.name)
            if not answer and found is None:
                # Whoever had the order died with it, most likely the fork server, and left no record: nothing has
                # begun, and nobody is left who could begin it. A dying server still takes orders, so not to that one.
                await self._server.close()
                answer = await self._ask(spec.name, order)
                found = self._find(spec.name)
        if found is not None:
            return found
        if answer == DECIDED:
            raise StateLost(
                f"{spec.name}: what was kept of it in {self.state(spec.name)} vanished while it was started"
            )
        failure = answer.decode(errors="replace") or "its supervisors died before they could start it"
        raise ExecutorError(f"{spec.name}: {failure}")

    def _order(self, spec: AttemptSpec) -> Order:
        command = [*(spec.entrypoint or ()), *spec.command]
        if not command:
            raise ExecutorError(f"{spec.name}: no command; a process has no image that would bring one")
        marks = self._marks(spec.name, spec.directory, None)
        defaults = {"PATH": _DEFAULT_PATH, "HOME": str(Path("~").expanduser()), "LANG": "C.UTF-8"}
        return Order(
            name=spec.name,
            state=str(self.state(spec.name)),
            limit_us=marks.limit_us,
            directory=marks.directory,
            log_directory=str(spec.log_directory.absolute()),
            command=command,
            environment=defaults | dict(spec.environment) | {proc.DIRECTORY_VARIABLE: marks.directory},
            labels=dict(spec.labels),
            memory_bytes=spec.resources.memory_bytes,
            not_after_s=spec.not_after_s,
            stop_grace_s=spec.stop_grace_s,
            log_limit_bytes=spec.log_limit_bytes,
        )

    async def _ask(self, name: str, order: bytes) -> bytes:
        try:
            async with asyncio.timeout(self.start_window_s):
                return await self._server.ask(order)
        except TimeoutError:
            self._server.discard()
            raise EngineUnreachable(f"{name}: its supervisor has not answered in {self.start_window_s} s") from None

    def _find(self, name: str) -> Started | None:
        """An attempt for which there was a start. Raises what that start raised, if it failed."""
        end, record = self._load(name)
        if end is not None and end.refused:
            raise StartRefused(f"{name}: {end.message}")
        if end is not None and end.reason == "executor_error":
            raise ExecutorError(f"{name}: {end.message}")
        return _started(end, record)

    def _load(self, name: str) -> tuple[End | None, Record | None]:
        state = self.state(name)
        return load(End, state, name), load(Record, state, name)

    def _marks(self, name: str, directory: Path, record: Record | None) -> proc.Marks:
        """How the attempt's processes are known; without a record by what its name and its directory say."""
        if record is not None:
            task = (record.task_pid, record.task_start_ticks) if record.boot_id == proc.boot_id() else None
            return proc.Marks(record.directory, record.limit_us, task)
        digest = hashlib.sha256(os.fsencode(self.state(name))).digest()
        try:
            limit_us = proc.limit_mark(int.from_bytes(digest[:8]))
        except ValueError as error:
            raise ExecutorError(f"{name}: {error}") from error
        return proc.Marks(str(directory.absolute()), limit_us)

    async def attach(self, name: str, directory: Path) -> Started | None:
        """See `Executor.attach`. None also where the start was refused; of a command that could not be run, `wait`
        tells.
        """
        with told_apart(name):
            end, record = self._load(name)
            if end is None and record is None:
                pids = await asyncio.to_thread(proc.marked, self._marks(name, directory, None))
                end, record = self._load(name)  # it may have been started while it was looked for
                if pids and end is None and record is None:
                    raise StateLost(f"{name}: it runs, and what was kept of it in {self.state(name)} is gone")
            return None if end is not None and end.refused else _started(end, record)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def wait(self, name: str, directory: Path) -> Outcome:
        """See `Executor.wait`. Raises StateLost where no start is on record."""
        with told_apart(name):
            end, record = self._load(name)
            if end is None:
                if record is None:
                    raise StateLost(f"{name}: there was no start of it, or {self.state(name)} is gone")
                await _gone(record)
                end = load(End, self.state(name), name) or await self._end(name, directory, record)
            return end.outcome()

    async def _end(self, name: str, directory: Path, record: Record) -> End:
        """End what a dead supervisor has left, and record it, if nobody has."""
        if record.boot_id == proc.boot_id():
            await asyncio.to_thread(proc.end_marked, self._marks(name, directory, record))
            message = "the supervisor died before its attempt; what was left of it has been killed"
        else:
            message = "the machine was restarted while it ran"
        state = self.state(name)
        end = load(End, state, name)  # another may have been faster
        if end is None:
            ended_at_ms = max(record.started_at_ms, time.time_ns() // 10**6)  # the clock may have been set back
            end = End(name, None, "agent_lost", message, False, record.started_at_ms, ended_at_ms, {})
            state.mkdir(mode=0o700, exist_ok=True)
            write_json(state / EXIT, end.as_json())
        return end

    async def stop(self, name: str, directory: Path, grace_s: float) -> None:
        """See `Executor.stop`. An attempt that was never started never will be: a mark beside it says so.

        Raises Unsettled if some process of it does not end, or if that mark cannot be written now.
        """
        with told_apart(name):
            state = self.state(name)
            if load_if_whole(End, state, name) is not None:
                return
            unwritten = _ask_to_stop(state, name, grace_s)
            record = load_if_whole(Record, state, name)  # after the mark, as a start looks for it after its record
            if record is not None:
                await self._end_supervised(record, grace_s)
                if load_if_whole(End, state, name) is not None:
                    return
            await asyncio.to_thread(proc.end_marked, self._marks(name, directory, record))
            if unwritten is not None and not (state / RECORD).exists():
                raise unwritten  # whoever is about to start it would not see that it must not

    async def _end_supervised(self, record: Record, grace_s: float) -> None:
        try:
            async with asyncio.timeout(grace_s + _STOP_SLACK_S):
                await _gone(record, signal.SIGTERM)
        except TimeoutError:
            await _gone(record, signal.SIGKILL)

    async def remove(self, name: str, directory: Path) -> None:
        """See `Executor.remove`. Raises ExecutorError while it runs: stop it first."""
        with told_apart(name):
            state = self.state(name)
            if load_if_whole(End, state, name) is None:
                record = load_if_whole(Record, state, name)
                if await asyncio.to_thread(self._runs, record, self._marks(name, directory, record)):
                    raise ExecutorError(f"{name} is running; stop it before it is removed")
            await asyncio.to_thread(_remove, state)

    @staticmethod
    def _runs(record: Record | None, marks: proc.Marks) -> bool:
        if record is not None:
            with _pidfd(record) as fd:
                if fd is not None:
                    return True
            if record.boot_id != proc.boot_id():
                return False
        return bool(proc.marked(marks))

    async def logs(
        self,
        name: str,
        directory: Path,  # noqa: ARG002  the contract's; the name is enough
        since_ns: int = 0,
        *,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """See `Executor.logs`. Gaps are left out here; `segments.read` shows them.

        Raises StateLost where no start is on record.
        """
        record = load(Record, self.state(name), name)
        if record is None:
            raise StateLost(f"{name}: there was no start of it, or {self.state(name)} is gone")
        ended = asyncio.ensure_future(_gone(record))
        try:
            with Cursor(Path(record.log_directory), since_ns=since_ns) as cursor:
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

    # -- the rest ----------------------------------------------------------------------------------------------------

    async def list_names(self, labels: Mapping[str, str]) -> frozenset[str]:
        """See `Executor.list_names`: refused starts included until they are removed, and those that are damaged."""
        with told_apart(str(self._states)):
            return await asyncio.to_thread(_names_in, self._states, labels)

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


def _started(end: End | None, record: Record | None) -> Started | None:
    """The word that it started, from whichever is left to say so."""
    return record.started() if record is not None else end.started() if end is not None else None


def _ask_to_stop(state: Path, name: str, grace_s: float) -> OSError | None:
    """Write the stop file. Returns why it could not be written: what runs is told by a signal as well."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(state / STOP, {"name": name, "grace_s": grace_s})
    except OSError as error:
        return error
    return None


def _remove(state: Path) -> None:
    """Remove the directory: at once, as a half removed state would look like a damaged one."""
    removed = state.with_name(f".{state.name}.removed")
    if removed.exists():  # of a removal that was interrupted
        shutil.rmtree(removed)
    with contextlib.suppress(FileNotFoundError):  # removed already
        state.rename(removed)
        shutil.rmtree(removed)


def _names_in(states: Path, labels: Mapping[str, str]) -> frozenset[str]:
    names = set()
    with contextlib.suppress(FileNotFoundError):  # nothing was started yet
        for entry in os.scandir(states):
            if _NAME.fullmatch(entry.name) and _carries(states / entry.name, entry.name, labels):
                names.add(entry.name)
    return frozenset(names)


def _carries(state: Path, name: str, labels: Mapping[str, str]) -> bool:
    """Whether there was a start of it, with these labels. One whose labels cannot be read is nobody else's."""
    try:
        record = load(Record, state, name)
    except StateLost:
        return True
    if record is None:
        return (state / EXIT).exists()
    return labels.items() <= record.labels.items()


def create(config: Mapping[str, str]) -> ProcessExecutor:
    """The entry point. config: {"attempts_root": path}. Raises ExecutorError if it is missing."""
    if "attempts_root" not in config:
        raise ExecutorError("executor process: attempts_root is missing: the directory that holds the attempts")
    return ProcessExecutor(Path(config["attempts_root"]))

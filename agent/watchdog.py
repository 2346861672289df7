"""The agent's side of its watchdog (`executors.fence`): taken over or started, told, and replaced when it is dead (P3).

Everything that is told waits for the watchdog's word. What it did not acknowledge did not happen: no lease counts, and
no attempt starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from agent.errors import PrimeError
from agent.gate import Guarded
from executors import fence, proc
from executors.base import Executor
from executors.process import ProcessExecutor

log = logging.getLogger(__name__)

ANSWER_S: Final = 2.0  # then it is stuck: it is killed, and another one started
DURABLE_S: Final = 30.0  # the same, where the answer waits for the disk
START_S: Final = 10.0
AGAIN_S: Final = 0.2
DOCKER_URL: Final = "unix:///var/run/docker.sock"
_CREDENTIALS: Final = struct.Struct("iII")


class NoWatchdog(PrimeError):
    """There is none now, or it has not answered: nothing may be started, and no lease counts."""


def how_to_end(executor: Executor, name: str, directory: Path) -> dict[str, Any] | None:
    """What is needed to find and end an attempt without this agent; None where its engine offers no way.

    An executor of a third party says so by a method of the same name. Raises ExecutorError for a name that names none.
    """
    own: Callable[[str, Path], dict[str, Any]] | None = getattr(executor, "how_to_end", None)
    if own is not None:
        return own(name, directory)
    if isinstance(executor, ProcessExecutor):
        state = executor.state(name)
        digest = hashlib.sha256(os.fsencode(state)).digest()
        mark = proc.limit_mark(int.from_bytes(digest[:8]))
        return {"kind": "process", "state": str(state), "directory": str(directory.absolute()), "limit_us": mark}
    if executor.kind == "docker":
        url = os.environ.get("DOCKER_HOST") or DOCKER_URL
        certificates = os.environ.get("DOCKER_CERT_PATH", "") if os.environ.get("DOCKER_TLS_VERIFY") else ""
        named = {"name": name, "directory": str(directory.absolute())}
        return {"kind": "docker", "url": url, "certificates": certificates, **named}
    return {"kind": "agent"} if executor.kind == "mock" else None


def fenceable(executor: Executor) -> bool:
    """Whether its work ends with its agent's lease: it can be proven stopped, and without the agent too (P3)."""
    known = isinstance(executor, ProcessExecutor) or executor.kind in {"docker", "mock"}
    return executor.fenceable and (known or hasattr(executor, "how_to_end"))


class Watching(Protocol):
    """What leases need of a watchdog; each is told at `Watchdog`."""

    ready: bool

    async def run_forever(self) -> None: ...
    async def guard(self, name: str, guarded: Guarded, *, runs: bool = False) -> str: ...
    async def release(self, name: str) -> None: ...
    async def renew(self, until_s: float, epoch: int, stop_s: float) -> bool: ...
    async def bind(self, until_s: float) -> bool: ...
    async def fenced_at_ms(self, name: str) -> int | None: ...
    def changed(self) -> asyncio.Future[None]: ...
    @property
    def found(self) -> frozenset[str]: ...


class Unwatched:
    """For an agent that runs nothing which could outlive it."""

    ready = True
    found: frozenset[str] = frozenset()

    async def run_forever(self) -> None:
        """There is nothing to do."""

    async def guard(self, _name: str, _guarded: Guarded, *, runs: bool = False) -> str:  # noqa: ARG002  the protocol's
        """It may start."""
        return ""

    async def release(self, _name: str) -> None:
        """Nothing was guarded."""

    async def renew(self, _until_s: float, _epoch: int, _stop_s: float) -> bool:
        """It counts."""
        return True

    async def bind(self, _until_s: float) -> bool:
        """It is known."""
        return True

    async def fenced_at_ms(self, _name: str) -> int | None:
        """Never."""
        return None

    def changed(self) -> asyncio.Future[None]:
        """Never done."""
        return asyncio.get_running_loop().create_future()


class Watchdog:
    """One agent's. `run_forever` is its life; what asks it may be called from then on."""

    def __init__(self, data: Path) -> None:
        """data: the agent's data directory."""
        self._data = data.absolute()
        self._guarded: dict[str, Guarded] = {}
        self._fenced: dict[str, int] = {}
        self._found: frozenset[str] = frozenset()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._released: set[str] = set()  # of which the watchdog does not know yet
        self._changed: asyncio.Future[None] | None = None
        self.ready = False
        self.pid: int | None = None

    # -- what it is told ---------------------------------------------------------------------------------------------

    async def guard(self, name: str, guarded: Guarded, *, runs: bool = False) -> str:
        """Before a start: have the attempt ended with its lease. Returns why it may not start, "" = it may.

        runs: it was started before, and is only named again. Raises NoWatchdog.
        """
        words = {"name": name, "epoch": guarded.epoch, "waits": guarded.waits, "end": guarded.end, "runs": runs}
        answer = await self._tell("guard", DURABLE_S, **words)
        if answer["ok"]:
            self._guarded[name] = guarded
        return str(answer.get("why") or "")

    async def release(self, name: str) -> None:
        """The attempt's end is on record. Where there is no watchdog now, the next one is told."""
        self._guarded.pop(name, None)
        self._fenced.pop(name, None)
        self._released.add(name)
        with contextlib.suppress(NoWatchdog):
            await self._tell("release", name=name)
            self._released.discard(name)

    async def renew(self, until_s: float, epoch: int, stop_s: float) -> bool:
        """A lease until then (CLOCK_BOOTTIME). Returns whether it counts."""
        try:
            answer = await self._tell("renew", until_s=until_s, epoch=epoch, stop_s=stop_s)
        except NoWatchdog:
            return False
        return bool(answer["ok"])

    async def bind(self, until_s: float) -> bool:
        """This agent is alone no more: what has no end ends then. Returns whether the watchdog knows."""
        try:
            answer = await self._tell("bind", DURABLE_S, until_s=until_s)
        except NoWatchdog:
            return False
        return bool(answer["ok"])

    async def fenced_at_ms(self, name: str) -> int | None:
        """When the watchdog has decided that this attempt ends; None = it has not, as far as is known."""
        with contextlib.suppress(NoWatchdog):
            await self._tell("look")  # it says what it fences before it acts, and so before it answers
        return self._fenced.get(name)

    @property
    def found(self) -> frozenset[str]:
        """What the watchdog that was taken over first had been told of by this agent's earlier processes."""
        return self._found

    def changed(self) -> asyncio.Future[None]:
        """A future that is done when `ready` is another, or something was fenced. Take it before looking."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # -- its life ----------------------------------------------------------------------------------------------------

    async def run_forever(self) -> None:
        """Have a watchdog, and another one when it is dead or stuck. Ends when cancelled; the watchdog goes on."""
        while True:
            try:
                reader = await self._take_over()
                await self._listen(reader)
                log.warning("the watchdog has gone: nothing is started until there is another", extra={"pid": self.pid})
            except (OSError, ValueError, KeyError, NoWatchdog, TimeoutError) as error:
                log.warning("no watchdog: nothing is started", extra={"error": str(error) or type(error).__name__})
                await asyncio.sleep(AGAIN_S)
            finally:
                self._lose()

    async def _take_over(self) -> asyncio.StreamReader:
        """The one that is there, or a new one. Raises OSError, NoWatchdog."""
        try:
            reader, told = await self._greet()
        except (OSError, NoWatchdog, TimeoutError, ValueError):
            self._hang_up()
            await self._end_stuck()
            await self._start()
            reader, told = await self._greet()
        if told["version"] != fence.VERSION:
            self._send({"do": "retire"})
            raise NoWatchdog(f"the watchdog {told['pid']} is of another version; it is replaced")
        self.pid = told["pid"]
        if not self._found:
            self._found = frozenset(told["guards"]) | told["fenced"].keys()
        self._fenced.update(told["fenced"])
        listening = asyncio.ensure_future(self._listen(reader))
        try:
            for name, one in list(self._guarded.items()):  # the one before may not have kept it
                await self.guard(name, one, runs=True)
            for name in list(self._released):
                await self._tell("release", name=name)
                self._released.discard(name)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        self.ready = True
        self._wake()
        log.info("watchdog", extra={"pid": self.pid, "guarded": len(told["guards"])})
        return reader

    async def _greet(self) -> tuple[asyncio.StreamReader, dict[str, Any]]:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        folder = os.open(self._data, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # a socket's path has no more than 108 bytes
            await loop.sock_connect(sock, f"/proc/self/fd/{folder}/{fence.SOCKET}")
            _check_owner(sock)
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(folder)
        reader, self._writer = await asyncio.open_unix_connection(sock=sock, limit=64 * 1024 * 1024)
        self._send({"n": 0, "do": "hello", "version": fence.VERSION})
        async with asyncio.timeout(ANSWER_S):
            told = json.loads(await reader.readline() or b"{}")
        if not told.get("ok"):
            raise NoWatchdog("the watchdog hangs up")
        return reader, told

    async def _start(self) -> None:
        """Start one. Raises OSError, NoWatchdog."""
        command = [sys.executable, "-I", "-S", "-X", "utf8", fence.__file__, str(self._data)]
        line = await asyncio.to_thread(_spawn, command)
        if line != fence.READY:
            raise NoWatchdog(f"it did not start: {' '.join(command)}; see {self._data / fence.ERROR}")

    async def _end_stuck(self) -> None:
        """SIGKILL the watchdog that holds the lock, if one does: it has not answered."""
        if (process := fence.holder(self._data)) is not None:
            log.warning("the watchdog does not answer: it is killed", extra={"pid": process[0]})
            await asyncio.to_thread(_kill, *process)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Until the watchdog hangs up."""
        while line := await reader.readline():
            message = json.loads(line)
            match message.get("event"):
                case "over":
                    self._send({"do": "here"})
                case "fenced":
                    log.warning("the watchdog ends an attempt: its lease is over", extra={"attempt": message["name"]})
                    self._fenced[message["name"]] = message["at_ms"]
                    self._wake()
                case _:
                    future = self._waiting.get(message.get("n") or 0)
                    if future is not None and not future.done():
                        future.set_result(message)

    async def _tell(self, do: str, timeout_s: float = ANSWER_S, /, **words: Any) -> dict[str, Any]:
        """Raises NoWatchdog."""
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._send({"n": number, "do": do, **words})
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            if self._writer is not None:
                self._writer.transport.abort()  # whoever listens sees the end, and has it replaced
            raise NoWatchdog(f"the watchdog has not answered in {timeout_s:g} s") from None
        finally:
            del self._waiting[number]

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is None or self._writer.is_closing():
            raise NoWatchdog("there is no watchdog now")
        self._writer.write(json.dumps(message).encode() + b"\n")

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _lose(self) -> None:
        with contextlib.suppress(NoWatchdog):
            self._send({"do": "bye"})
        self._hang_up()
        self.ready = False
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NoWatchdog("the watchdog has gone"))
        self._wake()


def _check_owner(sock: socket.socket) -> None:
    """Raises NoWatchdog where another user's program listens."""
    _pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid not in (0, os.geteuid()):
        raise NoWatchdog(f"a program of user {uid} listens where the watchdog should")


def _spawn(command: list[str]) -> bytes:
    """The first line of the watchdog, once it is ready. What is started here ends at once: its child goes on.

    Takes START_S at most. Raises OSError.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"LANG": "C.UTF-8"},  # nothing of the agent's, which may hold its keys
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        process.wait()
        ready, _, _ = select.select([output], [], [], START_S)
        return output.readline() if ready else b""


def _kill(pid: int, ticks: int) -> None:
    from executors.fence_proc import send

    send(pid, ticks, signal.SIGKILL, fence.KILL_S)

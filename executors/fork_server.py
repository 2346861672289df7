"""The warm process that supervisors are forked from, as the agent sees it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

from executors import supervisor
from executors.errors import EngineUnreachable

CLOSE_S = 10.0  # to fork for what it was given


class ForkServer:
    """Started when first needed, and anew when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Its process number, if it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def ask(self, order: bytes) -> bytes:
        """Fork a supervisor, give it `order`, return its answer; empty if it died first: then it started nothing.

        Raises EngineUnreachable if no server can be started, or one takes no more orders: it hangs.
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
        except BlockingIOError:  # those who gave up waiting have filled it
            raise EngineUnreachable("the fork server takes no orders: it hangs") from None

    def _start(self) -> None:
        self._reap()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
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
        """End the server, once it has forked for all orders that it was given, at most `CLOSE_S` later.

        Attempts go on. Orders that are with one that hangs die with it.
        """
        process, control = self._process, self._control
        self._process = self._control = None  # a start that comes meanwhile has a new one
        if control is not None:
            control.close()
        if process is not None and process.poll() is None:
            fd = os.pidfd_open(process.pid)  # not reaped yet, so it is still there
            try:
                async with asyncio.timeout(CLOSE_S):
                    await readable(fd)
            except TimeoutError:
                process.kill()
            finally:
                os.close(fd)
            await asyncio.to_thread(process.wait)

    def discard(self) -> None:
        """Kill a server that does not answer; the next start has a new one. An order that is with it dies with it."""
        if self._process is not None:
            self._process.kill()
        self._reap()


async def readable(fd: int) -> None:
    """Wait until `fd` is readable. For a pidfd: until its process has ended."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)

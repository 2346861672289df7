"""Members of a cluster in processes of their own, spoken to by one JSON line a question.

A member reads `{"do": NAME, ...}` from its standard input and answers `{"answer": ...}` or `{"failed": TEXT}`. Between
these it may say `{"event": NAME, "at_ns": CLOCK_MONOTONIC}`, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

ROOT: Final = Path(__file__).parents[2]
ANSWER_S: Final = 60.0


class MemberConfig(msgspec.Struct, frozen=True):
    """What a member is started with. addresses: HOST:PORT by id, its own with it. options: its implementation's own."""

    id: int
    data_dir: str
    addresses: dict[int, str]
    options: dict[str, Any] = {}


class MemberDied(Exception):
    """A member ended, or said no."""


def free_addresses(count: int) -> list[str]:
    """Addresses on loopback that nobody listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


class Child:
    """One member's process, as the bench sees it."""

    def __init__(self, module: str, config: MemberConfig) -> None:
        """module: run with `python -m`; it gets the config as its one argument, in JSON."""
        self.config = config
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, msgspec.json.encode(config).decode()],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(Path(config.data_dir).parent / f"member-{config.id}.err").open("ab"),
            bufsize=0,
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.events: queue.Queue[tuple[str, int]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = msgspec.json.decode(line)
            if "event" in said:
                self.events.put((said["event"], said["at_ns"]))
            else:
                self._answers.put(said)
        self._answers.put(None)

    def ask(self, do: str, timeout_s: float = ANSWER_S, **fields: Any) -> Any:
        """Have something done, and wait for the answer. Raises MemberDied."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode({"do": do, **fields}) + b"\n")
        try:
            said = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise MemberDied(f"member {self.config.id} did not answer {do} in {timeout_s} s") from None
        if said is None or "failed" in said:
            raise MemberDied(f"member {self.config.id}: {do}: {said['failed'] if said else 'it has ended'}")
        return said["answer"]

    def kill(self) -> int:
        """SIGKILL. Returns when, on the monotonic clock, in nanoseconds."""
        at_ns = time.monotonic_ns()
        self._process.kill()
        self._process.wait()
        return at_ns

    def stop(self) -> None:
        """Ask it to end; kill it where that takes too long."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


def say(line: dict[str, Any], out: TextIO = sys.stdout) -> None:
    """A member's word to the bench, in one write."""
    out.write(msgspec.json.encode(line).decode() + "\n")
    out.flush()


def serve(handlers: dict[str, Callable[..., Any]]) -> None:
    """A member's answers, for one that has a thread to wait in. Ends with its standard input."""
    for line in sys.stdin:
        asked = msgspec.json.decode(line)
        try:
            say({"answer": handlers[asked.pop("do")](**asked)})
        except Exception as error:  # told to the one who asked
            say({"failed": repr(error)})


def member_config() -> MemberConfig:
    """The config that this process was started with."""
    return msgspec.json.decode(sys.argv[1], type=MemberConfig)

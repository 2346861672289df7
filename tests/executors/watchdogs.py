"""Real watchdogs, and whoever talks to them.

The watchdog kills an agent that does not answer, and takes whoever has said hello for the agent: so `Client`, which is
the test's own process, says bye before it leaves. Where the agent is to be killed or stopped it is a `StandIn`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from executors import fence, proc
from executors.base import AttemptSpec
from executors.process import ProcessExecutor

WAIT_S = 20.0
PROGRAM = Path(fence.__file__)
EVIDENCE = "while :; do read -r now _ < /proc/uptime; echo $now >> {file}; sleep 0.02; done"  # CLOCK_BOOTTIME


def start_watchdog(directory: Path) -> int | None:
    """The number of a new watchdog that listens; None if it did not start."""
    command = [sys.executable, "-I", "-S", str(PROGRAM), str(directory)]
    started = subprocess.run(command, stdout=subprocess.PIPE, cwd="/", start_new_session=True, check=False)
    if started.stdout != fence.READY:
        return None
    return int((directory / fence.LOCK).read_text().split()[0])


def wait_gone(pid: int) -> None:
    """Return when that process has ended."""
    wait_until(lambda: proc.start_ticks(pid) is None)


def wait_until(holds: Any) -> None:
    """Look again and again; fails after `WAIT_S`."""
    until_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until_s, holds
        time.sleep(0.01)


def boottime_s() -> float:
    """CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def end_of(executor: ProcessExecutor, spec: AttemptSpec) -> dict[str, Any]:
    """What a guard of a local attempt says."""
    marks = executor._marks(spec.name, spec.directory, None)
    return {
        "kind": "process",
        "state": str(executor.state(spec.name)),
        "directory": marks.directory,
        "limit_us": marks.limit_us,
    }


class Client:
    """The test's own process as an agent."""

    def __init__(self, directory: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(WAIT_S)
        folder = os.open(directory, os.O_PATH)
        self._sock.connect(f"/proc/self/fd/{folder}/{fence.SOCKET}")
        os.close(folder)
        self._file = self._sock.makefile("rb")
        self.events: list[dict[str, Any]] = []
        self.told = self.say("hello")

    def say(self, do: str, **words: object) -> dict[str, Any]:
        """Its answer. The events before it are kept, and an "over" is answered."""
        self._send({"n": 1, "do": do, **words})
        while "event" in (message := self._receive()):
            pass
        return message

    def next_event(self) -> dict[str, Any]:
        """The next one."""
        return self._receive()

    def _send(self, message: Mapping[str, object]) -> None:
        self._sock.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self) -> dict[str, Any]:
        line = self._file.readline()
        assert line, "the watchdog has hung up"
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self.events.append(message)
            if message["event"] == "over":
                self._send({"do": "here"})
        return message

    def guard(self, name: str, end: Mapping[str, object], **words: object) -> dict[str, Any]:
        """Guard an attempt of epoch 1."""
        return self.say("guard", **{"name": name, "epoch": 1, "waits": False, "end": end, "runs": False, **words})

    def renew(self, seconds: float, *, epoch: int = 1, stop_s: float = 1.0) -> float:
        """A lease from now on; returns its end."""
        until_s = boottime_s() + seconds
        assert self.say("renew", until_s=until_s, epoch=epoch, stop_s=stop_s)["ok"]
        return until_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._send({"do": "bye"})
        self._sock.close()
        self._file.close()


class StandIn:
    """An agent that says what it is told to, and then nothing more: it can be killed, or stopped."""

    def __init__(self, directory: Path) -> None:
        """Returns once it is up, so that no lease runs out while an interpreter starts. It says nothing yet."""
        self.answers: list[dict[str, Any]] = []
        command = [sys.executable, "-m", __name__, str(directory)]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
        assert self._line() == b"up\n"

    def say(self, messages: list[Mapping[str, object]]) -> None:
        """Say this to the watchdog; to be called once. Its answers are in `answers`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(messages).encode() + b"\n")
        self._process.stdin.close()
        self.answers += [json.loads(self._line()) for _ in messages]

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the stand-in has failed"
        return line

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        """To itself alone."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """How it ended."""
        return self._process.wait(WAIT_S)

    def kill(self) -> None:
        """SIGKILL; idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


if __name__ == "__main__":
    print("up", flush=True)  # noqa: T201
    _messages = json.loads(sys.stdin.readline())
    _client = Client(Path(sys.argv[1]))
    for _message in _messages:
        print(json.dumps(_client.say(**_message)), flush=True)  # noqa: T201
    signal.pause()

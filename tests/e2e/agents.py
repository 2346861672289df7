"""Real agents as processes of their own, for tests that start, ask and kill them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.client import Client, Unreachable, path

READY_S = 30.0
PROGRAM = [sys.executable, "-m", "agent.cli.main"]
JOB = """
version: 2
name: {name}
owner: tests
behavior: {{retry: {{count: 0}}}}
task:
  name: shell
  window: {{size: 24h, offset: "0", truncate_to: d}}
  config:
    SCRIPT: |
{script}
"""


class AgentProcess:
    """One agent on a data directory. `start` may be called again after `kill` or `stop`."""

    def __init__(self, data_dir: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self.prefix: list[str] = []  # what its command is given to
        self._options = options
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it takes work."""
        (self.data_dir / "agent.json").unlink(missing_ok=True)
        command = [
            *self.prefix,
            *(*PROGRAM, "agent", "start", "--data-dir", str(self.data_dir)),
            *("--http", "127.0.0.1:0", "--bind", "127.0.0.1:0"),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options], stdout=log, stderr=log, env=self._environment, cwd=self.data_dir.parent
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Return when it takes work. Fails with its log where it ends or takes too long."""
        until_s = time.monotonic() + READY_S
        while time.monotonic() < until_s:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-4000:]
            if (self.data_dir / "agent.json").exists():
                try:
                    Client([self.url], limit_s=5.0).get("/readyz")
                except Exception:
                    pass
                else:
                    return
            time.sleep(0.02)
        raise AssertionError(f"not ready after {READY_S} s: {self.log.read_text()[-4000:]}")

    @property
    def pid(self) -> int:
        """Its process number."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it answers."""
        url: str = json.loads((self.data_dir / "agent.json").read_text())["http"]
        return url

    def client(self) -> Client:
        """A client of this agent alone."""
        return Client([self.url], "tests")

    def kill(self) -> None:
        """SIGKILL: it gets to do nothing more."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns its exit code."""
        return self._end(signal.SIGTERM)

    def wait_exit(self) -> int:
        """Its exit code, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(READY_S)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(READY_S)

    # -- what tests do again and again --------------------------------------------------------------------------------

    def apply(
        self,
        name: str,
        script: str,
        *,
        extra: str = "",
        assets: Mapping[str, str] | None = None,
        behavior: str = "retry: {count: 0}",
    ) -> None:
        """Apply a job that runs a shell script as a local process."""
        lines = "".join(f"      {line}\n" for line in script.splitlines())
        text = JOB.format(name=name, script=lines).replace("retry: {count: 0}", behavior) + extra
        spec = {"path": f"{name}/job.yaml", "yaml": text, "assets": dict(assets or {})}
        self.client().post(path("projects", "p", "namespaces", "n", "jobs"), {"specs": [spec]})

    def submit(self, name: str, key: str = "") -> str:
        """Ask for a run; returns its id."""
        run_id: str = self.client().post(path("projects", "p", "jobs", name, "runs"), {}, key=key)["run"]["id"]
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        """A run as it is."""
        run: dict[str, Any] = self.client().get(path("runs", run_id))["run"]
        return run

    def wait_final(self, run_id: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """A run, once it has ended."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            run: dict[str, Any] = self.client().get(path("runs", run_id, "wait"), timeout=5)["run"]
            if run["finished_at"] is not None:
                return run
        raise AssertionError(f"{run_id} has not ended after {timeout_s} s: {self.run(run_id)}")

    def wait_state(self, run_id: str, instance: str, states: Sequence[str]) -> None:
        """Return when an instance is in one of these states."""
        for event in self.client().events(path("runs", run_id, "events")):
            if event.name == "run":
                found = next(one for one in event.data["instances"] if one["name"] == instance)
                if found["state"] in states:
                    return
        raise AssertionError(f"{run_id}/{instance} never was {states}")

    def output(self, run_id: str, instance: str = "shell", **wanted: object) -> bytes:
        """The output of an instance's last attempt."""
        return b"".join(self.client().text(path("runs", run_id, "instances", instance, "logs"), **wanted))


def try_submit(agent: AgentProcess, name: str, key: str) -> str | None:
    """A run's id, or None where it is not known whether it was accepted."""
    try:
        return agent.submit(name, key)
    except (Unreachable, FileNotFoundError, KeyError):
        return None

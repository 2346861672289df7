"""What tests look at of local attempts: their files, and the processes that are left of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from executors import proc
from executors.base import AttemptSpec
from executors.process import ProcessExecutor, create
from executors.process_records import Record, load
from tests.executors.contract import Work, attempts_root, shell_spec


class Processes:
    """Attempts below one root. A test has them by the fixture `processes`."""

    def __init__(self, root: Path) -> None:
        """root: a directory for them."""
        self.root = root
        self.specs: list[AttemptSpec] = []

    def spec(self, script: str) -> AttemptSpec:
        """A new one."""
        self.specs.append(shell_spec(self.root, f"prime-test-{len(self.specs) + 1}", Work(script)))
        return self.specs[-1]

    @asynccontextmanager
    async def executor(self) -> AsyncIterator[ProcessExecutor]:
        """An executor of its own; attempts outlive it."""
        async with create({"attempts_root": str(self.root / "attempts")}) as executor:
            yield executor


def state_of(spec: AttemptSpec) -> Path:
    """Where the supervisor's files of a `shell_spec` are."""
    return ProcessExecutor(attempts_root(spec)).state(spec.name)


def record_of(spec: AttemptSpec) -> Record:
    """What its supervisor has written at its start."""
    record = load(Record, state_of(spec), spec.name)
    assert record is not None
    return record


def left_of(spec: AttemptSpec) -> list[int]:
    """Its processes, found as where nothing is on record of it; its supervisor included."""
    return proc.marked(ProcessExecutor(attempts_root(spec))._marks(spec.name, spec.directory, None))


def kill(pid: int) -> None:
    """SIGKILL it, where it has not ended since it was seen."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_left(spec: AttemptSpec) -> None:
    """SIGKILL what is left of it; some of these end when others do."""
    for pid in left_of(spec):
        kill(pid)

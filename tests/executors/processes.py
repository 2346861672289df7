"""What tests look at of local attempts: their files, and the processes that are left of them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from executors import proc
from executors.base import AttemptSpec
from executors.process import ProcessExecutor
from executors.process_records import Record, load
from tests.executors.contract import attempts_root


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

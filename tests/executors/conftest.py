"""Failed asserts of the shared contract say what they compared, as those of test modules do; local attempts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.executors.contract")

from tests.executors.processes import Processes, left_of  # noqa: E402 - after the line above, or it has no effect
from tests.open_files import open_files, opened_since  # noqa: E402


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Each test leaves no process and no open file behind."""
    before = open_files()
    processes = Processes(tmp_path)
    yield processes
    left = [pid for spec in processes.specs for pid in left_of(spec)]
    for pid in left:  # a test that failed must not burden those after it
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert not opened_since(before)

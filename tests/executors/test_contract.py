"""The contract, asked of the engines that need nothing from outside."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from executors.base import AttemptSpec, Executor
from executors.mock import MockEngine, MockExecutor
from executors.process import ProcessExecutor
from tests.executors.contract import (
    CapturedLogContract,
    ExecutorContract,
    ShellContract,
    Work,
    shell_release,
    shell_spec,
    shell_starts,
)
from tests.executors.processes import left_of
from tests.open_files import open_files, opened_since


class ProcessUnderTest:
    """Local processes below a temporary directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._numbers = itertools.count(1)
        self.specs: list[AttemptSpec] = []

    def executor(self) -> Executor:
        return ProcessExecutor(self._root / "attempts")

    def spec(self, work: Work) -> AttemptSpec:
        self.specs.append(shell_spec(self._root, f"prime-test-{next(self._numbers)}", work))
        return self.specs[-1]

    def starts(self, spec: AttemptSpec) -> int:
        return shell_starts(spec)

    async def release(self, spec: AttemptSpec) -> None:
        await shell_release(spec)


class MockUnderTest:
    """One engine in memory for all executors of a test."""

    def __init__(self) -> None:
        self._engine = MockEngine()
        self._numbers = itertools.count(1)

    def executor(self) -> Executor:
        return MockExecutor(self._engine)

    def spec(self, work: Work) -> AttemptSpec:
        name = f"prime-test-{next(self._numbers)}"
        nowhere = Path("/nonexistent") / name
        return AttemptSpec(name, nowhere, nowhere, environment=work.mock, labels={"prime.test": "contract"})

    def starts(self, spec: AttemptSpec) -> int:
        return self._engine.starts[spec.name]

    async def release(self, spec: AttemptSpec) -> None:
        self._engine.release(spec.name)


class TestProcess(ExecutorContract, ShellContract, CapturedLogContract):
    """Each test leaves no process and no open file behind."""

    @pytest.fixture
    def under_test(self, tmp_path: Path) -> Iterator[ProcessUnderTest]:
        before = open_files()
        under_test = ProcessUnderTest(tmp_path)
        yield under_test
        left = [pid for spec in under_test.specs for pid in left_of(spec)]
        for pid in left:  # a test that failed must not burden those after it
            os.kill(pid, signal.SIGKILL)
        assert left == []
        assert not opened_since(before)


class TestMock(ExecutorContract):
    """No shell, no segments."""

    @pytest.fixture
    def under_test(self) -> MockUnderTest:
        return MockUnderTest()

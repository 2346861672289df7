"""A process that tries mutants, each in a fork of its own: importing pytest for each would cost more than the tests do.

    python -m tests.mutants.stem        in the folder of a copy, whose `consensus` is changed between two trials

A line of JSON in is a `Trial`, a line out is a `Result`. `tests` and `consensus` are imported by the fork alone.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Iterator
from typing import Final

import hypothesis
import msgspec
import pytest

MEMORY_BYTES: Final = 2 << 30
WALL_S: Final = 1200  # then nothing is known of the mutant: the machine was too busy
PYTEST: Final = (
    *("-x", "--noconftest", "--import-mode=importlib", "-c", os.devnull, "--rootdir", "."),
    *("-W", "error", "-p", "no:cacheprovider", "-p", "no:terminal", "-o", "markers=slow"),
)


class Trial(msgspec.Struct, frozen=True):
    """What to run: test files first, then seeds of the simulator.

    hang_s: of CPU for one test or seed; more is taken for a hang. keep: write compiled files (for the original).
    """

    tests: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    hang_s: int = 60
    keep: bool = False


class Result(msgspec.Struct, frozen=True):
    """caught: the test or seed that failed first; how: "test", "simulator", "hang" or "crash"; "" = nothing did."""

    caught: tuple[str, ...] = ()
    how: str = ""
    problem: str = ""
    cpu_s: float = 0.0
    undecided: bool = False


class _First:
    """Notes where pytest is and what has failed first. A plugin."""

    def __init__(self, out: int, hang_s: int) -> None:
        self._out, self._hang_s = out, hang_s
        self.failed = self.problem = ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        os.write(self._out, f"@{_short(nodeid)}\n".encode())
        _limit_cpu(self._hang_s)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed, self.problem = _short(report.nodeid), report.longreprtext

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed, self.problem = f"import of {_short(report.nodeid)}", report.longreprtext


def _short(nodeid: str) -> str:
    return nodeid.rsplit("/", 1)[-1]


def _run_tests(trial: Trial, out: int) -> Result:
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # what fails need not be shrunk
    hypothesis.settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=phases)
    hypothesis.settings.load_profile("mutants")
    first = _First(out, trial.hang_s)
    code = pytest.main([*PYTEST, *trial.tests], plugins=[first])
    if code != pytest.ExitCode.OK and not first.failed:
        first.failed = f"pytest, exit code {code}"
    return Result((first.failed,), "test", first.problem) if first.failed else Result()


def _run_seeds(trial: Trial, out: int) -> Result:
    from tests.simulator.plan import make  # of the copy, after it was changed
    from tests.simulator.run import run

    for seed in trial.seeds:
        os.write(out, f"@seed {seed}\n".encode())
        _limit_cpu(trial.hang_s)
        outcome = run(make(seed))
        if outcome.failure is not None:
            return Result((f"seed {seed}: {outcome.kind}",), "simulator", outcome.failure)
    return Result()


def _limit_cpu(seconds: int) -> None:
    """From now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard))


def _child(trial: Trial, out: int) -> None:
    """Runs in the fork. Never returns."""
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = not trial.keep
    _limit_cpu(trial.hang_s)
    try:
        result = _run_tests(trial, out) if trial.tests else Result()
        if not result.how and trial.seeds:
            result = _run_seeds(trial, out)
    except BaseException as error:  # an import that fails, no memory: whatever it is, the original does not do it
        result = Result((f"{type(error).__name__}",), "crash", repr(error))
    os.write(out, b"=" + msgspec.json.encode(result) + b"\n")
    os._exit(0)


def _lines(pipe: int) -> Iterator[bytes]:
    """What the fork writes until it ends. Raises TimeoutError."""
    rest, end = b"", time.monotonic() + WALL_S
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, end - time.monotonic())):
                raise TimeoutError
            if not (data := os.read(pipe, 1 << 16)):
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from lines


def run_trial(trial: Trial) -> Result:
    """Fork, and wait for what comes of it."""
    pipe, out = os.pipe()
    child = os.fork()
    if not child:
        os.close(pipe)
        _child(trial, out)
    os.close(out)
    at, result = "nothing", None
    try:
        for line in _lines(pipe):
            if line.startswith(b"="):
                result = msgspec.json.decode(line[1:], type=Result)
            else:
                at = line[1:].decode()
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        result = Result(undecided=True, problem=f"not done after {WALL_S} s, in {at}")
    os.close(pipe)
    _pid, status, used = os.wait4(child, 0)
    if result is None:
        hang = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        result = Result((at,), "hang" if hang else "crash", f"status {status}")
    return msgspec.structs.replace(result, cpu_s=round(used.ru_utime + used.ru_stime, 2))


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin.buffer:
        result = run_trial(msgspec.json.decode(line, type=Trial))
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

"""An engine without processes: for tests of what stands above an executor, and for dry runs.

What an attempt does is written in its environment; nothing else decides, so the same spec always ends the same way:

    MOCK_OUTPUT, MOCK_ERRORS   text for stdout and stderr, written at the start
    MOCK_OUTPUT_AT_END         text for stdout, written at the end; not when it is stopped
    MOCK_DURATION_MS           milliseconds until it ends by itself (0); `gate`: when `MockEngine.release` is called
    MOCK_EXIT_CODE             0 .. 255 (0)
    MOCK_TERM_EXIT_CODE        exit code after SIGTERM (143); `ignore`: it lasts until SIGKILL
    MOCK_START_ERROR           the start fails: `image`, `executor_error` or `unreachable`
"""

# ruff: noqa: ARG001, ARG002  the contract's signatures: an engine in memory needs no directory and no configuration
from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from executors.base import AttemptSpec, LogLine, Outcome, Started, Stream
from executors.errors import EngineUnreachable, ExecutorError, ImageError, StartRefused, StateLost

_START_ERRORS = {"image": ImageError, "executor_error": ExecutorError, "unreachable": EngineUnreachable}
_KILLED, _TERMINATED = 128 + signal.SIGKILL, 128 + signal.SIGTERM


@dataclass(slots=True)
class _Attempt:
    spec: AttemptSpec
    started_at_ms: int
    lines: list[LogLine] = field(default_factory=list)
    outcome: Outcome | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # replaced at each change: new lines, or its end
    timer: asyncio.TimerHandle | None = None


class MockEngine:
    """What a real engine would hold. Hand it to another MockExecutor to act an agent's restart.

    starts: how often the work of each name really began. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self.starts: Counter[str] = Counter()
        self._attempts: dict[str, _Attempt] = {}
        self._never: dict[str, str] = {}  # what was stopped before its start, or came too late: why it never starts
        self._time_ns = 0

    def start(self, spec: AttemptSpec) -> Started:
        """See `Executor.start`."""
        attempt = self._attempts.get(spec.name)
        if attempt is None:
            self._check(spec)
            attempt = self._attempts[spec.name] = _Attempt(spec, self._now_ns() // 10**6)
            self.starts[spec.name] += 1
            self._write(attempt, Stream.STDOUT, spec.environment.get("MOCK_OUTPUT", ""))
            self._write(attempt, Stream.STDERR, spec.environment.get("MOCK_ERRORS", ""))
            duration = spec.environment.get("MOCK_DURATION_MS", "0")
            if duration == "0":
                self.release(spec.name)
            elif duration != "gate":
                attempt.timer = asyncio.get_running_loop().call_later(float(duration) / 1000, self.release, spec.name)
        return Started(spec.name, attempt.started_at_ms)

    def _check(self, spec: AttemptSpec) -> None:
        if time.clock_gettime(time.CLOCK_BOOTTIME) > spec.not_after_s:
            why = f"the start came after its not-after ({spec.not_after_s:.3f} s after boot)"
            self._never.setdefault(spec.name, why)
        if spec.name in self._never:
            raise StartRefused(f"{spec.name}: {self._never[spec.name]}")
        error = spec.environment.get("MOCK_START_ERROR")
        if error is not None:
            raise _START_ERRORS[error](f"{spec.name}: {' '.join(spec.command)}: MOCK_START_ERROR={error}")

    def release(self, name: str) -> None:
        """Let a running attempt end by itself, now. Does nothing if it has ended."""
        attempt = self._get(name)
        if attempt.outcome is None:
            self._write(attempt, Stream.STDOUT, attempt.spec.environment.get("MOCK_OUTPUT_AT_END", ""))
            self._end(attempt, int(attempt.spec.environment.get("MOCK_EXIT_CODE", "0")))

    async def stop(self, name: str, grace_s: float) -> None:
        """See `Executor.stop`."""
        attempt = self._attempts.get(name)
        if attempt is None:
            self._never.setdefault(name, "a stop was asked for before the start")
        elif attempt.outcome is None:
            code = attempt.spec.environment.get("MOCK_TERM_EXIT_CODE", str(_TERMINATED))
            if code != "ignore":
                self._end(attempt, int(code))
                return
            try:
                async with asyncio.timeout(grace_s):
                    await self.ended(name)
            except TimeoutError:
                if attempt.outcome is None:  # another stop may have had less patience
                    self._end(attempt, _KILLED)

    async def ended(self, name: str) -> Outcome:
        """See `Executor.wait`."""
        attempt = self._get(name)
        while attempt.outcome is None:
            await attempt.changed.wait()
        return attempt.outcome

    async def logs(self, name: str, since_ns: int, *, follow: bool) -> AsyncIterator[LogLine]:
        """See `Executor.logs`."""
        attempt = self._get(name)
        at = 0
        while True:
            changed, last = attempt.changed, not follow or attempt.outcome is not None
            for line in attempt.lines[at:]:
                at += 1
                if line.time_ns >= since_ns:
                    yield line
            if last and at == len(attempt.lines):
                return
            if not last:
                await changed.wait()

    def find(self, name: str) -> Started | None:
        """See `Executor.attach`."""
        attempt = self._attempts.get(name)
        return None if attempt is None else Started(name, attempt.started_at_ms)

    def remove(self, name: str) -> None:
        """See `Executor.remove`."""
        attempt = self._attempts.get(name)
        if attempt is not None and attempt.outcome is None:
            raise ExecutorError(f"{name} is running; stop it before it is removed")
        self._attempts.pop(name, None)

    def names(self, labels: Mapping[str, str]) -> frozenset[str]:
        """See `Executor.list_names`."""
        return frozenset(
            name for name, attempt in self._attempts.items() if labels.items() <= dict(attempt.spec.labels).items()
        )

    def _get(self, name: str) -> _Attempt:
        attempt = self._attempts.get(name)
        if attempt is None:
            raise StateLost(f"{name}: there was no start of it")
        return attempt

    def _now_ns(self) -> int:
        self._time_ns = max(self._time_ns + 1, time.time_ns())  # each line has its own time, as from a real engine
        return self._time_ns

    def _write(self, attempt: _Attempt, stream: Stream, text: str) -> None:
        pieces = text.encode().splitlines(keepends=True)
        attempt.lines += (
            LogLine(self._now_ns(), stream, piece.removesuffix(b"\n"), partial=not piece.endswith(b"\n"))
            for piece in pieces
        )
        self._wake(attempt)

    def _end(self, attempt: _Attempt, code: int) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.outcome = Outcome(
            exit_code=code,
            reason="exit_code" if code else None,
            started_at_ms=attempt.started_at_ms,
            finished_at_ms=self._now_ns() // 10**6,
        )
        self._wake(attempt)

    def _wake(self, attempt: _Attempt) -> None:
        changed, attempt.changed = attempt.changed, asyncio.Event()
        changed.set()


class MockExecutor:
    """`executors.base.Executor` over a MockEngine, its own if none is given. Directories are not touched."""

    kind = "mock"
    fenceable = True
    captures_logs = False
    start_window_s = 10.0
    absence_is_proof = True  # a start is over before anything else can ask

    def __init__(self, engine: MockEngine | None = None) -> None:
        self.engine = engine or MockEngine()

    async def open(self) -> None:
        """Nothing to connect to."""

    async def fetch(self, spec: AttemptSpec) -> None:
        """There is nothing to get."""

    async def start(self, spec: AttemptSpec) -> Started:
        """See `Executor.start`."""
        return self.engine.start(spec)

    async def attach(self, name: str, directory: Path) -> Started | None:
        """See `Executor.attach`."""
        return self.engine.find(name)

    async def wait(self, name: str, directory: Path) -> Outcome:
        """See `Executor.wait`. Raises StateLost where there was never a start."""
        return await self.engine.ended(name)

    async def stop(self, name: str, directory: Path, grace_s: float) -> None:
        """See `Executor.stop`. An attempt that was never started never will be."""
        await self.engine.stop(name, grace_s)

    def logs(self, name: str, directory: Path, since_ns: int = 0, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """See `Executor.logs`. Raises StateLost where there was never a start."""
        return self.engine.logs(name, since_ns, follow=follow)

    async def remove(self, name: str, directory: Path) -> None:
        """See `Executor.remove`. Raises ExecutorError while it runs."""
        self.engine.remove(name)

    async def list_names(self, labels: Mapping[str, str]) -> frozenset[str]:
        """See `Executor.list_names`."""
        return self.engine.names(labels)

    async def callback_host(self) -> str | None:
        """See `Executor.callback_host`."""
        return None

    async def close(self) -> None:
        """Running attempts go on in the engine."""


def create(config: Mapping[str, str]) -> MockExecutor:
    """The entry point. It takes no configuration."""
    return MockExecutor()

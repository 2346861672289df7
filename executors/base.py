"""The contract between the agent and an engine that runs attempts.

An executor returns values and calls nobody back; the worker decides what they mean. Everything is keyed by the
attempt's deterministic name, so that an agent that was killed finds its work again by asking for it (P3).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Stream(StrEnum):
    """Where a log line was written."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One record of output.

    time_ns: nanoseconds since the epoch, when it was read from the task.
    partial: the line goes on in the next record of this stream (it was longer than a record may be).
    """

    time_ns: int
    stream: Stream
    data: bytes
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one attempt. cpu_cores: a number of cores; memory_bytes: bytes. None = no limit."""

    cpu_cores: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptSpec:
    """One try of one instance, ready to be started.

    name: deterministic and unique for ever; engines use it as the container's name.
    directory: the attempt's own folder, holding `in/` and `out/`; a container finds it at `/data` (and `out/` at
        `/airflow/xcom` too), a process gets it as JOB_DIR and as its working directory.
    log_directory: where this attempt's segments are.
    command: argument vector; empty = the image's own command.
    entrypoint: replaces the image's entry point; None = leave it.
    not_after_s: CLOCK_BOOTTIME in seconds; the engine refuses a start after it (StartRefused).
    stop_grace_s: seconds between SIGTERM and SIGKILL.
    network: the container network to join; None = the engine's default.
    """

    name: str
    directory: Path
    log_directory: Path
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    image: str | None = None
    pull: str = "missing"  # missing | always | never
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    not_after_s: float = float("inf")
    stop_grace_s: float = 10.0
    log_limit_bytes: int = 256 * 1024 * 1024
    network: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    exit_code: the process's; 128 + n where signal n ended it; None where there was never one.
    reason: None for success; else one of the run table's reasons: exit_code, oom, image, executor_error, agent_lost.
    facts: what is worth keeping, such as {"image_digest": "sha256:..."}.
    """

    exit_code: int | None
    reason: str | None
    message: str = ""
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        """True if the work ran and ended well."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Started:
    """That an attempt runs or has run. started_at_ms: milliseconds since the epoch."""

    name: str
    started_at_ms: int
    facts: Mapping[str, str] = field(default_factory=dict)


class Executor(Protocol):
    """An engine. All methods may be called again after a crash of the agent.

    The attempt's name alone says which is meant: a stray is stopped and removed by it, whatever directory is given.
    """

    kind: str  # "process", "docker", ...
    fenceable: bool  # can its work be proven stopped, without its agent too? False: what is lost is `unknown`
    captures_logs: bool  # True: it fills AttemptSpec.log_directory; False: the worker copies `logs()` there
    start_window_s: float  # how long a start may take, fetching an image included: not_after_s lies so far off
    absence_is_proof: bool  # True: what `attach` does not find can never start; False: only once not_after_s is over

    async def open(self) -> None:
        """Connect. Raises EngineUnreachable where no engine answers."""

    async def fetch(self, spec: AttemptSpec) -> None:
        """Get what a start needs and takes long to come, such as an image: no lease has to last for that.

        Nothing of the attempt is made; `start` may be called without it. Raises ImageError, Unsettled, ExecutorError.
        """

    async def start(self, spec: AttemptSpec) -> Started:
        """Start `spec` unless an attempt of that name exists already, in which case it is only found again.

        Raises StartRefused, ImageError, Unsettled, ExecutorError. After any of them but Unsettled the attempt does not
        run, and never will; after that one it may run or not.
        """

    async def attach(self, name: str, directory: Path) -> Started | None:
        """Find an attempt started earlier. None = it has not started and, once not_after_s is over, never will.

        Raises Unsettled; StateLost where it may run and the engine cannot tell any more how it goes.
        """

    async def wait(self, name: str, directory: Path) -> Outcome:
        """Return when the attempt has ended, its output captured. May be called many times, also long after.

        Raises Unsettled; StateLost where it cannot be told any more whether and how it ended.
        """

    async def stop(self, name: str, directory: Path, grace_s: float) -> None:
        """SIGTERM, after grace_s seconds SIGKILL, to all its processes. Returns when they are gone. Idempotent.

        What has not started never will. Where the engine's state of the attempt is lost, all that is left of the
        attempt is killed: so after a StateLost this is what proves it ended (P3). Raises Unsettled.
        """

    def logs(self, name: str, directory: Path, since_ns: int = 0, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """Lines later than or at since_ns; with follow, until the attempt has ended and everything was read."""

    async def remove(self, name: str, directory: Path) -> None:
        """Forget the attempt in the engine (container, pid files). Logs stay. Idempotent."""

    async def list_names(self, labels: Mapping[str, str]) -> frozenset[str]:
        """Names of all attempts the engine knows that carry these labels, running or ended."""

    async def callback_host(self) -> str | None:
        """The address by which attempts reach this host; None where it is not known. Raises EngineUnreachable."""

    async def close(self) -> None:
        """Let go of connections and threads. Running attempts go on."""

"""The rows of the run table and their words (ARCHITECTURE.md, "One idea").

Rows are msgspec structs in array form: what is in memory is what is in a snapshot, and a field added at the end with a
default reads old snapshots. They are mutable, and `apply.py` is the only module that mutates them.

Times are milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec


class RunState(StrEnum):
    """What a run is."""

    QUEUED = "queued"  # accepted; nothing of it was handed to an agent yet
    RUNNING = "running"  # at least one attempt was handed to an agent
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    UPSTREAM_FAILED = "upstream_failed"


class InstanceState(StrEnum):
    """What the task or one hook of a run is. `transitions.py` says which may follow which."""

    PENDING = "pending"  # waits for the instances before it
    SCHEDULED = "scheduled"  # may start: waits for a slot, or is assigned and not known to have started
    RUNNING = "running"  # its agent said that it started
    UP_FOR_RETRY = "up_for_retry"  # failed, and waits for its next try: a row with a deadline (P10)
    UNKNOWN = "unknown"  # its agent is lost and the work could not be proven stopped
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    UPSTREAM_FAILED = "upstream_failed"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    """What one try on one agent is."""

    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why something failed or was stopped."""

    EXIT_CODE = "exit_code"
    TIMEOUT = "timeout"
    OOM = "oom"
    AGENT_LOST = "agent_lost"
    QUEUE_TIMEOUT = "queue_timeout"
    EXECUTOR_ERROR = "executor_error"
    IMAGE = "image"
    CANCELLED = "cancelled"
    FENCED = "fenced"
    MARKED = "marked"  # an operator decided the result


class Origin(StrEnum):
    """What asked for a run."""

    MANUAL = "manual"
    SCHEDULE = "schedule"
    PIPELINE = "pipeline"
    REPLAY = "replay"
    TEST = "test"


class InstanceKind(StrEnum):
    """The place of an instance in its run."""

    PRE = "pre"
    TASK = "task"
    POST = "post"
    FAIL = "fail"


RUN_FINAL = frozenset(
    {RunState.SUCCESS, RunState.FAILED, RunState.CANCELLED, RunState.SKIPPED, RunState.UPSTREAM_FAILED}
)
INSTANCE_FINAL = frozenset(
    {
        InstanceState.SUCCESS,
        InstanceState.FAILED,
        InstanceState.SKIPPED,
        InstanceState.UPSTREAM_FAILED,
        InstanceState.CANCELLED,
    }
)
ATTEMPT_OPEN = frozenset({AttemptState.ASSIGNED, AttemptState.RUNNING})

MAX_ATTEMPTS = 100  # of one instance: an attempt that keeps killing its agent must not fill the table (P12)


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # bounded, so that sums of what was committed still encode
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Row(msgspec.Struct, array_like=True, gc=False):
    """Base of all rows: compact in memory and on disk, and never part of a reference cycle."""


class FrozenRow(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Base of the rows that are replaced, never changed."""


class RetryPolicy(FrozenRow, frozen=True):
    """count: retries after the first try. Delays in seconds; exponential doubles them, see `backoff.py`."""

    count: Count = 0
    delay_s: Seconds = 300.0
    exponential: bool = False
    max_delay_s: Seconds | None = None


class InstancePlan(FrozenRow, frozen=True):
    """What a run shall do for one instance; fixed when the run is accepted.

    after: names of the instances that come before it.
    plugin: the name the user wrote; `name` differs from it only where a hook is called like the task.
    """

    name: str
    kind: InstanceKind
    plugin: str
    after: tuple[str, ...] = ()
    executor: str = "docker"
    retry: RetryPolicy = RetryPolicy()
    timeout_ms: Count | None = None


class Attempt(Row):
    """One try of an instance on one agent.

    seq: the highest number of the owner's journal that was applied; anything not above it is a repetition.
    stop_wanted: set once and never unset; the worker stops the work and says how it ended.
    counts: whether its failure uses up a retry (a lost agent's does not).
    """

    number: int
    agent: str
    epoch: int
    assigned_at_ms: int
    state: AttemptState = AttemptState.ASSIGNED
    seq: int = 0
    stop_wanted: Reason | None = None
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    exit_code: int | None = None
    reason: Reason | None = None
    message: str = ""
    compiled: str | None = None
    facts: dict[str, str] = {}
    counts: bool = True

    @property
    def open(self) -> bool:
        """Whether the work may still be there."""
        return self.state in ATTEMPT_OPEN


class Instance(Row):
    """The task or one hook of a run.

    since_ms: when it came into its present state.  due_ms: the deadline of that state, None where it has none.
    mark: the final state an operator wants once the running work is stopped.
    clears: how many attempts had been made when an operator cleared it last; retries count from there.
    """

    plan: InstancePlan
    state: InstanceState = InstanceState.PENDING
    since_ms: int = 0
    due_ms: int | None = None
    reason: Reason | None = None
    message: str = ""
    attempts: list[Attempt] = []
    mark: InstanceState | None = None
    clears: int = 0

    @property
    def final(self) -> bool:
        """Whether it has ended (P4)."""
        return self.state in INSTANCE_FINAL

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def open_attempt(self) -> Attempt | None:
        """The attempt whose work may still be there; there is at most one (P3)."""
        last = self.last
        return last if last is not None and last.open else None


class Audit(FrozenRow, frozen=True):
    """Who did what to a run, when and through which agent."""

    at_ms: int
    who: str
    via: str
    what: str


class Run(Row):
    """One execution of a job. `bundle` is the hash of the blob that holds all it needs to compile."""

    id: str
    project: str
    namespace: str
    job: str
    scheduled_at_ms: int
    origin: Origin
    requested_by: str
    via: str
    bundle: str
    created_at_ms: int
    deadline_ms: int
    timeout_ms: int
    queue_timeout_ms: int
    instances: list[Instance]
    state: RunState = RunState.QUEUED
    reason: Reason | None = None
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    cancelled_by: str | None = None
    audit: list[Audit] = []

    def instance(self, name: str) -> Instance | None:
        """The instance of that name."""
        for instance in self.instances:
            if instance.plan.name == name:
                return instance
        return None

    @property
    def final(self) -> bool:
        """Whether it has ended (P4)."""
        return self.state in RUN_FINAL

    @property
    def ending(self) -> bool:
        """Whether it was cancelled or its time is over: nothing new starts, and no retry is made."""
        return self.cancelled_by is not None or self.reason is Reason.TIMEOUT


class FinishedRow(FrozenRow, frozen=True):
    """What stays of a finished run in the table, for deduplication, look-back and clear."""

    project: str
    job: str
    scheduled_at_ms: int
    origin: Origin
    state: RunState
    index: int
    finished_at_ms: int


class Request(FrozenRow, frozen=True):
    """A request that was answered, so that its repetition gets the same run (P2)."""

    body_hash: str
    run_id: str
    keep_ms: int


class Agent(Row):
    """One agent of the cluster. epoch: counts its losses and returns."""

    id: str
    epoch: int
    address: str
    http: str
    slots: Count
    executors: tuple[str, ...]
    version: str
    lost: bool = False


class Namespace(FrozenRow, frozen=True):
    """A namespace of a project; its values override the project's."""

    config: dict[str, str] = {}
    variables: dict[str, str] = {}


class Project(Row):
    """What a project folder's optimus.yaml says. presets: {name: window fields}."""

    config: dict[str, str] = {}
    variables: dict[str, str] = {}
    presets: dict[str, dict[str, str]] = {}
    namespaces: dict[str, Namespace] = {}


class Job(FrozenRow, frozen=True):
    """An applied job: `spec` is the hash of its blob (JobSpec and asset hashes); the rest is for listings."""

    namespace: str
    spec: str
    owner: str
    description: str
    interval: str
    task: str
    updated_at_ms: int


class Plugin(FrozenRow, frozen=True):
    """A plugin's own text, as its author wrote it."""

    yaml: str
    updated_at_ms: int


class Secret(FrozenRow, frozen=True):
    """An encrypted value; the keyring on each agent opens it, the table never does."""

    ciphertext: bytes
    updated_at_ms: int


class Limits(FrozenRow, frozen=True):
    """What the table may hold (P12). Sizes in bytes of encoded rows, counted in `apply`."""

    runs_max: Count = 10_000
    bytes_max: Count = 256 * 1024 * 1024
    finished_max: Count = 200_000
    finished_keep_ms: Count = 365 * 86_400_000
    request_keep_ms: Count = 86_400_000


class TableImage(Row):
    """What a snapshot holds: every row, and nothing that can be derived from rows."""

    index: int = 0
    time_ms: int = 0
    cluster: str = ""
    generation: int = 1
    limits: Limits = Limits()
    agents: dict[str, Agent] = {}
    projects: dict[str, Project] = {}
    plugins: dict[str, dict[str, Plugin]] = {}
    jobs: dict[str, dict[str, Job]] = {}
    secrets: dict[str, Secret] = {}
    runs: dict[str, Run] = {}
    finished: dict[str, FinishedRow] = {}
    requests: dict[str, Request] = {}
    ticks: dict[str, str] = {}
    high_water: dict[str, int] = {}


def secret_key(project: str, namespace: str, name: str) -> str:
    """The key of a secret in the table; namespace "" = the whole project's."""
    return f"{project}/{namespace}/{name}"


def tick_key(project: str, job: str, scheduled_at_ms: int, origin: Origin) -> str:
    """The key by which ticks deduplicate (P2)."""
    return f"{project}/{job}/{scheduled_at_ms}/{origin}"

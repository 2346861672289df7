"""The rows of the run table and their words (ARCHITECTURE.md, "One idea").

Rows are msgspec structs in array form: what is in memory is what is in a snapshot (`image.py`), and a field added at
the end with a default reads old snapshots. `apply.py` is the only module that changes them: a `FrozenRow` is replaced;
what is changed in place, a `Row`, has its size counted again after it (`Table.size`).

Times are milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from agent.runtable.audit import Audit as Audit
from agent.runtable.bounds import Count as Count
from agent.runtable.bounds import Level as Level
from agent.runtable.bounds import Seconds as Seconds
from agent.runtable.bounds import Weight as Weight
from agent.runtable.gate_rows import Gate as Gate
from agent.runtable.gate_rows import GateState
from agent.runtable.gate_rows import TriggerRule as TriggerRule
from agent.runtable.notice_rows import Event, Wanted
from agent.runtable.replay_rows import Replay


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
    SKIPPED = "skipped"  # its exit code says that there was nothing to do


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
    EXTERNAL = "external"  # reported: another scheduler ran it (`importing.py`)


class OnAgentLost(StrEnum):
    """What a job wants of an attempt whose agent is lost; `lifecycle.lose` carries it out."""

    RERUN = "rerun"  # a new attempt at once, which uses up no retry: the work was stopped before the loss was declared
    FAIL = "fail"  # the instance has failed, without retry
    WAIT = "wait"  # the work runs on, the instance is unknown: the agent, an operator or the run's time-out ends it


class Overlap(StrEnum):
    """What becomes of a run that finds as many of its job as there may be (`limits.py`)."""

    ALLOW = "allow"  # it begins all the same
    QUEUE = "queue"  # it waits for a place, behind those that were accepted before it
    SKIP = "skip"  # it ends at once, skipped
    CANCEL_PREVIOUS = "cancel_previous"  # older ones are cancelled, and it waits until they have ended (P3)


class InstanceKind(StrEnum):
    """The place of an instance in its run."""

    SETUP = "setup"
    PRE = "pre"
    TASK = "task"
    POST = "post"
    FAIL = "fail"
    TEARDOWN = "teardown"


SIDE_KINDS = frozenset({InstanceKind.FAIL, InstanceKind.TEARDOWN})  # how they end changes nothing of their run's result

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


class Row(msgspec.Struct, array_like=True, gc=False):
    """Base of the rows that are changed in place: compact in memory and on disk, never part of a reference cycle."""


class FrozenRow(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Base of the rows that are replaced, never changed."""


class RetryRule(FrozenRow, frozen=True):
    """What one exit code leads to. retry: whether it is tried again at all. delay_s: None = the policy's own delay."""

    exit_code: int
    retry: bool
    delay_s: Seconds | None = None


class RetryPolicy(FrozenRow, frozen=True):
    """count: retries after the first try. Delays in seconds; exponential doubles them, see `backoff.py`.

    rules: for single exit codes; the first that fits counts.
    """

    count: Count = 0
    delay_s: Seconds = 300.0
    exponential: bool = False
    max_delay_s: Seconds | None = None
    rules: tuple[RetryRule, ...] = ()

    def rule(self, exit_code: int | None) -> RetryRule | None:
        """What is said of an exit code."""
        return next((rule for rule in self.rules if rule.exit_code == exit_code), None)


class InstancePlan(FrozenRow, frozen=True):
    """What a run shall do for one instance; fixed when the run is accepted.

    after: names of the instances that come before it.
    plugin: the name the user wrote; `name` differs from it only where a hook is called like the task.
    constraints: (label, value), sorted: what an agent must have to be given the instance.
    trigger_rule: over the states of `after`. Fail hooks have a rule of their own, see `lifecycle.py`.
    allow_failure: its failure counts as a success for all the rest.  skip_exit_codes: they end it skipped.
    pool: the project's pool of which an attempt takes `pool_slots`, "" = none.
    priority_weight: the highest goes first among what waits (`planner.py`).
    """

    name: str
    kind: InstanceKind
    plugin: str
    after: tuple[str, ...] = ()
    executor: str = "docker"
    retry: RetryPolicy = RetryPolicy()
    timeout_ms: Count | None = None
    on_agent_lost: OnAgentLost = OnAgentLost.RERUN
    constraints: tuple[tuple[str, str], ...] = ()
    trigger_rule: TriggerRule = TriggerRule.ALL_SUCCESS
    allow_failure: bool = False
    skip_exit_codes: tuple[int, ...] = ()
    pool: str = ""
    pool_slots: Count = 1
    priority_weight: Weight = 1


class Attempt(Row):
    """One try of an instance on one agent.

    seq: the highest number of the owner's journal that was applied; anything not above it is a repetition.
    stop_wanted: set once and never unset; the worker stops the work and says how it ended.
    counts: whether its failure uses up a retry (a lost agent's does not).
    unproven: it was given up at a deadline, and its work may go on: nobody has said that it has ended.
    fenceable: its executor's work ends with its agent's lease (`Agent.unfenceable`, as it was given out).
    outputs: hash of the blob with what it has put out for later instances; of a success alone.
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
    unproven: bool = False
    fenceable: bool = True
    outputs: str | None = None

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

    @property
    def outlives_loss(self) -> bool:
        """Whether the work of its newest attempt may go on when its agent is lost: by choice, or none can end it."""
        last = self.last
        return self.plan.on_agent_lost is OnAgentLost.WAIT or (last is not None and not last.fenceable)

    @property
    def outputs(self) -> str | None:
        """The hash of its outputs, which count while it has succeeded; a clear takes them away until it ran again."""
        last = self.last if self.state is InstanceState.SUCCESS and len(self.attempts) > self.clears else None
        return last.outputs if last is not None else None

    @property
    def unproven(self) -> bool:
        """Whether work may go on of an attempt since its last clear, which was given up at a deadline."""
        return any(attempt.unproven for attempt in self.attempts[self.clears :])


class Run(Row):
    """One execution of a job. `bundle` is the hash of the blob that holds all it needs to compile.

    deadline_ms: the end of its time, which begins when its gates are open; 0 = it has not begun.
    replay: the one that has made it, "" = none.
    teardown_until_ms: until when the teardown of a run that is being ended is spared; None = as long as it takes (no
    longer than the run's time), 0 = it is ended with the rest.
    max_active, overlap: the limits of its job as it was accepted with them, 0 = none.
    held: it waits for its place among the runs of its job, at most until `deadline_ms`; its own time has not begun.
    gates: what it waits for before any of its instances.  pipeline: the one it belongs to, "" = none.
    wants: what it is to tell of; missed: those of them that need no waiting any more (`sla.py`); alarmed: its failure
    was told, and its success has not been since.
    """

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
    teardown_until_ms: Count | None = None
    max_active: Count = 0
    overlap: Overlap = Overlap.ALLOW
    held: bool = False
    gates: list[Gate] = []
    pipeline: str = ""
    replay: str = ""
    wants: tuple[Wanted, ...] = ()
    missed: tuple[Count, ...] = ()
    alarmed: bool = False

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
    def begun(self) -> bool:
        """Whether it waits for nothing outside of it any more: its instances are decided, its time runs."""
        return self.deadline_ms > 0 and not self.held

    @property
    def shut_by(self) -> Gate | None:
        """The gate that ends it: one that has failed before one that skips."""
        shut = [gate for gate in self.gates if gate.state in {GateState.FAILED, GateState.SKIPPED}]
        return min(shut, key=lambda gate: gate.state is GateState.SKIPPED, default=None)

    @property
    def ending(self) -> bool:
        """Whether it was cancelled or its time is over: nothing new starts, and no retry is made."""
        return self.cancelled_by is not None or self.reason is Reason.TIMEOUT

    @property
    def end_due_ms(self) -> int | None:
        """When time ends what of it has not ended; None where time has done so, or its time has not begun."""
        due_ms = self.deadline_ms if self.reason is not Reason.TIMEOUT else self.teardown_until_ms
        return due_ms or None

    def spares(self, instance: Instance) -> bool:
        """Whether an instance goes on although the run is being ended: a teardown removes what the rest has made."""
        return instance.plan.kind is InstanceKind.TEARDOWN and self.teardown_until_ms != 0


class FinishedRow(FrozenRow, frozen=True):
    """What stays of a finished run in the table, for deduplication, look-back and clear."""

    project: str
    job: str
    scheduled_at_ms: int
    origin: Origin
    state: RunState
    index: int
    finished_at_ms: int
    pipeline: str = ""
    replay: str = ""


class Request(FrozenRow, frozen=True):
    """A request that was answered, so that its repetition gets the same run (P2)."""

    body_hash: str
    run_id: str
    keep_ms: int


class Agent(Row):
    """One agent of the cluster.

    epoch: counts its losses and returns, from 1.  slots: how many attempts it takes at a time.
    level: the highest feature level of commands that its program knows (`commands.LEVELS`).
    lost, lost_at_ms: it was declared lost, and when; it is given nothing until it returns, with the next epoch.
    node: its number among the members of the log, 0 = not known.  labels: what `constraints` are compared with.
    draining: it is given nothing more, and what it has goes on to its end.
    unfenceable: of `executors` those whose work nobody else can end, so that a loss proves nothing of it.
    """

    id: str
    epoch: int
    address: str
    http: str
    slots: Count
    executors: tuple[str, ...]
    version: str
    lost: bool = False
    node: Count = 0
    labels: dict[str, str] = {}
    draining: bool = False
    lost_at_ms: int | None = None
    level: Level = 1
    unfenceable: tuple[str, ...] = ()


class Removed(FrozenRow, frozen=True):
    """What is kept of an agent that was removed: its id and its node's number never return."""

    node: Count
    at_ms: int


class Namespace(FrozenRow, frozen=True):
    """A namespace of a project; its values override the project's."""

    config: dict[str, str] = {}
    variables: dict[str, str] = {}


class Project(Row):
    """What a project folder's optimus.yaml says.

    presets: {name: window fields}.  pools: of its config, {name: slots}.
    """

    config: dict[str, str] = {}
    variables: dict[str, str] = {}
    presets: dict[str, dict[str, str]] = {}
    namespaces: dict[str, Namespace] = {}
    pools: dict[str, Count] = {}


class DependencyKind(StrEnum):
    """What a job depends on."""

    JOB = "job"
    HTTP = "http"


class Dependency(FrozenRow, frozen=True):
    """What a job depends on. project, name: of the job; of an http dependency the name alone."""

    kind: DependencyKind
    project: str
    name: str


class Job(FrozenRow, frozen=True):
    """An applied job: `spec` is the hash of its blob (JobSpec and asset hashes); the rest is for listings.

    dependencies: those of its spec, so that circles are found wherever jobs are applied (`dependencies.py`).
    """

    namespace: str
    spec: str
    owner: str
    description: str
    interval: str
    task: str
    updated_at_ms: int
    dependencies: tuple[Dependency, ...] = ()


class Plugin(FrozenRow, frozen=True):
    """A plugin's own text, as its author wrote it."""

    yaml: str
    updated_at_ms: int


class Secret(FrozenRow, frozen=True):
    """An encrypted value; the keyring on each agent opens it, the table never does."""

    ciphertext: bytes
    updated_at_ms: int


class Role(StrEnum):
    """What the bearer of a token may do."""

    VIEWER = "viewer"  # read
    USER = "user"  # and change projects, jobs, secrets, runs
    ADMIN = "admin"  # and the cluster and its tokens


class Token(FrozenRow, frozen=True):
    """Who may ask. digest: SHA-256 of the token, hexadecimal; the token itself is nowhere.

    last: its last characters, by which its owner knows it. expires_at_ms: None = it is good until it is deleted.
    """

    role: Role
    digest: str
    last: str
    created_at_ms: Count
    created_by: str
    expires_at_ms: Count | None = None


class Limits(FrozenRow, frozen=True):
    """What the table may hold (P12). Sizes in bytes of encoded rows, counted in `apply`.

    held_max: how many runs of one job may wait for their place.  replay_percent: what replays may take of all slots.
    """

    runs_max: Count = 10_000
    bytes_max: Count = 256 * 1024 * 1024
    finished_max: Count = 200_000
    finished_keep_ms: Count = 365 * 86_400_000
    request_keep_ms: Count = 86_400_000
    agents_max: Count = 1_000
    removed_max: Count = 10_000
    requests_max: Count = 500_000
    held_max: Count = 1_000
    replay_percent: Count = 50


class LeaseTerms(FrozenRow, frozen=True):
    """How long an agent may let its attempts run unheard, and how long it takes until they are known to be stopped.

    ttl_ms: of a lease.  stop_ms: from the lease's end, or the request to stop, to the kill.  kill_ms: what detection,
    the engine and the death take.  rho_permille: how much faster or slower than time a clock may go.
    """

    ttl_ms: Annotated[int, msgspec.Meta(ge=1, le=86_400_000)] = 10_000
    stop_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 3_000
    kill_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 2_000
    rho_permille: Annotated[int, msgspec.Meta(ge=0, le=500)] = 10

    @property
    def margin_ms(self) -> int:
        """How long after the ttl a lost agent's work is stopped for certain, in milliseconds by the leader's clock.

        ttl * ((1+rho)/(1-rho) - 1) + (1+rho)/(1-rho) * (stop+kill), rounded up: the agent's clock may be slow and the
        leader's fast.
        """
        slow, fast = 1000 - self.rho_permille, 1000 + self.rho_permille
        return -(-((fast - slow) * self.ttl_ms + fast * (self.stop_ms + self.kill_ms)) // slow)

    @property
    def loss_ms(self) -> int:
        """How long an agent must have been unheard before it is lost: ttl + margin, in milliseconds."""
        return self.ttl_ms + self.margin_ms


class Leases(FrozenRow, frozen=True):
    """The terms in force. before: the longest that leases granted earlier may have, which bind to before_until_ms."""

    terms: LeaseTerms = LeaseTerms()
    before: LeaseTerms | None = None
    before_until_ms: int = 0

    def loss_ms(self, now_ms: int) -> int:
        """How long an agent must have been unheard at `now_ms` before it is lost, by the longer of what binds."""
        if self.before is None or now_ms >= self.before_until_ms:
            return self.terms.loss_ms
        return max(self.terms.loss_ms, self.before.loss_ms)


class TableImage(Row):
    """What a snapshot holds: every row, and nothing that can be derived from rows.

    hold_ms: a leader assigns nothing before it has led for so long: the table is that of a recovered or restored
    cluster, and agents which are no members any more may still run work (P3). The first assignment ends it.
    level: every agent knows commands up to this feature level, lost ones too. It never falls: the log may hold them.
    events: what is not delivered yet, oldest first; given_up: the newest of what never will be, events_given_up of all.
    """

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
    removed: dict[str, Removed] = {}
    leases: Leases = Leases()
    tokens: dict[str, Token] = {}
    hold_ms: Count = 0
    level: Level = 1
    replays: dict[str, Replay] = {}
    events: dict[str, Event] = {}
    given_up: dict[str, Event] = {}
    events_given_up: Count = 0


def secret_key(project: str, namespace: str, name: str) -> str:
    """The key of a secret in the table; namespace "" = the whole project's."""
    return f"{project}/{namespace}/{name}"


def tick_key(project: str, job: str, scheduled_at_ms: int, source: str) -> str:
    """The key by which ticks deduplicate (P2). source: the origin of the run, or the id of the replay that made it."""
    return f"{project}/{job}/{scheduled_at_ms}/{source}"

"""Every body and query of the HTTP face, as typed values: what is checked is what the OpenAPI document says.

Times are RFC 3339 with a zone. Unknown keys are refused, so a misspelt one is noticed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from agent.runtable.model import Origin, Role, RunState

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=220)]
Config = dict[str, str]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of what clients send."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what clients get."""


# -- errors ------------------------------------------------------------------------------------------------------------


class ProblemView(View, frozen=True):
    """One thing that is wrong in a text that was sent."""

    file: str
    line: int
    column: int
    key: str
    message: str
    severity: str


class ProblemDetails(View, frozen=True):
    """RFC 9457. code: stable, for programs; problems: what is wrong in the texts that were sent."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    problems: list[ProblemView] = []
    retry_after: float | None = None


# -- projects, plugins, jobs, secrets ----------------------------------------------------------------------------------


class SpecFile(Request, frozen=True):
    """A YAML text and where it lies in its author's folder."""

    path: str
    yaml: str


class JobSpecFile(Request, frozen=True):
    """A job: its text, its assets (path: base64), the `this.yaml`s above it, nearest first."""

    path: str
    yaml: str
    assets: dict[str, bytes] = {}
    parents: list[SpecFile] = []


class JobsBody(Request, frozen=True):
    """Jobs to apply: all of them or none."""

    specs: Annotated[list[JobSpecFile], msgspec.Meta(max_length=10_000)]


class PluginsBody(Request, frozen=True):
    """Plugins to apply: all of them or none."""

    plugins: Annotated[list[SpecFile], msgspec.Meta(max_length=1000)]


class NamespaceBody(Request, frozen=True):
    """A namespace; its values override the project's."""

    config: Config = {}
    variables: Config = {}


class PresetBody(Request, frozen=True, omit_defaults=True):
    """A window that jobs name."""

    size: str = ""
    shift_by: str = ""
    truncate_to: str = ""
    location: str = ""
    offset: str = ""


class ProjectBody(Request, frozen=True):
    """A project; what is left out stays as it is."""

    config: Config | None = None
    variables: Config | None = None
    presets: dict[str, PresetBody] | None = None
    namespaces: dict[str, NamespaceBody] | None = None


class SecretBody(Request, frozen=True):
    """A secret's value. namespace: "" = the whole project's."""

    value: str
    namespace: str = ""


class AppliedView(View, frozen=True):
    """What was applied. index: for `min_index` of a later read."""

    index: int
    names: list[str] = []
    warnings: list[ProblemView] = []
    notes: list[str] = []


class JobsAppliedView(AppliedView, frozen=True):
    """Which jobs were applied."""

    jobs: list[str] = []


class ProjectView(View, frozen=True):
    """A project as it is applied."""

    name: str
    config: Config
    variables: Config
    presets: dict[str, Config]
    namespaces: dict[str, NamespaceBody]


class ProjectsView(View, frozen=True):
    """All projects."""

    projects: list[ProjectView]


class JobView(View, frozen=True):
    """An applied job, for a listing."""

    name: str
    project: str
    namespace: str
    owner: str
    description: str
    interval: str
    task: str
    updated_at: datetime


class JobsView(View, frozen=True):
    """Jobs by name."""

    jobs: list[JobView]


class JobDetailView(View, frozen=True):
    """The whole of an applied job: its effective spec, the hashes of its assets, and the spec as YAML."""

    job: JobView
    spec: dict[str, Any]
    assets: dict[str, str]
    yaml: str


class PluginView(View, frozen=True):
    """A plugin that jobs of the project can name."""

    name: str
    kind: str
    hook_type: str | None
    description: str
    executor: str
    image: str
    built_in: bool


class PluginsView(View, frozen=True):
    """Plugins by name."""

    plugins: list[PluginView]


class SecretView(View, frozen=True):
    """That a secret exists; its value is never shown."""

    name: str
    namespace: str
    updated_at: datetime


class SecretsView(View, frozen=True):
    """Names of secrets."""

    secrets: list[SecretView]


# -- runs --------------------------------------------------------------------------------------------------------------


class RunBody(Request, frozen=True):
    """What a run is asked for with. config overrides values of the task's config; params: values of the job's own.

    check_dependencies: it waits for what its job depends on.
    """

    scheduled_at: Moment | None = None
    params: dict[str, Any] = {}
    config: Config = {}
    check_dependencies: bool = False


class FileRunBody(Request, frozen=True):
    """A run of a job that was never applied."""

    spec: JobSpecFile
    scheduled_at: Moment | None = None
    params: dict[str, Any] = {}
    config: Config = {}


class CancelBody(Request, frozen=True):
    """assume_stopped: work on lost agents, which nobody could prove stopped, has ended. So also below.

    teardown: end its teardown hooks too, which run otherwise.
    """

    assume_stopped: bool = False
    teardown: bool = False


class RetryBody(Request, frozen=True):
    """only_failed: leave what has succeeded as it is; downstream: with what waits for it in its pipeline."""

    only_failed: bool = True
    assume_stopped: bool = False
    downstream: bool = False


class ClearBody(Request, frozen=True):
    """instances: by name, none = all; task: the task among them; downstream: with what comes after them.

    only_failed: of all these those that failed, were cancelled, or did not start for it.
    """

    instances: list[str] = []
    downstream: bool = False
    assume_stopped: bool = False
    task: bool = False
    only_failed: bool = False


class MarkBody(Request, frozen=True):
    """A result by hand: `success` or `failed`. instance: null = every unfinished one."""

    state: Literal["success", "failed"]
    instance: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    assume_stopped: bool = False


class ReportBody(Request, frozen=True):
    """How another scheduler's run of a job for a tick has ended."""

    scheduled_at: Moment
    state: Literal["success", "failed", "skipped"]


class AttemptView(View, frozen=True):
    """One try of an instance. facts: what its executor knows of it, such as the image's digest.

    outputs: the SHA-256 of what it has put out (`GET .../outputs` has it); null = nothing.
    """

    number: int
    agent: str
    state: str
    exit_code: int | None
    reason: str | None
    message: str
    started_at: datetime | None
    finished_at: datetime | None
    stop_wanted: str | None
    facts: dict[str, str]
    outputs: str | None


class InstanceView(View, frozen=True):
    """The task or a hook of a run.

    provisional: what its agent says of the last attempt and is not agreed on yet: running, success or failed.
    """

    name: str
    type: str
    hook_type: str | None
    state: str
    reason: str | None
    message: str
    executor: str
    since: datetime
    until: datetime | None
    attempts: list[AttemptView]
    provisional: str | None = None


class AuditView(View, frozen=True):
    """Who did what to a run. via: the agent that was asked; address: the client's, "" = not known."""

    at: datetime
    who: str
    via: str
    what: str
    address: str


class GateView(View, frozen=True):
    """What a run waits for before any of its instances. state: waiting, open, failed, skipped."""

    kind: str
    what: str
    state: str
    since: datetime
    until: datetime | None


class RunView(View, frozen=True):
    """One execution of a job. deadline_at: null while it waits for its gates; pipeline, replay: null = of none."""

    id: str
    project: str
    namespace: str
    job: str
    scheduled_at: datetime
    origin: str
    requested_by: str
    via: str
    state: str
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    cancelled_by: str | None
    instances: list[InstanceView]
    audit: list[AuditView]
    pipeline: str | None = None
    gates: list[GateView] = []
    replay: str | None = None


class MetaView(View, frozen=True):
    """How fresh an answer is (P6). age_ms: since this agent last applied something or heard of its leader."""

    agent: str
    leader: str | None
    applied_index: int
    age_ms: int


class RunAnswer(View, frozen=True):
    """A run."""

    run: RunView
    meta: MetaView


class RunDetailAnswer(RunAnswer, frozen=True):
    """A run with the values of its parameters; null = they cannot be told now, or not any more."""

    params: dict[str, Any] | None


class AcceptedAnswer(View, frozen=True):
    """A run that was accepted or changed. duplicate: the same request was answered before, with this run."""

    run: RunView
    index: int
    duplicate: bool = False
    notes: list[str] = []


class RunsAnswer(View, frozen=True):
    """Runs, newest first. incomplete: this agent knows that it lacks some that have ended, which others may have.

    notes: why there are none, where that is for a name that nobody knows.
    """

    runs: list[RunView]
    next_cursor: str | None
    meta: MetaView
    incomplete: bool = False
    notes: list[str] = []


class RunEndEvent(View, frozen=True):
    """The run has ended."""

    state: str


class LogLineEvent(View, frozen=True, omit_defaults=True):
    """A record of output. partial: the line goes on in the stream's next one; base64: its bytes where not UTF-8."""

    time: str
    stream: str
    text: str
    partial: bool
    base64: str | None = None


class LogGapEvent(View, frozen=True):
    """Output is missing here."""

    missing_segments: int
    damaged_bytes: int


class ArchivedView(View, frozen=True):
    """outputs: on the agent's disk; backlog: of them, those that have to be archived yet; error: of the last try."""

    agent: str
    configured: bool
    outputs: int
    backlog: int
    error: str | None


class LogEndEvent(View, frozen=True):
    """All was given. attempt: None where none was made."""

    attempt: int | None
    state: str
    exit_code: int | None
    reason: str | None


class AssetsView(View, frozen=True):
    """What exactly was rendered for an attempt, secrets as `***`. An asset is null where it is no text.

    left_out: the assets that read outputs of an instance which comes later, and why.
    """

    instance: str
    attempt: int
    window: dict[str, str]
    envs: Config
    secrets: Config
    assets: dict[str, str | None]
    params: dict[str, Any] = {}
    left_out: dict[str, str] = {}


class OutputsView(View, frozen=True):
    """What an attempt has put out for later instances of its run. note: what of it was not taken, and why."""

    instance: str
    attempt: int
    outputs: dict[str, Any]
    note: str


class OutputsAnswer(View, frozen=True):
    """What the instances of a run have put out, in their order."""

    outputs: list[OutputsView]


class AssetsAnswer(View, frozen=True):
    """What was rendered, by instance."""

    assets: list[AssetsView]


class ExplanationView(View, frozen=True):
    """Why an instance is where it is (P11)."""

    instance: str
    state: str
    why: str
    since: datetime
    until: datetime | None


class AwaitedView(View, frozen=True):
    """A run or a tick that a run waits for. state: of the run; missing: there is none for the tick yet."""

    job: str
    run: str | None
    scheduled_at: datetime | None
    state: str


class GateExplanationView(GateView, frozen=True):
    """Why a gate is open or not. count: of what it waits for; awaited: of these at most 1000, the open ones first."""

    why: str
    count: int
    awaited: list[AwaitedView]


class ExplainAnswer(View, frozen=True):
    """Why a run is where it is. gates: what it waits for before its instances."""

    run: RunView
    explanations: list[ExplanationView]
    gates: list[GateExplanationView] = []


class ChangeView(View, frozen=True):
    """One fact that differs."""

    what: str
    before: Any
    after: Any


class DiffAnswer(View, frozen=True):
    """What differs between two runs. texts: unified diffs of the spec, of rendered assets and of the ends of outputs.

    untold: what could not be compared, and why: it is not there any more, or cannot be asked for now.
    """

    run: str
    against: str
    changes: list[ChangeView]
    texts: dict[str, str]
    untold: dict[str, str]


# -- queries -----------------------------------------------------------------------------------------------------------


class NoQuery(Request, frozen=True):
    """No parameters."""


class ReadQuery(Request, frozen=True):
    """min_index: wait until this agent has applied so much; consistent: the answer is linearizable."""

    min_index: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    consistent: bool = False


class JobsQuery(ReadQuery, frozen=True):
    """namespace: only that one's."""

    namespace: str | None = None


class SecretQuery(Request, frozen=True):
    """namespace: "" = the whole project's secret."""

    namespace: str = ""


class RunsQuery(ReadQuery, frozen=True):
    """Which runs. since, until: of their creation. replay: made by that one."""

    project: str | None = None
    namespace: str | None = None
    job: str | None = None
    state: RunState | None = None
    origin: Origin | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    cursor: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    replay: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class AssetsQuery(ReadQuery, frozen=True):
    """instance: None = all; attempt: None = the last."""

    instance: str | None = None
    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None = None


class DiffQuery(ReadQuery, frozen=True):
    """against: None = the run of the same job before it."""

    against: str | None = None


class WaitQuery(ReadQuery, frozen=True):
    """timeout: seconds; the run is given as it is then."""

    timeout: Annotated[float, msgspec.Meta(ge=0, le=300)] = 30


class LogsQuery(ReadQuery, frozen=True):
    """Which lines. attempt: None = the last; stream: None = both; since: time; tail: the last so many records."""

    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None = None
    stream: Literal["stdout", "stderr"] | None = None
    since: Moment | None = None
    tail: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    follow: bool = False
    timestamps: bool = False


# -- the cluster -------------------------------------------------------------------------------------------------------


class AgentView(View, frozen=True):
    """One agent. match: the log index it has; lag: entries behind the leader.

    role: leader, follower (they vote), standby (it has the log and no vote), joining. state: alive, draining, silent
    (the leader does not hear it), lost (its work can be given to others), unknown (no leader is there to tell; of the
    agent that answers it is alive). level: the highest feature level it knows.
    clock_ahead: seconds by which its host's clock is ahead of the voters' median, null = not known.
    """

    id: str
    address: str
    role: str
    state: str
    epoch: int
    match: int
    lag: int
    version: str
    level: int
    clock_ahead: float | None
    http: str
    slots: int
    running: int
    executors: list[str]
    labels: dict[str, str]


class DrainBody(Request, frozen=True):
    """on: give it nothing more; false = give it something again."""

    on: bool = True


class TransferBody(Request, frozen=True):
    """to: the id of the agent that is to lead."""

    to: str


class LeaseTermsView(View, frozen=True):
    """Seconds: of a lease, from its end to the kill, for a kill to act. rho: how far a clock may be off."""

    ttl: float
    stop: float
    kill: float
    rho: float


class LeasesBody(Request, frozen=True):
    """As `LeaseTermsView`; what is left out stays as it is."""

    ttl: Annotated[float, msgspec.Meta(ge=0.5, le=3600)] | None = None
    stop: Annotated[float, msgspec.Meta(ge=0, le=600)] | None = None
    kill: Annotated[float, msgspec.Meta(ge=0, le=600)] | None = None
    rho: Annotated[float, msgspec.Meta(ge=0, le=0.2)] | None = None


class MirrorView(View, frozen=True):
    """The database. behind: finished runs it lacks; error: why the last write failed."""

    behind: int | None
    error: str | None


class ClusterAnswer(View, frozen=True):
    """The cluster as this agent sees it. level: of features; every agent knows it."""

    cluster: str
    generation: int
    leader: str | None
    term: int
    level: int
    agents: list[AgentView]
    leases: LeaseTermsView
    mirror: MirrorView | None
    meta: MetaView


class TokenBody(Request, frozen=True):
    """expires_in: seconds, null = it is good until it is deleted."""

    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    role: Role
    expires_in: Annotated[float, msgspec.Meta(ge=1, le=10 * 366 * 86_400)] | None = None


class NewTokenAnswer(View, frozen=True):
    """token: is told this once."""

    token: str
    name: str
    role: Role
    index: int


class TokenView(View, frozen=True):
    """last: the end of the token, by which its owner knows it."""

    name: str
    role: Role
    last: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    expired: bool


class TokensAnswer(View, frozen=True):
    """By name."""

    tokens: list[TokenView]


class StatusAnswer(View, frozen=True):
    """Alive or ready; reason: why not."""

    status: str
    reason: str | None = None

"""The tree of a job, as values: what `agent.spec.job` reads from `job.yaml` and what a run's bundle keeps as JSON.

Only `str int float bool None tuple dict[str, str]`, dataclasses and `StrEnum` occur, so msgspec encodes and decodes it
without help. Durations are seconds, in fields named `*_s`; dates are `YYYY-MM-DD`. The keys of the YAML are the fields'
names without the unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

RUN_TIMEOUT_S: Final = 72 * 3600.0
QUEUE_TIMEOUT_S: Final = 24 * 3600.0
DEPENDENCY_TIMEOUT_S: Final = 15 * 3600.0
RETRY_COUNT: Final = 3
"""Retries where a `retry` block is given without a count, as Optimus compiles it; without a block there is none."""
RETRY_DELAY_S: Final = 300.0


class HookType(StrEnum):
    """When a hook runs."""

    SETUP = "setup"
    PRE = "pre"
    POST = "post"
    TEARDOWN = "teardown"
    FAIL = "fail"


class TriggerRule(StrEnum):
    """Airflow's rules: which states of what stands before let an instance start."""

    ALL_SUCCESS = "all_success"
    ALL_FAILED = "all_failed"
    ALL_DONE = "all_done"
    ALL_DONE_MIN_ONE_SUCCESS = "all_done_min_one_success"
    ALL_DONE_SETUP_SUCCESS = "all_done_setup_success"
    ALL_SKIPPED = "all_skipped"
    ALWAYS = "always"
    NONE_FAILED = "none_failed"
    NONE_FAILED_MIN_ONE_SUCCESS = "none_failed_min_one_success"
    NONE_SKIPPED = "none_skipped"
    ONE_DONE = "one_done"
    ONE_FAILED = "one_failed"
    ONE_SUCCESS = "one_success"


class OnAgentLost(StrEnum):
    """What a lost attempt leads to."""

    RERUN = "rerun"
    FAIL = "fail"
    WAIT = "wait"


class Overlap(StrEnum):
    """What happens to a run of a job that has as many as it may."""

    ALLOW = "allow"
    QUEUE = "queue"
    SKIP = "skip"
    CANCEL_PREVIOUS = "cancel_previous"


class RetryAction(StrEnum):
    """What an exit code leads to."""

    RETRY = "retry"
    FAIL = "fail"


class DependencyType(StrEnum):
    """Where what is depended on lives: in this project, in another one, outside of prime."""

    INTRA = "intra"
    INTER = "inter"
    EXTRA = "extra"


class OnFailure(StrEnum):
    """What a failed upstream does to the run that depends on it."""

    WAIT = "wait"
    FAIL = "fail"
    SKIP = "skip"


class ParamType(StrEnum):
    """JSON Schema's scalar types."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    """When the job runs by itself; an empty interval means never."""

    start_date: str = ""
    end_date: str = ""
    interval: str = ""
    location: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """What one exit code leads to; without a delay the block's own applies."""

    exit_code: int
    action: RetryAction
    delay_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySpec:
    """How often and how soon a failed instance is tried again."""

    # Always dumped: what these mean when absent depends on whether there is a block.
    count: int = field(default=0, metadata={"always": True})
    delay_s: float = field(default=RETRY_DELAY_S, metadata={"always": True})
    exponential_backoff: bool = False
    max_delay_s: float | None = None
    rules: tuple[RetryRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySpec:
    """Whom to tell of an event; a channel is `scheme://name`."""

    on: str
    config: dict[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    severity: str = ""
    team: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """Where a webhook is sent."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSpec:
    """The endpoints that an event is sent to."""

    on: str
    endpoints: tuple[EndpointSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BehaviorSpec:
    """How runs of the job behave. keep_logs_s: how long agents keep their output, None = as the project says."""

    depends_on_past: bool = False
    catch_up: bool = False
    retry: RetrySpec = field(default_factory=RetrySpec)
    timeout_s: float = RUN_TIMEOUT_S
    queue_timeout_s: float = QUEUE_TIMEOUT_S
    on_agent_lost: OnAgentLost = OnAgentLost.RERUN
    max_active_runs: int | None = None
    overlap: Overlap | None = None
    notify: tuple[NotifySpec, ...] = ()
    webhook: tuple[WebhookSpec, ...] = ()
    keep_logs_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """The data a run stands for, as written; which fields mean something depends on the job's version.

    Versions 1 and 2: `size offset truncate_to`. Version 3: `size shift_by truncate_to location`, or `preset` alone.
    """

    size: str = ""
    offset: str = ""
    shift_by: str = ""
    truncate_to: str = ""
    location: str = ""
    preset: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlaMissAlert:
    """Tell when an instance takes longer than a threshold, given or learned."""

    duration_threshold_s: float | None = None
    auto_threshold: bool = False
    severity: str = ""
    team: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSpec:
    """What an instance is watched for."""

    sla_miss: tuple[SlaMissAlert, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """The job's task: which plugin, with which configuration, over which window."""

    name: str
    version: str = ""
    config: dict[str, str] = field(default_factory=dict)
    window: WindowSpec | None = None
    executor: str = ""
    timeout_s: float | None = None
    allow_failure: bool = False
    skip_exit_code: tuple[int, ...] = ()
    alert: AlertSpec = field(default_factory=AlertSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSpec:
    """A hook of the job; its type and order come from the plugin unless `hooktype` says otherwise."""

    name: str
    version: str = ""
    config: dict[str, str] = field(default_factory=dict)
    hooktype: HookType | None = None
    executor: str = ""
    timeout_s: float | None = None
    trigger_rule: TriggerRule | None = None
    allow_failure: bool = False
    skip_exit_code: tuple[int, ...] = ()
    alert: AlertSpec = field(default_factory=AlertSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDependencySpec:
    """A request that must be answered with 2xx before the job runs."""

    name: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencySpec:
    """What must have succeeded before the job runs: a job (`name` or `project/name`) or an HTTP request."""

    type: DependencyType
    job: str = ""
    http: HttpDependencySpec | None = None
    trigger_rule: TriggerRule = TriggerRule.ALL_SUCCESS
    on_failure: OnFailure = OnFailure.WAIT
    timeout_s: float = DEPENDENCY_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantitySpec:
    """Kubernetes quantities, as written: `cpu` in cores (`250m`, `1.5`), `memory` in bytes (`512Mi`)."""

    cpu: str = ""
    memory: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSpec:
    """What an instance is given at least (`request`) and at most (`limit`)."""

    request: QuantitySpec = field(default_factory=QuantitySpec)
    limit: QuantitySpec = field(default_factory=QuantitySpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSpec:
    """Where and when instances are placed; `constraints` are labels that an agent must have."""

    pool: str = ""
    pool_slots: int = 1
    priority_weight: int = 1
    queue: str = ""
    constraints: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TolerationSpec:
    """A Kubernetes toleration."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSpec:
    """What a pod of the job is made with."""

    namespace: str = ""
    service_account: str = ""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[TolerationSpec, ...] = ()
    image_pull_secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataSpec:
    """How and where instances run. `metadata.airflow` is read into `scheduler`."""

    resource: ResourceSpec = field(default_factory=ResourceSpec)
    scheduler: SchedulerSpec = field(default_factory=SchedulerSpec)
    kubernetes: KubernetesSpec = field(default_factory=KubernetesSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamSpec:
    """A parameter that a run may be given; without a default it must be. The default keeps its source text."""

    type: ParamType = ParamType.STRING
    default: str | None = None
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job: a task with its hooks, when it runs and how."""

    version: int
    name: str
    owner: str
    description: str = ""
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    behavior: BehaviorSpec = field(default_factory=BehaviorSpec)
    task: TaskSpec
    hooks: tuple[HookSpec, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    dependencies: tuple[DependencySpec, ...] = ()
    metadata: MetadataSpec = field(default_factory=MetadataSpec)
    params: dict[str, ParamSpec] = field(default_factory=dict)

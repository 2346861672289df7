"""`job.yaml`: text in, a `JobSpec` and all problems out; and back.

`parse_job` reads a job with the `this.yaml` files above it. Every key of Optimus and of prime is checked, whether this
version acts on it or not; `NO_EFFECT_YET` is the one list of those it does not act on yet. The tree itself is in
`agent.spec.jobspec`; what needs plugins or presets to be judged is in `agent.spec.check`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

from agent.spec import cron, params
from agent.spec.document import Problems, compose, shorten
from agent.spec.dump import dump_job
from agent.spec.errors import Position, Problem
from agent.spec.inherit import inherit
from agent.spec.instance import CHARACTERS, VERSIONS, read_hook, read_location, read_task
from agent.spec.jobspec import (
    DEPENDENCY_TIMEOUT_S,
    QUEUE_TIMEOUT_S,
    RETRY_COUNT,
    RETRY_DELAY_S,
    RUN_TIMEOUT_S,
    BehaviorSpec,
    DependencySpec,
    DependencyType,
    EndpointSpec,
    HookType,
    HttpDependencySpec,
    JobSpec,
    KubernetesSpec,
    MetadataSpec,
    NotifySpec,
    OnAgentLost,
    OnFailure,
    Overlap,
    ParamSpec,
    ParamType,
    QuantitySpec,
    ResourceSpec,
    RetryAction,
    RetryRule,
    RetrySpec,
    SchedulerSpec,
    ScheduleSpec,
    TolerationSpec,
    TriggerRule,
    WebhookSpec,
    WindowSpec,
)
from agent.spec.reader import Reader, Reading

__all__ = ["NO_EFFECT_YET", "HookType", "JobSpec", "ParsedJob", "TriggerRule", "WindowSpec", "dump_job", "parse_job"]

_LATER = "has no effect yet in this version"
NO_EFFECT_YET: Final = ("metadata.kubernetes",)
"""Keys that are read and checked but change nothing until a later version. A version that
makes one work deletes its line."""

# What Optimus knows and prime never acts on.
_IGNORED = {"asset": "has no effect; assets are the files in the folder `assets` beside the job"}
_NOTES: Final = {**dict.fromkeys(NO_EFFECT_YET, _LATER), **_IGNORED}

# Keys that users put at the top, where Optimus ignores them without a word.
_MOVED = {
    "catch_up": "behavior.catch_up",
    "config": "task.config",
    "depends_on_past": "behavior.depends_on_past",
    "end_date": "schedule.end_date",
    "executor": "task.executor",
    "interval": "schedule.interval",
    "notify": "behavior.notify",
    "resource": "metadata.resource",
    "retry": "behavior.retry",
    "start_date": "schedule.start_date",
    "timeout": "behavior.timeout",
    "webhook": "behavior.webhook",
    "window": "task.window",
}

JOB_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-.]{2,219}")
_JOB_EXPECTED = f"a name of 3 to 220 {CHARACTERS},"
_JOB_REFERENCE = re.compile(rf"([a-zA-Z0-9][a-zA-Z0-9_\-.]*/)?{JOB_NAME.pattern}")
_PARAM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EVENT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_URL = re.compile(r"(https?://|\{\{).*", re.DOTALL)
_CHANNEL = re.compile(r"[a-z][a-z0-9+.\-]*://.+", re.DOTALL)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# The quantities of Kubernetes that make sense here: no negative ones, no exponents.
_CPU = re.compile(r"[0-9]+(\.[0-9]+)?m?")
_MEMORY = re.compile(r"[0-9]+(\.[0-9]+)?(k|[MGTPE]|[KMGTPE]i)?")
_RETRIES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class ParsedJob:
    """What `parse_job` made of a text. `job` is None exactly where there is an error among the problems.

    `positions` has the place of every value that was read, by its path (`hooks[1].name`): later checks point with it.
    """

    job: JobSpec | None
    problems: tuple[Problem, ...]
    positions: Mapping[str, Position] = field(default_factory=dict)


def parse_job(text: str, file: str, parents: Sequence[tuple[str, str]] = ()) -> ParsedJob:
    """Read a job.

    Arguments: `text` of the `job.yaml`; `file`, the name that problems carry; `parents`, (file, text) of the
    `this.yaml` files in the same and the folders above, nearest first. Raises nothing: what is wrong is in the answer.
    """
    problems = Problems()
    reading = Reading(problems, _NOTES)
    node = inherit(compose(text, file, problems), parents, problems)
    reader = Reader.of_document(node, file, reading)
    job = _job(reader)
    return ParsedJob(None if problems.refused else job, problems.listed(), reading.positions)


def _job(reader: Reader) -> JobSpec:
    version = _version(reader)
    job = JobSpec(
        version=version,
        name=reader.required("name", _JOB_EXPECTED, pattern=JOB_NAME),
        owner=reader.required("owner", "who answers for the job"),
        description=reader.string("description", ""),
        schedule=_schedule(reader.child("schedule")),
        behavior=_behavior(reader.child("behavior")),
        task=read_task(reader.child("task"), version),
        hooks=tuple(read_hook(hook) for hook in reader.children("hooks")),
        labels=reader.string_map("labels"),
        dependencies=tuple(_dependency(dependency) for dependency in reader.children("dependencies")),
        metadata=_metadata(reader.child("metadata")),
        params=_params(reader),
    )
    reader.find("asset")
    reader.close(_MOVED)
    return job


def _version(reader: Reader) -> int:
    if not reader.has("version"):
        reader.missing("version", "1, 2 or 3 selects the rules of the window; new jobs take 3")
    return reader.integer("version", 0, minimum=VERSIONS[0], maximum=VERSIONS[-1])


# --- schedule ------------------------------------------------------------------------------------------------------


def _schedule(reader: Reader) -> ScheduleSpec:
    start, end = _date(reader, "start_date"), _date(reader, "end_date")
    location = read_location(reader, "location", "UTC")
    interval = reader.string("interval", "").strip()
    if interval and not reader.has("start_date"):
        reader.missing("start_date", "a job with an interval needs one, as YYYY-MM-DD")
    if start and end and end <= start:
        reader.problem("end_date", f"the end {end} must be after the start {start}")
    if interval and location:
        # Without a date any will do: only the expression is judged here.
        day = start or date(2000, 1, 1)
        begin = datetime(day.year, day.month, day.day, tzinfo=cron.load_location(location))
        try:
            cron.parse(interval, location=location, start=begin)
        except ValueError as error:
            reader.problem("interval", str(error))
    reader.close()
    return ScheduleSpec(
        start_date=start.isoformat() if start else "",
        end_date=end.isoformat() if end else "",
        interval=interval,
        location=location,
    )


def _date(reader: Reader, key: str) -> date | None:
    text = reader.string(key, "", pattern=_DATE, expected="a date as YYYY-MM-DD")
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        reader.problem(key, f"{text} is not a date: {error}")
        return None


# --- behaviour -------------------------------------------------------------------------------------------------------


def _behavior(reader: Reader) -> BehaviorSpec:
    behavior = BehaviorSpec(
        depends_on_past=reader.boolean("depends_on_past", False),
        catch_up=reader.boolean("catch_up", False),
        retry=_retry(reader),
        timeout_s=reader.duration("timeout", RUN_TIMEOUT_S),
        queue_timeout_s=reader.duration("queue_timeout", QUEUE_TIMEOUT_S),
        on_agent_lost=reader.choice("on_agent_lost", OnAgentLost, OnAgentLost.RERUN),
        max_active_runs=reader.integer("max_active_runs", None, minimum=1),
        overlap=reader.choice("overlap", Overlap, None),
        notify=tuple(_notify(item) for item in reader.children("notify")),
        webhook=tuple(_webhook(item) for item in reader.children("webhook")),
        keep_logs_s=reader.duration("keep_logs", None),
    )
    reader.close()
    return behavior


def _retry(behavior: Reader) -> RetrySpec:
    reader = behavior.child("retry")
    if not behavior.has("retry"):
        return RetrySpec()
    retry = RetrySpec(
        count=reader.integer("count", RETRY_COUNT, maximum=_RETRIES_MAX),
        delay_s=reader.duration("delay", RETRY_DELAY_S, allow_zero=True),
        exponential_backoff=reader.boolean("exponential_backoff", False),
        max_delay_s=reader.duration("max_delay", None),
        rules=_retry_rules(reader),
    )
    reader.close()
    return retry


def _retry_rules(retry: Reader) -> tuple[RetryRule, ...]:
    rules: dict[int, RetryRule] = {}
    for reader in retry.children("rules"):
        exit_code = reader.integer("exit_code", None, minimum=1, maximum=255)
        action = reader.choice("action", RetryAction, None)
        delay_s = reader.duration("delay", None, allow_zero=True)
        for key in ("exit_code", "action"):
            if not reader.has(key):
                reader.missing(key, "a rule is an exit_code and an action")
        if exit_code in rules:
            reader.problem("exit_code", f"there is a rule for exit code {exit_code} already")
        if exit_code is not None and action is not None:
            rules.setdefault(exit_code, RetryRule(exit_code=exit_code, action=action, delay_s=delay_s))
        reader.close()
    return tuple(rules.values())


def _notify(reader: Reader) -> NotifySpec:
    notify = NotifySpec(
        on=reader.required("on", "an event such as failure or sla_miss", pattern=_EVENT),
        config=reader.string_map("config"),
        channels=reader.strings("channels"),
        severity=reader.string("severity", ""),
        team=reader.string("team", ""),
    )
    for channel in notify.channels:
        if not _CHANNEL.fullmatch(channel):
            message = f"{shorten(channel)} is not a channel; slack://#name or pagerduty://#name is one"
            reader.problem("channels", message)
    if "duration" in notify.config:
        reader.child("config").duration("duration", None)
    reader.close()
    return notify


def _webhook(reader: Reader) -> WebhookSpec:
    on = reader.required("on", "an event such as failure or job_success", pattern=_EVENT)
    endpoints = []
    for endpoint in reader.children("endpoints"):
        url = endpoint.required("url", "an http:// or https:// address", pattern=_URL)
        endpoints.append(EndpointSpec(url=url, headers=endpoint.string_map("headers")))
        endpoint.close()
    reader.close()
    return WebhookSpec(on=on, endpoints=tuple(endpoints))


# --- dependencies -------------------------------------------------------------------------------------------------


def _dependency(reader: Reader) -> DependencySpec:
    job = reader.string("job", "", pattern=_JOB_REFERENCE, expected="a job's name, or project/name,")
    http = _http(reader) if reader.has("http") else None
    if reader.has("job") is reader.has("http"):
        reader.problem("", "a dependency is either a `job` or an `http` request")
    implied = DependencyType.EXTRA if http else DependencyType.INTER if "/" in job else DependencyType.INTRA
    kind = reader.choice("type", DependencyType, implied)
    if (kind is DependencyType.EXTRA) is not (http is not None) and reader.has("type"):
        reader.problem("type", "type extra is for `http`; a `job` is intra (this project) or inter (another one)")
    dependency = DependencySpec(
        type=kind,
        job=job,
        http=http,
        trigger_rule=reader.choice("trigger_rule", TriggerRule, TriggerRule.ALL_SUCCESS),
        on_failure=reader.choice("on_failure", OnFailure, OnFailure.WAIT),
        timeout_s=reader.duration("timeout", DEPENDENCY_TIMEOUT_S),
    )
    reader.close()
    return dependency


def _http(dependency: Reader) -> HttpDependencySpec:
    reader = dependency.child("http")
    http = HttpDependencySpec(
        name=reader.required("name", "a name for the request"),
        url=reader.required("url", "an http:// or https:// address", pattern=_URL),
        headers=reader.string_map("headers"),
        params=reader.string_map("params"),
    )
    reader.close()
    return http


# --- metadata and params ---------------------------------------------------------------------------------------------


def _metadata(reader: Reader) -> MetadataSpec:
    resource = reader.child("resource")
    metadata = MetadataSpec(
        resource=ResourceSpec(request=_quantities(resource, "request"), limit=_quantities(resource, "limit")),
        scheduler=_scheduler(reader),
        kubernetes=_kubernetes(reader.child("kubernetes")),
    )
    resource.close()
    reader.close()
    return metadata


def _quantities(resource: Reader, key: str) -> QuantitySpec:
    reader = resource.child(key)
    quantities = QuantitySpec(
        cpu=reader.string("cpu", "", pattern=_CPU, expected="an amount of cores such as 250m or 1.5"),
        memory=reader.string("memory", "", pattern=_MEMORY, expected="an amount of bytes such as 512Mi or 2Gi"),
    )
    reader.close()
    return quantities


def _scheduler(metadata: Reader) -> SchedulerSpec:
    reader, airflow = metadata.child("scheduler"), metadata.child("airflow")
    scheduler = SchedulerSpec(
        pool=_aliased(reader, airflow, "pool"),
        pool_slots=reader.integer("pool_slots", 1, minimum=1),
        priority_weight=reader.integer("priority_weight", 1, minimum=-(2**31)),
        queue=_aliased(reader, airflow, "queue"),
        constraints=reader.string_map("constraints"),
    )
    reader.close()
    airflow.close()
    return scheduler


def _aliased(reader: Reader, alias: Reader, key: str) -> str:
    value, other = reader.string(key, ""), alias.string(key, "")
    if value and other and value != other:
        alias.problem(key, f"{shorten(other)} contradicts {reader.path(key)}, which is {shorten(value)}; keep that one")
    return value or other


def _kubernetes(reader: Reader) -> KubernetesSpec:
    kubernetes = KubernetesSpec(
        namespace=reader.string("namespace", ""),
        service_account=reader.string("service_account", ""),
        node_selector=reader.string_map("node_selector"),
        tolerations=tuple(_toleration(item) for item in reader.children("tolerations")),
        image_pull_secrets=reader.strings("image_pull_secrets"),
    )
    reader.close()
    return kubernetes


def _toleration(reader: Reader) -> TolerationSpec:
    operators, effects = re.compile("Equal|Exists"), re.compile("NoSchedule|PreferNoSchedule|NoExecute")
    toleration = TolerationSpec(
        key=reader.string("key", ""),
        operator=reader.string("operator", "Equal", pattern=operators, expected="Equal or Exists"),
        value=reader.string("value", ""),
        effect=reader.string("effect", "", pattern=effects, expected="NoSchedule, PreferNoSchedule or NoExecute"),
        toleration_seconds=reader.integer("toleration_seconds", None),
    )
    reader.close()
    return toleration


def _params(job: Reader) -> dict[str, ParamSpec]:
    declared = {}
    for name, reader in job.named("params"):
        if not _PARAM_NAME.fullmatch(name):
            message = f"{shorten(name)} cannot be a parameter's name: letters, digits and '_', beginning with no digit"
            reader.problem("", message)
        kind = reader.choice("type", ParamType, ParamType.STRING)
        default = reader.string("default", None)
        if default is not None:
            try:
                params.read(kind, default)
            except ValueError as error:
                reader.problem("default", str(error))
        declared[name] = ParamSpec(type=kind, default=default, description=reader.string("description", ""))
        reader.close()
    return declared

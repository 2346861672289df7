"""What holds for every text and every job, found by search."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.spec.document import Problems, compose
from agent.spec.errors import Problem, SpecError, has_errors, require
from agent.spec.inherit import inherit
from agent.spec.job import JobSpec, dump_job, parse_job
from agent.spec.jobspec import (
    AlertSpec,
    BehaviorSpec,
    DependencySpec,
    DependencyType,
    EndpointSpec,
    HookSpec,
    HookType,
    HttpDependencySpec,
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
    SlaMissAlert,
    TaskSpec,
    TolerationSpec,
    TriggerRule,
    WebhookSpec,
    WindowSpec,
)
from agent.spec.params import INTEGER_MAX
from agent.spec.plugin import parse_plugin
from agent.spec.project import parse_presets, parse_project

T = TypeVar("T")

# --- any text --------------------------------------------------------------------------------------------------------

any_text = st.text(st.characters())  # lone surrogates included
any_bytes = st.binary().map(lambda raw: raw.decode("utf-8", errors="replace"))
yaml_text = st.text(st.sampled_from("ab:-?,[]{}&*!|>'\"%@#<~ \n\t01\u2028\ufeff\x85"), max_size=60)
KEYS = (
    "version name owner schedule interval start_date task config window size hooks labels dependencies http metadata "
)
KEYS += (
    "resource behavior retry count delay notify on channels rules params type default alert sla_miss plugin_versions "
)
KEYS += "image entrypoint script command defaultconfig value project namespaces job path presets preset airflow << "
KEYS += "scheduler"


def documents() -> st.SearchStrategy[str]:
    """YAML whose keys are known ones, with values of any form in any place."""
    scalars = st.sampled_from(
        ["1", "3", "''", "~", "abc", "1d", "300s", "true", "2022-01-01", "&a x", "*a", "intra", "!x y"]
    )
    keys = st.sampled_from(KEYS.split())

    def collections(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pairs = st.lists(st.tuples(keys, inner), max_size=6)
        mappings = pairs.map(lambda found: "{" + ", ".join(f"{key}: {value}" for key, value in found) + "}")
        return mappings | st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")

    return st.recursive(scalars, collections, max_leaves=40)


texts = any_text | any_bytes | yaml_text | documents()


def assert_all_or_problems(value: object | None, problems: Sequence[Problem], text: str) -> None:
    """There is a value exactly where there is no error, and each problem stands inside of the text."""
    assert (value is None) is has_errors(problems)
    if value is None:
        with pytest.raises(SpecError) as caught:
            require(value, problems)
        assert caught.value.problems == tuple(problems)
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.message


@given(texts)
@example("? - : x\n")
@example("&a\n")
@example("a: |\n \x85\n")
@example("<<: {<<: {a: b}}\n")
@example("\ufeff\ufeff")
def test_every_reader_gives_a_value_or_problems_for_every_text(text: str) -> None:
    parsed = parse_job(text, "f")
    assert_all_or_problems(parsed.job, parsed.problems, text)
    for read in (parse_plugin, parse_project, parse_presets):
        reader: Callable[[str, str], tuple[object | None, tuple[Problem, ...]]] = read
        assert_all_or_problems(*reader(text, "f"), text)


@given(texts, texts, texts)
def test_no_this_yaml_makes_reading_fail(text: str, near: str, far: str) -> None:
    parsed = parse_job(text, "f", [("near", near), ("far", far)])
    assert_all_or_problems(parsed.job, parsed.problems, text)


# --- any job ---------------------------------------------------------------------------------------------------------

values = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "",
        "yes",
        "010",
        "2021-01-01",
        "null",
        "~",
        "1e3",
        "a: b",
        "- x",
        "#",
        "<<",
        " x ",
        "x\n",
        "\n\n x\n  y\n",
        "\t",
        "'",
        '"',
        "|",
    ]
)
words = st.text(string.ascii_letters + string.digits, min_size=1, max_size=6)
job_names = words.map(lambda word: f"job.{word}-x")
filled = values.filter(lambda text: bool(text.strip()))
maps = st.dictionaries(filled, values, max_size=3)
configs = st.dictionaries(words.map(lambda word: f"K_{word}"), values, max_size=3)
seconds = st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=4000)).map(
    timedelta.total_seconds
)
exit_codes = st.integers(1, 255)
optional_seconds = st.none() | seconds
urls = values.map(lambda text: f"https://x/{text}")
executors = st.sampled_from(["", "docker", "process", "slurm-2"])
plain_int = st.integers(0, 1000)


def tuples(
    of: st.SearchStrategy[T], *, unique_by: Callable[[T], Any] | None = None
) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(of, max_size=2, unique_by=unique_by).map(tuple)


def scheduled(start: date, length: int | None, interval: str, location: str) -> ScheduleSpec:
    end = "" if length is None else (start + timedelta(days=length)).isoformat()
    return ScheduleSpec(start_date=start.isoformat(), end_date=end, interval=interval, location=location)


schedules = st.just(ScheduleSpec()) | st.builds(
    scheduled,
    st.dates(date(1970, 1, 1), date(2100, 1, 1)),
    st.none() | st.integers(1, 999),
    st.sampled_from(["", "@daily", "0 2 * * *", "*/5 1-3 1,15 JAN MON#1", "@every 1h30m"]),
    st.sampled_from(["UTC", "Asia/Jakarta"]),
)
retries = st.builds(
    RetrySpec,
    count=st.integers(0, 50),
    delay_s=st.just(0.0) | seconds,
    exponential_backoff=st.booleans(),
    max_delay_s=optional_seconds,
    rules=tuples(
        st.builds(RetryRule, exit_code=exit_codes, action=st.sampled_from(RetryAction), delay_s=optional_seconds),
        unique_by=lambda rule: rule.exit_code,
    ),
)
notifications = st.builds(
    NotifySpec,
    on=st.sampled_from(["failure", "sla_miss"]),
    config=st.just({}) | st.just({"duration": "2h", "x": "y"}),
    channels=tuples(filled.map(lambda text: f"slack://{text}")),
    severity=values,
    team=values,
)
webhooks = st.builds(
    WebhookSpec,
    on=st.sampled_from(["failure", "sla_miss"]),
    endpoints=tuples(st.builds(EndpointSpec, url=urls, headers=maps), unique_by=lambda endpoint: endpoint.url),
)
behaviors = st.builds(
    BehaviorSpec,
    depends_on_past=st.booleans(),
    catch_up=st.booleans(),
    retry=retries,
    timeout_s=seconds,
    queue_timeout_s=seconds,
    on_agent_lost=st.sampled_from(OnAgentLost),
    max_active_runs=st.none() | st.integers(1, 9),
    overlap=st.none() | st.sampled_from(Overlap),
    notify=tuples(notifications, unique_by=lambda notify: notify.on),
    webhook=tuples(webhooks, unique_by=lambda webhook: webhook.on),
)
thresholds = st.builds(SlaMissAlert, duration_threshold_s=seconds, severity=values, team=values)
learned = st.builds(SlaMissAlert, auto_threshold=st.just(True), severity=values, team=values)
alerts = st.builds(AlertSpec, sla_miss=tuples(thresholds | learned))
windows = {
    1: [WindowSpec(size="24h", offset="-24h", truncate_to="w"), WindowSpec(truncate_to="d")],
    2: [WindowSpec(size="1M", truncate_to="M"), WindowSpec(size="1M24h", offset="-1M")],
    3: [WindowSpec(size="1d", shift_by="-1d", truncate_to="None", location="Asia/Jakarta"), WindowSpec(preset="p: 1")],
}
hooks = st.builds(
    HookSpec,
    name=words,
    version=values,
    config=configs,
    hooktype=st.none() | st.sampled_from(HookType),
    executor=executors,
    timeout_s=optional_seconds,
    trigger_rule=st.none() | st.sampled_from(TriggerRule),
    allow_failure=st.booleans(),
    skip_exit_code=tuples(exit_codes),
    alert=alerts,
)
http = st.builds(HttpDependencySpec, name=filled, url=urls, headers=maps, params=maps)
waiting = {
    "trigger_rule": st.sampled_from(TriggerRule),
    "on_failure": st.sampled_from(OnFailure),
    "timeout_s": seconds,
}
inner_types = st.sampled_from([DependencyType.INTRA, DependencyType.INTER])
job_dependencies = st.builds(
    DependencySpec, type=inner_types, job=job_names | job_names.map("p/{}".format), **waiting
)  # type and job are free of each other: `inter` may leave the project out
http_dependencies = st.builds(DependencySpec, type=st.just(DependencyType.EXTRA), http=http, **waiting)
quantities = st.builds(
    QuantitySpec, cpu=st.sampled_from(["", "250m", "1.5"]), memory=st.sampled_from(["", "1", "512Mi", "2G"])
)
tolerations = st.builds(
    TolerationSpec,
    key=values,
    operator=st.sampled_from(["Equal", "Exists"]),
    value=values,
    effect=st.sampled_from(["", "NoSchedule", "PreferNoSchedule", "NoExecute"]),
    toleration_seconds=st.none() | plain_int,
)
metadata = st.builds(
    MetadataSpec,
    resource=st.builds(ResourceSpec, request=quantities, limit=quantities),
    scheduler=st.builds(
        SchedulerSpec,
        pool=values,
        pool_slots=st.integers(1, 9),
        priority_weight=st.integers(-9, 9),
        queue=values,
        constraints=maps,
    ),
    kubernetes=st.builds(
        KubernetesSpec,
        namespace=values,
        service_account=values,
        node_selector=maps,
        tolerations=tuples(tolerations),
        image_pull_secrets=tuples(values),
    ),
)
defaults = {
    ParamType.STRING: st.none() | values,
    ParamType.INTEGER: st.integers(-INTEGER_MAX, INTEGER_MAX).map(str),
    ParamType.NUMBER: st.floats(allow_nan=False, allow_infinity=False).map(str),
    ParamType.BOOLEAN: st.sampled_from(["true", "false"]),
}
params = st.one_of(
    [st.builds(ParamSpec, type=st.just(kind), default=found, description=values) for kind, found in defaults.items()]
)


@st.composite
def jobs(draw: st.DrawFn) -> JobSpec:
    """Any job that is valid by itself."""
    version = draw(st.sampled_from([1, 2, 3]))
    task = TaskSpec(
        name=draw(words),
        version=draw(values),
        config=draw(configs),
        window=draw(st.none() | st.sampled_from(windows[version])),
        executor=draw(executors),
        timeout_s=draw(optional_seconds),
        allow_failure=draw(st.booleans()),
        skip_exit_code=draw(tuples(exit_codes)),
        alert=draw(alerts),
    )
    return JobSpec(
        version=version,
        name=draw(job_names),
        owner=draw(filled),
        description=draw(values),
        schedule=draw(schedules),
        behavior=draw(behaviors),
        task=task,
        hooks=draw(tuples(hooks, unique_by=lambda hook: hook.name)),
        labels=draw(maps),
        dependencies=draw(
            tuples(job_dependencies | http_dependencies, unique_by=lambda found: (found.job, found.type))
        ),
        metadata=draw(metadata),
        params=draw(st.dictionaries(words.map(lambda word: f"P_{word}"), params, max_size=2)),
    )


@given(jobs())
def test_a_dumped_job_reads_back_as_the_same_job(job: JobSpec) -> None:
    text = dump_job(job)
    parsed = parse_job(text, "f")
    assert [str(problem) for problem in parsed.problems if problem.severity == "error"] == []
    assert parsed.job == job
    assert dump_job(job) == text


@given(jobs())
def test_every_job_survives_json(job: JobSpec) -> None:
    assert msgspec.json.decode(msgspec.json.encode(job), type=JobSpec) == job


@given(jobs())
def test_a_job_below_itself_is_itself(job: JobSpec) -> None:
    text = dump_job(job)
    parsed = parse_job(text, "f", [("this.yaml", text)])
    assert not has_errors(parsed.problems)
    assert parsed.job == job


@given(documents(), documents(), documents())
def test_merging_in_steps_is_merging_at_once(own: str, near: str, far: str) -> None:
    at_once, in_steps = Problems(), Problems()
    node = inherit(compose(own, "f", at_once), [("near", near), ("far", far)], at_once)
    step = inherit(compose(own, "f", in_steps), [("near", near)], in_steps)
    step = inherit(step, [("far", far)], in_steps)
    assert at_once.listed() == in_steps.listed()
    assert repr(node) == repr(step)

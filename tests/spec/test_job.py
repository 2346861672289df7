"""`job.yaml`: every key is read, every mistake is told with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from agent.spec.errors import Severity
from agent.spec.job import NO_EFFECT_YET, parse_job
from agent.spec.jobspec import (
    DependencySpec,
    DependencyType,
    EndpointSpec,
    HookType,
    HttpDependencySpec,
    JobSpec,
    NotifySpec,
    OnAgentLost,
    OnFailure,
    Overlap,
    ParamSpec,
    ParamType,
    QuantitySpec,
    RetryAction,
    RetryRule,
    RetrySpec,
    SchedulerSpec,
    SlaMissAlert,
    TolerationSpec,
    TriggerRule,
    WebhookSpec,
    WindowSpec,
)

DATA = Path(__file__).parent / "data"
MINIMAL = "version: 3\nname: sample-job\nowner: me\ntask:\n  name: shell\n"


def good(text: str) -> JobSpec:
    parsed = parse_job(text, "job.yaml")
    assert [str(p) for p in parsed.problems if p.severity is Severity.ERROR] == []
    assert parsed.job is not None
    return parsed.job


def errors(text: str) -> list[str]:
    """The errors of a text that must be refused."""
    parsed = parse_job(text, "job.yaml")
    assert parsed.job is None
    return [str(problem) for problem in parsed.problems if problem.severity is Severity.ERROR]


def warnings(text: str) -> list[str]:
    parsed = parse_job(text, "job.yaml")
    return [str(problem) for problem in parsed.problems if problem.severity is Severity.WARNING]


def data(name: str) -> str:
    return (DATA / name).read_text()


# --- whole jobs ------------------------------------------------------------------------------------------------------


def test_a_job_of_version_1_is_read_whole() -> None:
    job = good(data("v1_bq2bq.yaml"))
    assert (job.version, job.owner) == (1, "data-platform@example.com")
    assert (job.schedule.start_date, job.schedule.end_date) == ("2021-02-03", "2031-02-03")
    assert (job.schedule.interval, job.schedule.location) == ("0 3 * * *", "UTC")
    assert (job.behavior.catch_up, job.behavior.depends_on_past) == (True, False)
    assert job.behavior.retry == RetrySpec(count=5, delay_s=300.0, exponential_backoff=True)
    assert job.behavior.notify == (
        NotifySpec(
            on="sla_miss", config={"duration": "2h"}, channels=("slack://#data-alerts", "pagerduty://#customers")
        ),
        NotifySpec(on="failure", channels=("slack://#data-alerts",)),
    )
    assert job.task.window == WindowSpec(size="24h", offset="24h", truncate_to="d")
    assert [hook.name for hook in job.hooks] == ["transporter", "predator"]
    assert job.hooks[1].config["PREDATOR_URL"] == "{{ .secret.PREDATOR_URL }}"
    assert job.labels == {"orchestrator": "optimus", "cost_center": "1234"}
    assert job.dependencies == (
        DependencySpec(type=DependencyType.INTRA, job="sample-project.playground.customers"),
        DependencySpec(type=DependencyType.INTER, job="other-project/other-project.sales.orders"),
        DependencySpec(
            type=DependencyType.EXTRA,
            http=HttpDependencySpec(
                name="ready",
                url="https://ready.example.com/v1",
                headers={"Authorization": "Bearer {{ .secret.TOKEN }}"},
                params={"day": "today"},
            ),
        ),
    )


def test_config_scalars_keep_their_source_text_and_null_is_empty() -> None:
    config = good(data("v1_bq2bq.yaml")).task.config
    assert {key: config[key] for key in ("PARTITIONED", "SHARD", "SINCE", "EMPTY")} == {
        "PARTITIONED": "yes",
        "SHARD": "010",
        "SINCE": "2021-01-01",
        "EMPTY": "",
    }


def test_a_job_of_version_2_is_read_whole() -> None:
    job = good(data("v2_bq2bq.yaml"))
    assert job.task.window == WindowSpec(size="1M", offset="-1M", truncate_to="M")
    assert job.metadata.resource.request == QuantitySpec(cpu="250m", memory="128Mi")
    assert job.metadata.resource.limit == QuantitySpec(cpu="1.5", memory="2Gi")
    assert job.metadata.scheduler == SchedulerSpec(pool="billing", queue="high"), "airflow's keys are aliases"
    assert job.behavior.retry == RetrySpec(count=0), "no retry block, no retry"


def test_a_job_of_version_3_is_read_whole() -> None:
    job = good(data("v3_python.yaml"))
    behavior, task, hook = job.behavior, job.task, job.hooks[0]
    assert behavior.retry == RetrySpec(
        count=0,
        delay_s=60,
        max_delay_s=3600,
        rules=(
            RetryRule(exit_code=75, action=RetryAction.RETRY, delay_s=10),
            RetryRule(exit_code=2, action=RetryAction.FAIL),
        ),
    )
    assert (behavior.timeout_s, behavior.queue_timeout_s) == (12 * 3600, 1800)
    assert (behavior.on_agent_lost, behavior.max_active_runs) == (OnAgentLost.FAIL, 2)
    assert behavior.overlap is Overlap.CANCEL_PREVIOUS
    assert behavior.keep_logs_s == 720 * 3600
    assert behavior.notify[0].severity == "INFO"
    endpoint = EndpointSpec(url="https://hooks.example.com/failed", headers={"X-Token": "{{ .secret.HOOK }}"})
    assert behavior.webhook == (WebhookSpec(on="failure", endpoints=(endpoint,)),)
    assert (task.version, task.executor, task.timeout_s, task.skip_exit_code) == ("3.1", "docker", 5400, (99,))
    assert task.config == {"SCRIPT": 'import sys\nprint("hello")\n'}
    assert task.window == WindowSpec(size="1d", shift_by="-1d", truncate_to="d", location="Asia/Jakarta")
    assert task.alert.sla_miss == (
        SlaMissAlert(duration_threshold_s=2700, severity="CRITICAL", team="revenue"),
        SlaMissAlert(auto_threshold=True),
    )
    assert (hook.hooktype, hook.version, hook.executor, hook.timeout_s) == (HookType.TEARDOWN, "v2", "process", 300)
    assert (hook.trigger_rule, hook.allow_failure, hook.skip_exit_code) == (TriggerRule.ALL_DONE, True, (98, 99))
    assert (hook.config, len(hook.alert.sla_miss)) == ({"DEPTH": "3"}, 1)
    dependency = job.dependencies[0]
    assert (dependency.type, dependency.trigger_rule) == (DependencyType.INTRA, TriggerRule.NONE_FAILED)
    assert (dependency.on_failure, dependency.timeout_s) == (OnFailure.SKIP, 7200)
    constrained = SchedulerSpec(
        pool="billing", pool_slots=2, priority_weight=10, queue="high", constraints={"zone": "a"}
    )
    assert job.metadata.scheduler == constrained
    kubernetes = job.metadata.kubernetes
    assert (kubernetes.namespace, kubernetes.service_account) == ("revenue", "runner")
    assert (kubernetes.node_selector, kubernetes.image_pull_secrets) == ({"disk": "ssd"}, ("registry",))
    assert kubernetes.tolerations == (
        TolerationSpec(key="spot", operator="Exists", effect="NoSchedule"),
        TolerationSpec(key="slow", value="true", effect="NoExecute", toleration_seconds=60),
    )
    assert job.params == {
        "REGION": ParamSpec(default="id", description="Which country"),
        "DAYS": ParamSpec(type=ParamType.INTEGER, default="7"),
        "RATIO": ParamSpec(type=ParamType.NUMBER, default="0.5"),
        "FULL": ParamSpec(type=ParamType.BOOLEAN, default="false"),
        "NOTE": ParamSpec(),
    }


@pytest.mark.parametrize("name", ["v1_bq2bq.yaml", "v2_bq2bq.yaml", "v3_python.yaml"])
def test_a_job_survives_json(name: str) -> None:
    job = good(data(name))
    assert msgspec.json.decode(msgspec.json.encode(job), type=JobSpec) == job


def test_a_minimal_job_has_the_documented_defaults() -> None:
    job = good(MINIMAL)
    assert (job.behavior.timeout_s, job.behavior.queue_timeout_s) == (72 * 3600, 24 * 3600)
    assert job.behavior.on_agent_lost is OnAgentLost.RERUN
    assert job.schedule.location == "UTC"
    assert job.task.window is None
    assert job.task.timeout_s is None
    dependent = good(MINIMAL + "dependencies: [{job: other}]\n")
    assert dependent.dependencies[0].timeout_s == 15 * 3600


# --- retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("{}", RetrySpec(count=3, delay_s=300)),
        ("{delay: 15m}", RetrySpec(count=3, delay_s=900)),
        ("{count: 2}", RetrySpec(count=2, delay_s=300)),
        ("{count: 0}", RetrySpec(count=0, delay_s=300)),
        ("{count: 1, delay: 0s}", RetrySpec(count=1, delay_s=0)),
        ("{count: 1, delay: 300s}", RetrySpec(count=1, delay_s=300)),
        (
            "{count: 1, delay: 1h30m, exponential_backoff: yes}",
            RetrySpec(count=1, delay_s=5400, exponential_backoff=True),
        ),
        ("null", RetrySpec(count=0)),
    ],
)
def test_what_a_retry_block_leaves_out_is_what_optimus_compiles(block: str, expected: RetrySpec) -> None:
    assert good(MINIMAL + f"behavior: {{retry: {block}}}\n").behavior.retry == expected


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_all_mistakes_of_a_job_are_told_at_once() -> None:
    text = "version: 4\nname: a\nschedule:\n  interval: nonsense\n  catchup: true\ntask:\n  name: ../x\n  confg: {}\n"
    found = errors(text)
    assert [message.split(": ", 2)[:2] for message in found] == [
        ["job.yaml:1:1", "owner"],
        ["job.yaml:1:10", "version"],
        ["job.yaml:2:7", "name"],
        ["job.yaml:4:3", "schedule.start_date"],
        ["job.yaml:4:13", "schedule.interval"],
        ["job.yaml:5:3", "schedule.catchup"],
        ["job.yaml:7:9", "task.name"],
        ["job.yaml:8:3", "task.confg"],
    ]
    assert "did you mean 'config'?" in found[-1]


def test_a_window_at_the_top_is_told_where_it_belongs() -> None:
    assert errors(MINIMAL + "window:\n  size: 1d\n") == [
        "job.yaml:6:1: window: unknown key 'window'; it belongs to task.window"
    ]


@pytest.mark.parametrize("version", ["", "version: 4\n", "version: '1'\n", "version: one\n", "version: [1]\n"])
def test_a_version_is_1_2_or_3(version: str) -> None:
    found = errors(f"{version}name: sample-job\nowner: me\ntask: {{name: shell}}\n")
    assert len(found) == 1
    assert re.match(r"job.yaml:1:\d+: version: .*1(, 2 or| to) 3", found[0])


@pytest.mark.parametrize("name", ["ab", "../evil", "a/b", "-abc", ".abc", "a b c", "x" * 221, "", "'abc\n\n'"])
def test_a_name_that_breaks_the_rule_is_refused(name: str) -> None:
    text = f"version: 3\nname: {name}\nowner: me\ntask: {{name: shell}}\n" if "\n" not in name else None
    found = errors(text or 'version: 3\nname: "abc\\n"\nowner: me\ntask: {name: shell}\n')
    assert all(": name: " in message for message in found)


@pytest.mark.parametrize("name", ["abc", "a.b-c_d", "0-a", "x" * 220])
def test_a_name_that_keeps_the_rule_is_taken(name: str) -> None:
    assert good(MINIMAL.replace("sample-job", name)).name == name


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("schedule: {interval: 0 2 * * *}", "6:11: schedule.start_date: start_date is missing"),
        ("schedule: {start_date: 2022-13-01}", "6:24: schedule.start_date: 2022-13-01 is not a date: month must be"),
        ("schedule: {start_date: 01/02/2022}", "6:24: schedule.start_date: a date as YYYY-MM-DD is expected"),
        (
            "schedule: {start_date: 2022-01-02, end_date: 2022-01-02}",
            "6:46: schedule.end_date: the end 2022-01-02 must",
        ),
        ("schedule: {start_date: 2022-01-02, interval: 0 25 * * *}", "6:46: schedule.interval: "),
        ("schedule: {start_date: 2022-01-02, interval: '@every 2x'}", "6:46: schedule.interval: "),
        ("schedule: {location: Mars/Olympus}", "6:22: schedule.location: "),
        ("schedule: {location: America}", "6:22: schedule.location: "),
        ("schedule: []", "6:11: schedule: a mapping of keys is expected, not a list"),
        ("behavior: {catch_up: maybe}", "6:22: behavior.catch_up: true or false is expected, not 'maybe'"),
        ("behavior: {catch_up: 'true'}", "6:22: behavior.catch_up: true or false is expected, not 'true' in quotes"),
        ("behavior: {catch_up: []}", "6:22: behavior.catch_up: true or false is expected, not a list"),
        ("behavior: {retry: {count: -1}}", "6:27: behavior.retry.count: a whole number from 0 to 10000 is expected"),
        ("behavior: {retry: {count: '3'}}", "6:27: behavior.retry.count: a whole number from 0 to 10000 is expected"),
        ("behavior: {retry: {count: 010}}", "6:27: behavior.retry.count: a whole number from 0 to 10000 is expected"),
        ("behavior: {retry: {delay: 300}}", "6:27: behavior.retry.delay: "),
        ("behavior: {retry: {delay: [1]}}", "6:27: behavior.retry.delay: a duration such as"),
        ("behavior: {retry: {delay: -5s}}", "6:27: behavior.retry.delay: a duration of zero or more is expected"),
        ("behavior: {retry: {max_delay: 0s}}", "6:31: behavior.retry.max_delay: a duration above zero is expected"),
        (
            "behavior: {retry: {rules: [{action: retry}]}}",
            "6:28: behavior.retry.rules[0].exit_code: exit_code is missing",
        ),
        ("behavior: {retry: {rules: [{exit_code: 1}]}}", "6:28: behavior.retry.rules[0].action: action is missing"),
        (
            "behavior: {retry: {rules: [{exit_code: 0, action: fail}]}}",
            "6:40: behavior.retry.rules[0].exit_code: a whole",
        ),
        (
            "behavior: {retry: {rules: [{exit_code: 1, action: rty}]}}",
            "6:51: behavior.retry.rules[0].action: 'rty' is not",
        ),
        (
            "behavior: {retry: {rules: [{exit_code: 1, action: fail}, {exit_code: 1, action: retry}]}}",
            "6:70: behavior.retry.rules[1].exit_code: there is a rule for exit code 1 already",
        ),
        ("behavior: {overlap: never}", "6:21: behavior.overlap: 'never' is not possible here; known: allow, "),
        ("behavior: {overlap: {}}", "6:21: behavior.overlap: one of allow, queue, skip, cancel_previous is expected"),
        ("behavior: {notify: [{channels: ['slack://#a']}]}", "6:21: behavior.notify[0].on: on is missing"),
        ("behavior: {notify: [{on: [x]}]}", "6:26: behavior.notify[0].on: an event such as"),
        (
            "behavior: {notify: [{on: failure, channels: ['#a']}]}",
            "6:45: behavior.notify[0].channels: '#a' is not a channel",
        ),
        (
            "behavior: {notify: [{on: failure, channels: [[a]]}]}",
            "6:46: behavior.notify[0].channels[0]: a text is expected",
        ),
        ("behavior: {notify: [{on: sla_miss, config: {duration: 2}}]}", "6:55: behavior.notify[0].config.duration: "),
        (
            "behavior: {notify: [failure]}",
            "6:21: behavior.notify[0]: a mapping of keys is expected, not the text 'failure'",
        ),
        ("behavior: {notify: failure}", "6:20: behavior.notify: a list is expected, not the text 'failure'"),
        (
            "behavior: {webhook: [{on: failure, endpoints: [{url: ftp://x}]}]}",
            "6:54: behavior.webhook[0].endpoints[0].url: ",
        ),
        ("labels: {'': x}", "6:10: labels: a key is empty; give it a name"),
        ("labels: {a: [x]}", "6:13: labels.a: a text is expected, not a list"),
        ("labels: [a]", "6:9: labels: a mapping of texts is expected, not a list"),
        ("hooks: [{config: {}}]", "6:9: hooks[0].name: name is missing"),
        (
            "hooks: [{name: a, hooktype: before}]",
            "6:29: hooks[0].hooktype: 'before' is not possible here; known: fail, ",
        ),
        ("hooks: [{name: a, executor: Docker}]", "6:29: hooks[0].executor: an executor such as docker or process is"),
        ("hooks: [{name: a, config: {'A=B': x}}]", "6:27: hooks[0].config: 'A=B' cannot be a variable's name"),
        ("hooks: [{name: a, timeout: 0s}]", "6:28: hooks[0].timeout: a duration above zero is expected, not 0s"),
        ("hooks: [{name: a, skip_exit_code: [1, x]}]", "6:35: hooks[0].skip_exit_code: exit codes are whole numbers"),
        ("hooks: [{name: a, skip_exit_code: {}}]", "6:35: hooks[0].skip_exit_code: a list is expected, not a mapping"),
        (
            "hooks: [{name: a, alert: {sla_miss: [{}]}}]",
            "6:38: hooks[0].alert.sla_miss[0]: either a duration_threshold or",
        ),
        (
            "hooks: [{name: a, alert: {sla_miss: [{duration_threshold: 1h, auto_threshold: true}]}}]",
            "6:38: hooks[0].alert.sla_miss[0]: either a duration_threshold or",
        ),
        ("dependencies: [{type: intra}]", "6:16: dependencies[0]: a dependency is either a `job` or an `http` request"),
        (
            "dependencies: [{job: abc, http: {name: a, url: 'http://x'}}]",
            "6:16: dependencies[0]: a dependency is either a `job` or an `http` request",
        ),
        ("dependencies: [{job: a/b/c}]", "6:22: dependencies[0].job: a job's name, or project/name, is expected"),
        ("dependencies: [{job: abc, type: extra}]", "6:33: dependencies[0].type: type extra is for `http`"),
        ("dependencies: [{http: {name: a}}]", "6:23: dependencies[0].http.url: url is missing"),
        ("dependencies: [{http: x}]", "6:23: dependencies[0].http: a mapping of keys is expected, not the text 'x'"),
        ("metadata: {resource: {limit: {cpu: lots}}}", "6:36: metadata.resource.limit.cpu: an amount of cores"),
        ("metadata: {resource: {limit: {memory: 2GB}}}", "6:39: metadata.resource.limit.memory: an amount of bytes"),
        (
            "metadata: {scheduler: {pool: a}, airflow: {pool: b}}",
            "6:50: metadata.airflow.pool: 'b' contradicts metadata.scheduler.pool, which is 'a'; keep that one",
        ),
        ("metadata: {scheduler: {pool_slots: 0}}", "6:36: metadata.scheduler.pool_slots: a whole number from 1 to"),
        (
            "metadata: {kubernetes: {tolerations: [{effect: None}]}}",
            "6:48: metadata.kubernetes.tolerations[0].effect: ",
        ),
        ("params: {1a: {}}", "6:14: params.1a: '1a' cannot be a parameter's name"),
        ("params: {A: {type: integer, default: x}}", "6:38: params.A.default: a whole number is expected, not 'x'"),
        ("params: {A: {type: number, default: x}}", "6:37: params.A.default: a number is expected, not 'x'"),
        ("params: {A: {type: boolean, default: 1}}", "6:38: params.A.default: true or false is expected, not '1'"),
        ("params: {A: {type: text}}", "6:20: params.A.type: 'text' is not possible here"),
        ("ownr: me", "6:1: ownr: unknown key 'ownr'; did you mean 'owner'? Known: asset, behavior, "),
    ],
)
def test_a_mistake_is_told_with_place_key_and_what_is_expected(added: str, message: str) -> None:
    found = errors(MINIMAL + added + "\n")
    assert [text for text in found if text.startswith(f"job.yaml:{message}")], found
    assert len(found) == 1


def test_a_job_without_a_task_says_what_is_missing_once() -> None:
    assert errors("version: 3\nname: sample-job\nowner: ' '\n") == [
        "job.yaml:1:1: task.name: name is missing: a plugin's name of 1 to 100 letters, digits, '_', '-' and '.', "
        "beginning with a letter or digit, is required",
        "job.yaml:3:8: owner: owner is missing: who answers for the job is required",
    ]
    assert errors("version: 3\nname: sample-job\nowner: me\ntask: shell\n") == [
        "job.yaml:4:7: task: a mapping of keys is expected, not the text 'shell'"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "job.yaml:1:1: the file is empty"),
        ("[]", "job.yaml:1:1: a mapping of keys is expected, not a list"),
        ("~", "job.yaml:1:1: a mapping of keys is expected, not an empty value"),
        ("a: [", "job.yaml:2:1: this is not YAML: did not find expected node content (while parsing a flow node)"),
    ],
)
def test_a_text_that_is_no_mapping_is_one_mistake(text: str, message: str) -> None:
    assert errors(text) == [message]


def test_a_key_given_twice_refuses_the_job_and_the_rest_is_checked_too() -> None:
    found = errors(MINIMAL + "owner: you\nlabls: {}\n")
    assert [message[:13] for message in found] == ["job.yaml:6:1:", "job.yaml:7:1:"]


# --- windows ---------------------------------------------------------------------------------------------------------


def with_window(version: int, window: str) -> str:
    return f"version: {version}\nname: sample-job\nowner: me\ntask:\n  name: shell\n  window: {window}\n"


@pytest.mark.parametrize(
    ("version", "window", "expected"),
    [
        (1, "{size: 24h, offset: -24h, truncate_to: w}", WindowSpec(size="24h", offset="-24h", truncate_to="w")),
        (1, "{truncate_to: d}", WindowSpec(truncate_to="d")),
        (2, "{size: 1M, truncate_to: M}", WindowSpec(size="1M", truncate_to="M")),
        (3, "{size: 7d, location: Europe/Berlin}", WindowSpec(size="7d", location="Europe/Berlin")),
        (3, "{preset: yesterday}", WindowSpec(preset="yesterday")),
        (3, "{}", None),
        (3, "", None),
        (1, "", None),
    ],
)
def test_a_window_keeps_what_is_written(version: int, window: str, expected: WindowSpec | None) -> None:
    assert good(with_window(version, window)).task.window == expected


@pytest.mark.parametrize(
    ("version", "window", "messages"),
    [
        (1, "{size: 24h, shift_by: 1d}", ["6:33: task.window.shift_by: window shift_by "]),
        (2, "{preset: x}", ["6:20: task.window.preset: version 2 has no presets; write the window out"]),
        (3, "{size: 1d, offset: 1d}", ["6:30: task.window.offset: window offset "]),
        (3, "{size: 1d, preset: x}", ["6:30: task.window.preset: a preset stands alone"]),
        (3, "{size: 1d, location: Nowhere}", ["6:32: task.window.location: "]),
        (3, "{size: often}", ["6:18: task.window.size: "]),
        (2, "{size: 2d}", ["6:18: task.window.size: "]),
        (1, "{size: 24h, offset: soon}", ["6:31: task.window.offset: "]),
        (3, "{size: 1d, shift_by: soon}", ["6:32: task.window.shift_by: "]),
        (3, "{size: 1d, truncate_to: x}", ["6:35: task.window.truncate_to: "]),
        (4, "{size: often}", ["1:10: version: a whole number from 1 to 3"]),
    ],
)
def test_a_wrong_window_is_told_at_the_wrong_field(version: int, window: str, messages: list[str]) -> None:
    found = errors(with_window(version, window))
    assert len(found) == len(messages), found
    for text, message in zip(found, messages, strict=True):
        assert text.startswith(f"job.yaml:{message}")


# --- keys without effect ---------------------------------------------------------------------------------------------


def test_what_optimus_knows_and_prime_does_not_use_is_a_warning() -> None:
    found = parse_job(MINIMAL + "asset: {query.sql: select 1}\n", "job.yaml")
    assert found.job is not None
    assert [str(problem) for problem in found.problems] == [
        "job.yaml:6:1: asset: has no effect; assets are the files in the folder `assets` beside the job"
    ]


def test_keys_for_later_versions_are_read_with_a_warning() -> None:
    text = MINIMAL + "behavior: {overlap: skip, retry: {max_delay: 1h}}\nhooks: [{name: a, trigger_rule: always}]\n"
    assert warnings(text) == ["job.yaml:6:12: behavior.overlap: has no effect yet in this version"]


def test_hook_types_that_work_now_are_no_warning() -> None:
    for kind in HookType:
        assert warnings(MINIMAL + f"hooks: [{{name: a, hooktype: {kind}}}]\n") == []


def test_every_line_of_the_table_is_reached_by_a_job_that_uses_every_key() -> None:
    text = data("v3_python.yaml") + "asset: {}\n"
    text = text.replace("  scheduler:\n", "  airflow: {pool: billing, queue: high}\n  scheduler:\n")
    parsed = parse_job(text, "job.yaml")
    assert parsed.job is not None
    met = {re.sub(r"\[\d+\]", "[]", problem.key) for problem in parsed.problems}
    assert met == {*NO_EFFECT_YET, "asset"}


# --- places ----------------------------------------------------------------------------------------------------------


def test_the_place_of_every_value_is_kept() -> None:
    parsed = parse_job(MINIMAL + "  config: {A: b}\nhooks:\n  - name: x\n", "job.yaml")
    places: Mapping[str, tuple[str, int, int]] = parsed.positions
    assert places["task.name"] == ("job.yaml", 5, 9)
    assert places["task.config.A"] == ("job.yaml", 6, 15)
    assert places["hooks[0].name"] == ("job.yaml", 8, 11)

"""`this.yaml`: what a job takes from the folders above it, and what it keeps."""

from __future__ import annotations

import pytest

from agent.spec.errors import Severity
from agent.spec.job import JobSpec, parse_job
from agent.spec.jobspec import NotifySpec, QuantitySpec, RetrySpec, SchedulerSpec, WindowSpec

MINIMAL = "version: 3\nname: sample-job\nowner: me\ntask:\n  name: shell\n"


def inherited(text: str, *parents: str) -> JobSpec:
    """The job that comes of a text below `this.yaml` files, nearest first."""
    parsed = parse_job(text, "a/b/job.yaml", [(f"{i}/this.yaml", parent) for i, parent in enumerate(parents)])
    assert parsed.job is not None, parsed.problems
    return parsed.job


def errors(text: str, *parents: str) -> list[str]:
    parsed = parse_job(text, "a/b/job.yaml", [(f"{i}/this.yaml", parent) for i, parent in enumerate(parents)])
    assert parsed.job is None
    return [str(problem) for problem in parsed.problems if problem.severity is Severity.ERROR]


def test_scalars_fill_what_is_not_set_and_the_nearest_wins() -> None:
    near = "owner: near\nschedule: {location: Asia/Jakarta}\n"
    far = "owner: far\nversion: 3\ndescription: far\nschedule: {location: UTC, start_date: 2024-01-01}\n"
    job = inherited("name: sample-job\nowner: ~\ntask: {name: shell}\n", near, far)
    assert (job.owner, job.version, job.description) == ("near", 3, "far")
    assert (job.schedule.location, job.schedule.start_date) == ("Asia/Jakarta", "2024-01-01")


def test_an_explicit_false_or_zero_is_not_filled() -> None:
    parent = (
        "behavior: {depends_on_past: true, catch_up: true, retry: {count: 5, delay: 1m, exponential_backoff: true}}\n"
    )
    job = inherited(
        MINIMAL + "behavior: {depends_on_past: false, retry: {count: 0, exponential_backoff: false}}\n", parent
    )
    assert (job.behavior.depends_on_past, job.behavior.catch_up) == (False, True)
    assert job.behavior.retry == RetrySpec(count=0, delay_s=60)


def test_an_inherited_retry_block_is_a_given_block() -> None:
    assert inherited(MINIMAL, "behavior: {retry: {delay: 1m}}\n").behavior.retry == RetrySpec(count=3, delay_s=60)


def test_labels_and_config_merge_by_key() -> None:
    parent = "labels: {a: parent, b: parent}\ntask: {config: {X: parent, Y: parent}, version: v2}\n"
    job = inherited(MINIMAL + "  config: {X: own}\nlabels: {a: own}\n", parent)
    assert job.labels == {"a": "own", "b": "parent"}
    assert job.task.config == {"X": "own", "Y": "parent"}
    assert job.task.version == "v2"


def test_notifications_merge_by_event_with_their_channels_united() -> None:
    own = "behavior: {notify: [{on: failure, channels: ['slack://#own', 'slack://#all'], team: own}]}\n"
    parent = (
        "behavior:\n  notify:\n"
        "    - {on: failure, channels: ['slack://#all', 'slack://#parent'], team: p, severity: HIGH}\n"
        "    - {on: sla_miss, config: {duration: 1h}}\n"
    )
    assert inherited(MINIMAL + own, parent).behavior.notify == (
        NotifySpec(
            on="failure", channels=("slack://#own", "slack://#all", "slack://#parent"), team="own", severity="HIGH"
        ),
        NotifySpec(on="sla_miss", config={"duration": "1h"}),
    )


def test_webhooks_merge_by_event_and_endpoints_by_address() -> None:
    own = "behavior: {webhook: [{on: failure, endpoints: [{url: 'http://a', headers: {H: own}}]}]}\n"
    parent = "behavior: {webhook: [{on: failure, endpoints: [{url: 'http://a', headers: {H: p, I: p}}, {url: 'http://b'}]}]}\n"
    (webhook,) = inherited(MINIMAL + own, parent).behavior.webhook
    assert [(endpoint.url, endpoint.headers) for endpoint in webhook.endpoints] == [
        ("http://a", {"H": "own", "I": "p"}),
        ("http://b", {}),
    ]


def test_dependencies_merge_by_job_and_type() -> None:
    own = "dependencies: [{job: abc, type: intra, timeout: 1h}, {http: {name: x, url: 'http://own'}}]\n"
    parent = (
        "dependencies: [{job: abc, type: intra, timeout: 2h, on_failure: fail}, {job: abc, type: inter},"
        " {http: {name: x, url: 'http://p', params: {q: p}}}, {http: {name: y, url: 'http://p'}}]\n"
    )
    found = inherited(MINIMAL + own, parent).dependencies
    assert [(d.job, d.type, d.timeout_s, d.on_failure) for d in found if d.job] == [
        ("abc", "intra", 3600, "fail"),
        ("abc", "inter", 54000, "wait"),
    ]
    assert [(d.http.name, d.http.url, d.http.params) for d in found if d.http] == [
        ("x", "http://own", {"q": "p"}),
        ("y", "http://p", {}),
    ]


def test_hooks_merge_by_name_and_new_ones_follow() -> None:
    own = "hooks: [{name: b, config: {X: own}}, {name: a}]\n"
    job = inherited(MINIMAL + own, "hooks: [{name: c}, {name: b, config: {X: p, Y: p}, timeout: 1m}]\n")
    assert [(hook.name, hook.config, hook.timeout_s) for hook in job.hooks] == [
        ("b", {"X": "own", "Y": "p"}, 60),
        ("a", {}, None),
        ("c", {}, None),
    ]


def test_other_lists_are_taken_whole() -> None:
    own = "metadata: {kubernetes: {image_pull_secrets: [own]}}\n"
    job = inherited(MINIMAL + own, "metadata: {kubernetes: {image_pull_secrets: [p, q]}}\n")
    assert job.metadata.kubernetes.image_pull_secrets == ("own",)


def test_metadata_is_inherited_into_a_job_that_has_none() -> None:
    job = inherited(MINIMAL, "metadata: {resource: {limit: {cpu: '2'}}, airflow: {pool: p}}\n")
    assert job.metadata.resource.limit == QuantitySpec(cpu="2")
    assert job.metadata.scheduler == SchedulerSpec(pool="p")


@pytest.mark.parametrize(
    ("own", "parent"),
    [
        ("metadata: {airflow: {pool: own}}\n", "metadata: {scheduler: {pool: p, queue: q}}\n"),
        ("metadata: {scheduler: {pool: own}}\n", "metadata: {airflow: {pool: p, queue: q}}\n"),
    ],
)
def test_a_pool_of_ones_own_wins_under_either_of_its_names(own: str, parent: str) -> None:
    assert inherited(MINIMAL + own, parent).metadata.scheduler == SchedulerSpec(pool="own", queue="q")


@pytest.mark.parametrize(
    ("own", "parent", "expected"),
    [
        ("", "{size: 1d, truncate_to: d}", WindowSpec(size="1d", truncate_to="d")),
        ("{}", "{preset: p}", WindowSpec(preset="p")),
        ("{size: 2d}", "{size: 1d, truncate_to: d}", WindowSpec(size="2d", truncate_to="d")),
        ("{preset: own}", "{size: 1d, truncate_to: d}", WindowSpec(preset="own")),
        ("{preset: own}", "{preset: p}", WindowSpec(preset="own")),
        ("{size: 2d}", "{preset: p}", WindowSpec(size="2d")),
    ],
)
def test_a_window_and_a_preset_do_not_mix(own: str, parent: str, expected: WindowSpec) -> None:
    assert inherited(MINIMAL + f"  window: {own}\n", f"task: {{window: {parent}}}\n").task.window == expected


def test_a_name_is_not_inherited() -> None:
    parsed = parse_job(
        "version: 3\nowner: me\ntask: {name: shell}\n", "job.yaml", [("this.yaml", "name: shared-name\n")]
    )
    assert [str(problem).partition(" is missing")[0] for problem in parsed.problems] == [
        "job.yaml:1:1: name: name",
        "this.yaml:1:1: name: a name is not inherited; this has no effect",
    ]


def test_a_mistake_in_what_is_inherited_points_into_its_own_file() -> None:
    parent = "behavior:\n  retry: {delay: 5}\nlabls: {}\n"
    found = errors(MINIMAL + "behavior: {retry: {count: 1}}\n", "{}\n", parent)
    assert [message.partition(": ")[0] for message in found] == ["1/this.yaml:2:18", "1/this.yaml:3:1"]


def test_a_form_that_does_not_fit_is_told_at_the_inherited_side() -> None:
    assert errors(MINIMAL + "labels: {a: b}\nhooks: [{name: a}]\n", "labels: x\nhooks: {name: b}\nowner: []\n") == [
        "0/this.yaml:1:9: labels: this cannot be merged with a mapping at a/b/job.yaml:6; both must have the same form",
        "0/this.yaml:2:8: hooks: this cannot be merged with a list at a/b/job.yaml:7; both must have the same form",
        "0/this.yaml:3:8: owner: this cannot be merged with a text at a/b/job.yaml:3; both must have the same form",
    ]


def test_a_null_in_this_yaml_says_nothing() -> None:
    assert inherited(MINIMAL + "labels: {a: b}\n", "owner:\nlabels:\n").labels == {"a": "b"}


def test_a_broken_this_yaml_refuses_the_job() -> None:
    assert errors(MINIMAL, "a: [\n") == [
        "0/this.yaml:2:1: this is not YAML: did not find expected node content (while parsing a flow node)"
    ]
    assert errors(MINIMAL, "[a]\n") == ["0/this.yaml:1:1: a mapping of keys is expected"]


def test_an_empty_this_yaml_changes_nothing() -> None:
    assert inherited(MINIMAL, "", "# nothing\n") == inherited(MINIMAL)


def test_a_shared_this_yaml_is_not_changed_by_the_jobs_below_it() -> None:
    parent = "labels: {a: parent}\nhooks: [{name: p, config: {X: p}}]\n"
    first = inherited(MINIMAL + "labels: {b: own}\nhooks: [{name: p, config: {Y: own}}]\n", parent)
    second = inherited(MINIMAL, parent)
    assert first.labels == {"b": "own", "a": "parent"}
    assert second.labels == {"a": "parent"}
    assert second.hooks[0].config == {"X": "p"}


def test_a_broken_job_below_a_good_this_yaml_tells_of_the_job_alone() -> None:
    assert errors("a: [\n", "owner: me\n") == [
        "a/b/job.yaml:2:1: this is not YAML: did not find expected node content (while parsing a flow node)"
    ]


def test_items_that_are_no_mappings_are_kept_for_the_reader_to_refuse() -> None:
    found = errors(
        MINIMAL + "hooks: [x]\nbehavior: {notify: [{on: failure, channels: [[a]]}]}\n", "hooks: [{name: b}]\n"
    )
    assert [message.split(": ")[1] for message in found] == ["hooks[0]", "behavior.notify[0].channels[0]"]
    found = errors(MINIMAL + "hooks: [~]\n", "hooks: [{version: v1}]\n")
    assert [message.split(": ")[:2] for message in found] == [
        ["0/this.yaml:1:9", "hooks[1].name"],
        ["a/b/job.yaml:6:9", "hooks[0]"],
    ]
    both = "behavior: {notify: [{on: failure, channels: [[a]]}]}\n"
    assert len(errors(MINIMAL + both, both)) == 2

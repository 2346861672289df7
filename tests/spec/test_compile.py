"""What an instance finds: Optimus' variables, config, secrets, assets, and what is executed."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from agent.spec import bundle as bundles
from agent.spec.bundle import Bundle, Place, plan, used_plugins
from agent.spec.compile import (
    BREAK_MARKER,
    Compiled,
    Masked,
    compile_instance,
    instance_environment,
    interval_of,
    job_labels,
    launch,
    schedule_of,
)
from agent.spec.errors import PluginError, SpecError
from agent.spec.job import parse_job
from agent.spec.jobspec import JobSpec, WindowSpec
from agent.spec.plugin import Plugin, parse_plugin
from agent.spec.quantity import cores, size_bytes

AT = datetime(2022, 7, 5, 2, 10, 10, tzinfo=UTC)
STARTED = datetime(2022, 7, 6, 1, 2, 3, tzinfo=UTC)

BQ2BQ = """
name: bq2bq
plugintype: task
image: example/bq2bq:1
entrypoint: {shell: /bin/bash, script: "python3 /opt/bq2bq/main.py"}
defaultconfig: [{name: LOAD_METHOD, value: APPEND}, {name: TIMEOUT, value: "10"}]
destination_urn_template: "bigquery://{{ .PROJECT }}:{{ .TABLE }}"
"""
HOOK = """
name: transporter
plugintype: hook
hooktype: post
image: example/transporter
entrypoint: "run {{ not rendered }}"
dependson: [predator]
"""
PREDATOR = "name: predator\nplugintype: hook\nhooktype: post\nimage: example/predator:2\nentrypoint: go\n"

JOB = """
version: 2
name: sample.replace
owner: me
labels: {orchestrator: Optimus Prime}
task:
  name: bq2bq
  window: {size: 48h, offset: "0", truncate_to: d}
  config:
    PROJECT: "{{ .GLOBAL__project }}"
    TABLE: orders
    DEST: "{{ .JOB_DESTINATION }}"
    KEY: "{{ .secret.KEY }}"
    DSTART: mine
hooks:
  - name: transporter
    config: {SOURCE: "{{ .TASK__DEST }}", PASS: "{{ .TASK__KEY }}", ALSO: "{{ .task.KEY }}"}
  - name: predator
"""


def plugin(text: str) -> Plugin:
    made, problems = parse_plugin(text, "plugin.yaml")
    assert made is not None, problems
    return made


def job(text: str) -> JobSpec:
    parsed = parse_job(text, "job.yaml")
    assert parsed.job is not None, parsed.problems
    return parsed.job


def bundle(text: str = JOB, **changes: object) -> Bundle:
    spec = job(text)
    known = {one.name: one for one in map(plugin, (BQ2BQ, HOOK, PREDATOR))}
    fields: dict[str, object] = {
        "job": spec,
        "project": "p",
        "namespace": "n",
        "plugins": used_plugins(spec, known),
        "variables": {"project": "acme"},
        **changes,
    }
    return Bundle(**fields)  # type: ignore[arg-type]  # one table of fields for all tests


def compiled(
    of: Bundle, name: str = "bq2bq", assets: Mapping[str, bytes] | None = None, secrets: Mapping[str, str] | None = None
) -> Compiled:
    return compile_instance(
        of,
        name,
        scheduled_at=AT,
        started_at=STARTED,
        secrets={"KEY": "s3cr3t"} if secrets is None else secrets,
        assets=assets or {},
    )


def test_config_is_rendered_with_defaults_below_and_system_variables_above() -> None:
    found = compiled(bundle())
    assert found.environment == {
        "LOAD_METHOD": "APPEND",
        "TIMEOUT": "10",
        "PROJECT": "acme",
        "TABLE": "orders",
        "DEST": "bigquery://acme:orders",
        "DSTART": "2022-07-03T00:00:00Z",
        "DEND": "2022-07-05T00:00:00Z",
        "EXECUTION_TIME": "2022-07-06T01:02:03Z",
        "JOB_DESTINATION": "bigquery://acme:orders",
    }
    assert found.secrets == {"KEY": "s3cr3t"}


def test_a_hook_sees_the_tasks_config_and_secrets_made_from_it_stay_secrets() -> None:
    found = compiled(bundle(), "transporter")
    assert found.environment["SOURCE"] == "bigquery://acme:orders"
    assert found.secrets == {"PASS": "s3cr3t", "ALSO": "s3cr3t"}
    assert "TABLE" not in found.environment


def test_version_3_has_dates_and_the_scheduled_time() -> None:
    text = JOB.replace("version: 2", "version: 3").replace(
        '{size: 48h, offset: "0", truncate_to: d}', "{size: 1d, shift_by: 1d}"
    )
    environment = compiled(bundle(text)).environment
    assert environment["EXECUTION_TIME"] == "2022-07-05 02:10:10"
    assert environment["START_DATE"] == "2022-07-05"
    assert environment["END_DATE"] == "2022-07-06"
    assert environment["SCHEDULE_TIME"] == "2022-07-05T02:10:10Z"
    assert environment["SCHEDULE_DATE"] == "2022-07-05"


def test_masked_secrets_are_stars_and_an_unknown_one_is_an_error() -> None:
    assert compiled(bundle(), secrets=Masked(frozenset({"KEY"}))).secrets == {"KEY": "***"}
    assert compiled(bundle(), secrets=Masked()).secrets == {"KEY": "***"}
    with pytest.raises(SpecError) as caught:
        compiled(bundle(), secrets=Masked(frozenset({"OTHER"})))
    (problem,) = caught.value.problems
    assert problem.key == "task.config.KEY"
    assert "KEY" in problem.message


def test_masked_is_a_mapping() -> None:
    masked = Masked(frozenset({"A"}))
    assert (list(masked), len(masked), "A" in masked, "B" in masked, masked["A"]) == (["A"], 1, True, False, "***")
    assert (list(Masked()), len(Masked()), "B" in Masked()) == ([], 0, True)
    with pytest.raises(KeyError):
        _ = masked["B"]


def test_every_text_that_does_not_compile_is_named_at_once() -> None:
    text = JOB.replace("TABLE: orders", 'TABLE: "{{ .nowhere }}"\n    B: "{{ .GLOBAL__gone }}"')
    with pytest.raises(SpecError) as caught:
        compiled(bundle(text), assets={"query.sql": b"ok\n{{ .missing }}"})
    places = [(p.file, p.line, p.key) for p in caught.value.problems]
    assert places == [
        ("sample.replace/job.yaml", 1, "task.config.TABLE"),
        ("sample.replace/job.yaml", 1, "task.config.B"),
        ("query.sql", 2, "missing"),
    ]


def test_assets_are_rendered_templates_only_included_and_binaries_left() -> None:
    binary = base64.b64decode("/9j/4AAQ")
    found = compiled(
        bundle(),
        assets={
            "query.sql": b'select * from {{ .TASK__TABLE }} where {{ template "macros/where.tmpl" . }}\n',
            "macros/where.tmpl": b'd = "{{ .DSTART | Date }}"',
            "image.jpg": binary,
            "plain.txt": b"  plain \n",
        },
    )
    assert found.files["query.sql"] == b'select * from orders where d = "2022-07-03"'
    assert found.files["macros/where.tmpl"] == b'd = "{{ .DSTART | Date }}"'
    assert found.files["image.jpg"] == binary
    assert found.files["plain.txt"] == b"plain"


def test_load_method_replace_renders_the_query_once_a_day() -> None:
    text = JOB.replace("TABLE: orders", "TABLE: orders\n    LOAD_METHOD: REPLACE")
    found = compiled(bundle(text), assets={"query.sql": b"{{ .DSTART | Date }} {{ .DEND }}", "o.sql": b"{{ .DSTART }}"})
    assert found.files["query.sql"].decode() == BREAK_MARKER.join(
        ["2022-07-03 2022-07-04T00:00:00Z", "2022-07-04 2022-07-05T00:00:00Z"]
    )
    assert found.files["o.sql"] == b"2022-07-03T00:00:00Z"


def test_load_method_replace_over_one_day_renders_once() -> None:
    text = JOB.replace("TABLE: orders", "TABLE: orders\n    LOAD_METHOD: REPLACE").replace("48h", "24h")
    assert compiled(bundle(text), assets={"query.sql": b"{{ .DSTART | Date }}"}).files["query.sql"] == b"2022-07-04"


def test_default_assets_of_the_plugin_fill_what_the_job_has_not() -> None:
    with_asset = plugin(BQ2BQ + 'defaultassets: [{name: query.sql, value: "select {{ .TASK__TABLE }}"}]')
    of = bundle(plugins={**bundle().plugins, "bq2bq": with_asset})
    assert compiled(of).files["query.sql"] == b"select orders"
    assert compiled(of, assets={"query.sql": b"own"}).files["query.sql"] == b"own"


def test_a_window_that_cannot_be_computed_is_said_with_its_key() -> None:
    of = bundle(preset=WindowSpec(size="nonsense"))
    with pytest.raises(SpecError) as caught:
        compiled(of)
    assert caught.value.problems[0].key == "task.window"


def test_a_job_of_version_3_without_a_window_is_incremental() -> None:
    text = "version: 3\nname: a.b\nowner: me\nschedule: {start_date: 2022-01-01, interval: '0 2 * * *'}\n"
    of = bundle(text + "task: {name: bq2bq}\n")
    interval = interval_of(of, datetime(2022, 7, 5, 2, tzinfo=UTC))
    assert (interval.start.day, interval.end.day, interval.end.hour) == (4, 5, 2)
    assert schedule_of(of.job).next(AT) == datetime(2022, 7, 6, 2, tzinfo=UTC)


def test_without_window_and_schedule_a_run_stands_for_no_data() -> None:
    of = bundle("version: 3\nname: a.b\nowner: me\ntask: {name: bq2bq}\n")
    assert interval_of(of, AT).start == interval_of(of, AT).end == AT
    with pytest.raises(ValueError, match=r"no schedule\.interval"):
        schedule_of(of.job)


def test_a_preset_is_the_window() -> None:
    text = "version: 3\nname: a.b\nowner: me\ntask: {name: bq2bq, window: {preset: yesterday}}\n"
    interval = interval_of(bundle(text, preset=WindowSpec(size="1d")), AT)
    assert (interval.start.day, interval.end.day) == (4, 5)


def test_instances_come_in_order_with_the_plugins_dependson() -> None:
    planned = plan(bundle())
    assert [(one.name, one.place, one.after) for one in planned] == [
        ("bq2bq", Place.TASK, ()),
        ("predator", Place.POST, ("bq2bq",)),
        ("transporter", Place.POST, ("bq2bq", "predator")),
    ]


def test_a_hook_named_like_the_task_gets_a_name_of_its_own() -> None:
    text = "version: 2\nname: a.b\nowner: me\ntask: {name: shell}\nhooks: [{name: shell, hooktype: pre}]\n"
    planned = plan(bundle(text))
    assert [one.name for one in planned] == ["shell-hook", "shell"]
    assert planned[1].after == ("shell-hook",)
    assert instance_environment(bundle(text), "shell-hook", AT)["INSTANCE_NAME"] == "shell"


def test_the_executor_is_the_jobs_then_the_plugins_then_the_projects_then_docker() -> None:
    text = "version: 2\nname: a.b\nowner: me\ntask: {name: %s%s}\n"
    for executor, plugin_name, project, expected in [
        (", executor: mock", "shell", "x", "mock"),
        ("", "shell", "x", "process"),
        ("", "bq2bq", "x", "x"),
        ("", "bq2bq", "", "docker"),
    ]:
        assert plan(bundle(text % (plugin_name, executor), executor=project))[0].executor == expected


def test_hooks_that_wait_for_each_other_are_refused() -> None:
    circle = {"transporter": plugin(HOOK), "predator": plugin(PREDATOR + "dependson: [transporter]\n")}
    with pytest.raises(PluginError, match="circle"):
        plan(bundle(plugins={**bundle().plugins, **circle}))


def test_an_unknown_plugin_is_said_with_what_to_do() -> None:
    with pytest.raises(PluginError, match="prime plugin apply"):
        used_plugins(job(JOB), {})


def test_the_bundle_comes_back_from_its_blob() -> None:
    of = bundle(assets={"a": "0" * 64}, preset=WindowSpec(size="1d"))
    assert bundles.decode(bundles.encode(of)) == of
    assert bundles.encode(of) == bundles.encode(bundles.decode(bundles.encode(of)))


def test_what_is_executed_by_each_kind_of_executor() -> None:
    of = bundle()
    docker = launch(of, "bq2bq", {}, "docker")
    assert (docker.image, docker.entrypoint, docker.argv) == (
        "example/bq2bq:1",
        ("/bin/bash", "-c", "python3 /opt/bq2bq/main.py"),
        (),
    )
    process = launch(of, "bq2bq", {}, "process")
    assert (process.image, process.argv) == ("", ("/bin/bash", "-c", "python3 /opt/bq2bq/main.py"))
    plain = plugin("version: 1\nname: plain\nplugin_versions: {default: {image: i, tag: t}}\n")
    bare = bundle(plugins={**of.plugins, "bq2bq": plain})
    assert launch(bare, "bq2bq", {}, "docker").entrypoint is None
    with pytest.raises(PluginError, match="nothing to run"):
        launch(bare, "bq2bq", {}, "process")


def test_what_a_task_is_told_of_itself() -> None:
    environment = instance_environment(bundle(), "transporter", AT)
    labels = environment.pop("JOB_LABELS")
    assert environment == {
        "JOB_NAME": "sample.replace",
        "PROJECT": "p",
        "NAMESPACE": "n",
        "INSTANCE_TYPE": "hook",
        "INSTANCE_NAME": "transporter",
        "SCHEDULED_AT": "2022-07-05T02:10:10Z",
    }
    assert labels.startswith("project=p,namespace=n,job_name=sample-replace,job_id=")
    assert labels.endswith(",orchestrator=optimus-prime")


def test_long_labels_keep_their_end() -> None:
    labels = dict(pair.split("=") for pair in job_labels(bundle(project="x" * 70 + "end")).split(","))
    assert len(labels["project"]) <= 63
    assert labels["project"].startswith("__x")
    assert labels["project"].endswith("end")


@pytest.mark.parametrize(
    ("text", "amount"),
    [("", None), ("250m", 0.25), ("1.5", 1.5), ("2", 2.0)],
)
def test_cores(text: str, amount: float | None) -> None:
    assert cores(text) == amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("", None), ("1000", 1000), ("1k", 1000), ("2M", 2_000_000), ("512Mi", 512 * 2**20), ("1.5Gi", 3 * 2**29)],
)
def test_size_bytes(text: str, amount: int | None) -> None:
    assert size_bytes(text) == amount


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="512Mi"):
        size_bytes("5iM")

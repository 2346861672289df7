"""What an instance finds: Optimus' variables, config, secrets, assets, and what is executed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.spec import bundle as bundles
from agent.spec.bundle import Bundle, Place, plan, spec_of, used_plugins, variables_of
from agent.spec.compile import (
    BREAK_MARKER,
    OWN_VARIABLES,
    Compiled,
    compile_instance,
    instance_environment,
    interval_of,
    job_labels,
    launch,
    schedule_of,
)
from agent.spec.errors import PluginError, SpecError
from agent.spec.job import parse_job
from agent.spec.jobspec import JobSpec, TriggerRule, WindowSpec
from agent.spec.lookups import Masked
from agent.spec.plugin import BUILTIN, DEFAULT, Plugin, PluginVersion, parse_plugin
from agent.spec.quantity import cores, size_bytes
from agent.spec.trial import try_bundle

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

BUILTIN_WITH_IMAGE = {
    DEFAULT: PluginVersion(image="i", entrypoint=BUILTIN["shell"].versions[DEFAULT].entrypoint),
}

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


HOOK_CONFIG = '{SOURCE: "{{ .TASK__DEST }}", PASS: "{{ .TASK__KEY }}", ALSO: "{{ .task.KEY }}"}'


def config(**values: str) -> str:
    """The job with these values in its task's config as well."""
    lines = "".join(f"\n    {key}: {json.dumps(value)}" for key, value in values.items())
    return JOB.replace("TABLE: orders", f"TABLE: orders{lines}")


def test_p8_only_what_a_template_reads_makes_a_value_secret() -> None:
    found = compiled(
        bundle(
            config(
                PLAIN="cat $JOB_DIR/in/.secret",
                AFTER="{{ .DSTART }} in/.secret",
                INDEXED='{{ index . "secret" "KEY" }}',
                BRACES='{{ printf "}}%s" .secret.KEY }}',
                COMMENT="{{/* .secret.KEY */}}x",
            )
        )
    )
    assert found.environment["PLAIN"] == "cat $JOB_DIR/in/.secret"
    assert found.environment["AFTER"] == "2022-07-03T00:00:00Z in/.secret"
    assert found.environment["COMMENT"] == "x"
    assert found.secrets == {"KEY": "s3cr3t", "INDEXED": "s3cr3t", "BRACES": "}}s3cr3t"}


def test_p8_a_hooks_value_is_secret_where_it_reads_a_secret_value_of_the_task() -> None:
    hook = '{A: "{{ .TASK__KEY }}", B: "TASK__KEY .task.KEY", C: "{{ .TASK__KEY_ID }}", D: "{{ .task.KEY_ID }}", '
    hook += 'E: "{{ index .task `KEY` }}", F: "{{ .task.TABLE }}"}'
    text = config(KEY_ID="7").replace(HOOK_CONFIG, hook)
    found = compiled(bundle(text), "transporter")
    assert found.secrets == {"A": "s3cr3t", "E": "s3cr3t"}
    assert {key: found.environment[key] for key in "BCDF"} == {
        "B": "TASK__KEY .task.KEY",
        "C": "7",
        "D": "7",
        "F": "orders",
    }


@pytest.mark.parametrize("name", sorted(OWN_VARIABLES))
def test_a_config_value_of_the_name_of_primes_own_variable_is_not_handed_over(name: str) -> None:
    for value in ("mine", "{{ .secret.KEY }}"):
        found = compiled(bundle(config(**{name: value})))
        assert name not in {**found.environment, **found.secrets}
    hook = bundle(config(**{name: "mine"}).replace("SOURCE: ", f'SOURCE: "{{{{ .TASK__{name} }}}}", WAS: '))
    assert compiled(hook, "transporter").environment["SOURCE"] == "mine"


@pytest.mark.parametrize("value", ["a\0b", "x" * 131_072, '{{ printf "%c" 0 }}', "{{ .secret.KEY }}\0"])
def test_p11_what_no_program_can_be_given_is_told_with_its_key(value: str) -> None:
    with pytest.raises(SpecError) as caught:
        compiled(bundle(config(BIG=value)))
    (problem,) = caught.value.problems
    assert (problem.file, problem.key) == ("sample.replace/job.yaml", "task.config.BIG")
    assert problem.message.startswith("BIG: ")
    assert "s3cr3t" not in problem.message


def test_p11_an_environment_that_is_too_large_as_a_whole_is_told() -> None:
    with pytest.raises(SpecError) as caught:
        compiled(
            bundle(
                config(**dict.fromkeys("ABCDEFGHIJKLMN", "{{ .GLOBAL__big }}")),
                variables={"big": "x" * 120_000, "project": "p"},
            )
        )
    (problem,) = caught.value.problems
    assert problem.key == "task.config"
    assert "1680" in problem.message


def test_p11_labels_and_a_destination_that_no_program_can_be_given_are_told() -> None:
    labels = ", ".join(f"k{number}: {'v' * 60}" for number in range(2000))
    with pytest.raises(SpecError) as caught:
        compiled(bundle(JOB.replace("labels: {", f"labels: {{{labels}, ")))
    assert [problem.key for problem in caught.value.problems] == ["labels"]
    long = bundle().plugins["bq2bq"]
    of = bundle(plugins={**bundle().plugins, "bq2bq": replace(long, destination_urn_template="x" * 140_000)})
    with pytest.raises(SpecError) as caught:
        compiled(of)
    assert {problem.key for problem in caught.value.problems} == {"task.name", "task.config.DEST"}


def test_p11_assets_that_cannot_lie_beside_the_plugins_are_told() -> None:
    with_asset = plugin(BQ2BQ + 'defaultassets: [{name: a, value: "x"}]')
    of = bundle(plugins={**bundle().plugins, "bq2bq": with_asset})
    with pytest.raises(SpecError) as caught:
        compiled(of, assets={"a/b": b"", ".env": b""})
    assert {problem.key for problem in caught.value.problems} == {"assets"}
    assert len(caught.value.problems) == 2


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


def test_version_3_shows_its_window_on_the_clocks_of_its_location() -> None:
    """As Optimus does: custom.go makes the interval in the window's zone, and formats it there."""
    text = JOB.replace("version: 2", "version: 3").replace(
        '{size: 48h, offset: "0", truncate_to: d}', "{size: 1M, shift_by: -1d, truncate_to: M, location: Asia/Jakarta}"
    )
    found = compiled(bundle(text))
    assert (found.environment["START_DATE"], found.environment["END_DATE"]) == ("2022-05-31", "2022-06-30")
    assert found.environment["DSTART"] == "2022-05-31T00:00:00+07:00"
    assert found.environment["DEND"] == "2022-06-30T00:00:00+07:00"
    assert found.environment["SCHEDULE_TIME"] == "2022-07-05T02:10:10Z"
    assert found.window.start == datetime(2022, 5, 30, 17, tzinfo=UTC)


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


def test_setup_comes_first_and_teardown_after_all_others_with_its_own_rule() -> None:
    text = (
        "version: 2\nname: a.b\nowner: me\ntask: {name: bq2bq, allow_failure: true, skip_exit_code: 99}\nhooks:\n"
        "  - {name: predator, hooktype: teardown}\n  - {name: transporter, trigger_rule: all_done}\n"
        "  - {name: shell, hooktype: setup, skip_exit_code: [1, 2]}\n"
    )
    planned = plan(bundle(text))
    assert [(one.name, one.place, one.after, one.rule) for one in planned] == [
        ("shell", Place.SETUP, (), TriggerRule.ALL_SUCCESS),
        ("bq2bq", Place.TASK, (), TriggerRule.ALL_SUCCESS),
        ("transporter", Place.POST, ("bq2bq",), TriggerRule.ALL_DONE),
        ("predator", Place.TEARDOWN, ("shell", "bq2bq", "transporter"), TriggerRule.ALL_DONE_SETUP_SUCCESS),
    ]
    assert [(one.allow_failure, one.skip_exit_codes) for one in planned][:2] == [(False, (1, 2)), (True, (99,))]


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


def test_the_task_and_each_hook_are_found_by_the_names_of_their_instances() -> None:
    assert spec_of(job(JOB), "predator").name == "predator"
    with pytest.raises(KeyError):
        spec_of(job(JOB), "nothing")


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


SCRIPT = "version: 2\nname: a.b\nowner: me\ntask: {name: NAME, config: {IMAGE: i, KEY: VALUE}}\n"


def script(name: str, key: str, value: str) -> Bundle:
    text = SCRIPT.replace("NAME", name).replace("KEY", key).replace("VALUE", json.dumps(value))
    return bundle(text, plugins=dict(BUILTIN))


@pytest.mark.parametrize(
    ("name", "key", "executor"),
    [("shell", "SCRIPT", "process"), ("shell", "SCRIPT", "docker"), ("container", "COMMAND", "docker")],
)
def test_p8_a_script_made_with_a_secret_is_no_argument_of_a_shell(name: str, key: str, executor: str) -> None:
    of = replace(script(name, key, "login {{ .secret.KEY }}"))
    found = compiled(of, name)
    assert found.secrets == {key: "login s3cr3t"}
    config = {**found.environment, **found.secrets, "IMAGE": "i"}
    if name == "shell" and executor == "docker":
        of = replace(of, plugins={"shell": replace(BUILTIN["shell"], versions=BUILTIN_WITH_IMAGE)})
    made = launch(of, name, config, executor)
    assert (made.argv or made.entrypoint) == ("/bin/sh", "-c", f'eval "${key}"')


@pytest.mark.parametrize("value", ["echo .secret.KEY", "echo {{ .DSTART }}", "{{/* .secret.KEY */}} "])
def test_a_script_without_a_secret_and_an_empty_one_run_as_ever(value: str) -> None:
    of = script("shell", "SCRIPT", value)
    assert launch(of, "shell", compiled(of, "shell").environment, "process").argv == BUILTIN["shell"].command
    of = script("container", "COMMAND", value)
    entrypoint = ("/bin/sh", "-c", 'exec /bin/sh -c "$COMMAND"')
    made = launch(of, "container", compiled(of, "container").environment, "docker")
    assert made.entrypoint == (entrypoint if "*/" not in value else None)


SCRIPTS = {
    "exit 7": "",
    "echo a; false": "",
    'echo "it\'s $0 $# $A"; (exit 3)': "",
    "set -e\nfalse\necho never": "",
    "trap 'echo bye' EXIT\nkill -TERM $$\n": "",
    "echo 'open": "",
    "cat <<END\n$A\nEND\nexec sh -c 'exit 9'": "",
    "cat": "input",
    "# nothing": "",
}


@pytest.mark.parametrize("text", SCRIPTS)
def test_a_script_made_with_a_secret_ends_and_says_the_same_as_any_other(text: str) -> None:
    results = []
    for value in (text, f"{text}{{{{ .secret.NONE }}}}"):
        of = script("shell", "SCRIPT", value)
        found = compiled(of, "shell", secrets={"NONE": ""})
        assert bool(found.secrets) is ("NONE" in value)
        made = launch(of, "shell", {**found.environment, **found.secrets}, "process")
        environment = {"PATH": os.environ["PATH"], "A": "x y", **found.environment, **found.secrets}
        done = subprocess.run(
            made.argv, env=environment, input=SCRIPTS[text].encode(), capture_output=True, check=False
        )
        results.append((done.returncode, done.stdout))
    assert results[0] == results[1]


def test_p8_the_arguments_of_a_running_script_do_not_show_its_secret() -> None:
    of = script("shell", "SCRIPT", "echo begun; read line; echo {{ .secret.KEY }} $line")
    found = compiled(of, "shell")
    made = launch(of, "shell", {**found.environment, **found.secrets}, "process")
    environment = {"PATH": os.environ["PATH"], **found.environment, **found.secrets}
    with subprocess.Popen(made.argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == "begun\n"
        arguments = Path(f"/proc/{task.pid}/cmdline").read_text()
        children = Path(f"/proc/{task.pid}/task/{task.pid}/children").read_text().split()
        assert "s3cr3t" not in arguments + "".join(Path(f"/proc/{one}/cmdline").read_text() for one in children)
        assert task.communicate("seen\n")[0] == "s3cr3t seen\n"


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


def test_config_and_variables_of_project_and_namespace_are_one_and_the_nearest_wins() -> None:
    found = variables_of(
        {"a": "project config", "b": "project config", "c": "project config", "d": "project config"},
        {"b": "namespace config", "c": "namespace config", "d": "namespace config"},
        {"c": "project variable", "d": "project variable"},
        {"d": "namespace variable"},
    )
    assert found == {
        "a": "project config",
        "b": "namespace config",
        "c": "project variable",
        "d": "namespace variable",
    }


WITH_PARAMS = """version: 2
name: a.b
owner: me
task: {name: shell, config: {SCRIPT: '{{ .params.word }} {{ .params.n }}'}}
params: {word: {}, n: {type: integer, default: 3}}
"""


def test_a_text_that_needs_a_param_without_a_value_is_judged_when_there_is_one() -> None:
    made = replace(bundle(WITH_PARAMS), params={"n": 3})
    tried = try_bundle(made, at=AT, secrets=Masked(), assets={}, executor=lambda planned: planned.executor)
    assert tried.problems == ()
    with pytest.raises(SpecError, match="word"):
        compile_instance(made, "shell", scheduled_at=AT, started_at=AT, secrets=Masked(), assets={})
    made = replace(made, params={"n": 3, "word": "w"})
    compiled = compile_instance(made, "shell", scheduled_at=AT, started_at=AT, secrets=Masked(), assets={})
    assert (compiled.environment["SCRIPT"], compiled.params) == ("w 3", {"n": 3, "word": "w"})


def test_what_is_wrong_with_a_text_that_needs_no_open_param_is_told() -> None:
    text = WITH_PARAMS.replace("{{ .params.word }} {{ .params.n }}", "{{ .params.m }} {{ .params.n }}")
    made = replace(bundle(text), params={"n": 3})
    tried = try_bundle(made, at=AT, secrets=Masked(), assets={}, executor=None)
    assert [one.key for one in tried.problems] == ["task.config.SCRIPT"]


def test_an_asset_that_includes_what_needs_an_open_param_waits_for_it_too() -> None:
    made = replace(bundle(WITH_PARAMS), params={})
    assets = {"a.sql": b'{{ template "p.tmpl" . }}', "p.tmpl": b"{{ .params.word }}"}
    assert try_bundle(made, at=AT, secrets=Masked(), assets=assets, executor=None).problems == ()

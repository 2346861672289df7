"""Plugins of both shapes, the built-in ones, and a job checked against what it names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from agent.spec.check import check_job
from agent.spec.errors import PluginError, Severity, has_errors
from agent.spec.job import parse_job
from agent.spec.jobspec import HookType
from agent.spec.plugin import (
    BUILTIN,
    CONTAINER,
    SHELL,
    Entrypoint,
    Plugin,
    PluginKind,
    PluginVersion,
    parse_plugin,
    script_asset,
)

DATA = Path(__file__).parent / "data"


def good(text: str) -> Plugin:
    plugin, problems = parse_plugin(text, "p.yaml")
    assert plugin is not None, problems
    return plugin


def errors(text: str) -> list[str]:
    plugin, problems = parse_plugin(text, "p.yaml")
    assert (plugin is None) is has_errors(problems)
    return [str(problem) for problem in problems if problem.severity is Severity.ERROR]


def test_a_task_plugin_of_the_older_shape() -> None:
    plugin, problems = parse_plugin((DATA / "plugin_raystack.yaml").read_text(), "p.yaml")
    script = "sleep 1\npython3 /opt/bumblebee/main.py"
    assert plugin == Plugin(
        name="bq2bq",
        description="BigQuery to BigQuery transformation task",
        kind=PluginKind.TASK,
        versions={
            "0.3.2": PluginVersion(
                image="docker.io/raystack/bq2bq-executor:0.3.2", entrypoint=Entrypoint(shell="/bin/bash", script=script)
            )
        },
        default_version="0.3.2",
        default_config={"SQL_TYPE": "STANDARD", "LOAD_METHOD": "APPEND"},
        default_assets={"query.sql": 'Select * from "project.dataset.table"\n'},
    )
    assert [problem.key for problem in problems] == ["pluginmods", "apiversion", "secretpath", "questions"]
    assert {problem.severity for problem in problems} == {Severity.WARNING}


def test_a_hook_plugin_of_the_older_shape_with_a_scalar_entrypoint() -> None:
    plugin = good((DATA / "plugin_raystack_hook.yaml").read_text())
    assert (plugin.kind, plugin.hook_type, plugin.depends_on) == (PluginKind.HOOK, HookType.POST, ("transporter",))
    assert plugin.entrypoint() == Entrypoint(shell="/bin/sh", script="predator run --audit")
    assert plugin.image() == plugin.image("latest") == plugin.image("default") == "docker.io/raystack/predator:latest"


def test_a_plugin_of_the_newer_shape_whose_versions_borrow_from_the_default() -> None:
    plugin = good((DATA / "plugin_goto.yaml").read_text())
    assert (plugin.kind, plugin.hook_type, plugin.default_version) == (PluginKind.ANY, HookType.POST, "default")
    assert plugin.image() == "docker.io/goto/bq2bq:1.0"
    assert plugin.image("next") == "docker.io/goto/bq2bq:2.0"
    assert plugin.entrypoint("next") == Entrypoint(shell="/bin/bash", script="python3 /opt/main.py")
    assert plugin.image("other") == "docker.io/goto/other:9"
    assert plugin.entrypoint("other") == Entrypoint(shell="/bin/bash", script="other")
    assert plugin.default_config == {"LOAD_METHOD": "APPEND"}
    assert plugin.destination_urn_template.startswith("bigquery://{{ .TASK__PROJECT }}")


def test_the_only_version_is_the_default_one() -> None:
    plugin = good("name: p\nplugin_versions: {v7: {image: x}}\nhooktype: fail\n")
    assert (plugin.default_version, plugin.hook_type) == ("v7", HookType.FAIL)
    assert plugin.image() == "x"
    assert plugin.entrypoint() is None, "the image's own"


@pytest.mark.parametrize("name", ["plugin_raystack.yaml", "plugin_raystack_hook.yaml", "plugin_goto.yaml"])
def test_a_plugin_survives_json(name: str) -> None:
    plugin = good((DATA / name).read_text())
    assert msgspec.json.decode(msgspec.json.encode(plugin), type=Plugin) == plugin


def test_an_unknown_version_is_refused_with_those_there_are() -> None:
    plugin = good((DATA / "plugin_goto.yaml").read_text())
    with pytest.raises(
        PluginError, match=r"plugin bq2bq has no version 'nxt'; did you mean 'next'\? Known: default, next"
    ):
        plugin.image("nxt")


def test_a_plugin_for_the_process_executor_needs_no_image() -> None:
    plugin = good("name: p\nplugintype: task\nexecutor: process\ncommand: [run, --fast]\n")
    assert (plugin.executor, plugin.command) == ("process", ("run", "--fast"))
    assert good("name: p\nplugintype: task\nexecutor: process\ncommand: run it\n").command == (
        "/bin/sh",
        "-c",
        "run it",
    )
    assert good("name: p\nplugintype: task\nexecutor: process\nentrypoint: run it\n").command == ()
    with pytest.raises(PluginError, match="plugin p names no image; add one, or run it with the executor process"):
        plugin.image()


def test_an_executor_of_a_third_party_decides_itself_what_it_needs() -> None:
    assert good("name: p\nplugintype: task\nexecutor: slurm\n").executor == "slurm"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("name: p\nimage: x\n", ["1:1: plugintype: plugintype is missing: task or hook is required"]),
        (
            "name: p\nplugintype: taks\nimage: x\n",
            ["2:13: plugintype: 'taks' is not possible here; did you mean 'task'?"],
        ),
        ("name: p\nplugintype: task\n", ["1:1: image: image is missing: the image to run is required"]),
        ("name: ../p\nplugintype: task\nimage: x\n", ["1:7: name: a plugin's name of 1 to 100 letters"]),
        ("name: shell\nplugintype: task\nimage: x\n", ["1:7: name: the plugin shell is built in; choose another name"]),
        (
            "name: p\nplugintype: task\nexecutor: process\n",
            ["1:1: command: command is missing: the process executor runs a command or an entrypoint's script"],
        ),
        (
            "name: p\nplugintype: task\nimag: x\n",
            ["1:1: image: ", "3:1: imag: unknown key 'imag'; did you mean 'image'?"],
        ),
        (
            "name: p\nplugintype: hook\nhooktype: setup\nimage: x\n",
            ["3:11: hooktype: a plugin's hooktype is pre, post or"],
        ),
        ("name: p\nplugintype: task\nimage: x\nentrypoint: [x]\n", ["4:13: entrypoint: a mapping of keys is expected"]),
        (
            "name: p\nplugin_versions: {a: {image: x}, b: {image: y}}\n",
            ["2:18: plugin_versions: a version named 'default'"],
        ),
        (
            "name: p\nplugin_versions: {}\n",
            ["2:18: plugin_versions: a version named 'default' is required; known: none"],
        ),
        ("name: p\nplugin_versions: {default: {tag: x}}\n", ["1:1: plugin_versions.default.image: "]),
        (
            "name: p\nplugin_versions: {default: {image: x, tg: y}}\n",
            ["2:39: plugin_versions.default.tg: unknown key 'tg'"],
        ),
        (
            "name: p\nplugintype: task\nimage: x\ndefaultconfig: [{name: A, value: b}, {name: A}, {value: c}]\n",
            ["4:45: defaultconfig[1].name: A is given twice", "4:49: defaultconfig[2].name: name is missing"],
        ),
        ("", ["1:1: the file is empty"]),
    ],
)
def test_a_mistake_is_told_with_place_and_key(text: str, messages: list[str]) -> None:
    found = errors(text)
    assert len(found) == len(messages), found
    for one, message in zip(found, messages, strict=True):
        assert one.removeprefix("p.yaml:").startswith(message)


# --- built in --------------------------------------------------------------------------------------------------------


def test_the_built_in_plugins_may_be_tasks_and_hooks() -> None:
    assert {name: (plugin.kind, plugin.executor) for name, plugin in BUILTIN.items()} == {
        "shell": (PluginKind.ANY, "process"),
        "container": (PluginKind.ANY, "docker"),
    }


def run_shell(job_dir: Path, script: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "JOB_DIR": str(job_dir)} | ({"SCRIPT": script} if script else {})
    return subprocess.run(SHELL.command, env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_shell_runs_the_config_before_the_asset_and_ends_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "other.sh").write_text("echo other; exit 5\n")
    assert (run_shell(tmp_path).stdout, run_shell(tmp_path).returncode) == ("other\n", 5)
    (tmp_path / "in" / "script.sh").write_text('echo "asset in $JOB_DIR"; exit 3\n')
    asset = run_shell(tmp_path)
    assert (asset.stdout, asset.returncode) == (f"asset in {tmp_path}\n", 3)
    config = run_shell(tmp_path, 'echo "it\'s $JOB_DIR"\nexit 4\n')
    assert (config.stdout, config.returncode) == (f"it's {tmp_path}\n", 4)


@pytest.mark.parametrize(
    ("names", "asset"),
    [
        (["a.sh", "script.sh"], "script.sh"),
        (["query.sql", "run.sh"], "run.sh"),
        (["a.sh", "b.sh"], None),
        (["lib/a.sh"], None),
        ([], None),
    ],
)
def test_the_script_asset_is_script_sh_or_the_only_one(names: list[str], asset: str | None) -> None:
    assert script_asset(names) == asset


def test_container_takes_its_image_from_the_config() -> None:
    assert CONTAINER.image(config={"IMAGE": " alpine:3 "}) == "alpine:3"
    with pytest.raises(PluginError, match="plugin container runs the image that the config IMAGE names: set it"):
        CONTAINER.image()


def test_container_runs_its_command_or_what_the_image_runs() -> None:
    assert CONTAINER.entrypoint(config={"COMMAND": "true"}) == Entrypoint(script='exec /bin/sh -c "$COMMAND"')
    assert CONTAINER.entrypoint(config={"COMMAND": " "}) is None
    assert CONTAINER.entrypoint() is None
    assert SHELL.entrypoint() is not None, "shell decides by itself what to run"


# --- a job against its plugins ---------------------------------------------------------------------------------------

PLUGINS = {
    plugin.name: plugin
    for plugin in (
        good("name: bq2bq\nplugintype: task\npluginversion: v1\nimage: x\n"),
        good("name: a\nplugintype: hook\nimage: x\ndependson: [b, absent]\n"),
        good("name: b\nplugintype: hook\nimage: x\ndependson: [c]\n"),
        good("name: c\nplugintype: hook\nimage: x\ndependson: [a]\n"),
        good("name: d\nplugintype: hook\nimage: x\ndependson: [c]\n"),
    )
}


HEAD = "version: 3\nname: sample-job\nowner: me\n"


def checked(
    task: str, hooks: str = "[]", *, assets: list[str] | None = None, presets: list[str] | None = None
) -> list[str]:
    text = f"{HEAD}task: {task}\nhooks: {hooks}\n"
    parsed = parse_job(text, "job.yaml")
    assert parsed.job is not None, parsed.problems
    found = check_job(parsed.job, PLUGINS, "job.yaml", positions=parsed.positions, assets=assets, presets=presets)
    return [str(problem) for problem in found]


def test_a_job_that_names_what_there_is_has_no_problem() -> None:
    window = "{preset: yesterday}"
    assert (
        checked(f"{{name: bq2bq, version: v1, window: {window}}}", "[{name: a}, {name: b}]", presets=["yesterday"])
        == []
    )
    assert checked(f"{{name: bq2bq, window: {window}}}", "[{name: d}, {name: c}, {name: b}]") == []


@pytest.mark.parametrize(
    ("task", "hooks", "message"),
    [
        (
            "{name: bq2b}",
            "[]",
            "4:14: task.name: there is no plugin 'bq2b'; did you mean 'bq2bq'? Known: a, b, bq2bq, c, ",
        ),
        ("{name: bq2bq}", "[{name: shel}]", "5:16: hooks[0].name: there is no plugin 'shel'; did you mean 'shell'?"),
        (
            "{name: bq2bq, version: v2}",
            "[]",
            "4:30: task.version: plugin bq2bq has no version 'v2'; known: v1",
        ),
        ("{name: a}", "[]", "4:14: task.name: the plugin a is a hook; a task plugin is required here"),
        (
            "{name: bq2bq}",
            "[{name: bq2bq}]",
            "5:16: hooks[0].name: the plugin bq2bq is a task; a hook plugin is required",
        ),
        ("{name: bq2bq}", "[{name: a}, {name: a}]", "5:27: hooks[1].name: the hook a is given twice"),
        (
            "{name: bq2bq}",
            "[{name: c}, {name: b}, {name: a}, {name: d}]",
            "5:8: hooks: hooks wait for each other in a circle: a -> b -> c -> a; break it in a plugin's dependson",
        ),
        ("{name: container}", "[]", "4:7: task.config: the plugin container needs the config IMAGE: the image to run"),
    ],
)
def test_what_a_job_names_wrongly_is_told_at_its_place(task: str, hooks: str, message: str) -> None:
    found = checked(task, hooks)
    assert len(found) == 1, found
    assert found[0].startswith(f"job.yaml:{message}")


def test_shell_needs_a_script_where_the_assets_are_known() -> None:
    assert checked("{name: shell}") == []
    assert checked("{name: shell}", assets=["script.sh"]) == []
    assert checked("{name: shell, config: {SCRIPT: 'true'}}", assets=[]) == []
    assert checked("{name: shell, config: {X: y}}", assets=["query.sql"]) == [
        "job.yaml:4:29: task.config: the plugin shell needs the config SCRIPT or an asset script.sh"
    ]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ('{name: bq2bq, config: {A: "x\\0y"}}', "4:33: task.config.A: a NUL character cannot be handed to a program"),
        (f"{{name: bq2bq, config: {{A: {'x' * 131_072}}}}}", "4:33: task.config.A: 131074 bytes are too many"),
        ('{name: bq2bq, config: {A: "x\\0 {{ .DSTART }}"}}', ""),
    ],
)
def test_p11_config_that_no_program_can_be_given_is_told_before_it_runs(task: str, message: str) -> None:
    for found in (checked(task), checked("{name: bq2bq}", f"[{task.replace('bq2bq', 'd')}]")):
        assert len(found) == bool(message), found
    if message:
        assert checked(task)[0].startswith(f"job.yaml:{message}")
        assert "hooks[0].config.A" in found[0]


def test_config_of_the_name_of_a_variable_of_primes_own_has_no_effect_and_is_told() -> None:
    (found,) = checked("{name: bq2bq, config: {JOB_DIR: /etc}}")
    assert found.startswith("job.yaml:4:39: task.config.JOB_DIR: has no effect; JOB_DIR is prime's own variable")
    parsed = parse_job(f"{HEAD}task: {{name: bq2bq, config: {{PRIME_RUN_ID: x}}}}\n", "job.yaml")
    assert parsed.job is not None
    assert not has_errors(check_job(parsed.job, PLUGINS, "job.yaml"))


def test_p11_assets_that_no_folder_can_hold_are_told_with_those_of_the_plugin() -> None:
    with_asset = good("name: with\nplugintype: task\nimage: x\ndefaultassets: {a: x}\n")
    parsed = parse_job(f"{HEAD}task: {{name: with}}\n", "job.yaml")
    assert parsed.job is not None
    for assets, count in ((["a/b"], 1), ([".secret", "b"], 1), (["a", "b/c"], 0), (["x" * 256, "y\n"], 2)):
        found = check_job(parsed.job, {"with": with_asset}, "job.yaml", assets=assets)
        assert [(one.file, one.key) for one in found] == [("job.yaml", "assets")] * count, found
    unknown = parse_job(f"{HEAD}task: {{name: nothing}}\n", "job.yaml")
    assert unknown.job is not None
    keys = [one.key for one in check_job(unknown.job, {}, "job.yaml", assets=[".env"])]
    assert sorted(keys) == ["assets", "task.name"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("image: x\ndefaultassets: {../x: y}", "4:16: defaultassets: the asset '../x' leaves its folder"),
        ("image: x\ndefaultassets: {a: y, a/b: y}", "4:16: defaultassets: the asset 'a/b' needs a folder"),
        ('image: x\ndefaultconfig: {A: "\\0"}', "4:16: defaultconfig: A: a NUL character"),
        ('image: x\ndefaultconfig: {A: "{{ .X }}\\0"}', ""),
        ('image: x\nentrypoint: "a\\0"', "4:13: entrypoint: a NUL character"),
        (f"image: x\nentrypoint: {{script: {'x' * 131_072}}}", "4:13: entrypoint: 131072 bytes are too many"),
        ('executor: process\ncommand: [a, "b\\0"]', "4:10: command: a NUL character"),
    ],
)
def test_p11_a_plugin_that_nothing_can_be_started_with_is_refused(lines: str, message: str) -> None:
    found = errors(f"name: p\nplugintype: task\n{lines}\n")
    assert len(found) == bool(message), found
    if message:
        assert found[0].startswith(f"p.yaml:{message}")


def test_p11_every_version_of_a_plugin_is_looked_at() -> None:
    text = 'version: 1\nname: p\nplugin_versions:\n  default: {image: x}\n  new: {entrypoint: {shell: "a\\0"}}\n'
    (found,) = errors(text + "default_config: {A: b}\ndefault_assets: {a: b}\n")
    assert found.startswith("p.yaml:4:3: plugin_versions: a NUL character")
    found, other = errors(text.replace(r"a\0", "sh") + 'default_config: {A: "\\0"}\ndefault_assets: {.env: b}\n')
    assert "default_config: A: " in found
    assert "default_assets: the asset '.env'" in other


def test_a_container_hook_with_an_image_is_fine() -> None:
    assert checked("{name: bq2bq}", "[{name: container, config: {IMAGE: alpine}}]") == []


def test_an_unknown_preset_is_refused_with_the_nearest_one() -> None:
    assert checked("{name: bq2bq, window: {preset: yesterdy}}", presets=["yesterday"]) == [
        "job.yaml:4:38: task.window.preset: there is no preset 'yesterdy'; did you mean 'yesterday'? Known: yesterday"
    ]


def test_without_places_a_problem_points_at_the_start_of_the_file() -> None:
    parsed = parse_job("version: 3\nname: sample-job\nowner: me\ntask: {name: nothing}\n", "job.yaml")
    assert parsed.job is not None
    assert str(check_job(parsed.job, {}, "job.yaml")[0]).startswith(
        "job.yaml:1:1: task.name: there is no plugin 'nothing'"
    )

"""`optimus.yaml` and the file of window presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.spec.errors import Severity
from agent.spec.jobspec import WindowSpec
from agent.spec.project import (
    NamespaceConfig,
    ProjectConfig,
    WindowPreset,
    keep_logs_s,
    parse_presets,
    parse_project,
    project_positions,
)

DATA = Path(__file__).parent / "data"


def test_a_project_is_read_whole() -> None:
    project, problems = parse_project((DATA / "optimus.yaml").read_text(), "optimus.yaml")
    assert project == ProjectConfig(
        version=1,
        name="sample-project",
        host="localhost:9100",
        log_level="INFO",
        config={"environment": "integration", "storage_path": "gs://${BUCKET}/assets", "executor": "process"},
        variables={"KAFKA_BROKERS": "10.0.0.1:6668"},
        preset_path="presets.yaml",
        namespaces=(
            NamespaceConfig(
                name="playground",
                job_path="./jobs/playground",
                config={"owner": "play"},
                variables={"BUCKET": "scratch"},
            ),
            NamespaceConfig(name="finance", job_path="jobs/finance"),
        ),
        auth={"client_id": "prime", "client_secret": "not-a-real-one"},
    )
    assert [str(problem) for problem in problems] == [
        "optimus.yaml:20:5: namespaces[0].datastore: has no effect; prime runs jobs and makes no tables"
    ]


def test_every_value_has_its_place_whatever_else_is_wrong() -> None:
    text = "project: {name: p}\nnamespaces:\n  - name: a\n    job: {path: here}\n  - {name: [], job: {path: there}}\n"
    positions = project_positions(text, "optimus.yaml")
    assert positions["namespaces[0].job.path"] == ("optimus.yaml", 4, 17)
    assert positions["namespaces[1].job.path"] == ("optimus.yaml", 5, 28)
    assert project_positions("[", "optimus.yaml") == {}


def test_credentials_do_not_show_in_the_repr() -> None:
    project, _ = parse_project((DATA / "optimus.yaml").read_text(), "optimus.yaml")
    assert "not-a-real-one" not in repr(project)


def test_a_project_needs_no_more_than_a_name() -> None:
    project, problems = parse_project("project: {name: p}\nlog: {format: json}\n", "optimus.yaml")
    assert (project, problems) == (ProjectConfig(version=1, name="p"), ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\n", "1:1: project.name: name is missing"),
        ("project: {name: a/b}\n", "1:17: project.name: a name of 1 to 220"),
        ("project: {name: p, confg: {}}\n", "1:20: project.confg: unknown key 'confg'; did you mean 'config'?"),
        (
            "project: {name: p, config: {pools: {a: 1}}}\n",
            "1:36: project.config.pools: a text is expected, not a mapping",
        ),
        ("project: {name: p}\nnamespaces: [{name: n}]\n", "2:14: namespaces[0].job.path: path is missing"),
        ("project: {name: p}\nnamespaces: [{job: {path: x}}]\n", "2:14: namespaces[0].name: name is missing"),
        (
            "project: {name: p}\nnamespaces: [{name: n, job: {path: x}}, {name: n, job: {path: y}}]\n",
            "2:48: namespaces[1].name: the namespace n is given twice",
        ),
        ("project: {name: p}\nnamespace: []\n", "2:1: namespace: unknown key 'namespace'; did you mean 'namespaces'?"),
        ("project: {name: p}\nlog: {levl: x}\n", "2:7: log.levl: unknown key 'levl'; did you mean 'level'?"),
    ],
)
def test_a_mistake_is_told_with_place_and_key(text: str, message: str) -> None:
    project, problems = parse_project(text, "optimus.yaml")
    assert project is None
    assert len(problems) == 1
    assert problems[0].severity is Severity.ERROR
    assert str(problems[0]).startswith(f"optimus.yaml:{message}")


def test_presets_are_windows_by_name() -> None:
    presets, problems = parse_presets((DATA / "presets.yaml").read_text(), "presets.yaml")
    assert problems == ()
    assert presets == {
        "yesterday": WindowPreset(
            name="yesterday",
            description="The day before the run's",
            window=WindowSpec(size="1d", shift_by="-1d", truncate_to="d", location="Asia/Jakarta"),
        ),
        "last_month": WindowPreset(name="last_month", window=WindowSpec(size="1M", truncate_to="M")),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("presets: {a: {description: x}}\n", "1:14: presets.a.window: window is missing: a preset is a window"),
        ("presets: {a: }\n", "1:10: presets.a.window: window is missing"),
        ("presets: {a: {window: {preset: b}}}\n", "1:23: presets.a.window: a preset has a window of its own"),
        ("presets: {a: {window: {size: often}}}\n", "1:30: presets.a.window.size: "),
        ("presets: {a: {window: {size: 1d, offset: 1d}}}\n", "1:42: presets.a.window.offset: "),
        ("presets: {a/b: {window: {size: 1d}}}\n", "1:16: presets.a/b: a name of 1 to 220"),
        ("presets: {a: {window: {size: 1d}, desc: x}}\n", "1:35: presets.a.desc: unknown key 'desc'; did you mean"),
        ("preset: {}\n", "1:1: preset: unknown key 'preset'; did you mean 'presets'? Known: presets"),
        ("presets: []\n", "1:10: presets: a mapping of keys is expected, not a list"),
    ],
)
def test_a_wrong_preset_is_told_with_place_and_key(text: str, message: str) -> None:
    presets, problems = parse_presets(text, "presets.yaml")
    assert presets is None
    assert len(problems) == 1, problems
    assert str(problems[0]).startswith(f"presets.yaml:{message}")


@pytest.mark.parametrize("value", ["15d", "0", "-1h", ""])
def test_p11_a_time_to_keep_logs_that_is_none_is_told_with_its_place(value: str) -> None:
    text = f"project:\n  name: p\n  config:\n    logs.keep: '{value}'\n"
    project, problems = parse_project(text, "optimus.yaml")
    assert project is None
    assert [str(one).startswith("optimus.yaml:4:16: project.config.logs.keep: ") for one in problems] == [True]


def test_a_time_to_keep_logs_is_read_in_seconds() -> None:
    project, problems = parse_project("project: {name: p, config: {logs.keep: 720h}}\n", "optimus.yaml")
    assert problems == ()
    assert project is not None
    assert keep_logs_s(project.config) == 720 * 3600
    assert keep_logs_s({}) is None

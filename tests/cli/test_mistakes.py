"""Mistakes in a project folder are told with the file and line to look at, by every command that meets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import prime

AT = "2026-03-02T02:00:00Z"
FILES = {
    "optimus.yaml": """\
project:
  name: shop
  variables: {days: "7"}
namespaces:
  - name: sales
    job: {path: jobs}
""",
    "plugins/sql.yaml": """\
name: sql
plugintype: task
image: busybox
entrypoint: cat in/query.sql
""",
    "plugins/tell.yaml": """\
name: tell
plugintype: hook
hooktype: post
image: busybox
entrypoint: echo $TEXT
""",
    "jobs/daily/job.yaml": """\
version: 2
name: daily
owner: me
schedule: {start_date: "2026-01-01", interval: 0 2 * * *}
task:
  name: sql
  config:
    TABLE: orders
    DAYS: "{{ .GLOBAL__days }}"
  window: {size: 24h, offset: "0", truncate_to: d}
hooks:
  - name: tell
    config:
      TEXT: done
""",
    "jobs/daily/assets/query.sql": "select 1\n-- of one day\nwhere day = '{{ .DSTART }}'\n",
}
JOB, QUERY = "jobs/daily/job.yaml", "jobs/daily/assets/query.sql"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A project without mistakes."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def change(shop: Path, name: str, old: str, new: str) -> None:
    text = (shop / name).read_text()
    assert text.count(old) == 1
    (shop / name).write_text(text.replace(old, new))


def errors(shop: Path, *words: str) -> list[dict[str, Any]]:
    """The errors that `job validate` finds; its exit code and form are those of any folder with errors."""
    done = prime("job", "validate", *words, "-o", "json", folder=shop)
    answer = done.json()
    assert list(answer) == ["jobs", "errors", "warnings"]
    assert answer["warnings"] == []
    assert all(list(one) == ["file", "line", "column", "key", "message"] for one in answer["errors"])
    assert done.code == (1 if answer["errors"] else 0)
    found: list[dict[str, Any]] = answer["errors"]
    return found


def places(found: list[dict[str, Any]]) -> list[tuple[str, int, int, str]]:
    return [(one["file"], one["line"], one["column"], one["key"]) for one in found]


def test_a_folder_without_mistakes_has_no_errors(shop: Path) -> None:
    assert errors(shop) == []


def test_yaml_that_is_none_is_told_with_the_line_where_reading_ended(shop: Path) -> None:
    change(shop, JOB, "name: daily", "name: [daily")
    (error,) = errors(shop)
    assert (error["file"], error["line"]) == (JOB, 3)
    assert error["message"].startswith("this is not YAML")


def test_an_unknown_key_is_answered_with_the_nearest_one(shop: Path) -> None:
    change(shop, JOB, "owner: me", "owner: me\nbehaviour: {}")
    (error,) = errors(shop)
    assert places([error]) == [(JOB, 4, 1, "behaviour")]
    assert "did you mean 'behavior'?" in error["message"]


def test_an_unknown_plugin_is_answered_with_the_nearest_one(shop: Path) -> None:
    change(shop, JOB, "name: sql", "name: sqll")
    change(shop, JOB, "name: tell", "name: tel")
    task, hook = errors(shop)
    assert places([task, hook]) == [(JOB, 6, 9, "task.name"), (JOB, 12, 11, "hooks[0].name")]
    assert "there is no plugin 'sqll'; did you mean 'sql'?" in task["message"]
    assert "did you mean 'tell'?" in hook["message"]


def test_two_jobs_of_one_name_are_told_with_both_files(shop: Path) -> None:
    (shop / "jobs/twin").mkdir()
    (shop / "jobs/twin/job.yaml").write_text(FILES[JOB])
    (error,) = errors(shop)
    assert places([error]) == [("jobs/twin/job.yaml", 2, 7, "name")]
    assert f"the name daily is taken by {JOB}" in error["message"]


def test_a_namespace_whose_folder_is_missing_is_an_error_of_the_project(shop: Path) -> None:
    change(shop, "optimus.yaml", "{path: jobs}", "{path: jobz}")
    (error,) = errors(shop)
    assert places([error]) == [("optimus.yaml", 6, 17, "namespaces[0].job.path")]
    assert "the folder jobz of the namespace sales is not there" in error["message"]


def test_a_file_of_presets_that_is_missing_is_told_at_the_key_that_names_it(shop: Path) -> None:
    change(shop, "optimus.yaml", "  name: shop", "  name: shop\n  preset_path: nowhere.yaml")
    assert places(errors(shop)) == [("optimus.yaml", 3, 16, "project.preset_path")]
    applying = prime("job", "apply", "--host", "http://127.0.0.1:1", folder=shop)
    assert (applying.code, "optimus.yaml:3:16: error: project.preset_path" in applying.err) == (2, True)


def test_what_a_broken_file_would_have_said_is_no_second_mistake(shop: Path) -> None:
    change(shop, JOB, "version: 2", "version: 3")
    change(shop, JOB, '{size: 24h, offset: "0", truncate_to: d}', "{preset: yesterday}")
    change(shop, "optimus.yaml", "  name: shop", "  name: shop\n  preset_path: presets.yaml")
    (shop / "presets.yaml").write_text("presets: {yesterday: {window: {sise: 1d}}}\n")
    assert {one["file"] for one in errors(shop)} == {"presets.yaml"}
    (shop / "presets.yaml").unlink()
    assert [one["file"] for one in errors(shop)] == ["optimus.yaml"]
    (shop / "presets.yaml").write_text("presets: {yesterday: {window: {size: 1d}}}\n")
    change(shop, "plugins/sql.yaml", "plugintype: task", "plugintype: tusk")
    assert [one["file"] for one in errors(shop)] == ["plugins/sql.yaml"]
    change(shop, JOB, "name: tell", "name: tel")  # and this is one
    assert {one["file"] for one in errors(shop)} == {"plugins/sql.yaml", JOB}


def test_an_executor_that_nobody_has_is_a_warning(shop: Path) -> None:
    change(shop, JOB, "  name: sql\n", "  name: sql\n  executor: dokcer\n")
    done = prime("job", "validate", "-o", "json", folder=shop).json()
    assert places(done["warnings"]) == [(JOB, 7, 13, "task.executor")]
    assert "did you mean 'docker'?" in done["warnings"][0]["message"]
    assert done["errors"] == []


def test_a_folder_without_optimus_yaml_is_checked_as_far_as_it_can_be(shop: Path) -> None:
    (shop / "optimus.yaml").unlink()
    assert errors(shop) == []
    done = prime("job", "validate", folder=shop)
    assert (done.code, done.out) == (0, "1 job, 0 errors, 0 warnings\n")
    assert "neither it nor a folder above it has an optimus.yaml" in done.err
    for words in (["compile", "daily", "--at", AT], ["next", "daily"]):
        refused = prime("job", *words, folder=shop)
        assert (refused.code, "lies in no project" in refused.err) == (2, True)


def test_one_file_is_checked_alone_but_with_its_project(shop: Path) -> None:
    (shop / "jobs/other").mkdir()
    (shop / "jobs/other/job.yaml").write_text("name: [\n")
    assert errors(shop, JOB) == []
    change(shop, JOB, "GLOBAL__days", "GLOBAL__dais")
    assert places(errors(shop, JOB)) == [(JOB, 9, 11, "task.config.DAYS")]


def test_unknown_variables_are_told_where_they_stand_in_the_job_and_in_its_assets(shop: Path) -> None:
    change(shop, JOB, "GLOBAL__days", "GLOBAL__dais")
    change(shop, QUERY, ".DSTART", ".DSTARTT")
    value, asset = errors(shop)
    assert places([value])[0][:3] == (JOB, 9, 11)
    assert (asset["file"], asset["line"]) == (QUERY, 3)
    assert "GLOBAL__dais" in value["message"]
    assert "DSTARTT" in asset["message"]


def test_mistakes_of_the_task_and_of_its_hooks_are_told_at_once_and_each_once(shop: Path) -> None:
    change(shop, JOB, "GLOBAL__days", "GLOBAL__dais")
    change(shop, JOB, "TEXT: done", 'TEXT: "{{ .nope }}"')
    change(shop, QUERY, ".DSTART", ".DSTARTT")
    assert [place[:2] for place in places(errors(shop))] == [(JOB, 9), (QUERY, 3), (JOB, 14)]


def test_compile_tells_a_mistake_where_validate_does(shop: Path) -> None:
    change(shop, JOB, "GLOBAL__days", "GLOBAL__dais")
    change(shop, QUERY, ".DSTART", ".DSTARTT")
    done = prime("job", "compile", "daily", "--at", AT, folder=shop)
    assert done.code == 1
    assert f"{JOB}:9:11: error: task.config.DAYS: " in done.err
    assert '        DAYS: "{{ .GLOBAL__dais }}"\n              ^\n' in done.err
    assert f"{QUERY}:3:" in done.err
    assert "    where day = '{{ .DSTARTT }}'\n" in done.err
    assert done.err.endswith("error: the job has 2 errors\n")


def test_a_window_beyond_all_calendars_is_told_at_the_window(shop: Path) -> None:
    done = prime("job", "compile", "daily", "--at", "0001-01-01", folder=shop)
    assert (done.code, f"{JOB}:10:11: error: task.window: window of" in done.err) == (1, True)


def test_a_plugin_that_its_executor_cannot_run_is_told_with_what_it_lacks(shop: Path) -> None:
    change(shop, "plugins/sql.yaml", "entrypoint: cat in/query.sql\n", "")
    assert errors(shop) == []  # a container needs none
    change(shop, "optimus.yaml", "  name: shop", "  name: shop\n  config: {executor: process}")
    (error,) = errors(shop)
    assert places([error]) == [(JOB, 6, 9, "task.name")]
    assert "plugin sql has no command and no entrypoint script" in error["message"]


def test_a_thousand_jobs_are_checked(shop: Path) -> None:
    for number in range(999):
        folder = shop / "jobs" / f"j{number}"
        folder.mkdir()
        (folder / "job.yaml").write_text(FILES[JOB].replace("name: daily", f"name: daily-{number}"))
    done = prime("job", "validate", "-o", "json", folder=shop)
    assert (done.code, done.json()) == (0, {"jobs": 1000, "errors": [], "warnings": []})

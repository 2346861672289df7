"""compile, next and validate: what a project folder tells without any agent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.folder import load_folder
from agent.offline import validate
from agent.spec import limits
from agent.spec.errors import Severity
from tests.cli.terminal import BROKEN, DATA, SHOP, prime

AT = "2022-07-05T02:10:10Z"
JOB = "version: 2\nname: {name}\nowner: me\ntask: {{name: shell, config: {{SCRIPT: echo}}}}\n"


def golden(name: str) -> str:
    return (DATA / "golden" / name).read_text()


# -- compile -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "file"), [((), "compile_task.json"), (("--instance", "tell"), "compile_hook.json")]
)
def test_compile_shows_what_an_instance_would_find(options: tuple[str, ...], file: str) -> None:
    done = prime("job", "compile", "sales.daily", "--at", AT, *options, "-o", "json", folder=SHOP)
    assert done.code == 0, done.err
    assert done.json() == json.loads(golden(file))
    assert list(done.json()) == ["job", "scheduled_at", "window", "envs", "secrets", "assets"]


def test_compile_works_from_any_folder_below_the_project() -> None:
    below = SHOP / "jobs" / "ops" / "clean"
    assert prime("job", "compile", "sales.daily", "--at", AT, "-o", "json", folder=below).json() == json.loads(
        golden("compile_task.json")
    )


def test_compile_as_a_table_never_shows_a_secret() -> None:
    done = prime("job", "compile", "sales.daily", "--at", AT, folder=SHOP)
    assert done.code == 0
    assert "PASSWORD" in done.out
    assert "***" in done.out
    assert "insert into toy://toy/orders_7" in done.out


def test_compile_takes_params_and_says_which_are_wrong(tmp_path: Path) -> None:
    shop = shutil.copytree(SHOP, tmp_path / "shop")
    spec = JOB.format(name="asked").replace("SCRIPT: echo", "SCRIPT: '{{ .params.day }}'") + "params: {day: {}}\n"
    (shop / "jobs/ops/asked").mkdir()
    (shop / "jobs/ops/asked/job.yaml").write_text(spec)
    assert prime("job", "validate", folder=shop).code == 0
    words = ("job", "compile", "asked", "--at", AT, "-o", "json")
    assert prime(*words, "--param", "day=monday", folder=shop).json()["envs"]["SCRIPT"] == "monday"
    wrong = prime(*words, "--param", "dya=monday", folder=shop)
    assert (wrong.code, "did you mean 'day'" in wrong.err, "params.day: a text is required" in wrong.err) == (
        2,
        True,
        True,
    )


def test_compile_says_null_of_an_asset_that_is_no_text(tmp_path: Path) -> None:
    shop = shutil.copytree(SHOP, tmp_path / "shop")
    (shop / "jobs/ops/clean/assets").mkdir()
    (shop / "jobs/ops/clean/assets/logo.png").write_bytes(b"\x89PNG\xff")
    done = prime("job", "compile", "ops.clean", "--at", AT, "-o", "json", folder=shop)
    assert done.json()["assets"] == {"logo.png": None}
    assert "(not a text)" in prime("job", "compile", "ops.clean", "--at", AT, folder=shop).out


def test_an_unknown_job_is_answered_with_the_nearest_one() -> None:
    done = prime("job", "compile", "sales.dayli", "--at", AT, folder=SHOP)
    assert done.code == 2
    assert "there is no job 'sales.dayli'" in done.err
    assert "did you mean 'sales.daily'?" in done.err


def test_of_many_jobs_only_the_nearest_are_named(tmp_path: Path) -> None:
    (tmp_path / "optimus.yaml").write_text("project: {name: p}\nnamespaces: [{name: n, job: {path: jobs}}]\n")
    for number in range(60):
        (tmp_path / f"jobs/{number}").mkdir(parents=True)
        (tmp_path / f"jobs/{number}/job.yaml").write_text(JOB.format(name=f"job-{number:02}"))
    done = prime("job", "compile", "job-077", "--at", AT, folder=tmp_path)
    assert "did you mean 'job-07'?" in done.err
    assert done.err.endswith(", ... (60 in all)\n")
    assert done.err.count("job-") < 8


def test_an_unknown_instance_is_a_usage_error() -> None:
    done = prime("job", "compile", "sales.daily", "--at", AT, "--instance", "tel", folder=SHOP)
    assert done.code == 2
    assert "has no instance 'tel'; did you mean 'tell'? Known: sql, tell" in done.err


def test_a_job_with_errors_shows_the_line_and_a_caret() -> None:
    done = prime("job", "compile", "first", "--at", AT, folder=BROKEN)
    assert done.code == 1
    assert "jobs/one/job.yaml:6:3: error: task.widnow: unknown key 'widnow'" in done.err
    assert "      widnow: {size: 24h}\n      ^\n" in done.err
    assert done.err.endswith("error: the job has 1 error\n")


def test_a_plugin_that_cannot_be_read_is_shown_where_a_job_needs_it(tmp_path: Path) -> None:
    shop = shutil.copytree(SHOP, tmp_path / "shop")
    (shop / "plugins" / "sql.yaml").write_text("name: sql\nplugintype: tusk\nimage: x\n")
    done = prime("job", "compile", "sales.daily", "--at", AT, folder=shop)
    assert done.code == 1
    assert "plugins/sql.yaml:2:13" in done.err
    assert prime("job", "compile", "ops.clean", "--at", AT, folder=shop).code == 0


def test_a_command_that_needs_a_project_says_so_outside_of_one(tmp_path: Path) -> None:
    done = prime("job", "compile", "x", "--at", AT, folder=tmp_path)
    assert (done.code, "lies in no project" in done.err) == (2, True)


def test_a_time_that_is_none_is_a_usage_error() -> None:
    done = prime("job", "compile", "sales.daily", "--at", "yesterday", folder=SHOP)
    assert (done.code, "--at 'yesterday': a time is expected" in done.err) == (2, True)


# -- next --------------------------------------------------------------------------------------------------------------


def test_next_follows_the_clock_of_the_jobs_place() -> None:
    done = prime(
        "job", "next", "sales.hourly", "--after", "2026-03-07T00:00:00Z", "--count", "3", "-o", "json", folder=SHOP
    )
    assert done.json() == {"ticks": ["2026-03-07T07:30:00Z", "2026-03-08T07:30:00Z", "2026-03-09T06:30:00Z"]}


def test_next_leaves_out_the_moment_it_is_asked_from() -> None:
    done = prime(
        "job", "next", "sales.daily", "--after", "2026-01-02T02:00:00Z", "--count", "1", "-o", "json", folder=SHOP
    )
    assert done.json() == {"ticks": ["2026-01-03T02:00:00Z"]}


def test_next_keeps_within_start_date_and_end_date() -> None:
    early = prime("job", "next", "sales.hourly", "--after", "2020-01-01", "--count", "1", "-o", "json", folder=SHOP)
    assert early.json() == {"ticks": ["2026-03-01T07:30:00Z"]}
    late = prime("job", "next", "sales.hourly", "--after", "2026-03-09", "--count", "9", "-o", "json", folder=SHOP)
    assert late.json() == {"ticks": ["2026-03-09T06:30:00Z"]}
    assert prime("job", "next", "sales.hourly", "--after", "2027-01-01", folder=SHOP).out == "no more ticks\n"


def test_next_counts_from_now_and_prints_a_tick_a_line() -> None:
    done = prime("job", "next", "sales.daily", folder=SHOP)
    assert done.code == 0
    assert [line[10:] for line in done.out.splitlines()] == ["T02:00:00Z"] * 5


def test_next_of_a_job_without_a_schedule_says_that_it_has_none() -> None:
    done = prime("job", "next", "ops.clean", folder=SHOP)
    assert (done.code, "has no schedule.interval" in done.out) == (0, True)
    assert prime("job", "next", "ops.clean", "-o", "json", folder=SHOP).json() == {"ticks": []}


# -- validate ----------------------------------------------------------------------------------------------------------


def test_validate_finds_nothing_wrong_in_a_good_project() -> None:
    done = prime("job", "validate", "-o", "json", folder=SHOP)
    assert (done.code, done.json()) == (0, {"jobs": 3, "errors": [], "warnings": []})


def test_validate_lists_all_errors_of_all_files_at_once() -> None:
    done = prime("job", "validate", "-o", "json", folder=BROKEN)
    assert (done.code, done.json()) == (1, json.loads(golden("validate_broken.json")))
    text = prime("job", "validate", folder=BROKEN)
    assert (text.code, text.err) == (1, golden("validate_broken.txt"))
    assert text.out == "2 jobs, 2 errors, 0 warnings\n"


def test_validate_names_files_as_seen_from_where_one_stands() -> None:
    done = prime("job", "validate", "broken", "-o", "json", folder=DATA)
    assert {one["file"] for one in done.json()["errors"]} == {
        "broken/jobs/one/job.yaml",
        "broken/jobs/two/job.yaml",
    }


@pytest.mark.parametrize(
    ("path", "jobs"), [("jobs/sales", 2), ("jobs/ops/clean/job.yaml", 1), ("plugins/sql.yaml", 0), ("optimus.yaml", 0)]
)
def test_validate_looks_only_at_what_is_named(path: str, jobs: int) -> None:
    done = prime("job", "validate", path, "-o", "json", folder=SHOP)
    assert (done.code, done.json()["jobs"]) == (0, jobs)


def test_of_files_that_are_not_named_validate_tells_errors_but_no_warnings(tmp_path: Path) -> None:
    shop = shutil.copytree(SHOP, tmp_path / "shop")
    with (shop / "plugins/sql.yaml").open("a") as plugin:
        plugin.write("questions: []\n")

    def warned(*words: str) -> list[str]:
        return [one["file"] for one in prime("job", "validate", *words, "-o", "json", folder=shop).json()["warnings"]]

    assert warned() == warned("plugins/sql.yaml") == ["plugins/sql.yaml"]
    assert warned("jobs/ops/clean/job.yaml") == warned("jobs/sales") == warned("optimus.yaml") == []
    (shop / "plugins/sql.yaml").write_text("name: [\n")
    done = prime("job", "validate", "jobs/ops/clean/job.yaml", "-o", "json", folder=shop)
    assert [one["file"] for one in done.json()["errors"]] == ["plugins/sql.yaml"]


def test_validate_takes_a_folder_of_jobs_without_a_project(tmp_path: Path) -> None:
    for name in ("aaa", "bbb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.yaml").write_text(JOB.format(name=name))
    (tmp_path / "this.yaml").write_text("labels: [1]\n")
    done = prime("job", "validate", tmp_path, "-o", "json")
    assert (done.code, done.json()["jobs"]) == (1, 2)
    (error,) = done.json()["errors"]  # once, not for each job below it
    assert (Path(error["file"]).name, error["key"]) == ("this.yaml", "labels")
    (tmp_path / "this.yaml").unlink()
    done = prime("job", "validate", tmp_path)
    assert (done.code, done.out) == (0, "2 jobs, 0 errors, 0 warnings\n")
    assert "were not checked" in done.err


def test_validate_takes_one_file_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(JOB.format(name="mine"))
    assert prime("job", "validate", tmp_path / "mine.yaml", "-o", "json").json()["jobs"] == 1


def test_validate_refuses_two_jobs_of_one_name(tmp_path: Path) -> None:
    shop = shutil.copytree(SHOP, tmp_path / "shop")
    (shop / "jobs/ops/again").mkdir()
    shutil.copy(shop / "jobs/ops/clean/job.yaml", shop / "jobs/ops/again/job.yaml")
    (error,) = prime("job", "validate", "-o", "json", folder=shop).json()["errors"]
    assert (error["key"], "is taken by jobs/ops/again/job.yaml" in error["message"]) == ("name", True)


def test_validate_tries_every_template(tmp_path: Path) -> None:
    shop = shutil.copytree(SHOP, tmp_path / "shop")
    query = shop / "jobs/sales/daily/assets/query.sql"
    query.write_text("select 1\nfrom {{ .GLOBAL__nowhere }}\n")
    (error,) = prime("job", "validate", "-o", "json", folder=shop).json()["errors"]
    assert "GLOBAL__nowhere" in error["message"]
    assert error["line"] == 2


def test_a_template_that_cannot_be_rendered_is_told_beside_other_mistakes(tmp_path: Path) -> None:
    (tmp_path / "optimus.yaml").write_text("project: {name: p}\nnamespaces: [{name: n, job: {path: jobs}}]\n")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(
        "version: 2\nname: sample\nowner: me\ntask:\n  name: shell\n  config:\n    A: '{{ .nope }}'\n"
    )
    done = prime("job", "validate", "-o", "json", folder=tmp_path)
    assert [(one["key"], one["line"]) for one in done.json()["errors"]] == [("task.config", 7), ("task.config.A", 7)]


def test_assets_too_large_to_be_applied_are_told_without_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ASSET_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(limits, "JOB_ASSETS_BYTES_MAX", 3 << 19)
    (tmp_path / "optimus.yaml").write_text("project: {name: p}\nnamespaces: [{name: n, job: {path: jobs}}]\n")
    assets = tmp_path / "jobs" / "assets"
    assets.mkdir(parents=True)
    (assets.parent / "job.yaml").write_text(JOB.format(name="large"))
    (assets / "a.bin").write_bytes(bytes((1 << 20) + 1))
    (assets / "b.bin").write_bytes(bytes(1 << 19))
    report = validate(load_folder(tmp_path))
    assert [(one.key, one.message) for one in report.of(Severity.ERROR)] == [
        ("assets", "the asset a.bin has 1048577 bytes; 1 MiB at most"),
        ("assets", "its assets have 1572865 bytes; 1 MiB a job at most"),
    ]


def test_warnings_alone_are_no_failure(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB.format(name="warned") + "asset: {a: b}\n")
    done = prime("job", "validate", tmp_path, "-o", "json")
    assert done.code == 0
    assert [one["key"] for one in done.json()["warnings"]] == ["asset"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(job=st.binary(max_size=300), parent=st.text(max_size=80), project=st.text(max_size=80))
def test_validate_never_crashes_on_any_files(tmp_path: Path, job: bytes, parent: str, project: str) -> None:
    (tmp_path / "jobs").mkdir(exist_ok=True)
    (tmp_path / "jobs" / "job.yaml").write_bytes(job)
    (tmp_path / "jobs" / "this.yaml").write_bytes(parent.encode("utf-8", "replace"))
    for text in ("", project, "project: {name: p}\nnamespaces: [{name: n, job: {path: jobs}}]\n"):
        (tmp_path / "optimus.yaml").unlink(missing_ok=True)
        if text:
            (tmp_path / "optimus.yaml").write_bytes(text.encode("utf-8", "replace"))
        done = prime("job", "validate", tmp_path, "-o", "json")
        assert done.code in (0, 1)
        assert (done.code == 1) is bool(done.json()["errors"])

"""`prime job run --pipeline` and what `prime run` does with a pipeline's id."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.project import Prime, shell_job

pytestmark = pytest.mark.e2e


def write(folder: Path) -> None:
    """first <- second <- third, of which the second fails until there is a file."""
    shell_job(folder, "first", "true")
    shell_job(folder, "second", f"test -e {folder / 'mended'}", extra="dependencies: [{job: first}]\n")
    shell_job(folder, "third", "true", extra="dependencies: [{job: second}]\n")


def test_a_pipeline_is_followed_looked_at_and_picked_up(applied: Prime, folder: Path) -> None:
    write(folder)
    assert applied("job", "apply").code == 0
    done = applied("job", "run", "second", "--upstream", "--downstream", "--follow")
    assert done.code == 1
    assert "second = failed (exit_code)" in done.out
    pipeline = done.out.splitlines()[-1].split()[0]
    assert done.out.splitlines()[-1] == f"{pipeline} failed"

    shown = applied("run", "show", pipeline[:8])
    assert shown.out.startswith(f"pipeline {pipeline}  failed\n")
    assert "upstream_failed" in shown.out
    listed = applied("run", "list", "--pipeline", pipeline, "-o", "json").json()["pipeline"]
    assert [(run["job"], run["state"]) for run in listed["runs"]] == [
        ("first", "success"),
        ("second", "failed"),
        ("third", "upstream_failed"),
    ]
    third = listed["runs"][2]["id"]
    one = applied("run", "show", third).out
    assert f"of pipeline {pipeline}\nended by run {listed['runs'][1]['id']} of " in one
    told = applied("run", "explain", third)
    assert f"run {listed['runs'][1]['id']} of " in told.out
    assert applied("run", "wait", pipeline, "-o", "json").code == 1

    (folder / "mended").touch()
    done = applied("run", "retry", listed["runs"][1]["id"], "--downstream", "-o", "json")
    assert done.json()["run"]["job"] == "second"
    done = applied("run", "wait", pipeline)
    assert (done.code, done.out.splitlines()[0]) == (0, f"pipeline {pipeline}  success")
    assert applied("run", "retry", pipeline).code == 4
    assert applied("run", "retry", pipeline, "--all", "-o", "json").json()["pipeline"]["id"] == pipeline
    applied("run", "wait", pipeline)
    assert applied("run", "cancel", pipeline).code == 4


def test_its_id_and_runs_are_printed_and_its_result_is_the_exit_code(applied: Prime, folder: Path) -> None:
    write(folder)
    assert applied("job", "apply").code == 0
    done = applied("job", "run", "first", "--downstream", "--request-id", "once")
    pipeline, *runs = done.out.splitlines()
    assert [line.split()[1].rpartition("/")[2] for line in runs] == ["first", "second", "third"]
    again = applied("job", "run", "first", "--downstream", "--request-id", "once", "-o", "json")
    assert again.json()["pipeline"]["id"] == pipeline
    assert "asked for before" in again.err
    applied("run", "wait", pipeline)
    done = applied("job", "run", "first", "--upstream", "--wait", "-o", "json")
    assert (done.code, done.json()["pipeline"]["state"]) == (0, "success")
    waits = applied("job", "run", "third", "--check-dependencies", "-o", "json").json()["run"]
    told = applied("run", "explain", waits["id"])
    assert "missing" in told.out
    assert "waits for " in applied("run", "show", waits["id"]).out
    assert applied("run", "cancel", waits["id"]).code == 0


def test_what_makes_no_sense_of_a_pipeline_is_said(applied: Prime, folder: Path) -> None:
    for words in (
        ("run", "logs", "p-1234"),
        ("run", "explain", "p-1234"),
        ("run", "retry", "p-1234", "--downstream"),
        ("run", "list", "--pipeline", "p-1234", "--state", "failed"),
        ("job", "graph", "--upstream"),
        ("job", "run", "-f", folder / "jobs" / "greet" / "job.yaml", "--pipeline"),
    ):
        assert applied(*words).code == 2, words
    assert applied("run", "show", "p-zzzzzz").code == 4
    for form, begin in (("ascii", "test_what"), ("mermaid", "graph LR"), ("dot", "digraph"), ("json", "{")):
        assert applied("job", "graph", "-o", form).out.startswith(begin)

"""A problem of compiling is shown where its author finds it."""

from __future__ import annotations

import pytest

from agent.spec.check import check_job, relocate
from agent.spec.errors import Position, Problem
from agent.spec.job import parse_job
from agent.spec.plugin import parse_plugin

POSITIONS = {
    "task.config.A": Position("n/j/job.yaml", 7, 5),
    "task.config.B": Position("n/this.yaml", 2, 3),
    "hooks[0]": Position("n/j/job.yaml", 9, 5),
}
EXECUTORS = """version: 2
name: sample
owner: me
task:
  name: shell
  executor: proces
  config: {SCRIPT: x}
hooks:
  - {name: shell, executor: docker, hooktype: pre, config: {SCRIPT: x}}
  - {name: container, executor: k8s, hooktype: post, config: {IMAGE: x}}
"""


@pytest.mark.parametrize(
    ("problem", "file", "place"),
    [
        (Problem("j/job.yaml", 1, 1, "task.config.A", "m"), "n/j/job.yaml", ("n/j/job.yaml", 7, 5)),
        (Problem("j/job.yaml", 1, 1, "task.config.B", "m"), "n/j/job.yaml", ("n/this.yaml", 2, 3)),
        (Problem("j/job.yaml", 1, 1, "task.window", "m"), "n/j/job.yaml", ("n/j/job.yaml", 1, 1)),
        (Problem("j/job.yaml", 1, 31, "hooks[0].config.A", "m"), "n/j/job.yaml", ("n/j/job.yaml", 9, 5)),
        (Problem("j/job.yaml", 1, 31, "task.config.C", "m"), "n/j/job.yaml", ("n/j/job.yaml", 1, 1)),
        (Problem("query.sql", 4, 2, "KEY", "m"), "n/j/job.yaml", ("n/j/assets/query.sql", 4, 2)),
        (Problem("query.sql", 4, 2, "KEY", "m"), "job.yaml", ("assets/query.sql", 4, 2)),
    ],
)
def test_a_problem_is_placed_in_the_file_that_holds_the_text(
    problem: Problem, file: str, place: tuple[str, int, int]
) -> None:
    found = relocate(problem, file, POSITIONS, ("query.sql",))
    assert (found.file, found.line, found.column) == place
    assert (found.key, found.message) == (problem.key, problem.message)


def test_an_executor_that_nobody_has_heard_of_is_a_warning_where_it_stands() -> None:
    parsed = parse_job(EXECUTORS, "job.yaml")
    assert parsed.job is not None
    known = frozenset({"docker", "process"})
    found = check_job(parsed.job, {}, "job.yaml", positions=parsed.positions, executors=known)
    assert [(one.line, one.key, one.severity) for one in found] == [
        (6, "task.executor", "warning"),
        (10, "hooks[1].executor", "warning"),
    ]
    assert "no executor is called 'proces' here; did you mean 'process'? Known: docker, process" in found[0].message
    assert not check_job(parsed.job, {}, "job.yaml", positions=parsed.positions)  # where they are not known


@pytest.mark.parametrize(
    ("hooktype", "plugin", "message"),
    [
        ("fail", "post", "a fail hook runs when something failed; take hooktype post for a hook with another rule"),
        ("", "fail", "a fail hook runs when something failed; take hooktype post for a hook with another rule"),
        ("teardown", "post", "a teardown hook has the rule all_done_setup_success; take hooktype post for another"),
        ("setup", "fail", None),
        ("", "pre", None),
    ],
)
def test_a_trigger_rule_is_refused_where_the_hook_has_its_own(hooktype: str, plugin: str, message: str | None) -> None:
    given = f", hooktype: {hooktype}" if hooktype else ""
    hook = f"hooks:\n  - {{name: mine, trigger_rule: all_done{given}}}\n"
    parsed = parse_job(EXECUTORS.partition("hooks:")[0] + hook, "job.yaml")
    text = f"name: mine\nplugintype: hook\nhooktype: {plugin}\nimage: x\npluginversion: v1\nentrypoint: {{script: x}}\n"
    mine, problems = parse_plugin(text, "plugin.yaml")
    assert mine is not None, problems
    assert parsed.job is not None
    found = check_job(parsed.job, {"mine": mine}, "job.yaml", positions=parsed.positions)
    wanted = [] if message is None else [("hooks[0].trigger_rule", 9, message)]
    assert [(one.key, one.line, one.message) for one in found] == wanted


def test_a_trigger_rule_of_a_hook_whose_plugin_is_not_known_is_left_alone() -> None:
    hook = "hooks:\n  - {name: nobodys, trigger_rule: all_done}\n"
    parsed = parse_job(EXECUTORS.partition("hooks:")[0] + hook, "job.yaml")
    assert parsed.job is not None
    found = check_job(parsed.job, {}, "job.yaml", positions=parsed.positions)
    assert [one.key for one in found] == ["hooks[0].name"]


def test_a_param_without_default_is_told_of_where_there_is_a_schedule() -> None:
    text = EXECUTORS.partition("hooks:")[0] + "params: {day: {}, n: {default: x}}\n"
    for schedule, wanted in (("", []), ("schedule: {start_date: 2026-01-01, interval: '@daily'}\n", ["params.day"])):
        parsed = parse_job(text + schedule, "job.yaml")
        assert parsed.job is not None
        found = check_job(parsed.job, {}, "job.yaml", positions=parsed.positions)
        assert [one.key for one in found] == wanted

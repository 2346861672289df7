"""A trial tells all that keeps a job from being compiled or started, at keys that its author has."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agent.spec.bundle import Bundle, Planned
from agent.spec.check import relocate
from agent.spec.errors import Position, Problem, Severity
from agent.spec.lookups import Masked, Secrets
from agent.spec.trial import Trial, can_be_tried, trial_time, try_bundle, untold
from tests.spec.test_compile import AT, job, plugin

SHELL = "version: 2\nname: sample\nowner: me\ntask:\n  name: {task}\n  config:\n{config}{more}"
PLUGIN = "name: mine\nplugintype: task\nimage: none\nentrypoint: go\n"
HOOK = "name: told\nplugintype: hook\nhooktype: post\nimage: none\n"


def text(more: str = "", task: str = "mine", **config: str) -> str:
    lines = "".join(f"    {key}: '{value}'\n" for key, value in config.items()) or "    A: x\n"
    return SHELL.format(task=task, config=lines, more=more)


def tried(
    text: str,
    plugins: str = PLUGIN,
    secrets: tuple[str, ...] = (),
    executor: str | None = "docker",
    assets: dict[str, bytes] | None = None,
    at: datetime = AT,
) -> Trial:
    known = {one.name: one for one in map(plugin, plugins.split("---\n"))}
    made = Bundle(job=job(text), project="p", namespace="n", plugins=known, variables={"project": "acme"})

    def chosen(_planned: Planned) -> str:
        assert executor is not None
        return executor

    asked = chosen if executor is not None else None
    return try_bundle(made, at=at, secrets=Masked(frozenset(secrets)), assets=assets or {}, executor=asked)


def test_what_can_be_compiled_and_started_has_no_problem() -> None:
    found = tried(text(A="{{ .secret.S }}", B="{{ .GLOBAL__project }}"), secrets=("S",))
    assert (found.problems, found.missing) == ((), ())
    assert [one.name for one in found.planned] == ["mine"]


def test_every_key_that_cannot_be_compiled_is_told_at_its_own_key_and_no_line_of_its_value() -> None:
    found = tried(text(A="{{ .GLOBAL__nope }}", B="good", C="{{ frobnicate 1 }}"))
    assert [(one.line, one.column, one.key) for one in found.problems] == [
        (1, 1, "task.config.A"),
        (1, 1, "task.config.C"),
    ]
    assert "GLOBAL__nope" in found.problems[0].message
    assert "frobnicate" in found.problems[1].message


def test_secrets_that_are_missing_are_told_apart_each_with_what_to_do() -> None:
    found = tried(
        text(A="{{ .secret.ONE }} {{ .secret.TWO }} {{ .secret.ONE }}", B="{{ .secret.HERE }}"), secrets=("HERE",)
    )
    assert found.problems == ()
    assert [(one.key, one.message) for one in found.missing] == [
        ("task.config.A", "there is no secret ONE; set it with: prime secret set ONE"),
        ("task.config.A", "there is no secret TWO; set it with: prime secret set TWO"),
    ]


def test_what_else_is_wrong_with_a_text_is_told_beside_its_missing_secret() -> None:
    found = tried(text(A="{{ .secret.ONE }} {{ .GLOBAL__nope }}"))
    assert [one.key for one in found.missing] == ["task.config.A"]
    assert ["GLOBAL__nope" in one.message for one in found.problems] == [True]


def test_a_secret_that_a_text_can_do_without_is_not_missed() -> None:
    found = tried(text(A='{{ if index .secret "ONE" }}x{{ end }}'))
    assert (found.problems, found.missing) == ((), ())


def test_an_asset_is_told_with_its_own_line() -> None:
    found = tried(text(), assets={"q.sql": b"select\n  {{ .secret.ONE }},\n {{ .nope }}"})
    assert [(one.file, one.line, one.column, one.key) for one in found.missing] == [("q.sql", 2, 13, "secret.ONE")]
    assert [(one.file, one.line, one.key) for one in found.problems] == [("q.sql", 3, "nope")]


@pytest.mark.parametrize(
    "of_plugin",
    ["destination_urn_template: 'x://{{ .nope }}'\n", "defaultassets: [{name: q.sql, value: '{{ .nope }}'}]\n"],
)
def test_what_is_the_plugins_own_is_told_at_the_plugins_name(of_plugin: str) -> None:
    (problem,) = tried(text(), PLUGIN + of_plugin).problems
    assert problem.key == "task.name"
    assert problem.message.startswith("template: mine: ")
    placed = relocate(problem, "n/job.yaml", {"task.name": Position("n/job.yaml", 5, 9)})
    assert (placed.file, placed.line, placed.column) == ("n/job.yaml", 5, 9)


def test_an_instance_that_its_executor_cannot_start_is_told_at_its_name_and_once() -> None:
    hooks = "hooks:\n  - name: told\n"
    found = tried(text(hooks), f"{PLUGIN}---\n{HOOK}", executor="process")
    assert [one.key for one in found.problems] == ["hooks[0].name"]
    assert "nothing to run" in found.problems[0].message


def test_a_job_is_tried_beside_errors_that_its_texts_do_not_rest_on_and_each_key_is_told_once() -> None:
    def problem(key: str, severity: Severity = Severity.ERROR) -> Problem:
        return Problem("job.yaml", 1, 1, key, "wrong", severity)

    assert can_be_tried([problem("task.config"), problem("task.name", Severity.WARNING)])
    for key in ("task.name", "hooks[0].name", "task.version", "hooks", "task.window.preset"):
        assert not can_be_tried([problem("task.config"), problem(key)])
    found = [problem("task.config.A"), problem("task.config.B", Severity.WARNING)]
    tried = [problem("task.config.A"), problem("task.config.B"), problem("task.config.C")]
    assert [one.key for one in untold(tried, found)] == ["task.config.B", "task.config.C"]


def test_what_would_be_executed_is_not_looked_at_where_nobody_asks() -> None:
    hooks = "hooks:\n  - name: told\n"
    assert tried(text(hooks), f"{PLUGIN}---\n{HOOK}", executor=None).problems == ()


def test_what_several_instances_find_wrong_is_told_once() -> None:
    hooks = "hooks:\n  - name: told\n"
    found = tried(text(hooks, A="{{ .nope }}", B="{{ .secret.ONE }}"), f"{PLUGIN}---\n{HOOK}")
    assert [one.key for one in found.problems] == ["task.config.A"]
    assert [one.key for one in found.missing] == ["task.config.B"]


def test_hooks_that_wait_for_each_other_are_a_problem_and_no_error() -> None:
    hooks = "hooks:\n  - name: told\n  - name: other\n"
    other = HOOK.replace("told", "other") + "dependson: [told]\n"
    found = tried(text(hooks), f"{PLUGIN}---\n{HOOK}dependson: [other]\n---\n{other}")
    assert [one.key for one in found.problems] == ["hooks"]
    assert found.planned == ()


def test_a_window_that_has_no_interval_is_a_problem_and_no_error() -> None:
    window = "  window: {size: 24h, truncate_to: d}\n"
    found = tried(text(window), at=datetime(1, 1, 1, tzinfo=UTC))
    assert [one.key for one in found.problems] == ["task.window"]


def test_a_job_is_tried_for_its_next_tick_and_without_one_for_now() -> None:
    now = datetime(2022, 7, 5, 2, 10, 10, tzinfo=UTC)
    daily = "schedule:\n  start_date: 2022-01-01\n  interval: '0 3 * * *'\n"
    assert trial_time(job(text(daily)), now) == datetime(2022, 7, 5, 3, tzinfo=UTC)
    assert trial_time(job(text()), now) == now


def test_secrets_are_a_mapping_of_what_is_there_and_remember_what_was_asked_for_in_vain() -> None:
    secrets = Secrets({"PW": "x"})
    assert (list(secrets), len(secrets), "NO" in secrets, secrets.missed()) == (["PW"], 1, False, "NO")

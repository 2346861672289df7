"""What differs between two runs, by what is kept of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.runtable.model import Attempt, AttemptState, Instance, InstanceState, Origin, Run, RunState
from agent.service import comparison
from agent.service.comparison import SPEC, Side, compare, log_of, rendered_of, unified
from agent.spec.bundle import Bundle
from agent.spec.job import parse_job
from agent.spec.params import Value
from tests.api.harness import job_yaml
from tests.runtable.builders import START_MS, task

JOB = parse_job(job_yaml("job"), "job.yaml").job
assert JOB is not None


def a_run(run_id: str, *, agent: str = "a1", took_ms: int = 1500, exit_code: int = 0, **facts: str) -> Run:
    attempt = Attempt(
        1, agent, 1, START_MS, AttemptState.SUCCESS, exit_code=exit_code, facts=facts,
        started_at_ms=START_MS, finished_at_ms=START_MS + took_ms,
    )  # fmt: skip
    instance = Instance(task("sql"), InstanceState.SUCCESS, START_MS, attempts=[attempt])
    run = Run(run_id, "p", "n", "j", START_MS, Origin.MANUAL, "me", "a1", "b", START_MS, 1, 1, 1, [instance])
    run.state, run.started_at_ms, run.finished_at_ms = RunState.SUCCESS, START_MS, START_MS + took_ms
    return run


def a_bundle(**params: Value) -> Bundle:
    assert JOB is not None
    return Bundle(job=JOB, project="p", namespace="n", plugins={}, params=params)


def rendered(text: str | None = "select 1\n", **envs: str) -> dict[str, dict[str, Any]]:
    return {"sql": {"envs": envs, "window": {"start": "s", "end": "e"}, "assets": {"query.sql": text}}}


BEFORE = Side(a_run("r1"), a_bundle(day="mon"), rendered(TABLE="a"), {"sql": "one\n"})


def changes(after: Side, before: Side = BEFORE) -> dict[str, tuple[Any, Any]]:
    return {what: (was, now) for what, was, now in compare(before, after).changes}


def test_the_same_is_no_difference() -> None:
    found = compare(BEFORE, replace(BEFORE, run=a_run("r2")))
    assert (found.changes, found.texts, found.untold) == ((), {}, {})


def test_each_fact_that_is_another_is_named_with_both_values() -> None:
    run = a_run("r2", agent="a2", took_ms=2500, exit_code=3, image_digest="sha256:ab")
    after = Side(run, a_bundle(day="tue", size=2), rendered(TABLE="b", MORE="c"), {"sql": "one\n"})
    assert changes(after) == {
        "params.day": ("mon", "tue"),
        "params.size": (None, 2),
        "sql.agent": ("a1", "a2"),
        "sql.env.MORE": (None, "c"),
        "sql.env.TABLE": ("a", "b"),
        "sql.exit_code": (0, 3),
        "sql.image_digest": (None, "sha256:ab"),
        "sql.took_s": (1.5, 2.5),
        "took_s": (1.5, 2.5),
    }


def test_texts_are_compared_line_by_line_under_the_ids_of_the_runs() -> None:
    job = parse_job(job_yaml("job") + "description: another\n", "job.yaml").job
    assert job is not None
    after = Side(
        a_run("r2"), replace(a_bundle(day="mon"), job=job), rendered("select 2\n", TABLE="a"), {"sql": "two\n"}
    )
    texts = compare(BEFORE, after).texts
    assert list(texts) == [SPEC, "sql/log", "sql/query.sql"]
    assert texts["sql/query.sql"].splitlines() == ["--- r1", "+++ r2", "@@ -1 +1 @@", "-select 1", "+select 2"]
    assert "+description: another" in texts[SPEC]
    assert "-one\n+two" in texts["sql/log"]
    assert (
        "+(not a text)" in compare(BEFORE, replace(BEFORE, rendered=rendered(None, TABLE="a"))).texts["sql/query.sql"]
    )


def test_what_is_gone_on_one_side_is_told_and_not_compared() -> None:
    untold = {SPEC: "collected", rendered_of("sql"): "swept", log_of("sql"): "lost with a9"}
    after = Side(a_run("r2"), untold=untold)
    found = compare(BEFORE, after)
    assert (found.changes, found.texts) == ((), {})
    assert found.untold == {name: f"of r2: {why}" for name, why in untold.items()}
    both = compare(replace(BEFORE, untold={SPEC: "away"}), after)
    assert both.untold[SPEC] == "of r1: away; of r2: collected"


def test_an_instance_that_only_one_has_is_a_difference() -> None:
    run = a_run("r2")
    run.instances.append(Instance(task("more"), InstanceState.PENDING, START_MS))
    run.finished_at_ms = None
    assert changes(replace(BEFORE, run=run)) == {
        "more.attempts": (None, 0),
        "more.state": (None, "pending"),
        "took_s": (1.5, None),
    }


def test_p12_what_is_too_large_or_too_different_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "DIFF_LINES_MAX", 3)
    assert unified("a\nb\n", "c\nd\n", "1", "2").endswith("(cut after 3 lines)")
    assert unified("a\n", "a", "1", "2") == "(differs at its line ends alone)"
    monkeypatch.setattr(comparison, "TEXT_LINES_MAX", 1)
    assert unified("a\nb\n", "c", "1", "2") == "(differs: 4 and 1 characters, too large to be compared line by line)"

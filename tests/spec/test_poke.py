"""The request of an http dependency: rendered as a config is, judged before a run is accepted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent.spec.bundle import Bundle
from agent.spec.check import check_job
from agent.spec.errors import Problem, SpecError
from agent.spec.job import parse_job
from agent.spec.lookups import Masked
from agent.spec.plugin import BUILTIN
from agent.spec.poke import http_problems, http_request
from agent.spec.trial import try_bundle

AT = datetime(2026, 3, 2, 2, tzinfo=UTC)
JOB = """
version: 3
name: rates
owner: o
task: {name: shell, config: {SCRIPT: "true"}, window: {size: 1d}}
params: {day: {type: string}}
dependencies:
  - job: other
  - http:
      name: ready
      url: "{{ .GLOBAL__base }}/{{ .START_DATE }}"
      headers: {Authorization: "Bearer {{ .secret.TOKEN }}"}
      params: {at: "{{ .SCHEDULE_TIME }}", day: x}
"""


def bundle(text: str = JOB, **fields: object) -> Bundle:
    job = parse_job(text, "job.yaml").job
    assert job is not None
    made = Bundle(job=job, project="p", namespace="n", plugins=dict(BUILTIN), variables={"base": "http://rates"})
    return replace(made, **fields)  # type: ignore[arg-type]


def request(made: Bundle, **secrets: str) -> tuple[str, dict[str, str], dict[str, str]]:
    found = http_request(made, "ready", scheduled_at=AT, started_at=AT, secrets=secrets)
    return found.url, found.headers, found.params


def judged(made: Bundle, *secrets: str) -> tuple[list[str], list[str]]:
    problems, missing = http_problems(made, AT, Masked(frozenset(secrets)))

    def keys(found: tuple[Problem, ...]) -> list[str]:
        return [one.key for one in found]

    return keys(problems), keys(missing)


def test_the_request_is_rendered_with_variables_times_and_secrets() -> None:
    assert request(bundle(), TOKEN="t0p") == (
        "http://rates/2026-03-01",
        {"Authorization": "Bearer t0p"},
        {"at": "2026-03-02T02:00:00Z", "day": "x"},
    )


def test_a_request_is_never_shown() -> None:
    found = http_request(bundle(), "ready", scheduled_at=AT, started_at=AT, secrets={"TOKEN": "t0p"})
    assert "t0p" not in repr(found)


def test_what_cannot_be_rendered_is_told_with_its_key() -> None:
    broken = bundle(JOB.replace(".START_DATE", ".START_DAY"))
    with pytest.raises(SpecError) as found:
        request(broken, TOKEN="t")
    assert [one.key for one in found.value.problems] == ["dependencies[1].http.url"]
    assert judged(broken, "TOKEN") == (["dependencies[1].http.url"], [])


def test_a_secret_that_is_not_there_is_told_apart() -> None:
    assert judged(bundle(), "TOKEN") == ([], [])
    assert judged(bundle()) == ([], ["dependencies[1].http.headers.Authorization"])


def test_what_needs_a_parameter_is_judged_once_it_has_a_value() -> None:
    reads = bundle(JOB.replace("day: x", "day: '{{ .params.day }}{{ .nothing }}'"))
    assert judged(reads, "TOKEN") == ([], [])
    assert judged(replace(reads, params={"day": "x"}), "TOKEN") == (["dependencies[1].http.params.day"], [])
    other = bundle(JOB.replace("day: x", "day: '{{ .params }}'"))
    assert judged(other, "TOKEN") == ([], [])


def test_a_window_that_cannot_be_computed_is_the_tasks_problem() -> None:
    begin = datetime(1, 1, 1, tzinfo=UTC)
    assert http_problems(bundle(), begin, Masked(frozenset({"TOKEN"}))) == ((), ())
    with pytest.raises(SpecError, match=r"task\.window"):
        http_request(bundle(), "ready", scheduled_at=begin, started_at=begin, secrets={"TOKEN": "t"})


def test_a_trial_of_the_job_finds_what_is_wrong_with_its_requests() -> None:
    broken = bundle(JOB.replace(".START_DATE", ".START_DAY"))
    trial = try_bundle(broken, at=AT, secrets=Masked(frozenset()), assets={}, executor=None)
    assert [one.key for one in trial.problems] == ["dependencies[1].http.url"]
    assert [one.key for one in trial.missing] == ["dependencies[1].http.headers.Authorization"]


@pytest.mark.parametrize(
    ("dependencies", "key", "words"),
    [
        ("[{job: other}, {job: other, type: inter}]", "dependencies[1].job", "other is a dependency already"),
        (
            "[{http: {name: a, url: 'http://x'}}, {http: {name: a, url: 'http://y'}}]",
            "dependencies[1].http.name",
            "http a is a dependency already",
        ),
        ("[{job: rates}]", "dependencies[0].job", "rates -> rates"),
    ],
)
def test_dependencies_that_make_no_sense_are_told(dependencies: str, key: str, words: str) -> None:
    job = parse_job(JOB[: JOB.index("dependencies:")] + f"dependencies: {dependencies}\n", "job.yaml").job
    assert job is not None
    (found,) = [one for one in check_job(job, {}, "job.yaml") if one.key.startswith("dependencies")]
    assert found.key == key
    assert words in found.message

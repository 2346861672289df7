"""The graph of applied jobs: circles, what comes before, what comes after."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.runtable import commands as c
from agent.runtable.dependencies import (
    JobKey,
    awaited_jobs,
    circle,
    edges_of,
    in_order,
    reached,
    reversed_edges,
)
from agent.runtable.model import Dependency, DependencyKind, Job
from tests.runtable.builders import START_MS, Driver


def job(*upstream: str) -> Job:
    """A job that depends on these, each `project/name`."""
    named = tuple(Dependency(DependencyKind.JOB, *one.split("/")) for one in upstream)
    return Job("n", "hash", "o", "", "", "bq2bq", 1, (*named, Dependency(DependencyKind.HTTP, "", "ready")))


JOBS = {
    "p": {"a": job(), "b": job("p/a"), "c": job("p/a", "p/a"), "d": job("p/b", "p/c", "q/x")},
    "q": {"x": job("p/a"), "y": job("p/d", "q/nobody")},
}


def key(text: str) -> JobKey:
    project, name = text.split("/")
    return project, name


def test_a_job_depends_on_jobs_once_each() -> None:
    assert awaited_jobs(JOBS["p"]["c"]) == [("p", "a")]
    assert awaited_jobs(JOBS["p"]["d"]) == [("p", "b"), ("p", "c"), ("q", "x")]


def test_what_comes_before_and_after_is_found_across_projects() -> None:
    edges = edges_of(JOBS)
    assert reached(edges, ("p", "d"), 99) == [("p", "d"), ("p", "b"), ("p", "c"), ("q", "x"), ("p", "a")]
    below = reached(reversed_edges(JOBS), ("q", "x"), 99)
    assert below == [("q", "x"), ("p", "d"), ("q", "y")]
    assert len(reached(edges, ("p", "d"), 2)) == 3
    assert in_order(edges, [("q", "y"), *below, ("p", "a")]) == [("p", "a"), ("q", "x"), ("p", "d"), ("q", "y")]


def test_there_is_no_circle_in_a_diamond() -> None:
    assert circle(edges_of(JOBS), [("p", "d"), ("p", "b"), ("q", "y")]) is None


def test_a_circle_is_found_wherever_it_is_entered() -> None:
    edges = edges_of(JOBS, {("p", "a"): job("q/y")})
    assert circle(edges, [("p", "a")]) == [key(one) for one in ("p/a", "q/y", "p/d", "p/b", "p/a")]
    tail = edges_of({"p": {"a": job("p/b"), "b": job("p/c"), "c": job("p/b")}})
    assert circle(tail, [("p", "a")]) == [("p", "b"), ("p", "c"), ("p", "b")]
    assert circle(edges_of({"p": {"a": job("p/a")}}), [("p", "a")]) == [("p", "a"), ("p", "a")]


def test_a_chain_longer_than_any_stack_is_walked() -> None:
    chain = {"p": {f"j{n}": job(f"p/j{n + 1}") for n in range(5000)}}
    assert circle(edges_of(chain), [("p", "j0")]) is None
    assert in_order(edges_of(chain), [("p", "j0"), ("p", "j1")]) == [("p", "j1"), ("p", "j0")]
    assert circle(edges_of(chain, {("p", "j5000"): job("p/j0")}), [("p", "j5000")]) is not None


@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=3)))
def test_without_a_circle_everything_has_an_order(graph: dict[int, list[int]]) -> None:
    jobs = {"p": {str(one): job(*(f"p/{other}" for other in others)) for one, others in graph.items()}}
    edges, keys = edges_of(jobs), [("p", str(one)) for one in graph]
    found = circle(edges, keys)
    if found is not None:
        assert found[0] == found[-1]
        assert all(after in edges(before) for before, after in pairwise(found))
        return
    order = in_order(edges, keys)
    assert sorted(order) == sorted(keys)
    for one in keys:
        assert all(order.index(other) < order.index(one) for other in edges(one) if other in keys)


def test_a_circle_is_refused_whoever_applies_what_first() -> None:
    driver = Driver().found()
    driver.say(c.PutProject(START_MS, "q"))
    assert driver.say(c.PutJobs(START_MS, "p", {"a": job("q/x")})).ok
    assert driver.say(c.PutJobs(START_MS, "q", {"y": job(), "x": job("p/a")})).code == "dependency_circle"
    assert driver.table.rows.jobs.get("q", {}) == {}
    assert driver.say(c.PutJobs(START_MS, "p", {"a": job("p/b"), "b": job("p/a")})).code == "dependency_circle"
    assert driver.say(c.PutJobs(START_MS, "q", {"x": job()})).ok

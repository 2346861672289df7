"""What a user asks about runs, on real agents: of another agent than the one that ran it, while it runs and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.client import Client, path
from tests.cli.terminal import Answer, prime
from tests.e2e.agents import JOB
from tests.e2e.cluster import Cluster, Member, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SCRIPT = "echo {word}\nwhile [ ! -e {gate} ]; do sleep 0.05; done\necho after\nexit {code}\n"
TICK = "2026-03-02T00:00:00Z"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("asked"))
    try:
        one.start()
        yield one
    finally:
        for member in one.members:
            member.end()


def apply(cluster: Cluster, name: str, word: str, gate: Path, code: int = 0) -> None:
    script = "".join(f"      {line}\n" for line in SCRIPT.format(word=word, gate=gate, code=code).splitlines())
    body = {"specs": [{"path": f"{name}/job.yaml", "yaml": JOB.format(name=name, script=script)}]}
    client_of(cluster.members[0]).post(path("projects", "p", "namespaces", "n", "jobs"), body)


def client_of(member: Member) -> Client:
    return Client([member.url], "ann")


def ask(member: Member, *words: str) -> Answer:
    return prime("run", *words, env={"PRIME_HOST": member.url})


def ran(run: dict[str, Any]) -> str:
    """The agent of its task's last attempt."""
    agent: str = run["instances"][0]["attempts"][-1]["agent"]
    return agent


def started(cluster: Cluster, job: str, at: str = TICK) -> dict[str, Any]:
    """A run whose task runs."""
    asked = client_of(cluster.members[0])
    run_id = asked.post(path("projects", "p", "jobs", job, "runs"), {"scheduled_at": at})["run"]["id"]

    def running() -> dict[str, Any] | None:
        run: dict[str, Any] = asked.get(path("runs", run_id))["run"]
        return run if run["instances"][0]["state"] == "running" else None

    return until(running, "it runs")


def stranger(cluster: Cluster, run: dict[str, Any]) -> Member:
    """An agent that has not run it."""
    return next(one for one in cluster.members if one.id != ran(run))


def test_a_run_is_compared_with_the_one_before_while_it_runs_and_after_on_another_agent(
    three: Cluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    apply(three, "compared", "one", gate)
    first = client_of(three.members[0]).post(path("projects", "p", "jobs", "compared", "runs"), {})["run"]["id"]
    assert ask(three.members[1], "wait", first).code == 0
    gate.unlink()
    apply(three, "compared", "two", gate)
    run = started(three, "compared")
    other = stranger(three, run)

    def told() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads(ask(other, "diff", run["id"], "-o", "json").out)
        return found if "+two" in found["texts"].get("shell/log", "") else None

    during = until(told, "its output so far is compared")
    assert during["against"] == first
    assert {"what": "state", "before": "success", "after": "running"} in during["changes"]
    gate.touch()
    assert ask(other, "wait", run["id"]).code == 0
    after = ask(other, "diff", run["id"][:8])
    assert after.code == 0
    assert "-one\n+two\n after" in after.out
    assert "--- spec\n" in after.out
    assert ask(other, "logs", run["id"]).out == "two\nafter\n"


def test_a_whole_run_is_marked_at_another_agent_and_that_is_told_by_a_third(three: Cluster, tmp_path: Path) -> None:
    apply(three, "marked", "one", tmp_path / "never")
    run = started(three, "marked")
    at = stranger(three, run)
    assert ask(at, "mark", run["id"], "failed").code == 0
    other = next(one for one in three.members if one is not at)
    assert ask(other, "wait", run["id"]).code == 1
    shown = ask(other, "show", run["id"])
    assert f"via {at.id} from 127.0.0.1: mark all unfinished failed" in shown.out
    rows = [line.split() for line in shown.out.splitlines()]
    assert ["shell", "task", "failed"] in [row[:3] for row in rows]
    assert ["cancelled", "1", ran(run)] in [row[:3] for row in rows]
    last = json.loads(ask(other, "list", "--last-failure", "--job", "marked", "-o", "json").out)["runs"]
    assert [one["id"] for one in last] == [run["id"]]
    assert ask(other, "list", "--job", "markedd").code == 4
    assert ask(other, "clear", run["id"], "--task", "--only-failed").code == 0
    assert ask(other, "cancel", run["id"]).code == 0
    assert ask(at, "wait", run["id"]).code == 1


def test_what_another_scheduler_ran_is_reported_once_wherever_that_is_said(three: Cluster, tmp_path: Path) -> None:
    apply(three, "known", "one", tmp_path)
    words = ("import", "load", "--at", TICK, "-p", "p", "--state")
    first = ask(three.members[0], *words, "failed")
    assert first.code == 0
    run_id = first.out.split()[0]
    again = ask(three.members[1], *words, "failed")
    assert (again.out.split()[0], "reported before" in again.err) == (run_id, True)
    mended = ask(three.members[2], *words, "success").out.split()[0]
    assert mended != run_id
    for member in three.members:
        until(lambda one=member: ask(one, "show", mended).code == 0, "all know of it")  # type: ignore[misc]
        listed = json.loads(ask(member, "list", "--origin", "external", "--last", "-o", "json").out)["runs"]
        assert [one["id"] for one in listed] == [mended]
    assert "only reported" in ask(three.members[0], "logs", run_id).err
    assert ask(three.members[0], "retry", run_id).code == 4

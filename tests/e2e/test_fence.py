"""P3 over whole agents: whatever is killed, stopped or restarted, an instance's attempts never overlap.

Each attempt writes down when it ran, by CLOCK_BOOTTIME, outside of prime.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executors import fence
from executors.fence_state import FILE
from tests.e2e.agents import PROGRAM, AgentProcess
from tests.e2e.chaos.site import engines, parent
from tests.e2e.cluster import Cluster, Member, cluster, submit, until, wait_final
from tests.e2e.conftest import Start

TERMS = {"ttl": 4, "stop": 1, "kill": 2, "rho": 0.01}
SCRIPT = """
trap '' TERM
echo begun
(
  while [ ! -e {gate} ]; do read -r now _ < /proc/uptime; echo "$PRIME_ATTEMPT $now" >> {evidence}; sleep 0.05; done
  echo end >> {evidence}
) &
wait
"""  # a grandchild does the work: one that no death signal of its parent's reaches


class Work:
    """A job whose attempts run until they are let go."""

    def __init__(self, root: Path) -> None:
        self.evidence, self._gate = root / "evidence", root / "gate"

    def script(self) -> str:
        """What each attempt does."""
        return SCRIPT.format(gate=shlex.quote(str(self._gate)), evidence=shlex.quote(str(self.evidence)))

    def let_go(self) -> None:
        """They may end."""
        self._gate.touch()

    def spans(self) -> dict[int, tuple[float, float]]:
        """From when until when each attempt ran."""
        spans: dict[int, tuple[float, float]] = {}
        for line in self.evidence.read_text().splitlines() if self.evidence.exists() else ():
            number, _, now = line.partition(" ")
            if now:
                spans[int(number)] = (spans.get(int(number), (float(now), 0.0))[0], float(now))
        return spans

    def wait_attempt(self, number: int) -> None:
        """Return once that one runs."""
        until(lambda: number in self.spans(), f"attempt {number} runs")

    def check(self) -> None:
        """No two of them at a time."""
        spans = self.spans()
        for number in sorted(spans)[1:]:
            assert spans[number - 1][1] < spans[number][0], f"attempts overlap: {spans}"


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    """Three agents with short leases."""
    with cluster(tmp_path) as one:
        one.client().put("/api/v1/cluster/leases", TERMS)
        yield one


def start_work(cluster: Cluster, work: Work) -> tuple[str, Member]:
    """A run of it, and the agent where its first attempt runs."""
    cluster.members[0].apply("work", work.script())
    run_id = submit(cluster.client(), "work", "key")
    work.wait_attempt(1)
    name = until(lambda: attempts(cluster.client(), run_id)[0]["agent"], "it is known where it runs")
    return run_id, next(one for one in cluster.members if one.id == name)


def attempts(client: Any, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/api/v1/runs/{run_id}")["run"]["instances"][0]["attempts"]
    return found


def watchdog_of(agent: AgentProcess, *, but: int = 0) -> int:
    """The number of the one that runs, once there is one other than `but`."""

    def found() -> int | None:
        process = fence.holder(agent.data_dir)
        return process[0] if process is not None and process[0] != but else None

    return until(found, "a watchdog")


def wait_works_on(work: Work) -> None:
    """The first attempt is left alone, and works: else there would be nothing for the watchdog to end."""
    ran_until_s = work.spans()[1][1]
    until(lambda: work.spans()[1][1] > ran_until_s, "it works on", timeout_s=2)


def kill_with_engine(victim: AgentProcess) -> None:
    """SIGKILL to the agent and, at once, to all between it and its work: only the watchdog is left."""
    server = [pid for pid in engines() if parent(pid) == victim.pid]
    supervisors = [pid for pid in engines() if parent(pid) in server]
    assert server
    assert supervisors
    for pid in (victim.pid, *server, *supervisors):
        os.kill(pid, signal.SIGKILL)
    assert victim.wait_exit() == -signal.SIGKILL


@pytest.mark.parametrize("how", ["killed", "killed with its engine", "stopped"])
def test_the_work_of_an_agent_that_is_gone_ends_before_another_begins_it(
    three: Cluster, tmp_path: Path, how: str
) -> None:
    work = Work(tmp_path)
    run_id, victim = start_work(three, work)
    if how == "killed":
        victim.kill()
    elif how == "killed with its engine":
        kill_with_engine(victim)
        wait_works_on(work)
    else:
        os.kill(victim.pid, signal.SIGSTOP)
        assert victim.wait_exit() == -signal.SIGKILL  # by its watchdog: it could go on where it was
    others = three.client(one for one in three.members if one is not victim)
    work.wait_attempt(2)
    work.let_go()
    run = wait_final(others, run_id)
    assert run["state"] == "success"
    assert [one["number"] for one in run["instances"][0]["attempts"]] == [1, 2]
    work.check()
    victim.start()  # it returns, with a later epoch, and takes work again
    row = until(lambda: _alive(three, victim), "it is back")
    assert row["epoch"] == 2


def _alive(three: Cluster, member: Member) -> dict[str, Any] | None:
    row = three.agent(member.id, three.others(member)[0])
    return row if row["state"] == "alive" else None


def test_an_agent_restarted_within_its_lease_goes_on_with_its_work(three: Cluster, tmp_path: Path) -> None:
    work = Work(tmp_path)
    run_id, victim = start_work(three, work)
    watchdog = watchdog_of(victim)
    victim.kill()
    victim.start()
    assert watchdog_of(victim) == watchdog
    ran_until_s = work.spans()[1][1]
    until(lambda: work.spans()[1][1] > ran_until_s + TERMS["ttl"] + TERMS["stop"], "it runs on")
    work.let_go()
    run = wait_final(three.client(), run_id)
    assert run["state"] == "success"
    assert len(run["instances"][0]["attempts"]) == 1
    assert three.agent(victim.id)["epoch"] == 1


def test_the_work_of_an_agent_whose_watchdog_was_killed_before_is_ended_as_well(three: Cluster, tmp_path: Path) -> None:
    work = Work(tmp_path)
    run_id, victim = start_work(three, work)
    first = watchdog_of(victim)
    os.kill(first, signal.SIGKILL)
    watchdog_of(victim, but=first)
    victim.kill()
    work.wait_attempt(2)
    work.let_go()
    assert wait_final(three.client(three.others()), run_id)["state"] == "success"
    work.check()


def test_who_follows_a_run_sees_its_end_though_its_first_agent_stays_away(three: Cluster, tmp_path: Path) -> None:
    work = Work(tmp_path)
    three.members[0].apply("work", work.script())
    hosts = ",".join(one.url for one in three.members)
    command = [*PROGRAM, "job", "run", "work", "-p", "p", "--request-id", "key", "--follow", "--host", hosts]
    told = tmp_path / "told"
    with told.open("w") as file:
        following = subprocess.Popen(command, stdout=file, stderr=file, cwd=tmp_path)
    try:
        run_id, victim = start_work(three, work)  # the same request
        until(lambda: "shell | begun" in told.read_text(), "its output is followed")
        others = three.others(victim)
        victim.kill()
        work.wait_attempt(2)
        work.let_go()
        assert wait_final(three.client(others), run_id)["state"] == "success"
        assert following.wait(60) == 0, told.read_text()
    finally:
        following.kill()
        following.wait()
    lines = told.read_text().splitlines()
    assert any(
        f"no more output can be shown: the output is on agent {victim.id}, which is lost" in one for one in lines
    )
    assert any("shell = attempt 2 on " in one for one in lines), lines
    assert sum(one.endswith("| begun") for one in lines) == 2, lines
    assert lines[-1].split()[-3:] == ["run", "=", "success"], lines
    others[0].freeze()
    shown = until(lambda: _without_leader(others[1]), "nobody leads")
    assert {row["id"]: row["state"] for row in shown["agents"]}[others[1].id] == "alive"
    assert "alive" not in {row["state"] for row in shown["agents"] if row["id"] != others[1].id}


def _without_leader(member: Member) -> dict[str, Any] | None:
    shown = member.cluster()
    return shown if shown["leader"] is None else None


def test_an_agent_alone_starts_work_with_its_second_watchdog_and_fences_nothing(start_agent: Start) -> None:
    agent = start_agent("a", "--executors", "process")
    agent.apply("short", "echo done")
    first = watchdog_of(agent)
    os.kill(first, signal.SIGKILL)
    run_id = agent.submit("short")
    assert agent.wait_final(run_id)["state"] == "success"
    assert watchdog_of(agent) != first


def test_an_agent_that_returns_before_it_was_lost_tells_that_its_work_was_fenced(
    three: Cluster, tmp_path: Path
) -> None:
    three.client().put("/api/v1/cluster/leases", {**TERMS, "ttl": 3, "kill": 120})  # so it is not lost for two minutes
    work = Work(tmp_path)
    run_id, victim = start_work(three, work)
    victim.kill()
    until(lambda: '"fence"' in (victim.data_dir / FILE).read_text(), "its watchdog has ended its work")
    victim.start()
    work.wait_attempt(2)
    work.let_go()
    run = wait_final(three.client(), run_id)
    assert run["state"] == "success"
    assert [one["reason"] for one in run["instances"][0]["attempts"]] == ["fenced", None]
    assert three.agent(victim.id)["epoch"] == 1
    work.check()


def test_a_watchdog_that_hangs_is_replaced_and_work_goes_on(start_agent: Start) -> None:
    agent = start_agent("a", "--executors", "process")
    agent.apply("short", "echo done")
    first = watchdog_of(agent)
    os.kill(first, signal.SIGSTOP)
    run_id = agent.submit("short")
    assert agent.wait_final(run_id)["state"] == "success"
    assert watchdog_of(agent) != first

"""Output outlives the agent that has it: three agents, a real S3 server, the agent killed and removed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent.client import path
from tests.e2e.agents import JOB, PROGRAM
from tests.e2e.cluster import Cluster, Member, free_ports, until
from tests.s3 import s3

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def prime(asked: Member, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *words, "--host", asked.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_output_is_read_from_the_archive_when_its_agent_is_killed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3(free_ports(1)[0], tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        cluster = Cluster(tmp_path)
        for one in cluster.members:
            one.options += ("--log-archive", f"s3://{server.bucket}/prime")
        cluster.start()
        try:
            _killed_and_left(cluster)
        finally:
            cluster.stop()
        for one in cluster.members:
            assert server.environment["AWS_SECRET_ACCESS_KEY"] not in one.text


def _killed_and_left(cluster: Cluster) -> None:
    client = cluster.client()
    script = "      for number in 1 2 3; do echo out $number; echo err $number >&2; done"
    jobs = path("projects", "p", "namespaces", "n", "jobs")
    client.post(jobs, {"specs": [{"path": "say/job.yaml", "yaml": JOB.format(name="say", script=script)}]})
    run_id = client.post(path("projects", "p", "jobs", "say", "runs"), {})["run"]["id"]
    client.poll(path("runs", run_id, "wait"), 30)
    attempt = client.get(path("runs", run_id))["run"]["instances"][0]["attempts"][0]
    holder = next(one for one in cluster.members if one.id == attempt["agent"])
    other = cluster.others(holder)[0]
    wanted = ("run", "logs", run_id, "--stream", "stderr", "--timestamps")
    before = prime(other, *wanted)
    assert before.stdout.count(" stderr err ") == 3

    def is_archived() -> bool:
        state = other.client().get(path("cluster", "agents", holder.id, "archive"))
        return bool(state["outputs"]) and not state["backlog"]

    until(is_archived, "the output is archived")
    name = holder.id
    holder.kill()
    cluster.leader(among=cluster.others(holder), but=name)
    until(lambda: cluster.agent(name, other)["state"] in {"silent", "lost"}, "it is not heard")
    assert prime(other, *wanted).stdout == before.stdout
    left = prime(other, "cluster", "leave", name)
    assert left.returncode == 0, left.stderr
    assert "what is not archived is lost with it" in left.stdout
    for one in cluster.others(holder):
        after = prime(one, *wanted)
        assert (after.returncode, after.stdout) == (0, before.stdout)
        assert prime(one, "run", "logs", run_id, "--tail", "1").stdout
    stays = prime(other, "cluster", "leave", cluster.others(holder, other)[0].id)
    assert stays.returncode == 0, stays.stderr
    assert "has no output of runs" in stays.stdout or "are archived" in stays.stdout

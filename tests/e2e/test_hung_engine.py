"""A Docker engine that three agents share stands still for longer than their leases (P3)."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.client import path
from tests.docker_engine import IMAGE, OwnEngine
from tests.e2e.cluster import Cluster, submit, until, wait_final

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(240)]

TERMS = {"ttl": 3, "stop": 1, "kill": 1, "rho": 0.01}
HUNG_S = 8.0  # past ttl + margin
JOB = f"""
version: 2
name: short
owner: tests
task:
  name: container
  config:
    IMAGE: {IMAGE}
    COMMAND: echo begin; sleep 3; echo end
"""


@pytest.fixture
def three(docker_engine: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three agents with short leases that give their work to one engine."""
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    one = Cluster(tmp_path, 3)
    for member in one.members:
        member.options += ("--executors", "docker")
    try:
        one.start()
        one.client().put("/api/v1/cluster/leases", TERMS)
        yield one
    finally:
        docker_engine.signal(signal.SIGCONT)
        one.stop()


def containers(engine: OwnEngine) -> dict[str, Any]:
    """What the engine itself knows of each attempt's container, by its name: the evidence outside of prime."""
    listing = ["docker", "--host", engine.url, "ps", "--all", "--quiet", "--filter", "label=io.prime.run"]
    ids = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    inspecting = ["docker", "--host", engine.url, "inspect", *ids]
    found = json.loads(subprocess.run(inspecting, capture_output=True, text=True, check=True).stdout)
    return {one["Name"].removeprefix("/"): one for one in found}


def output(engine: OwnEngine, name: str) -> str:
    """What a container has written, over all its starts."""
    command = ["docker", "--host", engine.url, "logs", name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def moment(container: dict[str, Any], key: str) -> datetime:
    """Docker leaves out zeros at the end, so texts do not compare."""
    whole, _, part = container["State"][key].removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(part + '000000')[:6]}+00:00")


def test_while_the_engine_hangs_no_agent_is_lost_and_nothing_starts_twice(
    three: Cluster, docker_engine: OwnEngine
) -> None:
    client = three.client()
    client.post(path("projects", "p", "namespaces", "n", "jobs"), {"specs": [{"path": "short/job.yaml", "yaml": JOB}]})
    before = [submit(client, "short", f"before {number}") for number in range(3)]
    until(lambda: all(client.get(path("runs", one))["run"]["state"] == "running" for one in before), "work begins")
    docker_engine.signal(signal.SIGSTOP)
    hung_s = time.monotonic()
    during = [submit(client, "short", f"during {number}") for number in range(3)]
    cancelled = submit(client, "short", "cancelled")
    client.post(path("runs", cancelled, "cancel"))
    until(lambda: time.monotonic() - hung_s > HUNG_S, "it hangs for longer than a lease and its margin")
    agents = client.get("/api/v1/cluster")["agents"]
    docker_engine.signal(signal.SIGCONT)
    assert [(one["state"], one["epoch"]) for one in agents] == [("alive", 1)] * 3
    runs = [wait_final(client, one) for one in (*before, *during)]
    assert wait_final(client, cancelled)["state"] == "cancelled"
    found = containers(docker_engine)
    for run in runs:
        attempts = run["instances"][0]["attempts"]
        assert run["state"] == "success"
        assert attempts[-1]["exit_code"] == 0
        mine = {name: one for name, one in found.items() if one["Config"]["Labels"]["io.prime.run"] == run["id"]}
        begun = [one for one in attempts if one["started_at"] is not None]
        assert len(mine) == len(begun)  # each that began has one container, and no other has any
        assert {one["State"]["Status"] for one in mine.values()} == {"exited"}
        assert [output(docker_engine, name).splitlines().count("begin") for name in mine] == [1] * len(mine)
        spans = sorted((moment(one, "StartedAt"), moment(one, "FinishedAt")) for one in mine.values())
        assert all(ended <= begins for (_, ended), (begins, _) in pairwise(spans))
    of_cancelled = [one for one in found.values() if one["Config"]["Labels"]["io.prime.run"] == cancelled]
    assert all(one["State"]["Status"] in ("created", "exited") for one in of_cancelled)

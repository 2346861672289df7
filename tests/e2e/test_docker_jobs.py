"""A whole Optimus job as containers of a real Docker engine, and an agent that is killed meanwhile."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.agents import PROGRAM, AgentProcess
from tests.e2e.conftest import Start

pytestmark = pytest.mark.docker
EXAMPLES = Path(__file__).parents[2] / "examples"
LONG = """
version: 2
name: long
owner: tests
task:
  name: container
  config:
    IMAGE: busybox:1.36
    COMMAND: |
      echo "start $PRIME_ATTEMPT" >> /data/out/evidence
      for n in 1 2 3 4 5 6 7 8 9 10; do echo before $n; done
      while [ ! -e /data/out/gate ]; do sleep 0.05; done
      for n in 1 2 3 4 5 6 7 8 9 10; do echo after $n; done
      exit 5
"""


def prime(agent: AgentProcess, folder: Path, *words: str, given: str = "") -> str:
    """Run a command of the CLI in a folder; returns what it printed."""
    done = subprocess.run(
        [*PROGRAM, "--host", agent.url, *words],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def containers(host: str, *options: str) -> list[str]:
    """Names of the engine's containers that are ours."""
    command = ["docker", "--host", host, "ps", "--all", "--format", "{{.Names}}", *options]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in names if name.startswith("prime-")]


@pytest.fixture
def agent(start_agent: Start, docker_host: str, tmp_path: Path) -> AgentProcess:
    """An agent with the Docker engine and a database."""
    return start_agent(
        "a", "--executors", "docker,process", "--database", f"sqlite:///{tmp_path / 'runs.db'}", DOCKER_HOST=docker_host
    )


def test_the_main_example_runs_in_order_and_leaves_its_record(
    agent: AgentProcess, tmp_path: Path, docker_host: str
) -> None:
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder)
    prime(agent, folder, "plugin", "apply")
    prime(agent, folder, "secret", "set", "WAREHOUSE_PASSWORD", given="open sesame")
    assert "does not run yet" not in prime(agent, folder, "job", "apply")  # said on stderr, not among the results
    shown = prime(agent, folder, "job", "run", "sales.daily-orders", "--at", "2026-03-02T02:00:00Z", "--follow")
    lines = [line.strip() for line in shown.splitlines()]
    order = [line.split(" ")[0] for line in lines if line.endswith("= success")]
    assert order == ["freshness", "sql", "profile", "publish", "run"]
    assert "sql | where created_at >= '2026-03-01' and created_at < '2026-03-02'" in lines
    assert "publish | published sales.orders for 2026-03-01T00:00:00Z, 42 rows" in lines
    assert "open sesame" not in shown
    (run,) = agent.client().get("/api/v1/runs")["runs"]
    facts = run["instances"][1]["attempts"][0]["facts"]
    assert facts["image"] == "busybox:1.36"
    assert facts["image_id"].startswith("sha256:")
    (assets,) = agent.client().get(f"/api/v1/runs/{run['id']}/assets", instance="sql")["assets"]
    assert assets["secrets"] == {"WAREHOUSE_PASSWORD": "***"}
    assert assets["assets"]["query.sql"].startswith("insert into toy://warehouse/sales.orders\n")
    broken = prime(agent, folder, "job", "run", "sales.broken-import", "--wait")
    assert "upstream_failed" in broken
    _wait_for_rows(tmp_path / "runs.db", {("sales.daily-orders", "success"), ("sales.broken-import", "failed")}, agent)
    agent.stop()
    assert containers(docker_host) == []


def _wait_for_rows(database: Path, expected: set[tuple[str, str]], agent: AgentProcess) -> None:
    while agent.client().get("/api/v1/cluster")["mirror"]["behind"] != 0:
        pass
    with sqlite3.connect(database) as sql:
        assert set(sql.execute("SELECT job, state FROM prime_runs")) == expected
    sql.close()


def submit_file(agent: AgentProcess, text: str) -> str:
    """A run of a spec that was never applied."""
    body = {"spec": {"path": "job.yaml", "yaml": text}}
    run_id: str = agent.client().post("/api/v1/projects/p/namespaces/n/runs", body)["run"]["id"]
    return run_id


def test_a_container_outlives_its_agent_and_ran_once_with_all_its_output_p3(
    agent: AgentProcess, docker_host: str
) -> None:
    run_id = submit_file(agent, LONG)
    agent.wait_state(run_id, "container", ["running"])
    out = agent.data_dir / "attempts" / run_id / "container" / "1" / "out"
    while not (out / "evidence").exists():
        pass
    agent.kill()
    (out / "gate").touch()
    agent.start()
    run = agent.wait_final(run_id)
    (attempt,) = run["instances"][0]["attempts"]
    assert (run["state"], attempt["exit_code"]) == ("failed", 5)
    assert (out / "evidence").read_text() == "start 1\n"
    expected = [f"{word} {n}" for word in ("before", "after") for n in range(1, 11)]
    assert agent.output(run_id, "container").decode().splitlines() == expected
    assert containers(docker_host, "--filter", "status=running") == []


@pytest.mark.parametrize(
    ("config", "reason", "words"),
    [
        ("IMAGE: nowhere.invalid/none:1", "image", "nowhere.invalid/none"),
        ("IMAGE: busybox:1.36\n    COMMAND: exec tail /dev/zero", "oom", ""),
        ("IMAGE: busybox:1.36\n    COMMAND: exit 9", "exit_code", ""),
    ],
)
def test_how_a_container_fails_is_said(agent: AgentProcess, config: str, reason: str, words: str) -> None:
    text = (
        "version: 2\nname: bad\nowner: tests\nmetadata: {resource: {limit: {memory: 32Mi}}}\n"
        f"task:\n  name: container\n  config:\n    {config}\n"
    )
    run = agent.wait_final(submit_file(agent, text))
    attempt: dict[str, Any] = run["instances"][0]["attempts"][0]
    assert (run["state"], attempt["reason"]) == ("failed", reason)
    assert words in attempt["message"]


def test_cancel_stops_the_container(agent: AgentProcess, docker_host: str) -> None:
    run_id = submit_file(agent, LONG)
    agent.wait_state(run_id, "container", ["running"])
    agent.client().post(f"/api/v1/runs/{run_id}/cancel")
    assert agent.wait_final(run_id)["state"] == "cancelled"
    assert containers(docker_host, "--filter", "status=running") == []
    explained = agent.client().get(f"/api/v1/runs/{run_id}/explain")["explanations"]
    assert explained[0]["state"] == "cancelled"


def test_an_image_of_the_older_generation_calls_back_for_its_input(agent: AgentProcess) -> None:
    """A stand-in for an old entrypoint: it asks by HTTP for its environment, from inside a container."""
    text = """
version: 2
name: caller
owner: tests
task:
  name: container
  config:
    IMAGE: busybox:1.36
    GREETING: hello {{ .DSTART }}
    COMMAND: |
      body='{"scheduled_at": "'"$SCHEDULED_AT"'", "instance_name": "container", "instance_type": "TYPE_TASK"}'
      url="$OPTIMUS_HOST/api/v1beta1/project/$PROJECT/job/$JOB_NAME/run_input"
      wget -q -O - --header 'Content-Type: application/json' --post-data "$body" "$url"
"""
    run = agent.wait_final(submit_file(agent, text))
    output = agent.output(run["id"], "container").decode()
    assert run["state"] == "success", output
    assert '"GREETING":"hello ' in output

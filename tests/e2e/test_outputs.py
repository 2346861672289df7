"""What a task puts out is there for later instances, on whatever agent they run, with its own agent dead (P1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.client import path
from tests.e2e.agents import AgentProcess
from tests.e2e.cluster import cluster, submit, wait_final
from tests.e2e.conftest import Start
from tests.e2e.test_docker_jobs import submit_file

pytestmark = pytest.mark.timeout(120)

JOB = """
version: 2
name: pair
owner: tests
task:
  name: shell
  config:
    SCRIPT: |
      echo '{{"rows": 1500000, "words": ["a", "b"]}}' > "$JOB_DIR/out/outputs.json"
hooks:
  - name: shell
    hooktype: post
    config:
      ROWS: '{{{{ .tasks.shell.outputs.rows }}}}'
      SCRIPT: |
        test -e {gate} || exit 1
        echo "$ROWS {{{{ index .tasks.shell.outputs.words 1 }}}}"
"""
AIRFLOW = """
version: 2
name: returning
owner: tests
task:
  name: container
  config:
    IMAGE: busybox:1.36
    COMMAND: |
      echo '{"table": "orders"}' > /airflow/xcom/return.json
hooks:
  - name: container
    hooktype: post
    config:
      IMAGE: busybox:1.36
      TABLE: '{{ .tasks.container.outputs.table }}'
      COMMAND: echo "found $TABLE"
"""


def test_outputs_outlive_the_agent_of_their_task_p1(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with cluster(tmp_path) as three:
        spec = {"path": "pair/job.yaml", "yaml": JOB.format(gate=gate)}
        three.client().post(path("projects", "p", "namespaces", "n", "jobs"), {"specs": [spec]})
        failed = wait_final(three.client(), submit(three.client(), "pair", "pair"))
        task, hook = failed["instances"]
        assert (task["state"], hook["state"]) == ("success", "failed")
        maker = next(one for one in three.members if one.id == task["attempts"][0]["agent"])
        three.client().post(path("cluster", "agents", maker.id, "drain"), {})
        gate.touch()
        maker.kill()
        left = three.client(three.others(maker))
        left.post(path("runs", failed["id"], "retry"), {})
        run = wait_final(left, failed["id"])
        assert run["state"] == "success"
        task, hook = run["instances"]
        assert len(task["attempts"]) == 1
        assert hook["attempts"][-1]["agent"] != maker.id
        for member in three.others(maker):  # and any agent shows them (P6)
            shown = member.client().get(path("runs", run["id"], "outputs"))["outputs"]
            assert shown[0]["outputs"] == {"rows": 1500000, "words": ["a", "b"]}
            envs = member.client().get(path("runs", run["id"], "assets"), instance="shell-hook")["assets"][0]["envs"]
            assert envs["ROWS"] == "1.5e+06"


@pytest.mark.docker
def test_what_an_airflow_image_returns_is_found_by_the_next_container(start_agent: Start, docker_host: str) -> None:
    agent: AgentProcess = start_agent("a", "--executors", "docker,process", DOCKER_HOST=docker_host)
    run = agent.wait_final(submit_file(agent, AIRFLOW))
    assert run["state"] == "success", run
    assert agent.output(run["id"], "container-hook") == b"found orders\n"

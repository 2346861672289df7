"""An executor of a third party, found by its entry point, whose work nobody can end but its agent (P3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.client import ClientError, path
from tests.e2e.cluster import cluster, submit, until, wait_final

pytestmark = pytest.mark.timeout(240)

OUTSIDE = """
from executors.mock import MockExecutor


class Outside(MockExecutor):
    kind = "outside"
    fenceable = False


def create(settings):
    return Outside()
"""
JOB = """
version: 2
name: far
owner: tests
task:
  name: container
  executor: outside
  config: {IMAGE: none, MOCK_DURATION_MS: gate}
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with that executor, which agents find that are started from now on."""
    site = tmp_path / "site"
    about = site / "outside-1.dist-info"
    about.mkdir(parents=True)
    (site / "outside.py").write_text(OUTSIDE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[prime.executors]\noutside = outside:create\n")
    monkeypatch.setenv("PYTHONPATH", str(site))


@pytest.mark.usefixtures("installed")
def test_lost_work_that_cannot_be_fenced_is_unknown_until_an_operator_speaks_p3(tmp_path: Path) -> None:
    with cluster(tmp_path) as three:
        for one in three.members:
            one.stop()
            one.options = (*one.options, "--executors", "outside,process")
        three.start()
        three.client().put("/api/v1/cluster/leases", {"ttl": 2, "stop": 1, "kill": 1, "rho": 0.01})
        spec = {"path": "far/job.yaml", "yaml": JOB}
        three.client().post(path("projects", "p", "namespaces", "n", "jobs"), {"specs": [spec]})
        run_id = submit(three.client(), "far", "far-1")
        three.members[0].wait_state(run_id, "container", ["running"])
        (attempt,) = three.members[0].run(run_id)["instances"][0]["attempts"]
        owner = next(one for one in three.members if one.id == attempt["agent"])
        owner.kill()
        left = three.others(owner)
        until(lambda: left[0].run(run_id)["instances"][0]["state"] == "unknown", "its agent is lost")
        explained = three.client(left).get(path("runs", run_id, "explain"))["explanations"]
        assert "the executor outside cannot be fenced" in explained[0]["why"]
        with pytest.raises(ClientError, match="may go on"):
            three.client(left).post(path("runs", run_id, "cancel"), {})
        three.client(left).post(path("runs", run_id, "cancel"), {"assume_stopped": True})
        ended = wait_final(three.client(left), run_id)
        assert ended["state"] == "cancelled"
        assert len(ended["instances"][0]["attempts"]) == 1, "it was not given to another"

"""R2: a job that may have one run at a time has one, whoever asks where, and whoever leads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.cluster import cluster, submit, wait_final

pytestmark = pytest.mark.timeout(240)

LEASES = {"ttl": 3, "stop": 1, "kill": 1, "rho": 0.01}  # short: what the killed agent had is run again soon
RUNS = 30


def test_of_thirty_runs_asked_for_everywhere_no_two_overlap_though_the_leader_is_killed_r2_p3(tmp_path: Path) -> None:
    """The work holds a lock while any process of it lives, and says so where it finds it taken."""
    said = tmp_path / "said"
    script = f"exec 9>{tmp_path}/lock\nflock -n 9 || echo overlap >> {said}\nsleep 0.1\necho done >> {said}"
    with cluster(tmp_path) as three:
        client = three.client()
        client.put("/api/v1/cluster/leases", LEASES)
        three.members[0].apply("alone", script, behavior="retry: {count: 0}, max_active_runs: 1")
        asked = three.members
        runs = [submit(three.client([asked[number % 3], *asked]), "alone", f"key-{number}") for number in range(RUNS)]
        assert len(set(runs)) == RUNS
        wait_final(client, runs[4])
        three.leader().kill()
        ended = [wait_final(client, run_id) for run_id in runs]
        assert {run["state"] for run in ended} == {"success"}
        begun = [run["instances"][0]["attempts"][-1]["started_at"] for run in ended]
        assert begun == sorted(begun)  # in order of acceptance
    lines = said.read_text().split()
    assert "overlap" not in lines
    assert len(lines) >= RUNS

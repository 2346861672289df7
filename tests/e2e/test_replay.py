"""A replay of thirty days on three agents: the leader killed in the middle, cancelled and resumed (P1, R24)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from agent.client import path
from tests.cli.terminal import prime
from tests.e2e.cluster import cluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SCRIPT = """
echo "start $SCHEDULED_AT" >> {root}/evidence
case "$SCHEDULED_AT" in *-08T*|*-15T*) while [ ! -e {root}/gate-$SCHEDULED_AT ]; do sleep 0.02; done;; esac
echo "end $SCHEDULED_AT" >> {root}/evidence
"""
DAILY = 'schedule: {start_date: "2024-01-01", interval: "0 2 * * *"}\n'
DAYS = [f"2024-01-{day:02}T02:00:00Z" for day in range(1, 31)]


def test_thirty_days_whatever_becomes_of_the_leader_cancelled_and_resumed(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    evidence.touch()
    with cluster(tmp_path) as three:
        three.client().put("/api/v1/cluster/leases", {"ttl": 120, "stop": 3, "kill": 2, "rho": 0.01})
        three.members[0].apply("daily", SCRIPT.format(root=tmp_path), extra=DAILY)
        hosts = ",".join(one.url for one in three.members)
        words = ("replay", "--host", hosts)
        plan = prime(*words, "create", "daily", "2024-01-01", "2024-01-30", "-p", "p", "--dry-run", "-o", "json").json()
        assert [one["scheduled_at"] for one in plan["ticks"]] == DAYS
        made = prime(*words, "create", "daily", "2024-01-01", "2024-01-30", "-p", "p", "-o", "json")
        assert made.code == 0, made.err
        replay_id = made.json()["replay"]["id"]

        until(lambda: f"start {DAYS[7]}" in evidence.read_text(), "the eighth day begins")
        leader = three.leader()
        leader.kill()
        three.leader(but=leader.id)
        leader.start(wait=False)
        (tmp_path / f"gate-{DAYS[7]}").touch()
        until(lambda: f"start {DAYS[14]}" in evidence.read_text(), "the fifteenth day begins")

        done = prime(*words, "cancel", replay_id, "--wait", "-o", "json")
        assert done.code == 0, done.err
        cancelled = done.json()["replay"]
        assert (cancelled["state"], cancelled["counts"]) == ("cancelled", {"success": 14, "cancelled": 1})
        (tmp_path / f"gate-{DAYS[14]}").touch()
        resumed = prime(*words, "resume", replay_id[:8], "--wait", "-o", "json")
        assert resumed.code == 0, resumed.err
        replay = resumed.json()["replay"]
        assert (replay["state"], replay["counts"], replay["made"]) == ("success", {"success": 30}, 30)

        said = Counter(evidence.read_text().splitlines())
        assert {day: said[f"end {day}"] for day in DAYS} == dict.fromkeys(DAYS, 1)
        assert {day: said[f"start {day}"] for day in DAYS} == {**dict.fromkeys(DAYS, 1), DAYS[14]: 2}
        three.wait_ready()
        for member in three.members:  # any agent tells the same of it (P6)
            shown = member.client().get(path("replays", replay_id), consistent=True)["replay"]
            assert (shown["state"], shown["counts"]) == ("success", {"success": 30})
            runs = member.client().get("/api/v1/runs", replay=replay_id, limit=100)["runs"]
            assert Counter(run["state"] for run in runs) == {"success": 30, "cancelled": 1}

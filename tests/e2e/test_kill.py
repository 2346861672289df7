"""SIGKILL at any moment: every accepted run goes on, and each attempt's work begins at most once (P1, P2, P3)."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path

from tests.e2e.agents import AgentProcess, try_submit
from tests.e2e.conftest import Start

KILLS = int(os.environ.get("KILLS", "12"))

HOOKED = """
hooks:
  - name: shell
    hooktype: post
    config:
      SCRIPT: echo "hook $PRIME_RUN_ID $PRIME_ATTEMPT" >> {evidence}
"""
WORK = """
echo "start $PRIME_RUN_ID $PRIME_ATTEMPT" >> {evidence}
for n in 1 2 3 4 5; do echo "line $n"; sleep 0.03; done
echo "end $PRIME_RUN_ID $PRIME_ATTEMPT" >> {evidence}
"""


def test_a_task_outlives_its_agent_and_is_found_again_p3(agent: AgentProcess, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    gate = tmp_path / "gate"
    script = (
        f'echo "start $PRIME_ATTEMPT" >> {evidence}\n'
        "for n in $(seq 100); do echo before $n; done\n"
        f"while [ ! -e {gate} ]; do sleep 0.02; done\n"
        "for n in $(seq 100); do echo after $n; done\n"
        "exit 7"
    )
    agent.apply("long", script)
    run_id = agent.submit("long")
    agent.wait_state(run_id, "shell", ["running"])
    agent.kill()
    gate.touch()  # it goes on, and ends, while there is no agent
    agent.start()
    run = agent.wait_final(run_id)
    (attempt,) = run["instances"][0]["attempts"]
    assert (run["state"], run["reason"], attempt["exit_code"]) == ("failed", "exit_code", 7)
    assert evidence.read_text() == "start 1\n"
    expected = [f"{word} {n}" for word in ("before", "after") for n in range(1, 101)]
    assert agent.output(run_id).decode().splitlines() == expected


def test_a_task_that_is_still_running_is_taken_up_and_can_be_cancelled(agent: AgentProcess, tmp_path: Path) -> None:
    agent.apply("endless", "echo ready; exec sleep 600")
    run_id = agent.submit("endless")
    agent.wait_state(run_id, "shell", ["running"])
    agent.kill()
    agent.start()
    agent.client().post(f"/api/v1/runs/{run_id}/cancel")
    run = agent.wait_final(run_id)
    assert run["state"] == "cancelled"
    assert run["instances"][0]["attempts"][0]["reason"] == "cancelled"
    assert agent.output(run_id) == b"ready\n"


def test_killed_at_random_moments_nothing_accepted_is_lost_doubled_or_stuck(start_agent: Start, tmp_path: Path) -> None:
    """The seed is printed; the work writes its own evidence, outside of prime."""
    seed = int(os.environ.get("SEED", str(time.time_ns())))
    logging.getLogger(__name__).warning("SEED=%d", seed)
    chance = random.Random(seed)
    evidence = tmp_path / "evidence"
    database = tmp_path / "runs.db"
    agent = start_agent("a", "--executors", "process", "--database", f"sqlite:///{database}")
    agent.apply("work", WORK.format(evidence=evidence), extra=HOOKED.format(evidence=evidence))
    accepted: dict[str, str] = {}
    unknown: set[str] = set()
    number = 0
    for _ in range(KILLS):
        until_s = time.monotonic() + chance.uniform(0.02, 0.6)
        while time.monotonic() < until_s:
            number += 1
            key = f"key-{number}"
            run_id = try_submit(agent, "work", key)
            if run_id is None:
                unknown.add(key)
            else:
                accepted[key] = run_id
            time.sleep(chance.uniform(0, 0.1))  # a load that one machine can work off
        agent.kill()
        agent.start(wait=chance.random() < 0.7)
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0, 0.3))
    agent.kill()
    agent.start()
    for key in [*accepted, *unknown]:  # the same requests again get the same runs (P2)
        run_id = agent.submit("work", key)
        assert accepted.setdefault(key, run_id) == run_id, f"SEED={seed}: {key} got a second run"
    finals = {run_id: agent.wait_final(run_id, 120) for run_id in accepted.values()}
    bad = {run_id: run for run_id, run in finals.items() if run["state"] != "success"}
    assert not bad, f"SEED={seed}: {bad}"
    _check_evidence(evidence.read_text(), finals, seed)
    while agent.client().get("/api/v1/cluster")["mirror"]["behind"] != 0:
        time.sleep(0.05)
    _check_database(database, set(finals), seed)


def _check_evidence(text: str, finals: dict[str, dict[str, object]], seed: int) -> None:
    lines = Counter(text.splitlines())
    assert max(lines.values()) == 1, f"SEED={seed}: an attempt's work began twice: {lines.most_common(3)}"
    for run_id in finals:
        ends = [line for line in lines if line.startswith(f"end {run_id} ")]
        hooks = [line for line in lines if line.startswith(f"hook {run_id} ")]
        assert len(ends) == 1, f"SEED={seed}: {run_id} was worked on {len(ends)} times"
        assert len(hooks) == 1, f"SEED={seed}: the hook of {run_id} ran {len(hooks)} times"


def _check_database(database: Path, runs: set[str], seed: int) -> None:
    """P5: every final state landed, exactly once."""
    with sqlite3.connect(database) as sql:
        rows = Counter(run_id for (run_id,) in sql.execute("SELECT run_id FROM prime_runs WHERE state = 'success'"))
    sql.close()
    assert set(rows) <= runs
    assert max(rows.values()) == 1
    assert set(rows) == runs, f"SEED={seed}: {len(runs - set(rows))} final states have not reached the database"

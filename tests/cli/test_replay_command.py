"""`prime replay`, against a real agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.project import SHELL, Prime
from tests.cli.terminal import prime
from tests.e2e.agents import AgentProcess

pytestmark = pytest.mark.e2e

DAILY = 'schedule: {start_date: "2024-01-01", interval: "@daily"}\n'
FAILS_ON_THE_SECOND = "case $SCHEDULED_AT in 2024-01-02*) test -e {gate};; esac"


@pytest.fixture
def daily(applied: Prime, folder: Path, tmp_path: Path) -> Prime:
    """A job that fails for the second of January, until a file is there."""
    path = folder / "jobs" / "daily" / "job.yaml"
    path.parent.mkdir()
    path.write_text(SHELL.format(name="daily", script=FAILS_ON_THE_SECOND.format(gate=tmp_path / "gate")) + DAILY)
    assert applied("job", "apply").code == 0
    return applied


def made(ask: Prime, *words: str) -> Any:
    return ask("replay", "create", "daily", *words)


def test_a_replay_from_its_plan_to_its_second_round(daily: Prime, tmp_path: Path) -> None:
    plan = made(daily, "2024-01-01", "2024-01-03", "--dry-run")
    assert (plan.code, plan.out.count(" run ")) == (0, 3)
    assert "3 ticks: 3 would be run, 0 passed by" in plan.err
    assert daily("replay", "list", "-p", tmp_path.name).out.splitlines()[1:] == []
    done = made(daily, "2024-01-01", "2024-01-03", "--wait", "--parallel", "2")
    assert done.code == 1, done.err
    assert "ended: 1 failed, 2 success; running: none" in done.out
    assert "1 of its ticks have not succeeded; `replay resume --failed` runs these again" in done.out
    (one,) = daily("replay", "list", "-p", tmp_path.name, "-o", "json").json()["replays"]
    replay_id, short = one["id"], one["id"][:8]
    listed = daily("run", "list", "--replay", short, "-o", "json").json()["runs"]
    assert len(listed) == 3
    assert f"replay {replay_id} by" in daily("run", "show", listed[0]["id"]).out
    (tmp_path / "gate").touch()
    resumed = daily("replay", "resume", short.upper(), "--failed", "--wait")
    assert (resumed.code, "3 success" in resumed.out) == (0, True)
    assert "resume, the failed ones again" in daily("replay", "show", short).out
    text = daily("replay", "list", "--job", "daily", "--state", "success").out
    assert replay_id in text
    assert " 3/3 " in text
    plan = made(daily, "2024-01-01", "2024-01-04", "--dry-run", "--reprocess", "none", "-o", "json").json()
    assert [tick["run"] for tick in plan["ticks"]] == [False, False, False, True]


def test_one_that_nobody_waits_for_tells_its_id_and_the_same_request_gets_it_again(daily: Prime) -> None:
    first = made(daily, "2024-02-01", "--request-id", "k", "--reverse", "--stop-on-failure")
    assert first.code == 0, first.err
    replay_id = first.out.strip()
    assert f"see `prime replay show {replay_id}`" in first.err
    again = made(daily, "2024-02-01", "--request-id", "k", "--reverse", "--stop-on-failure")
    assert (again.out, "asked for before" in again.err) == (first.out, True)
    shown = daily("replay", "show", replay_id).out
    assert "1 at once, the last first, stops on failure, reprocess completed" in shown
    assert made(daily, "2024-02-01", "2024-02-02", "--request-id", "k").code == 4


def test_the_config_of_its_runs_can_be_given(applied: Prime) -> None:
    done = applied("replay", "create", "greet", "2026-01-02", "--job-config", "EXIT=3", "--wait", "-o", "json")
    assert (done.code, done.json()["replay"]["counts"]) == (1, {"failed": 1})


def test_exit_codes_of_what_is_refused_or_mistyped(daily: Prime, tmp_path: Path) -> None:
    for words, code, told in (
        (("2023-01-01",), 4, "before the job's start_date"),
        (("2024-01-01", "--parallel", "0"), 2, "0 is not in the range"),
        (("2024-01-01", "--job-config", "x"), 2, "--job-config 'x': KEY=VALUE is expected"),
        (("yesterday-or-so",), 4, "a time such as"),
    ):
        done = made(daily, *words)
        assert (done.code, told in done.err) == (code, True), done.err
    assert daily("replay", "show", "r-none0").code == 4
    assert daily("replay", "cancel", "r-none0").code == 4
    assert daily("replay", "list", "-p", "nowhere").code == 4
    assert daily("replay", "list", "-p", tmp_path.name, "--job", "dayli").code == 4
    assert "no replays like that" in daily("replay", "list", "--job", "none").err
    done = made(daily, "2024-03-01", "2024-03-03", "--wait")
    assert done.code == 0
    assert daily("replay", "cancel", done.out.split()[1], "--wait").code == 4


def test_ids_are_offered_where_one_is_to_be_named(daily: Prime, agent: AgentProcess, folder: Path) -> None:
    replay_id = made(daily, "2024-04-01").out.strip()
    words = f"prime replay show {replay_id[:4]}"
    env = {"_PRIME_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "3", "PRIME_HOST": agent.url}
    assert f"plain,{replay_id}" in prime(folder=folder, env=env).out.split()

"""Tasks that destroy what they can reach, and state that others destroy: the agent goes on, every run ends, and no
attempt begins before the one before it has ended (P1, P3, P12)."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.client import path
from tests.e2e.agents import AgentProcess
from tests.e2e.conftest import Start
from tests.small_disk import fill, small_disk

END_S = 60.0


def alive(pid: int) -> bool:
    """Whether the process is there, and more than an entry that nobody has collected yet."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def number_in(file: Path) -> int:
    """The number that a task has written, once it is there."""
    until_s = time.monotonic() + END_S
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < until_s, f"nothing has written {file}"
        time.sleep(0.01)
    return int(file.read_text())


def until_gone(pid: int) -> None:
    until_s = time.monotonic() + END_S
    while alive(pid):
        assert time.monotonic() < until_s, f"{pid} still runs"
        time.sleep(0.01)


def attempts(run: dict[str, Any]) -> list[tuple[int, str, str | None]]:
    (instance,) = run["instances"]
    return [(one["number"], one["state"], one["reason"]) for one in instance["attempts"]]


def explained(agent: AgentProcess, run_id: str) -> str:
    """What `run explain` says of the only instance."""
    (one,) = agent.client().get(path("runs", run_id, "explain"))["explanations"]
    return str(one["why"])


def assert_it_goes_on(agent: AgentProcess, pid: int) -> None:
    """The agent is the same process as before, takes work, and starts again on what it has left."""
    assert alive(pid), agent.log.read_text()[-4000:]
    agent.apply("afterwards", "true")
    assert agent.wait_final(agent.submit("afterwards"))["state"] == "success"
    agent.kill()
    agent.start()
    assert agent.wait_final(agent.submit("afterwards"))["state"] == "success"


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """A test that fails leaves no work behind that would burden others."""
    yield
    mark = f"JOB_DIR={tmp_path}/".encode()
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                left.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended since it was listed, or is none of ours
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.mark.parametrize(
    "script",
    [
        'rm -rf "$JOB_DIR"',
        'cd "$JOB_DIR"; for one in .[a-z]*; do mv "$one" "away$one"; done',
        'rm -rf "$JOB_DIR"/../../*',
        'rm -rf "$JOB_DIR"; echo in the way > "$JOB_DIR"',
    ],
)
def test_p1_a_task_that_removes_its_own_directory_ends_as_it_does(agent: AgentProcess, script: str) -> None:
    pid = agent.pid
    agent.apply("vandal", f"{script}; exit 3")
    run = agent.wait_final(agent.submit("vandal"), END_S)
    assert (run["state"], attempts(run)) == ("failed", [(1, "failed", "exit_code")])
    assert run["instances"][0]["attempts"][0]["exit_code"] == 3
    assert_it_goes_on(agent, pid)


def test_p1_a_task_cannot_write_its_own_end(agent: AgentProcess, tmp_path: Path) -> None:
    """It knows how an end was written once, and kills the process that would write it."""
    pid = agent.pid
    cluster = agent.client().get("/api/v1/cluster")
    prefix = f"prime-{cluster['cluster']}-{cluster['generation']}"
    script = f"""
        [ $PRIME_ATTEMPT = 1 ] || exit 0
        cd "$JOB_DIR"; mkdir -p .prime
        echo '{{"name": "'{prefix}-$PRIME_RUN_ID-shell-1'", "exit_code": 0}}' > .prime/exit.json
        kill -9 $PPID; sleep 600"""
    agent.apply("forger", script)
    run = agent.wait_final(agent.submit("forger"), END_S)
    assert (run["state"], attempts(run)) == ("success", [(1, "failed", "agent_lost"), (2, "success", None)])
    assert_it_goes_on(agent, pid)


@pytest.mark.parametrize("apart", ["", "setsid"])
def test_p3_what_a_killed_supervisor_leaves_has_ended_before_the_next_attempt(
    agent: AgentProcess, tmp_path: Path, apart: str
) -> None:
    """Without the environment that says whose it is, also in a session of its own."""
    left, evidence = tmp_path / "left", tmp_path / "evidence"
    script = f"""
        if [ $PRIME_ATTEMPT = 2 ]; then
            if grep -q '^State:.[^ZX]' /proc/$(cat {left})/status; then echo runs; else echo ended; fi > {evidence}
            exit 0
        fi
        (env -i {apart} /bin/sh -c 'echo $$ > {left}; exec /bin/sleep 301' &)
        while ! [ -s {left} ]; do sleep 0.02; done
        kill -9 $PPID; sleep 300"""
    agent.apply("orphans", script)
    run_id = agent.submit("orphans")
    pid = number_in(left)
    run = agent.wait_final(run_id, END_S)
    still = alive(pid)
    if still:
        os.kill(pid, signal.SIGKILL)
    assert attempts(run) == [(1, "failed", "agent_lost"), (2, "success", None)]
    assert evidence.read_text() == "ended\n"
    assert not still


def test_p3_work_is_found_again_though_it_removed_all_of_its_directory(agent: AgentProcess, tmp_path: Path) -> None:
    starts, gate = tmp_path / "starts", tmp_path / "gate"
    script = f"""
        echo $$ >> {starts}; rm -rf "$JOB_DIR"
        while ! [ -e {gate} ]; do sleep 0.02; done; exit 3"""
    agent.apply("vandal", script)
    run_id = agent.submit("vandal")
    number_in(starts)
    agent.wait_state(run_id, "shell", ["running"])
    agent.kill()
    agent.start()
    gate.touch()
    run = agent.wait_final(run_id, END_S)
    assert (run["state"], attempts(run)) == ("failed", [(1, "failed", "exit_code")])
    assert len(starts.read_text().split()) == 1


def lose(data_dir: Path) -> None:
    """Remove all that a supervisor keeps on the disk, as only root's tasks, or an operator, can."""
    for record in [*data_dir.rglob("supervisor.json")]:
        shutil.rmtree(record.parent)


def damage(data_dir: Path) -> None:
    for record in [*data_dir.rglob("supervisor.json")]:
        record.write_text("{")


@pytest.mark.parametrize("harm", [lose, damage])
def test_p3_work_whose_state_is_lost_is_ended_and_its_run_fails_with_the_reason(
    agent: AgentProcess, tmp_path: Path, harm: object
) -> None:
    starts = tmp_path / "starts"
    agent.apply("long", f"(env -i setsid sleep 600 &); echo $$ >> {starts}; exec sleep 600")
    run_id = agent.submit("long")
    pid = number_in(starts)
    agent.wait_state(run_id, "shell", ["running"])
    agent.kill()
    harm(agent.data_dir)  # type: ignore[operator]  # one of the two above
    agent.start()
    run = agent.wait_final(run_id, END_S)
    assert (run["state"], attempts(run)) == ("failed", [(1, "failed", "executor_error")])
    assert "has been ended" in explained(agent, run_id)
    assert not alive(pid)
    assert starts.read_text().split() == [str(pid)]
    assert_it_goes_on(agent, agent.pid)


@pytest.mark.parametrize("restarted", [False, True])
def test_p1_a_time_out_ends_work_whose_state_is_damaged(agent: AgentProcess, tmp_path: Path, restarted: bool) -> None:
    """Also the time-out of a run that nobody can tell anything of any more."""
    file = tmp_path / "pid"
    script = f'echo $$ > {file}; rm -rf "$JOB_DIR"; exec sleep 600'
    text = f"version: 2\nname: slow\nowner: me\ntask: {{name: shell, timeout: 4s, config: {{SCRIPT: '{script}'}}}}\n"
    body = {"specs": [{"path": "slow/job.yaml", "yaml": text}]}
    agent.client().post(path("projects", "p", "namespaces", "n", "jobs"), body)
    run_id = agent.submit("slow")
    pid = number_in(file)
    agent.wait_state(run_id, "shell", ["running"])
    if restarted:
        agent.kill()
        damage(agent.data_dir)
        agent.start()
    else:
        damage(agent.data_dir)
    run = agent.wait_final(run_id, END_S)
    assert run["state"] == "failed"
    assert run["reason"] in ("timeout", "executor_error") if restarted else run["reason"] == "timeout"
    assert not alive(pid)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", 96) as where:
        yield where


@pytest.mark.parametrize("supervised", [True, False])
def test_p9_work_is_stopped_on_a_full_disk_and_told_when_there_is_room(
    start_agent: Start, disk: Path, tmp_path: Path, supervised: bool
) -> None:
    agent = start_agent("small/a", "--executors", "process")
    pid = agent.pid
    file, parent = tmp_path / "pid", tmp_path / "parent"
    agent.apply("long", f"echo $PPID > {parent}; echo $$ > {file}; exec sleep 600")
    run_id = agent.submit("long")
    task = number_in(file)
    agent.wait_state(run_id, "shell", ["running"])
    ballast = fill(disk)
    if not supervised:
        os.kill(number_in(parent), signal.SIGKILL)
    agent.client().post(path("runs", run_id, "cancel"))
    until_gone(task)
    assert alive(pid), agent.log.read_text()[-4000:]
    ballast.unlink()
    run = agent.wait_final(run_id, END_S)
    assert (run["state"], attempts(run)) == ("cancelled", [(1, "cancelled", "cancelled")])
    assert alive(pid)
    agent.stop()  # before its disk is gone

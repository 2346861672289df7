"""What users and disks do: each gets an answer, and the agent goes on."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from agent.client import Refused, path
from tests.e2e.agents import JOB, AgentProcess
from tests.e2e.cluster import until
from tests.e2e.conftest import Start

MIB = 2**20


def refusal(agent: AgentProcess, spec: dict[str, object]) -> Refused:
    """How the agent refuses this spec."""
    with pytest.raises(Refused) as caught:
        agent.client().post(path("projects", "p", "namespaces", "n", "jobs"), {"specs": [spec]})
    return caught.value


def ready(agent: AgentProcess) -> str:
    """What /readyz says."""
    return urllib3.request("GET", f"{agent.url}/readyz", retries=False).data.decode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 2\nname: [", "x/job.yaml:3:1"),
        ("version: 2\nname: 7\nowner: me\ntask: nothing\n", "task"),
        ("version: 2\nname: ../../etc\nowner: me\ntask: {name: shell}\n", "name"),
        ("version: 2\nname: a.b\nowner: me\ntask: {name: shel, config: {SCRIPT: x}}\n", "did you mean 'shell'"),
        ("version: 2\nname: a.b\nowner: me\nwindow: {size: 24h}\ntask: {name: shell}\n", "task.window"),
        ("a: &a [1, 2]\nb: &b [*a, *a]\n", "version"),
    ],
)
def test_a_bad_spec_is_refused_with_its_place(agent: AgentProcess, text: str, words: str) -> None:
    refused = refusal(agent, {"path": "x/job.yaml", "yaml": text})
    assert (refused.status, refused.code) == (422, "spec_invalid")
    said = "\n".join(f"{p['file']}:{p['line']}:{p['column']} {p['key']} {p['message']}" for p in refused.problems)
    assert words in said


def test_an_asset_of_50_mb_is_too_large_p12(agent: AgentProcess) -> None:
    asset = base64.b64encode(bytes(50 * MIB)).decode()
    text = JOB.format(name="big", script="      true\n")
    refused = refusal(agent, {"path": "big/job.yaml", "yaml": text, "assets": {"a.bin": asset}})
    assert (refused.status, refused.code) == (413, "too_large")
    assert "16 MiB" in refused.detail


def test_an_asset_may_not_leave_its_folder(agent: AgentProcess) -> None:
    text = JOB.format(name="sly", script="      true\n")
    refused = refusal(agent, {"path": "sly/job.yaml", "yaml": text, "assets": {"../../x": "AA=="}})
    assert (refused.status, refused.code) == (422, "invalid_path")


def test_a_gigabyte_of_output_is_bounded_and_the_gap_is_shown_p12(agent: AgentProcess) -> None:
    agent.apply("loud", "echo first; head -c 1073741824 /dev/zero | tr '\\0' 'x' | fold -w 1000; echo last")
    run_id = agent.submit("loud")
    assert agent.wait_final(run_id, 110)["state"] == "success"
    logs = agent.data_dir / "logs" / run_id / "shell" / "1"
    assert sum(file.stat().st_size for file in logs.iterdir()) <= 257 * MIB
    first, gaps, last = b"", 0, b""
    for piece in agent.client().text(path("runs", run_id, "instances", "shell", "logs")):
        first = first or piece
        gaps += piece.count(b"output is missing here")
        last = piece[-100:] if len(piece) >= 100 else last + piece
    assert first.startswith(b"first\n")
    assert gaps == 1
    assert last.endswith(b"last\n")


def test_binary_output_comes_back_byte_for_byte(agent: AgentProcess, tmp_path: Path) -> None:
    data = os.urandom(200_000)
    (tmp_path / "noise").write_bytes(data)
    agent.apply("noisy", f"cat {tmp_path / 'noise'}")
    run_id = agent.submit("noisy")
    agent.wait_final(run_id)
    assert agent.output(run_id) == data


def test_a_task_that_ignores_sigterm_is_killed_with_all_its_children(agent: AgentProcess, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    agent.apply("stubborn", f"trap '' TERM\nsetsid sleep 600 &\necho $$ $! > {pids}\nwhile :; do sleep 1; done")
    run_id = agent.submit("stubborn")
    while not pids.exists() or not pids.read_text().strip():
        pass
    agent.client().post(path("runs", run_id, "cancel"))
    assert agent.wait_final(run_id)["state"] == "cancelled"
    for pid in pids.read_text().split():
        assert not Path(f"/proc/{pid}").exists()


def test_a_time_out_stops_the_task_and_says_so(agent: AgentProcess) -> None:
    text = "version: 2\nname: slow\nowner: me\ntask: {name: shell, timeout: 1s, config: {SCRIPT: exec sleep 60}}\n"
    body = {"specs": [{"path": "slow/job.yaml", "yaml": text}]}
    agent.client().post(path("projects", "p", "namespaces", "n", "jobs"), body)
    run = agent.wait_final(agent.submit("slow"))
    assert (run["state"], run["reason"]) == ("failed", "timeout")


def test_an_agent_that_others_can_reach_does_nothing_without_a_token_p8(start_agent: Start) -> None:
    agent = start_agent("a", "--executors", "process", "--http", "0.0.0.0:0")
    assert agent.url.startswith("http://127.0.0.1:")
    with pytest.raises(Refused, match=r"a token is wanted.*--bootstrap-token") as refused:
        agent.client().get("/api/v1/runs")
    assert (refused.value.status, refused.value.code) == (401, "token_wanted")


def test_two_agents_cannot_share_a_directory(agent: AgentProcess) -> None:
    other = AgentProcess(agent.data_dir, "--executors", "process")
    other.log = agent.data_dir.parent / "other.log"
    url = agent.url
    note = (agent.data_dir / "agent.json").read_text()
    other.start(wait=False)
    assert other.wait_exit() == 1
    assert "another" in other.log.read_text()
    (agent.data_dir / "agent.json").write_text(note)
    assert agent.client().hosts == [url]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB of its own. Needs root."""
    if os.geteuid() != 0:
        pytest.skip("a file system can only be mounted as root")
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(where)], check=True)
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_room_p9(
    start_agent: Start, small_disk: Path
) -> None:
    agent = AgentProcess(small_disk / "a", "--executors", "process")
    agent.log = small_disk.parent / "a.log"
    agent.start()
    try:
        agent.apply("work", "echo done")
        before = agent.submit("work", "before")
        agent.wait_final(before)
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file:
            try:
                while True:
                    file.write(bytes(MIB))
                    file.flush()
            except OSError:
                pass  # full
        accepted = []
        for number in range(10):  # the log has room ahead: what it takes is kept, and waits
            with contextlib.suppress(Refused):
                accepted.append(agent.submit("work", f"while full {number}"))
        refused = refusal(agent, {"path": "b/job.yaml", "yaml": JOB.format(name="bulky", script="      true\n"),
                                  "assets": {"a": base64.b64encode(os.urandom(MIB)).decode()}})  # fmt: skip
        assert refused.status in (503, 507)
        if accepted:
            until(lambda: "the disk is full" in ready(agent), "/readyz says why nothing runs")
            explained = agent.client().get(path("runs", accepted[0], "explain"))["explanations"]
            assert "disk has been full" in explained[0]["why"]
        ballast.unlink()
        for run_id in accepted:  # P1: each waits for room, and runs
            run = agent.wait_final(run_id)
            assert run["state"] == "success", run
        assert agent.wait_final(agent.submit("work", "after"))["state"] == "success"
        assert agent.run(before)["state"] == "success"
    finally:
        agent.stop()

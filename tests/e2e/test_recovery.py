"""A cluster whose majority is gone goes on from what is left of it, a saved one goes on elsewhere (P1, P3, P5)."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from agent.client import Refused, path
from agent.cluster.keys import Keys, create, new_key
from tests.cli.terminal import Answer, prime
from tests.e2e.agents import AgentProcess
from tests.e2e.cluster import Cluster, Member, submit, until, wait_final

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

TERMS = {"ttl": 3, "stop": 1, "kill": 1, "rho": 0.01}
GATED = """
while [ ! -e {gate} ]; do
  read -r now _ < /proc/uptime
  echo "$PRIME_RUN_ID $PRIME_ATTEMPT $$ $now" >> {evidence}
  sleep 0.05
done
echo through
"""


def done(*words: str | Path) -> Answer:
    """What a command says that must succeed."""
    answer = prime(*words)
    assert answer.code == 0, answer.err
    return answer


class Evidence:
    """What the tasks have written of themselves: run, attempt, process and when, again and again."""

    def __init__(self, root: Path) -> None:
        self.file, self.gate = root / "evidence", root / "gate"
        self.script = GATED.format(gate=self.gate, evidence=self.file)

    def lines(self, run_id: str, attempt: int) -> list[tuple[int, float]]:
        """(process, when) of one attempt."""
        text = self.file.read_text() if self.file.exists() else ""
        rows = [line.split() for line in text.splitlines()]
        return [(int(row[2]), float(row[3])) for row in rows if row[:2] == [run_id, str(attempt)] and len(row) == 4]

    def wait(self, run_id: str, attempt: int) -> None:
        """Return when an attempt works."""
        until(lambda: self.lines(run_id, attempt), f"attempt {attempt} of {run_id} works")

    def end(self, run_id: str, attempt: int) -> None:
        """An attempt's host has gone, and it with it."""
        pid = self.lines(run_id, attempt)[0][0]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def evidence(tmp_path: Path) -> Iterator[Evidence]:
    """The gate is opened in the end, so that nothing waits for ever."""
    one = Evidence(tmp_path)
    yield one
    one.gate.touch()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    """Three agents, with a database."""
    one = Cluster(tmp_path, 3)
    for member in one.members:
        member.options += ("--database", f"sqlite:///{tmp_path}/mirror.db")
    try:
        one.start()
        yield one
    finally:
        one.stop()


def mirrored(root: Path, run_id: str) -> tuple[int, str] | None:
    """(generation, state) of a run in the database."""
    with closing(sqlite3.connect(root / "mirror.db")) as database:
        found: tuple[int, str] | None = database.execute(
            "SELECT generation, state FROM prime_runs WHERE run_id = ?", (run_id,)
        ).fetchone()
    return found


def test_two_of_three_are_gone_for_ever_and_the_third_goes_on_with_all_it_had(
    three: Cluster, tmp_path: Path, evidence: Evidence
) -> None:
    three.client().put("/api/v1/cluster/leases", TERMS)
    three.leader().apply("gated", evidence.script)
    three.leader().apply("short", "echo done")
    ended = submit(three.client(), "short", "short")
    wait_final(three.client(), ended)
    until(lambda: mirrored(tmp_path, ended), "it is mirrored")
    runs = [submit(three.client(), "gated", f"gated-{number}") for number in range(4)]
    for run_id in runs:
        evidence.wait(run_id, 1)
    survivor = three.others(three.leader())[0]
    old_ids, cluster_id = {one.id for one in three.members}, three.members[0].cluster()["cluster"]
    owners = {run_id: survivor.run(run_id)["instances"][0]["attempts"][0]["agent"] for run_id in runs}
    survivor.client().get(path("runs", ended, "assets"))  # on two disks of three; who is asked for it has it too
    until(lambda: has_all(survivor, three.leader(), runs), "the survivor has what the leader has")
    for member in [one for one in three.members if one is not survivor]:
        lose(three, member, evidence, owners)
    survivor.kill()

    shown = done("cluster", "recover", "--data-dir", survivor.data_dir, "-o", "json").json()
    assert (shown["cluster"], shown["unfinished_runs"], shown["open_attempts"], shown["lacking"]) == (
        cluster_id,
        4,
        4,
        [],
    )
    wrong = prime("cluster", "recover", "--data-dir", survivor.data_dir, "--confirm", "another")
    assert (wrong.code, "nothing was changed" in wrong.err) == (2, True)
    told = done("cluster", "recover", "--data-dir", survivor.data_dir, "--confirm", cluster_id).out
    assert "generation 2" in told
    rekey(three, tmp_path / "new.key", survivor)
    survivor.start(wait=False)
    survivor.wait_ready()
    for name in ("n1", "n2"):
        three.newcomer(name).start(wait=False)
    three.wait_roles(leader=1, follower=2)
    answer = survivor.cluster()
    assert (answer["cluster"], answer["generation"], len(answer["agents"])) == (cluster_id, 2, 3)
    assert old_ids.isdisjoint(one["id"] for one in answer["agents"])
    for run_id in runs:
        evidence.wait(run_id, 2)
    evidence.gate.touch()
    for run_id in runs:
        run = wait_final(three.client(three.up), run_id)
        attempts = run["instances"][0]["attempts"]
        assert (run["state"], [one["reason"] for one in attempts]) == ("success", ["agent_lost", None])
        assert evidence.lines(run_id, 1)[-1][1] < evidence.lines(run_id, 2)[0][1]  # never both (P3)
    assert [submit(three.client(three.up), "gated", f"gated-{number}") for number in range(4)] == runs  # P2
    until(lambda: all(one.run(ended)["state"] == "success" for one in three.up), "the history is everywhere")
    wanted = dict.fromkeys(runs, (2, "success"))
    until(lambda: {run_id: mirrored(tmp_path, run_id) for run_id in runs} == wanted, "the database is taken over")


def has_all(one: Member, leader: Member, runs: list[str]) -> bool:
    """Whether it knows that all these run, and has the files of all: they are on two disks before, on all soon."""
    running = all(leader.run(run_id)["instances"][0]["state"] == "running" for run_id in runs)
    applied = [member.cluster()["meta"]["applied_index"] for member in (leader, one)]
    files = [{path.name for path in member.data_dir.glob("blobs/??/*")} for member in (leader, one)]
    return running and applied[0] <= applied[1] and files[0] <= files[1]


def lose(three: Cluster, member: Member, evidence: Evidence, owners: dict[str, str]) -> None:
    """A host burns: its agent, its work, its disk."""
    name = member.id
    member.kill()
    for run_id, owner in owners.items():
        if owner == name:
            evidence.end(run_id, 1)
    member.data_dir.rename(member.data_dir.with_name(f"burnt-{member.name}"))  # what ends there may still write
    three.members.remove(member)


def rekey(three: Cluster, key: Path, *members: AgentProcess) -> None:
    """Give these, and all that join, a new cluster key."""
    create(key, Keys((new_key(),)))
    three.key = key
    for member in members:
        assert isinstance(member, Member)
        member.options += ("--cluster-key", str(key))


def test_a_saved_cluster_goes_on_elsewhere(
    start_agent: Callable[..., AgentProcess], tmp_path: Path, evidence: Evidence
) -> None:
    old = start_agent("old", "--executors", "process")
    old.client().put("/api/v1/cluster/leases", TERMS)
    old.apply("gated", evidence.script)
    old.apply(
        "secret",
        'test "$(cat in/query.sql) $(echo {{.secret.WORD}} | tr a-z b-za)" = "select yzaaz"',
        assets={"query.sql": "c2VsZWN0"},
    )
    old.client().put(path("projects", "p", "secrets", "WORD"), {"value": "xyzzy"})
    ended = old.submit("secret")
    before = old.wait_final(ended)
    run_id = old.submit("gated", "gated")
    evidence.wait(run_id, 1)
    file = tmp_path / "saved"
    told = done("--host", old.url, "cluster", "snapshot", "save", file, "--history").out
    assert file.stat().st_mode & 0o777 == 0o600
    found = done("cluster", "snapshot", "inspect", file, "-o", "json").json()
    assert (found["sound"], found["jobs"], found["finished_runs"], found["unfinished_runs"]) == (
        True,
        2,
        1,
        {"running": 1},
    )
    assert found["secret_keys"]
    assert found["secret_keys"][0] in told
    assert b"xyzzy" not in file.read_bytes()
    key = shutil.copy(old.data_dir / "secret.key", tmp_path / "kept.key")
    old.kill()
    evidence.end(run_id, 1)
    old.data_dir.rename(tmp_path / "burnt")

    words = ("cluster", "snapshot", "restore", file, "--data-dir", tmp_path / "new", "--secret-key", key)
    refused = prime(*words)
    assert (refused.code, "--assume-stopped" in refused.err) == (2, True), refused
    done(*words, "--assume-stopped")
    new = start_agent("new", "--executors", "process")
    assert new.client().get("/api/v1/cluster")["generation"] == 2
    evidence.wait(run_id, 2)
    evidence.gate.touch()
    assert new.wait_final(run_id)["state"] == "success"
    assert new.submit("gated", "gated") == run_id
    after = new.run(ended)
    assert (
        (after["state"], after["finished_at"])
        == (before["state"], before["finished_at"])
        == ("success", after["finished_at"])
    )
    assert new.wait_final(new.submit("secret"))["state"] == "success"
    assert [one["name"] for one in new.client().get(path("projects", "p", "jobs"))["jobs"]] == ["gated", "secret"]


def test_a_waiting_agent_founds_by_hand_and_the_others_join_it(tmp_path: Path) -> None:
    two = Cluster(tmp_path, 2)
    for member in two.members:
        member.options = member.options[: member.options.index("--bootstrap-expect")]
    first, second = two.members
    try:
        for member in two.members:
            member.start(wait=False)
            until(partial(waits, member), "it waits for somebody to found")
        assert first.stop() == 0
        assert "is founded" in done("cluster", "init", "--data-dir", first.data_dir).out
        first.start()
        two.wait_ready()
        assert second.cluster()["cluster"] == first.cluster()["cluster"]
        assert {one["id"] for one in second.cluster()["agents"]} == {first.id, second.id}
        assert prime("cluster", "init", "--data-dir", first.data_dir).code == 2
    finally:
        two.stop()


def waits(member: Member) -> bool:
    """Whether it is there, and takes nothing."""
    assert member.runs, member.text[-4000:]
    try:
        member.client().get("/readyz")
    except Refused as error:
        return error.status == 503
    return False

"""Three agents that are one: any of them is asked (P6), and any may die, stop or stand still (P1, P2, P3)."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.client import ClientError, path
from tests.e2e.cluster import (
    Cluster,
    Member,
    ask,
    cluster,
    run_list,
    submit,
    until,
    view,
    wait_final,
)

pytestmark = pytest.mark.timeout(240)

WORK = """
echo "start $PRIME_RUN_ID $PRIME_ATTEMPT" >> {evidence}
for n in 1 2 3; do echo "line $n"; sleep 0.05; done
echo "end $PRIME_RUN_ID $PRIME_ATTEMPT" >> {evidence}
"""
GATED = """
echo "start $PRIME_RUN_ID $PRIME_ATTEMPT" >> {evidence}
echo before
while [ ! -e {gate} ]; do sleep 0.05; done
echo after
echo "end $PRIME_RUN_ID $PRIME_ATTEMPT" >> {evidence}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Leases are long: how fast an agent is back on a busy machine decides nothing here."""
    with cluster(tmp_path_factory.mktemp("three")) as three:
        three.client().put("/api/v1/cluster/leases", {"ttl": 120, "stop": 3, "kill": 2, "rho": 0.01})
        yield three


@pytest.fixture
def three(shared: Cluster) -> Cluster:
    """All three run and take work, whatever a test before has left."""
    shared.heal()
    return shared


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    """What the tasks write of themselves, where no agent looks."""
    return tmp_path / "evidence"


class Submits(threading.Thread):
    """Asks for runs, one after another, each with a key of its own, until told to end."""

    def __init__(self, three: Cluster, members: list[Member], job: str) -> None:
        super().__init__()
        self._client, self._job = three.client(members), job
        self._ending = threading.Event()
        self.accepted: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def run(self) -> None:
        """The thread's work."""
        number = 0
        while not self._ending.wait(0.1):  # a load that a small machine can work off
            key = f"{self._job}-{number}"
            number += 1
            try:
                self.accepted[key] = submit(self._client, self._job, key)
            except ClientError as error:
                self.failed[key] = str(error)

    def wait_more(self, count: int) -> None:
        """Return when so many more were accepted."""
        wanted = len(self.accepted) + count
        until(lambda: len(self.accepted) >= wanted, f"{wanted} submissions; failed: {self.failed}")

    def end(self) -> None:
        """Return when the last one was answered."""
        self._ending.set()
        self.join()


@contextmanager
def submits(three: Cluster, members: list[Member], job: str) -> Iterator[Submits]:
    thread = Submits(three, members, job)
    thread.start()
    try:
        yield thread
    finally:
        thread.end()


def check(evidence: Path, runs: list[str]) -> None:
    """Each run's work began and ended exactly once, and nothing else has run.

    It may be that of a later attempt: one whose start was cut off, and is not known to have happened, never begins.
    """
    lines = [line.rsplit(maxsplit=1)[0] for line in evidence.read_text().splitlines()]
    assert Counter(lines) == Counter({f"{word} {run}": 1 for run in runs for word in ("start", "end")})


def test_what_is_done_through_one_agent_is_seen_through_all_p6(three: Cluster, tmp_path: Path, evidence: Path) -> None:
    one, two, other = three.members
    gate = tmp_path / "gate"
    script = GATED.format(evidence=evidence, gate=gate)
    one.apply("seen", script, assets={"note.txt": base64.b64encode(b"kept").decode()})
    run_id = two.submit("seen")
    other.wait_state(run_id, "shell", ["running"])
    heard: list[str] = []

    def follow(member: Member) -> None:
        logs = path("runs", run_id, "instances", "shell", "logs")
        heard.extend(
            f"{member.name} {event.data['text']}"
            for event in three.client([member]).events(logs, follow="true")
            if event.name == "line"
        )

    followers = [threading.Thread(target=follow, args=(member,)) for member in three.members]
    for follower in followers:
        follower.start()
    until(lambda: len(heard) == 3, "the first line on all three")
    gate.touch()
    for follower in followers:
        follower.join(60)
    assert sorted(heard) == sorted(f"{member.name} {line}" for member in three.members for line in ("before", "after"))
    run = wait_final(three.client([other]), run_id)
    assert run["state"] == "success"
    for member in three.members:
        assert member.output(run_id) == b"before\nafter\n"
        (assets,) = member.client().get(path("runs", run_id, "assets"))["assets"]
        assert assets["assets"]["note.txt"] == "kept"
    three.same_runs([run_id])
    for member in three.members:
        assert run_list(member)[run_id] == ("success", None)
    assert len({view(member) for member in three.members}) == 1
    check(evidence, [run_id])


def test_who_writes_through_a_follower_reads_it_there_at_once_p6(three: Cluster) -> None:
    for follower in three.others(three.leader()):
        for number in range(5):
            follower.apply(f"own-{follower.name}-{number}", "true")
            jobs = follower.client().get(path("projects", "p", "jobs"))["jobs"]
            assert f"own-{follower.name}-{number}" in {one["name"] for one in jobs}


def test_a_leader_is_killed_under_submissions_and_nothing_accepted_is_lost_or_doubled_p1(
    three: Cluster, evidence: Path
) -> None:
    leader = three.leader()
    others = three.others(leader)
    others[0].apply("killed", WORK.format(evidence=evidence))
    with submits(three, others, "killed") as stream:
        stream.wait_more(8)
        leader.kill()
        assert three.leader() is not leader
        stream.wait_more(8)
        leader.start()
        stream.wait_more(4)
    for key in stream.failed:  # the same again: whether it was accepted was not known (P2)
        stream.accepted[key] = submit(three.client(others), "killed", key)
    for key, run_id in list(stream.accepted.items())[::5]:
        assert submit(three.client([leader]), "killed", key) == run_id
    for run_id in stream.accepted.values():
        assert wait_final(three.client(others), run_id)["state"] == "success"
    assert len(set(stream.accepted.values())) == len(stream.accepted)
    check(evidence, list(stream.accepted.values()))
    three.same_runs(stream.accepted.values())


def test_a_follower_with_running_work_is_killed_and_finds_it_again_p3(
    three: Cluster, tmp_path: Path, evidence: Path
) -> None:
    gate = tmp_path / "gate"
    three.leader().apply("found", GATED.format(evidence=evidence, gate=gate))
    runs = [submit(three.client(), "found", f"found-{number}") for number in range(6)]
    until(lambda: evidence.exists() and len(evidence.read_text().splitlines()) == len(runs), "all have begun")
    leader = three.leader()
    follower = next(one for one in three.others(leader) if three.agent(one.id)["running"])
    before = three.agent(follower.id)
    follower.kill()
    gate.touch()  # what runs there ends while its agent is away
    rest = three.others(follower)
    until(lambda: evidence.read_text().count("end") == len(runs), "all have ended")
    follower.start()
    for run_id in runs:
        run = wait_final(three.client(rest), run_id)
        assert (run["state"], len(run["instances"][0]["attempts"])) == ("success", 1)
        assert rest[0].output(run_id) == b"before\nafter\n"
    check(evidence, runs)
    after = three.agent(follower.id)
    assert (after["epoch"], after["id"]) == (before["epoch"], before["id"])


def test_all_are_restarted_one_after_another_and_no_client_notices_p7(three: Cluster, evidence: Path) -> None:
    three.leader().apply("rolling", WORK.format(evidence=evidence))
    with submits(three, three.members, "rolling") as stream:
        stream.wait_more(3)
        for _ in range(3):
            leader = three.leader()
            assert leader.stop() == 0
            stream.wait_more(3)
            leader.start()
    assert stream.failed == {}
    for run_id in stream.accepted.values():
        assert wait_final(three.client(), run_id)["state"] == "success"
    check(evidence, list(stream.accepted.values()))
    three.same_runs(stream.accepted.values())


def test_a_minority_reads_and_refuses_to_write_and_goes_on_with_the_others(three: Cluster, evidence: Path) -> None:
    leader = three.leader()
    other, left = three.others(leader)
    left.apply("minority", WORK.format(evidence=evidence))
    first = left.submit("minority", "minority-1")
    wait_final(three.client(), first)
    until(lambda: first in run_list(left), "it is listed")
    leader.freeze()
    other.freeze()
    until(lambda: left.cluster()["leader"] is None, "it knows no leader any more")
    assert left.run(first)["state"] == "success"
    assert first in run_list(left)
    assert ask(left, "GET", "/healthz").status == 200
    assert ask(left, "GET", "/readyz").status == 503
    runs = path("projects", "p", "jobs", "minority", "runs")
    wanted = (
        ("POST", runs),
        ("POST", path("runs", first, "cancel")),
        ("GET", path("runs", first) + "?consistent=true"),
    )
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(lambda one: ask(left, *one), wanted))
    for answer in answers:
        assert (answer.status, answer.json()["code"]) == (503, "no_leader"), answer.data
        assert int(answer.headers["Retry-After"]) >= 1
    leader.thaw()
    other.thaw()
    three.wait_ready()
    second = [one.submit("minority", f"minority-{one.name}") for one in three.members]
    for run_id in second:
        assert wait_final(three.client(), run_id)["state"] == "success"
    check(evidence, [first, *second])


def test_a_leader_that_stood_still_comes_back_as_a_follower_and_nothing_is_doubled_p3(
    three: Cluster, tmp_path: Path, evidence: Path
) -> None:
    leader = three.leader()
    others = three.others(leader)
    gate = tmp_path / "gate"
    leader.apply("still", GATED.format(evidence=evidence, gate=gate))
    runs = [submit(three.client(others), "still", f"still-{number}") for number in range(6)]
    until(lambda: evidence.exists() and len(evidence.read_text().splitlines()) == len(runs), "all have begun")
    before = three.agent(leader.id)["epoch"]
    leader.freeze()
    frozen_s = time.monotonic()
    asked: list[str] = []
    asking = threading.Thread(target=lambda: asked.append(submit(three.client([leader]), "still", "still-asked")))
    asking.start()  # what stands in its socket is answered when it goes on
    three.leader(among=others, but=leader.id)
    runs += [submit(three.client(others), "still", f"later-{number}") for number in range(2)]
    same = submit(three.client(others), "still", "still-asked")
    until(lambda: time.monotonic() - frozen_s > 5, "five seconds")
    leader.thaw()
    gate.touch()
    asking.join(60)
    assert asked == [same]
    runs.append(same)
    until(lambda: leader.cluster()["leader"] not in (None, leader.id), "it follows")
    for run_id in runs:
        run = wait_final(three.client(), run_id)
        assert (run["state"], len(run["instances"][0]["attempts"])) == ("success", 1)
    check(evidence, runs)
    assert three.agent(leader.id)["epoch"] == before
    three.same_runs(runs)


def test_all_are_killed_at_once_and_everything_is_there_again_p1(
    three: Cluster, tmp_path: Path, evidence: Path
) -> None:
    gate = tmp_path / "gate"
    three.leader().apply("all", GATED.format(evidence=evidence, gate=gate))
    runs = [submit(three.client(), "all", f"all-{number}") for number in range(3)]
    until(lambda: evidence.exists() and len(evidence.read_text().splitlines()) == len(runs), "all have begun")
    before = run_list(three.members[0])
    cluster_id = three.members[0].cluster()["cluster"]
    for member in three.members:
        member.kill()
    gate.touch()
    three.start()
    assert {member.cluster()["cluster"] for member in three.members} == {cluster_id}
    for run_id in runs:
        assert wait_final(three.client(), run_id)["state"] == "success"
    check(evidence, runs)
    three.same_runs(before)
    assert run_list(three.members[0]).keys() == before.keys()
    assert submit(three.client(), "all", "all-0") == runs[0]

"""Any agent of a cluster that wants tokens is asked (P6, P8): directly, by a client of several, behind a balancer."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import urllib3

from agent import token_file
from agent.client import Client, Refused, path
from agent.service.tokens import new_token
from tests.e2e.agents import JOB, PROGRAM
from tests.e2e.balancer import NoBalancer, balancer, without_balancer
from tests.e2e.cluster import Cluster, Member, free_ports, until

pytestmark = pytest.mark.timeout(240)

TOKENS = "/api/v1/tokens"
GATED = "echo before\nwhile [ ! -e {gate} ]; do sleep 0.05; done\necho after\n"


class Guarded(Cluster):
    """Three agents that want a token of everyone."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.file = root / "bootstrap"
        token_file.create(self.file, new_token())
        for one in self.members:
            one.options += ("--bootstrap-token", str(self.file))
        self.token = ""

    def make_admin(self) -> None:
        """By the bootstrap token, as an operator does it first."""
        first = Client([self.members[0].url], token=self.file.read_text().strip())
        self.token = first.post(TOKENS, {"name": "boss", "role": "admin"})["token"]
        # Leases are long: how fast an agent is back on a busy machine decides nothing here.
        self.of(self.members).put("/api/v1/cluster/leases", {"ttl": 120, "stop": 3, "kill": 2, "rho": 0.01})

    def of(self, members: Sequence[Member], token: str = "") -> Client:
        """A client of these agents, with an admin's token if none is given."""
        return Client([one.url for one in members], token=token or self.token)

    def led_by(self) -> Member:
        """The leader, once all that run agree on it."""

        def agreed() -> Member | None:
            told = {self.of([one]).get("/api/v1/cluster")["leader"] for one in self.up}
            return next((one for one in self.up if {one.id} == told), None)

        return until(agreed, "one leader")

    def apply(self, name: str, script: str) -> None:
        """A job that runs a shell script."""
        text = JOB.format(name=name, script="".join(f"      {line}\n" for line in script.splitlines()))
        body = {"specs": [{"path": f"{name}/job.yaml", "yaml": text}]}
        self.of(self.members).post(path("projects", "p", "namespaces", "n", "jobs"), body)

    def running_off(self, job: str, member: Member, keys: str) -> str:
        """The id of a run of a gated job whose work runs on another agent than this one."""
        client = self.of(self.others(member))
        for number in range(12):
            run_id = submit(client, job, f"{keys}-{number}")
            agent = until(partial(runs_on, client, run_id), "it runs")
            if agent != member.id:
                return run_id
        raise AssertionError("all of them were given to one agent")


def submit(client: Client, job: str, key: str) -> str:
    run_id: str = client.post(path("projects", "p", "jobs", job, "runs"), {}, key=key)["run"]["id"]
    return run_id


def runs_on(client: Client, run_id: str) -> str | None:
    """The agent where a run's task runs."""
    (instance,) = client.get(path("runs", run_id))["run"]["instances"]
    return instance["attempts"][-1]["agent"] if instance["state"] == "running" else None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    one = Guarded(tmp_path_factory.mktemp("guarded"))
    try:
        one.start()
        one.make_admin()
        yield one
    finally:
        one.stop()


@pytest.fixture
def three(shared: Guarded) -> Guarded:
    """All three run and take work, whatever a test before has left."""
    shared.heal()
    return shared


def test_a_token_that_was_made_at_one_agent_is_good_at_every_other_at_once_p6(three: Guarded) -> None:
    one, two, other = three.members[:3]
    for number in range(5):
        token = three.of([one]).post(TOKENS, {"name": f"at-once-{number}", "role": "user"})["token"]
        assert three.of([two], token).get("/api/v1/runs")["meta"]
        three.of([other], token).put(path("projects", f"p{number}"), {})
        three.of([two]).delete(f"{TOKENS}/at-once-{number}")
        with pytest.raises(Refused, match="not known, or was deleted"):  # a write is checked against all there is
            three.of([one], token).put(path("projects", "never"), {})
        with pytest.raises(Refused, match="counts no longer"):
            three.of([other], three.file.read_text().strip()).get("/api/v1/runs")


def test_output_that_is_followed_through_an_agent_that_dies_goes_on_through_another(
    three: Guarded, tmp_path: Path
) -> None:
    gate, asked = tmp_path / "gate", three.led_by()
    three.apply("followed", GATED.format(gate=gate))
    run_id = three.running_off("followed", asked, "followed")
    hosts = ",".join(one.url for one in (asked, *three.others(asked)))
    for words in (["run", "logs", run_id, "-f"], ["run", "wait", run_id]):
        gate.unlink(missing_ok=True)
        command = [*PROGRAM, *words, "--host", hosts]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PRIME_TOKEN": three.token}
        ) as process:
            if words[1] == "logs":
                assert process.stdout is not None
                assert process.stdout.readline() == b"before\n"
                asked.kill()
            gate.touch()
            out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
        assert words[1] != "logs" or out == b"after\n"


def test_an_agent_that_hears_no_leader_says_so_with_what_it_has_and_takes_nothing_p6(three: Guarded) -> None:
    left = three.newcomer("standby")
    left.options += ("--bootstrap-token", str(three.file))
    left.start()
    until(lambda: role(three, left) == "standby", "it has the log and no vote")
    leader = three.led_by()
    three.apply("stale", "true")
    until(lambda: "stale" in names(three.of([left])), "it has been applied")
    fresh = three.of([left]).get("/api/v1/runs")["meta"]
    assert (fresh["leader"], fresh["age_ms"] < 5_000) == (leader.id, True)
    for one in three.others(left):
        one.freeze()
    client = three.of([left])
    until(lambda: client.get("/api/v1/runs")["meta"]["leader"] is None, "it hears no leader")
    shown = client.get("/api/v1/runs")["meta"]
    assert shown["leader"] is None
    assert urllib3.request("GET", left.url + "/readyz", retries=False).status == 503
    until(lambda: client.get("/api/v1/runs")["meta"]["age_ms"] > shown["age_ms"] + 500, "it grows older")
    environment = {**os.environ, "PRIME_TOKEN": three.token}
    listed = subprocess.run(
        [*PROGRAM, "run", "list", "--host", left.url], env=environment, capture_output=True, text=True, check=True
    )
    assert "hears no leader; what is shown may be" in listed.stderr
    headers = {"Authorization": f"Bearer {three.token}", "Content-Type": "application/json"}
    for method, at, status in (
        ("POST", path("projects", "p", "jobs", "stale", "runs"), 503),
        ("GET", path("runs") + "?consistent=true", 503),
        ("GET", path("projects", "unknown"), 503),  # it may be known elsewhere
        ("POST", TOKENS, 503),
    ):
        begin_s = time.monotonic()
        answer = urllib3.request(method, left.url + at, headers=headers, timeout=30, retries=False)
        assert (answer.status, answer.json()["code"]) == (status, "no_leader")
        assert int(answer.headers["Retry-After"]) == 1
        assert time.monotonic() - begin_s < 10
    stranger = {"Authorization": f"Bearer {new_token()}"}
    answer = urllib3.request("GET", left.url + path("runs"), headers=stranger, timeout=30, retries=False)
    assert (answer.status, answer.json()["code"]) == (503, "no_leader")  # nobody can know whether it is good


def role(three: Guarded, member: Member) -> str:
    """What an agent is for the log."""
    agents = three.of(three.others(member)).get("/api/v1/cluster")["agents"]
    return next((one["role"] for one in agents if one["id"] == member.id), "")


def names(client: Client) -> set[str]:
    return {one["name"] for one in client.get(path("projects", "p", "jobs"))["jobs"]}


def test_behind_a_balancer_an_agent_is_killed_and_no_request_with_a_key_fails(three: Guarded, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    address = f"127.0.0.1:{free_ports(1)[0]}"
    agents = [one.url.removeprefix("http://") for one in three.members]
    try:
        with balancer(tmp_path, address, agents) as url:
            _through(three, Client([url], token=three.token), gate)
    except NoBalancer as reason:
        without_balancer(reason)
    finally:
        gate.touch()


def _through(three: Guarded, client: Client, gate: Path) -> None:
    leader = three.led_by()
    three.apply("gated", GATED.format(gate=gate))
    three.apply("balanced", "true")
    until(lambda: client.get("/api/v1/cluster")["leader"], "the balancer sends requests on")
    nobody = Client(client.hosts)
    with pytest.raises(Refused, match="a token is wanted"):
        nobody.get("/api/v1/runs")
    run_id = three.running_off("gated", leader, "gated")
    heard: list[str] = []
    logs = path("runs", run_id, "instances", "shell", "logs")

    def follow() -> None:
        events = client.twin().events(logs, follow="true")
        heard.extend(event.data["text"] for event in events if event.name == "line")

    follower = threading.Thread(target=follow)
    follower.start()
    until(lambda: heard == ["before"], "output comes through while its task runs")
    accepted = [submit(client, "balanced", f"before-{number}") for number in range(5)]
    leader.kill()
    accepted += [submit(client, "balanced", f"after-{number}") for number in range(20)]
    gate.touch()
    follower.join(60)
    assert heard == ["before", "after"]
    assert len(set(accepted)) == 25
    assert [submit(client, "balanced", f"after-{number}") for number in range(20)] == accepted[5:]

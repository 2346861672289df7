"""Several real agents on loopback ports that belong to one cluster: started, asked, stopped and killed by tests."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import urllib3

from agent.client import Client, ClientError, path
from agent.cluster.keys import Keys, create, new_key
from tests.e2e.agents import AgentProcess

T = TypeVar("T")

WAIT_S: Final = 90.0  # for what takes a second or ten on a machine that has nothing else to do
POLL_S: Final = 0.05
ASK_S: Final = 5.0
PORTS: Final = range(12_000, 32_000)  # below those that Linux gives to connections


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on. They are let go together, so that they differ.

    None of those that the system gives to connections: one of these could take the port of an agent that is away.
    """
    with ExitStack() as held:
        sockets: list[socket.socket] = []
        while len(sockets) < count:
            with suppress(OSError):  # somebody listens there
                port = PORTS.start + secrets.randbelow(len(PORTS))
                sockets.append(held.enter_context(socket.create_server(("127.0.0.1", port))))
        return [one.getsockname()[1] for one in sockets]


def until(look: Callable[[], T | None], what: str, timeout_s: float = WAIT_S) -> T:
    """The first thing that `look` gives that is neither None nor false. Agents that do not answer are asked again."""
    end_s = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < end_s:
        try:
            found = last = look()
        except (ClientError, FileNotFoundError) as error:
            found, last = None, error
        if found:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"{what}: not within {timeout_s:g} s; at last {last!r}")


class Member(AgentProcess):
    """One agent of a cluster, on ports that stay the same."""

    def __init__(self, root: Path, name: str, ports: tuple[int, int], *options: str) -> None:
        """ports: for other agents, and of the HTTP face."""
        self.name = name
        self.address, self._http = f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
        own = ("--bind", self.address, "--http", self._http, "--executors", "process")
        super().__init__(root / name)
        self.options = (*own, *options)
        self.frozen = False

    def start(self, *, wait: bool = True) -> None:
        """See `AgentProcess`. `options` may have been added to: the last of a name counts."""
        self._options = self.options
        super().start(wait=wait)

    @property
    def url(self) -> str:
        """Where it answers, whether it runs or not."""
        return f"http://{self._http}"

    @property
    def id(self) -> str:
        """Its name in the cluster."""
        name: str = self.note()["agent"]
        return name

    def note(self) -> dict[str, Any]:
        """What it has written down of itself."""
        import json

        note: dict[str, Any] = json.loads((self.data_dir / "agent.json").read_text())
        return note

    @property
    def text(self) -> str:
        """All that it has logged."""
        return self.log.read_text()

    def client(self) -> Client:
        """A client of this agent alone, that gives up soon."""
        return Client([self.url], "tests", limit_s=ASK_S)

    def is_ready(self) -> bool:
        """Whether it takes work; fails where it has ended."""
        assert self.runs, f"{self.name} has ended: {self.text[-4000:]}"
        self.client().get("/readyz")
        return True

    def wait_ready(self) -> None:
        """Return when it takes work."""
        until(self.is_ready, f"{self.name} is ready")

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def wait_exit(self) -> int:
        """Its exit code, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(WAIT_S)

    def freeze(self) -> None:
        """SIGSTOP: it is there and does nothing. Returns when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True
        until(lambda: Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it stands")

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
        self.frozen = False

    def end(self) -> None:
        """Stop it, whatever state it is in."""
        if self.runs:
            if self.frozen:
                self.thaw()
            self.stop()

    def cluster(self) -> dict[str, Any]:
        """What `prime cluster status` shows here."""
        answer: dict[str, Any] = self.client().get("/api/v1/cluster")
        return answer


class Cluster:
    """Agents with one key and one list."""

    def __init__(self, root: Path, founders: int = 3, *, key: Path | None = None) -> None:
        """Nobody runs yet. key: the file of the cluster's key; None = a new one."""
        self.root = root
        self.key = key or root / "cluster.key"
        if key is None:
            create(self.key, Keys((new_key(),)))
        ports = free_ports(2 * founders)
        self.join = ",".join(f"127.0.0.1:{port}" for port in ports[:founders])
        found = ("--bootstrap-expect", str(founders))
        self.members = [self._member(f"m{at}", (ports[at], ports[founders + at]), *found) for at in range(founders)]

    def _member(self, name: str, ports: tuple[int, int], *options: str) -> Member:
        common = ("--join", self.join, "--cluster-key", str(self.key))
        return Member(self.root, name, ports, *common, *options)

    def newcomer(self, name: str) -> Member:
        """One that only joins, not started yet."""
        first, second = free_ports(2)
        member = self._member(name, (first, second))
        self.members.append(member)
        return member

    def start(self, order: Sequence[int] | None = None) -> None:
        """Start all, in that order, and wait until all take work."""
        for at in order if order is not None else range(len(self.members)):
            self.members[at].start(wait=False)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when all that run take work, and one of them leads."""
        for one in self.up:
            one.wait_ready()

    def heal(self) -> None:
        """Have all of them run and take work."""
        for one in self.members:
            if not one.runs:
                one.start(wait=False)
            elif one.frozen:
                one.thaw()
        self.wait_ready()

    def same_runs(self, runs: Iterable[str]) -> None:
        """Return when all agents list these runs, and show the same of all."""
        wanted = set(runs)

        def listed() -> bool:
            lists = [run_list(one) for one in self.up]
            return wanted <= lists[0].keys() and all(one == lists[0] for one in lists)

        until(listed, "the same runs on all")

    def stop(self) -> None:
        """End all of them, at once where that is possible."""
        for one in self.up:
            if one.frozen:
                one.thaw()
            os.kill(one.pid, signal.SIGTERM)
        for one in self.members:
            one.end()

    @property
    def up(self) -> list[Member]:
        """Those whose process is there."""
        return [one for one in self.members if one.runs]

    def client(self, members: Iterable[Member] | None = None) -> Client:
        """A client that asks one after another of these, or of all."""
        chosen = self.members if members is None else members
        return Client([one.url for one in chosen], "tests")

    def leader(self, *, among: Sequence[Member] | None = None, but: str = "") -> Member:
        """Wait until these agents (all that run) agree on one of them that leads, other than `but`."""
        members = self.up if among is None else among

        def agreed() -> Member | None:
            told = {one.cluster()["leader"] for one in members}
            (name,) = told if len(told) == 1 else (None,)
            return next((one for one in members if one.id == name != but), None)

        return until(agreed, "one leader")

    def others(self, *members: Member) -> list[Member]:
        """Those that run, without these."""
        return [one for one in self.up if one not in members]

    def agent(self, name: str, asked: Member | None = None) -> dict[str, Any]:
        """The row of an agent, as another one (or any) shows it."""
        answer = (asked or self.up[0]).cluster()
        found: dict[str, Any] = next(one for one in answer["agents"] if one["id"] == name)
        return found

    def wait_roles(self, **wanted: int) -> None:
        """Return when all agents see so many of each role, `leader` and `follower` and `standby`."""

        def seen() -> bool:
            return all(roles(one) == Counter(wanted) for one in self.up)

        until(seen, f"{wanted} on all")


def roles(member: Member) -> Counter[str]:
    """How many agents have which role, as this one shows it."""
    return Counter(one["role"] for one in member.cluster()["agents"])


def view(member: Member) -> tuple[object, ...]:
    """What all agents must show alike once nothing changes any more."""
    answer = member.cluster()
    agents = sorted((one["id"], one["role"], one["state"], one["epoch"], one["address"]) for one in answer["agents"])
    return answer["cluster"], answer["generation"], answer["leader"], answer["term"], tuple(agents)


def submit(client: Client, job: str, key: str) -> str:
    """Ask for a run through any of the client's hosts. Returns its id."""
    run_id: str = client.post(path("projects", "p", "jobs", job, "runs"), {}, key=key)["run"]["id"]
    return run_id


def wait_final(client: Client, run_id: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
    """A run, once any of the client's hosts shows that it has ended."""

    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = client.get(path("runs", run_id, "wait"), timeout=2)["run"]
        return run if run["finished_at"] is not None else None

    return until(ended, f"{run_id} ends", timeout_s)


def run_list(member: Member) -> dict[str, tuple[str, str | None]]:
    """{run: (state, reason)} of all runs, as this agent lists them."""
    runs: dict[str, tuple[str, str | None]] = {}
    cursor = None
    while True:
        page = member.client().get("/api/v1/runs", limit=100, cursor=cursor)
        runs.update({one["id"]: (one["state"], one["reason"]) for one in page["runs"]})
        cursor = page["next_cursor"]
        if cursor is None:
            return runs


@contextmanager
def cluster(root: Path, founders: int = 3) -> Iterator[Cluster]:
    """A cluster that takes work; all of it is ended after."""
    one = Cluster(root, founders)
    try:
        one.start()
        yield one
    finally:
        one.stop()


def ask(member: Member, method: str, at: str) -> urllib3.BaseHTTPResponse:
    """The whole answer to a request that may be refused."""
    body = b"{}" if method == "POST" else None
    headers = {"Content-Type": "application/json"}
    return urllib3.request(method, f"{member.url}{at}", body=body, headers=headers, timeout=30, retries=False)

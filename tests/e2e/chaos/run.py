"""One run of the suite: a cluster under load and faults, then peace, then the check of all that was seen."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from agent.client import Client
from agent.cluster.keys import Keys, create, new_key
from tests.e2e.chaos import load as loads
from tests.e2e.chaos import mirror
from tests.e2e.chaos.check import check
from tests.e2e.chaos.history import FINAL, History, Record, evidence_of, record_of
from tests.e2e.chaos.lan import Lan, address
from tests.e2e.chaos.load import Load
from tests.e2e.chaos.nemesis import Nemesis, Say
from tests.e2e.chaos.plan import Fault, Step, make
from tests.e2e.chaos.site import Site, wall_clock
from tests.e2e.cluster import until
from tests.postgresql import NoDatabase, Server, own_server

LEASES: Final = {"ttl": 4, "stop": 1, "kill": 2, "rho": 0.01}  # short: what follows from a lost agent is seen often
QUIET_S: Final = 180.0  # for all that was accepted to end, once everything is mended
PAGE: Final = 100
ENGINES_SURE: Final = 4  # of so many hung engines one is of an agent that runs


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do. seconds: of load and faults."""

    seed: int
    seconds: float
    agents: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. left_out: faults that cannot be made here, with the reason. quiet_s: from peace to rest."""

    wanted: Wanted
    plan: Sequence[Step]
    begun: Sequence[Step]
    left_out: dict[Fault, str]
    history: History
    violations: Sequence[str]
    terms: int
    lost: int
    quiet_s: float


class Chaos:
    """The cluster of a run."""

    def __init__(self, root: Path, wanted: Wanted, say: Say) -> None:
        self._root, self._wanted, self._say = root, wanted, say
        self._evidence = root / "evidence"
        self._evidence.mkdir()
        self.left_out: dict[Fault, str] = {}
        self.plan: list[Step] = []

    def run(self) -> Outcome:
        """Raises AssertionError where it does not come to rest; `plan` is there then, too."""
        with ExitStack() as stack:
            database = self._database(stack)
            url = database.url if database else f"sqlite:///{self._root}/runs.db"
            lan = Lan(self._wanted.agents)
            sites = self._sites(url)
            for site in sites:
                stack.callback(site.remove)
            return self._run(sites, Nemesis(sites, lan, database, self._say), url)

    def _database(self, stack: ExitStack) -> Server | None:
        try:
            return stack.enter_context(own_server())
        except NoDatabase as reason:
            self.left_out[Fault.DATABASE] = f"{reason}; the mirror is a file of SQLite"
            return None

    def _sites(self, url: str) -> list[Site]:
        clock = wall_clock(self._root)
        if clock is None:
            self.left_out[Fault.CLOCK] = "there is no C compiler"
        key, token = self._root / "cluster.key", secrets.token_hex(32)
        create(key, Keys((new_key(),)))
        bootstrap = self._root / "bootstrap"
        bootstrap.touch(0o600)
        bootstrap.write_text(token)
        count = self._wanted.agents
        list_ = ",".join(f"{address(number)}:9101" for number in range(count))
        founding = ("--join", list_, "--bootstrap-expect", str(count), "--cluster-key", str(key))
        options = ("--bootstrap-token", str(bootstrap), "--database", url)
        return [Site(self._root, number, token, clock, *founding, *options) for number in range(count)]

    def _run(self, sites: Sequence[Site], nemesis: Nemesis, url: str) -> Outcome:
        wanted = self._wanted
        for site in sites:
            site.start(wait=False)
        self._wait_ready(sites)
        client = sites[0].client()
        client.put("/api/v1/cluster/leases", LEASES)
        specs = loads.specs(self._evidence)
        client.post(f"/api/v1/projects/{loads.PROJECT}/namespaces/n/jobs", {"specs": specs})
        self.plan = make(wanted.seed, wanted.seconds, wanted.agents, set(Fault) - self.left_out.keys())
        load = Load(sites, wanted.seed)
        load.start()
        try:
            nemesis.carry_out(self.plan, wanted.seconds)
        finally:
            load.stop()
        nemesis.heal()
        healed_s = time.monotonic()
        self._wait_ready(sites)
        load.ask_again()
        records = self._at_rest(sites)
        history = History(load.calls, evidence_of(loads.evidence_lines(self._evidence)), records, mirror.rows(url))
        violations = [*check(history), *nemesis.odd_ends]
        if sum(step.fault is Fault.ENGINE for step in nemesis.begun) >= ENGINES_SURE and not nemesis.hung:
            violations.append("no engine was ever hung: the suite does not find them")
        return Outcome(
            wanted,
            self.plan,
            nemesis.begun,
            self.left_out,
            history,
            violations,
            terms=sites[0].cluster()["term"],
            lost=sum(one["epoch"] - 1 for one in sites[0].cluster()["agents"]),
            quiet_s=time.monotonic() - healed_s,
        )

    def _wait_ready(self, sites: Sequence[Site]) -> None:
        for site in sites:
            until(partial(_is_ready, site), f"{site.name} is ready", QUIET_S)

    def _at_rest(self, sites: Sequence[Site]) -> dict[str, list[Record]]:
        """What each agent keeps, once all runs have ended everywhere, all agents are there and the mirror has them."""

        def rest() -> dict[str, list[Record]] | None:
            kept = {site.name: _records(site) for site in sites}
            counts = {len(records) for records in kept.values()}
            ended = all(record.state in FINAL for records in kept.values() for record in records)
            return kept if len(counts) == 1 and ended and all(_is_whole(site) for site in sites) else None

        return until(rest, "all has ended, everywhere", QUIET_S)


def _is_ready(site: Site) -> bool:
    assert site.runs, f"{site.name} has ended with exit code {site.exit_code}"
    site.client().get("/readyz")
    return True


def _is_whole(site: Site) -> bool:
    shown = site.cluster()
    writes = shown["leader"] == shown["meta"]["agent"]  # the others look at the database once a minute
    mirrored = not writes or shown["mirror"]["behind"] == 0
    return shown["leader"] is not None and mirrored and all(one["state"] == "alive" for one in shown["agents"])


def _records(site: Site) -> list[Record]:
    return [record_of(shown) for shown in _pages(site.client())]


def _pages(client: Client) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = client.get("/api/v1/runs", limit=PAGE, cursor=cursor)
        yield from page["runs"]
        cursor = page["next_cursor"]
        if cursor is None:
            return

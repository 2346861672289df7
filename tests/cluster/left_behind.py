"""What is left of a cluster, made without one: a snapshot's bytes, the data directory of the last of three agents."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from agent import intact
from agent.cluster import recovery
from agent.cluster.promise import PromiseFile
from agent.cluster.snapshot_file import End, Header, Kind, Runs, Writer
from agent.replica import rows_of
from agent.runtable import commands as c
from agent.runtable.model import OnAgentLost
from agent.runtable.table import Table
from agent.store.history import START, History, end_of, pack
from agent.store.journal import Journal
from consensus.durable import DurableLog
from consensus.messages import Entry, HardState
from consensus.wal_identity import Identity as NodeIdentity
from tests.runtable.builders import START_MS, Driver, task

NOW_MS = START_MS + 3_600_000


def a_file() -> bytes:
    """A small snapshot: its table, no blob, one finished run."""
    driver = Driver().found()
    driver.submit(run_id="r1")
    driver.go("bq2bq")
    rows = driver.table.rows
    out = Writer()
    header = Header(1, rows.cluster, rows.generation, rows.index, 1, NOW_MS, "0", "a1", (), history=True)
    (row,) = rows_of(rows.index, tuple(driver.finished))
    parts = [
        out.struct(header),
        out.record(Kind.TABLE, *driver.table.image()),
        out.struct(Runs(START, (pack(row),), end_of(rows.index))),
        out.struct(End(0, 0, 1)),
    ]
    return b"".join(parts)


@dataclasses.dataclass
class Left:
    """The data directory of the last agent of three, a1, stopped; and the table that its log leads to."""

    directory: Path
    driver: Driver
    cluster: str


def left_behind(directory: Path) -> Left:
    """r1 has ended; r2 runs here, r3 on a2, and both fail by it; r4 waits. The last entries are not known committed."""
    identity = recovery.init(directory)
    with DurableLog.open(directory / "log", NodeIdentity(identity.cluster, identity.node, 1)) as durable:
        driver = Driver(Table.load(durable.read_snapshot()), index=1)
        driver.up(identity.agent, 2, node=identity.node)
        driver.up("a2", 1, node=22)
        driver.up("a3", 1, node=33)
        driver.say(c.PutProject(START_MS, "p"))
        driver.submit(run_id="r1")
        driver.go("bq2bq")
        for run_id in ("r2", "r3", "r4"):
            driver.submit(task(on_agent_lost=OnAgentLost.FAIL), run_id=run_id)
        for run_id, agent in (("r2", identity.agent), ("r3", "a2")):
            driver.say(c.Assign(START_MS, run_id, "bq2bq", 1, agent, 1))
            driver.start("bq2bq", run_id)
        entries = [Entry(3, at, data=data) for at, data in enumerate(driver.log, 2)]
        durable.save(HardState(4, 0, len(entries) - 2), entries, len(entries) - 2)
    for name, opened in (("history.db", History.open), ("journal.db", Journal)):
        opened(directory / name).close()
    PromiseFile.open(directory, identity.agent).close()
    intact.complete(directory)
    return Left(directory, driver, identity.cluster)

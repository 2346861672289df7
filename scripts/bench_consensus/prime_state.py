"""A large run table as a member's state machine, and what its snapshots do to the loop and the heartbeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from agent.peers import Peers
from agent.runtable.model import (
    Attempt,
    AttemptState,
    FinishedRow,
    Instance,
    InstanceKind,
    InstancePlan,
    InstanceState,
    Origin,
    Reason,
    Request,
    Run,
    RunState,
    TableImage,
    tick_key,
)
from agent.runtable.table import Table, TableLoader, parts_of
from consensus.messages import Entry, Message, MessageType, SnapshotMeta

PROBE_S: Final = 0.002
NOW_MS: Final = 1_760_000_000_000
DAY_MS: Final = 86_400_000
ATTEMPTS: Final = 10  # of each instance of an open run
OPEN_RUNS: Final = 0.044  # of the ended ones; about 15 KiB each
HEARTBEATS: Final = frozenset({MessageType.HEARTBEAT, MessageType.HEARTBEAT_RESPONSE})


def filled(ended: int) -> Table:
    """A table with so many ended runs, their ticks and requests, and open runs; 100,000 give some 100 MB."""
    rows = TableImage(index=1, time_ms=NOW_MS, cluster="bench")
    for number in range(ended):
        run_id, project, job = f"R{number:015}", f"project-{number % 10}", f"job-with-a-usual-name-{number % 500}"
        at_ms = NOW_MS + number * 60_000
        row = FinishedRow(project, job, at_ms, Origin.SCHEDULE, RunState.SUCCESS, number, at_ms)
        rows.finished[run_id] = row
        rows.ticks[tick_key(project, job, at_ms, Origin.SCHEDULE)] = run_id
        rows.requests[f"key-{number:032}"] = Request(f"{number:064x}", run_id, NOW_MS + DAY_MS)
    for number in range(int(ended * OPEN_RUNS)):
        run = _open_run(number)
        rows.runs[run.id] = run
    return Table(rows)


def _open_run(number: int) -> Run:
    return Run(
        id=f"Q{number:015}",
        project="project-1",
        namespace="n",
        job=f"job-{number % 500}",
        scheduled_at_ms=NOW_MS,
        origin=Origin.SCHEDULE,
        requested_by="scheduler",
        via="agent-one",
        bundle=f"{number:064x}",
        created_at_ms=NOW_MS,
        deadline_ms=NOW_MS + DAY_MS,
        timeout_ms=DAY_MS,
        queue_timeout_ms=DAY_MS,
        instances=[_retried(f"plugin-{place}") for place in range(3)],
    )


def _retried(name: str) -> Instance:
    plan = InstancePlan(name, InstanceKind.TASK, name)
    attempts = [
        Attempt(
            count + 1,
            "agent-one",
            1,
            NOW_MS,
            AttemptState.FAILED,
            reason=Reason.EXIT_CODE,
            message="the task ended with 1: " + "x" * 300,
            compiled=f"{count:064x}",
            facts={"image": f"{count:064x}"},
        )
        for count in range(ATTEMPTS)
    ]
    return Instance(plan, InstanceState.UP_FOR_RETRY, NOW_MS, NOW_MS + DAY_MS, attempts=attempts)


class LargeTable:
    """The state machine: a run table of that size, and a count."""

    def __init__(self, ended: int) -> None:
        self.count, self._table = 0, filled(ended)

    def apply(self, entry: Entry) -> int:
        """See driver.Machine."""
        self._table.rows.index = entry.index
        self.count += 1
        return self.count

    def ready(self) -> bool:
        """See driver.Machine: always."""
        return True

    def applied(self) -> None:
        """See driver.Machine: nobody waits for it."""

    def snapshot(self) -> Iterable[bytes]:
        """See driver.Machine."""
        return self._table.image()

    def loader(self) -> TableLoader:
        """See driver.Machine."""
        return TableLoader()

    def restore(self, _meta: SnapshotMeta, state: Table) -> Iterable[object]:
        """See driver.Machine."""
        old, self._table = self._table, state
        return parts_of(old)

    async def before_snapshot(self, _index: int) -> None:
        """See driver.Machine: nothing else is kept."""


class Seen(msgspec.Struct, frozen=True):
    """pause_ms: the longest in which the loop did nothing else. gaps_ms: the longest between heartbeats, by sender."""

    pause_ms: float
    gaps_ms: dict[int, float]


class Probe(Peers):
    """A member's network, which notes when heartbeats and their answers are heard, and a timer on its loop."""

    def __init__(self, node: int) -> None:
        """node: the member's."""
        super().__init__(node)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._pause_s, self._heard_s = 0.0, dict[int, float]()
        self._gaps_s: dict[int, float] = {}
        self._due_s = float("inf")

    def watch(self) -> None:
        """Look at the loop from here on."""
        now_s = time.monotonic()
        self._pause_s = max(self._pause_s, now_s - self._due_s)
        self._due_s = now_s + PROBE_S
        asyncio.get_running_loop().call_later(PROBE_S, self.watch)

    def received(self) -> Sequence[Message]:
        """See driver.Network."""
        messages = super().received()
        now_s = time.monotonic()
        for message in messages:
            if message.type in HEARTBEATS:
                gap_s = now_s - self._heard_s.get(message.sender, now_s)
                self._gaps_s[message.sender] = max(self._gaps_s.get(message.sender, 0.0), gap_s)
                self._heard_s[message.sender] = now_s
        return messages

    def seen(self) -> Seen:
        """What was seen since `forget`."""
        gaps_ms = {node: round(gap_s * 1000, 1) for node, gap_s in self._gaps_s.items()}
        return Seen(round(self._pause_s * 1000, 1), gaps_ms)

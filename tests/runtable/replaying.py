"""Replays of a job that is due every minute, and a leader that computes their ticks, asked by hand."""

from __future__ import annotations

from itertools import islice

import msgspec

from agent.runtable import commands as c
from agent.runtable.apply import Applied
from agent.runtable.model import InstancePlan, Origin, Reason
from agent.runtable.replay_rows import Replay, ReplayPlan, Reprocess
from tests.runtable.builders import HOUR_MS, START_MS, Driver, task

STEP_MS = 60_000
FIRST_MS = START_MS - 100 * STEP_MS


def tick(number: int) -> int:
    """The tick of that number, from 0."""
    return FIRST_MS + number * STEP_MS


def template(
    *plans: InstancePlan, project: str = "p", job: str = "j", origin: Origin = Origin.REPLAY, timeout_ms: int = HOUR_MS
) -> c.SubmitRun:
    """What a replay's runs are made of."""
    return c.SubmitRun(
        0, "", project, "n", job, 0, origin, "me", "a1", "", "", HOUR_MS, "bundle", timeout_ms, HOUR_MS,
        plans or (task(),),
    )  # fmt: skip


def plan_of(
    count: int = 3,
    *,
    first: int = 0,
    run: c.AnyCommand | None = None,
    reverse: bool = False,
    parallel: int = 1,
    stop: bool = False,
    reprocess: Reprocess = Reprocess.COMPLETED,
) -> ReplayPlan:
    """A replay of so many ticks."""
    return ReplayPlan(
        "p",
        "j",
        c.encode(run or template()),
        "bundle",
        "* * * * *",
        "UTC",
        "",
        tick(first),
        tick(first + count - 1),
        count,
        reverse,
        parallel,
        stop,
        reprocess,
    )


class Replaying(Driver):
    """A driver with words for replays."""

    def create(
        self, plan: ReplayPlan | None = None, replay_id: str = "r-1", *, request: str = "", body: str = "b"
    ) -> Applied:
        """Ask for a replay."""
        return self.say(c.CreateReplay(self.now_ms, replay_id, plan or plan_of(), "me", "a1", request, body, HOUR_MS))

    def replay(self, replay_id: str = "r-1") -> Replay:
        """Its row."""
        return self.table.rows.replays[replay_id]

    def next(self, replay_id: str = "r-1", count: int = 10) -> c.ReplayTicks:
        """What a leader would propose of a replay."""
        replay = self.replay(replay_id)
        found = list(islice(ticks_after(replay.plan, replay.cursor), count + 1))
        return c.ReplayTicks(
            self.now_ms, replay_id, replay.round, replay.cursor, tuple(found[:count]), len(found) <= count
        )

    def lead(self, count: int = 10) -> list[str]:
        """Let the leader propose for all replays that may go on until none may. Returns what it was answered."""
        codes = []
        while self.table.replaying.ready:
            codes += [self.say(self.next(one, count)).code for one in list(self.table.replaying.ready)]
            if codes[-1] not in {"ok", "stale"}:
                break
        return codes

    def runs(self, replay_id: str = "r-1") -> list[int]:
        """The numbers of the ticks whose runs go on."""
        found = (run for run in self.table.rows.runs.values() if run.replay == replay_id)
        return sorted((run.scheduled_at_ms - FIRST_MS) // STEP_MS for run in found)

    def run_id(self, number: int, source: str = "r-1") -> str:
        """The run that counts for a tick."""
        return self.table.rows.ticks[f"p/j/{tick(number)}/{source}"]

    def end_tick(self, number: int, reason: Reason | None = None, source: str = "r-1") -> None:
        """The run of a tick is given out and ends."""
        self.go("bq2bq", reason, self.run_id(number, source))

    def work(self, *failing: int, replay_id: str = "r-1") -> list[int]:
        """Lead and work until the replay rests. Returns the ticks in the order in which their runs ended."""
        order = []
        self.lead()
        while self.runs(replay_id):
            number = self.runs(replay_id)[0]
            order.append(number)
            self.end_tick(number, Reason.EXIT_CODE if number in failing else None, replay_id)
            self.lead()
        return order

    def resume(self, *, failed: bool = False, replay_id: str = "r-1") -> Applied:
        """An operator lets it go on."""
        return self.say(c.ResumeReplay(self.now_ms, replay_id, "me", "a1", failed))

    def stop(self, *, assume: bool = False, replay_id: str = "r-1") -> Applied:
        """An operator cancels it."""
        return self.say(c.CancelReplay(self.now_ms, replay_id, "me", "a1", assume))


def ticks_after(plan: ReplayPlan, cursor: int | None) -> list[int]:
    """As the leader computes them, for a job that is due every minute."""
    ticks = list(range(plan.first_ms, plan.last_ms + 1, STEP_MS))
    if plan.reverse:
        ticks.reverse()
    return [one for one in ticks if plan.comes_after(one, cursor)]


def size_of(replay: Replay) -> int:
    """Bytes of its row."""
    return len(msgspec.msgpack.encode(replay))

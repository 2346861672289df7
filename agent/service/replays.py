"""Replays: a job over its ticks of the past. Asking for one, looking at it, ending it, letting it go on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Final

from msgspec.structs import replace

from agent.errors import Refusal
from agent.replaying import milliseconds, ticks_after
from agent.runtable import commands as c
from agent.runtable.apply import REFUSALS
from agent.runtable.gate_rows import GatePlan
from agent.runtable.model import Origin
from agent.runtable.replay_rows import TICKS_MAX, Replay, ReplayPlan, ReplayState, Reprocess
from agent.runtable.replay_words import ReplayExplanation, explain_replay
from agent.runtable.replays import in_the_way, judge, unfinished
from agent.service.catalog import Catalog
from agent.service.common import STATUS, Caller, Context, RunRequest, new_id
from agent.service.gating import ticks_gates
from agent.service.runs import MINTED_KEEP_MS, Prepared, Runs, check_request, request_key
from agent.spec import bundle as bundles
from agent.spec import cron
from agent.spec.bundle import Bundle
from agent.spec.compile import interval_of
from agent.spec.jobspec import JobSpec, ScheduleSpec
from agent.spec.ticks import schedule_bounds

PREFIX_MIN: Final = 6  # of a shortened id, its `r-` included
SHOWN_MAX: Final = 10_000  # ticks of a plan
JUDGED_AT_ONCE: Final = 200  # then others get their turn


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What a replay is asked for with.

    check_dependencies: its runs wait for what the job depends on, each for its time.
    start, end: RFC 3339, or a date, which is that whole day where the job's schedule is; end None = as start.
    config, params, key, body_hash: as of `RunRequest`.
    """

    project: str
    job: str
    start: str
    end: str | None = None
    reverse: bool = False
    parallel: int = 1
    stop_on_failure: bool = False
    reprocess: Reprocess = Reprocess.COMPLETED
    check_dependencies: bool = True
    config: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, object] = field(default_factory=dict)
    key: str = ""
    body_hash: str = ""

    @property
    def run(self) -> RunRequest:
        """What each of its runs is asked for with."""
        return RunRequest(config=self.config, key=self.key, origin=Origin.REPLAY, params=self.params)


@dataclass(frozen=True, slots=True)
class AcceptedReplay:
    """A replay that was accepted or changed. index, duplicate, notes: as of `Accepted`."""

    index: int
    replay: Replay
    duplicate: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedTick:
    """What a replay would do with a tick. window: of the data its run stands for, (start, end)."""

    at: datetime
    window: tuple[datetime, datetime]
    run: bool
    why: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a replay would do. total: ticks; ticks: the first of them, in order.  obstacle: why it would be refused."""

    total: int
    ticks: tuple[PlannedTick, ...]
    obstacle: str | None
    notes: tuple[str, ...]


class Replays:
    """Create, plan, look at, cancel, resume."""

    def __init__(self, context: Context, catalog: Catalog, runs: Runs) -> None:
        self._context = context
        self._catalog = catalog
        self._runs = runs

    async def create(self, request: ReplayRequest, caller: Caller) -> AcceptedReplay:
        """Ask for a replay. When this returns, it is on disk, and goes on whatever becomes of the agents (P1).

        Raises Refusal: "unknown_job", "no_schedule", "before_start", "in_future", "no_ticks", "replay_overlap", ...
        """
        made, plan = await self._prepare(request)
        context = self._context
        known = self._known(request, caller)
        if known is None:
            self._refuse_obstacle(plan)
        await context.store([bundles.encode(made.bundle)], also=made.bundle.assets.values())
        plan = replace(plan, run=c.encode(_run(made, caller, context)), bundle=made.digest)
        replay_id = f"r-{new_id()}"
        key, keep_ms = request_key(context, request.run, request.project, caller)
        applied = await context.propose(
            c.CreateReplay(
                context.now_ms(),
                replay_id,
                plan,
                caller.name,
                context.agent,
                key,
                request.body_hash,
                keep_ms,
                caller.address,
            )
        )
        duplicate = applied.code == "duplicate" and applied.run_id != replay_id
        return AcceptedReplay(applied.index, self._row(applied.run_id), duplicate, made.notes)

    async def plan(self, request: ReplayRequest) -> DryRun:
        """What a replay would do, and what would be in its way. Changes nothing. Raises Refusal as `create`."""
        made, plan = await self._prepare(request)
        shown = await asyncio.to_thread(_windows, made.bundle, plan)
        table, planned = self._context.replica.table, []
        for number, (tick, window) in enumerate(shown, 1):
            verdict = judge(table, plan, milliseconds(tick))
            planned.append(PlannedTick(tick, window, verdict.run, verdict.why))
            if number % JUDGED_AT_ONCE == 0:
                await asyncio.sleep(0)
                table = self._context.replica.table
        found = in_the_way(table, plan)
        obstacle = _told(*found) if found is not None else None
        return DryRun(plan.total, tuple(planned), obstacle, made.notes)

    async def _prepare(self, request: ReplayRequest) -> tuple[Prepared, ReplayPlan]:
        """The job, tried for its first tick, and the plan, whose run is not made yet."""
        check_request(request.run)
        row = self._catalog.job(request.project, request.job)
        blob = await self._catalog.job_blob(row)
        schedule = blob.job.schedule
        if not schedule.interval:
            text = (
                f"the job {request.job} has no schedule.interval, so it has no ticks; run it with `job run --at TIME`"
            )
            raise Refusal("no_schedule", text, 422)
        first, last = self._bounded(request, blob.job)
        plan = ReplayPlan(
            request.project,
            blob.job.name,
            b"",
            "",
            schedule.interval,
            schedule.location,
            schedule.start_date,
            milliseconds(first),
            milliseconds(last),
            0,
            request.reverse,
            request.parallel,
            request.stop_on_failure,
            request.reprocess,
        )
        total, at = await asyncio.to_thread(_count, plan)
        if at is None:
            told = f"the schedule {schedule.interval!r} has no tick from {_text(first)} to {_text(last)}"
            raise Refusal("no_ticks", f"{told}; `job next` shows when it is due", 422)
        if total > TICKS_MAX:
            raise Refusal("too_many_ticks", f"a replay has at most {TICKS_MAX} ticks; ask for a shorter time", 422)
        made = await self._runs.prepare(request.project, row.namespace, blob, request.run, at)
        gated = request.check_dependencies and bool(made.bundle.job.dependencies)
        if gated:
            await ticks_gates(self._catalog, made.bundle, at)
        return made, replace(plan, total=total, gated=gated)

    def _bounded(self, request: ReplayRequest, job: JobSpec) -> tuple[datetime, datetime]:
        """The first and the last moment, both inclusive. Raises Refusal for what is not of the job's past.

        The last day may be one that is not over yet, or that of end_date: then it is as much of it as there is.
        """
        first, last, last_from = _range(request, job.schedule)
        start, end = schedule_bounds(job)
        now = datetime.fromtimestamp(self._context.now_ms() / 1000, UTC)
        if first > last:
            raise Refusal("invalid", f"the start {_text(first)} is after the end {_text(last)}", 422)
        if start is not None and first < start:
            told = f"the start {_text(first)} is before the job's start_date, {_text(start)}"
            raise Refusal("before_start", told, 422)
        if last_from > now:
            raise Refusal("in_future", f"the end {_text(last)} is in the future: a replay is of what was due", 422)
        if end is not None and last_from > end:
            raise Refusal("after_end", f"the end {_text(last)} is after the job's end_date, {_text(end)}", 422)
        return first, min(last, now, end or now)

    def _known(self, request: ReplayRequest, caller: Caller) -> object | None:
        key, _keep_ms = request_key(self._context, request.run, request.project, caller)
        return self._context.replica.table.rows.requests.get(key)

    def _refuse_obstacle(self, plan: ReplayPlan, of: str = "") -> None:
        """What is in the way, by its name. `apply` has the last word."""
        found = in_the_way(self._context.replica.table, plan, of)
        if found is not None:
            status = STATUS.get(found[0], 409)
            raise Refusal(found[0], _told(*found), status, retry_after_s=5 if status == 429 else None)

    async def gates_of(self, replay: Replay, tick_ms: int) -> tuple[GatePlan, ...]:
        """What the run of a tick waits for, by what is applied now. Raises Refusal, BlobError."""
        bundle = bundles.decode(await self._context.load(replay.plan.bundle))
        return await ticks_gates(self._catalog, bundle, _at(tick_ms), strict=False)

    # -- looking ---------------------------------------------------------------------------------------------------

    def list(
        self, project: str | None = None, job: str | None = None, state: ReplayState | None = None, limit: int = 100
    ) -> Sequence[Replay]:
        """Replays, newest first."""
        found = [
            one
            for one in self._context.replica.table.rows.replays.values()
            if project in {None, one.plan.project} and job in {None, one.plan.job} and state in {None, one.state}
        ]
        found.sort(key=lambda one: (one.created_at_ms, one.id), reverse=True)
        return found[:limit]

    def find(self, replay_id: str) -> Replay:
        """A replay by its id, or a shortened one. Raises Refusal("unknown_replay", "ambiguous_replay")."""
        rows = self._context.replica.table.rows.replays
        begin = replay_id.lower()
        if begin in rows:
            return rows[begin]
        found = [one for one in rows if one.startswith(begin)] if len(begin) >= PREFIX_MIN else []
        if len(found) > 1:
            told = ", ".join(sorted(found)[:10])
            raise Refusal("ambiguous_replay", f"{replay_id!r} is short for more than one replay: {told}", 409)
        if not found:
            raise Refusal("unknown_replay", f"there is no replay {replay_id!r}; `prime replay list` shows them", 404)
        return rows[found[0]]

    def explain(self, replay: Replay) -> ReplayExplanation:
        """Why it is where it is (P11)."""
        return explain_replay(self._context.replica.table, replay)

    def unfinished(self, replay: Replay) -> Sequence[str]:
        """The ids of its runs that go on, the oldest first."""
        return [run.id for run in unfinished(self._context.replica.table, replay)]

    def _row(self, replay_id: str) -> Replay:
        row = self._context.replica.table.rows.replays.get(replay_id)
        if row is None:
            text = f"replay {replay_id} was accepted, and this agent does not know it yet; ask again"
            raise Refusal("outcome_unknown", text, 504)
        return row

    # -- operators -------------------------------------------------------------------------------------------------

    async def cancel(self, replay_id: str, caller: Caller, *, assume_stopped: bool = False) -> AcceptedReplay:
        """Make no run more, and end those that go on. It has ended when they have."""
        replay, context = self.find(replay_id), self._context
        applied = await context.propose(
            c.CancelReplay(context.now_ms(), replay.id, caller.name, context.agent, assume_stopped, caller.address)
        )
        return AcceptedReplay(applied.index, self._row(replay.id))

    async def resume(self, replay_id: str, caller: Caller, *, failed: bool = False) -> AcceptedReplay:
        """Let one that has ended go on: with what is left, what was cancelled and, if asked, what has failed."""
        replay, context = self.find(replay_id), self._context
        if replay.final:
            self._refuse_obstacle(replay.plan, replay.id)
        command = c.ResumeReplay(context.now_ms(), replay.id, caller.name, context.agent, failed, caller.address)
        applied = await context.propose(command)
        return AcceptedReplay(applied.index, self._row(replay.id))


def _run(made: Prepared, caller: Caller, context: Context) -> c.SubmitRun:
    """What each run is made of; without an id, a time and a request."""
    bundle = made.bundle
    return c.SubmitRun(
        context.now_ms(),
        "",
        bundle.project,
        bundle.namespace,
        bundle.job.name,
        0,
        Origin.REPLAY,
        caller.name,
        context.agent,
        "",
        "",
        MINTED_KEEP_MS,
        made.digest,
        made.timeout_ms,
        made.queue_timeout_ms,
        made.plans,
        made.max_active,
        made.overlap,
        wants=made.wants,
    )


def _told(code: str, name: str) -> str:
    named = {"replay_overlap": f": {name}; wait, or cancel it", "run_in_range": f": {name}; wait, or cancel it"}
    return REFUSALS[code] + named.get(code, "")


def _range(request: ReplayRequest, schedule: ScheduleSpec) -> tuple[datetime, datetime, datetime]:
    """The first and the last moment that are meant, both inclusive, and where the last day begins (as the last moment
    where that is no day). Raises Refusal("invalid").
    """
    end = request.start if request.end is None else request.end
    first = _moment("start", request.start, schedule, last=False)
    last, last_from = (_moment("end", end, schedule, last=is_last) for is_last in (True, False))
    for name, at in (("start", first), ("end", last)):
        if not 1970 <= at.year < 9998:
            raise Refusal("invalid", f"{name}: a time within the years 1970 to 9997 is expected", 422)
    return first, last, last_from


def _moment(name: str, text: str, schedule: ScheduleSpec, *, last: bool) -> datetime:
    """The time in a text; of a date the first or the last moment, where the schedule is."""
    try:
        if len(text) == len("2026-03-08"):
            day = date.fromisoformat(text) + timedelta(days=int(last))
            midnight = datetime.combine(day, time(), cron.load_location(schedule.location)).astimezone(UTC)
            return midnight - timedelta(milliseconds=int(last))
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    expected = "a time such as 2026-03-08T07:30:00Z or a date such as 2026-03-08 is expected"
    raise Refusal("invalid", f"{name} {text!r}: {expected}", 422)


def _count(plan: ReplayPlan) -> tuple[int, datetime | None]:
    """How many ticks there are, at most one more than there may be; the first that comes."""
    found = list(islice(ticks_after(plan, None), TICKS_MAX + 1))
    return len(found), _at(found[0]) if found else None


def _windows(bundle: Bundle, plan: ReplayPlan) -> list[tuple[datetime, tuple[datetime, datetime]]]:
    """The first ticks with the windows of their runs."""
    return [(at, _window(bundle, at)) for at in map(_at, islice(ticks_after(plan, None), SHOWN_MAX))]


def _window(bundle: Bundle, at: datetime) -> tuple[datetime, datetime]:
    window = interval_of(bundle, at)
    return window.start, window.end


def _at(tick_ms: int) -> datetime:
    return datetime.fromtimestamp(tick_ms / 1000, UTC)


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")

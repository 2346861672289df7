"""How a replay moves: what is made of its ticks, what the end of a run leads to, when it is over.

`apply.py` calls what is here. Runs are made and cancelled by the commands that make and cancel any run: whoever carries
these out is handed in, so that limits and refusals are the same for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from agent.runtable import commands as c
from agent.runtable import notices
from agent.runtable.audit import Audit
from agent.runtable.gate_rows import GatePlan
from agent.runtable.model import RUN_FINAL, Origin, Request, Run, RunState, tick_key
from agent.runtable.replay_rows import (
    AUDIT_MAX,
    PARALLEL_MAX,
    TICKS_MAX,
    Replay,
    ReplayPlan,
    ReplayState,
    Reprocess,
)
from agent.runtable.table import Table
from agent.runtable.tick_runs import tick_run
from agent.runtable.well_formed import well_formed

ACTIVE_MAX: Final = 100  # replays that have not ended (P12)
KEPT_MAX: Final = 500  # replays that have ended, for listings; the oldest go first (P12)
ID_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32
ID_CHARACTERS: Final = 16
GOOD: Final = frozenset({RunState.SUCCESS, RunState.SKIPPED})
BAD: Final = (RunState.FAILED, RunState.UPSTREAM_FAILED, RunState.CANCELLED)

Gates = tuple[GatePlan, ...]
Execute = Callable[[c.AnyCommand], str]  # carries a command out as part of this one; returns its code
ReplayCommand = c.CreateReplay | c.ReplayTicks | c.CancelReplay | c.ResumeReplay


def carry_out(table: Table, cmd: ReplayCommand, execute: Execute) -> tuple[str, str]:
    """Do what a command says of a replay. Returns a code, and the id of the replay, or of what is in its way."""
    if isinstance(cmd, c.CreateReplay):
        return _create(table, cmd)
    if isinstance(cmd, c.ReplayTicks):
        return _take(table, cmd, execute), cmd.replay_id
    if isinstance(cmd, c.CancelReplay):
        return _cancel(table, cmd, execute), cmd.replay_id
    return _resume(table, cmd)


# -- accepting ---------------------------------------------------------------------------------------------------------


def _create(table: Table, cmd: c.CreateReplay) -> tuple[str, str]:
    rows = table.rows
    known = rows.requests.get(cmd.request) if cmd.request else None
    if known is not None:  # P2
        return ("duplicate" if known.body_hash == cmd.body_hash else "idempotency_conflict"), known.run_id
    code = _refuse(table, cmd)
    if code is not None:
        return code, cmd.replay_id
    obstacle = in_the_way(table, cmd.plan)
    if obstacle is not None:
        return obstacle
    audit = (Audit(rows.time_ms, cmd.who, cmd.via, "create", cmd.address),)
    replay = Replay(cmd.replay_id, cmd.plan, cmd.who, cmd.via, rows.time_ms, audit=audit)
    table.put_replay(replay)
    notices.replayed(table, replay)
    if cmd.request:
        rows.requests[cmd.request] = Request(cmd.body_hash, cmd.replay_id, rows.time_ms + cmd.keep_ms)
        table.deadlines.add_request(cmd.request)
    _forget_old(table)
    return "ok", cmd.replay_id


def _refuse(table: Table, cmd: c.CreateReplay) -> str | None:
    rows, plan = table.rows, cmd.plan
    if cmd.replay_id in rows.replays:
        return "exists"
    if plan.project not in rows.projects:
        return "unknown_project"
    if not cmd.replay_id or cmd.keep_ms <= 0 or not _sound(plan):
        return "invalid"
    if table.bytes_used >= rows.limits.bytes_max:
        return "table_full"
    if cmd.request and len(rows.requests) >= rows.limits.requests_max:
        return "table_full"
    return None


def _sound(plan: ReplayPlan) -> bool:
    """Whether runs can be made of it, and it ends."""
    run = c.decode(plan.run)
    if not isinstance(run, c.SubmitRun) or run.origin is not Origin.REPLAY or run.request or run.replay:
        return False
    if (run.project, run.job, run.bundle) != (plan.project, plan.job, plan.bundle):
        return False
    if not notices.well_formed(run.instances, run.wants):
        return False
    if not well_formed(run.instances) or min(run.timeout_ms, run.queue_timeout_ms, run.keep_ms) <= 0:
        return False
    return plan.first_ms <= plan.last_ms and 1 <= plan.parallel <= PARALLEL_MAX and plan.total <= TICKS_MAX


def in_the_way(table: Table, plan: ReplayPlan, of: str = "") -> tuple[str, str] | None:
    """Why these ticks cannot be run now, and the id of the replay or run that is in the way; None = they can.

    of: the replay that they are of, where it is there already. Cost: proportional to unfinished runs and replays.
    """
    rows = table.rows
    active = [one for one in rows.replays.values() if not one.final]
    for one in active:
        same = (one.plan.project, one.plan.job) == (plan.project, plan.job)
        if same and one.plan.first_ms <= plan.last_ms and plan.first_ms <= one.plan.last_ms:
            return "replay_overlap", one.id
    if len(active) >= ACTIVE_MAX:
        return "too_many_replays", ""
    for run in rows.runs.values():
        same = (run.project, run.job) == (plan.project, plan.job) and not (of and run.replay == of)
        if same and plan.first_ms <= run.scheduled_at_ms <= plan.last_ms:
            return "run_in_range", run.id
    return None


# -- ticks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a tick. run: it is given a run.  new: no round has looked at it before.  why: for people.

    before: the state in which this replay's earlier run of it has ended, which the new one takes the place of.
    """

    run: bool
    why: str
    new: bool = True
    before: RunState | None = None


def judge(table: Table, plan: ReplayPlan, tick_ms: int) -> Verdict:
    """What a replay that has not looked at a tick yet does with it, by the last run of that tick."""
    last = tick_run(table, plan.project, plan.job, tick_ms)
    if last is None:
        return Verdict(run=True, why="it has no run")
    run_id, state = last
    if state not in RUN_FINAL:
        return Verdict(run=False, why=f"its run {run_id} has not ended")
    why = f"its last run {run_id} ended {state}"
    again = plan.reprocess is Reprocess.COMPLETED or (plan.reprocess is Reprocess.FAILED and state not in GOOD)
    return Verdict(run=again, why=why)


def _judge_again(table: Table, replay: Replay, tick_ms: int) -> Verdict:
    """As `judge`, for a replay that may have looked at it in an earlier round."""
    own = table.rows.ticks.get(_key(replay, tick_ms))
    if own is not None:
        state = state_of(table, own)
        again = state is RunState.CANCELLED or (replay.failed_again and state in BAD)
        return Verdict(run=again, why="", new=False, before=state)
    if replay.reached is not None and not replay.plan.comes_after(tick_ms, replay.reached):
        return Verdict(run=False, why="", new=False)
    return judge(table, replay.plan, tick_ms)


def state_of(table: Table, run_id: str) -> RunState | None:
    """How a run that the table knows has ended; None = it has not."""
    row = table.rows.finished.get(run_id)
    return row.state if row is not None else None


def _take(table: Table, cmd: c.ReplayTicks, execute: Execute) -> str:
    """Give ticks their runs, in order, while as many may run."""
    replay = table.rows.replays.get(cmd.replay_id)
    if replay is None:
        return "unknown_replay"
    if not replay.goes_on or (cmd.round, cmd.cursor) != (replay.round, replay.cursor):
        return "stale"
    if not _in_order(replay, cmd) or len(cmd.gates) not in {0, len(cmd.ticks)}:
        return "invalid"
    gates = cmd.gates or ((),) * len(cmd.ticks)
    code = _go_over(table, replay, zip(cmd.ticks, gates, strict=True), execute)
    replay = table.rows.replays[cmd.replay_id]
    if code == "ok" and cmd.done and replay.goes_on:
        table.put_replay(replace(replay, exhausted=True, whole=True))
        end_if_over(table, replay.id)
        return "ok"
    moved = replay.cursor != cmd.cursor
    return "ok" if moved else "stale" if code == "ok" else code


def _go_over(table: Table, replay: Replay, ticks: Iterable[tuple[int, Gates]], execute: Execute) -> str:
    """Look at ticks in order. Returns "ok" where it has looked at all, else why not at the rest."""
    for tick_ms, gates in ticks:
        replay = table.rows.replays[replay.id]
        verdict = _judge_again(table, replay, tick_ms)
        if verdict.run:
            if not replay.goes_on or len(table.replaying.runs(replay.id)) >= replay.plan.parallel:
                return "stale"  # it does not go on where a run has failed as soon as it was made
            code = _make_run(table, replay, tick_ms, gates, execute)
            if code != "ok":
                return code
        _pass(table, table.rows.replays[replay.id], tick_ms, verdict)
    return "ok"


def _in_order(replay: Replay, cmd: c.ReplayTicks) -> bool:
    plan, before_ms = replay.plan, replay.cursor
    for tick_ms in cmd.ticks:
        if not (plan.comes_after(tick_ms, before_ms) and plan.first_ms <= tick_ms <= plan.last_ms):
            return False
        before_ms = tick_ms
    return True


def _make_run(table: Table, replay: Replay, tick_ms: int, gates: Gates, execute: Execute) -> str:
    """Submit the run of a tick. One that it takes the place of stays, and stands for the tick no more."""
    run = c.decode(replay.plan.run)
    assert isinstance(run, c.SubmitRun)
    key, ticks = _key(replay, tick_ms), table.rows.ticks
    old = ticks.pop(key, None)
    run_id = run_id_of(replay, tick_ms)
    code = execute(replace(run, run_id=run_id, scheduled_at_ms=tick_ms, gates=gates, replay=replay.id))
    if old is not None:
        ticks.setdefault(key, old)  # where none was made
    return code


def _pass(table: Table, replay: Replay, tick_ms: int, verdict: Verdict) -> None:
    """The cursor moves over a tick."""
    counts = dict(replay.counts)
    if verdict.run and verdict.before is not None:
        _add(counts, verdict.before, -1)
    plan = replay.plan
    table.put_replay(
        replace(
            replay,
            cursor=tick_ms,
            reached=tick_ms if plan.comes_after(tick_ms, replay.reached) else replay.reached,
            made=replay.made + (verdict.run and verdict.before is None),
            passed=replay.passed + (verdict.new and not verdict.run),
            counts=counts,
        )
    )


def run_id_of(replay: Replay, tick_ms: int) -> str:
    """The id of the run that a tick is given in this round: as random as the replay's, and the same everywhere."""
    digest = hashlib.sha256(f"{replay.id}/{replay.round}/{tick_ms}".encode()).digest()
    bits = int.from_bytes(digest[:10], "big")
    return "".join(ID_ALPHABET[bits >> 5 * place & 31] for place in range(ID_CHARACTERS))


def _key(replay: Replay, tick_ms: int) -> str:
    return tick_key(replay.plan.project, replay.plan.job, tick_ms, replay.id)


# -- runs that end, and that are brought back --------------------------------------------------------------------------


def run_ended(table: Table, run: Run) -> None:
    """A run has left the table: count it, if a replay has made it, and look whether that is over."""
    replay = _counting(table, run)
    if replay is not None:
        counts = dict(replay.counts)
        _add(counts, run.state, 1)
        stops = replay.plan.stop_on_failure and run.state in BAD
        table.put_replay(replace(replay, counts=counts, stopped=replay.stopped or stops))
    end_if_over(table, run.replay)


def run_returns(table: Table, run: Run) -> None:
    """A run that had ended is brought back to be run again. To be called while it has its final state."""
    replay = _counting(table, run)
    if replay is not None:
        counts = dict(replay.counts)
        _add(counts, run.state, -1)
        table.put_replay(replace(replay, counts=counts))


def _counting(table: Table, run: Run) -> Replay | None:
    """The replay that a run counts for: it is the last that this has made of its tick."""
    replay = table.rows.replays.get(run.replay)
    if replay is None or table.rows.ticks.get(_key(replay, run.scheduled_at_ms)) != run.id:
        return None
    return replay


def _add(counts: dict[str, int], state: RunState, number: int) -> None:
    counts[state] = counts.get(state, 0) + number
    if not counts[state]:
        del counts[state]


def end_if_over(table: Table, replay_id: str) -> None:
    """End a replay that makes no run more, once all that it has made have ended."""
    replay = table.rows.replays.get(replay_id)
    if replay is None or replay.final or replay.goes_on or table.replaying.runs(replay_id):
        return
    if replay.cancelled_by is not None:
        state = ReplayState.CANCELLED
    else:
        state = ReplayState.FAILED if replay.stopped or replay.count(*BAD) else ReplayState.SUCCESS
    _end(table, replay, state)


def _end(table: Table, replay: Replay, state: ReplayState) -> None:
    """The one place where a replay ends: whoever is to be told of it is told from here."""
    replay = replace(replay, state=state, finished_at_ms=table.rows.time_ms)
    table.put_replay(replay)
    notices.replayed(table, replay)
    _forget_old(table)


def _forget_old(table: Table) -> None:
    """Ended replays are kept as long as the small rows of finished runs, and as many as there may be (P12)."""
    rows = table.rows
    ended = sorted((one.finished_at_ms, one.id) for one in rows.replays.values() if one.finished_at_ms is not None)
    too_many = len(ended) - KEPT_MAX
    for number, (ended_at_ms, replay_id) in enumerate(ended):
        if number < too_many or ended_at_ms + rows.limits.finished_keep_ms <= rows.time_ms:
            table.forget_replay(rows.replays[replay_id])


# -- operators ---------------------------------------------------------------------------------------------------------


def _cancel(table: Table, cmd: c.CancelReplay, execute: Execute) -> str:
    replay = table.rows.replays.get(cmd.replay_id)
    if replay is None:
        return "unknown_replay"
    if replay.final:
        return "replay_final"
    who = replay.cancelled_by or cmd.who  # the first; the audit has them all
    what = "cancel, assumed stopped" if cmd.assume_stopped else "cancel"
    table.put_replay(replace(_audited(table, replay, cmd, what), cancelled_by=who))
    for run_id in sorted(table.replaying.runs(cmd.replay_id)):
        cancel = c.CancelRun(
            table.rows.time_ms, run_id, cmd.who, cmd.via, assume_stopped=cmd.assume_stopped, address=cmd.address
        )
        execute(cancel)
    end_if_over(table, cmd.replay_id)
    return "ok"


def _resume(table: Table, cmd: c.ResumeReplay) -> tuple[str, str]:
    replay = table.rows.replays.get(cmd.replay_id)
    if replay is None:
        return "unknown_replay", cmd.replay_id
    if not replay.final:
        return "replay_not_final", cmd.replay_id
    again = BAD if cmd.failed else (RunState.CANCELLED,)
    if replay.whole and not replay.count(*again):
        return "nothing_to_resume", cmd.replay_id
    obstacle = in_the_way(table, replay.plan, replay.id)
    if obstacle is not None:
        return obstacle
    what = "resume, the failed ones again" if cmd.failed else "resume"
    table.put_replay(
        replace(
            _audited(table, replay, cmd, what),
            state=ReplayState.RUNNING,
            round=replay.round + 1,
            cursor=None,
            exhausted=False,
            stopped=False,
            failed_again=cmd.failed,
            cancelled_by=None,
            finished_at_ms=None,
        )
    )
    return "ok", cmd.replay_id


def _audited(table: Table, replay: Replay, cmd: c.CancelReplay | c.ResumeReplay, what: str) -> Replay:
    audit = (*replay.audit, Audit(table.rows.time_ms, cmd.who, cmd.via, what, cmd.address))
    return replace(replay, audit=audit[-AUDIT_MAX:])


# -- for people --------------------------------------------------------------------------------------------------------


def unfinished(table: Table, replay: Replay) -> Iterator[Run]:
    """Its runs that have not ended, the oldest first."""
    runs = [table.rows.runs[run_id] for run_id in table.replaying.runs(replay.id)]
    yield from sorted(runs, key=lambda run: (run.created_at_ms, run.scheduled_at_ms, run.id))

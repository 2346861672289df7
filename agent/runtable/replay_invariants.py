"""What must hold of replays after every command: see `invariants.py`."""

from __future__ import annotations

from agent.runtable.model import Run, tick_key
from agent.runtable.replay_index import Replaying
from agent.runtable.replay_rows import AUDIT_MAX, PARALLEL_MAX, Replay
from agent.runtable.replays import ACTIVE_MAX, KEPT_MAX
from agent.runtable.table import Table


def check_replays(table: Table) -> None:
    """Check all replays, and the index of them. Raises AssertionError."""
    rows, replaying = table.rows, table.replaying
    for replay_id, replay in rows.replays.items():
        assert replay.id == replay_id, replay_id
        _check_replay(table, replay, [run for run in rows.runs.values() if run.replay == replay_id])
    active = sum(not replay.final for replay in rows.replays.values())
    assert active <= ACTIVE_MAX, "replays that go on (P12)"
    assert len(rows.replays) - active <= KEPT_MAX, "replays that have ended (P12)"
    fresh = Replaying(rows)
    for run in rows.runs.values():
        fresh.add_run(run)
    for replay in rows.replays.values():
        fresh.index(replay)
    assert set(replaying.ready) == set(fresh.ready), "replays that would not go on (P1)"
    for run in rows.runs.values():
        assert not run.replay or run.id in replaying.runs(run.replay), f"{run.id}: its replay does not know it"


def _check_replay(table: Table, replay: Replay, runs: list[Run]) -> None:
    where, plan = f"{replay.id} ({replay.state})", replay.plan
    assert set(table.replaying.runs(replay.id)) == {run.id for run in runs}, f"{where}: its runs"
    assert 1 <= plan.parallel <= PARALLEL_MAX, where
    assert len(replay.audit) <= AUDIT_MAX, f"{where}: its audit (P12)"
    first_time = [run for run in runs if not any(instance.clears for instance in run.instances)]
    assert len(first_time) <= plan.parallel, f"{where}: more runs at once than it may have"
    counted = [run for run in runs if _counts(table, replay, run)]
    assert replay.made == sum(replay.counts.values()) + len(counted), f"{where}: {replay.counts}, {len(counted)} go on"
    assert all(number > 0 for number in replay.counts.values()), f"{where}: {replay.counts}"
    if replay.cursor is not None:
        assert not plan.comes_after(replay.cursor, replay.reached), f"{where}: its cursor is behind what it has reached"
    assert (replay.finished_at_ms is not None) == replay.final, f"{where}: ended, or not"
    if replay.final:
        assert all(any(instance.clears for instance in run.instances) for run in runs), f"{where}: a run goes on"
    else:
        assert replay.goes_on or runs, f"{where}: nothing would ever end it (P1)"


def _counts(table: Table, replay: Replay, run: Run) -> bool:
    """Whether it is the run that this replay has made last of its tick."""
    key = tick_key(run.project, run.job, run.scheduled_at_ms, replay.id)
    return table.rows.ticks.get(key) == run.id


def check_replay_step(old: Replay, new: Replay) -> None:
    """What must hold of a replay between two tables: rounds and cursors go on, what was reached stays reached."""
    assert new.round >= old.round, f"{new.id}: it has gone back to an earlier round"
    if new.round == old.round and old.cursor is not None:
        assert new.cursor is not None, f"{new.id}: it has lost its cursor"
        assert not new.plan.comes_after(old.cursor, new.cursor), f"{new.id}: its cursor has gone back"
        assert new.final >= old.final, f"{new.id}: had ended, and goes on by itself (P4)"
    assert new.made >= old.made, f"{new.id}: ticks are forgotten"
    assert new.passed >= old.passed, f"{new.id}: ticks are forgotten"

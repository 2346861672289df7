"""Replays in the run table: a row that makes its runs a few at a time, whatever leaders say, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.runtable import commands as c
from agent.runtable import replays
from agent.runtable.gate_rows import GateKind, GatePlan, OnFailure
from agent.runtable.model import InstanceKind, Limits, OnAgentLost, Origin, Reason, RunState
from agent.runtable.replay_rows import AUDIT_MAX, ReplayPlan, ReplayState, Reprocess
from agent.runtable.replay_words import explain_replay
from agent.runtable.replays import judge
from agent.runtable.table import Table
from tests.runtable.builders import HOUR_MS, START_MS, hook, task
from tests.runtable.replaying import Replaying, plan_of, size_of, template, tick


@pytest.fixture
def driver() -> Replaying:
    driver = Replaying()
    driver.found(slots=8)
    return driver


# -- one after the other -----------------------------------------------------------------------------------------------


def test_one_run_at_a_time_the_next_when_the_last_has_ended(driver: Replaying) -> None:
    assert driver.create().ok
    driver.lead()
    assert driver.runs() == [0]
    assert driver.replay().goes_on
    assert list(driver.table.replaying.ready) == []  # the leader does not look at one that waits
    run = driver.run(driver.run_id(0))
    assert (run.replay, run.origin, run.scheduled_at_ms, len(run.id)) == ("r-1", Origin.REPLAY, tick(0), 16)
    driver.end_tick(0)
    assert list(driver.table.replaying.ready) == ["r-1"]
    driver.lead()
    assert driver.runs() == [1]
    assert driver.work() == [1, 2]
    replay = driver.replay()
    assert (replay.state, replay.made, dict(replay.counts)) == (ReplayState.SUCCESS, 3, {"success": 3})
    assert replay.finished_at_ms == driver.now_ms


def test_as_many_at_once_as_it_may_the_last_tick_first(driver: Replaying) -> None:
    driver.create(plan_of(5, parallel=2, reverse=True))
    driver.lead()
    assert driver.runs() == [3, 4]
    driver.end_tick(3)
    driver.lead()
    assert driver.runs() == [2, 4]
    driver.work()
    assert driver.replay().count("success") == 5


def test_a_failure_does_not_stop_it_and_fails_it_at_its_end(driver: Replaying) -> None:
    driver.create()
    assert driver.work(0, 2) == [0, 1, 2]
    assert driver.replay().state is ReplayState.FAILED
    assert dict(driver.replay().counts) == {"success": 1, "failed": 2}


def test_a_failure_stops_it_where_that_is_asked_for_once_the_others_have_ended(driver: Replaying) -> None:
    driver.create(plan_of(4, parallel=2, stop=True))
    driver.lead()
    driver.end_tick(0, Reason.EXIT_CODE)
    assert driver.lead() == []
    assert not driver.replay().final
    driver.end_tick(1)
    assert (driver.replay().state, driver.replay().made) == (ReplayState.FAILED, 2)
    assert driver.resume().ok  # with the ticks that are left
    assert driver.work() == [2, 3]
    assert driver.replay().state is ReplayState.FAILED
    assert driver.resume(failed=True).ok
    assert driver.work() == [0]
    assert (driver.replay().state, driver.replay().made) == (ReplayState.SUCCESS, 4)


def test_a_range_whose_ticks_have_all_been_looked_at_ends_by_an_empty_proposal_too(driver: Replaying) -> None:
    driver.create()
    driver.lead(count=1)
    for number in (0, 1, 2):
        driver.end_tick(number)
        driver.lead(count=1)
    assert driver.replay().state is ReplayState.SUCCESS


# -- leaders -----------------------------------------------------------------------------------------------------------


def test_a_proposal_of_before_is_stale_and_the_same_again_changes_nothing(driver: Replaying) -> None:
    driver.create(plan_of(5, parallel=2))
    old = driver.next()
    assert driver.say(old).code == "ok"
    before = driver.table.dump()
    assert driver.say(old).code == "stale"
    assert driver.say(replace(driver.next(), ticks=(), done=False)).code == "stale"
    assert driver.say(driver.next()).code == "stale"  # as many run as may
    assert driver.say(replace(old, replay_id="r-2")).code == "unknown_replay"
    assert driver.say(replace(driver.next(), round=7)).code == "stale"
    rows = Table.load([before]).rows
    assert rows.runs == driver.table.rows.runs
    assert rows.replays == driver.table.rows.replays


@pytest.mark.parametrize("ticks", [(tick(1), tick(0)), (tick(1), tick(1)), (tick(-1),), (tick(3),)])
def test_ticks_out_of_order_or_range_are_refused(driver: Replaying, ticks: tuple[int, ...]) -> None:
    driver.create()
    assert driver.say(replace(driver.next(), ticks=ticks)).code == "invalid"
    assert driver.replay().made == 0


def test_a_run_of_a_replay_waits_for_its_gates(driver: Replaying) -> None:
    driver.create(plan_of(2))
    gate = GatePlan(GateKind.TICKS, "p", "up", ticks_ms=(tick(0),))
    said = driver.next()
    assert driver.say(replace(said, gates=((gate,),))).code == "invalid"  # one for each tick
    assert driver.say(replace(said, gates=((gate,), ()))).ok
    driver.plan()
    assert (driver.run(driver.run_id(0)).begun, driver.table.assigned) == (False, {})
    driver.say(replace(template(job="up", origin=Origin.SCHEDULE), run_id="u", scheduled_at_ms=tick(0)))
    driver.go("bq2bq", run_id="u")
    assert driver.work() == [0, 1]
    assert driver.replay().state is ReplayState.SUCCESS


def test_a_run_that_its_gate_ends_at_once_stops_a_replay_that_is_to_stop(driver: Replaying) -> None:
    driver.say(replace(template(job="up", origin=Origin.SCHEDULE), run_id="u", scheduled_at_ms=tick(0)))
    driver.go("bq2bq", Reason.EXIT_CODE, "u")
    gate = GatePlan(GateKind.TICKS, "p", "up", ticks_ms=(tick(0),), on_failure=OnFailure.FAIL)
    driver.create(plan_of(3, parallel=3, stop=True))
    said = driver.next()
    assert driver.say(replace(said, gates=((gate,), (), ()))).ok
    replay = driver.replay()
    assert (replay.state, dict(replay.counts), replay.made) == (ReplayState.FAILED, {"upstream_failed": 1}, 1)


def test_a_full_table_delays_a_replay_and_what_fits_is_made(driver: Replaying) -> None:
    driver.create(plan_of(3, parallel=3))
    driver.say(c.SetLimits(START_MS, Limits(runs_max=2)))
    assert driver.lead() == ["ok", "table_full"]
    assert driver.runs() == [0, 1]
    driver.end_tick(0)
    assert driver.work() == [1, 2]
    assert driver.replay().state is ReplayState.SUCCESS


OLD, NEW, DUE, WORK, BAD, STOP, ON, AGAIN = range(8)


@given(
    st.lists(st.integers(OLD, AGAIN), max_size=40),
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
@settings(max_examples=300, deadline=None)
def test_whatever_leaders_say_and_repeat_each_tick_is_run_once_a_round_at_most(
    steps: list[int], parallel: int, reverse: bool, counts: list[int]
) -> None:
    """Leaders that were cut off say again what they said; whoever leads computes from the row alone."""
    driver = Replaying()
    driver.found(slots=8)
    driver.create(plan_of(6, parallel=parallel, reverse=reverse))
    said: list[c.ReplayTicks] = []
    made: Counter[str] = Counter()
    for number, step in enumerate(steps):
        before = set(driver.table.rows.runs)
        if step == OLD and said:
            driver.say(said[number % len(said)])
        elif step in {NEW, DUE} and driver.replay().goes_on:
            said.append(driver.next(count=counts[number % len(counts)]))
            if step == NEW:
                driver.say(said[-1])
        elif step in {WORK, BAD} and driver.runs():
            driver.end_tick(driver.runs()[0], Reason.EXIT_CODE if step == BAD else None)
        elif step == STOP:
            driver.stop()
        elif step in {ON, AGAIN}:
            driver.resume(failed=step == AGAIN)
        made.update(set(driver.table.rows.runs) - before)
        if number % 7 == 0:
            driver.table = Table.load([driver.table.dump()])
    driver.work()  # it may be in the midst of a cancel
    driver.resume()
    driver.work()
    replay = driver.replay()
    assert not made or max(made.values()) == 1  # no run is made twice
    good = Counter(f.run.scheduled_at_ms for f in driver.finished if f.run.state is RunState.SUCCESS)
    assert all(number == 1 for number in good.values())  # nor does a tick that has succeeded run again
    assert (replay.final, replay.made) == (True, 6)
    assert replay.counts.get("cancelled", 0) == 0


def test_ten_thousand_ticks_cost_no_more_memory_than_ten(driver: Replaying) -> None:
    driver.create(plan_of(10))
    ten, few = size_of(driver.replay()), len(driver.table.dump())
    other = Replaying()
    other.found()
    other.create(replace(plan_of(10), first_ms=tick(-9_990), total=10_000))
    assert abs(size_of(other.replay()) - ten) < 8
    assert abs(len(other.table.dump()) - few) < 8
    for _ in range(3):
        other.lead()
        other.go("bq2bq", run_id=next(iter(other.table.rows.runs)))
    assert size_of(other.replay()) - ten < 60
    assert len(other.table.rows.runs) <= 1


# -- which ticks -------------------------------------------------------------------------------------------------------


def with_history(driver: Replaying) -> None:
    """Tick 0 has succeeded, 1 failed, 2 was cancelled by the schedule; 3 has no run but one by hand; 4 goes on."""
    for number in range(5):
        origin = Origin.MANUAL if number == 3 else Origin.SCHEDULE
        run = replace(template(origin=origin), run_id=f"s{number}", scheduled_at_ms=tick(number))
        assert driver.say(run).ok
    driver.go("bq2bq", run_id="s0")
    driver.go("bq2bq", Reason.EXIT_CODE, "s1")
    driver.cancel("s2")
    if driver.instance("bq2bq", "s2").open_attempt is not None:
        driver.end("bq2bq", Reason.CANCELLED, "s2")
    driver.go("bq2bq", run_id="s3")


@pytest.mark.parametrize(
    ("reprocess", "expected"),
    [(Reprocess.NONE, [3]), (Reprocess.FAILED, [1, 2, 3]), (Reprocess.COMPLETED, [0, 1, 2, 3])],
)
def test_the_last_run_of_a_tick_says_whether_it_is_run_again(
    driver: Replaying, reprocess: Reprocess, expected: list[int]
) -> None:
    with_history(driver)
    plan = plan_of(4, reprocess=reprocess)
    told = [judge(driver.table, plan, tick(number)) for number in range(5)]
    assert [number for number in range(4) if told[number].run] == expected
    assert "ended success" in told[0].why
    assert "has no run" in told[3].why
    assert (told[4].run, "has not ended" in told[4].why) == (False, True)
    assert driver.create(plan).ok
    assert driver.work() == expected
    assert (driver.replay().made, driver.replay().passed) == (len(expected), 4 - len(expected))


def test_a_tick_that_is_being_run_when_its_turn_comes_is_passed_by(driver: Replaying) -> None:
    assert driver.create().ok
    run = replace(template(origin=Origin.SCHEDULE), run_id="s1", scheduled_at_ms=tick(1))
    driver.say(run)
    assert driver.work() == [0, 2]
    assert (driver.replay().made, driver.replay().passed) == (2, 1)


def test_the_newest_of_all_replays_counts(driver: Replaying) -> None:
    driver.create(plan_of(2))
    driver.work(0, 1)
    driver.create(plan_of(1), "r-2")
    driver.work(replay_id="r-2")
    driver.create(plan_of(3, reprocess=Reprocess.FAILED), "r-3")
    assert driver.work(replay_id="r-3") == [1, 2]


# -- operators ---------------------------------------------------------------------------------------------------------


def test_r24_a_cancel_ends_its_runs_with_it_and_it_has_ended_when_they_have(driver: Replaying) -> None:
    driver.create(plan_of(5, parallel=2))
    driver.lead()
    driver.plan()
    driver.start("bq2bq", driver.run_id(0))
    assert driver.stop().ok
    assert driver.attempt(run_id=driver.run_id(0)).stop_wanted is Reason.CANCELLED
    assert driver.lead() == []
    assert (driver.replay().state, driver.replay().cancelled_by) == (ReplayState.RUNNING, "me")
    for number in (0, 1):
        driver.end("bq2bq", Reason.CANCELLED, driver.run_id(number))
    replay = driver.replay()
    assert (replay.state, dict(replay.counts)) == (ReplayState.CANCELLED, {"cancelled": 2})
    assert [one.what for one in replay.audit] == ["create", "cancel"]
    assert driver.stop().code == "replay_final"
    assert driver.stop(replay_id="r-9").code == "unknown_replay"


def test_one_that_has_nothing_running_is_cancelled_at_once(driver: Replaying) -> None:
    driver.create()
    driver.lead()
    applied = driver.stop()  # what waits for a slot is cancelled at once
    assert [one.run.state for one in applied.finished] == [RunState.CANCELLED]
    assert driver.replay().state is ReplayState.CANCELLED
    driver.create(plan_of(1, first=9), "r-2")
    driver.stop(replay_id="r-2")
    assert driver.replay("r-2").state is ReplayState.CANCELLED


def test_what_was_cancelled_runs_when_it_is_resumed_and_what_has_succeeded_does_not(driver: Replaying) -> None:
    driver.create(plan_of(4, parallel=2))
    driver.lead()
    driver.end_tick(0)
    driver.end_tick(1, Reason.EXIT_CODE)
    driver.lead()
    first = driver.run_id(2)
    driver.stop()
    assert driver.resume(replay_id="r-9").code == "unknown_replay"
    assert driver.resume().ok
    assert driver.resume().code == "replay_not_final"
    assert driver.work() == [2, 3]
    assert driver.run_id(2) != first
    replay = driver.replay()
    assert (replay.state, replay.made, replay.round) == (ReplayState.FAILED, 4, 2)
    assert dict(replay.counts) == {"success": 3, "failed": 1}
    assert driver.resume().code == "nothing_to_resume"
    assert driver.resume(failed=True).ok
    assert driver.work() == [1]
    assert dict(driver.replay().counts) == {"success": 4}
    assert driver.resume(failed=True).code == "nothing_to_resume"


def test_ticks_that_were_passed_by_are_not_counted_twice(driver: Replaying) -> None:
    with_history(driver)
    driver.create(plan_of(4, reprocess=Reprocess.NONE))
    driver.lead()
    driver.stop()
    driver.resume()
    assert driver.work() == [3]
    assert (driver.replay().made, driver.replay().passed) == (1, 3)


def test_a_run_that_is_run_again_by_hand_counts_as_what_it_becomes(driver: Replaying) -> None:
    driver.create(plan_of(2))
    driver.work(0)
    run_id = driver.run_id(0)
    finished = next(one for one in driver.finished if one.run.id == run_id)
    index = driver.table.rows.finished[run_id].index
    clear = c.ClearRun(driver.now_ms, run_id, ("bq2bq",), finished.record, index, "me", "a1", "retry")
    assert driver.say(clear).ok
    assert (dict(driver.replay().counts), driver.replay().state) == ({"success": 1}, ReplayState.FAILED)
    assert driver.resume(failed=True).code == "nothing_to_resume"
    driver.go("bq2bq", run_id=run_id)
    assert dict(driver.replay().counts) == {"success": 2}
    assert driver.replay().state is ReplayState.FAILED  # as it ended; its runs are what they are (P4)


def test_a_run_that_another_took_the_place_of_counts_no_more(driver: Replaying) -> None:
    driver.create(plan_of(1))
    driver.work(0)
    run_id = driver.run_id(0)
    driver.resume(failed=True)
    driver.work()
    finished = next(one for one in driver.finished if one.run.id == run_id)
    index = driver.table.rows.finished[run_id].index
    driver.say(c.ClearRun(driver.now_ms, run_id, ("bq2bq",), finished.record, index, "me", "a1", "retry"))
    assert dict(driver.replay().counts) == {"success": 1}
    driver.go("bq2bq", Reason.EXIT_CODE, run_id)
    assert dict(driver.replay().counts) == {"success": 1}


def test_work_on_a_lost_agent_is_cancelled_by_an_operators_word(driver: Replaying) -> None:
    run = template(task(on_agent_lost=OnAgentLost.WAIT))
    driver.create(plan_of(run=run))
    driver.lead()
    driver.plan()
    driver.start("bq2bq", driver.run_id(0))
    driver.lose()
    driver.stop()
    assert not driver.replay().final
    driver.stop(assume=True)
    assert driver.replay().state is ReplayState.CANCELLED
    assert [one.what for one in driver.replay().audit] == ["create", "cancel", "cancel, assumed stopped"]


def test_the_audit_is_bounded_p12(driver: Replaying) -> None:
    driver.create()
    for _ in range(AUDIT_MAX):
        driver.stop()
        driver.resume()
    assert len(driver.replay().audit) == AUDIT_MAX


# -- accepting ---------------------------------------------------------------------------------------------------------


def test_p2_the_same_request_gets_the_same_replay(driver: Replaying) -> None:
    assert driver.create(request="k").ok
    again = driver.create(request="k", replay_id="r-2")
    assert (again.code, again.run_id) == ("duplicate", "r-1")
    assert driver.create(request="k", replay_id="r-2", body="other").code == "idempotency_conflict"
    assert driver.create().code == "exists"
    driver.pass_time(3 * HOUR_MS)  # it is remembered as long as the replay goes on
    assert driver.create(request="k", replay_id="r-2").code == "duplicate"
    driver.work()
    driver.pass_time(3 * HOUR_MS)
    assert driver.table.rows.requests == {}


BROKEN: list[Callable[[ReplayPlan], ReplayPlan]] = [
    lambda plan: replace(plan, run=b"nothing"),
    lambda plan: replace(plan, run=c.encode(c.AdvanceTime(0))),
    lambda plan: replace(plan, run=c.encode(template(origin=Origin.MANUAL))),
    lambda plan: replace(plan, run=c.encode(replace(template(), request="k"))),
    lambda plan: replace(plan, run=c.encode(replace(template(), replay="r-1"))),
    lambda plan: replace(plan, run=c.encode(template(job="other"))),
    lambda plan: replace(plan, run=c.encode(template(timeout_ms=0))),
    lambda plan: replace(plan, run=c.encode(template(task(), hook("s", InstanceKind.SETUP)))),
    lambda plan: replace(plan, first_ms=plan.last_ms + 1),
    lambda plan: replace(plan, parallel=0),
    lambda plan: replace(plan, parallel=101),
    lambda plan: replace(plan, total=100_001),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_no_run_could_be_made_of_is_refused(driver: Replaying, broken: Callable[[ReplayPlan], ReplayPlan]) -> None:
    assert driver.create(broken(plan_of())).code == "invalid"
    assert driver.table.rows.replays == {}


def test_what_is_in_the_way_is_named(driver: Replaying) -> None:
    driver.create(plan_of(3))
    applied = driver.create(plan_of(3, first=2), "r-2")
    assert (applied.code, applied.run_id) == ("replay_overlap", "r-1")
    assert driver.create(plan_of(3, first=3), "r-2").ok
    driver.submit(run_id="now")  # at START_MS
    applied = driver.create(plan_of(1, first=100), "r-3")
    assert (applied.code, applied.run_id) == ("run_in_range", "now")
    driver.go("bq2bq", run_id="now")
    assert driver.create(plan_of(1, first=100), "r-3").ok
    unknown = replace(plan_of(1), project="q", run=c.encode(template(project="q")))
    assert driver.create(unknown, "r-4").code == "unknown_project"
    driver.stop()
    driver.create(plan_of(1), "r-4")
    applied = driver.resume()
    assert (applied.code, applied.run_id) == ("replay_overlap", "r-4")


def test_no_run_says_by_itself_that_it_is_of_a_replay(driver: Replaying) -> None:
    driver.create()
    assert driver.say(replace(template(), run_id="x", replay="r-1")).code == "invalid"
    assert driver.table.rows.runs == {}


def test_replays_are_bounded_by_number_bytes_and_age_p12(driver: Replaying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "ACTIVE_MAX", 2)
    monkeypatch.setattr(replays, "KEPT_MAX", 2)
    for number in range(2):
        assert driver.create(plan_of(1, first=number), f"r-{number}").ok
    assert driver.create(plan_of(1, first=2), "r-2").code == "too_many_replays"
    for number in range(2):
        driver.work(replay_id=f"r-{number}")
    driver.create(plan_of(1, first=2), "r-2")
    driver.work(replay_id="r-2")
    assert list(driver.table.rows.replays) == ["r-1", "r-2"]
    driver.say(c.SetLimits(START_MS, Limits(finished_keep_ms=HOUR_MS)))
    driver.pass_time(2 * HOUR_MS)
    driver.create(plan_of(1, first=3), "r-3")
    assert list(driver.table.rows.replays) == ["r-3"]
    driver.say(c.SetLimits(START_MS, Limits(bytes_max=0)))
    assert driver.create(plan_of(1, first=4), "r-4").code == "table_full"
    driver.say(c.SetLimits(START_MS, Limits(requests_max=0)))
    assert driver.create(plan_of(1, first=4), "r-4", request="k").code == "table_full"


def test_a_run_whose_replay_is_forgotten_ends_as_any_other(driver: Replaying) -> None:
    driver.create(plan_of(1))
    driver.work(0)
    run_id = driver.run_id(0)
    finished = driver.finished[-1]
    driver.say(c.ClearRun(driver.now_ms, run_id, ("bq2bq",), finished.record,
                          driver.table.rows.finished[run_id].index, "me", "a1", "retry"))  # fmt: skip
    driver.table.forget_replay(driver.replay())
    driver.go("bq2bq", run_id=run_id)
    assert driver.table.rows.finished[run_id].state is RunState.SUCCESS


def test_the_small_row_of_a_run_that_was_run_again_takes_nothing_with_it(driver: Replaying) -> None:
    driver.create(plan_of(1))
    driver.work(0)
    old = driver.run_id(0)
    driver.resume(failed=True)
    driver.work()
    driver.table.forget_finished(old)
    assert driver.run_id(0) in driver.table.rows.finished


# -- what is told ------------------------------------------------------------------------------------------------------


def why(driver: Replaying) -> str:
    return explain_replay(driver.table, driver.replay()).why


def test_what_a_replay_waits_for_is_told_p11(driver: Replaying) -> None:
    driver.create(plan_of(4, parallel=2))
    assert why(driver) == "its next run is about to be made"
    driver.say(c.SetLimits(START_MS, Limits(runs_max=1)))
    driver.lead()
    assert why(driver) == "waits for room in the run table, which is full"
    driver.say(c.SetLimits(START_MS, Limits()))
    driver.lead()
    told = explain_replay(driver.table, driver.replay())
    ids = ", ".join(sorted([driver.run_id(0), driver.run_id(1)], key=[driver.run_id(0), driver.run_id(1)].index))
    assert told.why == f"waits for runs {ids} to end (2 at once)"
    assert (told.since_ms, told.until_ms) == (driver.now_ms, driver.now_ms + HOUR_MS)
    driver.end_tick(0)
    driver.lead()
    driver.end_tick(1)
    driver.lead()
    assert why(driver).startswith("has made all its runs: waits for runs ")
    driver.plan()
    driver.stop()
    assert why(driver).startswith("being cancelled by me: waits for runs ")
    for number in (2, 3):
        driver.start("bq2bq", driver.run_id(number))
        driver.end("bq2bq", Reason.CANCELLED, driver.run_id(number))
    assert why(driver) == "cancelled by me; `replay resume` lets it go on"
    driver.resume()
    driver.work(3)
    assert why(driver) == "1 of its ticks have not succeeded; `replay resume --failed` runs these again"
    driver.resume(failed=True)
    driver.work()
    assert why(driver) == "all its ticks have been run"


def test_a_stop_after_a_failure_is_told_and_of_many_runs_the_first(driver: Replaying) -> None:
    driver.create(plan_of(8, parallel=7, stop=True))
    driver.lead()
    driver.end_tick(0, Reason.EXIT_CODE)
    assert why(driver).startswith("stops after a failure, as it was asked to: waits for runs ")
    assert why(driver).endswith(" and 1 more to end")
    for number in range(1, 7):
        driver.end_tick(number)
    assert why(driver) == "stopped after a failure, as it was asked to; `replay resume` lets it go on"


def test_of_a_run_whose_time_is_over_no_end_is_told(driver: Replaying) -> None:
    driver.create(plan_of(1))
    driver.lead()
    driver.plan()
    driver.start("bq2bq", driver.run_id(0))
    driver.pass_time(2 * HOUR_MS)
    assert explain_replay(driver.table, driver.replay()).until_ms is None

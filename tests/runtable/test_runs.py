"""What runs do: order, failure, retry, time, cancel, clear, mark. One test, one sentence."""

from __future__ import annotations

import pytest

from agent.runtable import commands as c
from agent.runtable.model import (
    MAX_ATTEMPTS,
    Agent,
    AttemptState,
    InstanceKind,
    InstancePlan,
    InstanceState,
    Limits,
    Origin,
    Reason,
    RetryPolicy,
    RunState,
)
from agent.runtable.table import Table, unpack_run
from tests.runtable.builders import HOUR_MS, START_MS, Driver, hook, job_with_hooks, task

S = InstanceState


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def test_hooks_and_task_run_in_order(driver: Driver) -> None:
    driver.submit(*job_with_hooks())
    assert driver.run().state is RunState.QUEUED
    seen = []
    for name in ("check", "bq2bq", "notify"):
        driver.plan()
        seen.append([n for n, s in driver.states().items() if s is S.SCHEDULED])
        assert driver.run().state is RunState.RUNNING
        driver.go(name)
    assert seen == [["check"], ["bq2bq"], ["notify"]]
    assert driver.run().state is RunState.SUCCESS
    assert driver.states()["rescue"] is S.SKIPPED
    assert driver.run().started_at_ms == driver.run().finished_at_ms == START_MS


def test_a_failed_task_leads_to_the_fail_hook_and_not_to_the_post_hook(driver: Driver) -> None:
    driver.submit(*job_with_hooks())
    driver.go("check")
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert driver.states() == {
        "check": S.SUCCESS,
        "bq2bq": S.FAILED,
        "notify": S.UPSTREAM_FAILED,
        "rescue": S.SCHEDULED,
    }
    driver.go("rescue")
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.EXIT_CODE)


def test_a_failed_pre_hook_keeps_the_task_from_starting(driver: Driver) -> None:
    driver.submit(*job_with_hooks())
    driver.go("check", Reason.EXIT_CODE)
    assert driver.states()["bq2bq"] is S.UPSTREAM_FAILED
    driver.go("rescue", Reason.EXIT_CODE)
    assert driver.run().state is RunState.FAILED
    assert driver.run().reason is Reason.EXIT_CODE


def test_a_failed_fail_hook_is_shown_and_changes_nothing(driver: Driver) -> None:
    driver.submit(task(), hook("rescue", InstanceKind.FAIL))
    driver.go("bq2bq", Reason.OOM)
    driver.go("rescue", Reason.EXIT_CODE)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.OOM)
    assert driver.states()["rescue"] is S.FAILED


def test_fail_hooks_keep_the_order_of_their_plugins_and_go_on_after_a_failed_one(driver: Driver) -> None:
    driver.submit(task(), hook("one", InstanceKind.FAIL), hook("two", InstanceKind.FAIL, ("one",)))
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert driver.states()["two"] is S.PENDING
    driver.go("one", Reason.EXIT_CODE)
    assert driver.states()["two"] is S.SCHEDULED


def test_hooks_without_order_between_them_run_at_the_same_time(driver: Driver) -> None:
    driver.submit(hook("a", InstanceKind.PRE), hook("b", InstanceKind.PRE), task("t", ("a", "b")))
    assert [type(command) for command in driver.plan()] == [c.Assign, c.Assign]


def test_retry_waits_as_a_row_with_a_deadline_p10(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(count=2, delay_s=60)))
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert driver.states()["bq2bq"] is S.UP_FOR_RETRY
    assert driver.table.due_ms() == START_MS + 60_000
    assert driver.plan() == []
    driver.pass_time(60_000)
    assert driver.states()["bq2bq"] is S.SCHEDULED
    driver.go("bq2bq", Reason.EXIT_CODE)
    driver.pass_time(60_000)
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert driver.run().state is RunState.FAILED
    assert [a.number for a in driver.instance("bq2bq").attempts] == [1, 2, 3]


def test_never_retry_can_be_said(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(count=0)))
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert driver.run().state is RunState.FAILED


def test_exponential_backoff_grows_and_is_capped(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(count=3, delay_s=10, exponential=True, max_delay_s=15)))
    waits = []
    for _ in range(3):
        driver.go("bq2bq", Reason.EXIT_CODE)
        due_ms = driver.instance("bq2bq").due_ms
        assert due_ms is not None
        waits.append(due_ms - driver.now_ms)
        driver.pass_time(waits[-1])
    assert waits[0] >= 10_000
    assert waits[1:] == [15_000, 15_000]


def test_task_time_out_stops_the_work_first_and_says_timeout(driver: Driver) -> None:
    driver.submit(task(timeout_ms=5_000))
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(5_000)
    assert driver.states()["bq2bq"] is S.RUNNING
    attempt = driver.instance("bq2bq").last
    assert attempt is not None
    assert attempt.stop_wanted is Reason.TIMEOUT
    driver.end("bq2bq", Reason.EXIT_CODE, exit_code=143)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.TIMEOUT)
    assert driver.instance("bq2bq").reason is Reason.TIMEOUT


def test_a_timed_out_task_is_retried_like_any_failure(driver: Driver) -> None:
    driver.submit(task(timeout_ms=5_000, retry=RetryPolicy(1, 1)))
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(5_000)
    driver.end("bq2bq", Reason.EXIT_CODE)
    assert driver.states()["bq2bq"] is S.UP_FOR_RETRY


def test_work_that_ended_well_while_its_stop_was_on_the_way_has_succeeded(driver: Driver) -> None:
    driver.submit(task(timeout_ms=5_000))
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(5_000)
    driver.end("bq2bq")
    assert driver.run().state is RunState.SUCCESS


def test_run_time_out_ends_everything_without_retry_or_fail_hook(driver: Driver) -> None:
    driver.submit(*job_with_hooks(RetryPolicy(5, 1)), timeout_ms=HOUR_MS)
    driver.go("check")
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(HOUR_MS)
    assert driver.states()["notify"] is S.CANCELLED
    driver.end("bq2bq", Reason.EXIT_CODE)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.TIMEOUT)
    assert driver.states()["bq2bq"] is S.FAILED


def test_queue_time_out_fails_what_never_got_a_slot(driver: Driver) -> None:
    driver = Driver().found(executors=())
    driver.submit(queue_timeout_ms=1_000)
    driver.pass_time(1_000)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.QUEUE_TIMEOUT)


def test_queue_time_out_of_an_assigned_attempt_waits_for_the_workers_word(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(3, 1)), queue_timeout_ms=1_000)
    driver.plan()
    driver.pass_time(1_000)
    assert driver.states()["bq2bq"] is S.SCHEDULED
    driver.end("bq2bq", Reason.CANCELLED)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.QUEUE_TIMEOUT)


def test_cancel_ends_what_waits_at_once_and_what_runs_when_its_worker_says_so(driver: Driver) -> None:
    driver.submit(*job_with_hooks())
    driver.plan()
    driver.start("check")
    assert driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1")).ok
    assert driver.states() == {
        "check": S.RUNNING,
        "bq2bq": S.CANCELLED,
        "notify": S.CANCELLED,
        "rescue": S.CANCELLED,
    }
    assert driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1")).ok
    driver.end("check", Reason.EXIT_CODE, exit_code=143)
    assert driver.run().state is RunState.CANCELLED
    assert [a.what for a in driver.run().audit] == ["cancel"]
    last = driver.instance("check").last
    assert last is not None
    assert last.state is AttemptState.CANCELLED


def test_cancel_beats_retry(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(9, 1)))
    driver.go("bq2bq", Reason.EXIT_CODE)
    driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1"))
    assert driver.run().state is RunState.CANCELLED


def test_cancel_while_running_beats_retry(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(9, 1)))
    driver.plan()
    driver.start("bq2bq")
    driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1"))
    driver.end("bq2bq", Reason.EXIT_CODE)
    assert driver.run().state is RunState.CANCELLED


def test_cancel_of_a_finished_or_unknown_run_says_so(driver: Driver) -> None:
    driver.submit()
    driver.go("bq2bq")
    assert driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1")).code == "run_final"
    assert driver.say(c.CancelRun(driver.now_ms, "zz", "me", "a1")).code == "unknown_run"


def test_a_lost_attempt_is_run_again_without_using_up_a_retry(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(count=0)))
    driver.plan()
    driver.start("bq2bq")
    driver.end("bq2bq", Reason.AGENT_LOST)
    assert driver.states()["bq2bq"] is S.SCHEDULED
    driver.plan()
    driver.end("bq2bq", Reason.AGENT_LOST)
    driver.go("bq2bq")
    assert driver.run().state is RunState.SUCCESS
    assert [a.counts for a in driver.instance("bq2bq").attempts] == [False, False, True]


def test_a_task_that_keeps_losing_its_agent_ends_p1_p12(driver: Driver) -> None:
    driver.submit(task())
    for _ in range(MAX_ATTEMPTS):
        driver.plan()
        driver.end("bq2bq", Reason.AGENT_LOST)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.AGENT_LOST)


def test_a_word_that_is_repeated_late_or_from_another_owner_changes_nothing_p3(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(1, 1)))
    driver.plan()
    assert driver.start("bq2bq").ok
    assert driver.start("bq2bq").code == "stale"
    seq = driver.seq
    ended = c.InstanceEnded(
        START_MS, "r1", "bq2bq", 1, "a1", 1, seq + 1, Reason.EXIT_CODE, 1, "", START_MS, START_MS, None, {}
    )
    for wrong in (
        c.InstanceEnded(START_MS, "r1", "bq2bq", 1, "a2", 1, 99, None, 0, "", None, 1, None, {}),
        c.InstanceEnded(START_MS, "r1", "bq2bq", 1, "a1", 2, 99, None, 0, "", None, 1, None, {}),
        c.InstanceEnded(START_MS, "r1", "bq2bq", 2, "a1", 1, 99, None, 0, "", None, 1, None, {}),
        c.InstanceEnded(START_MS, "r1", "bq2bq", 1, "a1", 1, 1, None, 0, "", None, 1, None, {}),
        c.InstanceStarted(START_MS, "r1", "bq2bq", 2, "a1", 1, 99, 1, None, {}),
    ):
        assert driver.say(wrong).code == "stale"
    assert driver.say(ended).ok
    assert driver.say(ended).code == "stale"
    nobody = c.InstanceEnded(START_MS, "r1", "nobody", 1, "a1", 1, 99, None, 0, "", None, 1, None, {})
    assert driver.say(nobody).code == "unknown_instance"
    assert driver.say(c.InstanceStarted(START_MS, "r1", "nobody", 1, "a1", 1, 99, 1, None, {})).code == (
        "unknown_instance"
    )


def test_the_same_request_gets_the_same_run_p2(driver: Driver) -> None:
    first = driver.submit(request="me/p/key")
    again = driver.submit(request="me/p/key", run_id="r2")
    other = driver.submit(request="me/p/key", run_id="r3", body="other")
    assert (first.code, again.code, other.code) == ("ok", "duplicate", "idempotency_conflict")
    assert again.run_id == other.run_id == "r1"
    assert again.ok
    assert not other.ok
    assert set(driver.table.rows.runs) == {"r1"}


def test_a_request_is_remembered_its_time_and_as_long_as_its_run_p2(driver: Driver) -> None:
    driver.submit(request="k")
    driver.pass_time(HOUR_MS)
    assert driver.submit(request="k", run_id="r2").code == "duplicate"
    driver.go("bq2bq")
    driver.pass_time(30 * HOUR_MS)
    assert driver.table.rows.requests == {}
    assert driver.submit(request="k", run_id="r2").code == "ok"


def test_ticks_deduplicate_by_origin_and_manual_runs_never_merge_p2(driver: Driver) -> None:
    driver.submit(origin=Origin.SCHEDULE)
    assert driver.submit(origin=Origin.SCHEDULE, run_id="r2").code == "duplicate"
    assert driver.submit(origin=Origin.REPLAY, run_id="r3").code == "ok"
    assert driver.submit(origin=Origin.MANUAL, run_id="r4").code == "ok"
    assert driver.submit(origin=Origin.MANUAL, run_id="r5").code == "ok"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"run_id": "r1"}, "exists"),
        ({"project": "nowhere"}, "unknown_project"),
        ({"timeout_ms": 0}, "invalid"),
    ],
)
def test_a_submit_that_cannot_be_is_refused_with_its_reason_p11(
    driver: Driver, change: dict[str, str], code: str
) -> None:
    driver.submit()
    fields: dict[str, str] = {"run_id": "r9", **change}
    assert driver.submit(**fields).code == code  # type: ignore[arg-type]  # one table of changes for all fields


@pytest.mark.parametrize(
    "plans",
    [
        (task("a"), task("a")),
        (task("a", ("b",)), task("b")),
        (hook("f", InstanceKind.FAIL), task("a")),
    ],
)
def test_instances_that_contradict_each_other_are_refused(driver: Driver, plans: tuple[InstancePlan, ...]) -> None:
    assert driver.submit(*plans).code == "invalid"


def test_a_full_table_refuses_and_goes_on_p12(driver: Driver) -> None:
    driver.say(c.SetLimits(driver.now_ms, Limits(runs_max=1)))
    driver.submit()
    assert driver.submit(run_id="r2").code == "table_full"
    driver.go("bq2bq")
    assert driver.submit(run_id="r2").code == "ok"
    driver.say(c.SetLimits(driver.now_ms, Limits(bytes_max=1)))
    assert driver.submit(run_id="r3").code == "table_full"
    full = c.PutProject(driver.now_ms, "q")
    assert driver.say(full).code == "table_full"


def test_finished_rows_are_forgotten_by_age_and_by_number_p12(driver: Driver) -> None:
    driver.say(c.SetLimits(driver.now_ms, Limits(finished_max=2, finished_keep_ms=HOUR_MS)))
    for run_id in ("r1", "r2", "r3"):
        driver.submit(run_id=run_id, origin=Origin.SCHEDULE if run_id == "r1" else Origin.MANUAL)
        driver.go("bq2bq", run_id=run_id)
    assert list(driver.table.rows.finished) == ["r2", "r3"]
    assert driver.table.rows.ticks == {}
    driver.pass_time(HOUR_MS)
    assert driver.table.rows.finished == {}


def test_the_record_of_a_finished_run_holds_all_of_it(driver: Driver) -> None:
    driver.submit(*job_with_hooks())
    driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1"))
    assert unpack_run(driver.finished[0].record) == driver.run()
    assert unpack_run(b"\xc1") is None


def test_retry_brings_a_finished_run_back_and_keeps_what_was_made_p4(driver: Driver) -> None:
    driver.submit(*job_with_hooks())
    driver.go("check")
    driver.go("bq2bq", Reason.EXIT_CODE)
    driver.go("rescue")
    record = driver.finished[0].record
    names = ("bq2bq", "notify", "rescue")
    clear = c.ClearRun(driver.now_ms, "r1", names, record, driver.index, "me", "a1", "retry")
    assert driver.say(clear).ok
    assert driver.run().state is RunState.RUNNING
    assert driver.states() == {
        "check": S.SUCCESS,
        "bq2bq": S.SCHEDULED,
        "notify": S.PENDING,
        "rescue": S.PENDING,
    }
    driver.go("bq2bq")
    driver.go("notify")
    assert driver.run().state is RunState.SUCCESS
    assert [a.state for a in driver.instance("bq2bq").attempts] == [AttemptState.FAILED, AttemptState.SUCCESS]
    assert driver.states()["rescue"] is S.SKIPPED
    assert [a.what for a in driver.run().audit] == ["retry bq2bq notify rescue"]
    assert driver.say(clear).code == "stale"


def test_clear_is_refused_where_it_cannot_be(driver: Driver) -> None:
    ended_index = 0

    def clear(record: bytes = b"", *names: str, run_id: str = "r1") -> str:
        return driver.say(c.ClearRun(driver.now_ms, run_id, names, record, ended_index, "me", "a1", "clear")).code

    driver.submit(*job_with_hooks())
    assert clear(b"", "nobody") == "unknown_instance"
    assert clear() == "unknown_instance"
    assert clear(b"", "bq2bq") == "not_final"
    driver.plan()
    driver.start("check")
    driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1"))
    assert clear(b"", "bq2bq") == "run_ending"
    driver.end("check", Reason.EXIT_CODE)
    record, ended_index = driver.finished[0].record, driver.index
    assert clear(b"junk", "bq2bq") == "stale"
    assert clear(record, "nobody") == "unknown_instance"
    assert clear(record, "bq2bq", run_id="r9") == "unknown_run"
    ended_index -= 1
    assert clear(record, "bq2bq") == "stale"
    ended_index += 1
    driver.say(c.SetLimits(driver.now_ms, Limits(runs_max=0)))
    assert clear(record, "bq2bq") == "table_full"


def test_clear_in_the_middle_of_a_run_makes_new_attempts(driver: Driver) -> None:
    driver.submit(*job_with_hooks(RetryPolicy(1, 1)))
    driver.go("check")
    driver.plan()
    driver.start("bq2bq")
    assert driver.say(c.ClearRun(driver.now_ms, "r1", ("check",), b"", 0, "me", "a1", "clear")).ok
    driver.go("check")
    driver.end("bq2bq")
    driver.go("notify")
    assert driver.run().state is RunState.SUCCESS
    assert len(driver.instance("check").attempts) == 2


def test_outputs_are_those_of_the_newest_attempt_while_it_has_succeeded(driver: Driver) -> None:
    def end(reason: Reason | None, outputs: str) -> None:
        attempt = driver.attempt("check")
        owned = ("r1", "check", attempt.number, attempt.agent, attempt.epoch)
        now_ms = driver.now_ms
        assert driver.say(c.InstanceEnded(now_ms, *owned, 99, reason, 0, "", 1, now_ms, None, {}, outputs)).ok

    def put_out() -> tuple[str | None, list[str | None]]:
        check = driver.instance("check")
        return check.outputs, [one.outputs for one in check.attempts]

    def clear() -> None:
        assert driver.say(c.ClearRun(driver.now_ms, "r1", ("check",), b"", 0, "me", "a1", "clear")).ok

    driver.submit(hook("check", InstanceKind.PRE, retry=RetryPolicy(1, 1)), task(after=("check",)))
    assert put_out() == (None, [])
    driver.plan()
    driver.start("check")
    end(Reason.EXIT_CODE, "of a failure")
    assert put_out() == (None, [None])
    driver.pass_time(60_000)
    driver.plan()
    driver.start("check")
    end(None, "first")
    assert put_out() == ("first", [None, "first"])
    driver.plan()
    driver.start("bq2bq")  # it keeps the run in the table
    clear()
    assert put_out() == (None, [None, "first"])
    assert driver.say(c.MarkInstance(driver.now_ms, "r1", "check", S.SUCCESS, "me", "a1")).ok
    assert put_out() == (None, [None, "first"])  # it succeeded by hand, and has put out nothing since
    clear()
    driver.plan()
    driver.start("check")
    end(None, "second")
    assert put_out() == ("second", [None, "first", "second"])


def test_mark_gives_a_result_by_hand_and_stops_what_runs_first(driver: Driver) -> None:
    def mark(name: str, state: InstanceState, run_id: str = "r1") -> str:
        return driver.say(c.MarkInstance(driver.now_ms, run_id, name, state, "me", "a1")).code

    driver.submit(*job_with_hooks())
    assert mark("nobody", S.SUCCESS) == "unknown_instance"
    assert mark("check", S.RUNNING) == "invalid"
    assert mark("check", S.SUCCESS) == "ok"
    assert mark("check", S.FAILED) == "instance_final"
    driver.plan()
    driver.start("bq2bq")
    assert mark("bq2bq", S.SUCCESS) == "ok"
    assert driver.states()["bq2bq"] is S.RUNNING
    driver.end("bq2bq", Reason.EXIT_CODE)
    assert driver.instance("bq2bq").state is S.SUCCESS
    assert driver.instance("bq2bq").reason is Reason.MARKED
    assert mark("notify", S.FAILED) == "ok"
    driver.plan()
    driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1"))
    assert mark("rescue", S.FAILED) == "run_ending"
    assert mark("rescue", S.FAILED, run_id="r7") == "unknown_run"


def test_work_marked_failed_that_ended_well_is_still_failed(driver: Driver) -> None:
    driver.submit()
    driver.plan()
    driver.start("bq2bq")
    driver.say(c.MarkInstance(driver.now_ms, "r1", "bq2bq", S.FAILED, "me", "a1"))
    driver.end("bq2bq")
    assert driver.run().state is RunState.FAILED


def test_assign_is_refused_when_the_table_has_moved_on(driver: Driver) -> None:
    driver.submit()

    def assign(number: int = 1, agent: str = "a1", epoch: int = 1, name: str = "bq2bq") -> str:
        return driver.say(c.Assign(driver.now_ms, "r1", name, number, agent, epoch)).code

    assert assign(agent="a9") == "unknown_agent"
    assert assign(epoch=2) == "stale"
    assert assign(number=2) == "stale"
    assert assign(name="nobody") == "unknown_instance"
    assert assign() == "ok"
    assert assign(number=2) == "stale"


def test_slots_are_never_exceeded_p12(driver: Driver) -> None:
    driver = Driver().found(slots=1)
    driver.submit()
    driver.submit(run_id="r2")
    assert len(driver.plan()) == 1
    assert driver.say(c.Assign(driver.now_ms, "r2", "bq2bq", 1, "a1", 1)).code == "stale"
    driver.start("bq2bq")
    driver.end("bq2bq")
    assert len(driver.plan()) == 1


def test_an_agent_that_comes_again_keeps_its_epoch(driver: Driver) -> None:
    driver.say(c.AgentUp(driver.now_ms, Agent("a1", 7, "127.0.0.1:9", "http://h", 2, ("mock",), "1")))
    assert driver.table.rows.agents["a1"].epoch == 1
    assert driver.table.rows.agents["a1"].slots == 2


def test_time_never_goes_back(driver: Driver) -> None:
    driver.submit()
    driver.now_ms -= HOUR_MS
    driver.submit(run_id="r2")
    assert driver.run("r2").created_at_ms == START_MS


def test_many_deadlines_fire_in_bounded_steps_p12() -> None:
    driver = Driver().found(executors=())
    for number in range(1002):
        driver.log.append(
            c.encode(
                c.SubmitRun(
                    START_MS, f"r{number}", "p", "n", "j", 1, Origin.MANUAL, "me", "a1", "", "", 1, "b", HOUR_MS, 5,
                    (task(),),
                )
            )
        )  # fmt: skip
    table = driver.table
    from agent.runtable.apply import apply

    for index, data in enumerate(driver.log, start=1):
        apply(table, index, data)
    first = apply(table, 9_999, c.encode(c.AdvanceTime(START_MS + HOUR_MS - 1)))
    second = apply(table, 10_000, c.encode(c.AdvanceTime(START_MS + HOUR_MS - 1)))
    assert (len(first.finished), len(second.finished)) == (1000, 2)


def test_a_table_that_was_dumped_and_loaded_goes_on_the_same(driver: Driver) -> None:
    driver.submit(*job_with_hooks(), request="k")
    driver.go("check")
    driver.submit(run_id="r2")
    driver.go("bq2bq", run_id="r2")
    copy = Driver(Table.load([driver.table.dump()]), driver.now_ms, driver.index, driver.seq)
    for one in (driver, copy):
        one.pass_time(100 * HOUR_MS)
    assert copy.table.dump() == driver.table.dump()

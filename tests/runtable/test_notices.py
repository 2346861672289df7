"""Events: made where something happens, bounded, each with an end; SLAs: deadlines that tell once."""

from __future__ import annotations

import msgspec
import pytest

from agent.runtable import commands as c
from agent.runtable import notices, sla
from agent.runtable.model import InstanceKind, InstanceState, Reason, RetryPolicy, RunState
from agent.runtable.notice_rows import Event, EventKind, Wanted
from agent.runtable.table import Table
from tests.runtable.builders import HOUR_MS, START_MS, Driver, hook, task
from tests.runtable.replaying import Replaying, plan_of, template

FAILURE = Wanted(EventKind.FAILURE, "pager", "f", resolves=True)
SUCCESS = Wanted(EventKind.SUCCESS, "hook", "s")
RETRY = Wanted(EventKind.RETRY, "hook", "r")
RUN_SLA = Wanted(EventKind.SLA_MISS, "pager", "run", within_ms=2 * HOUR_MS)
TASK_SLA = Wanted(EventKind.SLA_MISS, "pager", "task", "bq2bq", HOUR_MS)


@pytest.fixture
def driver() -> Replaying:
    driver = Replaying()
    driver.found()
    return driver


def events(driver: Driver) -> list[Event]:
    return list(driver.table.rows.events.values())


def told(driver: Driver) -> list[tuple[str, str, int]]:
    return [(one.kind, one.instance, one.attempt) for one in events(driver)]


def clear(driver: Driver, *names: str) -> None:
    record = next((f.record for f in reversed(driver.finished) if f.run.id == "r1"), b"")
    row = driver.table.rows.finished.get("r1")
    index = row.index if row is not None else 0
    assert driver.say(c.ClearRun(driver.now_ms, "r1", names, record, index, "me", "a1", "clear")).ok


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_run_that_ends_tells_who_wants_to_know_and_nobody_else(driver: Driver) -> None:
    driver.submit(wants=(FAILURE, SUCCESS, RETRY))
    driver.go("bq2bq")
    (event,) = events(driver)
    assert (event.kind, event.endpoint, event.run_id, event.state) == ("success", "hook", "r1", "success")
    assert (event.project, event.job, event.bundle, event.message) == ("p", "j", "bundle", "")
    assert event.give_up_ms == event.at_ms + notices.GIVE_UP_MS


def test_a_failure_says_what_failed_and_why(driver: Driver) -> None:
    driver.submit(wants=(FAILURE, SUCCESS))
    driver.go("bq2bq", Reason.EXIT_CODE)
    (event,) = events(driver)
    assert (event.kind, event.state, event.reason) == ("failure", "failed", "exit_code")
    assert event.message == "bq2bq failed (exit_code)"


def test_upstream_failures_name_the_hook_and_its_message(driver: Driver) -> None:
    driver.submit(hook("check", InstanceKind.PRE), task("bq2bq", ("check",)), wants=(FAILURE,))
    driver.plan()
    driver.lose()
    driver.up("a2", node=2)
    driver.plan()
    attempt = driver.attempt("check")
    word = c.InstanceEnded(
        driver.now_ms, "r1", "check", attempt.number, "a2", 1, 99, Reason.OOM, 137, "x" * 900, None, START_MS, None, {}
    )
    driver.say(word)
    (event,) = events(driver)
    assert event.message.startswith("check failed (oom): xxx")
    assert len(event.message) == notices.TEXT_MAX


def test_cancelled_and_skipped_runs_tell_nobody(driver: Driver) -> None:
    driver.submit(wants=(FAILURE, SUCCESS))
    driver.cancel()
    driver.submit(task(skip_exit_codes=(99,)), run_id="r2", wants=(FAILURE, SUCCESS))
    driver.plan()
    driver.end("bq2bq", Reason.EXIT_CODE, "r2", exit_code=99)
    assert [f.run.state for f in driver.finished] == [RunState.CANCELLED, RunState.SKIPPED]
    assert events(driver) == []


def test_every_retry_is_told_with_its_attempt(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(2, 1.0)), wants=(RETRY, FAILURE))
    for _ in range(3):
        driver.go("bq2bq", Reason.EXIT_CODE)
        driver.pass_time(2000)
    assert told(driver) == [("retry", "bq2bq", 1), ("retry", "bq2bq", 2), ("failure", "", 0)]
    assert len({one.id for one in events(driver)}) == 3


def test_what_was_alarmed_is_resolved_once_by_the_success_that_follows(driver: Driver) -> None:
    driver.submit(wants=(FAILURE, Wanted(EventKind.FAILURE, "slack", "n")))
    driver.go("bq2bq", Reason.EXIT_CODE)
    clear(driver, "bq2bq")
    driver.go("bq2bq", Reason.EXIT_CODE)
    clear(driver, "bq2bq")
    driver.go("bq2bq")
    clear(driver, "bq2bq")
    driver.go("bq2bq")
    assert [(one.kind, one.endpoint) for one in events(driver)] == [
        ("failure", "pager"),
        ("failure", "slack"),
        ("failure", "pager"),
        ("failure", "slack"),
        ("resolved", "pager"),
    ]
    assert len({one.id for one in events(driver)}) == 5


@pytest.mark.parametrize(
    "wants", [(FAILURE,) * (notices.WANTED_MAX + 1), (Wanted(EventKind.SLA_MISS, "e", "p", "nobody", 1),)]
)
def test_wishes_that_contradict_the_run_or_are_too_many_are_refused(driver: Driver, wants: tuple[Wanted, ...]) -> None:
    assert driver.submit(wants=wants).code == "invalid"


def test_something_else_than_a_run_is_told_of_with_a_subject_of_its_own(driver: Driver) -> None:
    """As a replay is."""
    subject = notices.Subject(id="replay1", project="p", namespace="n", job="j", bundle="b")
    wants = (Wanted(EventKind.REPLAY, "hook", "p"), FAILURE)
    notices.tell(driver.table, subject, wants, EventKind.REPLAY, state="started")
    notices.tell(driver.table, subject, wants, EventKind.REPLAY, state="started")  # in the same command: the same
    (event,) = events(driver)
    assert (event.run_id, event.kind, event.state) == ("replay1", "replay", "started")


# -- sla_miss ----------------------------------------------------------------------------------------------------------


def test_an_instance_that_takes_too_long_is_told_of_once_from_its_first_start(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(5, 1.0)), wants=(TASK_SLA,))
    driver.pass_time(5 * HOUR_MS)  # it was assigned, and has not started: its time has not begun
    driver.start("bq2bq")
    driver.pass_time(HOUR_MS // 2)
    driver.end("bq2bq", Reason.EXIT_CODE)
    driver.pass_time(2000)
    driver.plan()
    driver.start("bq2bq")
    assert events(driver) == []
    driver.pass_time(HOUR_MS // 2 - 2001)
    assert events(driver) == []
    driver.pass_time(1)
    (event,) = events(driver)
    assert (event.kind, event.instance, event.attempt, event.state) == ("sla_miss", "bq2bq", 2, "running")
    assert event.message == "the instance bq2bq takes longer than 3600 s"
    driver.pass_time(5 * HOUR_MS)
    driver.end("bq2bq")
    assert len(events(driver)) == 1


def test_a_run_is_too_late_by_the_time_since_it_was_accepted(driver: Driver) -> None:
    driver.table.rows.agents["a1"].slots = 0
    driver.submit(wants=(RUN_SLA,))
    driver.pass_time(2 * HOUR_MS - 1)
    assert events(driver) == []
    driver.pass_time(1)
    (event,) = events(driver)
    assert (event.instance, event.state, event.message) == ("", "queued", "the run takes longer than 7200 s")
    driver.pass_time(HOUR_MS)
    assert len(events(driver)) == 1


def test_what_ended_in_time_is_not_missed_however_late_that_is_known(driver: Driver) -> None:
    driver.submit(task(), hook("post", InstanceKind.POST, ("bq2bq",)), wants=(TASK_SLA,))
    driver.plan()
    driver.start("bq2bq")
    attempt = driver.attempt()
    in_time_ms = driver.now_ms + HOUR_MS - 1
    driver.now_ms += 3 * HOUR_MS  # nobody led for that long
    ended = c.InstanceEnded(
        driver.now_ms, "r1", "bq2bq", 1, "a1", 1, 50, None, 0, "", attempt.started_at_ms, in_time_ms, None, {}
    )
    driver.say(ended)
    driver.pass_time(HOUR_MS)
    assert events(driver) == []


def test_what_ended_too_late_is_missed_although_nobody_led_at_its_deadline(driver: Driver) -> None:
    driver.submit(wants=(TASK_SLA, RUN_SLA))
    driver.plan()
    driver.start("bq2bq")
    driver.now_ms += 3 * HOUR_MS
    driver.end("bq2bq")
    assert told(driver) == [("sla_miss", "bq2bq", 1), ("sla_miss", "", 0)]


def test_an_instance_that_ended_without_work_is_not_late(driver: Driver) -> None:
    driver.submit(hook("check", InstanceKind.PRE), task("bq2bq", ("check",)), wants=(TASK_SLA,))
    driver.mark("bq2bq", InstanceState.SUCCESS)
    driver.pass_time(20 * HOUR_MS)
    assert events(driver) == []


def test_a_cleared_instance_has_its_time_anew_and_a_run_that_is_brought_back_none(driver: Driver) -> None:
    driver.submit(wants=(TASK_SLA, RUN_SLA))
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(HOUR_MS)
    driver.end("bq2bq")
    assert told(driver) == [("sla_miss", "bq2bq", 1)]
    driver.pass_time(50 * HOUR_MS)
    clear(driver, "bq2bq")
    assert len(events(driver)) == 0  # the first was given up meanwhile
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(HOUR_MS - 1)
    assert events(driver) == []
    driver.pass_time(1)
    assert told(driver) == [("sla_miss", "bq2bq", 2)]


def test_slas_survive_a_restart_from_a_snapshot(driver: Driver) -> None:
    driver.submit(wants=(TASK_SLA, RUN_SLA, SUCCESS))
    driver.plan()
    driver.start("bq2bq")
    driver.table = Table.load([driver.table.dump()])
    driver.pass_time(HOUR_MS)
    driver.table = Table.load([driver.table.dump()])
    driver.pass_time(HOUR_MS)
    driver.end("bq2bq")
    driver.table = Table.load([driver.table.dump()])
    assert told(driver) == [("sla_miss", "bq2bq", 1), ("sla_miss", "", 0), ("success", "", 0)]
    assert {key: len(ids) for key, ids in driver.table.outbox.items()} == {"pager": 2, "hook": 1}


def test_a_record_that_names_an_instance_which_is_not_there_has_no_deadline_for_it(driver: Driver) -> None:
    """As only a forged `ClearRun` could."""
    driver.submit(wants=(TASK_SLA,))
    run = driver.run()
    run.wants = (Wanted(EventKind.SLA_MISS, "e", "p", "nobody", 1),)
    assert (list(sla.deadlines(run)), sla.missed(run, 2**50)) == ([], [])


# -- delivery ----------------------------------------------------------------------------------------------------------


def one_event(driver: Driver) -> Event:
    driver.submit(wants=(SUCCESS,))
    driver.go("bq2bq")
    return events(driver)[-1]


def test_a_delivered_event_is_gone_and_is_not_delivered_twice(driver: Driver) -> None:
    event = one_event(driver)
    assert driver.say(c.Delivered(driver.now_ms, event.id)).ok
    assert (events(driver), driver.table.outbox) == ([], {})
    assert driver.say(c.Delivered(driver.now_ms, event.id)).code == "unknown_event"
    assert driver.say(c.NotDelivered(driver.now_ms, event.id, 0, "late")).code == "unknown_event"


def test_tries_are_further_apart_each_time_up_to_a_cap(driver: Driver) -> None:
    event = one_event(driver)
    waits = []
    for tries in range(13):
        assert driver.say(c.NotDelivered(driver.now_ms, event.id, tries, "no")).ok
        event = driver.table.rows.events[event.id]
        waits.append((event.next_due_ms - driver.now_ms) // 1000)
        assert (event.tries, event.error) == (tries + 1, "no")
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    assert driver.say(c.NotDelivered(driver.now_ms, event.id, 3, "no")).code == "stale"


def test_an_endpoint_may_ask_to_be_left_alone_for_an_hour_at_most(driver: Driver) -> None:
    event = one_event(driver)
    driver.say(c.NotDelivered(driver.now_ms, event.id, 0, "busy", 30_000))
    assert driver.table.rows.events[event.id].next_due_ms == driver.now_ms + 30_000
    driver.say(c.NotDelivered(driver.now_ms, event.id, 1, "busy", 99 * HOUR_MS))
    assert driver.table.rows.events[event.id].next_due_ms == driver.now_ms + HOUR_MS


def test_an_event_ends_after_a_day_with_its_reason(driver: Driver) -> None:
    event = one_event(driver)
    driver.say(c.NotDelivered(driver.now_ms, event.id, 0, "it answered 500"))
    driver.pass_time(notices.GIVE_UP_MS)
    assert events(driver) == []
    (lost,) = driver.table.rows.given_up.values()
    assert (lost.id, lost.tries) == (event.id, 1)
    assert (lost.error, lost.given_up_ms) == ("not delivered in time; it answered 500", driver.now_ms)
    assert driver.table.rows.events_given_up == 1


def test_an_event_that_was_never_tried_ends_as_well_p1(driver: Driver) -> None:
    one_event(driver)
    driver.pass_time(notices.GIVE_UP_MS)
    (lost,) = driver.table.rows.given_up.values()
    assert lost.error == "not delivered in time; it was never tried"


def test_what_has_no_sense_to_try_again_is_given_up_at_once(driver: Driver) -> None:
    event = one_event(driver)
    driver.say(c.NotDelivered(driver.now_ms, event.id, 0, "there is no secret", final=True))
    (lost,) = driver.table.rows.given_up.values()
    assert (lost.tries, lost.error) == (1, "there is no secret")


# -- bounds (P12) ------------------------------------------------------------------------------------------------------


def tell(driver: Driver, count: int, endpoint: str = "e") -> None:
    for number in range(count):
        subject = notices.Subject(id=f"{endpoint}{number}", project="p", namespace="n", job="j", bundle="b")
        notices.tell(driver.table, subject, (Wanted(EventKind.REPLAY, endpoint, "p"),), EventKind.REPLAY)


def test_the_oldest_event_of_an_endpoint_makes_room_and_is_shown_p12(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "ENDPOINT_EVENTS_MAX", 3)
    tell(driver, 2, "other")
    tell(driver, 5)
    assert [one.run_id for one in events(driver)] == ["other0", "other1", "e2", "e3", "e4"]
    lost = driver.table.rows.given_up.values()
    assert [(one.run_id, one.error) for one in lost] == [
        ("e0", "more than 3 events wait for its endpoint"),
        ("e1", "more than 3 events wait for its endpoint"),
    ]


def test_the_oldest_of_all_makes_room_and_what_is_shown_is_bounded_too_p12(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "EVENTS_MAX", 4)
    monkeypatch.setattr(notices, "GIVEN_UP_MAX", 2)
    before = driver.table.bytes_used
    tell(driver, 3, "a")
    tell(driver, 4, "b")
    assert [one.run_id for one in events(driver)] == ["b0", "b1", "b2", "b3"]
    assert [one.run_id for one in driver.table.rows.given_up.values()] == ["a1", "a2"]
    assert driver.table.rows.events_given_up == 3
    assert driver.table.bytes_used > before
    driver.say(c.AdvanceTime(driver.now_ms))  # the invariants hold


# -- replays and pipelines ---------------------------------------------------------------------------------------------


def test_a_replay_tells_that_it_has_begun_and_how_it_has_ended_and_its_runs_tell_of_themselves(
    driver: Replaying,
) -> None:
    wants = (Wanted(EventKind.REPLAY, "hook", "p"), SUCCESS)
    run = msgspec.structs.replace(template(), wants=wants)
    driver.create(plan_of(1, run=run), "r-1")
    driver.say(driver.next("r-1", 1))
    (run_id,) = driver.table.replaying.runs("r-1")
    driver.go("bq2bq", run_id=run_id)
    driver.say(driver.next("r-1", 1))
    found = [(one.kind, one.run_id, one.state, one.message) for one in events(driver)]
    assert found == [
        ("replay", "r-1", "running", ""),
        ("success", run_id, "success", ""),
        ("replay", "r-1", "success", "1 success"),
    ]
    assert len({one.id for one in events(driver)}) == 3


def test_a_replay_of_runs_with_wishes_that_contradict_them_is_refused(driver: Replaying) -> None:
    run = msgspec.structs.replace(template(), wants=(Wanted(EventKind.SLA_MISS, "e", "p", "nobody", 1),))
    assert driver.create(plan_of(1, run=run), "r-1").code == "invalid"


def test_runs_of_a_pipeline_tell_as_others_do(driver: Driver) -> None:
    one = c.PipelineRun("r1", "p", "n", "j", "b", HOUR_MS, HOUR_MS, (task(),), wants=(SUCCESS,))
    assert driver.say(c.SubmitPipeline(driver.now_ms, "p-1", START_MS, "me", "a1", "", "x", HOUR_MS, (one,))).ok
    driver.go("bq2bq")
    assert told(driver) == [("success", "", 0)]

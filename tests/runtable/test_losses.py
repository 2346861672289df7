"""What the loss of an agent leads to: by the job's choice, in every order with what else may befall an attempt."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import msgspec
import pytest

from agent.runtable import commands as c
from agent.runtable.model import (
    MAX_ATTEMPTS,
    Agent,
    Attempt,
    AttemptState,
    InstanceKind,
    InstanceState,
    OnAgentLost,
    Reason,
    RetryPolicy,
    RunState,
)
from agent.runtable.table import Table
from tests.runtable.builders import HOUR_MS, NO_RETRY, START_MS, Driver, hook, task

S = InstanceState
RERUN, FAIL, WAIT = OnAgentLost.RERUN, OnAgentLost.FAIL, OnAgentLost.WAIT


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def running(
    driver: Driver, choice: OnAgentLost, *, retry: RetryPolicy = NO_RETRY, timeout_ms: int | None = None
) -> None:
    """A run whose task runs on a1."""
    driver.submit(task(on_agent_lost=choice, retry=retry, timeout_ms=timeout_ms), timeout_ms=10 * HOUR_MS)
    driver.plan()
    driver.start("bq2bq")


# --- the three choices -----------------------------------------------------------------------------------------------


def test_rerun_makes_a_new_attempt_at_once_and_uses_up_no_retry_p3(driver: Driver) -> None:
    running(driver, RERUN)
    driver.up("a2")
    assert driver.lose().ok
    lost = driver.attempt()
    assert (lost.state, lost.reason, lost.counts) == (AttemptState.FAILED, Reason.AGENT_LOST, False)
    assert (lost.message, lost.finished_at_ms) == ("the agent a1 was lost", START_MS)
    assert driver.states()["bq2bq"] is S.SCHEDULED
    driver.go("bq2bq")
    assert [(a.number, a.agent) for a in driver.instance("bq2bq").attempts] == [(1, "a1"), (2, "a2")]
    assert driver.run().state is RunState.SUCCESS


def test_fail_fails_without_a_retry_whatever_the_retry_policy_says(driver: Driver) -> None:
    running(driver, FAIL, retry=RetryPolicy(9, 1))
    driver.lose()
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.AGENT_LOST)
    assert driver.instance("bq2bq").message == "the agent a1 was lost"


def test_fail_fails_what_was_only_handed_over_since_nobody_knows_whether_it_began(driver: Driver) -> None:
    driver.submit(task(on_agent_lost=FAIL))
    driver.plan()
    driver.lose()
    assert driver.run().state is RunState.FAILED


def test_wait_keeps_the_attempt_open_until_its_owners_word(driver: Driver) -> None:
    running(driver, WAIT)
    driver.up("a2")
    driver.lose()
    assert driver.states()["bq2bq"] is S.UNKNOWN
    assert driver.attempt().open
    assert driver.instance("bq2bq").reason is Reason.AGENT_LOST
    assert driver.plan() == []
    assert driver.end("bq2bq").ok
    assert driver.run().state is RunState.SUCCESS


def test_a_failure_that_the_owner_tells_late_is_retried_like_any_other(driver: Driver) -> None:
    running(driver, WAIT, retry=RetryPolicy(1, 60))
    driver.lose()
    driver.end("bq2bq", Reason.EXIT_CODE)
    assert driver.states()["bq2bq"] is S.UP_FOR_RETRY


def test_work_that_was_waited_for_and_turns_out_stopped_is_run_again(driver: Driver) -> None:
    running(driver, WAIT)
    driver.lose()
    driver.end("bq2bq", Reason.FENCED)
    assert driver.states()["bq2bq"] is S.SCHEDULED
    assert not driver.attempt().counts


def test_a_task_that_loses_every_agent_ends_p1_p12(driver: Driver) -> None:
    driver.submit()
    for _ in range(MAX_ATTEMPTS):
        driver.plan()
        driver.lose()
        driver.up(clean=True)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.AGENT_LOST)
    assert driver.table.rows.agents["a1"].epoch == MAX_ATTEMPTS + 1


def test_a_fenced_attempt_goes_the_way_its_job_has_chosen(driver: Driver) -> None:
    running(driver, FAIL, retry=RetryPolicy(9, 1))
    driver.end("bq2bq", Reason.FENCED)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.FENCED)


def test_an_attempt_that_by_its_owners_word_never_began_has_lost_nothing(driver: Driver) -> None:
    driver.submit(task(on_agent_lost=FAIL))
    driver.plan()
    driver.end("bq2bq", Reason.FENCED)
    assert driver.states()["bq2bq"] is S.SCHEDULED
    driver.go("bq2bq")
    assert driver.run().state is RunState.SUCCESS


def test_one_loss_settles_every_open_attempt_of_the_agent_and_no_other(driver: Driver) -> None:
    driver.up("a2", 9)
    for number, choice in enumerate((RERUN, FAIL, WAIT, RERUN, FAIL, WAIT)):
        driver.submit(task(on_agent_lost=choice), run_id=f"r{number}", job=f"j{number}")
    driver.plan()
    mine = [f"r{n}" for n in range(6) if driver.attempt(run_id=f"r{n}").agent == "a2"]
    others = {f"r{n}" for n in range(6)} - set(mine)
    finished = driver.lose("a2").finished
    assert [one.run.id for one in finished] == [run_id for run_id in mine if run_id in ("r1", "r4")]
    assert all(driver.attempt(run_id=run_id).open for run_id in others)
    assert {run_id: driver.states(run_id)["bq2bq"] for run_id in mine} == {
        run_id: (S.SCHEDULED, S.FAILED, S.UNKNOWN)[int(run_id[1]) % 3] for run_id in mine
    }


def test_two_attempts_of_one_run_on_the_lost_agent_are_both_settled(driver: Driver) -> None:
    driver.submit(hook("a", InstanceKind.PRE, on_agent_lost=FAIL), hook("b", InstanceKind.PRE), task("t", ("a", "b")))
    driver.plan()
    driver.lose()
    assert driver.states() == {"a": S.FAILED, "b": S.SCHEDULED, "t": S.UPSTREAM_FAILED}


# --- what cannot be fenced --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", OnAgentLost)
def test_lost_work_of_an_executor_that_cannot_be_fenced_is_unknown_and_never_rerun_by_itself_p3(
    driver: Driver, choice: OnAgentLost
) -> None:
    driver.up(executors=("mock", "own"), unfenceable=("own",))
    driver.submit(task(executor="own", on_agent_lost=choice), timeout_ms=10 * HOUR_MS)
    driver.submit(task(on_agent_lost=FAIL), run_id="fenceable")
    driver.plan()
    driver.up("a2", executors=("mock", "own"))
    driver.start("bq2bq")
    driver.lose()
    assert driver.states()["bq2bq"] is S.UNKNOWN
    assert driver.run("fenceable").state is RunState.FAILED
    assert driver.plan() == []
    assert (driver.attempt().number, driver.attempt().fenceable) == (1, False)
    assert driver.instance("bq2bq").message == (
        "the agent a1 is lost, and the work may go on there: the executor own cannot be fenced"
    )
    driver.up(executors=("mock", "own"), unfenceable=("own",), clean=True, of=1)
    assert driver.states()["bq2bq"] is S.RUNNING, "it is in its agent's hands again, and was not made to end"
    driver.lose()
    driver.pass_time(10 * HOUR_MS)
    assert (driver.run().state, driver.attempt().unproven) == (RunState.FAILED, True)


def test_whether_work_can_be_fenced_is_as_it_was_when_it_was_given_out_p3(driver: Driver) -> None:
    driver.up(unfenceable=("mock",))
    driver.submit()
    driver.plan()
    driver.up()
    driver.lose()
    assert driver.states()["bq2bq"] is S.UNKNOWN, "given out before its agent could prove more"


def test_rows_of_before_are_of_executors_that_can_be_fenced(driver: Driver) -> None:
    running(driver, RERUN)
    agent = msgspec.msgpack.decode(msgspec.msgpack.encode(driver.table.rows.agents["a1"]))
    attempt = msgspec.msgpack.decode(msgspec.msgpack.encode(driver.attempt()))
    assert msgspec.convert(agent[:-1], Agent) == driver.table.rows.agents["a1"]
    assert msgspec.convert(attempt[:-1], Attempt) == driver.attempt()


# --- a stop that was asked for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [RERUN, FAIL])
def test_a_loss_ends_what_was_being_cancelled_as_cancelled(driver: Driver, choice: OnAgentLost) -> None:
    running(driver, choice)
    driver.cancel()
    driver.lose()
    assert (driver.run().state, driver.instance("bq2bq").reason) == (RunState.CANCELLED, Reason.CANCELLED)


@pytest.mark.parametrize("choice", [RERUN, FAIL])
def test_a_loss_ends_what_was_being_marked_as_marked(driver: Driver, choice: OnAgentLost) -> None:
    running(driver, choice)
    driver.mark("bq2bq", S.SUCCESS)
    driver.lose()
    assert (driver.run().state, driver.instance("bq2bq").reason) == (RunState.SUCCESS, Reason.MARKED)


@pytest.mark.parametrize(("choice", "state"), [(RERUN, S.UP_FOR_RETRY), (FAIL, S.FAILED)])
def test_a_loss_ends_what_was_over_its_time_as_timed_out(
    driver: Driver, choice: OnAgentLost, state: InstanceState
) -> None:
    running(driver, choice, timeout_ms=1000, retry=RetryPolicy(1, 60))
    driver.pass_time(1000)
    driver.lose()
    assert (driver.states()["bq2bq"], driver.attempt().reason) == (state, Reason.TIMEOUT)


def test_a_loss_ends_what_never_began_in_time_without_a_retry(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(9, 1)), queue_timeout_ms=1000)
    driver.plan()
    driver.pass_time(1000)
    driver.lose()
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.QUEUE_TIMEOUT)


@pytest.mark.parametrize("choice", OnAgentLost)
def test_a_loss_ends_a_run_whose_time_is_over(driver: Driver, choice: OnAgentLost) -> None:
    running(driver, choice, retry=RetryPolicy(9, 1))
    driver.pass_time(10 * HOUR_MS)
    assert driver.attempt().stop_wanted is Reason.TIMEOUT
    driver.lose()
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.TIMEOUT)
    assert driver.attempt().unproven is (choice is WAIT)


# --- unknown ends ----------------------------------------------------------------------------------------------------


def test_the_runs_time_out_fails_unknown_work_without_retry_p1(driver: Driver) -> None:
    running(driver, WAIT, retry=RetryPolicy(9, 1))
    driver.lose()
    driver.pass_time(10 * HOUR_MS)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.TIMEOUT)
    assert driver.attempt().message == "the agent a1 was lost, and the work may go on there"
    assert driver.attempt().unproven


def test_unknown_work_is_cancelled_only_by_who_says_that_it_has_stopped_p3(driver: Driver) -> None:
    running(driver, WAIT)
    driver.lose()
    assert driver.cancel().code == "not_proven_stopped"
    assert driver.states()["bq2bq"] is S.UNKNOWN
    assert driver.run().audit == []
    assert driver.cancel(assume_stopped=True).ok
    assert driver.run().state is RunState.CANCELLED
    assert [one.what for one in driver.run().audit] == ["cancel, assumed stopped"]
    assert driver.attempt().state is AttemptState.CANCELLED
    assert not driver.attempt().unproven


def test_a_run_that_was_being_cancelled_when_its_agent_was_lost_is_cancelled_once_more(driver: Driver) -> None:
    running(driver, WAIT)
    driver.cancel()
    driver.lose()
    assert driver.states()["bq2bq"] is S.UNKNOWN
    assert driver.cancel().code == "not_proven_stopped"
    assert driver.say(c.CancelRun(driver.now_ms, "r1", "you", "a1", assume_stopped=True)).ok
    assert (driver.run().state, driver.run().cancelled_by) == (RunState.CANCELLED, "me")
    assert [(one.who, one.what) for one in driver.run().audit] == [("me", "cancel"), ("you", "cancel, assumed stopped")]


def test_unknown_work_is_marked_only_by_who_says_that_it_has_stopped_p3(driver: Driver) -> None:
    running(driver, WAIT)
    driver.lose()
    assert driver.mark("bq2bq", S.SUCCESS).code == "not_proven_stopped"
    assert driver.mark("bq2bq", S.SUCCESS, assume_stopped=True).ok
    assert (driver.run().state, driver.instance("bq2bq").reason) == (RunState.SUCCESS, Reason.MARKED)
    assert [one.what for one in driver.run().audit] == ["mark bq2bq success, assumed stopped"]


def test_to_assume_is_nothing_where_the_agent_can_be_asked(driver: Driver) -> None:
    running(driver, WAIT)
    assert driver.mark("bq2bq", S.SUCCESS, assume_stopped=True).ok
    assert driver.states()["bq2bq"] is S.RUNNING
    assert driver.cancel(assume_stopped=True).ok
    assert driver.states()["bq2bq"] is S.RUNNING
    driver.end("bq2bq", Reason.EXIT_CODE)
    assert [one.what for one in driver.run().audit] == ["mark bq2bq success", "cancel"]


def test_what_was_given_up_unproven_is_cleared_only_by_who_says_that_it_has_stopped_p3(driver: Driver) -> None:
    running(driver, WAIT)
    driver.lose()
    driver.pass_time(10 * HOUR_MS)
    record, index = driver.finished[0].record, driver.index

    def clear(*, assume_stopped: bool) -> str:
        names = ("bq2bq",)
        command = c.ClearRun(driver.now_ms, "r1", names, record, index, "me", "a1", "retry", assume_stopped)
        return driver.say(command).code

    assert clear(assume_stopped=False) == "not_proven_stopped"
    assert driver.table.rows.runs == {}
    driver.up("a2")
    assert clear(assume_stopped=True) == "ok"
    assert driver.run().audit[-1].what == "retry bq2bq, assumed stopped"
    driver.go("bq2bq")
    assert driver.run().state is RunState.SUCCESS
    record, index = driver.finished[1].record, driver.index
    assert clear(assume_stopped=False) == "ok", "the word that it has stopped holds for the next clear as well"


def test_what_was_given_up_unproven_in_a_run_that_goes_on_is_not_cleared_either(driver: Driver) -> None:
    driver.submit(task("t", on_agent_lost=WAIT), hook("f", InstanceKind.PRE), timeout_ms=HOUR_MS)
    driver.plan()
    for name in ("t", "f"):
        driver.start(name)
    driver.up("a2")
    driver.lose()
    assert driver.states() == {"t": S.UNKNOWN, "f": S.SCHEDULED}
    driver.plan()
    driver.pass_time(HOUR_MS)
    assert driver.states() == {"t": S.FAILED, "f": S.SCHEDULED}
    clear = c.ClearRun(driver.now_ms, "r1", ("t",), b"", 0, "me", "a1", "clear")
    assert driver.say(clear).code == "not_proven_stopped"


@pytest.mark.parametrize("of", [1, 2, 3])
def test_the_word_that_work_has_ended_is_of_one_loss_and_returns_from_no_later_one_p3(driver: Driver, of: int) -> None:
    """It may come late: repeated by who did not hear that it was taken."""
    driver.lose()
    assert driver.up(clean=True, of=1).ok
    assert driver.up(clean=True, of=1).ok, "the agent is there, whatever that word was of"
    running(driver, RERUN)
    driver.lose()
    assert (driver.up(clean=True, of=of).code == "ok") is (of == 2)
    row = driver.table.rows.agents["a1"]
    assert (row.lost, row.epoch) == ((False, 3) if of == 2 else (True, 2))


def test_a_word_of_a_log_of_before_is_of_whichever_epoch_was_lost(driver: Driver) -> None:
    driver.lose()
    word = c.AgentUp(START_MS, driver.table.rows.agents["a1"], True)
    of_before = msgspec.msgpack.decode(msgspec.msgpack.encode(word))[:4]  # tag, time, agent, clean
    assert c.decode(msgspec.msgpack.encode(of_before)) == word
    assert driver.say(word).ok
    assert driver.table.rows.agents["a1"].epoch == 2


# --- the agent returns -----------------------------------------------------------------------------------------------


def test_a_returned_agent_has_its_unknown_work_in_hand_again(driver: Driver) -> None:
    running(driver, WAIT)
    driver.lose()
    assert driver.up(clean=True).ok
    assert driver.states()["bq2bq"] is S.RUNNING
    assert (driver.attempt().epoch, driver.table.rows.agents["a1"].epoch) == (1, 2)
    assert driver.cancel().ok
    assert driver.attempt().open
    driver.end("bq2bq", Reason.CANCELLED)
    assert driver.run().state is RunState.CANCELLED


def test_what_was_only_handed_over_waits_for_its_start_when_the_agent_returns(driver: Driver) -> None:
    driver.submit(task(on_agent_lost=WAIT))
    driver.plan()
    driver.lose()
    driver.up(clean=True)
    assert driver.states()["bq2bq"] is S.SCHEDULED
    assert driver.plan() == []
    assert driver.start("bq2bq").ok
    assert driver.states()["bq2bq"] is S.RUNNING


def test_a_start_that_is_told_while_the_agent_is_lost_is_kept_and_the_work_stays_unknown(driver: Driver) -> None:
    driver.submit(task(on_agent_lost=WAIT))
    driver.plan()
    driver.lose()
    assert driver.start("bq2bq").ok
    assert driver.states()["bq2bq"] is S.UNKNOWN
    driver.up(clean=True)
    assert driver.states()["bq2bq"] is S.RUNNING


def test_a_tasks_time_out_counts_from_its_start_over_a_loss(driver: Driver) -> None:
    running(driver, WAIT, timeout_ms=2 * HOUR_MS)
    driver.now_ms += HOUR_MS
    driver.lose()
    driver.pass_time(HOUR_MS // 2)
    driver.up(clean=True)
    assert driver.instance("bq2bq").due_ms == START_MS + 2 * HOUR_MS
    driver.pass_time(HOUR_MS // 2)
    assert driver.attempt().stop_wanted is Reason.TIMEOUT


def test_waiting_work_may_be_lost_again_and_again(driver: Driver) -> None:
    running(driver, WAIT)
    for _ in range(3):
        assert driver.lose().ok
        assert driver.states()["bq2bq"] is S.UNKNOWN
        assert driver.up(clean=True).ok
    driver.end("bq2bq")
    assert driver.run().state is RunState.SUCCESS
    assert len(driver.instance("bq2bq").attempts) == 1


def test_the_word_of_an_agent_that_was_removed_still_ends_its_unknown_work(driver: Driver) -> None:
    running(driver, WAIT)
    driver.lose()
    assert driver.say(c.AgentRemoved(driver.now_ms, "a1")).ok
    assert driver.states()["bq2bq"] is S.UNKNOWN
    assert driver.end("bq2bq").ok
    assert driver.run().state is RunState.SUCCESS


def test_a_late_word_of_an_earlier_epoch_on_what_was_settled_is_stale_p4(driver: Driver) -> None:
    running(driver, RERUN)
    late_start = c.InstanceStarted(START_MS, "r1", "bq2bq", 1, "a1", 1, 98, START_MS, None, {})
    late_end = c.InstanceEnded(START_MS, "r1", "bq2bq", 1, "a1", 1, 99, None, 0, "", START_MS, START_MS, None, {})
    driver.lose()
    for after in (lambda: None, lambda: driver.up(clean=True), driver.plan, lambda: driver.start("bq2bq")):
        after()
        assert driver.say(late_start).code == "stale"
        assert driver.say(late_end).code == "stale"
    assert driver.attempt().number == 2
    assert driver.states()["bq2bq"] is S.RUNNING


# --- every order -----------------------------------------------------------------------------------------------------


@dataclass
class Expected:
    """A run of one attempt, without retries, as the sentences above say it goes: an oracle for all orders at once."""

    choice: OnAgentLost
    failure: bool
    fenceable: bool
    state: InstanceState = S.SCHEDULED
    open: bool = True
    started: bool = False
    lost: bool = False
    cancelled: bool = False
    timed_out: bool = False

    @property
    def over(self) -> bool:
        return not self.open and self.state is not S.SCHEDULED

    def _close(self, otherwise: InstanceState) -> str:
        self.open = False
        self.state = S.CANCELLED if self.cancelled else S.FAILED if self.timed_out else otherwise
        return "ok"

    def event_started(self) -> str:
        if not self.open or self.started:
            return "run_final" if self.over else "stale"
        self.started = True
        self.state = S.UNKNOWN if self.lost else S.RUNNING
        return "ok"

    def event_ended(self) -> str:
        if not self.open:
            return "run_final" if self.over else "stale"
        if self.failure:
            return self._close(S.FAILED)
        self.open, self.state = False, S.SUCCESS
        return "ok"

    def event_lost(self) -> str:
        self.lost = True
        if not self.open:
            return "ok"
        if (self.choice is WAIT or not self.fenceable) and not self.timed_out:
            self.state = S.UNKNOWN
            return "ok"
        return self._close(S.SCHEDULED if self.choice is RERUN else S.FAILED)

    def event_up(self) -> str:
        self.lost = False
        if self.open and self.state is S.UNKNOWN:
            self.state = S.RUNNING if self.started else S.SCHEDULED
        return "ok"

    def event_cancel(self) -> str:
        if self.over:
            return "run_final"
        if self.state is S.UNKNOWN:
            return "not_proven_stopped"
        self.cancelled = True
        return "ok" if self.open else self._close(S.CANCELLED)

    def event_timeout(self) -> str:
        if self.over:
            return "ok"
        self.timed_out = True
        if not self.open:
            self.state = S.CANCELLED  # it waits for a slot
        elif self.state is S.UNKNOWN:
            self._close(S.FAILED)
        return "ok"


def happens(driver: Driver, event: str, *, failure: bool) -> str:
    """Say it to the table. The words of the first attempt come from its owner, whatever has become of it."""
    reason = Reason.EXIT_CODE if failure else None
    driver.seq += 1
    now_ms, seq = driver.now_ms, driver.seq
    commands: dict[str, c.AnyCommand] = {
        "started": c.InstanceStarted(now_ms, "r1", "bq2bq", 1, "a1", 1, seq, now_ms, None, {}),
        "ended": c.InstanceEnded(now_ms, "r1", "bq2bq", 1, "a1", 1, seq, reason, 1, "", now_ms, now_ms, None, {}),
        "lost": c.AgentLost(now_ms, "a1", driver.table.rows.agents["a1"].epoch),
        "up": c.AgentUp(now_ms, driver.table.rows.agents["a1"], True),
        "cancel": c.CancelRun(now_ms, "r1", "me", "a1"),
        "timeout": c.AdvanceTime(now_ms + 10 * HOUR_MS),
    }
    return driver.say(commands[event]).code


@pytest.mark.parametrize("fenceable", [True, False])
@pytest.mark.parametrize("failure", [False, True])
@pytest.mark.parametrize("choice", OnAgentLost)
def test_every_order_of_loss_return_start_end_cancel_and_time_out_p1_p3(
    choice: OnAgentLost, failure: bool, fenceable: bool
) -> None:
    beginning = Driver().found()
    beginning.up(unfenceable=() if fenceable else ("mock",))
    beginning.submit(task(on_agent_lost=choice), timeout_ms=10 * HOUR_MS)
    beginning.plan()
    image = beginning.table.dump()
    for order in permutations(("lost", "up", "started", "ended", "cancel", "timeout")):
        driver = Driver(Table.load([image]), START_MS, beginning.index)
        expected = Expected(choice, failure, fenceable)
        for number, event in enumerate(order):
            code = happens(driver, event, failure=failure)
            where = " ".join(order[: number + 1])
            assert code == getattr(expected, f"event_{event}")(), where
            assert driver.states()["bq2bq"] is expected.state, where
            assert driver.run().final is expected.over, where
            assert driver.instance("bq2bq").open_attempt is not None or not expected.open, where
        driver.lose()
        driver.say(c.AdvanceTime(START_MS + 100 * HOUR_MS))
        assert driver.run().final, order

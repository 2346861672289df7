"""A node's log on disk: what was saved stays, votes never go back, there is no hole, whatever happens (P1, P9)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import LogFailed
from consensus.messages import HardState, SnapshotMeta
from tests.consensus.durable_model import CONF, Expected, Run, entries, head_of_state, state, work
from tests.consensus.faulty_disk import FaultyDisk, PowerLoss


def steps_of_work() -> int:
    disk = FaultyDisk()
    work(Run(disk))
    return disk.steps


def losses(step: int) -> list[tuple[float, int]]:
    """All that is not synced is lost; nothing is; and what a throw of dice gives."""
    return [(0.0, 1), (1.0, 1), *((arrival, seed) for arrival in (0.2, 0.5, 0.8) for seed in (step, step + 1))]


def stopped_at(step: int) -> tuple[FaultyDisk, list[Expected]]:
    """The work, with the power gone at this step: the disk, and what may be found on it."""
    disk = FaultyDisk(step)
    disk.stop_at = step
    run = Run(disk)
    with pytest.raises(PowerLoss):
        work(run)
    return disk, run.allowed


def crashes() -> Iterator[tuple[int, FaultyDisk, list[Expected]]]:
    for step in range(1, steps_of_work() + 1):
        stopped, allowed = stopped_at(step)
        for arrival, seed in losses(step):
            left = stopped.clone(1000 * step + seed)
            left.lose_power(arrival)
            yield step, left, allowed


def go_on(run: Run) -> None:
    """A new term, entries that replace what was not committed, a vote."""
    run.open()
    commit = run.log.storage.hard_state.commit
    term = run.expected.term + 1
    run.save(HardState(term, 2, commit), entries(term, commit + 1, commit + 3), commit)


def test_p1_what_was_saved_survives_a_power_cut_at_every_step_whatever_was_lost() -> None:
    count = 0
    for _step, disk, allowed in crashes():
        run = Run(disk, allowed=list(allowed))
        go_on(run)
        disk.lose_power(0.5)
        run.open()
        count += 1
    assert count > 200 * 8


def test_p1_a_power_cut_at_every_step_of_opening_loses_nothing_either() -> None:
    for stop in (4, 30, 61, 97, 140, 171):
        left, allowed = stopped_at(stop)
        left.lose_power(0.5)
        opened = left.clone(0)
        Run(opened, allowed=list(allowed)).open()
        for step in range(1, opened.steps + 1):
            again = left.clone(step)
            again.stop_at = step
            with pytest.raises(PowerLoss):
                Run(again, allowed=list(allowed)).open()
            again.lose_power(0.5)
            Run(again, allowed=list(allowed)).open()


def test_p9_every_step_that_fails_with_an_io_error_stops_the_log_and_loses_nothing() -> None:
    for step in range(1, steps_of_work() + 1):
        disk = FaultyDisk(step)
        disk.fail_at = {step: errno.EIO}
        run = Run(disk)
        with pytest.raises(LogFailed):
            work(run)
        disk.kill()
        # What a failed sync left looks clean to a reader; opening must bring it to the disk.
        again = Run(disk, allowed=list(run.allowed))
        again.open()
        disk.lose_power(0.0)
        again.open()


def test_p9_every_step_that_finds_the_disk_full_is_refused_whole_and_the_log_goes_on() -> None:
    full = failed = 0
    for step in range(1, steps_of_work() + 1):
        disk = FaultyDisk(step)
        disk.fail_at = {step: errno.ENOSPC}
        run = Run(disk)
        try:
            work(run)
        except LogFailed:  # a failed sync may have lost pages; and a vote has its place: neither is only "full"
            failed += 1
            what = disk.trace[step - 1]
            assert what.startswith("sync") or what in {"write durable", "write vote", "write incoming.progress"}
            disk.kill()
            Run(disk, allowed=list(run.allowed)).open()
            continue
        full += run.full
        disk.lose_power(0.0)
        run.open()
    assert full > 40
    assert failed > 40


# -- any history -----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_p1_any_history_of_work_kills_and_power_cuts_is_one_that_was_saved(data: st.DataObject) -> None:
    disk = FaultyDisk(data.draw(st.integers(0, 2**32)))
    run = Run(disk)
    for _ in range(data.draw(st.integers(1, 4), label="lives")):
        disk.stop_at = disk.steps + data.draw(st.integers(1, 150), label="steps")
        try:
            run.open()
            for action in data.draw(st.lists(st.sampled_from("sssvtnirmpck"), max_size=20), label="actions"):
                act(action, run, data)
        except PowerLoss:
            disk.lose_power(data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])))
        disk.kill()
    run.open()


def act(action: str, run: Run, data: st.DataObject) -> None:
    expected, commit = run.expected, run.commit
    term = max(expected.term, 1)
    if action == "s":  # a batch, and more is committed
        count = data.draw(st.integers(1, 5))
        run.save(
            HardState(term, expected.vote, commit), entries(term, expected.last + 1, expected.last + count), commit
        )
        run.commit = data.draw(st.integers(commit, run.expected.last))
    elif action == "v":
        run.save(HardState(expected.term + 1, data.draw(st.integers(0, 3)), commit), (), commit)
    elif action == "t":  # another leader's entries take the place of what is not committed
        first = data.draw(st.integers(commit + 1, expected.last + 1))
        run.save(HardState(term + 1, 0, commit), entries(term + 1, first, first + data.draw(st.integers(0, 3))), commit)
    elif action == "n":
        if commit > expected.meta.index:
            run.create(commit, run.log.storage.term(commit))
    elif action == "i":
        run.install(
            SnapshotMeta(expected.last + 5, term, CONF), HardState(term, expected.vote), [state(expected.last + 5)]
        )
    elif action == "r":
        receive(run, data)
    elif action == "k":
        run.reopen()
    elif action == "c":
        run.compact()
    else:
        run.call("mark" if action == "m" else "prepare")


def receive(run: Run, data: st.DataObject) -> None:
    """Pieces of a leader's snapshot, maybe not all of them; when they are, it is installed."""
    index, term = run.expected.last + 3, max(run.expected.term, 1)
    theirs = state(index, data.draw(st.sampled_from([0, 1, 2500])))
    head = head_of_state(index, term, theirs)
    if run.receive(head, theirs, 600, most=data.draw(st.sampled_from([700, 5000]))) == len(theirs):
        run.install(head.meta, HardState(term, run.expected.vote))


def test_the_ledger_itself_finds_a_log_that_has_forgotten_something() -> None:
    run = Run(FaultyDisk())
    run.open()
    run.save(HardState(1, 1, 0), entries(1, 1, 3), 0)
    forgetful = deepcopy(run.expected)
    assert forgetful.describes(run.log)
    assert not Expected(1, 2, log=forgetful.log).describes(run.log)
    assert not Expected(1, 1, log=forgetful.log[:2]).describes(run.log)
    assert not Expected(1, 1, log=forgetful.log, commit=(1, 1)).describes(run.log)

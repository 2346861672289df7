"""What the durable log asks of its driver and gives it: one sync a batch, refusals that change nothing, snapshots."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from consensus.durable import DurableLog
from consensus.errors import (
    Compacted,
    LogClosed,
    LogFailed,
    LogFull,
    Unavailable,
)
from consensus.messages import Entry, EntryKind, HardState, SnapshotMeta
from consensus.wal_entries import Commit, Noting, decode_record
from consensus.wal_replay import Place, Places
from tests.consensus.durable_model import (
    DIRECTORY,
    IDENTITY,
    Run,
    entries,
    entry,
    head_of_state,
    six_entries,
    state,
    writes_nothing,
)
from tests.consensus.faulty_disk import FaultyDisk

HEAD = head_of_state(40, 2, state(40, 4000))


@pytest.fixture
def run() -> Run:
    return six_entries()


@pytest.fixture
def quiet() -> Run:
    """The same with room for much more, and a clock that stands still: no mark becomes due."""
    run = Run(FaultyDisk(3), segment_bytes=1 << 16, clock=lambda: 0.0)
    run.open()
    run.save(HardState(2, 1, 0), entries(2, 1, 6), 0)
    run.disk.trace.clear()
    return run


# -- saving ------------------------------------------------------------------------------------------------------------
# The segment in use goes by the name it was opened under: "spare".


def test_a_batch_costs_one_write_and_one_sync_whatever_is_in_it(quiet: Run) -> None:
    quiet.log.save(None, entries(2, 7, 99), 5)
    assert quiet.disk.trace == ["write spare", "sync spare"]


def test_a_vote_is_durable_before_entries_of_its_term_are_written(quiet: Run) -> None:
    quiet.log.save(HardState(3, 2, 4), entries(3, 7, 7), 4)
    assert quiet.disk.trace == ["write vote", "sync vote"] * 2 + [
        "write spare",
        "sync spare",
    ]


def test_a_commit_index_alone_writes_nothing_and_goes_with_the_next_entry(run: Run) -> None:
    writes_nothing(run, lambda: run.log.save(HardState(2, 1, 5), (), 5, must_sync=False))
    run.save(None, entries(2, 7, 8), 6)
    run.disk.lose_power(0.0)
    run.open()
    assert run.log.storage.initial_state()[0] == HardState(2, 1, 6)


def test_a_commit_index_is_durable_by_itself_before_members_change(quiet: Run) -> None:
    quiet.log.save(HardState(2, 1, 6), (), 6, with_commit=True)
    assert quiet.disk.trace == ["write spare", "sync spare"]
    quiet.disk.lose_power(0.0)
    quiet.expected = replace(quiet.expected, commit=(6, 6))
    quiet.allowed = [quiet.expected]
    quiet.open()
    assert quiet.commit == 6


@pytest.mark.parametrize("seed", range(40))
def test_p9_a_commit_index_is_never_durable_before_the_entry_that_it_speaks_of(seed: int) -> None:
    run = Run(FaultyDisk(seed))
    run.open()
    run.save(HardState(2, 1), entries(2, 1, 3), 1)
    run.log.save(HardState(3, 0), (), 1)
    run.log.save(None, entries(3, 3, 9), 4, must_sync=False)  # 3 of term 2 gives way to 3 of term 3, which is committed
    run.disk.lose_power(seed / 40)
    with DurableLog.open(DIRECTORY, IDENTITY, io=run.disk) as log:
        commit, last = log.storage.hard_state.commit, log.storage.last_index()
        assert 1 <= commit <= last
        assert commit < 3 or log.storage.term(3) == 3


def test_a_commit_index_for_itself_that_found_the_disk_full_can_be_saved_again() -> None:
    run = Run(FaultyDisk())
    run.open()
    run.save(HardState(1, 1), (), 0)
    while run.log.room_bytes >= 48:
        run.save(None, [entry(1, run.expected.last + 1)], 0)
    run.disk.capacity = sum(len(run.disk.content(path)) for path in run.disk.names())
    with pytest.raises(LogFull):
        run.log.save(None, (), 5, with_commit=True)
    run.disk.capacity = None
    run.log.save(None, (), 5, with_commit=True)
    run.disk.kill()
    with DurableLog.open(DIRECTORY, IDENTITY, io=run.disk) as log:
        assert log.storage.hard_state.commit == 5


def test_a_commit_index_past_what_was_stored_is_cut_to_it(run: Run) -> None:
    run.save(None, entries(2, 7, 8), 20)
    run.reopen()
    assert run.commit == 8


def test_entries_without_must_sync_wait_for_the_next_sync(quiet: Run) -> None:
    quiet.log.save(None, entries(2, 7, 7), 4, must_sync=False)
    assert quiet.disk.trace == ["write spare"]


@pytest.mark.parametrize(
    ("hard", "new", "error", "problem"),
    [
        (None, entries(2, 8, 9), Unavailable, "would leave a hole: the log ends at 6"),
        (None, entries(2, 4, 5), ValueError, "committed, up to 4"),
        (None, entries(2, 2, 3), Compacted, "what the snapshot of 3 covers"),
        (None, entries(3, 7, 8), ValueError, "is of term 3, and the node of term 2"),
        (HardState(3), (entry(3, 7), entry(3, 9)), ValueError, "not consecutive"),
        (HardState(1), entries(1, 7, 8), ValueError, "never undone"),
        (HardState(2, 2), entries(2, 7, 8), ValueError, "never undone"),
    ],
)
def test_what_the_core_never_asks_is_refused_before_anything_is_written(
    run: Run, hard: HardState | None, new: Sequence[Entry], error: type[Exception], problem: str
) -> None:
    run.create(3, 2)

    def refused() -> None:
        with pytest.raises(error, match=problem):
            run.log.save(hard, new, 4)

    writes_nothing(run, refused)
    run.reopen()


def test_p9_a_save_that_finds_the_disk_full_stores_no_entry_and_may_be_made_again(run: Run) -> None:
    run.disk.capacity = sum(len(run.disk.content(path)) for path in run.disk.names())
    batch = tuple(entry(2, index, 400) for index in range(7, 10))
    for _ in range(2):
        with pytest.raises(LogFull):
            run.log.save(None, batch, 4)
    assert run.log.storage.entries(1, 7, 10**6) == list(entries(2, 1, 6))
    run.disk.capacity = None
    run.save(None, batch, 4)
    run.disk.lose_power(0.0)
    run.open()


def test_p9_after_a_failed_sync_everything_is_refused_but_close(run: Run) -> None:
    log = run.log
    run.disk.fail_at = {run.disk.steps + 2: errno.EIO}
    with pytest.raises(LogFailed, match="could not sync"):
        log.save(None, entries(2, 7, 8), 4)
    calls: list[Callable[[], object]] = [
        lambda: log.save(None, (), 4),
        lambda: log.install_snapshot(SnapshotMeta(9, 2), None, [b""]),
        lambda: log.create_snapshot(SnapshotMeta(3, 2), [b""]),
        lambda: log.receive(HEAD, 0, b""),
        log.drop_incoming,
        log.compact,
        log.mark,
        log.prepare,
        log.open_snapshot,
    ]
    for call in calls:
        with pytest.raises(LogFailed, match="could not sync"):
            call()
    log.close()
    assert not run.disk._open


def test_a_closed_log_refuses_and_closes_again(run: Run) -> None:
    run.log.close()
    run.log.close()
    with pytest.raises(LogClosed):
        run.log.save(None, entries(2, 7, 8), 4)
    assert not run.disk._open


def test_leaving_the_context_closes_it(run: Run) -> None:
    with run.log:
        pass
    with pytest.raises(LogClosed):
        run.log.mark()


def test_a_log_that_cannot_be_opened_leaves_no_file_open(run: Run) -> None:
    run.log.close()
    run.disk.fail_at = {run.disk.steps + 1: errno.EIO}
    with pytest.raises(LogFailed):
        run.open()
    assert not run.disk._open


# -- the mark and the commit index -------------------------------------------------------------------------------------


def test_the_mark_is_due_while_something_is_not_noted_and_at_most_every_100_ms() -> None:
    now = 0.0
    disk = FaultyDisk()
    log = DurableLog.open(DIRECTORY, IDENTITY, segment_bytes=4096, io=disk, clock=lambda: now)
    due = [log.mark_due_s]
    log.save(HardState(1, 1), entries(1, 1, 2), 0)
    now = 0.04
    due.append(log.mark_due_s)
    log.mark()
    due.append(log.mark_due_s)
    log.save(None, (), 2, must_sync=False)
    due.append(log.mark_due_s)
    now = 0.2
    due.append(log.mark_due_s)
    log.mark()
    due.append(log.mark_due_s)
    assert due == [None, pytest.approx(0.06), None, pytest.approx(0.06), 0.0, None]


def test_a_marked_commit_index_outlives_a_kill_and_a_closed_one_a_power_cut(run: Run) -> None:
    run.save(None, (), 5)
    run.log.mark()
    run.disk.kill()
    run.expected = run.expected.__class__(2, 1, log=run.expected.log, commit=(5, 5))
    run.allowed = [run.expected]
    run.open()
    run.save(None, (), 6)
    run.log.close()
    run.disk.lose_power(0.0)
    run.open()
    assert run.commit == 6


def test_a_full_disk_does_not_keep_the_mark_from_being_made() -> None:
    now = 0.0
    run = Run(FaultyDisk(), clock=lambda: now)
    run.open()
    run.save(HardState(1, 1), (), 0)
    while run.log.room_bytes >= 48:
        run.save(None, [entry(1, run.expected.last + 1)], 0)
        assert run.expected.last < 40
    run.log.save(None, (), 5, must_sync=False)
    now = 1.0
    run.disk.capacity = sum(len(run.disk.content(path)) for path in run.disk.names())
    run.log.mark()
    assert run.log.mark_due_s == pytest.approx(0.1), "it is not tried again at once"
    run.disk.capacity = None
    run.log.mark()
    assert run.log.mark_due_s is None


# -- where entries lie -------------------------------------------------------------------------------------------------


def test_places_find_the_record_of_every_entry_through_truncations_and_terms() -> None:
    places = Places(Place(10, 5, 1))
    places.extend(entries(1, 11, 14), 6)
    places.extend([*entries(1, 15, 15), *entries(2, 16, 17)], 20)
    places.extend(entries(3, 14, 15), 30)
    assert [places.find(index) for index in range(10, 16)] == [
        (10, 5, 1),
        (11, 6, 1),
        (12, 7, 1),
        (13, 8, 1),
        (14, 30, 3),
        (15, 31, 3),
    ]
    with pytest.raises(Unavailable):
        places.find(16)
    places.compact(14)
    assert places.find(15) == (15, 31, 3)
    with pytest.raises(Compacted):
        places.find(13)


def test_an_entry_that_says_what_was_committed_is_the_same_entry() -> None:
    from consensus.wal_entries import encode_entries

    one = Entry(3, 9, EntryKind.CONF_CHANGE, b"data")
    assert decode_record(encode_entries([one])[0]) == one
    noting = decode_record(encode_entries([one], 7)[0])
    assert isinstance(noting, Noting)
    assert (noting.entry, noting.commit) == (one, 7)
    assert decode_record(b"\x03\x07" + bytes(7)) == Commit(7)

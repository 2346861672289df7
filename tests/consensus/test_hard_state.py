"""Term and vote: what was promised is never forgotten, undone or invented (P9; paper, figure 2)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.disk import REAL, LogDisk
from consensus.errors import LogDamaged, LogFailed, LogFull, LogTooNew
from consensus.hard_state import (
    SLOT_BYTES,
    VALUE_BYTES_MAX,
    VOTE_MAGIC,
    VOTE_NAME,
    SlotFile,
    VoteFile,
    decode_vote,
    encode_slot,
    newest_slot,
    read_slots,
)
from tests.consensus.faulty_disk import FaultyDisk, PowerLoss

DIRECTORY = Path("/log")
PATH = DIRECTORY / VOTE_NAME
LOG_ID = b"0123456789abcdef"
VOTES = [(1, 2), (2, 0), (2, 3), (7, 1)]


def created(disk: FaultyDisk) -> VoteFile:
    disk.make_directory(DIRECTORY)
    return VoteFile.create(LogDisk(disk), DIRECTORY, LOG_ID)


def opened(disk: FaultyDisk) -> VoteFile:
    return VoteFile.open(LogDisk(disk), DIRECTORY, LOG_ID)


def voted(votes: list[tuple[int, int]], seed: int = 0) -> FaultyDisk:
    """A disk with a vote file that has gone through these, and is closed."""
    disk = FaultyDisk(seed)
    file = created(disk)
    for term, vote in votes:
        file.save(term, vote)
    file.close()
    return disk


def test_a_vote_is_there_when_the_file_is_opened_again() -> None:
    disk = voted(VOTES)
    disk.lose_power(0.0)
    file = opened(disk)
    assert (file.term, file.vote) == (7, 1)


def test_a_new_node_has_promised_nothing() -> None:
    file = opened(voted([]))
    assert (file.term, file.vote) == (0, 0)


def test_what_is_stored_already_costs_no_write() -> None:
    disk = FaultyDisk()
    file = created(disk)
    assert file.save(4, 1)
    before = disk.steps
    assert not file.save(4, 1)
    assert disk.steps == before


def test_both_slots_are_synced_one_after_the_other_before_save_returns() -> None:
    disk = FaultyDisk()
    file = created(disk)
    disk.trace.clear()
    file.save(1, 1)
    assert disk.trace == ["write vote", "sync vote"] * 2
    disk.lose_power(0.0)
    assert [slot and decode_vote(slot[1]) for slot in read_slots(LogDisk(disk), PATH, VOTE_MAGIC, LOG_ID)] == [
        (1, 1)
    ] * 2


@pytest.mark.parametrize(("term", "vote"), [(6, 0), (6, 1), (7, 2), (7, 0)])
def test_a_term_that_goes_back_and_a_second_vote_in_a_term_are_refused(term: int, vote: int) -> None:
    disk = voted(VOTES)
    file = opened(disk)
    before = disk.content(PATH)
    with pytest.raises(ValueError, match="never undone"):
        file.save(term, vote)
    assert (file.term, file.vote) == (7, 1)
    assert disk.content(PATH) == before


# -- the power goes ----------------------------------------------------------------------------------------------------


def stop_everywhere(votes: list[tuple[int, int]], check: Callable[[FaultyDisk, set[tuple[int, int]]], None]) -> int:
    """Cut the power at each step of these votes; `check` gets each disk that may be left, and what it may hold."""
    whole = FaultyDisk()
    file = created(whole)
    first = whole.steps
    for one in votes:
        file.save(*one)
    for step in range(first + 1, whole.steps + 1):
        disk = FaultyDisk(step)
        file = created(disk)
        disk.stop_at = step
        before = allowed = {(0, 0)}
        for one in votes:
            allowed = {*before, one}
            try:
                file.save(*one)
            except PowerLoss:
                break
            before = {one}
        for arrival in (0.0, 0.3, 0.5, 0.7, 1.0):
            left = disk.clone(step)
            left.lose_power(arrival)
            check(left, allowed)
    return whole.steps - first


def test_p9_a_vote_never_goes_back_whatever_a_power_cut_leaves() -> None:
    def check(disk: FaultyDisk, allowed: set[tuple[int, int]]) -> None:
        file = opened(disk)
        found = (file.term, file.vote)
        assert found in allowed
        disk.lose_power(0.0)
        again = opened(disk)
        assert (again.term, again.vote) == found

    assert stop_everywhere(VOTES, check) == 4 * len(VOTES)


def test_p9_a_power_cut_while_the_file_is_opened_loses_nothing() -> None:
    def check(disk: FaultyDisk, allowed: set[tuple[int, int]]) -> None:
        for step in range(1, 5):
            left = disk.clone(step)
            left.stop_at = step
            with pytest.raises(PowerLoss):
                opened(left)
            left.lose_power(0.5)
            file = opened(left)
            assert (file.term, file.vote) in allowed

    stop_everywhere(VOTES[:2], check)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_p9_any_history_of_votes_and_power_cuts_only_goes_forward(data: st.DataObject) -> None:
    disk = FaultyDisk(data.draw(st.integers(0, 2**32)))
    created(disk).close()
    known = (0, 0)
    allowed = {known}
    for _ in range(data.draw(st.integers(1, 5))):
        try:
            file = opened(disk)
            known = (file.term, file.vote)
            assert known in allowed
            allowed = {known}
            disk.stop_at = disk.steps + data.draw(st.integers(1, 20))
            for _ in range(data.draw(st.integers(0, 6))):
                one = (known[0] + data.draw(st.integers(1, 2)), data.draw(st.integers(0, 3)))
                allowed = {known, one}
                file.save(*one)
                known = one
                allowed = {known}
        except PowerLoss:
            disk.lose_power(data.draw(st.sampled_from([0.0, 0.5, 1.0])))
        disk.kill()
    file = opened(disk)
    assert (file.term, file.vote) in allowed


# -- damage ------------------------------------------------------------------------------------------------------------


def test_p9_no_flipped_bit_changes_a_vote() -> None:
    disk = voted(VOTES)
    for bit in range(8 * 2 * SLOT_BYTES):
        if bit // 8 % SLOT_BYTES > 80 and bit % 512:
            continue
        hurt = disk.clone(bit)
        hurt.flip(PATH, bit)
        file = opened(hurt)
        assert (file.term, file.vote) == (7, 1)
        file.close()
        assert hurt.content(PATH)[:100] == disk.content(PATH)[:100], "opening has mended it"


def test_p9_two_spoilt_slots_are_refused() -> None:
    disk = voted(VOTES)
    disk.flip(PATH, 8 * 45)
    disk.flip(PATH, 8 * (SLOT_BYTES + 45))
    before = disk.content(PATH)
    with pytest.raises(LogDamaged, match="neither of its two slots") as caught:
        opened(disk)
    assert caught.value.path == PATH
    assert disk.content(PATH) == before


def test_p9_a_file_cut_short_is_refused_or_mended_from_the_other_slot() -> None:
    disk = voted(VOTES)
    disk._names[PATH].cache = disk._names[PATH].cache[:SLOT_BYTES]
    file = opened(disk)
    assert (file.term, file.vote) == (7, 1)
    file.close()
    disk._names[PATH].cache = disk._names[PATH].cache[:20]
    with pytest.raises(LogDamaged, match="ends within it"):
        opened(disk)


def slot(log_id: bytes = LOG_ID, magic: bytes = VOTE_MAGIC, sequence: int = 1, value: bytes = b"value") -> bytes:
    return encode_slot(magic, log_id, sequence, value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (slot(log_id=b"another log's id") * 2, "belongs to log"),
        (slot(magic=b"prime.xx") * 2, "begins with"),
        (slot(value=b"one") + slot(value=b"two"), "contradict each other"),
        (bytes(2 * SLOT_BYTES), "checksum"),
    ],
)
def test_p9_slots_of_other_files_and_slots_that_contradict_each_other_are_refused(data: bytes, problem: str) -> None:
    disk = FaultyDisk()
    LogDisk(disk).publish(PATH, [data])
    with pytest.raises(LogDamaged, match=problem):
        newest_slot(LogDisk(disk), PATH, VOTE_MAGIC, LOG_ID)


@pytest.mark.parametrize("first", [5, 6])
def test_the_newer_of_two_slots_counts_and_the_other_is_made_equal(first: int) -> None:
    disk = FaultyDisk()
    LogDisk(disk).publish(PATH, [slot(sequence=one, value=b"%d" % one) for one in (first, 11 - first)])
    file = SlotFile.open(LogDisk(disk), PATH, VOTE_MAGIC, LOG_ID)
    assert file.value == b"6"
    disk.lose_power(0.0)
    assert read_slots(LogDisk(disk), PATH, VOTE_MAGIC, LOG_ID) == [(6, b"6")] * 2


def test_a_file_of_a_later_version_is_refused_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FaultyDisk()
    monkeypatch.setattr("consensus.hard_state._VERSION", 2)
    LogDisk(disk).publish(PATH, [slot() * 2])
    monkeypatch.undo()
    with pytest.raises(LogTooNew, match="version 2"):
        opened(disk)


# -- a disk that refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("step", range(1, 5))
def test_p9_a_vote_that_could_not_be_stored_is_not_given_and_the_file_is_dead(step: int, code: int) -> None:
    disk = voted(VOTES[:1], seed=step)
    file = opened(disk)
    disk.fail_at = {disk.steps + step: code}
    with pytest.raises(LogFailed):
        file.save(2, 3)
    assert (file.term, file.vote) == (1, 2)
    with pytest.raises(LogFailed):
        file.save(2, 3)
    disk.kill()
    # A reader sees what the failed sync has left as if it were clean. What is found now must stay.
    again = opened(disk)
    found = (again.term, again.vote)
    assert found in {(1, 2), (2, 3)}
    disk.lose_power(0.0)
    assert (opened(disk).term, opened(disk).vote) == found


def test_a_disk_that_reads_back_something_else_is_refused() -> None:
    class Forgetful(FaultyDisk):
        """Calls a write done and keeps nothing of it."""

        def pwrite(self, file: int, data: bytes, offset: int) -> None:
            return

    disk = voted(VOTES[:1])
    forgetful = Forgetful()
    forgetful._names, forgetful._directories = disk._names, disk._directories
    disk.flip(PATH, 8 * 45)
    with pytest.raises(LogFailed, match="a bad disk"):
        VoteFile.open(LogDisk(forgetful), DIRECTORY, LOG_ID)
    assert not forgetful._open


def test_a_new_file_on_a_full_disk_is_refused_and_leaves_nothing() -> None:
    disk = FaultyDisk()
    disk.make_directory(DIRECTORY)
    disk.capacity = 5000
    with pytest.raises(LogFull):
        VoteFile.create(LogDisk(disk), DIRECTORY, LOG_ID)
    assert disk.names() == []


def test_a_value_that_does_not_fit_is_the_callers_error() -> None:
    disk = FaultyDisk()
    file = SlotFile.create(LogDisk(disk), PATH, VOTE_MAGIC, LOG_ID, b"x" * VALUE_BYTES_MAX)
    with pytest.raises(ValueError, match="does not fit"):
        file.write(b"x" * (VALUE_BYTES_MAX + 1))
    assert file.value == b"x" * VALUE_BYTES_MAX
    file.close()
    assert SlotFile.open(LogDisk(disk), PATH, VOTE_MAGIC, LOG_ID).value == b"x" * VALUE_BYTES_MAX


def test_the_real_file_system_holds_a_vote(tmp_path: Path) -> None:
    file = VoteFile.create(LogDisk(REAL), tmp_path, LOG_ID)
    file.save(3, 9)
    file.close()
    again = VoteFile.open(LogDisk(REAL), tmp_path, LOG_ID)
    assert (again.term, again.vote) == (3, 9)
    again.close()

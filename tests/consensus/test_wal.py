"""The durable log: what is acknowledged stays, what is damaged is refused, nothing is invented (P1, P9)."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import wal_format as form
from consensus.errors import (
    LogClosed,
    LogCompacted,
    LogDamaged,
    LogError,
    LogFailed,
    LogFull,
    LogLocked,
    LogTooNew,
)
from consensus.wal import Wal, inspect
from tests.consensus.faulty_disk import FaultyDisk, PowerLoss, ticking

DIRECTORY = Path("/log")
SEGMENT_BYTES = 1024


def open_log(disk: FaultyDisk) -> Wal:
    return Wal.open(DIRECTORY, segment_bytes=SEGMENT_BYTES, io=disk, clock=ticking(0.04))


@dataclass
class Ledger:
    """What a client of the log may expect: all up to `acknowledged`, and nothing that was not tried."""

    tried: dict[int, set[bytes]] = field(default_factory=dict)
    appended: dict[int, bytes] = field(default_factory=dict)
    snapshots: dict[int, bytes] = field(default_factory=dict)
    acknowledged: int = 0
    snapshot: int = 0

    def append(self, wal: Wal, batch: list[bytes]) -> None:
        for index, data in enumerate(batch, wal.last_index + 1):
            self.tried.setdefault(index, set()).add(data)
        last = wal.append(batch)
        self.appended.update(enumerate(batch, last - len(batch) + 1))

    def sync(self, wal: Wal) -> None:
        before, self.acknowledged = self.acknowledged, wal.sync()
        for index in range(before + 1, self.acknowledged + 1):
            self.tried[index] = {self.appended[index]}

    def save_snapshot(self, wal: Wal) -> None:
        index = wal.durable_index
        if index == 0:
            return
        self.snapshots[index] = f"state after {index} ".encode() * 40
        wal.save_snapshot(index, [self.snapshots[index][:100], self.snapshots[index][100:]])
        self.snapshot = index

    def check(self, wal: Wal) -> None:
        """Everything acknowledged is there, in order; nothing is invented. What is there now stays from now on."""
        assert wal.last_index >= self.acknowledged
        assert wal.durable_index == wal.last_index
        snapshot = wal.snapshot()
        index = 0
        if snapshot is not None:
            index, data = snapshot
            assert data == self.snapshots[index]
        assert index >= self.snapshot
        assert wal.first_index <= index + 1
        entries = list(wal.read(wal.first_index))
        assert [index for index, _ in entries] == list(range(wal.first_index, wal.last_index + 1))
        for index, data in entries:
            assert data in self.tried[index], index
        self.tried = {index: {data} for index, data in entries}
        self.acknowledged = wal.last_index


def entry(index: int) -> bytes:
    return f"entry {index} ".encode() * (index * 7 % 13 + 1)


def work(disk: FaultyDisk, ledger: Ledger, rounds: int = 15) -> None:
    """Batches of one to three records, some synced late, over several segments, with snapshots and compaction."""
    wal = open_log(disk)
    for number in range(rounds):
        ledger.append(wal, [entry(wal.last_index + 1 + offset) for offset in range(number % 3 + 1)])
        if number % 4 != 1:
            ledger.sync(wal)
        if number == 3:
            wal.prepare()
        if number % 5 == 4:
            ledger.save_snapshot(wal)
            wal.compact(wal.snapshots[0])
    wal.close()


def steps_of(operation: Callable[[FaultyDisk], None], disk: FaultyDisk) -> int:
    before = disk.steps
    operation(disk)
    return disk.steps - before


LOSSES = [(0.0, 1), (1.0, 1), *((arrival, seed) for arrival in (0.2, 0.5, 0.8) for seed in (2, 3))]


def crashes(start: FaultyDisk, operation: Callable[[FaultyDisk], None]) -> Iterator[FaultyDisk]:
    """`operation` stopped at each of its steps, and for each stop the disks that may be left."""
    for step in range(1, steps_of(operation, start.clone(0)) + 1):
        stopped = start.clone(step)
        stopped.stop_at = step
        with pytest.raises(PowerLoss):
            operation(stopped)
        for arrival, seed in LOSSES:
            left = stopped.clone(1000 * step + seed)
            left.lose_power(arrival)
            yield left


def test_p1_everything_acknowledged_survives_a_power_cut_at_every_step_whatever_was_lost() -> None:
    ledgers: list[Ledger] = []

    def run(disk: FaultyDisk) -> None:
        ledgers.append(Ledger())
        work(disk, ledgers[-1])

    count = 0
    for disk in crashes(FaultyDisk(), run):
        # Ledgers are appended one per run; all disks of one stop share the newest.
        ledger = ledgers[-1]
        own = deepcopy(ledger)
        wal = open_log(disk)
        own.check(wal)
        own.append(wal, [b"after the crash", b"and another"])
        own.sync(wal)
        disk.lose_power(0.5)
        own.check(open_log(disk))
        count += 1
    assert count > 60 * len(LOSSES)


def test_p1_a_power_cut_at_every_step_of_recovery_loses_nothing_either() -> None:
    for stop in (9, 23, 31, 38, 47, 60):
        ledger = Ledger()
        crashed = FaultyDisk(stop)
        crashed.stop_at = stop
        with pytest.raises(PowerLoss):
            work(crashed, ledger)
        for seed in range(3):
            left = crashed.clone(seed)
            left.lose_power(0.5)
            for again in crashes(left, lambda disk: open_log(disk).close()):
                own = deepcopy(ledger)
                own.check(open_log(again))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_p1_any_history_of_work_kills_and_power_cuts_keeps_what_was_acknowledged(data: st.DataObject) -> None:
    disk, ledger = FaultyDisk(data.draw(st.integers(0, 2**32))), Ledger()
    for _ in range(data.draw(st.integers(1, 4), label="lives")):
        disk.stop_at = disk.steps + data.draw(st.integers(1, 60), label="steps")
        actions = data.draw(st.lists(st.sampled_from("aaasssmpck"), max_size=25), label="actions")
        try:
            wal = open_log(disk)
            ledger.check(wal)
            for action in actions:
                act(action, wal, ledger, data)
        except PowerLoss:
            disk.lose_power(data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])))
        disk.kill()
    ledger.check(open_log(disk))


def act(action: str, wal: Wal, ledger: Ledger, data: st.DataObject) -> None:
    if action == "a":
        sizes = data.draw(st.lists(st.integers(0, 700), min_size=1, max_size=4))
        ledger.append(wal, [random.Random(size).randbytes(size) for size in sizes])
    elif action == "s":
        ledger.sync(wal)
    elif action == "m":
        wal.mark()
    elif action == "p":
        wal.prepare()
    elif action == "c":
        ledger.save_snapshot(wal)
    else:
        wal.compact(wal.durable_index)


# -- damage (P9) -----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk() -> FaultyDisk:
    """A closed log of several segments with two snapshots; its log before the older one is gone."""
    disk = FaultyDisk(7)
    work(disk, Ledger())
    disk.lose_power(1.0)
    return disk


def test_p9_no_flipped_bit_of_a_marked_log_loses_or_changes_an_entry(disk: FaultyDisk) -> None:
    ledger = Ledger()
    work(FaultyDisk(7), ledger)
    refused = 0
    for path in disk.names():
        for at, byte in enumerate(disk.content(path)):
            if byte == 0 and at % 16:
                continue
            hurt = disk.clone(at)
            hurt.flip(path, at * 8 + at % 8)
            try:
                wal = open_log(hurt)
            except (LogDamaged, LogTooNew):
                refused += 1
                continue
            last, snapshot = wal.last_index, wal.snapshot()
            assert last == ledger.acknowledged
            assert {index: {entry} for index, entry in wal.read(wal.first_index)}.items() <= ledger.tried.items()
            assert snapshot is not None
            assert snapshot[1] == ledger.snapshots[snapshot[0]]
            assert snapshot[0] == ledger.snapshot or wal.recovery.damaged_snapshots
            wal.close()
    assert refused > 1000


def fill(disk: FaultyDisk, count: int, *, size: int = 40) -> Wal:
    wal = open_log(disk)
    for number in range(count):
        wal.append([bytes([number + 1]) * size])
        wal.sync()
    return wal


def segments(disk: FaultyDisk) -> list[Path]:
    return [path for path in disk.names() if path.suffix == ".wal"]


def test_p9_a_damaged_last_record_under_the_durable_mark_is_refused_and_not_cut() -> None:
    disk = FaultyDisk()
    fill(disk, 3).close()
    (path,) = segments(disk)
    disk.flip(path, disk.content(path).rindex(b"\x03") * 8)
    before = disk.content(path)
    with pytest.raises(LogDamaged, match="record 3 is damaged or missing, though all up to 3 were durable") as caught:
        open_log(disk)
    assert caught.value.path == path
    assert caught.value.offset == before.index(b"\x02" * 40) + 40
    assert disk.content(path) == before


def test_p9_a_damaged_record_above_the_mark_is_refused_when_a_later_one_says_it_was_durable() -> None:
    disk = FaultyDisk()
    wal = Wal.open(DIRECTORY, segment_bytes=4096, io=disk, clock=lambda: 0.0)  # no mark ever becomes due
    for number in range(3):
        wal.append([bytes([number + 1]) * 40])
        wal.sync()
    disk.lose_power(0.0)
    (path,) = segments(disk)
    disk.flip(path, disk.content(path).index(b"\x02" * 40) * 8)
    with pytest.raises(LogDamaged, match="record 2 is damaged: the one at byte"):
        open_log(disk)


def test_a_hole_in_a_batch_that_was_never_synced_is_a_torn_tail_and_is_cut() -> None:
    disk = FaultyDisk()
    wal = open_log(disk)
    wal.append([b"durable"])
    wal.sync()
    wal.append([b"lost" * 100, b"arrived"])
    (path,) = segments(disk)
    hole = disk.content(path).index(b"lost")
    disk.flip(path, hole * 8)
    disk.kill()
    again = open_log(disk)
    assert [data for _, data in again.read(1)] == [b"durable"]
    assert again.recovery.torn_path == path
    assert again.recovery.torn_bytes > 400
    assert b"arrived" not in disk.content(path)
    again.append([b"next"])
    assert [data for _, data in again.read(2)] == [b"next"]


@pytest.mark.parametrize("which", [0, 1, -1])
def test_p9_a_missing_segment_is_refused(which: int) -> None:
    disk = FaultyDisk()
    fill(disk, 40).close()
    disk.lose_power(1.0)
    disk.remove(segments(disk)[which])
    with pytest.raises(LogDamaged):
        open_log(disk)


def test_p9_a_segment_of_another_log_is_refused() -> None:
    disk, other = FaultyDisk(1), FaultyDisk(2)
    fill(disk, 3).close()
    fill(other, 3).close()
    (path,) = segments(disk)
    file = disk.open(path)
    disk.pwrite(file, other.content(path), 0)
    with pytest.raises(LogDamaged, match="belongs to another log"):
        open_log(disk)


def two_histories() -> tuple[FaultyDisk, FaultyDisk]:
    """Twice the same log with the same first entries; the others have the same sizes and other bytes."""
    one = FaultyDisk()
    fill(one, 5).close()
    other = one.clone(0)
    for disk, data in ((one, b"1"), (other, b"2")):
        wal = open_log(disk)
        for _ in range(40):
            wal.append([data * 40])
            wal.sync()
        wal.close()
    return one, other


def test_p9_a_segment_of_another_history_of_the_same_log_is_refused() -> None:
    disk, other = two_histories()
    path = segments(disk)[1]
    assert disk.content(path) != other.content(path)
    disk.pwrite(disk.open(path), other.content(path), 0)
    with pytest.raises(LogDamaged, match="belong to another history"):
        open_log(disk)


def test_p9_a_record_of_another_history_of_the_same_log_is_refused() -> None:
    disk, other = two_histories()
    path = segments(disk)[0]
    start = disk.content(path).index(b"1" * 40) - form.RECORD_HEADER_BYTES
    record = other.content(path)[start : start + form.record_bytes(40)]
    disk.pwrite(disk.open(path), record, start)
    with pytest.raises(LogDamaged, match="record 7 is damaged"):
        open_log(disk)


def test_p9_a_log_without_its_durable_mark_is_refused() -> None:
    disk = FaultyDisk()
    fill(disk, 3).close()
    disk.lose_power(1.0)
    disk.remove(DIRECTORY / "durable")
    with pytest.raises(LogDamaged, match="the durable mark is missing"):
        open_log(disk)


def test_a_spoilt_slot_of_the_mark_leaves_the_other_one() -> None:
    disk = FaultyDisk()
    fill(disk, 3).close()
    for bit in (8 * 20, 8 * (4096 + 20)):
        one = disk.clone(0)
        one.flip(DIRECTORY / "durable", bit)
        assert open_log(one).last_index == 3
    disk.flip(DIRECTORY / "durable", 8 * 20)
    disk.flip(DIRECTORY / "durable", 8 * (4096 + 20))
    with pytest.raises(LogDamaged, match="both slots"):
        open_log(disk)


def test_a_file_of_a_later_version_is_refused_as_such() -> None:
    disk = FaultyDisk()
    fill(disk, 1).close()
    (path,) = segments(disk)
    header = bytearray(disk.content(path)[: form.SEGMENT_HEADER_BYTES])
    header[8] = 2
    resealed = form._sealed(bytes(header[:-4]))
    disk.pwrite(disk.open(path), resealed, 0)
    with pytest.raises(LogTooNew, match="version 2"):
        open_log(disk)


def test_bytes_in_an_entry_that_look_like_a_record_of_another_log_are_no_witness() -> None:
    chain, other_salt = 1, form.salt_of(b"another log's id")
    forged, _ = form.encode_records([b"x"], 9, chain, 8, other_salt)
    disk = FaultyDisk()
    wal = open_log(disk)
    wal.append([forged * 3])
    (path,) = segments(disk)
    disk.flip(path, (form.SEGMENT_HEADER_BYTES + 4) * 8)
    disk.kill()
    assert open_log(disk).last_index == 0


# -- a disk that refuses (P9) ----------------------------------------------------------------------------------------


def refusals(wal: Wal) -> list[Callable[[], object]]:
    return [
        wal.sync,
        wal.mark,
        wal.prepare,
        wal.snapshot,
        lambda: wal.append([b"x"]),
        lambda: wal.read(1),
        lambda: wal.compact(1),
        lambda: wal.save_snapshot(1, b"x"),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_p9_a_failed_sync_is_fatal_and_what_was_not_durable_is_written_again_when_reopened(seed: int) -> None:
    disk, ledger = FaultyDisk(seed), Ledger()
    wal = open_log(disk)
    ledger.append(wal, [b"one"])
    ledger.sync(wal)
    ledger.append(wal, [b"two" * 60, b"three" * 60])
    disk.fail_at = {disk.steps + 1: errno.EIO}
    with pytest.raises(LogFailed, match="could not sync"):
        wal.sync()
    for refused in refusals(wal):
        with pytest.raises(LogFailed, match="could not sync"):
            refused()
    assert wal.durable_index == 1
    wal.close()
    disk.kill()
    # The page cache shows records 2 and 3, as if clean; the platter may not have them.
    again = open_log(disk)
    ledger.check(again)
    ledger.append(again, [b"four"])
    ledger.sync(again)
    disk.lose_power(0.0)
    ledger.check(open_log(disk))


def test_p9_every_step_that_fails_with_an_io_error_stops_the_log_and_loses_nothing() -> None:
    total = steps_of(lambda disk: work(disk, Ledger()), FaultyDisk())
    for step in range(1, total + 1):
        disk, ledger = FaultyDisk(step), Ledger()
        disk.fail_at = {step: errno.EIO}
        with pytest.raises(LogFailed):
            work(disk, ledger)
        disk.kill()
        ledger.check(open_log(disk))
        disk.lose_power(0.0)
        ledger.check(open_log(disk))


def test_p9_every_step_that_finds_the_disk_full_loses_nothing() -> None:
    total = steps_of(lambda disk: work(disk, Ledger()), FaultyDisk())
    full = 0
    for step in range(1, total + 1):
        disk, ledger = FaultyDisk(step), Ledger()
        disk.fail_at = {step: errno.ENOSPC}
        try:
            work(disk, ledger)
        except LogFull:
            full += 1
            # A failed sync may have lost pages: it is never only "full".
            assert not disk.trace[step - 1].startswith("sync")
        except LogFailed:
            assert disk.trace[step - 1].startswith("sync") or disk.trace[step - 1] == "write durable"
        disk.lose_power(0.5)
        ledger.check(open_log(disk))
    assert full > 20


def test_p9_an_append_that_finds_the_disk_full_is_refused_whole_and_the_log_goes_on() -> None:
    disk, ledger = FaultyDisk(), Ledger()
    wal = open_log(disk)
    disk.capacity = sum(len(disk.content(path)) for path in disk.names()) + 100

    def fill_up() -> None:
        while True:
            ledger.append(wal, [b"x" * 100])
            ledger.sync(wal)

    with pytest.raises(LogFull, match="no space left"):
        fill_up()
    last = wal.last_index
    assert last == ledger.acknowledged > 3
    assert [index for index, _ in wal.read(1)] == list(range(1, last + 1))
    with pytest.raises(LogFull):
        wal.save_snapshot(last, b"s" * 5000)
    assert wal.snapshot() is None
    assert not [path for path in disk.names() if path.suffix == ".tmp"]
    disk.capacity = None
    assert wal.append([b"y" * 100]) == last + 1
    assert wal.sync() == last + 1
    disk.lose_power(0.0)
    assert [data for _, data in open_log(disk).read(last)] == [b"x" * 100, b"y" * 100]


def test_a_write_cut_short_by_a_full_disk_leaves_nothing_behind_that_is_taken_for_an_entry() -> None:
    for seed in range(30):
        disk, ledger = FaultyDisk(seed), Ledger()
        wal = open_log(disk)
        ledger.append(wal, [b"one"])
        ledger.sync(wal)
        disk.fail_at = {disk.steps + 1: errno.ENOSPC}
        with pytest.raises(LogFull):
            ledger.append(wal, [b"never" * 20, b"acknowledged" * 20])
        assert wal.last_index == 1
        ledger.append(wal, [b"two"])
        ledger.sync(wal)
        disk.lose_power(0.5)
        again = open_log(disk)
        assert [data for _, data in again.read(1)][:2] == [b"one", b"two"]
        ledger.check(again)


# -- snapshots and compaction ----------------------------------------------------------------------------------------


def test_compaction_drops_whole_segments_and_never_more_than_the_durable_snapshot_covers() -> None:
    disk = FaultyDisk()
    wal = fill(disk, 40)
    assert wal.compact(40) == 1
    wal.save_snapshot(20, b"twenty")
    first = wal.compact(40)
    assert 1 < first <= 21
    with pytest.raises(LogCompacted):
        wal.read(first - 1)
    assert next(wal.read(first)) == (first, bytes([first]) * 40)
    wal.close()
    disk.lose_power(0.0)
    again = open_log(disk)
    assert (again.first_index, again.last_index, again.snapshot()) == (first, 40, (20, b"twenty"))


def test_p9_a_damaged_newest_snapshot_falls_back_on_the_older_one_and_says_so() -> None:
    disk = FaultyDisk()
    wal = fill(disk, 40)
    wal.save_snapshot(20, b"twenty")
    wal.save_snapshot(30, b"thirty")
    assert wal.snapshots == (20, 30)
    wal.compact(wal.snapshots[0])
    wal.close()
    path = DIRECTORY / f"{30:016x}.snap"
    disk.flip(path, disk.content(path).index(b"thirty") * 8)
    again = open_log(disk)
    assert again.snapshot() == (20, b"twenty")
    assert [report.path for report in again.recovery.damaged_snapshots] == [path]
    assert "checksum" in str(again.recovery.damaged_snapshots[0].problem)
    again.save_snapshot(40, b"forty")
    again.close()
    assert open_log(disk).snapshots == (20, 40)


def test_p9_a_damaged_newest_snapshot_without_the_log_behind_the_older_one_is_refused() -> None:
    disk = FaultyDisk()
    wal = fill(disk, 60)
    wal.save_snapshot(20, b"twenty")
    wal.save_snapshot(60, b"sixty")
    wal.compact(60)
    assert wal.first_index > 21
    wal.close()
    path = DIRECTORY / f"{60:016x}.snap"
    disk.flip(path, disk.content(path).index(b"sixty") * 8)
    with pytest.raises(LogDamaged, match="cannot be rebuilt from 20") as caught:
        open_log(disk)
    assert caught.value.path == path


def test_a_snapshot_of_entries_that_are_not_durable_or_older_than_the_newest_is_refused() -> None:
    wal = fill(FaultyDisk(), 3)
    wal.append([b"not synced"])
    for index in (0, 4, 5):
        with pytest.raises(ValueError, match="must be from 1 to 3"):
            wal.save_snapshot(index, b"x")
    wal.save_snapshot(2, b"x")
    with pytest.raises(ValueError, match="must be from 2 to 3"):
        wal.save_snapshot(1, b"x")


def test_a_snapshot_whose_source_fails_leaves_nothing_behind() -> None:
    disk = FaultyDisk()
    wal = fill(disk, 3)

    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise KeyError("the table changed")

    with pytest.raises(KeyError):
        wal.save_snapshot(3, chunks())
    assert wal.snapshot() is None
    assert not [path for path in disk.names() if path.suffix in {".tmp", ".snap"}]


# -- the rest --------------------------------------------------------------------------------------------------------


def test_a_batch_larger_than_a_segment_gets_one_of_its_own_size() -> None:
    disk = FaultyDisk()
    wal = fill(disk, 2)
    wal.append([b"a" * 3000, b"b" * 3000])
    wal.append([b"c"])
    wal.sync()
    wal.close()
    again = open_log(disk)
    assert [(index, data[:1], len(data)) for index, data in again.read(3)] == [
        (3, b"a", 3000),
        (4, b"b", 3000),
        (5, b"c", 1),
    ]


def test_an_empty_record_is_an_entry_and_an_empty_batch_is_none() -> None:
    disk = FaultyDisk()
    wal = open_log(disk)
    assert wal.append([]) == 0
    assert wal.append([b"", b""]) == 2
    wal.sync()
    wal.close()
    assert list(open_log(disk).read(1)) == [(1, b""), (2, b"")]


def test_a_batch_past_the_bound_is_the_callers_error() -> None:
    wal = open_log(FaultyDisk())
    with pytest.raises(ValueError, match="a record may have"):
        wal.append([b"x" * (form.RECORD_BYTES_MAX + 1)])
    assert wal.append([b"fits"]) == 1


def test_the_mark_is_due_100_ms_after_the_last_one_and_only_if_there_is_something_new() -> None:
    now = 0.0
    disk = FaultyDisk()
    wal = Wal.open(DIRECTORY, io=disk, segment_bytes=4096, clock=lambda: now)
    due = [wal.mark_due_s]
    wal.append([b"one"])
    wal.sync()
    now = 0.03
    due.append(wal.mark_due_s)
    now = 0.2
    due.append(wal.mark_due_s)
    wal.mark()
    assert [*due, wal.mark_due_s] == [None, pytest.approx(0.07), 0.0, None]
    assert inspect(DIRECTORY, io=disk).durable_index == 1


def test_a_prepared_segment_makes_the_next_roll_write_no_zeros() -> None:
    disk = FaultyDisk()
    wal = fill(disk, 1)
    assert wal.prepare()
    assert not wal.prepare()
    disk.trace.clear()
    while len(segments(disk)) == 1:
        wal.append([b"x" * 100])
    assert not [step for step in disk.trace if "spare.tmp" in step]


def test_a_closed_log_refuses_and_closes_again() -> None:
    wal = fill(FaultyDisk(), 1)
    wal.close()
    wal.close()
    with pytest.raises(LogClosed):
        wal.append([b"x"])


def test_inspect_summarises_a_log_and_its_problems_without_changing_it(disk: FaultyDisk) -> None:
    sound = inspect(DIRECTORY, io=disk)
    assert sound.problems == ()
    assert sound.torn_bytes == 0
    assert sound.durable_index == sound.segments[-1].last_index
    assert len(sound.snapshots) == 2
    disk.flip(sound.segments[0].path, 8 * (form.SEGMENT_HEADER_BYTES + 40))
    disk.flip(sound.snapshots[0].path, 8 * 50)
    before = {path: disk.content(path) for path in disk.names()}
    problems = inspect(DIRECTORY, io=disk).problems
    assert [problem.split(":")[0] for problem in problems] == [
        str(sound.snapshots[0].path),
        str(sound.segments[0].path),
    ]
    assert {path: disk.content(path) for path in disk.names()} == before
    disk.flip(sound.segments[0].path, 0)
    disk.flip(DIRECTORY / "durable", 0)
    disk.flip(DIRECTORY / "durable", 4096 * 8)
    assert len(inspect(DIRECTORY, io=disk).problems) == 3


def test_the_real_file_system_holds_a_log_over_reopening(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "log"
    with Wal.open(directory, segment_bytes=8192) as wal:
        for number in range(200):
            wal.append([bytes([number]) * 100])
            wal.sync()
        wal.save_snapshot(100, b"hundred")
        wal.compact(100)
        first = wal.first_index
        assert first > 1
    with Wal.open(directory, segment_bytes=8192) as wal:
        assert list(wal.read(first)) == [(index, bytes([index - 1]) * 100) for index in range(first, 201)]
        assert wal.snapshot() == (100, b"hundred")
    assert inspect(directory).problems == ()


def test_two_agents_cannot_share_a_directory(tmp_path: Path) -> None:
    with Wal.open(tmp_path, segment_bytes=8192), pytest.raises(LogLocked, match="another process holds LOCK"):
        Wal.open(tmp_path, segment_bytes=8192)
    Wal.open(tmp_path, segment_bytes=8192).close()


def test_inspecting_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "nowhere")
    assert issubclass(LogDamaged, LogError)

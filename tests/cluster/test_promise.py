"""The file of promises: what was stored is there after any crash, or what was there before (P9)."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import msgspec
import pytest

from agent.cluster.promise import FILE, MAGIC, PromiseFile
from agent.cluster.standing import FOUNDERS_MAX, Founder, FoundingSet, Record
from consensus.disk import REAL, LogDisk
from consensus.errors import LogDamaged, LogFailed
from consensus.hard_state import SLOT_BYTES, SlotFile
from tests.consensus.faulty_disk import FaultyDisk, PowerLoss

DIRECTORY = Path("/data")
FOUNDERS = (Founder("a", 1, "a:1"), Founder("b", 2, "b:1"))
RECORDS = [
    Record(FoundingSet(1, FOUNDERS), 0, "f" * 32),
    Record(None, 1),
    Record(FoundingSet(2, FOUNDERS[:1]), 1, "f" * 32),
]


def opened(disk: FaultyDisk, agent: str = "a") -> PromiseFile:
    return PromiseFile.open(DIRECTORY, agent, io=disk)


def test_a_new_agent_has_promised_and_refused_nothing(tmp_path: Path) -> None:
    file = PromiseFile.open(tmp_path, "a", io=REAL)
    assert file.record == Record()
    file.close()


def test_what_was_stored_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    for before, record in zip([Record(), *RECORDS], RECORDS, strict=False):
        file = PromiseFile.open(tmp_path, "a")
        assert file.record == before
        file.store(record)
        assert file.record == record
        file.close()


@pytest.mark.parametrize("arrival", [0.0, 0.5, 1.0])
def test_a_crash_at_any_step_leaves_the_last_record_or_the_one_before(arrival: float) -> None:
    stop_at = 0
    while True:
        stop_at += 1
        disk = FaultyDisk(stop_at)
        disk.make_directory(DIRECTORY)
        disk.stop_at = stop_at
        stored = -1
        try:
            file = opened(disk)
            for record in RECORDS:
                file.store(record)
                stored += 1
        except PowerLoss:
            pass
        else:
            break
        disk.lose_power(arrival)
        assert opened(disk).record in [Record(), *RECORDS][stored + 1 : stored + 3]
    assert stop_at > 12


def test_after_a_failed_sync_nothing_more_is_stored() -> None:
    disk = FaultyDisk()
    disk.make_directory(DIRECTORY)
    file = opened(disk)
    disk.fail_at = {disk.steps + 2: errno.EIO}
    with pytest.raises(LogFailed):
        file.store(RECORDS[0])
    with pytest.raises(LogFailed):
        file.store(RECORDS[1])
    assert file.record == Record()


def test_the_file_of_another_agent_is_refused() -> None:
    disk = FaultyDisk()
    disk.make_directory(DIRECTORY)
    opened(disk).close()
    with pytest.raises(LogDamaged):
        opened(disk, "b")


def test_a_bit_that_flips_in_one_slot_is_repaired_and_in_both_is_refused() -> None:
    disk = FaultyDisk()
    disk.make_directory(DIRECTORY)
    file = opened(disk)
    file.store(RECORDS[0])
    file.close()
    disk.flip(DIRECTORY / FILE, 700)
    file = opened(disk)
    assert file.record == RECORDS[0]
    file.close()
    for slot in (0, SLOT_BYTES):
        disk.flip(DIRECTORY / FILE, slot * 8 + 700)
    with pytest.raises(LogDamaged):
        opened(disk)


def test_what_is_no_record_is_refused() -> None:
    disk = FaultyDisk()
    disk.make_directory(DIRECTORY)
    SlotFile.create(LogDisk(disk), DIRECTORY / FILE, MAGIC, hashlib.sha256(b"a").digest()[:16], b"?").close()
    with pytest.raises(LogDamaged, match="no record of promises"):
        opened(disk)


def test_the_largest_set_has_room() -> None:
    long = "x" * 57
    founders = tuple(Founder(f"{long}-{n:06}", 2**53 - 1 - n, f"{n:0256}:65535") for n in range(FOUNDERS_MAX))
    record = Record(FoundingSet(2**53 - 1, founders), 2**53 - 1, "f" * 32)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record) == record
    disk = FaultyDisk()
    disk.make_directory(DIRECTORY)
    file = opened(disk)
    file.store(record)
    file.close()
    assert opened(disk).record == record

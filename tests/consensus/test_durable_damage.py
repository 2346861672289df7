"""A damaged disk never lies: what is not as it was written is refused, with file and offset, or made good (P9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from consensus import wal_entries as records
from consensus import wal_format as form
from consensus.disk import LogDisk
from consensus.durable import DurableLog
from consensus.errors import LogDamaged, LogError, LogForeign, LogLocked, LogTooNew
from consensus.hard_state import SlotFile
from consensus.messages import Entry, HardState, SnapshotMeta
from consensus.wal import Wal
from consensus.wal_identity import IDENTITY_MAGIC, IDENTITY_NAME, Identity, read_identity
from consensus.wal_survey import place_of, read_mark, snapshot_name
from tests.consensus.durable_model import (
    CONF,
    DIRECTORY,
    IDENTITY,
    SEGMENT_BYTES,
    Run,
    entries,
    entry,
    finished_work,
    state,
)
from tests.consensus.faulty_disk import FaultyDisk


@pytest.fixture
def finished() -> Run:
    return finished_work()


def open_log(disk: FaultyDisk, identity: Identity = IDENTITY) -> DurableLog:
    return DurableLog.open(DIRECTORY, identity, segment_bytes=SEGMENT_BYTES, io=disk)


def refused(disk: FaultyDisk, problem: str, path: Path | None = None) -> LogDamaged:
    """Opening is refused because of damage, and has changed nothing."""
    before = {path: disk.content(path) for path in disk.names() if path.name != "LOCK"}
    with pytest.raises(LogDamaged, match=problem) as caught:
        open_log(disk)
    assert path is None or caught.value.path == path
    assert {path: disk.content(path) for path in disk.names() if path.name != "LOCK"} == before
    disk.kill()
    return caught.value


def snapshots(disk: FaultyDisk) -> list[Path]:
    return [path for path in disk.names() if path.suffix == ".snap"]


def hurt(disk: FaultyDisk, path: Path, text: bytes = b"state after") -> None:
    disk.flip(path, disk.content(path).index(text) * 8)


# -- bits --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_p9_no_flipped_bit_of_a_closed_log_loses_or_changes_anything(finished: Run) -> None:
    expected, refusals, mended = finished.expected, 0, 0
    for path in finished.disk.names():
        for at, byte in enumerate(finished.disk.content(path)):
            if byte == 0 and at % 16:
                continue
            disk = finished.disk.clone(at)
            disk.flip(path, at * 8 + at % 8)
            try:
                log = open_log(disk)
            except (LogDamaged, LogTooNew):
                refusals += 1
                continue
            if log.snapshot_meta() != expected.meta:  # the older snapshot, and the log from there
                assert log.recovery.damaged_snapshots
                older = replace(expected, meta=log.snapshot_meta(), log=entries(4, 41, 43) + expected.log)
                assert older.describes(log)
                mended += 1
            else:
                assert expected.describes(log), (path, at)
            index = log.snapshot_meta().index
            data = b"".join(log.read_snapshot())
            assert data == state(index, len(data))
            log.close()
    assert refusals > 500
    assert mended > 500


# -- snapshots ---------------------------------------------------------------------------------------------------------


def installed(run: Run) -> Path:
    """A log with an own snapshot of entry 4 and a leader's of entry 20 in its place. Returns the latter's file."""
    run.open()
    run.save(HardState(2, 1, 0), entries(2, 1, 6), 0)
    run.create(4, 2)
    run.install(SnapshotMeta(20, 2, CONF), None, [state(20)])
    assert len(snapshots(run.disk)) == 2
    return snapshots(run.disk)[-1]


@pytest.mark.parametrize("behind", [(), entries(2, 21, 23)])
def test_p9_a_damaged_snapshot_that_took_the_place_of_the_log_is_refused(behind: Sequence[Entry]) -> None:
    run = Run(FaultyDisk())
    path = installed(run)
    run.save(None, behind, 20)
    run.log.close()
    hurt(run.disk, path)
    refused(run.disk, "took the place of the log is damaged", path)


@pytest.mark.parametrize("behind", [(), entries(2, 21, 23)])
def test_p9_a_missing_snapshot_that_took_the_place_of_the_log_is_refused(behind: Sequence[Entry]) -> None:
    run = Run(FaultyDisk())
    path = installed(run)
    run.save(None, behind, 20)
    run.log.close()
    run.disk.lose_power(1.0)
    run.disk.remove(path)
    refused(run.disk, "took the place of the log is missing", path)


def test_p9_that_a_snapshot_has_taken_the_place_of_the_log_is_durable_when_install_returns() -> None:
    run = Run(FaultyDisk())
    path = installed(run)
    run.disk.lose_power(0.0)
    run.disk.remove(path)
    refused(run.disk, "took the place of the log is missing", path)


def test_p9_a_damaged_own_snapshot_falls_back_on_the_one_before_and_the_log_tells_the_rest() -> None:
    run = Run(FaultyDisk())
    run.open()
    run.save(HardState(2, 1, 0), entries(2, 1, 9), 0)
    run.create(3, 2)
    run.create(7, 2)
    run.compact()
    run.save(None, entries(2, 10, 12), 9)
    run.log.close()
    hurt(run.disk, snapshots(run.disk)[-1])
    log = open_log(run.disk)
    assert log.snapshot_meta().index == 3
    assert [one.problem for one in log.recovery.damaged_snapshots] == ["the snapshot's checksum is wrong"]
    assert log.storage.initial_state()[0] == HardState(2, 1, 9)
    assert tuple(log.storage.entries(4, 13, 10**9)) == entries(2, 4, 12)


def test_p9_a_snapshot_that_changes_while_the_log_is_open_is_noticed_when_it_is_read() -> None:
    run = Run(FaultyDisk())
    path = installed(run)
    run.disk.flip(path, 8 * run.disk.content(path).index(b"state after"))
    with pytest.raises(LogDamaged, match="has changed since") as caught:
        list(run.log.read_snapshot())
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "too short"),
        (bytes(40), "no snapshot of a Raft log"),
        (b"\1\0\0\0\xff\xff\xff\0" + bytes(40), "no snapshot of a Raft log"),
        (b"\1\0\0\0\4\0\0\0" + bytes(40), "what it is of cannot be read"),
        (b"\2\0\0\0\4\0\0\0" + bytes(40), "version 2"),
    ],
)
def test_p9_a_sound_file_that_holds_no_snapshot_of_a_node_is_refused(payload: bytes, problem: str) -> None:
    run = Run(FaultyDisk())
    run.open()
    run.save(HardState(2, 1, 0), entries(2, 1, 6), 0)
    run.log.close()
    with Wal.open(DIRECTORY, segment_bytes=SEGMENT_BYTES, io=run.disk) as wal:
        wal.save_snapshot(4, payload)
    with pytest.raises(LogError, match=problem):
        open_log(run.disk)


# -- files that are missing, or not ours -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("identity", "the identity is missing, though a log or a vote is here"),
        ("durable", "the durable mark is missing"),
        ("vote", "the vote is missing"),
    ],
)
def test_p9_a_directory_that_lacks_a_file_is_refused(finished: Run, name: str, problem: str) -> None:
    finished.disk.remove(DIRECTORY / name)
    refused(finished.disk, problem, DIRECTORY / name)


def test_p9_an_identity_without_any_log_is_refused(finished: Run) -> None:
    for path in finished.disk.names():
        if path.name != IDENTITY_NAME:
            finished.disk.remove(path)
    refused(finished.disk, "though a node has lived here")


@pytest.mark.parametrize("hard", [None, HardState(1, 2)])
def test_p9_a_vote_without_an_identity_is_refused_and_an_empty_log_gets_a_new_one(hard: HardState | None) -> None:
    run = Run(FaultyDisk())
    run.open()
    run.save(hard, (), 0)
    run.log.close()
    run.disk.lose_power(1.0)
    run.disk.remove(DIRECTORY / IDENTITY_NAME)
    if hard is not None:
        refused(run.disk, "the identity is missing", DIRECTORY / IDENTITY_NAME)
    else:
        open_log(run.disk, Identity("c1", 4, 8)).close()
        assert read_identity(DIRECTORY, io=run.disk) == Identity("c1", 4, 8)


def test_p9_a_vote_without_a_log_is_refused() -> None:
    disk = FaultyDisk()
    run = Run(disk)
    run.open()
    run.log.close()
    disk.lose_power(1.0)
    for path in disk.names():
        if path.name != "vote":
            disk.remove(path)
    refused(disk, "the identity is missing", DIRECTORY / IDENTITY_NAME)


@pytest.mark.parametrize("other", [Identity("c2", 3, 7), Identity("c1", 4, 7), Identity("c1", 3, 8)])
def test_a_directory_of_another_node_is_refused(finished: Run, other: Identity) -> None:
    with pytest.raises(LogForeign, match="here lives node 3 of cluster c1, incarnation 7, not node"):
        open_log(finished.disk, other)
    assert read_identity(DIRECTORY, io=finished.disk) == IDENTITY


def test_nobody_lives_in_a_directory_that_is_new_or_not_there() -> None:
    disk = FaultyDisk()
    assert read_identity(DIRECTORY, io=disk) is None
    disk.make_directory(DIRECTORY)
    assert read_identity(DIRECTORY, io=disk) is None


def test_p9_an_identity_of_another_log_is_refused(finished: Run) -> None:
    other = Run(FaultyDisk(8))
    other.open()
    path = DIRECTORY / IDENTITY_NAME
    finished.disk.pwrite(finished.disk.open(path), other.disk.content(path), 0)
    refused(finished.disk, "belongs to log", path)


def test_p9_an_identity_that_says_something_else_is_refused(finished: Run) -> None:
    log_id = read_mark(LogDisk(finished.disk), DIRECTORY / "durable").log_id
    SlotFile.create(LogDisk(finished.disk), DIRECTORY / IDENTITY_NAME, IDENTITY_MAGIC, log_id, b"\x01").close()
    refused(finished.disk, "it is no identity", DIRECTORY / IDENTITY_NAME)


def test_p9_a_vote_that_has_gone_back_behind_the_log_is_refused() -> None:
    run = Run(FaultyDisk())
    run.open()
    run.save(HardState(2, 1, 0), entries(2, 1, 3), 0)
    run.log.close()
    path = DIRECTORY / "vote"
    older = run.disk.content(path)
    run.open()
    run.save(HardState(3, 2, 0), entries(3, 4, 5), 0)
    run.log.close()
    run.disk.pwrite(run.disk.open(path), older, 0)
    refused(run.disk, "it holds term 2, but the log's last entry is of term 3", path)


def test_two_processes_cannot_share_a_directory() -> None:
    run = Run(FaultyDisk())
    run.open()
    with pytest.raises(LogLocked):
        open_log(run.disk)


# -- records that contradict each other --------------------------------------------------------------------------------

ENTRIES = records.encode_entries(entries(2, 1, 5), 3)


@pytest.mark.parametrize(
    ("tail", "problem"),
    [
        (records.encode_entries(entries(2, 7, 7)), "entry 7 follows entry 5: those between are missing"),
        (records.encode_entries(entries(3, 3, 3)), "entry 3 would replace one that was committed, up to 3"),
        (records.encode_entries(entries(1, 6, 6)), "entry 6 is of term 1, after one of term 2"),
        ([*records.encode_entries(entries(3, 4, 4)), *records.encode_entries(entries(2, 5, 5))], "is of term 2, after"),
        ([records.encode_commit(5), *records.encode_entries(entries(3, 5, 5))], "would replace one that was committed"),
        ([b"\x94\x01"], "no record of a Raft log"),
        ([b"\x95\x01"], "no record of a Raft log"),
        ([b"\x01\x01"], "no record of a Raft log"),
        ([b""], "it is empty"),
        ([b"hello"], "it begins with 0x68"),
    ],
)
def test_p9_records_that_tell_no_log_are_refused_with_their_place(tail: list[bytes], problem: str) -> None:
    disk = record(tail)
    error = refused(disk, problem)
    place = place_of_last(disk, lambda data: data == tail[-1])
    assert (error.path, error.offset) == place


def record(tail: list[bytes]) -> FaultyDisk:
    """A closed log of five entries, of which three are committed, and these records."""
    disk = FaultyDisk()
    run = Run(disk)
    run.open()
    run.save(HardState(3, 0), (), 0)
    run.log.close()
    with Wal.open(DIRECTORY, segment_bytes=SEGMENT_BYTES, io=disk) as wal:
        wal.append(ENTRIES + tail)
        wal.sync()
    return disk


def place_of_last(disk: FaultyDisk, found: Callable[[bytes], bool]) -> tuple[Path, int]:
    with Wal.open(DIRECTORY, segment_bytes=SEGMENT_BYTES, io=disk) as wal:
        seq = max(seq for seq, data in wal.read(1) if found(data))
    return place_of(LogDisk(disk), DIRECTORY, seq)


def test_a_record_of_a_later_version_is_refused_as_such() -> None:
    with pytest.raises(LogTooNew, match=r"\.wal: byte \d+: a record of kind 9, which a later version wrote"):
        open_log(record([b"\x09later"]))


def test_records_that_only_look_odd_are_read() -> None:
    tail = [
        *records.encode_entries(entries(3, 4, 6), 3),  # replace 4 and 5
        records.encode_marker(SnapshotMeta(50, 3)),  # a snapshot that never got its name
        *records.encode_entries([entry(3, 7)]),
        records.encode_commit(99),  # the entries it speaks of were torn off
    ]
    log = open_log(record(tail))
    assert tuple(log.storage.entries(1, 8, 10**9)) == entries(2, 1, 3) + entries(3, 4, 6) + (entry(3, 7),)
    assert log.storage.initial_state()[0] == HardState(3, 0, 7)


def test_a_torn_end_is_cut_and_said() -> None:
    run = Run(FaultyDisk())
    run.open()
    run.save(HardState(2, 1), entries(2, 1, 2), 0)
    run.log.save(None, entries(2, 3, 4), 0, must_sync=False)
    (path,) = [path for path in run.disk.names() if path.suffix == ".wal"]
    run.disk.flip(path, run.disk.content(path).index(entry(2, 3).data) * 8)
    run.disk.kill()
    run.allowed = [run.expected]
    run.open()
    assert run.log.recovery.torn_path == path
    assert run.log.recovery.torn_bytes > form.RECORD_HEADER_BYTES


def test_where_a_record_is_that_is_not_there() -> None:
    disk = record([])
    (path,) = [path for path in disk.names() if path.suffix == ".wal"]
    end = place_of(LogDisk(disk), DIRECTORY, 99)
    assert end[0] == path
    assert end[1] > place_of(LogDisk(disk), DIRECTORY, 5)[1]
    assert snapshot_name(255) == "00000000000000ff.snap"
    disk.make_directory(Path("/empty"))
    assert place_of(LogDisk(disk), Path("/empty"), 1) == (Path("/empty"), 0)

"""What operators are told of a log's directory: everything that is wrong, with its place, and nothing is changed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from consensus import wal_entries as records
from consensus import wal_format as form
from consensus.errors import LogDamaged, LogTooNew
from consensus.messages import HardState
from consensus.wal import Wal
from consensus.wal_verify import Report, verify
from tests.consensus.durable_model import DIRECTORY, IDENTITY, SEGMENT_BYTES, Run, entries, entry, finished_work
from tests.consensus.faulty_disk import FaultyDisk


@pytest.fixture
def disk() -> FaultyDisk:
    return finished_work().disk


def verified(disk: FaultyDisk) -> Report:
    before = {path: disk.content(path) for path in disk.names()}
    report = verify(DIRECTORY, io=disk)
    assert {path: disk.content(path) for path in disk.names()} == before
    assert not disk._open
    return report


def places(report: Report) -> list[tuple[str, int]]:
    assert all(isinstance(error, LogDamaged) for error in report.errors)
    return [(error.path.name, error.offset) for error in report.errors if isinstance(error, LogDamaged)]


def test_a_sound_log_is_described(disk: FaultyDisk) -> None:
    report = verified(disk)
    assert report.errors == []
    assert report.torn is None
    assert (report.identity, report.vote, report.plain) == (IDENTITY, (6, 0), False)
    assert [head.meta.index for head in report.heads.values()] == [40, 43]
    assert report.log is not None
    assert (report.log.head, report.log.log.commit) == (report.heads[report.log.seq], 46)
    assert [one.index for one in report.log.log.entries] == [44, 45, 46, 47]


def test_every_damaged_file_is_named_and_not_only_the_first(disk: FaultyDisk) -> None:
    snapshots = [path for path in disk.names() if path.suffix == ".snap"]
    segment = next(path for path in disk.names() if path.suffix == ".wal")
    for path in snapshots:
        disk.flip(path, 8 * 90)
    disk.flip(segment, 8 * (form.SEGMENT_HEADER_BYTES + 40))
    for at in (45, 4096 + 45):
        disk.flip(DIRECTORY / "vote", 8 * at)
    report = verified(disk)
    found = places(report)
    assert [(path.name, 0) for path in snapshots] == found[:2]
    assert (segment.name, form.SEGMENT_HEADER_BYTES) in found
    assert ("vote", 0) in found
    assert report.log is None


def test_a_torn_end_is_no_damage() -> None:
    run = Run(FaultyDisk(1))
    run.open()
    run.save(HardState(2, 1), entries(2, 1, 2), 0)
    run.log.save(None, entries(2, 3, 4), 0, must_sync=False)
    (path,) = [path for path in run.disk.names() if path.suffix == ".wal"]
    end = run.disk.content(path).index(entry(2, 3).data)
    run.disk.flip(path, end * 8)
    run.disk.kill()
    report = verified(run.disk)
    assert report.errors == []
    assert report.torn is not None
    torn, offset, size = report.torn
    assert torn == path
    assert offset < end < offset + size


def tampered(records: list[bytes]) -> FaultyDisk:
    run = Run(FaultyDisk(1))
    run.open()
    run.save(HardState(2, 1), entries(2, 1, 2), 0)
    run.log.close()
    with Wal.open(DIRECTORY, segment_bytes=SEGMENT_BYTES, io=run.disk) as wal:
        wal.append(records)
        wal.sync()
    run.disk.kill()
    return run.disk


def test_records_that_contradict_each_other_are_found_with_their_place() -> None:
    report = verified(tampered(records.encode_entries(entries(2, 4, 4))))
    ((name, offset),) = places(report)
    assert name == "0000000000000001.wal"
    assert offset > form.SEGMENT_HEADER_BYTES
    assert "entry 4 follows entry 2" in str(report.errors[0])


def test_a_record_of_a_later_version_is_told_as_such() -> None:
    report = verified(tampered([b"\x09later"]))
    assert [type(error) for error in report.errors] == [LogTooNew]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["durable"], "the durable mark is missing"),
        (["vote"], "the vote is missing"),
        (["identity"], "the identity is missing"),
        (["identity", "vote"], "identity and vote are missing, though a node's log is here"),
    ],
)
def test_missing_files_are_told(disk: FaultyDisk, names: list[str], problem: str) -> None:
    for name in names:
        disk.remove(DIRECTORY / name)
    report = verified(disk)
    assert len(report.errors) == 1
    assert problem in str(report.errors[0])


def test_a_nodes_snapshot_without_any_record_is_told_as_well(disk: FaultyDisk) -> None:
    for path in disk.names():
        if path.suffix == ".wal" or path.name in {"identity", "vote"}:
            disk.remove(path)
    problems = [str(error) for error in verified(disk).errors]
    assert any("there are no segments" in one for one in problems)
    assert any("identity and vote are missing" in one for one in problems)


def plain(fill: Callable[[Wal], None]) -> FaultyDisk:
    disk = FaultyDisk()
    with Wal.open(DIRECTORY, segment_bytes=SEGMENT_BYTES, io=disk) as wal:
        fill(wal)
    disk.kill()
    return disk


def fill(wal: Wal) -> None:
    wal.append([b"\x82 any record", b"another"])
    wal.sync()


def test_a_log_of_other_records_is_checked_as_far_as_it_can_be() -> None:
    report = verified(plain(fill))
    assert report.plain
    assert report.errors == []


def test_a_new_directory_is_sound_at_every_step_of_its_making() -> None:
    assert not verified(plain(lambda _wal: None)).plain
    whole = FaultyDisk()
    run = Run(whole)
    run.open()
    for step in range(1, whole.steps + 1):
        disk = FaultyDisk(step)
        disk.fail_at = {step: errno.EIO}
        with pytest.raises(Exception, match="could not"):
            Run(disk).open()
        disk.lose_power(0.5)
        assert verified(disk).errors == []


def test_a_file_that_cannot_be_read_spoils_no_other(disk: FaultyDisk) -> None:
    class Unreadable(FaultyDisk):
        """Fails to open one file."""

        def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
            if path.suffix == ".snap":
                raise OSError(errno.EIO, "Input/output error")
            return super().open(path, create=create, write=write)

    bad = Unreadable()
    bad._names, bad._directories = disk._names, disk._directories
    report = verify(DIRECTORY, io=bad)
    assert len([error for error in report.errors if "could not open" in str(error)]) == 2
    assert report.identity == IDENTITY
    assert report.vote == (6, 0)


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(FileNotFoundError):
        verify(DIRECTORY, io=FaultyDisk())

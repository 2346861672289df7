"""Snapshots of the durable log: own ones, a leader's in pieces over restarts, and what is kept behind them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from consensus.disk import LogDisk
from consensus.durable import DurableLog
from consensus.errors import (
    Compacted,
    LogDamaged,
    LogFull,
    SnapshotMismatch,
    SnapshotTemporarilyUnavailable,
    Unavailable,
)
from consensus.messages import ConfState, HardState, Snapshot, SnapshotMeta
from consensus.storage import entry_bytes
from consensus.wal import Wal
from consensus.wal_entries import Installed, Marker, decode_record
from consensus.wal_incoming import INCOMING_NAME, Incoming
from consensus.wal_snapshot import SnapshotHead, head_of
from tests.consensus.durable_model import (
    CONF,
    DIRECTORY,
    IDENTITY,
    SEGMENT_BYTES,
    SYNC_BYTES,
    Run,
    entries,
    entry,
    head_of_state,
    six_entries,
    state,
    writes_nothing,
)
from tests.consensus.faulty_disk import FaultyDisk

THEIRS = state(40, 4000)
HEAD = head_of_state(40, 2, THEIRS)


@pytest.fixture
def run() -> Run:
    return six_entries()


# -- snapshots ---------------------------------------------------------------------------------------------------------


def test_an_own_snapshot_is_refused_where_it_cannot_be_one(run: Run) -> None:
    run.create(3, 2)
    run.log.save(None, entries(2, 7, 7), 4, must_sync=False)
    for meta, error, problem in (
        (SnapshotMeta(3, 2, CONF), Compacted, "there is one of 3"),
        (SnapshotMeta(4, 1, CONF), ValueError, "the entry's is 2"),
        (SnapshotMeta(7, 2, CONF), Unavailable, "not durable yet"),
        (SnapshotMeta(9, 2, CONF), Unavailable, "past the log's end at 7"),
    ):
        with pytest.raises(error, match=problem):
            run.log.create_snapshot(meta, [b"state"])
    assert run.log.snapshot_meta().index == 3


def test_a_snapshot_whose_source_fails_leaves_nothing_behind(run: Run) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise KeyError("the table changed")

    with pytest.raises(KeyError):
        run.log.create_snapshot(SnapshotMeta(3, 2, CONF), chunks())
    with pytest.raises(SnapshotTemporarilyUnavailable):
        run.log.open_snapshot()
    assert list(run.log.read_snapshot()) == []


def test_a_leaders_snapshot_is_refused_where_it_cannot_be_installed(run: Run) -> None:
    run.create(3, 2)
    for meta, hard, error, problem in (
        (SnapshotMeta(3, 2, CONF), None, Compacted, "there is one of 3"),
        (SnapshotMeta(40, 2, CONF), None, Unavailable, "has not arrived whole"),
        (SnapshotMeta(40, 4, CONF), HardState(3), ValueError, "of term 4, and the node is of term 3"),
    ):
        with pytest.raises(error, match=problem):
            run.log.install_snapshot(meta, hard)
    run.reopen()


def test_to_install_the_same_snapshot_again_changes_nothing_until_entries_follow_it(run: Run) -> None:
    meta = SnapshotMeta(40, 2, CONF)
    run.install(meta, None, [state(40)])
    head = run.log.head
    writes_nothing(run, lambda: run.log.install_snapshot(meta, HardState(2, 1, 40)))
    assert run.log.install_snapshot(meta) == head
    run.save(None, entries(2, 41, 41), 40)
    with pytest.raises(Compacted):
        run.log.install_snapshot(meta)


def test_compaction_keeps_the_log_behind_the_older_of_two_snapshots(run: Run) -> None:
    for first in range(7, 60, 3):
        run.save(None, entries(2, first, first + 2), first - 1)
    run.log.compact()
    segments = [path for path in run.disk.names() if path.suffix == ".wal"]
    run.create(20, 2)
    run.create(40, 2)
    run.compact()
    left = [path for path in run.disk.names() if path.suffix == ".wal"]
    assert 1 < len(left) < len(segments)
    run.log.close()
    with Wal.open(DIRECTORY, segment_bytes=SEGMENT_BYTES, io=run.disk) as wal:
        assert wal.first_index <= wal.snapshots[0] + 1
    run.open()
    assert run.log.bytes_since_snapshot == sum(len(one.data) for one in run.expected.log)


@pytest.mark.parametrize(("most_bytes", "most", "first"), [(10**6, 3, 18), (10**6, 0, 21), (0, 5, 21), (10**6, 99, 1)])
def test_trimming_keeps_a_bounded_rest_for_slow_followers(most_bytes: int, most: int, first: int) -> None:
    run = Run(FaultyDisk())
    run.open()
    run.save(HardState(1, 1), entries(1, 1, 30), 0)
    assert run.log.trim() == 1, "without a snapshot all stays"
    run.create(20, 1)
    assert run.log.trim(most_bytes, most) == first
    assert run.log.trim(most_bytes, most) == first
    assert run.log.storage.term(20) == 1


def test_trimming_counts_bytes_as_every_other_limit_does() -> None:
    run = Run(FaultyDisk())
    run.open()
    run.save(HardState(1, 1), entries(1, 1, 30), 0)
    run.create(20, 1)
    last_two = sum(entry_bytes(one) for one in entries(1, 19, 20))
    assert run.log.trim(last_two) == 19


def test_a_reader_reads_on_while_newer_snapshots_take_the_place_of_its_own(run: Run) -> None:
    run.create(2, 2)
    with run.log.open_snapshot() as reader:
        assert reader.head == SnapshotHead(SnapshotMeta(2, 2, CONF), len(state(2)), reader.head.checksum)
        first = reader.read(0, 300)
        for index in (3, 4, 5):
            run.create(index, 2)
        assert DIRECTORY / f"{2:016x}.snap" not in run.disk.names()
        assert first + reader.read(300, 10**6) == state(2)
        assert reader.read(len(state(2)), 5) == b""
        for offset, length in ((-1, 5), (len(state(2)) + 1, 5), (0, -1)):
            with pytest.raises(ValueError, match="cannot be read"):
                reader.read(offset, length)
        reader.close()
        with pytest.raises(ValueError, match="cannot be read"):
            reader.read(0, 1)


def test_size_and_checksum_travel_in_the_message(run: Run) -> None:
    run.create(3, 2)
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(run.log.storage.snapshot()), type=Snapshot)
    assert head_of(sent) == run.log.head
    with pytest.raises(msgspec.MsgspecError):
        head_of(Snapshot(SnapshotMeta(1, 1), b"something else"))


# -- a leader's snapshot on its way ------------------------------------------------------------------------------------


def test_pieces_that_do_not_go_on_where_the_last_one_ended_are_passed_by(run: Run) -> None:
    receive = run.log.receive
    assert receive(HEAD, 0, THEIRS[:500]) == 500
    assert receive(HEAD, 0, THEIRS[:500]) == 500
    assert receive(HEAD, 1000, THEIRS[1000:1500]) == 500
    writes_nothing(run, lambda: receive(HEAD, 500, b""))
    assert receive(HEAD, 500, THEIRS[500:]) == 4000
    assert receive(HEAD, 0, b"") == 4000
    run.install(HEAD.meta, None)
    assert b"".join(run.log.read_snapshot()) == THEIRS
    run.reopen()


def test_an_arriving_snapshot_is_synced_every_so_often_and_a_restart_goes_on_there(run: Run) -> None:
    for at in range(0, 2500, 250):
        run.log.receive(HEAD, at, THEIRS[at : at + 250])
    run.disk.lose_power(0.0)
    run.open()
    assert run.log.receive(HEAD, 0, b"") == 2000
    assert run.receive(HEAD, THEIRS, 700) == 4000
    run.disk.lose_power(0.0)
    run.open()
    assert run.log.receive(HEAD, 0, b"") == 4000
    run.install(HEAD.meta, None)
    run.disk.lose_power(0.0)
    run.open()


def test_another_snapshot_begins_anew_also_after_a_restart_that_found_one_whole(run: Run) -> None:
    other = head_of_state(50, 2, state(50))
    run.receive(HEAD, THEIRS, 900, most=2000)
    assert run.log.receive(other, 0, b"") == 0
    assert run.receive(HEAD, THEIRS, 900) == 4000
    run.reopen()
    assert run.receive(other, state(50), 900) == len(state(50))
    run.install(other.meta, None)


def test_a_whole_snapshot_waits_until_it_is_installed_or_dropped(run: Run) -> None:
    other = head_of_state(50, 2, state(50))
    run.receive(HEAD, THEIRS, 900)
    assert run.log.receive(other, 0, state(50)) == 0
    assert run.log.receive(HEAD, 0, b"") == 4000
    run.log.drop_incoming()
    with pytest.raises(Unavailable):
        run.log.install_snapshot(HEAD.meta)
    assert run.log.receive(other, 0, state(50)) == len(state(50))
    assert not [path for path in run.disk.names() if path.name == "incoming.tmp"]


def test_p9_bytes_that_are_not_those_announced_are_dropped(run: Run) -> None:
    with pytest.raises(SnapshotMismatch, match="another checksum"):
        run.receive(HEAD, THEIRS[:-1] + b"!", 900)
    with pytest.raises(SnapshotMismatch, match="4000 bytes was announced, and more"):
        run.log.receive(HEAD, 0, THEIRS + b"!")
    assert run.log.receive(HEAD, 0, b"") == 0
    assert run.receive(HEAD, THEIRS, 900) == 4000


def test_a_state_of_no_bytes_arrives_as_well(run: Run) -> None:
    head = head_of_state(40, 2, b"")
    assert run.log.receive(head, 0, b"") == 0
    run.install(head.meta, None)
    run.reopen()
    assert list(run.log.read_snapshot()) == []


def test_p9_what_was_received_and_has_changed_since_is_not_installed(run: Run) -> None:
    run.receive(HEAD, THEIRS, 900)
    path = DIRECTORY / INCOMING_NAME
    run.disk.flip(path, run.disk.content(path).index(b"state after") * 8)
    with pytest.raises(LogDamaged, match="read back otherwise") as caught:
        run.log.install_snapshot(HEAD.meta)
    assert caught.value.path == path
    run.reopen()
    assert run.log.receive(HEAD, 0, b"") == 0, "what is spoilt is not gone on with"


def test_p9_half_a_snapshot_that_has_changed_is_received_anew(run: Run) -> None:
    run.receive(HEAD, THEIRS, 900, most=2500)
    run.log.close()
    for name in (INCOMING_NAME, "incoming.progress"):
        disk = run.disk.clone(0)
        if name == INCOMING_NAME:
            disk.flip(DIRECTORY / name, disk.content(DIRECTORY / name).index(b"state after") * 8)
        else:
            disk.flip(DIRECTORY / name, 8 * 45)
            disk.flip(DIRECTORY / name, 8 * (4096 + 45))
        again = Run(disk, allowed=[run.expected])
        again.open()
        assert again.receive(HEAD, THEIRS, 900) == 4000
        again.install(HEAD.meta, None)


def test_a_full_disk_refuses_a_snapshot_before_its_first_byte(run: Run) -> None:
    run.disk.capacity = sum(len(run.disk.content(path)) for path in run.disk.names()) + 3000
    with pytest.raises(LogFull, match="reserve"):
        run.log.receive(HEAD, 0, THEIRS[:100])
    assert not [path for path in run.disk.names() if path.name.startswith(INCOMING_NAME)]
    run.disk.capacity = None
    assert run.receive(HEAD, THEIRS, 900) == 4000


def test_a_snapshot_on_its_way_that_the_log_has_overtaken_is_forgotten_at_the_next_start(run: Run) -> None:
    run.receive(HEAD, THEIRS, 900, most=2500)
    run.install(SnapshotMeta(50, 2, CONF), None, [state(50)])
    run.reopen()
    assert not [path for path in run.disk.names() if path.name.startswith(INCOMING_NAME)]


def test_p9_a_full_disk_after_a_snapshot_has_its_name_takes_nothing_back(run: Run) -> None:
    """The record that says so is owed, and goes before the next entries."""
    while run.log.room_bytes >= 64 + 40:  # a marker fits, the record behind it does not
        run.save(None, [entry(2, run.expected.last + 1)], 4)
        assert run.expected.last < 60
    meta = SnapshotMeta(100, 2, CONF)
    segments = sum(path.suffix == ".wal" for path in run.disk.names())

    def full_behind_the_snapshot() -> Iterator[bytes]:
        yield state(100)
        used = sum(len(run.disk.content(path)) for path in run.disk.names())
        run.disk.capacity = used + 100

    run.log.install_snapshot(meta, None, full_behind_the_snapshot())
    assert sum(path.suffix == ".wal" for path in run.disk.names()) == segments
    run.disk.capacity = None
    run.log.save(None, entries(2, 101, 103), 100)
    run.log.close()
    with Wal.open(DIRECTORY, segment_bytes=SEGMENT_BYTES, io=run.disk) as wal:
        kinds = [decode_record(data) for _, data in wal.read(wal.snapshots[-1])]
        assert kinds[:2] == [Marker(100, 2), Installed(wal.snapshots[-1])]
        assert len(kinds) == 5
    log = DurableLog.open(DIRECTORY, IDENTITY, segment_bytes=SEGMENT_BYTES, io=run.disk)
    assert log.storage.last_index() == 103


def test_a_partial_file_without_anything_synced_is_begun_anew(run: Run) -> None:
    disk = LogDisk(run.disk)
    incoming = Incoming(disk, DIRECTORY, b"0123456789abcdef", SYNC_BYTES)
    incoming.receive(HEAD, 0, THEIRS[:500])
    incoming.close()
    again = Incoming(disk, DIRECTORY, b"0123456789abcdef")
    again.resume()
    assert again.head is None


# -- reality -----------------------------------------------------------------------------------------------------------


def test_the_real_file_system_holds_a_log_while_another_thread_makes_snapshots(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "log"
    done: list[int] = []
    with DurableLog.open(directory, IDENTITY, segment_bytes=16384) as log:
        log.save(HardState(1, 1), entries(1, 1, 1), 0)
        saved = [1]
        over = threading.Event()

        def slow() -> None:
            while not over.is_set():
                index = saved[-1]
                if index > log.snapshot_meta().index:
                    log.create_snapshot(SnapshotMeta(index, 1, ConfState((1,))), [b"x" * 5000, b"y"])
                    done.append(index)
                log.prepare()

        thread = threading.Thread(target=slow)
        thread.start()
        for first in range(2, 602, 3):
            log.save(None, entries(1, first, first + 2), first - 1)
            saved.append(first + 2)
            if first % 30 == 2:
                log.compact()
        over.set()
        thread.join()
    assert done == sorted(done)
    assert len(done) > 2
    with DurableLog.open(directory, IDENTITY, segment_bytes=16384) as log:
        assert log.snapshot_meta().index == done[-1]
        assert log.storage.last_index() == 601
        assert b"".join(log.read_snapshot()) == b"x" * 5000 + b"y"
        assert log.receive(HEAD, 0, THEIRS) == 0 or log.receive(HEAD, 0, b"") == 4000


def test_the_real_file_system_holds_a_leaders_snapshot_over_a_restart(tmp_path: Path) -> None:
    theirs = bytes(range(256)) * 20_000
    head = head_of_state(1000, 3, theirs)
    with DurableLog.open(tmp_path, IDENTITY, incoming_sync_bytes=10**6, segment_bytes=8192) as log:
        for at in range(0, 2_600_000, 260_000):
            log.receive(head, at, theirs[at : at + 260_000])
    with DurableLog.open(tmp_path, IDENTITY, incoming_sync_bytes=10**6, segment_bytes=8192) as log:
        have = log.receive(head, 0, b"")
        assert have == 2_080_000
        while have < len(theirs):
            have = log.receive(head, have, theirs[have : have + 260_000])
        log.install_snapshot(head.meta, HardState(3, 0, 0))
        log.save(None, entries(3, 1001, 1003), 1000)
    with DurableLog.open(tmp_path, IDENTITY, segment_bytes=8192) as log:
        assert log.head == head
        assert b"".join(log.read_snapshot()) == theirs
        assert log.storage.last_index() == 1003

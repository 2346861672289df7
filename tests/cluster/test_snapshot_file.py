"""The bytes of a snapshot's file: whatever was changed, cut or moved in them is seen (P9)."""

from __future__ import annotations

import itertools

import pytest

from agent.cluster.snapshot import read
from agent.cluster.snapshot_file import MAGIC, Header, Reader, SnapshotError, Writer
from tests.cluster.left_behind import a_file


def test_a_whole_file_is_read_however_it_is_cut_into_pieces() -> None:
    data = a_file()
    for size in (1, 7, len(data)):
        contents = read(data[at : at + size] for at in range(0, len(data), size))
        assert (contents.runs, contents.table.rows.cluster, contents.header.history) == (1, "c1", True)


def test_a_file_that_was_cut_anywhere_is_seen_p9() -> None:
    data = a_file()
    for length in range(len(data)):
        with pytest.raises(SnapshotError):
            read([data[:length]])
    with pytest.raises(SnapshotError, match="behind the end"):
        read([data, b"x"])


def test_a_flipped_bit_anywhere_is_seen_p9() -> None:
    data = a_file()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(SnapshotError):
            read([bytes(damaged)])


def test_a_record_that_is_left_out_or_moved_is_seen_though_each_is_sound_p9() -> None:
    data = a_file()
    reader, bounds = Reader(), [len(MAGIC)]
    for _kind, body in reader.feed(data):
        bounds.append(bounds[-1] + 9 + len(body))
    records = [data[a:b] for a, b in itertools.pairwise(bounds)]
    for order in itertools.permutations(range(len(records)), len(records) - 1):
        with pytest.raises(SnapshotError):
            read([MAGIC, *(records[at] for at in order)])


def test_a_file_of_something_else_or_of_a_later_format_says_so() -> None:
    with pytest.raises(SnapshotError, match="prime cluster snapshot save"):
        read([b"PK\x03\x04 a zip"])
    later = Writer().struct(Header(2, "c", 1, 1, 1, 0, "9", "a", (), history=False))
    with pytest.raises(SnapshotError, match="format 2"):
        read([later])

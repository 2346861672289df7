"""Log segments: exact bytes, bounded size, marked gaps, and a log that goes on after a crash."""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executors.base import LogLine, Stream
from executors.errors import ExecutorError
from executors.segments import (
    RECORD_BYTES,
    Cursor,
    Gap,
    Position,
    ResumePoint,
    SegmentWriter,
    read,
    resume_points,
    segment_numbers,
    tail,
)
from tests.small_disk import small_disk

KIB = 1024
MIB = 1024 * KIB
T0_NS = 1_475_799_429_669_794_202  # 2016-10-07T00:17:09.669794202Z
OUT, ERR = Stream.STDOUT, Stream.STDERR

each_in_its_own_directory = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def content(records: list[LogLine | Gap], stream: Stream) -> bytes:
    """The stream's exact output."""
    lines = [record for record in records if isinstance(record, LogLine) and record.stream is stream]
    return b"".join(line.data + (b"" if line.partial else b"\n") for line in lines)


def write_numbers(directory: Path, count: int, *, limit_bytes: int = 100 * MIB, segment_bytes: int = 20 * KIB) -> None:
    """`count` lines of 100 bytes, a nanosecond apart."""
    with SegmentWriter(directory, limit_bytes=limit_bytes, segment_bytes=segment_bytes) as writer:
        for number in range(count):
            writer.write(OUT, b"%099d\n" % number, T0_NS + number)


def numbers_of(records: list[LogLine | Gap]) -> list[int]:
    return [int(record.data) for record in records if isinstance(record, LogLine)]


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """The kernel refuses to write beyond: a failing write as on a full disk, some of it done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestWhatIsWritten:
    def test_a_record_is_a_line_in_cris_format(self, tmp_path: Path) -> None:
        with SegmentWriter(tmp_path / "new" / "log", limit_bytes=MIB) as writer:
            writer.write(OUT, b"first\nsec", T0_NS)
            writer.write(ERR, b"wrong\n", T0_NS + 1)
            writer.write(OUT, b"ond\nrest", 1_000_000_000)
        assert (tmp_path / "new" / "log" / "000001.log").read_bytes() == (
            b"2016-10-07T00:17:09.669794202Z stdout F first\n"
            b"2016-10-07T00:17:09.669794203Z stderr F wrong\n"
            b"1970-01-01T00:00:01.000000000Z stdout F second\n"
            b"1970-01-01T00:00:01.000000000Z stdout P rest\n"
        )

    @pytest.mark.parametrize("length", [0, 1, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, 3 * RECORD_BYTES])
    @pytest.mark.parametrize("end", [b"\n", b""])
    @pytest.mark.parametrize("piece", [1000, RECORD_BYTES, 10**6])
    def test_no_record_is_longer_than_16_kib_and_none_is_empty_without_need(
        self, tmp_path: Path, length: int, end: bytes, piece: int
    ) -> None:
        written = b"x" * length + end
        with SegmentWriter(tmp_path, limit_bytes=MIB) as writer:
            for at in range(0, len(written), piece):
                writer.write(OUT, written[at : at + piece], T0_NS)
        records = list(read(tmp_path))
        assert content(records, OUT) == written
        lines = [record for record in records if isinstance(record, LogLine)]
        assert len(lines) == max(-(-length // RECORD_BYTES), len(end))
        assert all(len(line.data) <= RECORD_BYTES for line in lines)
        assert [line.partial for line in lines[:-1]] == [True] * (len(lines) - 1)

    @each_in_its_own_directory
    @given(
        pieces=st.lists(
            st.tuples(
                st.sampled_from(Stream),
                st.one_of(
                    st.binary(max_size=200),
                    st.text("ab\n", max_size=50).map(str.encode),
                    st.tuples(st.integers(0, 40_000), st.sampled_from([b"\n", b"", b"\0\n"])).map(
                        lambda pair: b"y" * pair[0] + pair[1]
                    ),
                ),
            ),
            max_size=30,
        )
    )
    def test_any_bytes_in_any_pieces_are_read_back(
        self, tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[Stream, bytes]]
    ) -> None:
        directory = tmp_path_factory.mktemp("log")
        with SegmentWriter(directory, limit_bytes=100 * MIB, segment_bytes=1) as writer:
            for number, (stream, data) in enumerate(pieces):
                writer.write(stream, data, T0_NS + number)
        records = list(read(directory))
        for stream in Stream:
            written = b"".join(data for its, data in pieces if its is stream)
            assert content(records, stream) == written
            assert list(read(directory, stream=stream)) == [
                record for record in records if isinstance(record, LogLine) and record.stream is stream
            ]
        for count in (0, 1, 3, len(records), len(records) + 1):
            assert tail(directory, count) == (records[-count:] if count else [])

    def test_records_made_elsewhere_keep_their_time_and_tag(self, tmp_path: Path) -> None:
        lines = [
            LogLine(T0_NS + 5, OUT, b"part", partial=True),
            LogLine(T0_NS, ERR, b""),
            LogLine(T0_NS + 6, OUT, b"end"),
        ]
        with SegmentWriter(tmp_path, limit_bytes=MIB) as writer:
            for line in lines:
                writer.write_line(line)
            with pytest.raises(ValueError, match="newline"):
                writer.write_line(LogLine(T0_NS, OUT, b"a\nb"))
        assert list(read(tmp_path)) == lines

    def test_flushed_rests_can_be_read_while_the_line_goes_on(self, tmp_path: Path) -> None:
        with SegmentWriter(tmp_path, limit_bytes=MIB) as writer:
            writer.write(OUT, b"50 %", T0_NS)
            assert list(read(tmp_path)) == []
            writer.flush()
            assert list(read(tmp_path)) == [LogLine(T0_NS, OUT, b"50 %", partial=True)]
            writer.write(OUT, b" 100 %\n", T0_NS)
            assert content(list(read(tmp_path)), OUT) == b"50 % 100 %\n"

    def test_two_writers_of_one_log_are_not_possible(self, tmp_path: Path) -> None:
        with SegmentWriter(tmp_path, limit_bytes=MIB), pytest.raises(ExecutorError, match="another writer"):
            SegmentWriter(tmp_path, limit_bytes=MIB)
        SegmentWriter(tmp_path, limit_bytes=MIB).close()


class TestTheLimit:
    """P12: bounded, and what is missing is marked."""

    @pytest.mark.parametrize("limit_kib", [0, 100, 300])
    def test_a_log_never_passes_its_limit_and_keeps_its_beginning_and_end(self, tmp_path: Path, limit_kib: int) -> None:
        limit_bytes = max(limit_kib * KIB, 4 * (RECORD_BYTES + 41))
        with SegmentWriter(tmp_path, limit_bytes=limit_kib * KIB) as writer:
            for number in range(10_000):
                writer.write(OUT, b"%099d\n" % number, T0_NS + number)
                if number % 50 == 0:
                    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= limit_bytes
        records = list(read(tmp_path))
        numbers = numbers_of(records)
        assert (numbers[0], numbers[-1]) == (0, 9_999)
        gaps = [(at, record) for at, record in enumerate(records) if isinstance(record, Gap)]
        assert len(gaps) == 1
        at, gap = gaps[0]
        assert numbers[:at] == list(range(at))
        assert numbers[at:] == list(range(numbers[at], 10_000))
        assert gap.missing_segments == max(segment_numbers(tmp_path)) - len(segment_numbers(tmp_path))
        assert tail(tmp_path, 10**6) == records

    def test_a_big_piece_of_short_lines_is_cut_at_segments_like_any_other(self, tmp_path: Path) -> None:
        with SegmentWriter(tmp_path, limit_bytes=MIB, segment_bytes=20 * KIB) as writer:
            writer.write(OUT, b"\n" * 10_000, T0_NS)
        assert all(file.stat().st_size <= 20 * KIB for file in tmp_path.iterdir())
        assert len(list(read(tmp_path))) == 10_000

    def test_a_log_that_goes_on_counts_what_was_there(self, tmp_path: Path) -> None:
        for _ in range(5):
            write_numbers(tmp_path, 1000, limit_bytes=100 * KIB)
            assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 100 * KIB
        assert 1 in segment_numbers(tmp_path)


class TestCrashAndDamage:
    """P9: a torn write is repaired, damage is shown, a full disk leaves a mark."""

    def test_a_record_torn_anywhere_is_cut_off_and_the_log_goes_on(self, tmp_path: Path) -> None:
        with SegmentWriter(tmp_path / "whole", limit_bytes=MIB) as writer:
            writer.write(OUT, b"kept\ntorn away\n", T0_NS)
        whole = (tmp_path / "whole" / "000001.log").read_bytes()
        kept = whole.index(b"\n") + 1
        for length in range(kept, len(whole)):
            directory = tmp_path / str(length)
            directory.mkdir()
            (directory / "000001.log").write_bytes(whole[:length])
            assert [line.data for line in read(directory) if isinstance(line, LogLine)] == [b"kept"]
            assert tail(directory, 5) == [LogLine(T0_NS, OUT, b"kept")]
            with SegmentWriter(directory, limit_bytes=MIB) as writer:
                writer.write(OUT, b"new\n", T0_NS)
            assert content(list(read(directory)), OUT) == b"kept\nnew\n"

    def test_a_first_record_torn_leaves_an_empty_log(self, tmp_path: Path) -> None:
        (tmp_path / "000001.log").write_bytes(b"2016-10-07T00:17")
        assert list(read(tmp_path)) == tail(tmp_path, 3) == []
        with SegmentWriter(tmp_path, limit_bytes=MIB) as writer:
            writer.write(OUT, b"new\n", T0_NS)
        assert content(list(read(tmp_path)), OUT) == b"new\n"

    @pytest.mark.parametrize(
        "damage",
        [
            b"no record\n",
            b"\n",
            b"2016-13-07T00:17:09.669794202Z stdout F bad month\n",
            b"2016-10-07T00:17:09.66979420xZ stdout F bad fraction\n",
            b"2016-10-07T00:17:09.669794202Z stdin  F bad stream\n",
            b"2016-10-07T00:17:09.669794202Z stdout X bad tag\n",
        ],
    )
    def test_damage_is_shown_where_it_is(self, tmp_path: Path, damage: bytes) -> None:
        write_numbers(tmp_path, 2)
        file = tmp_path / "000001.log"
        first, second = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(first + damage + second)
        records = [LogLine(T0_NS, OUT, b"%099d" % 0), Gap(0, len(damage)), LogLine(T0_NS + 1, OUT, b"%099d" % 1)]
        assert list(read(tmp_path)) == records
        assert tail(tmp_path, 2) == records

    def test_a_segment_that_ends_torn_before_another_is_damaged(self, tmp_path: Path) -> None:
        write_numbers(tmp_path, 400)
        file = tmp_path / "000001.log"
        file.write_bytes(file.read_bytes()[:-10])
        records = list(read(tmp_path))
        gaps = [record for record in records if isinstance(record, Gap)]
        assert gaps == [Gap(0, damaged_bytes=130)]
        assert len(records) == 400

    def test_what_a_full_disk_refuses_is_lost_whole_and_leaves_a_gap(self, tmp_path: Path) -> None:
        writer = SegmentWriter(tmp_path, limit_bytes=MIB)
        writer.write(OUT, b"before\n", T0_NS)
        with files_no_longer_than(100):
            for _ in range(3):
                with pytest.raises(OSError, match="too large"):
                    writer.write(OUT, b"lost\n" * 10, T0_NS)
        writer.write(OUT, b"after\n", T0_NS)
        writer.close()
        before, after = LogLine(T0_NS, OUT, b"before"), LogLine(T0_NS, OUT, b"after")
        assert list(read(tmp_path)) == [before, Gap(missing_segments=1), after]

    def test_output_leaves_room_on_the_disk_for_the_records_of_what_ended(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "small", 8) as disk:
            with SegmentWriter(disk / "log", limit_bytes=64 * MIB) as writer:
                lost = 0
                for _ in range(100):
                    try:
                        writer.write(OUT, b"x" * 100_000 + b"\n", T0_NS)
                    except OSError as error:
                        lost += error.errno == errno.ENOSPC
            assert 0 < lost < 100
            assert MIB <= shutil.disk_usage(disk).free < 2 * MIB  # an eighth of it
            lines = [record for record in read(disk / "log") if isinstance(record, LogLine)]
            assert len([one for one in lines if not one.partial]) == 100 - lost

    def test_where_no_new_segment_can_be_made_the_writer_stays_usable(self, tmp_path: Path) -> None:
        writer = SegmentWriter(tmp_path / "log", limit_bytes=MIB, segment_bytes=1)
        (tmp_path / "log").rename(tmp_path / "away")
        with pytest.raises(FileNotFoundError):
            writer.write(OUT, b"x\n" * 10_000, T0_NS)
        (tmp_path / "away").rename(tmp_path / "log")
        writer.write(OUT, b"after\n", T0_NS)
        writer.close()
        records = list(read(tmp_path / "log"))
        assert records[-2:] == [Gap(1), LogLine(T0_NS, OUT, b"after")]


class TestReading:
    def test_a_log_that_is_not_there_is_empty(self, tmp_path: Path) -> None:
        assert list(read(tmp_path / "none")) == tail(tmp_path / "none", 5) == []
        assert resume_points(tmp_path / "none") == {}

    @pytest.mark.parametrize("number", [0, 1, 500, 2499, 2500])
    def test_since_leaves_out_what_is_older(self, tmp_path: Path, number: int) -> None:
        write_numbers(tmp_path, 2500)
        assert numbers_of(list(read(tmp_path, since_ns=T0_NS + number))) == list(range(number, 2500))

    def test_since_opens_only_the_segments_that_can_hold_it(self, tmp_path: Path) -> None:
        minute_ns = 60 * 10**9
        with SegmentWriter(tmp_path, limit_bytes=100 * MIB, segment_bytes=20 * KIB) as writer:
            for number in range(2500):
                writer.write(OUT, b"%099d\n" % number, T0_NS + number * minute_ns)
        for number in segment_numbers(tmp_path)[1:3]:
            (tmp_path / f"{number:06d}.log").unlink()
        late = list(read(tmp_path, since_ns=T0_NS + 2000 * minute_ns))
        assert late == [LogLine(T0_NS + n * minute_ns, OUT, b"%099d" % n) for n in range(2000, 2500)]
        assert Gap(2) in list(read(tmp_path, since_ns=T0_NS + 1))

    def test_a_cursor_gets_each_record_once_while_the_log_is_written(self, tmp_path: Path) -> None:
        seen: list[LogLine | Gap] = []
        with (
            Cursor(tmp_path) as cursor,
            SegmentWriter(tmp_path, limit_bytes=100 * MIB, segment_bytes=20 * KIB) as writer,
        ):
            assert cursor.poll() == []
            for number in range(2000):
                writer.write(OUT, b"%099d\n" % number, T0_NS)
                if number % 7 == 0:
                    seen += cursor.poll(limit=5)
            while batch := cursor.poll(limit=100):
                assert len(batch) <= 100
                seen += batch
            assert cursor.poll() == []
        assert numbers_of(seen) == list(range(2000))

    def test_a_cursor_waits_for_the_rest_of_a_record_that_is_being_written(self, tmp_path: Path) -> None:
        record = b"2016-10-07T00:17:09.669794202Z stdout F text\n"
        with Cursor(tmp_path) as cursor, (tmp_path / "000001.log").open("ab", buffering=0) as file:
            for at in range(len(record)):
                assert cursor.poll() == []
                file.write(record[at : at + 1])
            assert cursor.poll() == [LogLine(T0_NS, OUT, b"text")]

    def test_a_cursor_reads_on_when_segments_are_deleted_under_it(self, tmp_path: Path) -> None:
        write_numbers(tmp_path, 1500)
        numbers = segment_numbers(tmp_path)
        in_segment = len((tmp_path / "000001.log").read_bytes().splitlines())
        with Cursor(tmp_path) as cursor:
            seen = cursor.poll(limit=in_segment + 10)  # it stands in the second
            for number in numbers[1:4]:
                (tmp_path / f"{number:06d}.log").unlink()
            seen += cursor.poll(10_000)
        gap = next(record for record in seen if isinstance(record, Gap))
        assert gap == Gap(missing_segments=2)
        assert numbers_of(seen) == [*range(2 * in_segment), *range(4 * in_segment, 1500)]

    def test_a_position_is_where_another_cursor_goes_on(self, tmp_path: Path) -> None:
        write_numbers(tmp_path, 1000)
        position, seen = Position(), []
        while True:
            with Cursor(tmp_path, after=position) as cursor:
                batch = cursor.poll(limit=37)
                position = cursor.position
            if not batch:
                break
            seen += batch
        assert numbers_of(seen) == list(range(1000))

    def test_a_position_in_a_deleted_segment_goes_on_after_a_gap(self, tmp_path: Path) -> None:
        write_numbers(tmp_path, 1000)
        (tmp_path / "000002.log").unlink()
        (tmp_path / "000003.log").unlink()
        with Cursor(tmp_path, after=Position(2, 140)) as cursor:
            batch = cursor.poll()
        assert batch[0] == Gap(missing_segments=2)
        assert numbers_of(batch)[-1] == 999

    def test_tail_of_one_stream_looks_behind_the_other(self, tmp_path: Path) -> None:
        with SegmentWriter(tmp_path, limit_bytes=100 * MIB, segment_bytes=1) as writer:
            writer.write(ERR, b"one\ntwo\nthree\n", T0_NS)
            writer.write(OUT, b"%099d\n" % 0 * 5000, T0_NS)
        assert [line.data for line in tail(tmp_path, 2, stream=ERR) if isinstance(line, LogLine)] == [b"two", b"three"]

    def test_resume_points_say_how_far_a_copy_came(self, tmp_path: Path) -> None:
        with SegmentWriter(tmp_path, limit_bytes=100 * MIB, segment_bytes=1) as writer:
            for line in (
                LogLine(T0_NS, OUT, b"a"),
                LogLine(T0_NS + 1, OUT, b"x" * RECORD_BYTES, partial=True),
                LogLine(T0_NS + 1, OUT, b"b"),
                LogLine(T0_NS + 9, ERR, b"c"),
                LogLine(T0_NS + 1, OUT, b"d"),
            ):
                writer.write_line(line)
        assert resume_points(tmp_path) == {OUT: ResumePoint(T0_NS + 1, 3), ERR: ResumePoint(T0_NS + 9, 1)}

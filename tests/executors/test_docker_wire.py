"""What an engine says, read without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executors.base import AttemptSpec, LogLine, Stream
from executors.docker_wire import (
    RECORD_SIZE_MAX,
    REORDER_NS,
    Frames,
    Position,
    Reader,
    command_paths,
    format_time,
    gateway_of,
    outcome_of,
    parse_container,
    parse_image,
    parse_time_ns,
)
from executors.errors import ExecutorError

NOWHERE = Path("/nonexistent")
NEVER = "0001-01-01T00:00:00Z"
BASE_NS = 1_700_000_000_000_000_000


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def inspection(status: str, **state: Any) -> dict[str, Any]:
    return {
        "Id": "c0ffee",
        "Name": "/prime-a",
        "Image": "sha256:1",
        "Created": "2026-11-24T04:04:08Z",
        "Config": {"Image": "busybox:1.36", "Labels": {"io.prime.image-digest": "busybox@sha256:2"}},
        "HostConfig": {"Memory": 1024},
        "State": {
            "Status": status,
            "ExitCode": 0,
            "OOMKilled": False,
            "StartedAt": "2026-11-24T04:04:09.073148076Z",
            "FinishedAt": NEVER,
            **state,
        },
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-11-14T22:13:20Z", BASE_NS),
        ("2023-11-14T22:13:20.000000001Z", BASE_NS + 1),
        ("2023-11-14T22:13:20.5Z", BASE_NS + 500_000_000),
        ("2023-11-15T00:13:20.000000000+02:00", BASE_NS),
        ("2023-11-14T16:43:20-05:30", BASE_NS),
        (NEVER, None),
    ],
)
def test_times_are_read_to_the_nanosecond_in_any_zone(text: str, expected: int | None) -> None:
    assert parse_time_ns(text) == expected


def test_what_is_no_time_is_refused_with_its_text() -> None:
    with pytest.raises(ExecutorError, match="yesterday"):
        parse_time_ns("yesterday")


def test_a_time_is_given_to_the_engine_without_loss() -> None:
    assert format_time(BASE_NS + 1) == "1700000000.000000001"


@pytest.mark.parametrize("status", ["created", "running", "paused", "restarting"])
def test_a_container_that_may_yet_run_has_no_outcome(status: str) -> None:
    assert outcome_of(parse_container(inspection(status))) is None


def test_only_a_container_without_a_start_has_never_started() -> None:
    assert parse_container(inspection("created", StartedAt=NEVER)).never_started
    assert not parse_container(inspection("running")).never_started


def test_an_outcome_carries_times_code_and_image() -> None:
    outcome = outcome_of(parse_container(inspection("exited", FinishedAt="2026-11-24T04:04:10.5Z")))
    assert outcome is not None
    assert (outcome.exit_code, outcome.reason, outcome.message) == (0, None, "")
    assert (outcome.finished_at_ms or 0) - (outcome.started_at_ms or 0) == 1427
    assert outcome.facts["image"] == "busybox:1.36"
    assert outcome.facts["image_id"] == "sha256:1"
    assert outcome.facts["image_digest"] == "busybox@sha256:2"


def test_an_end_is_not_before_its_start() -> None:
    """An engine stamps a start when it hears of it, and the end of a short container when it was."""
    outcome = outcome_of(parse_container(inspection("exited", FinishedAt="2026-11-24T04:04:09.071Z")))
    assert outcome is not None
    assert outcome.finished_at_ms == outcome.started_at_ms


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ({"ExitCode": 3}, "exit_code", "exit code 3"),
        ({"ExitCode": 143}, "exit_code", "SIGTERM"),
        ({"ExitCode": 255}, "exit_code", "exit code 255"),
        ({"ExitCode": 137, "OOMKilled": True}, "oom", "limit 1024 bytes"),
        ({"ExitCode": 0, "OOMKilled": True}, None, ""),  # a child was killed, and the work coped with it
        ({"ExitCode": 128, "Error": "shim died"}, "exit_code", "the engine says: shim died"),
    ],
)
def test_a_failure_has_its_reason_in_words(state: dict[str, Any], reason: str | None, words: str) -> None:
    """P11."""
    outcome = outcome_of(parse_container(inspection("exited", **state)))
    assert outcome is not None
    assert outcome.reason == reason
    assert words in outcome.message


@pytest.mark.parametrize("status", ["removing", "dead"])
def test_a_container_being_taken_away_has_no_exit_code(status: str) -> None:
    outcome = outcome_of(parse_container(inspection(status, ExitCode=0)))
    assert outcome is not None
    assert (outcome.exit_code, outcome.reason) == (None, "executor_error")


@pytest.mark.parametrize(
    ("entrypoint", "command", "expected"),
    [
        (None, (), ("/w/run",)),  # the image's own: entry point ./run
        (None, ("x",), ("/w/run",)),
        (("sh",), (), ("/a/sh", "/w/b/sh")),
        (("/bin/sh", "-c"), ("exit",), ("/bin/sh",)),
        ((), ("true",), ("/a/true", "/w/b/true")),
        ((), (), ()),
    ],
)
def test_the_program_is_looked_for_as_the_engine_does(
    entrypoint: tuple[str, ...] | None, command: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    config = {"Entrypoint": ["./run"], "Cmd": ["c"], "WorkingDir": "/w", "Env": ["X=1", "PATH=/a:b"]}
    image = parse_image({"Id": "sha256:1", "Config": config})
    spec = AttemptSpec("a", NOWHERE, NOWHERE, command, entrypoint)
    assert command_paths(spec, image) == expected


def test_a_network_without_a_gateway_has_its_first_address() -> None:
    assert gateway_of({"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.9"}) == "172.17.0.9"
    assert gateway_of({"Subnet": "172.17.0.0/16"}) == "172.17.0.1"
    assert gateway_of({"Subnet": "fd00:1::/64"}) == "fd00:1::1"


@given(sizes=st.lists(st.integers(1, 40), min_size=1))
def test_frames_may_arrive_in_any_pieces(sizes: list[int]) -> None:
    stream = (
        frame(1, b"2023-11-14T22:13:20.000000000Z out \xff\x00\n")
        + frame(2, b"2023-11-14T22:13:20.000000001Z \n")
        + frame(1, b"2023-11-14T22:13:20.000000002Z end")
    )
    frames, records, start, turn = Frames(), [], 0, 0
    while start < len(stream):
        records += frames.feed(stream[start : start + sizes[turn % len(sizes)]])
        start, turn = start + sizes[turn % len(sizes)], turn + 1
    assert records == [
        LogLine(BASE_NS, Stream.STDOUT, b"out \xff\x00"),
        LogLine(BASE_NS + 1, Stream.STDERR, b""),
        LogLine(BASE_NS + 2, Stream.STDOUT, b"end", partial=True),
    ]


@pytest.mark.parametrize("last_newline", [b"", b"\n"], ids=["local", "json-file"])
def test_a_long_line_ends_with_its_last_record(last_newline: bytes) -> None:
    """The `local` driver drops that record's newline, `json-file` keeps it."""
    stamp = b"2023-11-14T22:13:20.000000000Z "
    pieces = [b"x" * RECORD_SIZE_MAX, b"x" * RECORD_SIZE_MAX, b"x" + last_newline]
    records = Frames().feed(b"".join(frame(1, stamp + piece) for piece in pieces))
    assert [record.partial for record in records] == [True, True, False]


@pytest.mark.parametrize("garbage", [b"plain text of a terminal", frame(1, b"")[:4] + b"\xff\xff\xff\xff"])
def test_what_is_no_log_stream_is_refused(garbage: bytes) -> None:
    """P9, P12: and is not gathered in memory."""
    with pytest.raises(ExecutorError, match="not in frames"):
        Frames().feed(garbage)


# A log as an engine writes it: times may go back a little, and repeat.
LOGS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(Stream)), max_size=60).map(
    lambda items: [
        LogLine(BASE_NS + (index // 4 * 4 + jitter) * (REORDER_NS // 12), stream, b"%d" % index)
        for index, (jitter, stream) in enumerate(items)
    ]
)


def read_from(position: Position, log: list[LogLine]) -> list[LogLine]:
    """One read of what is in the log, as the engine answers it."""
    return Reader(position).take([line for line in log if line.time_ns >= position.filter_ns])


@given(log=LOGS, cuts=st.lists(st.integers(0, 60), max_size=5))
def test_reads_at_any_moments_give_each_record_once_in_order(log: list[LogLine], cuts: list[int]) -> None:
    position = Position(0)
    seen = [line for cut in [*sorted(cuts), len(log)] for line in read_from(position, log[:cut])]
    assert [line.data for line in seen] == [line.data for line in log]
    assert [line.time_ns for line in seen] == sorted(line.time_ns for line in seen)


@given(log=LOGS, stop=st.integers(0, 60))
def test_a_reader_that_was_killed_goes_on_from_its_last_time_and_count(log: list[LogLine], stop: int) -> None:
    """What a caller keeps is the last time, and how many records bear it."""
    kept = read_from(Position(0), log)[:stop]
    since_ns = kept[-1].time_ns if kept else 0
    again = read_from(Position(since_ns), log)
    count = sum(1 for line in kept if line.time_ns == since_ns)
    assert all(line.time_ns == since_ns for line in again[:count])
    assert [line.data for line in kept + again[count:]] == [line.data for line in log]


def test_records_that_were_rotated_away_before_they_were_read_leave_a_mark() -> None:
    """P12: truncation is always marked."""
    log = [LogLine(BASE_NS + second * 10**9, Stream.STDOUT, b"%d" % second) for second in range(9)]
    position = Position(0)
    read_from(position, log[:3])
    seen = read_from(position, log[6:])
    assert seen[0].stream is Stream.STDERR
    assert b"missing" in seen[0].data
    assert [line.data for line in seen[1:]] == [b"6", b"7", b"8"]
    assert read_from(position, log[6:]) == []

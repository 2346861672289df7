"""Output of several instances as one text: the merge, over streams that a client gives."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, cast

import pytest

from agent.cli import interleave
from agent.cli.follow import GAP
from agent.client import Client, Event, Refused


class Streams:
    """Stands for a client: gives the events of each instance, and notes which were taken so far."""

    def __init__(self, **events: list[Event] | Refused) -> None:
        self.streams = events
        self.taken: list[str] = []

    def twin(self) -> Streams:
        return self

    def events(self, path: str, **wanted: object) -> Iterator[Event]:
        assert wanted == {"stream": None}
        name = path.split("/")[-2]
        stream = self.streams[name]
        if isinstance(stream, Refused):
            raise stream
        for event in stream:
            self.taken.append(f"{name}:{event.data.get('text', '')}")
            yield event


def line(second: int, text: str, *, stream: str = "stdout", partial: bool = False, raw: bytes | None = None) -> Event:
    data: dict[str, Any] = {"time": f"2026-03-08T07:30:{second:02d}.000000000Z", "stream": stream, "text": text}
    encoded = {} if raw is None else {"base64": base64.b64encode(raw).decode()}
    return Event("line", {**data, "partial": partial, **encoded}, "")


END = Event("end", {}, "")


def shown(capsys: pytest.CaptureFixture[str], streams: Streams, *, times: bool = False) -> list[str]:
    interleave.show(cast("Client", streams), "r1", list(streams.streams), {"stream": None}, times=times)
    return capsys.readouterr().out.splitlines()


def test_lines_of_all_instances_come_by_time_each_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    streams = Streams(pre=[line(1, "a"), line(4, "d"), END], sql=[line(2, "b", stream="stderr"), line(3, "c"), END])
    assert shown(capsys, streams) == ["pre | a", "sql | b", "sql | c", "pre | d"]
    assert shown(capsys, streams, times=True)[1] == "sql | 2026-03-08T07:30:02.000000000Z stderr b"


def test_no_more_is_taken_of_a_stream_than_its_next_line_p12(capsys: pytest.CaptureFixture[str]) -> None:
    streams = Streams(old=[line(n, f"o{n}") for n in range(1, 9)], new=[line(n, f"n{n}") for n in range(20, 29)])
    shown(capsys, streams)
    assert streams.taken[:2] == ["old:o1", "new:n20"]
    assert streams.taken.index("new:n21") > streams.taken.index("old:o8")


def test_what_is_written_of_a_line_in_pieces_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pieces = [
        line(1, "be", partial=True),
        line(2, "err", stream="stderr"),
        line(3, "gun"),
        line(4, "left", partial=True),
    ]
    streams = Streams(sql=[*pieces, Event("gap", {}, ""), END])
    assert shown(capsys, streams) == ["sql | err", "sql | begun", f"sql | {GAP}", "sql | left"]


def test_bytes_that_are_no_text_stay_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    streams = Streams(sql=[line(1, "?", raw=b"\xff\xfe"), END])
    interleave.show(cast("Client", streams), "r1", ["sql"], {"stream": None}, times=False)
    assert capfdbinary.readouterr().out == b"sql | \xff\xfe\n"


def test_an_instance_whose_output_is_away_keeps_back_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    away = Refused(409, "output_away", "the output is on agent a9, which is lost")
    streams = Streams(pre=away, sql=[line(1, "a"), END])
    interleave.show(cast("Client", streams), "r1", ["pre", "sql"], {"stream": None}, times=False)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("sql | a\n", f"pre: no output can be shown: {away.detail}\n")
    with pytest.raises(Refused, match="a9"):
        shown(capsys, Streams(pre=away, sql=away))

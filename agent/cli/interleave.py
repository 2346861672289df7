"""The output of several instances as one text, by time. Of each no more is held than the line that comes next."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.cli import output
from agent.cli.follow import GAP, LINE_MAX, line_bytes

if TYPE_CHECKING:
    from agent.client import Client, Refused


class _Line(NamedTuple):
    """time: RFC 3339 with nanoseconds, so that texts compare as times do."""

    time: str
    instance: str
    stream: str
    data: bytes


def show(client: Client, run_id: str, instances: Sequence[str], wanted: Mapping[str, Any], *, times: bool) -> None:
    """Write the output of these instances to stdout, each line with its instance's name.

    wanted: parameters of the logs.  times: each line with its time and stream.  That an instance has none, as it never
    began, is told on stderr. Raises Refused, once all there is was shown, where output is not there that was.
    """
    refused: list[Refused] = []
    streams = [_lines(client.twin(), run_id, name, wanted, refused) for name in instances]
    out = sys.stdout.buffer
    sys.stdout.flush()
    for line in heapq.merge(*streams, key=lambda one: one.time):
        head = f"{line.instance} | " + (f"{line.time} {line.stream} " if times else "")
        out.write(head.encode() + line.data + b"\n")
    out.flush()
    if refused:
        raise refused[0]


def _lines(
    client: Client, run_id: str, instance: str, wanted: Mapping[str, Any], refused: list[Refused]
) -> Iterator[_Line]:
    """The whole lines of one instance, by the time of their ends."""
    from agent.client import Refused, path

    begun: dict[str, list[bytes]] = {"stdout": [], "stderr": []}  # of lines whose end has not come yet
    time = ""
    try:
        for event in client.events(path("runs", run_id, "instances", instance, "logs"), **wanted):
            if event.name == "gap":
                yield _Line(time, instance, "stdout", GAP.encode())
            if event.name != "line":
                continue
            time, stream = event.data["time"], event.data["stream"]
            pieces = begun[stream]
            pieces.append(line_bytes(event.data))
            if not event.data["partial"] or sum(map(len, pieces)) >= LINE_MAX:
                yield _Line(time, instance, stream, b"".join(pieces))
                pieces.clear()
    except Refused as error:
        if error.code == "never_captured":
            output.note(f"{instance}: {error}")
            return
        if refused:  # the first is told last
            output.note(f"{instance}: {error} ({error.code})")
        refused.append(error)
    for stream, pieces in begun.items():
        if pieces:
            yield _Line(time, instance, stream, b"".join(pieces))

"""What a Docker engine says, as values: times, containers, log records. Pure: no socket, no clock, no thread."""

from __future__ import annotations

import ipaddress
import posixpath
import re
import signal
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from time import strptime
from typing import Any

from executors.base import AttemptSpec, LogLine, Outcome, Stream
from executors.errors import ExecutorError

NAME_LABEL = "io.prime.name"
DIGEST_LABEL = "io.prime.image-digest"
DATA_DIRECTORY = "/data"  # where a container finds its attempt's directory
XCOM_DIRECTORY = "/airflow/xcom"  # ... and again its `out/`: there, images made for Airflow leave what they return
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # the engine's, where an image has none

RECORD_SIZE_MAX = 16 * 1024  # an engine cuts a line into records of this many bytes
FRAME_SIZE_MAX = 16 * 1024 * 1024  # of one frame of the log stream; a longer one is not a log stream
REORDER_NS = (
    250_000_000  # how far records of the two streams may stand out of order: they are stamped before they queue
)
REMOVED = "the container was removed by someone else"

_HEADER_SIZE = 8
_STREAMS = {1: Stream.STDOUT, 2: Stream.STDERR}
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))")


@lru_cache(maxsize=8)  # a burst of output is stamped within few seconds
def _seconds(text: str) -> int:
    return timegm(strptime(text, "%Y-%m-%dT%H:%M:%S"))


def parse_time_ns(text: str) -> int | None:
    """RFC 3339 to nanoseconds since the epoch; None for Go's zero time, which means "never"."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ExecutorError(f"the engine gave {text!r} where a time in RFC 3339 belongs")
    whole, fraction, sign, hours, minutes = match.groups()
    if whole.startswith("0001-"):
        return None
    offset = (int(hours) * 3600 + int(minutes) * 60) * (-1 if sign == "-" else 1) if sign else 0
    return (_seconds(whole) - offset) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))


def format_time(time_ns: int) -> str:
    """Nanoseconds since the epoch as the engine takes them in `since`: seconds, a dot and nine digits."""
    return f"{time_ns // 1_000_000_000}.{time_ns % 1_000_000_000:09d}"


@dataclass(frozen=True, slots=True)
class Image:
    """An image the engine has. digest: its name in a registry, `repository@sha256:...`; None for one made locally."""

    id: str
    digest: str | None
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    working_directory: str
    path: str


def parse_image(data: Mapping[str, Any]) -> Image:
    """`data`: the answer of `GET /images/{name}/json`."""
    digests, config = data.get("RepoDigests") or [], data.get("Config") or {}
    environment = dict(item.partition("=")[::2] for item in config.get("Env") or ())
    return Image(
        id=data["Id"],
        digest=digests[0] if digests else None,
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        working_directory=config.get("WorkingDir") or "/",
        path=environment.get("PATH") or DEFAULT_PATH,
    )


def command_paths(spec: AttemptSpec, image: Image) -> tuple[str, ...]:
    """Where in the container the program may be that `spec` runs, as execvp(3) looks for it; empty where none is named.

    An entry point in the spec leaves the image's command out, as the engine does.
    """
    if spec.entrypoint is None:
        words = image.entrypoint + (spec.command or image.command)
    else:
        words = spec.entrypoint + spec.command
    if not words:
        return ()
    if "/" in words[0]:
        return (posixpath.normpath(posixpath.join(image.working_directory, words[0])),)
    folders = (spec.environment.get("PATH") or image.path).split(":")
    return tuple(posixpath.normpath(posixpath.join(image.working_directory, folder, words[0])) for folder in folders)


def gateway_of(config: Mapping[str, str]) -> str:
    """The host's address in one entry of a network's `IPAM.Config`: an engine leaves it out for a bridge just made."""
    return config.get("Gateway") or str(ipaddress.ip_network(config["Subnet"], strict=False)[1])


def in_data_directory(path: str) -> bool:
    """True for a path below the attempt's own directory."""
    return path.startswith(f"{DATA_DIRECTORY}/")


@dataclass(frozen=True, slots=True)
class Container:
    """What an inspection tells that matters here. status: the engine's word, such as created, running, exited."""

    id: str
    name: str
    status: str
    exit_code: int
    oom_killed: bool
    error: str
    created_ns: int
    started_ns: int | None
    finished_ns: int | None
    memory_bytes: int
    stop_signal: str
    facts: Mapping[str, str]

    @property
    def never_started(self) -> bool:
        """True where it was created and no start has taken effect."""
        return self.started_ns is None

    @property
    def alive(self) -> bool:
        """True where its processes may run, or be started."""
        return self.status in ("created", "running", "paused", "restarting")


def parse_container(data: Mapping[str, Any]) -> Container:
    """`data`: the answer of `GET /containers/{id}/json`."""
    state, config = data["State"], data["Config"]
    labels = config.get("Labels") or {}
    facts = {"image": config["Image"], "image_id": data["Image"], "container_id": data["Id"]}
    if labels.get(DIGEST_LABEL):
        facts["image_digest"] = labels[DIGEST_LABEL]
    return Container(
        id=data["Id"],
        name=data["Name"].removeprefix("/"),
        status=state["Status"],
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        error=state.get("Error") or "",
        created_ns=parse_time_ns(data["Created"]) or 0,
        started_ns=parse_time_ns(state["StartedAt"]),
        finished_ns=parse_time_ns(state["FinishedAt"]),
        memory_bytes=(data.get("HostConfig") or {}).get("Memory") or 0,
        stop_signal=config.get("StopSignal") or "SIGTERM",
        facts=facts,
    )


def outcome_of(container: Container) -> Outcome | None:
    """How the container ended; None while it has not."""
    if container.alive:
        return None
    started_ms = None if container.started_ns is None else container.started_ns // 1_000_000
    finished_ms = None if container.finished_ns is None else container.finished_ns // 1_000_000
    if started_ms is not None and finished_ms is not None:
        finished_ms = max(started_ms, finished_ms)  # the engine notes a start when it hears of it, which may be later
    if container.status != "exited":  # removing, dead: someone took it away while it ran, its exit code means nothing
        return Outcome(None, "executor_error", REMOVED, started_ms, finished_ms, container.facts)
    code = container.exit_code
    reason, message = None, ""
    if code != 0:
        reason, message = "exit_code", _describe_code(code)
        if container.oom_killed:
            reason, message = "oom", f"{message}: killed for want of memory, limit {container.memory_bytes} bytes"
        if container.error:
            message = f"{message}; the engine says: {container.error}"
    return Outcome(code, reason, message, started_ms, finished_ms, container.facts)


def _describe_code(code: int) -> str:
    if code > 128 and code - 128 in signal.valid_signals():
        number = code - 128
        known = number in {int(s) for s in signal.Signals}
        return f"exit code {code} ({signal.Signals(number).name if known else f'signal {number}'})"
    return f"exit code {code}"


class Frames:
    """Cuts the bytes of a log stream into records.

    A frame is `stream, 0, 0, 0, length (4 bytes, big-endian)`, then `time, space, data`; each frame holds one record
    (Docker Engine API, "Attach to a container", stream format).
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._cut = {Stream.STDOUT: False, Stream.STDERR: False}  # is a long line going on?

    def feed(self, chunk: bytes) -> list[LogLine]:
        """The records completed by `chunk`. Raises ExecutorError where this is no log stream."""
        self._rest += chunk
        records: list[LogLine] = []
        start = 0
        while len(self._rest) - start >= _HEADER_SIZE:
            size = int.from_bytes(self._rest[start + 4 : start + _HEADER_SIZE], "big")
            stream = _STREAMS.get(self._rest[start])
            if stream is None or size > FRAME_SIZE_MAX:
                raise ExecutorError(
                    f"the engine's log stream is not in frames (stream {self._rest[start]}, {size} bytes): "
                    "was the container made with a terminal?"
                )
            end = start + _HEADER_SIZE + size
            if end > len(self._rest):
                break
            records.append(self._record(stream, bytes(self._rest[start + _HEADER_SIZE : end])))
            start = end
        del self._rest[:start]
        return records

    def _record(self, stream: Stream, payload: bytes) -> LogLine:
        stamp, _, data = payload.partition(b" ")
        time_ns = parse_time_ns(stamp.decode("ascii", "replace")) or 0
        if data.endswith(b"\n"):
            self._cut[stream] = False
            return LogLine(time_ns, stream, data[:-1])
        # No newline: a full record of a line that goes on; or the line's last record, from which the `local` driver
        # drops the newline; or what a task wrote last, without one.
        full, was_cut = len(data) >= RECORD_SIZE_MAX, self._cut[stream]
        self._cut[stream] = full
        return LogLine(time_ns, stream, data, partial=full or not was_cut)


class Position:
    """How far an attempt's log has been read, so that the next read goes on exactly there.

    Two streams are stamped before they queue for the log file, so times in the file may go back a little. Records are
    given out in the file's order with times that never go back: each carries the latest time up to it. `time_ns` is
    that time and `seen` the number of records given out with it. The first record that bears `time_ns` itself is where
    the counting began, so dropping what stands before it and then `seen` records leads to the first unread one,
    whatever the order. The same holds for a caller who starts again with `since_ns` = the last time it kept.
    """

    def __init__(self, since_ns: int) -> None:
        self.time_ns = since_ns
        self.seen = 0

    @property
    def filter_ns(self) -> int:
        """The engine's own `since` for a read from here: early enough for records out of order."""
        return max(0, self.time_ns - REORDER_NS)


class Reader:
    """One read of the log, which moves its `Position` on."""

    def __init__(self, position: Position) -> None:
        self._position = position
        self._found = False
        self._skip = position.seen

    def take(self, batch: list[LogLine]) -> list[LogLine]:
        """The records of `batch` not given out before, with times that do not go back."""
        position = self._position
        fresh: list[LogLine] = []
        for record in batch:
            if not self._found:
                if record.time_ns < position.time_ns:
                    continue
                self._found = True
                if self._skip and record.time_ns != position.time_ns:
                    self._skip = 0
                    fresh.append(_gap(position.time_ns))
            if self._skip:
                self._skip -= 1
                continue
            if record.time_ns > position.time_ns:
                position.time_ns, position.seen = record.time_ns, 0
            elif record.time_ns < position.time_ns:
                record = LogLine(position.time_ns, record.stream, record.data, record.partial)
            position.seen += 1
            fresh.append(record)
        return fresh


def _gap(time_ns: int) -> LogLine:
    """Marks that the engine's rotation was faster than the reader (P12: truncation is always marked)."""
    return LogLine(time_ns, Stream.STDERR, b"prime: output is missing here: the engine discarded it before it was read")

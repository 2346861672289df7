"""Talks HTTP to any agent: several addresses are tried in turn, problems become exceptions, streams are gone on with.

ClientError
├── Unreachable    no agent answers at any of the addresses
└── Refused        an agent said no: `code`, `detail`, `status`, `problems`
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3

CONNECT_S: Final = 3.0
READ_S: Final = 60.0
STREAM_SILENCE_S: Final = 45.0  # three heartbeats
NEVER_SENT: Final = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
RESUME_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)  # waits of one stream, with nothing in between
PASS_OVER_S: Final = 15.0  # of silence, where another host can be asked
PATIENCE_S: Final = 15.0  # for so long hosts are asked again that say that they are not ready
AGAIN_S: Final = 0.5  # where they do not say when
BREAKS_MAX: Final = 2  # connections that close without an answer, in a row, before that is what is said
STALE: Final = "Prime-Stale"
UNAVAILABLE: Final = frozenset({502, 503, 504})  # of an agent, or of what stands before it
NOTHING_DONE: Final = frozenset({"joining", "no_leader", "not_committed", "unreachable", "tables_differ"})


class ClientError(Exception):
    """Base of what can go wrong between a client and the agents."""


class Unreachable(ClientError):
    """No agent answered."""


class Refused(ClientError):
    """An agent said no (RFC 9457). problems: what is wrong in the texts that were sent."""

    def __init__(self, status: int, code: str, detail: str, problems: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event. data: decoded JSON."""

    name: str
    data: Any
    id: str


@dataclass(slots=True)
class _Round:
    """What became of asking each host once. refused: by one that may do it in a moment. broken: one closed the line."""

    failures: list[str] = field(default_factory=list)
    refused: urllib3.BaseHTTPResponse | None = None
    broken: bool = False

    def __str__(self) -> str:
        return "; ".join(self.failures)


@dataclass(slots=True)
class Client:
    """hosts: base URLs, tried in turn from the last that answered. user: shown as who asked, where no token says it.

    limit_s: no host is waited for longer than this, whatever is asked; None = as long as the question may take.
    token: sent to all hosts, "" = none. tell: what who waits should know, a line each.
    """

    hosts: list[str]
    user: str = ""
    limit_s: float | None = None
    token: str = field(default="", repr=False)
    tell: Callable[[str], None] = lambda _text: None
    _told: set[str] = field(default_factory=set)
    _pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def get(self, path: str, **parameters: object) -> Any:
        """GET a JSON answer. Parameters that are None are left out. Raises Unreachable, Refused."""
        return self._json("GET", path, parameters=parameters, repeatable=True)

    def poll(self, path: str, timeout_s: int) -> Any:
        """GET a JSON answer that an agent holds back for so many seconds, until there is something to tell."""
        return self._json(
            "GET", path, parameters={"timeout": timeout_s}, repeatable=True, read_s=timeout_s + PASS_OVER_S
        )

    def post(self, path: str, body: object | None = None, *, key: str = "", read_s: float | None = None) -> Any:
        """POST a JSON body. key: an Idempotency-Key, with which it may be sent again to another agent (P2)."""
        headers = {"Idempotency-Key": key} if key else {}
        return self._json("POST", path, body, headers=headers, repeatable=bool(key), read_s=read_s)

    def put(self, path: str, body: object) -> Any:
        """PUT a JSON body."""
        return self._json("PUT", path, body, repeatable=True)

    def delete(self, path: str, **parameters: object) -> Any:
        """DELETE."""
        return self._json("DELETE", path, parameters=parameters, repeatable=False)

    def text(self, path: str, **parameters: object) -> Iterator[bytes]:
        """GET an answer of any kind, piece by piece. Raises Unreachable where it breaks off."""
        response = self._send("GET", _with(path, parameters), None, {}, repeatable=True, read_s=READ_S, stream=True)
        try:
            _raise_problem(response)
            yield from response.stream(64 * 1024)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"{self.hosts[0]}: the answer broke off: {_short(error)}") from error
        finally:
            response.close()

    def events(self, path: str, **parameters: object) -> Iterator[Event]:
        """Follow server-sent events until one is called `end`. A connection that drops is taken up where it was.

        Raises Unreachable once no agent has answered for half a minute, Refused.
        """
        last, begun = "", False
        waits = iter(RESUME_S)
        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
            try:
                for event in self._events(_with(path, parameters), headers):
                    last, begun, waits = event.id or last, True, iter(RESUME_S)
                    yield event
                    if event.name == "end":
                        return
                failure = Unreachable(f"{self.hosts[0]} closes the stream again and again; it may be stopping")
            except (Unreachable, Refused) as error:
                if not begun or not _is_passing(error):
                    raise
                failure = Unreachable(f"the connection broke and did not come back: {error}")
            except (urllib3.exceptions.HTTPError, OSError) as error:
                failure = Unreachable(f"the connection broke and did not come back: {_short(error)}")
            wait_s = next(waits, None)
            if wait_s is None:
                raise failure
            self.hosts.append(self.hosts.pop(0))  # another one may be better off
            time.sleep(wait_s)

    def patient(self, ask: Callable[[], Any]) -> Any:
        """Ask again while no agent answers, for half a minute: for who waits for what goes on without him."""
        for wait_s in RESUME_S:
            try:
                return ask()
            except (Unreachable, Refused) as error:
                if not _is_passing(error):
                    raise
                time.sleep(wait_s)
        return ask()

    def _events(self, path: str, headers: Mapping[str, str]) -> Iterator[Event]:
        response = self._send("GET", path, None, headers, repeatable=True, read_s=STREAM_SILENCE_S, stream=True)
        try:
            _raise_problem(response)
            yield from parse_events(response.stream(16 * 1024))
        finally:
            response.close()

    def _json(
        self,
        method: str,
        path: str,
        body: object | None = None,
        *,
        parameters: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool,
        read_s: float | None = None,
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        response = self._send(
            method, _with(path, parameters or {}), data, headers or {}, repeatable=repeatable, read_s=read_s
        )
        _raise_problem(response)
        try:
            return json.loads(response.data or b"null")
        except ValueError as error:
            raise Unreachable(f"what answers at {self.hosts[0]} is no agent: it sends no JSON") from error

    def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        headers: Mapping[str, str],
        *,
        repeatable: bool,
        read_s: float | None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Ask the hosts in turn, and again for a time where it may be another answer in a moment: one has said so, or
        has closed the connection without one (a balancer does, whose own connection to an agent died under a request).

        What may have been done by one is not asked of the next unless it is repeatable. An answer of an agent that
        hears no leader is taken where no other gives a better one.
        """
        until_s = time.monotonic() + (PATIENCE_S if self.limit_s is None else 0.0)
        breaks = 0
        while True:
            tried = _Round()
            response = self._each(
                tried, method, path, data, headers, repeatable=repeatable, read_s=read_s, stream=stream
            )
            if response is not None:
                return response
            wait_s = AGAIN_S if tried.refused is None else _retry_after_s(tried.refused)
            late = time.monotonic() + wait_s >= until_s
            breaks += tried.broken
            if tried.refused is None and (late or not tried.broken or breaks > BREAKS_MAX):
                raise Unreachable(
                    f"no agent answers ({tried}). Start one with `prime dev` or `prime agent start`, "
                    "or name another with --host"
                )
            if tried.refused is not None:
                if late:
                    return tried.refused
                tried.refused.close()
            self._tell_once(f"asking again: {tried}")
            time.sleep(wait_s)

    def _each(
        self,
        tried: _Round,
        method: str,
        path: str,
        data: bytes | None,
        headers: Mapping[str, str],
        *,
        repeatable: bool,
        read_s: float | None,
        stream: bool,
    ) -> urllib3.BaseHTTPResponse | None:
        """Ask the hosts in turn, once. Returns the answer to take; None = none gave one."""
        old: tuple[str, urllib3.BaseHTTPResponse] | None = None
        for host in tuple(self.hosts):
            patience_s = self._patience_s(host, read_s, repeatable=repeatable)
            try:
                response = self._ask(method, host + path, data, headers, patience_s, stream=stream)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if not repeatable and not isinstance(error, NEVER_SENT):
                    text = "Whether it was done is not known; look before asking again"
                    raise Unreachable(f"{host} broke off: {_short(error)}. {text}") from error
                tried.failures.append(f"{host}: {_short(error)}")
                tried.broken |= isinstance(error, urllib3.exceptions.ProtocolError)
                continue
            if response.status in UNAVAILABLE and (repeatable or _code(response) in NOTHING_DONE):
                tried.failures.append(f"{host}: {_code(response) or 'it is not ready'}")
                tried.refused = response
            elif STALE in response.headers and old is None and host != self.hosts[-1]:
                old = (host, response)
            else:
                if old is not None:
                    old[1].close()
                return self._taken(host, response)
        return None if old is None else self._taken(*old)

    def _ask(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str], read_s: float, *, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        sent = {"Content-Type": "application/json", "Prime-User": _ascii(self.user), **headers}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        return self._pool.request(
            method,
            url,
            body=data,
            headers=sent,
            preload_content=not stream,
            timeout=urllib3.Timeout(total=self.limit_s, connect=CONNECT_S, read=read_s),
        )

    def _patience_s(self, host: str, read_s: float | None, *, repeatable: bool) -> float:
        if read_s is not None:
            return read_s
        return PASS_OVER_S if repeatable and host != self.hosts[-1] else READ_S

    def _taken(self, host: str, response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
        """This host is asked first from now on."""
        self.hosts.remove(host)
        self.hosts.insert(0, host)
        age_ms = response.headers.get(STALE, "")
        if age_ms.isdecimal():
            self._tell_once(f"{host} hears no leader; what is shown may be {int(age_ms) / 1000:.0f} s old")
        return response

    def _tell_once(self, text: str) -> None:
        if text.partition(";")[0] not in self._told:
            self._told.add(text.partition(";")[0])
            self.tell(text)

    def twin(self) -> Client:
        """Another client of the same agents, for another thread."""
        return Client(list(self.hosts), self.user, self.limit_s, token=self.token, tell=self.tell)


def _is_passing(error: ClientError) -> bool:
    """Whether it may be another answer in a moment: agents that are away, or just stop."""
    return isinstance(error, Unreachable) or (isinstance(error, Refused) and error.status in UNAVAILABLE)


def _ascii(text: str) -> str:
    """The text as a header can carry it."""
    return "".join(one if " " <= one <= "~" else "?" for one in text)


def parse_events(pieces: Iterator[bytes]) -> Iterator[Event]:
    """Events in a stream of bytes cut anywhere (WHATWG HTML, 9.2.6), as far as agents send them."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        for block in whole:
            event = _event(block.decode(errors="replace"))
            if event is not None:
                yield event


def _event(block: str) -> Event | None:
    fields: dict[str, list[str]] = {}
    for line in block.split("\n"):
        name, colon, value = line.partition(":")
        if name and colon:
            fields.setdefault(name, []).append(value.removeprefix(" "))
    if "data" not in fields:
        return None
    data = json.loads("\n".join(fields["data"]))
    return Event(fields.get("event", ["message"])[-1], data, fields.get("id", [""])[-1])


def _code(response: urllib3.BaseHTTPResponse) -> str:
    """The code of a problem, "" where it is none of an agent's."""
    try:
        return str(json.loads(response.data)["code"])
    except (ValueError, KeyError, TypeError, urllib3.exceptions.HTTPError, OSError):
        return ""


def _retry_after_s(response: urllib3.BaseHTTPResponse) -> float:
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isdecimal() else AGAIN_S


def _raise_problem(response: urllib3.BaseHTTPResponse) -> None:
    if response.status < 400:
        return
    try:
        problem = json.loads(response.data)
        raise Refused(response.status, problem["code"], problem["detail"], problem.get("problems", ()))
    except (ValueError, KeyError, TypeError):
        raise Refused(response.status, "http_error", f"HTTP {response.status} {response.reason}") from None


def path(*parts: str) -> str:
    """`/api/v1/...` with each part quoted."""
    return "/api/v1/" + "/".join(quote(part, safe="") for part in parts)


def _with(base: str, parameters: Mapping[str, object]) -> str:
    given = {key: str(value).lower() if isinstance(value, bool) else value for key, value in parameters.items()}
    present = {key: value for key, value in given.items() if value is not None}
    return f"{base}?{urlencode(present)}" if present else base


def _short(error: BaseException) -> str:
    """What went wrong, without the names of classes and the number of an object before it."""
    cause = error.args[-1] if isinstance(error, urllib3.exceptions.ProtocolError) else error
    text = str(cause)
    return text.rpartition(": ")[2] if "Connection" in text else text or type(error).__name__

"""Talks HTTP to any agent: several addresses are tried in turn, problems become exceptions, streams are gone on with.

ClientError
├── Unreachable    no agent answers at any of the addresses
└── Refused        an agent said no: `code`, `detail`, `status`, `problems`
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3

CONNECT_S: Final = 3.0
READ_S: Final = 60.0
STREAM_SILENCE_S: Final = 45.0  # three heartbeats
NEVER_SENT: Final = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
RESUMES_MAX: Final = 5  # of one stream, without anything in between


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
class Client:
    """hosts: base URLs, tried in turn from the last that answered. user: shown as who asked."""

    hosts: list[str]
    user: str = ""
    _pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def get(self, path: str, **parameters: object) -> Any:
        """GET a JSON answer. Parameters that are None are left out. Raises Unreachable, Refused."""
        return self._json("GET", path, parameters=parameters, repeatable=True)

    def post(self, path: str, body: object | None = None, *, key: str = "", read_s: float = READ_S) -> Any:
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
        """GET an answer of any kind, piece by piece."""
        response = self._send("GET", _with(path, parameters), None, {}, repeatable=True, read_s=READ_S)
        try:
            _raise_problem(response)
            yield from response.stream(64 * 1024)
        finally:
            response.release_conn()

    def events(self, path: str, **parameters: object) -> Iterator[Event]:
        """Follow server-sent events until one is called `end`. A connection that drops is taken up where it was."""
        last, failures = "", 0
        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
            try:
                for event in self._events(_with(path, parameters), headers):
                    last, failures = event.id or last, 0
                    yield event
                    if event.name == "end":
                        return
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
                failures += 1
                if failures > RESUMES_MAX:
                    raise Unreachable(f"the stream broke {failures} times in a row: {error}") from error
            else:
                failures += 1
                if failures > RESUMES_MAX:
                    raise Unreachable("the agent closes the stream again and again; it may be stopping")

    def _events(self, path: str, headers: Mapping[str, str]) -> Iterator[Event]:
        response = self._send("GET", path, None, headers, repeatable=True, read_s=STREAM_SILENCE_S)
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
        read_s: float = READ_S,
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        response = self._send(
            method, _with(path, parameters or {}), data, headers or {}, repeatable=repeatable, read_s=read_s
        )
        try:
            _raise_problem(response)
            return json.loads(response.read() or b"null")
        finally:
            response.release_conn()

    def _send(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str], *, repeatable: bool, read_s: float
    ) -> urllib3.BaseHTTPResponse:
        """Ask the hosts in turn. What may have been done by one is not asked of the next unless it is repeatable."""
        sent = {"Content-Type": "application/json", "Prime-User": self.user, **headers}
        failures = []
        for host in tuple(self.hosts):
            try:
                response = self._pool.request(
                    method,
                    f"{host}{path}",
                    body=data,
                    headers=sent,
                    preload_content=False,
                    timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s),
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                failures.append(f"{host}: {_short(error)}")
                never_sent = isinstance(
                    error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError
                )
                if not repeatable and not never_sent:
                    raise Unreachable(
                        f"{host} broke off: {_short(error)}. Whether it was done is not known; look before asking again"
                    ) from error
            else:
                self.hosts.remove(host)
                self.hosts.insert(0, host)
                return response
        raise Unreachable(
            f"no agent answers ({'; '.join(failures)}). Start one with `prime dev` or `prime agent start`, "
            "or name another with --host"
        )


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


def _raise_problem(response: urllib3.BaseHTTPResponse) -> None:
    if response.status < 400:
        return
    try:
        problem = json.loads(response.read())
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
    text = str(error)
    return text.rpartition(": ")[2] if "Connection" in text else text

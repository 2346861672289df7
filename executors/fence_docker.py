"""As much of the Docker Engine API as it takes to end a container, over `http.client`.

This file is for the watchdog, which has nothing but the standard library. Each call has a time of its own, since an
engine that hangs must not keep the watchdog from killing by other means.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

ANSWER_S: Final = 1.0
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
_RUNS: Final = ("running", "paused", "restarting")


class EngineSilent(Exception):
    """The engine does not answer, or not with what is expected: nothing is known."""


@dataclass(frozen=True, slots=True)
class State:
    """status: the engine's word; "" = there is no such container. stop_signal: what asks it to end."""

    status: str
    stop_signal: str = "SIGTERM"

    @property
    def runs(self) -> bool:
        """Whether its processes may run."""
        return self.status in _RUNS


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """One engine. url: as DOCKER_HOST has it; certificates: the directory of its TLS files, "" = no TLS."""

    def __init__(self, url: str, certificates: str = "") -> None:
        """Raises ValueError for an address that this program cannot use."""
        self._parts = urlsplit(url)
        self._certificates = certificates
        if self._parts.scheme not in ("unix", "tcp", "http", "https"):
            raise ValueError(f"{url}: an engine at such an address cannot be asked by the watchdog")

    def look(self, name: str) -> State:
        """Raises EngineSilent."""
        status, answer = self._ask("GET", f"/containers/{quote(name)}/json")
        if status == http.client.NOT_FOUND:
            return State("")
        if status != http.client.OK:
            raise EngineSilent(f"{status}: {answer}")
        try:
            return State(str(answer["State"]["Status"]), answer["Config"].get("StopSignal") or "SIGTERM")
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineSilent(f"an answer without {error}") from error

    def kill(self, name: str, signal: str) -> None:
        """Whatever comes of it is seen at the next look. Raises EngineSilent."""
        self._ask("POST", f"/containers/{quote(name)}/kill?signal={quote(signal)}")

    def discard(self, name: str) -> None:
        """Remove it if it does not run: then no start can come any more. Raises EngineSilent."""
        self._ask("DELETE", f"/containers/{quote(name)}?v=1")

    def _ask(self, method: str, path: str) -> tuple[int, Any]:
        try:
            connection = self._connection()
            try:
                connection.request(method, path)
                response = connection.getresponse()
                body = response.read(ANSWER_BYTES_MAX)
                return response.status, json.loads(body) if body.startswith(b"{") else {}
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise EngineSilent(str(error)) from error

    def _connection(self) -> http.client.HTTPConnection:
        if self._parts.scheme == "unix":
            return _Unix(self._parts.path)
        host, port = self._parts.hostname or "localhost", self._parts.port or 2375
        if not self._certificates and self._parts.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=ANSWER_S)
        folder = Path(self._certificates)
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        return http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=context)

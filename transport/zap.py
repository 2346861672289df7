"""Who may connect: the door-keeper that libzmq asks for every new connection (ZAP, ZeroMQ RFC 27).

CURVE alone proves to a client that the server holds the cluster's key. That the client holds it too is checked here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Final

import zmq

_ENDPOINT: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
DOMAIN: Final = b"prime"
_ADDRESSES_MAX: Final = 256  # that refused connections are counted by (P12)


class DoorKeeper:
    """Answers libzmq's questions about connections to the sockets of one context. One per context."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], loop: asyncio.AbstractEventLoop, accepted: Collection[bytes]
    ) -> None:
        """accepted: CURVE public keys, 32 bytes each, of those who may connect from now on; may be set anew."""
        self.accepted = frozenset(accepted)
        self.refused: Counter[str] = Counter()  # connections, by the address they came from
        self._loop = loop
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_ENDPOINT)
        self._fd = self._socket.fileno()
        loop.add_reader(self._fd, self._drain)

    def _drain(self) -> None:
        """Answer all that was asked. The descriptor tells of a change once: looked at until there is nothing."""
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._socket.send_multipart(self._answer(self._socket.recv_multipart()))

    def _answer(self, question: list[bytes]) -> list[bytes]:
        version, request, domain, address, _identity, mechanism, *credentials = question
        if domain == DOMAIN and mechanism == b"CURVE" and len(credentials) == 1 and credentials[0] in self.accepted:
            return [version, request, b"200", b"OK", b"", b""]
        name = address.decode(errors="replace").removeprefix("::ffff:")
        self.refused[name if name in self.refused or len(self.refused) < _ADDRESSES_MAX else "others"] += 1
        return [version, request, b"400", b"not the cluster's key", b"", b""]

    def close(self) -> None:
        """Answer no more: with the context, everything ends."""
        self._loop.remove_reader(self._fd)
        self._socket.close()

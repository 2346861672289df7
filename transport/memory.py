"""Frames inside one process, for tests: the same promises as `transport.zmq`, on one event loop and without sockets.

Every frame goes through its bytes, so what is refused by others is refused here. Addresses are texts of any form.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Final

from transport.base import OnFrames, OnUnreachable
from transport.common import Common
from transport.errors import BindFailed, FrameError
from transport.frames import Codec, Envelope, Frame, Kind, Lane

QUEUE_FRAMES: Final = 1024  # to one transport, not taken yet; then it is as if its peers were not connected to it


class Network:
    """What connects the transports of a test. `lose(sender, receiver)` says which frames get lost, by address."""

    def __init__(self) -> None:
        """Everybody hears everybody, until told otherwise."""
        self.lose: Callable[[str, str], bool] = lambda _sender, _receiver: False
        self._listening: dict[str, Transport] = {}
        self._routes: dict[bytes, Transport] = {}
        self._numbers = itertools.count()  # a route is never given again

    def join(self, transport: Transport, address: str) -> bytes:
        """Let a transport listen, where it has an address. Returns its route. Raises BindFailed."""
        if address in self._listening:
            raise BindFailed(f"{address} is taken")
        if address:
            self._listening[address] = transport
        route = next(self._numbers).to_bytes(5)
        self._routes[route] = transport
        return route

    def leave(self, transport: Transport) -> None:
        """Take a transport away."""
        if transport.address:
            del self._listening[transport.address]
        self._routes = {route: one for route, one in self._routes.items() if one is not transport}

    def at(self, address: str) -> Transport | None:
        """Who listens there."""
        return self._listening.get(address)

    def by(self, route: bytes) -> Transport | None:
        """Whose connection that is."""
        return self._routes.get(route)


class Transport(Common):
    """See `transport.base.Transport`."""

    def __init__(
        self,
        envelope: Envelope,
        network: Network,
        on_frames: OnFrames,
        *,
        bind: str = "",
        on_unreachable: OnUnreachable = lambda _peer: None,
    ) -> None:
        """As `transport.zmq.Transport`, with a network in the place of a key. Raises BindFailed."""
        super().__init__(envelope, on_frames, on_unreachable)
        self._network = network
        self._peers: dict[int, str] = {}
        self._inbox: deque[tuple[bytes, bytes]] = deque()
        self._address = bind
        self._route = network.join(self, bind)

    @property
    def address(self) -> str:
        """Where it listens; empty where it does not."""
        return self._address

    def connect(self, peer: int, address: str) -> None:
        """See `base.Transport`."""
        self._check_open()
        self._peers[peer] = address

    def disconnect(self, peer: int) -> None:
        """See `base.Transport`."""
        self._peers.pop(peer, None)

    def send(self, peer: int, lane: Lane, payload: bytes, kind: Kind = Kind.RAFT) -> bool:
        """See `base.Transport`."""
        self._check_open()
        data = self._codec.encode(kind, lane, payload)
        receiver = self._network.at(self._peers.get(peer, ""))
        if receiver is None or not receiver.take(self._route, self._address, data):
            return self._drop(peer)
        return True

    def answer(self, frame: Frame, payload: bytes) -> bool:
        """See `base.Transport`."""
        self._check_open()
        data = self._codec.encode(Kind.ANSWER, frame.lane, payload)
        if not frame.route:
            raise ValueError("this frame did not come by a connection that can be answered")
        receiver = self._network.by(frame.route)
        return receiver is not None and receiver.take(b"", self._address, data)

    def use_envelope(self, envelope: Envelope) -> None:
        """See `base.Transport`. What has come and was not handed out yet is read as for the new one."""
        self._check_open()
        self._codec = Codec(envelope)

    def take(self, route: bytes, sender: str, data: bytes) -> bool:
        """What another transport, or a test, puts on the wire to this one. Returns False if there is no room."""
        if len(self._inbox) >= QUEUE_FRAMES:
            return False
        if not self._network.lose(sender, self._address):
            self._inbox.append((route, data))
            self._loop.call_soon(self._drain)
        return True

    def _drain(self) -> None:
        frames = []
        while self._inbox and not self._closed:
            route, data = self._inbox.popleft()
            try:
                frames.append(self._codec.decode(data, route))
            except FrameError as error:
                self.refused[type(error).__name__] += 1
        if frames:
            self._on_frames(frames)

    def close(self) -> None:
        """See `base.Transport`."""
        if not self._closed:
            self._closed = True
            self._network.leave(self)

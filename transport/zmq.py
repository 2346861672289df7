"""Frames over ZeroMQ: one ROUTER that listens, and a DEALER for each peer, lane and key. CURVE on every connection.

Why plain sockets on the loop's own readers: `zmq.asyncio` makes a future for every message and is four times slower.
The price is that libzmq's descriptor tells of a *change* only, and that any call may take that news in passing. So a
socket is read until it is empty, and looked at again after every send.

Why no queue of our own: libzmq's is bounded by the high-water mark, and IMMEDIATE keeps it empty while there is no
connection. What does not fit is dropped, which Raft and gossip repair, and the sender is told.

Who belongs to the cluster holds its *ring* of keys: one, and two while the key is rotated. A key is a whole credential:
who listens shows the first of its ring and lets in those who show the same (`zap`). Who dials does not know which one
that is, so it dials with each of its ring; a listener opens one of these connections at most, for it has one key. Two
agents reach each other as long as each holds the other's first key: new keys are added everywhere, then made the first
one agent after another, then the old ones are dropped. A listener whose first key changes hangs up on all, and listens
anew on the same descriptor, so nobody is turned away in between. Until the rotation is through, what is dialled in vain
costs the listener a handshake each time, some ten a second for each peer and lane. libzmq's monitors, which could tell
of a failed handshake, block its I/O thread when they are not read in time.

Names are resolved by libzmq each time it connects (`tcp_connecter_t::open`), in its I/O thread: a resolver that hangs
holds up the other connections. A name is looked up as IPv4, or as IPv6 where this agent listens on an address of that.
"""

from __future__ import annotations

import hashlib
import socket as sockets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import zmq
from zmq.utils import z85

from transport.base import OnFrames, OnUnreachable
from transport.common import Common
from transport.errors import BindFailed, FrameError, FrameMalformed
from transport.frames import FRAME_BYTES_MAX, Codec, Envelope, Frame, Kind, Lane
from transport.zap import DOMAIN, DoorKeeper

QUEUE_FRAMES: Final = {Lane.CONTROL: 1024, Lane.BULK: 128, Lane.GOSSIP: 16}  # to one peer, past what the kernel holds
INBOX_FRAMES: Final = 1024  # from one connection; then its sender's queue fills
WAKE_UP_FRAMES: Final = 512  # by one wake-up, then the loop has its turn
RECONNECT_MS: Final = 50  # and as much again, by chance: well below the time-out of an election
RECONNECT_MS_MAX: Final = 500
CONNECT_MS: Final = 2_000  # for a peer that does not answer at all
BACKLOG: Final = 100  # connections that the kernel keeps until they are accepted
HANDSHAKE_MS: Final = 5_000
PING_MS: Final = 1_000
SILENCE_MS: Final = 3_000  # without a word of the other side the connection is made anew
_PORT_MAX: Final = 65_535
_KEY_BYTES: Final = 32
_CURVE_BYTES: Final = 64  # encryption makes a frame 33 bytes longer

Socket = zmq.Socket[bytes]


@dataclass(frozen=True, slots=True)
class CurveKey:
    """A CURVE key pair, 40 characters of Z85 each. `repr` does not show the secret one."""

    public: bytes
    secret: bytes

    @classmethod
    def of_cluster(cls, key: bytes) -> CurveKey:
        """The pair that stands for a cluster key of 32 random bytes: the same on every agent."""
        if len(key) != _KEY_BYTES:
            raise ValueError(f"a cluster key has {_KEY_BYTES} bytes, not {len(key)}")
        secret = z85.encode(hashlib.blake2b(key, digest_size=_KEY_BYTES, person=b"prime transport").digest())
        return cls(zmq.curve_public(secret), secret)

    def __repr__(self) -> str:
        return f"CurveKey({self.public!r})"


def _ring(keys: CurveKey | Sequence[CurveKey]) -> tuple[CurveKey, ...]:
    ring = (keys,) if isinstance(keys, CurveKey) else tuple(dict.fromkeys(keys))
    if not ring:
        raise ValueError("a transport needs a key")
    return ring


class Transport(Common):
    """See `transport.base.Transport`. Belongs to the running loop of the thread that makes it."""

    def __init__(
        self,
        envelope: Envelope,
        keys: CurveKey | Sequence[CurveKey],
        on_frames: OnFrames,
        *,
        bind: str = "",
        on_unreachable: OnUnreachable = lambda _peer: None,
    ) -> None:
        """envelope: what this agent's frames say of it. keys: the cluster's, the one to listen with first.

        bind: HOST:PORT to listen on, port 0 for any, host * for all addresses; empty for one that only asks.
        Raises BindFailed, ValueError for no key.
        """
        super().__init__(envelope, on_frames, on_unreachable)
        self._keys = _ring(keys)
        self._context: zmq.Context[Socket] = zmq.Context()
        self._addresses: dict[int, str] = {}
        self._links: dict[tuple[int, Lane], dict[CurveKey, Socket]] = {}
        self._sent: set[Socket] = set()  # since they were looked at
        self._keeper = DoorKeeper(self._context, self._loop, self._accepted())
        self._ipv6 = bind.startswith("[")
        self._port: sockets.socket | None = None
        self._router: Socket | None = None
        self._address = ""
        if bind:
            try:
                self._port = _bound(bind)
            except (OSError, ValueError) as error:
                self.close()
                raise BindFailed(f"cannot listen on {bind}: {error}") from error
            host, port = self._port.getsockname()[:2]
            self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self._router = self._listen(self._port)

    # -- sockets -----------------------------------------------------------------------------------------------------

    def _accepted(self) -> list[bytes]:
        return [z85.decode(self._keys[0].public)]

    def _socket(self, kind: int, key: CurveKey, queue_frames: int) -> Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.maxmsgsize = FRAME_BYTES_MAX + _CURVE_BYTES
        socket.sndhwm = queue_frames
        socket.rcvhwm = INBOX_FRAMES
        socket.handshake_ivl = HANDSHAKE_MS
        socket.heartbeat_ivl = PING_MS
        socket.heartbeat_timeout = SILENCE_MS
        socket.curve_publickey = key.public
        socket.curve_secretkey = key.secret
        return socket

    def _listen(self, port: sockets.socket) -> Socket:
        """A ROUTER that takes what comes to the port. The port stays ours, for the next one."""
        socket = self._socket(zmq.ROUTER, self._keys[0], QUEUE_FRAMES[Lane.CONTROL])
        socket.ipv6 = port.family == sockets.AF_INET6
        socket.curve_server = True
        socket.zap_domain = DOMAIN
        socket.router_mandatory = True  # an answer that has nowhere to go is said to be dropped
        socket.use_fd = port.dup().detach()  # which libzmq closes
        socket.bind(f"tcp://{self._address}")
        self._read(socket)
        return socket

    def _dial(self, address: str, lane: Lane, key: CurveKey) -> Socket:
        socket = self._socket(zmq.DEALER, key, QUEUE_FRAMES[lane])
        socket.ipv6 = self._ipv6 or address.startswith("[")
        socket.curve_serverkey = key.public
        socket.immediate = True
        socket.reconnect_ivl = RECONNECT_MS
        socket.reconnect_ivl_max = RECONNECT_MS_MAX
        socket.connect_timeout = CONNECT_MS
        try:
            socket.connect(f"tcp://{address}")
        except zmq.ZMQError as error:
            socket.close()
            raise ValueError(f"{address!r} is no HOST:PORT: {error}") from error
        self._read(socket)
        return socket

    def _read(self, socket: Socket) -> None:
        self._loop.add_reader(socket.fileno(), self._drain, socket)
        self._loop.call_soon(self._drain, socket)  # what came before was no news

    def _hang_up(self, socket: Socket) -> None:
        self._loop.remove_reader(socket.fileno())
        socket.close()

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _drain(self, socket: Socket) -> None:
        """Hand out all that a socket has, as far as one wake-up may."""
        if socket.closed:
            return
        frames: list[Frame] = []
        for _ in range(WAKE_UP_FRAMES):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                frames.append(self._decode(parts, routed=socket is self._router))
            except FrameError as error:
                self.refused[type(error).__name__] += 1
        else:
            self._loop.call_soon(self._drain, socket)  # there is more, of which nothing will tell
        if frames:
            self._on_frames(frames)

    def _decode(self, parts: list[bytes], *, routed: bool) -> Frame:
        if len(parts) != 1 + routed:
            raise FrameMalformed(f"{len(parts)} parts")
        return self._codec.decode(parts[-1], parts[0] if routed else b"")

    def _look_again(self, socket: Socket) -> None:
        """After a send: it may have taken the news that something has come. One look serves all sends of a turn."""
        if not self._sent:
            self._loop.call_soon(self._look)
        self._sent.add(socket)

    def _look(self) -> None:
        sent, self._sent = self._sent, set()
        for socket in sent:
            if not socket.closed and int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
                self._drain(socket)

    # -- what others use ---------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """HOST:PORT where it listens; empty where it does not."""
        return self._address

    @property
    def refused_connections(self) -> Counter[str]:
        """Connections of those who hold another key, by the address they came from."""
        return self._keeper.refused

    def connect(self, peer: int, address: str) -> None:
        """See `base.Transport`. Raises ValueError for what is no address."""
        self._check_open()
        if self._addresses.get(peer) == address:
            return
        links = {(peer, lane): {key: self._dial(address, lane, key) for key in self._keys} for lane in Lane}
        self.disconnect(peer)
        self._addresses[peer] = address
        self._links.update(links)

    def disconnect(self, peer: int) -> None:
        """See `base.Transport`."""
        self._addresses.pop(peer, None)
        for lane in Lane:
            for socket in self._links.pop((peer, lane), {}).values():
                self._hang_up(socket)

    def send(self, peer: int, lane: Lane, payload: bytes, kind: Kind = Kind.RAFT) -> bool:
        """See `base.Transport`."""
        self._check_open()
        data = self._codec.encode(kind, lane, payload)
        for socket in self._links.get((peer, lane), {}).values():  # one is connected, at most
            try:
                socket.send(data, zmq.NOBLOCK)
            except zmq.Again:
                continue
            finally:
                self._look_again(socket)
            return True
        return self._drop(peer)

    def answer(self, frame: Frame, payload: bytes) -> bool:
        """See `base.Transport`."""
        self._check_open()
        data = self._codec.encode(Kind.ANSWER, frame.lane, payload)
        if self._router is None or not frame.route:
            raise ValueError("this frame did not come by a connection that can be answered")
        try:
            self._router.send_multipart([frame.route, data], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        finally:
            self._look_again(self._router)
        return True

    def use_envelope(self, envelope: Envelope) -> None:
        """See `base.Transport`."""
        self._check_open()
        self._codec = Codec(envelope)

    def use_keys(self, keys: CurveKey | Sequence[CurveKey]) -> None:
        """Use another ring from now on, the key to listen with first; the peers, the port and the envelope stay.

        Where the first key is another than before, those who have connected are hung up on and come back, with one that
        they hold too; answers to what they have asked are lost. Who is connected to with a key that is gone is dialled
        anew. All else goes on. Raises ValueError for no key.
        """
        ring = _ring(keys)
        self._check_open()
        before, self._keys = self._keys, ring
        self._keeper.accepted = frozenset(self._accepted())
        if self._router is not None and self._port is not None and ring[0] != before[0]:
            self._hang_up(self._router)
            self._router = self._listen(self._port)
        for (peer, lane), link in self._links.items():
            for key in link.keys() - set(ring):
                self._hang_up(link.pop(key))
            for key in ring:
                if key not in link:
                    link[key] = self._dial(self._addresses[peer], lane, key)

    def close(self) -> None:
        """See `base.Transport`."""
        if self._closed:
            return
        self._closed = True
        for peer in tuple(self._addresses):
            self.disconnect(peer)
        if self._router is not None:
            self._hang_up(self._router)
            self._router = None
        if self._port is not None:
            self._port.close()
        self._keeper.close()
        self._context.term()


def _bound(address: str) -> sockets.socket:
    """A socket that listens on HOST:PORT. Raises OSError, ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > _PORT_MAX:
        raise ValueError("HOST:PORT is expected")
    if host == "*" and sockets.has_dualstack_ipv6():
        bound = sockets.create_server(("", int(port)), family=sockets.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    else:
        family = sockets.AF_INET6 if host.startswith("[") else sockets.AF_INET
        bound = sockets.create_server((host.strip("[]*"), int(port)), family=family, backlog=BACKLOG)
    bound.setblocking(False)
    return bound

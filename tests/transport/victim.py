"""A transport under attack, and those who attack it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import zmq as libzmq
from zmq.utils.monitor import recv_monitor_message

from tests.transport.harness import Inbox, envelope, run, trying
from transport.frames import Codec, Lane
from transport.zmq import CurveKey, Transport

KEY: Final = CurveKey.of_cluster(b"k" * 32)
OTHER_KEY: Final = CurveKey.of_cluster(b"o" * 32)
OURS: Final = Codec(envelope(2))
SECOND: Final = 1_000  # of milliseconds
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(47)  # ZMTP 3.1, 64 bytes
_PAGE_BYTES: Final = 4096


class Victim:
    """A transport that listens, and an honest peer of it that shows whether it is still well."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.transport = Transport(envelope(1), KEY, self.inbox.on_frames, bind="127.0.0.1:0")
        self._friend = Transport(envelope(2), KEY, lambda _frames: None)
        self._friend.connect(1, self.transport.address)

    async def is_well(self) -> None:
        """Nothing was handed out so far, and an honest frame still is."""
        assert self.inbox.frames == []
        await trying(lambda: self._friend.send(1, Lane.CONTROL, b"honest"))
        frames = await self.inbox.until_frames(1)
        assert [frame.payload for frame in frames] == [b"honest"]
        self.inbox.frames.clear()

    @property
    def port(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.transport.address.rpartition(":")
        return host, int(port)

    def close(self) -> None:
        self._friend.close()
        self.transport.close()


def against(attack: Callable[[Victim], Coroutine[Any, Any, None]]) -> None:
    """Run an attack; the victim must have handed out nothing of it, and be well."""

    async def test() -> None:
        victim = Victim()
        try:
            await attack(victim)
            await victim.is_well()
        finally:
            victim.close()

    run(test())


@contextmanager
def intruder(victim: Victim, server_key: bytes | None, own: CurveKey, kind: int = libzmq.DEALER) -> Iterator[Any]:
    """A bare socket that dials the victim. server_key None: without any encryption."""
    context: libzmq.Context[libzmq.Socket[bytes]] = libzmq.Context()
    dealer = context.socket(kind)
    dealer.linger = 0
    dealer.sndtimeo = dealer.rcvtimeo = 20 * SECOND
    dealer.handshake_ivl = SECOND
    if server_key is not None:
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = server_key, own.public, own.secret
    monitor = dealer.get_monitor_socket(libzmq.EVENT_DISCONNECTED | libzmq.EVENT_HANDSHAKE_FAILED_AUTH)
    try:
        dealer.connect(f"tcp://{victim.transport.address}")
        yield dealer, monitor
    finally:
        dealer.disable_monitor()
        dealer.close()
        context.destroy(linger=0)


async def refused(monitor: Any) -> None:
    """Until the victim has hung up on an intruder, or let it know that it is not wanted."""
    await trying(lambda: bool(monitor.poll(0)))
    recv_monitor_message(monitor)


def resident_bytes() -> int:
    """The memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES

"""What the transports here have in common: they are open until closed, and tell whom a frame has not reached."""

from __future__ import annotations

import asyncio
from collections import Counter

from transport.base import OnFrames, OnUnreachable
from transport.errors import TransportClosed
from transport.frames import Codec, Envelope


class Common:
    """Belongs to the running loop of the thread that makes it.

    refused: frames that came, by the reason, a FrameError's name.  dropped: frames that were not sent, by peer.
    """

    def __init__(self, envelope: Envelope, on_frames: OnFrames, on_unreachable: OnUnreachable) -> None:
        """As `transport.zmq.Transport`."""
        self.refused: Counter[str] = Counter()
        self.dropped: Counter[int] = Counter()
        self._codec = Codec(envelope)
        self._on_frames = on_frames
        self._on_unreachable = on_unreachable
        self._loop = asyncio.get_running_loop()
        self._unreachable: set[int] = set()
        self._closed = False

    def _drop(self, peer: int) -> bool:
        self.dropped[peer] += 1
        if not self._unreachable:
            self._loop.call_soon(self._tell_unreachable)
        self._unreachable.add(peer)
        return False

    def _tell_unreachable(self) -> None:
        peers, self._unreachable = self._unreachable, set()
        if not self._closed:
            for peer in sorted(peers):
                self._on_unreachable(peer)

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed("this transport was closed")

"""What a transport promises, whatever carries its frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from transport.frames import Envelope, Frame, Kind, Lane

OnFrames = Callable[[list[Frame]], None]
"""Told of what has come, everything of one wake-up at once, never an empty list."""

OnUnreachable = Callable[[int], None]
"""Told that a frame to this peer was not sent: at most once a turn of the loop, and never from inside `send`."""


class Transport(Protocol):
    """Sends frames to peers and hands out those that come. Belongs to the thread of one event loop.

    A frame arrives once or not at all; those of one lane to one peer arrive in order, but for the lost. Nothing waits:
    what cannot be sent at once is dropped, and the sender knows (P12). Nothing is handed out that does not come from a
    holder of the cluster's key, and only what `frames.Codec.decode` lets pass (P8).
    """

    @property
    def address(self) -> str:
        """HOST:PORT where it listens; empty where it does not."""

    def connect(self, peer: int, address: str) -> None:
        """Reach `peer` at HOST:PORT from now on, in the place of where it was before; tried again for ever.

        A name is resolved anew at each try. The address that `peer` has already changes nothing.
        """

    def disconnect(self, peer: int) -> None:
        """Forget `peer`; what was not sent yet is dropped."""

    def send(self, peer: int, lane: Lane, payload: bytes, kind: Kind = Kind.RAFT) -> bool:
        """Send to a peer. Returns False if it was dropped: not connected (yet), or its queue is full.

        Raises PayloadTooLarge, TransportClosed.
        """

    def answer(self, frame: Frame, payload: bytes) -> bool:
        """Answer a REQUEST by the way and the lane it came, as an ANSWER; its sender need not be a peer.

        Returns as `send`. Raises PayloadTooLarge, TransportClosed, ValueError for a frame that has no way back.
        """

    def use_envelope(self, envelope: Envelope) -> None:
        """Speak, and take frames, as another from now on: an outsider has become a member. Connections stay."""

    def close(self) -> None:
        """Stop listening, drop what was not sent. May be called twice."""

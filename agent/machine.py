"""What the driver needs of the state machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from consensus.messages import Entry, SnapshotMeta


class Loader(Protocol):
    """Reads a snapshot into a state of its own, in another thread than the machine's."""

    def feed(self, data: bytes) -> None:
        """The next bytes, cut anywhere. May raise for bytes that are no state."""

    def finish(self) -> Any:
        """The state, once all bytes have come. May raise, as `feed`."""


class Machine(Protocol):
    """The state machine. Called on the loop's thread, where nothing here may take more than some milliseconds."""

    def apply(self, entry: Entry) -> Any:
        """Apply a committed entry; what is returned answers the proposal. Never raises."""

    def ready(self) -> bool:
        """Whether it can take more now; once it can again, it calls `Driver.wake`."""

    def applied(self) -> None:
        """Some entries were applied, or a snapshot."""

    def snapshot(self) -> Iterable[bytes]:
        """The state as of what is applied, in chunks. They are taken in another thread while applying goes on."""

    def loader(self) -> Loader:
        """Begin to read a snapshot beside the state that serves."""

    def restore(self, meta: SnapshotMeta, state: Any) -> Iterable[object]:
        """Put `state`, of a `Loader`, in the place of the machine's. Returns the old one in parts, to be let go."""

    async def before_snapshot(self, index: int) -> None:
        """Make durable whatever else the log up to `index` would have said: it may be dropped after this.

        Where `index` is not applied yet, a leader's snapshot is about to take the place of what is between.
        """

"""What all should hear soon: small values by key, of which only the latest counts. A hint, never the truth.

Where the truth is known, the caller forgets the rumor. What was forgotten is refused for a while in that version and
all before it, so that those who have not heard the truth yet do not bring it back. Forgetting is local: nobody tells
others to forget.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from transport.gossip.config import Config
from transport.gossip.messages import Rumor, check_rumor, size
from transport.gossip.retransmit import Retransmits
from transport.gossip.sync import NOTHING, Version

EXPIRED_AT_ONCE: Final = 256  # a tick's work is bounded


class Rumors:
    """At most `rumors_max` of `rumors_bytes_max`: the one that came first makes place. queue: what is passed on."""

    def __init__(self, config: Config) -> None:
        """Nothing was heard."""
        self._config = config
        self._rumors: dict[bytes, tuple[Rumor, int, int]] = {}  # with its size, and when it came; the oldest first
        self._forgotten: dict[bytes, tuple[Version, int]] = {}  # up to which version, and until when; the oldest first
        self.bytes = 0
        self.queue: Retransmits[bytes, Rumor] = Retransmits()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._rumors)

    def __iter__(self) -> Iterator[Rumor]:
        """All, the one that came first in front."""
        return (rumor for rumor, _size, _at in self._rumors.values())

    def get(self, key: bytes) -> Rumor | None:
        """The latest of a key."""
        found = self._rumors.get(key)
        return None if found is None else found[0]

    def __getitem__(self, key: bytes) -> Rumor:
        """The latest of a key that there is."""
        return self._rumors[key][0]

    def versions(self) -> dict[bytes, Version]:
        """Of all, for anti-entropy."""
        return {key: rumor.version for key, (rumor, _size, _at) in self._rumors.items()}

    def known(self, key: bytes) -> Version:
        """Up to which version a key is known, or was and is forgotten: only what is above it is news."""
        found = self._rumors.get(key)
        return max(found[0].version if found else NOTHING, self._forgotten.get(key, (NOTHING, 0))[0])

    def hear(self, rumor: Rumor, now_ms: int) -> bool:
        """Keep a rumor and pass it on, if it is news. Returns whether it is. Raises RumorTooLarge."""
        check_rumor(rumor)
        if rumor.version <= self.known(rumor.key):
            return False
        self._drop(rumor.key)
        length = size(rumor)
        while len(self._rumors) >= self._config.rumors_max or self.bytes + length > self._config.rumors_bytes_max:
            self._forget_oldest(now_ms)
        self._rumors[rumor.key] = (rumor, length, now_ms)
        self.bytes += length
        self.queue.put(rumor.key, rumor, length)
        return True

    def forget(self, key: bytes, version: Version, now_ms: int) -> None:
        """A key's truth is known up to this version: drop what is not above it, and refuse it if it comes again."""
        found = self._rumors.get(key)
        if found is not None and found[0].version <= version:
            self._drop(key)
        before, _until_ms = self._forgotten.pop(key, (NOTHING, 0))
        self._forgotten[key] = (max(before, version), now_ms + self._config.forgotten_ms)
        if len(self._forgotten) > self._config.forgotten_max:
            del self._forgotten[next(iter(self._forgotten))]

    def expire(self, now_ms: int) -> None:
        """Forget what nobody has forgotten in time, and what was refused for long enough."""
        while self._rumors and now_ms - next(iter(self._rumors.values()))[2] >= self._config.rumor_ms:
            self._forget_oldest(now_ms)
        for key, (_version, until_ms) in list(islice(self._forgotten.items(), EXPIRED_AT_ONCE)):
            if now_ms < until_ms:
                break
            del self._forgotten[key]

    def _forget_oldest(self, now_ms: int) -> None:
        key, (rumor, _size, _at) = next(iter(self._rumors.items()))
        self.forget(key, rumor.version, now_ms)

    def _drop(self, key: bytes) -> None:
        found = self._rumors.pop(key, None)
        if found is not None:
            self.bytes -= found[1]
            self.queue.drop(key)

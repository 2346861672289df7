"""The time that a leader says: its host's, or the voters' median where its host's is far from that.

Time in the table never goes back, so no wrong clock may speak. Who compares is `cluster.checkup`, by `agreement`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import msgspec

from agent.cluster.agreement import SKEW_MS
from agent.runtable import commands as c

log: Final = logging.getLogger(__name__)


class LeaderClock:
    """One agent's, which counts while it leads.

    wanted: nothing is proposed in a term before the clock was compared in it. term: in which it was compared last.
    members_ms: by how much members' clocks are ahead, by node, as this leader sees it.
    """

    def __init__(self, host_ms: Callable[[], int]) -> None:
        """host_ms: milliseconds since the epoch, by the host's clock."""
        self.wanted = False
        self.term = 0
        self.ahead_ms = 0  # by how much the host's is off; 0 = so little that it counts
        self.members_ms: dict[int, int] = {}
        self.host_ms = host_ms
        self._compared: tuple[int, float] | None = None  # the time then, and by the monotonic clock

    def compared(self, term: int, ahead_ms: int) -> bool:
        """It was, in that term, and is so much ahead of the voters' median. Returns whether it is the first in it."""
        off_ms = ahead_ms if abs(ahead_ms) > SKEW_MS else 0
        if bool(off_ms) != bool(self.ahead_ms):
            told = "this leader's clock is off: the voters' median counts" if off_ms else "this leader's clock is right"
            log.warning(told, extra={"ahead_ms": ahead_ms})
        self.ahead_ms = off_ms
        self._compared = (self.host_ms() - off_ms, time.monotonic())
        first, self.term = self.term != term, term
        return first

    def now_ms(self) -> int:
        """The time to say. A clock that is set while its agent leads counts again once it was compared."""
        now_ms = self.host_ms() - self.ahead_ms
        if self._compared is None:
            return now_ms
        expected_ms = self._compared[0] + round(1000 * (time.monotonic() - self._compared[1]))
        return now_ms if abs(now_ms - expected_ms) <= SKEW_MS else expected_ms

    def stamped(self, data: bytes) -> bytes:
        """An encoded command, with a time that the table may take."""
        command, now_ms = c.decode(data), self.now_ms()
        if command is None or abs(command.time_ms - now_ms) <= SKEW_MS:
            return data
        log.debug("a command with another clock's time", extra={"ahead_ms": command.time_ms - now_ms})
        return c.encode(msgspec.structs.replace(command, time_ms=now_ms))

"""How eager gossip is: presets, derived from one another, with memberlist's figures where it has them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from transport.gossip.messages import ITEM_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How gossip works. Times in milliseconds, sizes in bytes.

    probe_ms: between two probes, and the end of each. probe_timeout_ms: until others are asked. Both grow with bad
        local health. indirect_probes: how many are asked.
    suspicion_mult: a suspect has mult * max(1, log10(n)) * probe_ms to speak up where mult - 2 others agree with the
        accuser, and suspicion_max_mult times as long where nobody does. health_max: the worst local health; 0 is good.
    gossip_ms, gossip_nodes: how often news are sent that found no message to ride on, and to how many.
    gossip_to_dead_ms: how long a dead member still gets them, so that it can speak up.
    retransmit_mult: each passes a piece of news on mult * ceil(log10(n + 1)) times.
    sync_ms: between two exchanges with some member (anti-entropy).
    gone_ms: how long the dead are remembered. members_max: in the table, the dead among them.
    piggyback_bytes, packet_bytes, sync_bytes: of the news in a probe, in a packet of their own, in one exchange.
    rumors_max, rumors_bytes_max, rumor_ms: how many are kept, of what size, for how long at most.
    forgotten_max, forgotten_ms: how many forgotten rumors are refused when they come again, and for how long.
    """

    probe_ms: int = 1000
    probe_timeout_ms: int = 500
    indirect_probes: int = 3
    suspicion_mult: int = 4
    suspicion_max_mult: int = 6
    health_max: int = 7
    gossip_ms: int = 200
    gossip_nodes: int = 3
    gossip_to_dead_ms: int = 30_000
    retransmit_mult: int = 4
    sync_ms: int = 10_000  # memberlist: 30 s, for whole tables; here a page of versions, and what differs
    gone_ms: int = 3_600_000
    members_max: int = 2048
    piggyback_bytes: int = 1024
    packet_bytes: int = 8 * 1024
    sync_bytes: int = 24 * 1024
    rumors_max: int = 4096
    rumors_bytes_max: int = 4 * 1024 * 1024
    rumor_ms: int = 600_000
    forgotten_max: int = 8192
    forgotten_ms: int = 60_000

    def __post_init__(self) -> None:
        if not 0 < self.probe_timeout_ms < self.probe_ms:
            raise ValueError(f"probe_timeout_ms must be from 1 to probe_ms - 1, not {self.probe_timeout_ms}")
        if self.suspicion_mult < 2:
            raise ValueError(f"suspicion_mult must be 2 or more, not {self.suspicion_mult}")
        if min(self.packet_bytes, self.sync_bytes) < 2 * ITEM_BYTES_MAX:
            raise ValueError(f"packet_bytes and sync_bytes must hold two of the largest items: {2 * ITEM_BYTES_MAX}")
        if self.rumors_max < 1 or self.rumors_bytes_max < ITEM_BYTES_MAX:
            raise ValueError("one rumor of the largest size must have room among those that are kept")
        if max(self.packet_bytes, self.sync_bytes) > 24 * 1024:
            raise ValueError("packet_bytes and sync_bytes must leave room for the rest of a message: 24 KiB at most")

    def retransmits(self, living: int) -> int:
        """How often each passes a piece of news on. living: members that live, this one among them."""
        return self.retransmit_mult * math.ceil(math.log10(living + 1))


LAN: Final = Config()
"""memberlist's figures for a local network."""

FAST: Final = replace(LAN, probe_ms=200, probe_timeout_ms=100, gossip_ms=100, sync_ms=5_000)
"""For clusters of up to some hundred agents: five times as quick; docs/gossip.md has the price."""

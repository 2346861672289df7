"""Asks members in turn whether they are there, and keeps an eye on itself (SWIM, section 4; Lifeguard, 4.1).

One probe at a time: a ping, after a while pings through others, and at its end a verdict. Who gets few answers, or has
to speak up, is probably the slow one himself, and takes longer over his next probes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from transport.gossip.config import Config
from transport.gossip.members import Rng, Table
from transport.gossip.messages import Ack, Body, Nack, Ping, PingRequest, State

RELAYS_MAX: Final = 256  # probes for others at a time; more are not answered (P12)

Sending = tuple[int, Body]  # to whom, what


@dataclass(slots=True)
class Probe:
    """A question to `target` that is open. asks_ms: when others are asked. ends_ms: the verdict."""

    number: int
    target: int
    asks_ms: int
    ends_ms: int
    asked: bool = False
    helpers: set[int] = field(default_factory=set)
    nacks: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Relay:
    """A question to `target` in the place of `requester`, who calls it `number`."""

    requester: int
    number: int
    target: int
    ends_ms: int


class Detector:
    """health: from 0, well, to `health_max`. What it wants sent is returned; verdicts are the caller's to act on."""

    def __init__(self, config: Config, table: Table, rng: Rng, now_ms: int) -> None:
        """The first probe is due within the first interval."""
        self._config = config
        self._table = table
        self._number = rng(1 << 32)  # an answer to an earlier life fits no question of this one
        self._probe: Probe | None = None
        self._next_ms = now_ms + rng(config.probe_ms)
        self._relays: dict[int, Relay] = {}  # in the order in which they end
        self.health = 0

    def feel(self, delta: int) -> None:
        """Bad news (more than 0) or good news (less) about oneself."""
        self.health = min(max(0, self.health + delta), self._config.health_max)

    def tick(self, now_ms: int) -> Iterator[Sending]:
        """Begin the next probe, ask others where a target has not answered, answer those who asked in vain."""
        probe = self._probe
        if probe is not None and not probe.asked and now_ms >= probe.asks_ms:
            probe.asked = True
            others = self._table.sample(
                self._config.indirect_probes,
                lambda one: one.state is State.ALIVE and one.update.id != probe.target,
            )
            for helper in others:
                probe.helpers.add(helper)
                yield helper, PingRequest(probe.number, probe.target)
        if self._probe is None and now_ms >= self._next_ms:
            yield from self._begin(now_ms)
        for number, relay in list(self._relays.items()):
            if now_ms < relay.ends_ms:
                break
            del self._relays[number]
            yield relay.requester, Nack(relay.number)

    def _begin(self, now_ms: int) -> Iterator[Sending]:
        slower = 1 + self.health
        self._next_ms = now_ms + self._config.probe_ms * slower
        target = self._table.next()
        if target is not None:
            self._number += 1
            asks_ms = now_ms + self._config.probe_timeout_ms * slower
            self._probe = Probe(self._number, target.update.id, asks_ms, self._next_ms)
            yield target.update.id, Ping(self._number)

    def judge(self, now_ms: int) -> int | None:
        """End the probe if its time is over. Returns its target, which answered neither directly nor through others.

        Helpers that did not even say that they heard nothing tell that it is this member which is not heard.
        """
        probe = self._probe
        if probe is None or now_ms < probe.ends_ms:
            return None
        self._probe = None
        self.feel(len(probe.helpers) - len(probe.nacks) if probe.helpers else 1)
        return probe.target

    def step(self, sender: int, body: Ping | Ack | PingRequest | Nack, now_ms: int) -> Sending | None:
        """A question, or an answer. Returns what to send."""
        if isinstance(body, Ping):
            return sender, Ack(body.number)
        if isinstance(body, PingRequest):
            return self._asked_for(sender, body, now_ms)
        if isinstance(body, Ack):
            return self._acked(sender, body.number)
        if self._probe is not None and body.number == self._probe.number and sender in self._probe.helpers:
            self._probe.nacks.add(sender)
        return None

    def _asked_for(self, requester: int, request: PingRequest, now_ms: int) -> Sending | None:
        if len(self._relays) >= RELAYS_MAX:
            return None
        self._number += 1
        ends_ms = (
            now_ms + self._config.probe_timeout_ms * 8 // 10
        )  # the requester must hear of it before its probe ends
        self._relays[self._number] = Relay(requester, request.number, request.target, ends_ms)
        return request.target, Ping(self._number)

    def _acked(self, sender: int, number: int) -> Sending | None:
        probe = self._probe
        if probe is not None and number == probe.number and (sender == probe.target or sender in probe.helpers):
            self._probe = None
            self.feel(-1)
            return None
        relay = self._relays.get(number)
        if relay is None or relay.target != sender:
            return None
        del self._relays[number]
        return relay.requester, Ack(relay.number)

    def rest(self) -> None:
        """What was asked before says nothing about others: this member could not hear the answers, or it leaves."""
        self._probe = None
        self._relays.clear()

"""One member by itself, for tests: what it says to what it hears."""

from __future__ import annotations

import random
from typing import Final

from transport.gossip import FAST, Change, Config, Gossip, MemberEvent, Metadata, Output, Rumor, State, Update
from transport.gossip.messages import (
    Body,
    MemberPage,
    Message,
    News,
    Ping,
    RumorPage,
    SyncRequest,
    decode,
    encode,
)

ME: Final = 1_000_000
HERE: Final = Metadata("10.0.0.1:7400")


class Bench:
    """One member, and what it says. Ticks every 20 ms, so that no time is late."""

    def __init__(self, *others: int, config: Config = FAST, incarnation: int = 0) -> None:
        self.now = 0
        self.gossip = Gossip(ME, HERE, random.Random(1).randrange, 0, config=config, incarnation=incarnation)
        self.events: list[MemberEvent] = []
        self.said: list[tuple[int, Message]] = []
        for other in others:
            self.hears(News(), alive(other), sender=other)
        self.events.clear()

    def _take(self, output: Output) -> None:
        self.events += output.events
        self.said += [(to, decode(payload)) for to, payload in output.messages]

    def hears(self, body: Body, *updates: Update, sender: int = 1, rumors: tuple[Rumor, ...] = ()) -> list[Body]:
        """Somebody says something. Returns the answers to it."""
        before = len(self.said)
        self._take(self.gossip.step(encode(Message(body, list(updates), list(rumors))), sender, self.now))
        return [message.body for to, message in self.said[before:] if to == sender]

    def runs(self, for_ms: int) -> list[tuple[int, Body]]:
        """Time passes. Returns what is said of itself."""
        before = len(self.said)
        for _ in range(for_ms // 20):
            self.now += 20
            self._take(self.gossip.tick(self.now))
        return [(to, message.body) for to, message in self.said[before:]]

    def until_ping(self) -> tuple[int, int]:
        """Time passes until the next probe begins. Returns its target and number."""
        for _ in range(1000):
            for to, body in self.runs(20):
                if isinstance(body, Ping):
                    return to, body.number
        raise AssertionError("nobody is asked")

    def changes(self) -> list[tuple[Change, int]]:
        """What has changed since the last call."""
        found = [(one.change, one.member.id) for one in self.events]
        self.events.clear()
        return found

    def state(self, member: int) -> State | None:
        """What is believed of it."""
        found = self.gossip.member(member)
        return None if found is None else found.state


def alive(member: int, incarnation: int = 0, metadata: Metadata = HERE) -> Update:
    """A member's own word."""
    return Update(member, incarnation, State.ALIVE, member, metadata)


def suspect(member: int, source: int, incarnation: int = 0) -> Update:
    """An accusation."""
    return Update(member, incarnation, State.SUSPECT, source, HERE)


def dead(member: int, incarnation: int = 0, age_ms: int = 0) -> Update:
    """A verdict."""
    return Update(member, incarnation, State.DEAD, 9, HERE, age_ms)


def left(member: int, incarnation: int = 0) -> Update:
    """A farewell."""
    return Update(member, incarnation, State.LEFT, member, HERE)


def everything() -> SyncRequest:
    """A request for all, of somebody who knows nothing."""
    return SyncRequest(MemberPage(0, None, []), RumorPage(b"", None, []))

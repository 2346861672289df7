"""Membership: who is there, as far as one member can know (SWIM, Das et al. 2002; Lifeguard, Dadgar et al. 2017).

    ALIVE --no answer--> SUSPECT --time-out--> DEAD
      ^---- higher incarnation, which only the member itself can say ----'      any --its own word--> LEFT

Of two facts about a member the one that `supersedes` the other is believed, in whatever order they come. Three things
are added to the papers. The dead are asked for news now and then, so that both sides of a healed cut find each other. A
member that finds that time has passed without it (paused, starved) does not count that time against others: it could
not have heard them. And what an exchange tells of the dead whom this member believes to live is a suspicion only, for
it may be old.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from msgspec.structs import replace

from transport.gossip import suspicion
from transport.gossip.config import Config
from transport.gossip.detector import Detector, Sending
from transport.gossip.members import GONE, Record, Rng, Table
from transport.gossip.messages import (
    COUNT_MAX,
    Ack,
    Metadata,
    Nack,
    Ping,
    PingRequest,
    State,
    Update,
    check_metadata,
    supersedes,
)


class Change(IntEnum):
    """What has happened to what is believed of a member."""

    JOINED = 0  # new, or back
    SUSPECTED = 1
    REFUTED = 2  # no longer suspected
    DEAD = 3
    LEFT = 4
    UPDATED = 5  # other metadata


@dataclass(frozen=True, slots=True)
class MemberEvent:
    """A change, and what is believed of the member after it."""

    change: Change
    member: Update


class Swim:
    """What one member believes of the others. Events gather in `events`, what is to be passed on in `table.queue`."""

    def __init__(
        self, config: Config, member: int, metadata: Metadata, rng: Rng, now_ms: int, incarnation: int = 0
    ) -> None:
        """member: its id. incarnation: to begin with; where others remember a higher one, it takes the next.

        Raises MetadataTooLarge.
        """
        check_metadata(metadata)
        self._config = config
        self._rng = rng
        self._last_ms = now_ms
        self._contacts: dict[int, None] = {}
        self._suspects: dict[int, Record] = {}
        self.events: list[MemberEvent] = []
        self.table = Table(config, rng)
        self.detector = Detector(config, self.table, rng, now_ms)
        self.me = Update(member, incarnation, State.ALIVE, member, metadata)
        self.table.announce(self.me)

    @property
    def living(self) -> int:
        """How many live, this one among them; suspects do."""
        return self.table.living + 1

    # -- what this member does ---------------------------------------------------------------------------------------

    def join(self, contacts: Iterable[int]) -> None:
        """Look for these members until they are known, and for no others any more."""
        wanted = dict.fromkeys(one for one in contacts if one != self.me.id)
        if len(wanted) > self._config.members_max:
            raise ValueError(f"{len(wanted)} contacts, where {self._config.members_max} members are room")
        self._contacts = wanted

    def revise(self, metadata: Metadata) -> None:
        """Say something else of oneself. Raises MetadataTooLarge."""
        check_metadata(metadata)
        self._speak_up(replace(self.me, metadata=metadata), self.me.incarnation)

    def leave(self) -> None:
        """Say farewell; the queue must be sent before the process ends. Asks nobody any more."""
        self.me = replace(self.me, state=State.LEFT)
        self.detector.rest()
        self.table.announce(self.me)

    def _speak_up(self, said: Update, above: int) -> None:
        self.me = replace(said, incarnation=min(above + 1, COUNT_MAX))
        self.table.announce(self.me)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> list[Sending]:
        """Time has passed. Returns what to send."""
        paused_ms, self._last_ms = now_ms - self._last_ms, now_ms
        if paused_ms > self._config.probe_ms:
            self.detector.rest()
            self.detector.feel(1)
            for record in self._suspects.values():
                assert record.suspicion is not None
                record.suspicion.postpone(paused_ms)
        silent = self.detector.judge(now_ms)
        target = None if silent is None else self.table.get(silent)
        if target is not None and not target.gone:
            self._hear(replace(target.update, state=State.SUSPECT, source=self.me.id), target, now_ms)
        for record in list(self._suspects.values()):
            assert record.suspicion is not None
            if now_ms >= record.suspicion.ends_ms:
                self._hear(replace(record.update, state=State.DEAD, source=self.me.id), record, now_ms)
        return list(self.detector.tick(now_ms)) if self.me.state is State.ALIVE else []

    def step(self, sender: int, body: Ping | Ack | PingRequest | Nack, now_ms: int) -> list[Sending]:
        """A question, or an answer. Returns what to send."""
        sending = self.detector.step(sender, body, now_ms)
        return [] if sending is None else [sending]

    def listeners(self, now_ms: int) -> list[int]:
        """Whom to tell the news: some members, the lately dead among them, so that they can speak up."""
        since_ms = now_ms - self._config.gossip_to_dead_ms
        return self.table.sample(
            self._config.gossip_nodes,
            lambda one: not one.gone or (one.state is State.DEAD and one.since_ms > since_ms),
        )

    def partners(self) -> list[int]:
        """Whom to exchange all with: one that lives, and one that should and is not known to."""
        lost = [one.update.id for one in self.table if one.state is State.DEAD]
        lost += [one for one in self._contacts if self.table.get(one) is None]
        living = self.table.sample(1, lambda one: not one.gone)
        return [*living, lost[self._rng(len(lost))]] if lost else living

    # -- what others say ---------------------------------------------------------------------------------------------

    def hear(self, update: Update, now_ms: int, *, synced: bool = False) -> bool:
        """A fact about a member. synced: it comes from an exchange, and may be old. Returns whether it was news."""
        if update.id == self.me.id:
            return self._about_me(update)
        record = self.table.get(update.id)
        if record is None:
            return self._admit(update, now_ms, synced=synced)
        if synced and update.state is State.DEAD and not record.gone:
            update = replace(update, state=State.SUSPECT)
        return self._hear(update, record, now_ms)

    def _about_me(self, update: Update) -> bool:
        """Only this member may say something of it; what an earlier life of it said, or others fear, is answered."""
        same = update.state is State.ALIVE and update.metadata == self.me.metadata
        behind = update.incarnation < self.me.incarnation or (update.incarnation == self.me.incarnation and same)
        if behind or self.me.state is State.LEFT:
            return False
        if update.state in (State.SUSPECT, State.DEAD):
            self.detector.feel(1)
        self._speak_up(self.me, update.incarnation)
        return True

    def _admit(self, update: Update, now_ms: int, *, synced: bool) -> bool:
        """Of an unknown member. One that is gone is remembered too, lest older news make it live again."""
        record = Record(update, now_ms - update.age_ms)
        if (record.gone and update.age_ms >= self._config.gone_ms) or not self.table.add(record):
            return False
        if not record.gone:
            self._tell(Change.JOINED, record)
        if record.state is State.SUSPECT:
            self._suspect(record, now_ms)
            self._tell(Change.SUSPECTED, record)
        if not synced:  # who joins learns of everybody: that is no news to others
            self.table.announce(update)
        return True

    def _hear(self, update: Update, record: Record, now_ms: int) -> bool:
        before = record.update
        if supersedes(update, before):
            self._suspects.pop(update.id, None)
            record.suspicion = None
            self.table.set(record, update, now_ms)
            if update.state is State.SUSPECT:
                self._suspect(record, now_ms)
            self._report(before, record)
            self.table.announce(update)
            return True
        another = update.state is State.SUSPECT and update.incarnation == before.incarnation
        if another and record.suspicion is not None and record.suspicion.confirm(update.source):
            self.table.announce(replace(before, source=update.source))
        return False

    def _suspect(self, record: Record, now_ms: int) -> None:
        record.suspicion = suspicion.begin(self._config, self.living, record.update.source, now_ms)
        self._suspects[record.update.id] = record

    def _report(self, before: Update, record: Record) -> None:
        after = record.update
        if after.state in GONE:
            if after.state is not before.state:
                self._tell(Change.DEAD if after.state is State.DEAD else Change.LEFT, record)
            return
        if before.state in GONE:
            self._tell(Change.JOINED, record)
        elif after.metadata != before.metadata:
            self._tell(Change.UPDATED, record)
        if after.state is State.SUSPECT and before.state is not State.SUSPECT:
            self._tell(Change.SUSPECTED, record)
        elif after.state is State.ALIVE and before.state is State.SUSPECT:
            self._tell(Change.REFUTED, record)

    def _tell(self, change: Change, record: Record) -> None:
        self.events.append(MemberEvent(change, record.update))

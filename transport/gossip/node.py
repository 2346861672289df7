"""The door: membership and rumors of one member, as messages in and messages out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transport.gossip.config import FAST, Config
from transport.gossip.members import Rng
from transport.gossip.messages import (
    Body,
    MemberPage,
    Message,
    Metadata,
    News,
    Rumor,
    RumorPage,
    State,
    SyncAnswer,
    SyncRequest,
    SyncRest,
    Update,
    decode,
    encode,
    size,
)
from transport.gossip.rumors import Rumors
from transport.gossip.swim import MemberEvent, Swim
from transport.gossip.sync import NOTHING, Version, fitting, newer, page


@dataclass(frozen=True, slots=True)
class Output:
    """What has come of an input. messages: (to, payload), to be sent. rumors: that are news."""

    messages: list[tuple[int, bytes]]
    events: list[MemberEvent]
    rumors: list[Rumor]


class Gossip:
    """One member. See the package's docstring for how it is driven."""

    def __init__(
        self,
        member: int,
        metadata: Metadata,
        rng: Rng,
        now_ms: int,
        *,
        config: Config = FAST,
        incarnation: int = 0,
    ) -> None:
        """member: its id, 1 and up. metadata: what it says of itself. rng: rng(n) gives 0 to n - 1, evenly.

        now_ms: of a clock that never goes back, as everywhere here. incarnation: to begin with; one above the last is
        welcome, and not needed. Raises MetadataTooLarge.
        """
        self._config = config
        self._swim = Swim(config, member, metadata, rng, now_ms, incarnation)
        self._rumors = Rumors(config)
        self._gossip_ms = now_ms + rng(config.gossip_ms)
        self._sync_ms = now_ms  # who has just begun knows nothing
        self._next_member = 0
        self._next_rumor = b""
        self._out: list[tuple[int, bytes]] = []
        self._news: list[Rumor] = []

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def me(self) -> Update:
        """What this member says of itself."""
        return self._swim.me

    @property
    def members(self) -> list[Update]:
        """What is believed of each of the others, the dead among them."""
        return [record.update for record in self._swim.table]

    def member(self, member: int) -> Update | None:
        """What is believed of another member."""
        record = self._swim.table.get(member)
        return None if record is None else record.update

    @property
    def health(self) -> int:
        """Of this member, by what it gets to hear: 0 is good."""
        return self._swim.detector.health

    @property
    def rumors(self) -> Rumors:
        """The provisional ones: to be iterated, counted, asked by key. Change them by `broadcast` and `forget`."""
        return self._rumors

    @property
    def unsent(self) -> int:
        """How much news is still to be passed on. Who leaves ticks on until there is none, or for a second."""
        return len(self._swim.table.queue) + len(self._rumors.queue)

    # -- what this member does ---------------------------------------------------------------------------------------

    def join(self, contacts: Iterable[int], now_ms: int) -> None:
        """Look for these members from now on, in the place of those given before. Known ones are no trouble.

        Raises ValueError for more than `members_max`.
        """
        self._swim.join(contacts)
        self._sync_ms = now_ms

    def revise(self, metadata: Metadata) -> None:
        """Say something else of oneself. Raises MetadataTooLarge."""
        self._swim.revise(metadata)

    def leave(self) -> None:
        """Say farewell. See `unsent`."""
        self._swim.leave()

    def broadcast(self, rumor: Rumor, now_ms: int) -> bool:
        """Tell everybody. Returns False if the key is known in this version or above. Raises RumorTooLarge."""
        return self._rumors.hear(rumor, now_ms)

    def forget(self, key: bytes, version: tuple[int, int], now_ms: int) -> None:
        """The truth about a key is known up to this version: its rumor is dropped, and refused for a while."""
        self._rumors.forget(key, version, now_ms)

    # -- inputs ------------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> Output:
        """Time has passed; to be called every 50 to 100 ms."""
        for to, body in self._swim.tick(now_ms):
            self._send(to, body, now_ms)
        if now_ms >= self._gossip_ms:
            self._gossip_ms = now_ms + self._config.gossip_ms
            for to in self._swim.listeners(now_ms) if self.unsent else ():
                self._send(to, News(), now_ms, room=self._config.packet_bytes)
        if now_ms >= self._sync_ms:
            alone = self._swim.living == 1  # and looking for its contacts
            self._sync_ms = now_ms + (self._config.probe_ms if alone else self._config.sync_ms)
            self._swim.table.expire(now_ms)
            for to in self._swim.partners():
                self._ask(to, now_ms)
        self._rumors.expire(now_ms)
        return self._output()

    def step(self, payload: bytes, sender: int, now_ms: int) -> Output:
        """A message has come. sender: who the frame says. Raises MessageMalformed; nothing has changed then."""
        message = decode(payload)
        body = message.body
        synced = isinstance(body, SyncAnswer | SyncRest)
        news = [update for update in message.updates if self._swim.hear(update, now_ms, synced=synced)]
        rumors = [rumor for rumor in message.rumors if self._rumors.hear(rumor, now_ms)]
        self._news += rumors
        if isinstance(body, SyncRequest):
            self._answer(sender, body, now_ms)
        elif isinstance(body, SyncAnswer):
            self._rest(sender, body, now_ms, useful=bool(news or rumors))
        elif not isinstance(body, News | SyncRest):
            for to, answer in self._swim.step(sender, body, now_ms):
                self._send(to, answer, now_ms)
        return self._output()

    def _output(self) -> Output:
        output = Output(self._out, self._swim.events, self._news)
        self._out, self._swim.events, self._news = [], [], []
        return output

    # -- outputs -----------------------------------------------------------------------------------------------------

    def _send(self, to: int, body: Body, now_ms: int, room: int | None = None) -> None:
        """Send with as much news as there is room. Of whom others do not think well is told so, to speak up."""
        left = self._config.piggyback_bytes if room is None else room
        updates: list[Update] = []
        record = self._swim.table.get(to)
        if record is not None and record.state is not State.ALIVE:
            updates = [record.told(now_ms)]
            left -= size(updates[0])
        limit = self._config.retransmits(self._swim.living)
        news, used = self._swim.table.queue.take(left, limit)
        rumors, _used = self._rumors.queue.take(left - used, limit)
        if updates or news or rumors or not isinstance(body, News):
            self._out.append((to, encode(Message(body, updates + news, rumors))))

    def _ask(self, to: int, now_ms: int) -> None:
        """Begin an exchange over the next page of members and of rumors."""
        members = self._member_versions()
        ids, next_member = page(members, self._next_member)
        rumors = self._rumors.versions()
        keys, next_rumor = page(rumors, self._next_rumor)
        request = SyncRequest(
            MemberPage(self._next_member, next_member, [(one, members[one][0], State(members[one][1])) for one in ids]),
            RumorPage(self._next_rumor, next_rumor, [(key, *rumors[key]) for key in keys]),
        )
        self._next_member, self._next_rumor = next_member or 0, next_rumor or b""
        self._send(to, request, now_ms)

    def _answer(self, to: int, request: SyncRequest, now_ms: int) -> None:
        """Second of three: what they lack, and what they know better."""
        asked, asked_too = request.members, request.rumors
        theirs = {one: (incarnation, int(state)) for one, incarnation, state in asked.marks}
        theirs_too = {key: (epoch, seq) for key, epoch, seq in asked_too.marks}
        members, rumors = self._member_versions(), self._rumors.versions()
        lacking = newer(members, theirs, asked.first, asked.until)
        lacking_too = newer(rumors, theirs_too, asked_too.first, asked_too.until)
        updates, next_member, room = fitting(lacking, lambda one: self._told(one, now_ms), self._config.sync_bytes)
        missing, next_rumor, _ = fitting(lacking_too, self._rumors.__getitem__, room)
        answer = SyncAnswer(
            [one for one, version in theirs.items() if version > members.get(one, NOTHING)],
            [key for key, version in theirs_too.items() if version > self._rumors.known(key)],
            next_member,
            next_rumor,
        )
        self._out.append((to, encode(Message(answer, updates, missing))))

    def _rest(self, to: int, answer: SyncAnswer, now_ms: int, *, useful: bool) -> None:
        """Last of three: what was wanted, as far as there is room. Goes on at once where the other side had no room."""
        members, rumors = self._member_versions(), self._rumors.versions()
        ids = [one for one in answer.members if one in members]
        keys = [key for key in answer.rumors if key in rumors]
        updates, _, room = fitting(ids, lambda one: self._told(one, now_ms), self._config.sync_bytes)
        wanted, _, _ = fitting(keys, self._rumors.__getitem__, room)
        if updates or wanted:
            self._out.append((to, encode(Message(SyncRest(), updates, wanted))))
        if useful and (answer.next_member is not None or answer.next_rumor is not None):
            self._next_member, self._next_rumor = answer.next_member or 0, answer.next_rumor or b""
            self._ask(to, now_ms)

    def _member_versions(self) -> dict[int, Version]:
        return self._swim.table.versions() | {self.me.id: (self.me.incarnation, self.me.state)}

    def _told(self, member: int, now_ms: int) -> Update:
        record = self._swim.table.get(member)
        return self.me if record is None else record.told(now_ms)

"""Who founds, who joins: the agreement by which N agents of one list found one cluster. Pure.

Every agent is given the same list of addresses and the same N, more than half of the list's length. N of the agents
that stand in the list promise each other one set of founders. Who knows that all of them have promised it begins its
log with that set: they all begin with the same one.

The rules, and why at most one set of a list is ever complete (promised by all of its members):

1. An agent promises one set at a time, of N entries of its list, itself included. What it tells is on its disk before.
2. To *refuse* a set means never to promise it. Who has promised it does not refuse it.
3. An agent withdraws a promise only when a member of that set has refused it. The first to refuse a set has never
   promised it and never will: the set cannot become complete, and no promise of it, however old, does any harm.
4. Two sets of more than half of one list share an entry. Its agent cannot have promised both: if one set is complete,
   it was never withdrawn. So who meets a founded cluster that is not its promised set may join it; and who meets one
   that *is* its promised set knows that all have promised it, and founds the same, however often it was restarted.

Sets are numbered. An agent refuses by number: every set up to `Record.refused_to` but the one it has promised. So the
record stays small, and founders whose set was refused try again under a higher number.

Assumed: an address is one agent's. An agent that loses its disk loses its promise, and comes back as another: two sets
share at least 2N - len(list) entries, and one of those must have kept its disk. N = len(list) bears most. Agents whose
list or N differ promise nothing to each other, and say so (`founding_hash`).

Who makes a set: of the N lowest agents that are heard, the lowest that is free, when they have been the same for a
moment. Everybody else promises the least set that is promised by somebody, if it hears all its members. So usually
there is one set, and nobody withdraws. If a promised set does not come about and another could, its members are asked
to refuse it.

How a driver uses it (`f` is the Formation, times in milliseconds of any clock that does not go back):

    f = Formation(me, join, expect, promises.record, jitter=random.randrange, member=None or Member(...))

    every TICK_MS       f.step(Tick({entry: addresses it resolves to now, () if to none}), now_ms)
    an answer has come  f.step(Answered(address, standing), now_ms). None has come: nothing
    asked by others     f.step(Asked(question), now_ms), carry out the actions, then answer with `f.standing`

    Ask(address, question)      ask, and let no tick wait for it; an answer that takes longer than ALIVE_MS is worthless
    Store(record)               make it durable (`promise.PromiseFile.store`), then f.step(Stored(), now_ms)
    Found(founders)             begin the log: cluster `founders.cluster`, all founders as voters. Comes once
    Join(address, cluster, ...) ask that agent to be let in. Comes with every tick until f.step(Member(...), now_ms)
    Say(message)                for the operator
    Fail(message)               stop the agent. Nothing comes after it

Hello, PromiseAsked and RefuseAsked are served to outsiders too, for as long as the agent lives. An agent that has a log
gives `member` at once; its ticks ask entries until each has named a cluster, to find out whether it is another one: it
ticks at its start, not for ever. A promise in the file means that the agent must not found alone, whatever its flags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.cluster.standing import (
    FOUNDERS_MAX,
    AnyQuestion,
    Founder,
    FoundingSet,
    Heard,
    Hello,
    PromiseAsked,
    Record,
    RefuseAsked,
    Standing,
    View,
    founding_hash,
    in_words,
)
from agent.errors import ConfigError

__all__ = [  # all that a driver needs, the words of `standing` as well
    "ALIVE_MS", "TICK_MS", "Action", "Answered", "AnyQuestion", "Ask", "Asked", "Event", "Fail", "Formation", "Found",
    "Founder", "FoundingSet", "Hello", "Join", "Member", "PromiseAsked", "Record", "RefuseAsked", "Say", "Standing",
    "Store", "Stored", "Tick",
]  # fmt: skip

TICK_MS: Final = 500
ALIVE_MS: Final = 5_000  # who has answered within it is heard
SETTLE_MS: Final = 1_000  # for as long the same ones are heard before a set is made of them; jitter comes on top
PATIENCE_MS: Final = 30_000  # with a member that is not heard

# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. names: for each entry of the list the addresses it resolves to now."""

    names: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Answered:
    """The agent at this address has answered a question of this process."""

    address: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class Asked:
    """Another agent asks."""

    question: AnyQuestion


@dataclass(frozen=True, slots=True)
class Stored:
    """The record of the last Store is durable."""


@dataclass(frozen=True, slots=True)
class Member:
    """This agent belongs to a cluster. members: of whom newcomers are told; give it again when they change."""

    cluster: str
    generation: int
    members: tuple[Founder, ...]


# -- actions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the agent at a resolved address."""

    address: str
    question: AnyQuestion


@dataclass(frozen=True, slots=True)
class Store:
    """Make it durable. Until then nothing of it is told, and no other Store comes."""

    record: Record


@dataclass(frozen=True, slots=True)
class Found:
    """Begin the cluster of this set."""

    founders: FoundingSet


@dataclass(frozen=True, slots=True)
class Join:
    """Ask to be let into this cluster. members: its agents, as the one at `address` knows them."""

    address: str
    cluster: str
    generation: int
    members: tuple[Founder, ...]


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the operator. stuck: nobody else can help."""

    message: str
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    """Stop."""

    message: str


Event = Tick | Answered | Asked | Stored | Member
Action = Ask | Store | Found | Join | Say | Fail

# -- the machine -------------------------------------------------------------------------------------------------------


class Formation:
    """See the module. One per agent; not for two threads."""

    def __init__(
        self,
        me: Founder,
        join: Sequence[str],
        expect: int,
        record: Record,
        *,
        jitter: Callable[[int], int],
        member: Member | None = None,
    ) -> None:
        """me: with the address as it stands in the list. expect: N; 0 = this agent only joins. record: from its disk.

        jitter: a random integer from 0 to below its argument. Raises ConfigError for a list and an N that cannot found,
        or under which this agent's promise was not given.
        """
        self._me, self._list, self._expect = me, frozenset(join), expect
        self._founding = founding_hash(join, expect) if expect and me.address in self._list else ""
        self._record = record  # what is durable
        self._next: Record | None = None  # what is being made so
        self._member, self._jitter = member, jitter
        self._view = View()
        self._told: set[Founder] = set()  # who else has told that it has promised the set that we have
        self._choice: tuple[FoundingSet | None, int] = (None, 0)  # the set to make, and when
        self._began_ms: int | None = None
        self._said: dict[str, str] = {}
        self._failed = False
        if member is None:
            self._check()

    def _check(self) -> None:
        least, most = len(self._list) // 2 + 1, min(len(self._list), FOUNDERS_MAX)
        if self._expect and not least <= self._expect <= most:
            raise ConfigError(
                f"--bootstrap-expect {self._expect}: with {len(self._list)} addresses in --join it is {least} to "
                f"{most}; with half of them or less, two clusters could be founded"
            )
        promised = self._record.promised
        if promised is not None and (self._record.founding != self._founding or self._me not in promised.founders):
            raise ConfigError(
                "--join, --bootstrap-expect or this agent's address are not those under which it has promised to found "
                f"cluster {promised.cluster} with {in_words(promised.founders)}; start it as before, or, if none of "
                "them has founded it, begin with empty data directories on all of them"
            )

    @property
    def standing(self) -> Standing:
        """The answer to every question: what is durable."""
        belongs = (self._member.cluster, self._member.generation, self._member.members) if self._member else ()
        return Standing(self._me, self._founding, self._record.promised, self._record.refused_to, *belongs)

    def step(self, event: Event, now_ms: int) -> list[Action]:
        """Take in what has happened. Returns what is to be done, in this order."""
        if self._failed:
            return []
        match event:
            case Tick():
                self._began_ms = now_ms if self._began_ms is None else self._began_ms
                self._view.renew(event.names)
                actions = self._decide(now_ms) + self._asks(now_ms)
            case Answered():
                actions = self._on_answered(event.address, event.standing, now_ms)
            case Asked():
                actions = self._on_asked(event.question, now_ms)
            case Stored():
                actions = self._on_stored(now_ms)
            case Member():
                self._member = event
                actions = []
        failures: list[Action] = [one for one in actions if isinstance(one, Fail)]
        self._failed = bool(failures)
        return failures or actions

    # -- what has happened -------------------------------------------------------------------------------------------

    def _on_answered(self, address: str, standing: Standing, now_ms: int) -> list[Action]:
        if standing.me.id == self._me.id:
            return []  # another name of this agent, which counts once
        self._view.heard[address] = Heard(standing, now_ms)
        self._count(standing)
        entry = next((name for name, addresses in self._view.names.items() if tuple(addresses) == (address,)), "")
        if not self._founding or not entry or standing.cluster:
            return []
        if standing.founding != self._founding:
            return self._say_it_differs(standing.me)
        if standing.me.address != entry:
            return self._say(entry, f"{entry} is answered by {in_words([standing.me])}; it founds under that name only")
        return []

    def _on_asked(self, question: AnyQuestion, now_ms: int) -> list[Action]:
        if isinstance(question, Hello) or not self._founding or self._member or self._next:
            return []
        if question.founding != self._founding:
            return self._say_it_differs(question.me)
        founders = question.founders
        if not self._fits(founders) or self._me not in founders.founders or self.standing.refuses(founders):
            return []
        if isinstance(question, PromiseAsked):
            least = min([*self._promised(now_ms), founders])
            return self._promise(founders) if least == founders and self._may_promise(founders, now_ms) else []
        return self._refuse(founders) if founders != self._record.promised else []

    def _on_stored(self, now_ms: int) -> list[Action]:
        assert self._next is not None, "nothing was to be stored"
        self._record, self._next = self._next, None
        self._told.clear()
        for one in self._view.heard.values():
            self._count(one.standing)
        return self._asks(now_ms) if self._record.promised is not None else []

    def _count(self, standing: Standing) -> None:
        promised = self._record.promised
        if promised is not None and standing.promised == promised and standing.me in promised.founders:
            self._told.add(standing.me)

    # -- what to do --------------------------------------------------------------------------------------------------

    def _decide(self, now_ms: int) -> list[Action]:
        promised = self._record.promised
        clusters = {one.cluster for one in self._view.members()}
        if self._member is not None:
            clusters.add(self._member.cluster)
        if promised is not None and self._is_complete(promised):
            clusters.add(promised.cluster)
        if len(clusters) > 1:
            own = f" (this one to {self._member.cluster})" if self._member else ""
            return [Fail(f"the agents of --join belong to different clusters: {', '.join(sorted(clusters))}{own}")]
        if self._member is not None:
            return []
        if clusters:
            return self._enter(clusters.pop(), now_ms)
        if self._expect and not self._founding:
            text = f"{self._me.address} does not stand in --join: this agent does not found, it waits for a cluster"
            return self._say("", text)
        if self._next is not None or not self._founding:
            return []
        if promised is None:
            return self._agree(now_ms)
        return self._withdraw(promised) if self._is_refused(promised) else self._tell_if_stuck(promised)

    def _enter(self, cluster: str, now_ms: int) -> list[Action]:
        """A cluster is founded: found it as well if it is of our set, else join it (rule 4)."""
        promised = self._record.promised
        if promised is not None and promised.cluster == cluster:
            self._member = Member(cluster, 1, promised.founders)
            return [Found(promised)]
        for one in self._view.members():
            if one.promised is not None and one.promised.cluster == cluster and self._me in one.promised.founders:
                text = "founded it with this one, whose disk does not know of it: begin with an empty data directory"
                return [Fail(f"cluster {cluster}: {in_words([one.me])} has {text}")]
        alive = [
            (one.standing.generation, one.at_ms, address)
            for address, one in self._view.heard.items()
            if one.standing.cluster and now_ms - one.at_ms <= ALIVE_MS
        ]
        if not alive:
            return []
        generation, _at_ms, address = max(alive)
        return [Join(address, cluster, generation, self._view.heard[address].standing.members)]

    def _agree(self, now_ms: int) -> list[Action]:
        """Promise the least set that can come about; if there is none, make one."""
        promised = self._promised(now_ms)
        chosen = None if promised else self._new_set(now_ms)
        if chosen is None or chosen != self._choice[0]:
            self._choice = (chosen, now_ms + SETTLE_MS + self._jitter(SETTLE_MS))
        elif now_ms >= self._choice[1]:
            return self._promise(chosen)
        return self._promise(min(promised)) if promised and self._may_promise(min(promised), now_ms) else []

    def _tell_if_stuck(self, promised: FoundingSet) -> list[Action]:
        """All others have promised and cannot refuse, but one has lost its disk before it told us (rule 3)."""
        lost = set(self._view.lost(promised)) - self._told
        if not lost or {self._me, *self._told, *lost} != set(promised.founders):
            return []
        text = (
            f"this agent has promised to found cluster {promised.cluster} with agents whose disks are lost: "
            f"{in_words(sorted(lost))}. If no agent of --join has founded it, begin with empty data directories on all "
            "agents that say so"
        )
        return self._say("stuck", text, stuck=True)

    # -- the record --------------------------------------------------------------------------------------------------

    def _promise(self, founders: FoundingSet) -> list[Action]:
        assert self._record.promised is None, "one set at a time"
        assert founders.number > self._record.refused_to, "a refusal is for ever"
        return self._store(Record(founders, self._record.refused_to, self._founding))

    def _refuse(self, founders: FoundingSet) -> list[Action]:
        assert self._record.promised != founders, "what was promised is not refused"
        return self._store(Record(self._record.promised, founders.number, self._record.founding))

    def _withdraw(self, promised: FoundingSet) -> list[Action]:
        return self._store(Record(None, max(self._record.refused_to, promised.number)))

    def _store(self, record: Record) -> list[Action]:
        assert self._next is None, "one record at a time"
        self._next = record
        return [Store(record)]

    # -- what is known -----------------------------------------------------------------------------------------------

    def _is_complete(self, promised: FoundingSet) -> bool:
        return {self._me, *self._told} == set(promised.founders)

    def _is_refused(self, promised: FoundingSet) -> bool:
        return self._view.is_refused(promised)

    def _is_heard(self, founder: Founder, now_ms: int, within_ms: int = ALIVE_MS) -> bool:
        heard = self._view.of(founder)
        return founder == self._me or (heard is not None and now_ms - heard.at_ms <= within_ms)

    def _fits(self, founders: FoundingSet) -> bool:
        """Whether it is N entries of the list, each once, and by node."""
        members = founders.founders
        addresses, ids = {one.address for one in members}, {one.id for one in members}
        nodes = [one.node for one in members]
        in_order = nodes == sorted(set(nodes))
        return len(members) == self._expect == len(ids) == len(addresses) and addresses <= self._list and in_order

    def _can_come_about(self, founders: FoundingSet, now_ms: int) -> bool:
        """Whether all of its members are heard, and none of them has refused it."""
        own = self._me in founders.founders and self.standing.refuses(founders)
        return (
            all(self._is_heard(one, now_ms) for one in founders.founders) and not own and not self._is_refused(founders)
        )

    def _may_promise(self, founders: FoundingSet, now_ms: int) -> bool:
        free = self._record.promised is None and not self._view.members()
        one_address = len(self._view.names.get(self._me.address, ())) <= 1
        return free and one_address and self._me in founders.founders and self._can_come_about(founders, now_ms)

    def _candidates(self, now_ms: int) -> list[Standing]:
        """Who could found, this agent included: those without a promise first, then by node."""
        heard = [one.standing for entry in self._list if (one := self._view.at(entry)) is not None]
        able = [one for one in heard if one.founding == self._founding and not one.cluster]
        alive = [one for one in able if self._is_heard(one.me, now_ms)]
        return sorted([*alive, self.standing], key=lambda one: (one.promised is not None, one.me.node))

    def _promised(self, now_ms: int) -> list[FoundingSet]:
        """The sets that others have promised and that can come about."""
        promised = {one.promised for one in self._candidates(now_ms) if one.me != self._me} - {None}
        return [one for one in promised if one and self._fits(one) and self._can_come_about(one, now_ms)]

    def _new_set(self, now_ms: int) -> FoundingSet | None:
        """The set that this agent would make: None where there are too few, or another is to make it."""
        candidates = self._candidates(now_ms)
        numbers = [max(one.refused_to, one.promised.number if one.promised else 0) for one in candidates]
        chosen = [one.me for one in candidates][: self._expect]
        founders = FoundingSet(1 + max(numbers), tuple(sorted(chosen, key=lambda one: one.node)))
        is_ours = chosen[0] == self._me and self._fits(founders) and self._may_promise(founders, now_ms)
        return founders if is_ours else None

    def _would_leave(self, promised: FoundingSet, now_ms: int) -> bool:
        """Whether another set goes before ours, or ours lacks a member and another could be made."""
        if any(one < promised for one in self._promised(now_ms)):
            return True
        began_ms = now_ms if self._began_ms is None else self._began_ms
        patient = now_ms - began_ms <= PATIENCE_MS
        silent = not patient and not all(self._is_heard(one, now_ms, PATIENCE_MS) for one in promised.founders)
        return (silent or bool(self._view.lost(promised))) and len(self._candidates(now_ms)) >= self._expect

    # -- what is asked and said --------------------------------------------------------------------------------------

    def _asks(self, now_ms: int) -> list[Action]:
        """One question to every address: of members of our set what we want of them, of others how they stand."""
        promised = None if self._member else self._record.promised
        leaves = promised is not None and self._would_leave(promised, now_ms)
        asks: list[Action] = []
        for entry, address in sorted({(entry, one) for entry, all_ in self._view.names.items() for one in all_}):
            heard = self._view.heard.get(address)
            question: AnyQuestion = Hello(self._me, self._founding)
            if entry == self._me.address or (self._member and heard and heard.standing.cluster):
                continue
            if promised is not None and heard and heard.standing.me in {*promised.founders} - self._told:
                question = (RefuseAsked if leaves else PromiseAsked)(self._me, self._founding, promised)
            asks.append(Ask(address, question))
        return asks

    def _say_it_differs(self, other: Founder) -> list[Action]:
        if other.address not in self._list:
            return []
        text = (
            f"was not started with this agent's --join and --bootstrap-expect {self._expect}, or is of another release"
        )
        return self._say(other.address, f"{in_words([other])} {text}: the two do not found together")

    def _say(self, what: str, message: str, *, stuck: bool = False) -> list[Action]:
        """Say it if it is not what was last said of this. what: an entry of the list at most (P12)."""
        if self._said.get(what) == message:
            return []
        self._said[what] = message
        return [Say(message, stuck)]

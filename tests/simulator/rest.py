"""What a cluster is like when it has come to rest, and what must be true of it then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from consensus.configuration import Configuration
from consensus.messages import NO_LIMIT, EntryKind
from consensus.ready import Role
from tests.simulator.invariants import Observer, Violation
from tests.simulator.machine import Command, Kind
from tests.simulator.member import Member

AnyMember = TypeVar("AnyMember", bound=Member)


def running(members: Mapping[int, AnyMember]) -> list[AnyMember]:
    """Those that run."""
    return [one for one in members.values() if one.node is not None]


def leader(members: Mapping[int, AnyMember]) -> AnyMember | None:
    """The leader of the highest term, if there is one."""
    leaders = [one for one in running(members) if one.raft.role is Role.LEADER]
    return max(leaders, key=lambda one: one.raft.term, default=None)


def at_rest(members: Mapping[int, AnyMember]) -> list[AnyMember]:
    """The members, if one leads all of them, nothing is left to do and all have the same log applied; else nobody.

    Those whose disks are lost do not count: they never come back.
    """
    leading = leader(members)
    if leading is None or leading.node is None:
        return []
    config = leading.node.config
    if config.joint or leading.id not in config.voters:
        return []
    present = [members[node] for node in sorted(config.members) if not members[node].disk.lost]
    last = leading.node.last_index
    for one in present:
        node = one.node
        if node is None or node.has_ready() or one.ready is not None or node.leader != leading.id:
            return []
        if not last == node.last_index == node.committed == node.applied == one.machine.index:
            return []
    return present


def settled(members: Mapping[int, AnyMember], observer: Observer) -> Configuration | None:
    """The configuration, if every member has it, durably, and no change is on its way."""
    leading = leader(members)
    if leading is None or leading.node is None:
        return None
    config = leading.node.config
    for node in sorted(config.members):
        member = members[node]
        if member.disk.lost:
            continue
        if member.node is None or member.conf_state != leading.conf_state:
            return None
        if member.disk.storage.hard_state.commit < observer.last_change:
            return None
    if config.joint or any(map(_changes, running(members))):
        return None
    return config


def _changes(member: Member) -> bool:
    """Whether the log holds a change that is not applied."""
    log = member.raft.log
    entries = log.entries(max(log.applied + 1, log.first_index), log.last_index + 1, NO_LIMIT)
    return any(entry.kind is EntryKind.CONF_CHANGE for entry in entries)


def states(members: Mapping[int, Member]) -> str:
    """A line for each node, for people."""
    lines = []
    for one in members.values():
        if one.node is None:
            lines.append(f"  {one.id}: {'gone' if one.disk.lost else 'down'}")
            continue
        status = one.node.status()
        lines.append(
            f"  {one.id}: {status.role.name} term {status.term} vote {status.vote} leader {status.leader} "
            f"applied {status.applied} commit {status.commit} last {one.node.last_index} {status.config} "
            + "; ".join(f"{node}: {progress}" for node, progress in status.progress.items())
        )
    return "\n".join(lines)


# -- what is left ------------------------------------------------------------------------------------------------------


def check_same_logs(observer: Observer, members: Sequence[Member]) -> None:
    """The disks of all members hold the same entries, as far as they go back, and those are the true ones."""
    for member in members:
        storage = member.disk.storage
        if storage.last_index() != observer.last:
            raise Violation(f"same logs: {member.id} ends at {storage.last_index()}, not {observer.last}")
        for entry in storage.entries(storage.first_index(), storage.last_index() + 1, NO_LIMIT):
            if entry != observer.truth[entry.index - observer.base]:
                raise Violation(f"same logs: {member.id} has {entry}")
    machines = [(one.machine.digest, one.machine.registers, one.conf_state) for one in members]
    if any(one != machines[0] for one in machines):
        raise Violation(f"same state: {machines}")


def check_nothing_lost(commands: Sequence[Command], member: Member) -> None:
    """Whatever was acknowledged is there, once, with the answer that was given; what was refused is not."""
    done = member.machine.done
    for command in commands:
        if command.returned is None or command.kind is Kind.READ:
            continue
        if done.get(command.number) != (command.index, command.output):
            raise Violation(f"acknowledged is never lost: {command}, but {done.get(command.number)}")
    doubled = len({index for index, _output in done.values()}) != len(done)
    if doubled or any(commands[number].refused for number in done):
        raise Violation(f"done once, or never: {done}")


def check_durable(observer: Observer, members: Iterable[Member]) -> None:
    """The last entry that is committed, and so all before it, is on every disk."""
    for member in members:
        if not member.disk.holds(observer.last, observer.truth[-1].term):
            raise Violation(f"acknowledged is durable: {member.id} has lost entry {observer.last}")

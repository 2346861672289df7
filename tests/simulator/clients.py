"""Clients: each asks for one thing after another, or a few at once, of any node, and does not wait for ever.

What a client was told is checked at once by index, and after the run as a history (`tests.linearizability`).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from tests.linearizability import IMPOSSIBLE, UNKNOWN, Contradiction, Operation, TooHard, check
from tests.simulator.cluster import Cluster, Process
from tests.simulator.invariants import Violation
from tests.simulator.machine import NUMBER_BYTES, Command, Kind
from tests.simulator.plan import TICK, Fault

TRIES_MAX: Final = 3
PADDING_BYTES: Final = 40
STEPS_MAX: Final = 200_000


class _Client:
    """open: commands that wait for an answer. round: counts what it has asked for, tries included."""

    __slots__ = ("open", "round", "tries")

    def __init__(self) -> None:
        self.open: list[Command] = []
        self.round = 0
        self.tries = 0


class Clients:
    """The load of a run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._plan = cluster.plan
        self._rng = cluster.plan.random("clients")
        self._patience = cluster.plan.election_ticks * TICK * self._rng.choice([1, 2, 4])
        self._retries = Fault.RETRIES in cluster.plan.faults
        self._owners: dict[int, _Client] = {}
        self._proposed: set[int] = set()  # commands that some node has taken: they may happen
        self._floor = 0  # somebody was told of this index
        self._stopped = False
        cluster.answered = self._answered
        for _ in range(cluster.plan.clients):
            cluster.agenda.after(TICK * self._rng.random(), self._next, _Client())

    def stop(self) -> None:
        """Ask for nothing more; what was asked may still be answered."""
        self._stopped = True

    # -- asking ------------------------------------------------------------------------------------------------------

    def _next(self, client: _Client) -> None:
        if self._stopped:
            return
        rng = self._rng
        if rng.random() < 0.35:
            client.open = [self.command(Kind.READ)]
        else:
            count = 1 if rng.random() < 0.7 else rng.randrange(2, 5)
            client.open = [self.command(Kind.SWAP if rng.random() < 0.5 else Kind.WRITE) for _ in range(count)]
        for command in client.open:
            self._owners[command.number] = client
        client.tries = 0
        self._ask(client)

    def command(self, kind: Kind) -> Command:
        """A new command that begins now."""
        rng, commands = self._rng, self._cluster.commands
        size_bytes = NUMBER_BYTES + int(rng.random() ** 3 * PADDING_BYTES)
        number, key = len(commands), rng.randrange(self._plan.keys)
        command = Command(number, kind, key, number + 1, self._cluster.agenda.now, self._floor, size_bytes)
        commands.append(command)
        return command

    def _ask(self, client: _Client) -> None:
        client.round += 1
        client.tries += 1
        self._cluster.agenda.after(self._patience, self._give_up, client, client.round)
        process = self._choose()
        if process is None:
            return  # nobody listens: the client waits its time
        if process.paused:
            process.late.append(lambda: self.send(process, list(client.open)))
        else:
            self.send(process, list(client.open))

    def _choose(self) -> Process | None:
        """The leader more often than not."""
        leader = self._cluster.leader()
        if leader is not None and self._rng.random() < 0.6:
            return leader
        running = self._cluster.running()
        return running[int(self._rng.random() * len(running))] if running else None

    def send(self, process: Process, commands: list[Command]) -> None:
        """Let a process take commands of one kind, reads or not."""
        commands = [one for one in commands if one.returned is None]
        if not commands:
            return
        self._cluster.note(f"{process.id} is asked for {[f'{one.kind} {one.number}' for one in commands]}")
        if commands[0].kind is Kind.READ:
            for command in commands:
                process.read(command)
        elif process.propose(commands):
            self._proposed.update(one.number for one in commands)
        else:
            self._cluster.counts["proposals refused"] += 1
        process.pump()

    def _give_up(self, client: _Client, asked: int) -> None:
        if client.round != asked or not client.open:
            return
        if self._retries and client.tries < TRIES_MAX and not self._stopped:
            self._cluster.counts["commands sent again"] += 1
            self._ask(client)
            return
        self._cluster.counts["commands given up"] += len(client.open)
        client.open = []
        self._next(client)

    # -- being told --------------------------------------------------------------------------------------------------

    def _answered(self, command: Command) -> None:
        """Reads and writes see everything that somebody was told before they began."""
        if command.index < command.floor + (command.kind is not Kind.READ):
            raise Violation(f"linearizable: {command} is answered from {command.index}, {command.floor} was known")
        self._floor = max(self._floor, command.index)
        self._cluster.counts[f"{command.kind} answered"] += 1
        client = self._owners.get(command.number)
        if client is None:
            return
        client.open = [one for one in client.open if one is not command]
        if not client.open and self._owners.pop(command.number, None) is not None and not self._stopped:
            client.round += 1
            self._cluster.agenda.after(self._plan.think * self._rng.random(), self._next, client)

    # -- what they saw -----------------------------------------------------------------------------------------------

    def contradiction(self) -> Contradiction | None:
        """Why no single register for each key could have told them what they were told; None if one could."""
        commands = self._cluster.commands
        seen = {one.output for one in commands if one.returned is not None}
        history = []
        for one in commands:
            if one.returned is None:
                # What nobody saw makes no difference, and much work: each could be anywhere, or nowhere.
                if one.kind is Kind.READ or one.number not in self._proposed or one.value not in seen:
                    continue
                output: object = UNKNOWN
            else:
                output = None if one.kind is Kind.WRITE else one.output
            hint = one.index + 0.5 * (one.kind is Kind.READ) if one.index else float("inf")
            history.append(Operation(one.key, (one.kind, one.value), output, one.called, one.returned, hint))
        try:
            return check(history, 0, register, steps_max=STEPS_MAX)
        except TooHard:
            self._cluster.counts["histories too hard to check"] += 1
            return None


def register(state: Hashable, action: tuple[Kind, int], output: object) -> Hashable:
    """What one key of `machine` does."""
    kind, value = action
    if kind is Kind.WRITE:
        return value
    if output is not UNKNOWN and output != state:
        return IMPOSSIBLE
    return state if kind is Kind.READ else value

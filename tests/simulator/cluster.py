"""The world of a run: processes that start, pause and die, disks that take time, clocks that drift, one network."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Final

from consensus.messages import ConfState, HardState, Message, Snapshot, SnapshotMeta
from consensus.storage import MemoryStorage
from tests.consensus import describe
from tests.simulator import rest
from tests.simulator.agenda import Agenda
from tests.simulator.disk import Disk
from tests.simulator.invariants import Observer
from tests.simulator.machine import Command, Image
from tests.simulator.member import Member, Options
from tests.simulator.network import Network, Sender
from tests.simulator.plan import TICK, Fault, Plan

FOUNDING: Final = SnapshotMeta(1, 1)  # index and term of the snapshot a cluster begins with
LATE_TICKS: Final = 2  # how many ticks a process makes up for after it stood still


class Process(Member):
    """A member, and when things happen to it. gone: it will never run again. removed: no part of the cluster."""

    def __init__(self, cluster: Cluster, node_id: int, disk: Disk, rng: random.Random) -> None:
        super().__init__(cluster, node_id, disk, rng)
        self.gone = False
        self.period = TICK
        self.paused = self.waking = False
        self.inbox: list[Message] = []
        self.late: list[Callable[[], None]] = []
        self.late_ticks = 0
        self.stalled_until = 0
        self.sync_fails = False


class Cluster:
    """See the module; implements `member.World`. answered: called with every command that was answered."""

    def __init__(self, plan: Plan, *, trace: list[str] | None = None) -> None:
        self.plan = plan
        self.agenda = Agenda()
        self.trace = trace
        self.counts: Counter[str] = Counter()
        self.rng = plan.random("cluster")
        self.options = _options(plan)
        self.commands: list[Command] = []
        self.images: dict[bytes, Image] = {b"1": Image(FOUNDING.index, {}, {}, 0)}
        self.members: dict[int, Process] = {}
        self.observer = Observer(self.members, FOUNDING.index, FOUNDING.term, plan.limits.message_bytes)
        self.network = Network(plan, self.agenda, self.counts, self)
        self.answered: Callable[[Command], None] = lambda _command: None
        self._sync_time = 0.03 * TICK + plan.between(Fault.SLOW_DISK, 0.05, 0.4) * plan.election_ticks * TICK
        self._apply_time = plan.between(Fault.SLOW_APPLY, 0.1, 0.5) * plan.election_ticks * TICK
        self._loop_time = plan.between(Fault.SLOW_LOOP, 0.1, 1.0) * TICK
        self._drift = plan.between(Fault.DRIFT, 0.05, 0.4)
        self._reports = plan.between(Fault.REPORTS, 0.1, 0.9)
        self._torn = Fault.TORN in plan.faults
        self._found()

    def _found(self) -> None:
        voters = tuple(range(1, self.plan.nodes + 1))
        self.observer.joined.update(voters)
        meta = SnapshotMeta(FOUNDING.index, FOUNDING.term, ConfState(voters))
        for node in voters:
            storage = MemoryStorage(Snapshot(meta, b"1"), HardState(FOUNDING.term, 0, FOUNDING.index))
            self.start(self._add(node, storage))

    def _add(self, node: int, storage: MemoryStorage) -> Process:
        process = Process(self, node, Disk(storage), random.Random(self.rng.getrandbits(32)))
        self.members[node] = process
        return process

    def note(self, text: str) -> None:
        """One line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.agenda.now:>7} {text}")

    # -- processes ---------------------------------------------------------------------------------------------------

    def running(self) -> list[Process]:
        """Those that run, paused ones too."""
        return rest.running(self.members)

    def leader(self) -> Process | None:
        """The leader of the highest term, if there is one."""
        return rest.leader(self.members)

    def spawn(self) -> Process:
        """A new node, with nothing on its disk, that is no member yet."""
        process = self._add(max(self.members) + 1, MemoryStorage())
        self.start(process)
        return process

    def start(self, process: Process) -> None:
        """Start a process, if it does not run."""
        if process.node is not None or process.gone:
            return
        process.period = int(TICK * (1 + self._drift * (2 * self.rng.random() - 1)))
        process.paused = process.waking = process.sync_fails = False
        process.inbox, process.late, process.late_ticks, process.stalled_until = [], [], 0, 0
        process.start()
        self.note(f"{process.id} starts: {process.disk.storage.hard_state}, log to {process.disk.storage.last_index()}")
        self.agenda.after(process.period * self.rng.random(), self._tick, process, process.epoch)

    def crash(self, process: Process, down: float) -> None:
        """End a process as a power failure does; it starts again after the time `down`."""
        if process.node is None:
            return
        kept = process.crash(torn=self._torn)
        if kept.endswith("kept") and kept != "nothing kept":
            self.counts["torn writes"] += 1
        self.note(f"{process.id} crashes; {kept or 'nothing was being written'}")
        self.agenda.after(down, self.start, process)

    def lose(self, process: Process) -> None:
        """End a process for ever, its disk with it."""
        process.gone = process.disk.lost = True
        if process.node is not None:
            process.crash(torn=False)
        self.note(f"{process.id} is gone for ever")

    def pause(self, process: Process, time: float) -> None:
        """Let a process stand still."""
        if process.node is None or process.paused:
            return
        process.paused = True
        self.note(f"{process.id} stands still")
        self.agenda.after(time, self.resume, process, process.epoch)

    def resume(self, process: Process, epoch: int) -> None:
        """Go on: what has come in first, then what the disk has done, then time (else it would call an election)."""
        if process.epoch != epoch or process.node is None or not process.paused:
            return
        process.paused = False
        self.note(f"{process.id} goes on: {len(process.inbox)} messages, {process.late_ticks} ticks")
        self._drain(process)
        late, process.late = process.late, []
        late += [process.tick] * min(process.late_ticks, LATE_TICKS)
        process.late_ticks = 0
        for call in late:
            if process.epoch == epoch and process.node is not None:  # else one of them was its end
                call()
        process.pump()

    def _later(self, process: Process, call: Callable[[], None]) -> bool:
        """Keep a call for when the process goes on, if it stands still."""
        if process.paused:
            process.late.append(call)
        return process.paused

    # -- time and messages -------------------------------------------------------------------------------------------

    def _tick(self, process: Process, epoch: int) -> None:
        if process.epoch != epoch or process.node is None:
            return
        self.agenda.after(process.period, self._tick, process, epoch)
        if process.paused:
            process.late_ticks += 1
            return
        process.tick()
        process.pump()

    def _step(self, process: Process, message: Message) -> None:
        if self.trace is not None:
            self.note(f"{describe.message(message)}")
        process.step(message)

    def _wake(self, process: Process, epoch: int) -> None:
        if process.epoch != epoch or process.node is None:
            return
        process.waking = False
        if not process.paused:
            self._drain(process)

    def _drain(self, process: Process) -> None:
        inbox, process.inbox = process.inbox, []
        for message in inbox:
            self._step(process, message)
        process.pump()

    # -- what the network calls (network.Ends) -----------------------------------------------------------------------

    def deliver(self, message: Message) -> bool:
        """See network.Ends."""
        process = self.members.get(message.to)
        if process is None or process.node is None:
            return False
        if process.paused:
            process.inbox.append(message)
        elif self._loop_time:
            process.inbox.append(message)
            if not process.waking:
                process.waking = True
                self.agenda.after(self._loop_time * self.rng.random(), self._wake, process, process.epoch)
        else:
            self._step(process, message)
            process.pump()
        return True

    def unreachable(self, sender: Sender, to: int) -> None:
        """See network.Ends."""
        if self._reports and self.rng.random() < self._reports:
            self.agenda.after(TICK * self.rng.random(), self._report_unreachable, sender, to)

    def _report_unreachable(self, sender: Sender, to: int) -> None:
        process = self.members[sender[0]]
        if process.epoch == sender[1] and process.node is not None and not process.paused:
            self.counts["unreachable reports"] += 1
            process.node.report_unreachable(to)
            self.observer.look(process)
            process.pump()

    def snapshot_sent(self, sender: Sender, to: int, *, ok: bool) -> None:
        """See network.Ends. Never lost: it is a call inside of the sender."""
        process = self.members[sender[0]]
        if process.epoch != sender[1] or process.node is None:
            return
        if self._later(process, lambda: self.snapshot_sent(sender, to, ok=ok)):
            return
        self.note(f"{process.id} has {'' if ok else 'not '}sent its snapshot to {to}")
        process.node.report_snapshot(to, ok=ok)
        self.observer.look(process)
        process.pump()

    # -- what a process asks for (member.World) ----------------------------------------------------------------------

    def transmit(self, member: Member, message: Message) -> None:
        """See member.World."""
        self.network.send((member.id, member.epoch), message)

    def begin_sync(self, member: Member) -> None:
        """See member.World."""
        assert isinstance(member, Process)
        start = max(self.agenda.now, member.stalled_until)
        self.agenda.at(
            start + int(self._sync_time * (0.3 + self.rng.expovariate(1.5))), self._synced, member, member.epoch
        )

    def _synced(self, member: Process, epoch: int) -> None:
        if member.epoch != epoch or member.node is None:
            return
        if self._later(member, lambda: self._synced(member, epoch)):
            return
        if member.sync_fails:  # nothing on the disk is known any more: the process must end
            self.counts["failed syncs"] += 1
            self.crash(member, 3 * TICK)
            return
        if self.trace is not None:
            self.note(f"{member.id} has stored {_written(member)}")
        member.synced()
        member.pump()

    def begin_apply(self, member: Member) -> None:
        """See member.World."""
        if self._apply_time:
            self.agenda.after(self._apply_time * self.rng.random(), self._applied, member, member.epoch)
        else:
            member.apply()

    def _applied(self, member: Process, epoch: int) -> None:
        if member.epoch != epoch or member.node is None:
            return
        if self._later(member, lambda: self._applied(member, epoch)):
            return
        member.apply()
        member.pump()

    def begin_snapshot(self, member: Member, conf_state: ConfState, image: Image) -> None:
        """See member.World."""
        time = TICK * (0.2 + 4 * self.rng.random())
        self.agenda.after(time, self._snapshot_saved, member, member.epoch, conf_state, image)

    def _snapshot_saved(self, member: Process, epoch: int, conf_state: ConfState, image: Image) -> None:
        if member.epoch != epoch or member.node is None:
            return
        if self._later(member, lambda: self._snapshot_saved(member, epoch, conf_state, image)):
            return
        self.counts["snapshots made"] += 1
        member.snapshot_saved(conf_state, image)
        self.note(f"{member.id} has a snapshot of {image.index}, its log begins at {member.raft.log.first_index}")

    def answer(self, member: Member, command: Command, index: int, output: int) -> None:
        """See member.World. Later answers to the same command are passed by."""
        if command.returned is not None:
            return
        command.returned, command.index, command.output = self.agenda.now, index, output
        self.note(f"{member.id} answers {command.kind} {command.number}: {output} at {index}")
        self.answered(command)

    def heal(self) -> None:
        """End every fault, and start what can be started."""
        self.network.heal()
        self._sync_time, self._apply_time, self._loop_time, self._drift = 0.03 * TICK, 0.0, 0.0, 0.0
        for process in self.members.values():
            process.period, process.stalled_until, process.sync_fails = TICK, 0, False
            self.resume(process, process.epoch)
            self.start(process)
        self.note("everything heals")


def _options(plan: Plan) -> Options:
    rng = plan.random("options")
    every, keep = rng.choice([2, 5, 15]), rng.choice([0, 1, 6])
    return Options(
        election_ticks=plan.election_ticks,
        heartbeat_ticks=plan.heartbeat_ticks,
        limits=plan.limits,
        pre_vote=Fault.NO_PRE_VOTE not in plan.faults,
        check_quorum=Fault.NO_CHECK_QUORUM not in plan.faults,
        lazy_commit=Fault.LAZY_COMMIT in plan.faults,
        forget_commit=Fault.LOST_COMMIT in plan.faults,
        snapshot_every=every if Fault.COMPACTION in plan.faults else 0,
        snapshot_keep=keep,
    )


def _written(member: Member) -> str:
    ready = member.ready
    assert ready is not None
    parts = [f"entries to {ready.entries[-1].term}/{ready.entries[-1].index}"] if ready.entries else []
    parts += [str(ready.hard_state)] if ready.hard_state is not None else []
    parts += [f"a snapshot of {ready.snapshot.meta.index}"] if ready.snapshot is not None else []
    return ", ".join(parts)

"""The loop that drives a member: over real logs on disk, with a network that can be cut."""

from __future__ import annotations

import asyncio
import shutil
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from agent import driver, waiters
from agent.errors import AgentStopped, Refusal
from agent.log_thread import LogThread
from agent.waiters import Proposals, Reads
from consensus import chunks
from consensus.chunks import GIVE_UP_TICKS, make_chunk
from consensus.configuration import Change, ConfChange, ConfChangeKind
from consensus.durable import DurableLog
from consensus.messages import NONE, ConfState, Entry, Message, MessageType, SnapshotMeta
from consensus.wal_identity import Identity
from consensus.wal_snapshot import SnapshotHead
from tests.members import Cluster, Member, Pages, agree, cluster

Body = Callable[[Cluster], Awaitable[None]]


def run(root: Path, body: Body, **settings: int) -> None:
    async def main() -> None:
        async with cluster(root, **settings) as one:
            await body(one)

    asyncio.run(main())


def test_what_a_leader_answers_is_on_every_member_in_the_same_order(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        lines = [b"line %d" % number for number in range(300)]
        answers = await asyncio.gather(*(leader.driver.propose(line) for line in lines))
        assert answers == list(range(1, 301))
        assert await agree(one) == lines

    run(tmp_path, body)


def test_one_fsync_serves_all_that_waits(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        assert leader.durable is not None
        saves = 0
        save = leader.durable.save

        def counted(*args: object, **more: object) -> None:
            nonlocal saves
            saves += 1
            save(*args, **more)  # type: ignore[arg-type]

        leader.durable.save = counted  # type: ignore[method-assign]
        await asyncio.gather(*(leader.driver.propose(b"x" * 200) for _ in range(500)))
        assert saves < 25

    run(tmp_path, body)


def test_p1_what_was_acknowledged_survives_the_end_of_its_leader(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        lines = []
        for number in range(3):
            leader = await one.leader()
            lines.append(b"of leader %d" % number)
            await leader.driver.propose(lines[-1])
            await leader.stop()
            other = await one.leader()
            lines.append(b"without it %d" % number)
            await other.driver.propose(lines[-1])
            leader.start()
        assert await agree(one, lines) == lines

    run(tmp_path, body)


@pytest.mark.slow
def test_a_leader_that_is_cut_off_takes_no_writes_for_long_and_none_of_them_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "PROPOSAL_TICKS", 40)

    async def body(one: Cluster) -> None:
        old = await one.leader()
        await old.driver.propose(b"before")
        others = [node for node in one.members if node != old.node]
        one.cut([old.node], others)
        lost = asyncio.ensure_future(old.driver.propose(b"lost"))
        new = await one.leader(others)
        await new.driver.propose(b"after")
        with pytest.raises(Refusal) as caught:
            await lost
        assert caught.value.code in ("outcome_unknown", "not_committed")
        with pytest.raises(Refusal) as caught:
            await old.driver.propose(b"too late")
        assert caught.value.code == "no_leader"
        one.cut()
        assert await agree(one, [b"before", b"after"])

    run(tmp_path, body)


def test_a_read_on_any_member_sees_what_was_acknowledged_before_it_p6(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        for number in range(20):
            line = b"%d" % number
            await leader.driver.propose(line)
            for member in one.up:
                await member.driver.read_index()
                assert line in member.book.lines

    run(tmp_path, body)


def test_a_read_that_is_asked_for_before_there_is_a_leader_is_answered_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "READ_TICKS", 1 << 30)  # it is not begun anew after a time

    async def body(one: Cluster) -> None:
        assert all(member.driver.node.leader == NONE for member in one.up)
        await asyncio.wait_for(asyncio.gather(*(member.driver.read_index() for member in one.up)), 20)

    run(tmp_path, body)


def test_reads_wait_for_a_leader_and_are_asked_anew_of_the_next_one() -> None:
    async def body() -> None:
        reads, future = Reads(), asyncio.get_running_loop().create_future()
        reads.add(future)
        assert reads.begin_round(1, 1, NONE) is None
        first = reads.begin_round(1, 2, 7)
        assert reads.begin_round(2, 2, 7) is None
        assert reads.begin_round(2, 3, NONE) is None
        second = reads.begin_round(3, 3, 8)
        assert first is not None
        assert second is not None
        reads.confirmed(first, 5)
        reads.applied(5)
        assert not future.done()
        reads.confirmed(second, 6)
        reads.applied(6)
        assert future.result() == 6

    asyncio.run(body())


def test_a_read_on_a_member_that_is_cut_off_waits_until_it_is_not(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        old = await one.leader()
        others = [node for node in one.members if node != old.node]
        one.cut([old.node], others)
        read = asyncio.ensure_future(old.driver.read_index())
        new = await one.leader(others)
        await new.driver.propose(b"newer")
        assert not read.done()
        one.cut()
        await asyncio.wait_for(read, 20)
        assert old.book.lines == [b"newer"]

    run(tmp_path, body)


def test_a_member_that_was_away_for_long_gets_a_snapshot_in_chunks(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        away = one.followers()[0]
        await away.stop()
        lines = [b"%d " % number + b"x" * 4000 for number in range(1000)]  # 4 MB: some 16 chunks
        for at in range(0, len(lines), 50):
            await asyncio.gather(*(leader.driver.propose(line) for line in lines[at : at + 50]))
        await leader.driver.snapshot()
        assert leader.durable is not None
        leader.durable.trim(0, 0)
        assert leader.durable.storage.first_index() > 500
        away.start()
        assert await agree(one, lines)
        assert away.durable is not None
        assert away.durable.snapshot_meta().index > 500
        await leader.driver.propose(b"and on it goes")
        assert await agree(one, [*lines, b"and on it goes"])
        await away.stop()
        away.start()  # what it got is what it starts with
        assert await agree(one, [*lines, b"and on it goes"])

    run(tmp_path, body)


def test_the_log_is_dropped_behind_snapshots_and_found_again(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        lines = [b"%d " % number + b"x" * 1000 for number in range(2000)]
        for at in range(0, len(lines), 100):
            await asyncio.gather(*(leader.driver.propose(line) for line in lines[at : at + 100]))

        def segments(member: Member) -> int:
            return len(list((one.root / str(member.node)).glob("*.wal")))

        async with asyncio.timeout(20):  # snapshots are late where the disk is slow: the log is dropped as it goes on
            while max(map(segments, one.up)) > 6:
                lines.append(b"more " + b"x" * 1000)
                await leader.driver.propose(lines[-1])
        await agree(one, lines)
        for member in one.up:
            assert member.driver.snapshots_made > 2
            await member.stop()
        for member in one.members.values():
            member.start()
        await agree(one, lines)

    run(tmp_path, body, snapshot_bytes=400_000, segment_bytes=1 << 18)


def test_leadership_can_be_handed_over(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        to = one.followers()[0]
        leader.driver.transfer(to.node)
        assert await one.leader([to.node]) is to
        await to.driver.propose(b"under the new one")
        assert await agree(one, [b"under the new one"])

    run(tmp_path, body)


def test_members_are_removed_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        gone = one.followers()[0]
        leader.driver.change_members(ConfChange((Change(ConfChangeKind.REMOVE, gone.node),)))
        await leader.until(lambda: gone.node not in leader.driver.conf_state.voters)
        await gone.stop()
        await leader.driver.propose(b"two are enough")
        with pytest.raises(Refusal):
            one.followers()[0].driver.change_members(ConfChange((Change(ConfChangeKind.REMOVE, gone.node),)))

    run(tmp_path, body)


def test_a_new_member_gets_a_snapshot_that_knows_it_and_becomes_a_voter(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        await leader.driver.propose(b"before it came")
        await leader.driver.snapshot()  # one that does not know the new member
        assert leader.durable is not None
        leader.durable.trim(0, 0)
        new = one.join(4)
        leader.driver.change_members(ConfChange((Change(ConfChangeKind.ADD_LEARNER, 4),)))
        await new.until(lambda: 4 in new.driver.conf_state.learners)
        leader.driver.change_members(ConfChange((Change(ConfChangeKind.ADD_VOTER, 4),)))
        await new.until(lambda: 4 in new.driver.conf_state.voters)
        assert await agree(one, [b"before it came"])
        await leader.driver.propose(b"after")
        assert await agree(one, [b"before it came", b"after"])

    run(tmp_path, body)


def test_an_empty_snapshot_can_be_sent(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        await leader.driver.snapshot()  # of a book without a line
        assert leader.durable is not None
        leader.durable.trim(0, 0)
        new = one.join(4)
        leader.driver.change_members(ConfChange((Change(ConfChangeKind.ADD_LEARNER, 4),)))
        await new.until(lambda: 4 in new.driver.conf_state.learners)
        assert new.durable is not None
        assert new.durable.head.size == 0
        assert new.durable.head.meta.index > 1

    run(tmp_path, body)


@pytest.mark.slow
def test_without_a_majority_a_proposal_is_refused_or_unknown_after_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "LEADER_WAIT_TICKS", 20)

    async def body(one: Cluster) -> None:
        leader = await one.leader()
        for other in one.followers():
            await other.stop()
        while leader.driver.node.leader:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as caught:
            await leader.driver.propose(b"to nobody")
        assert (caught.value.code, caught.value.status) == ("no_leader", 503)

    run(tmp_path, body)


def test_a_machine_that_is_behind_is_waited_for(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        leader.book.open = False
        proposal = asyncio.ensure_future(leader.driver.propose(b"held up"))
        follower = one.followers()[0]
        assert not proposal.done()
        leader.book.open = True
        leader.driver.wake()
        assert await proposal == 1
        await follower.until(lambda: follower.book.lines == [b"held up"])

    run(tmp_path, body)


def test_a_closed_driver_takes_nothing_and_answers_everybody(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        for other in one.followers():
            await other.stop()
        proposal = asyncio.ensure_future(leader.driver.propose(b"x"))
        read = asyncio.ensure_future(leader.driver.read_index())
        await asyncio.sleep(0)
        await leader.stop()
        for waiting in (proposal, read, leader.driver.submit(b"y")):
            with pytest.raises(AgentStopped):
                await waiting

    run(tmp_path, body)


def test_p9_a_failed_disk_stops_the_member_and_nothing_more_is_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as one:
            leader = await one.leader()
            assert leader.durable is not None

            def broken(*_args: object, **_more: object) -> None:
                raise OSError(5, "Input/output error")

            leader.durable.save = broken  # type: ignore[method-assign]
            with pytest.raises(AgentStopped, match="cannot keep its records"):
                await leader.driver.propose(b"never")
            assert len(leader.failed) == 1
            other = await one.leader([node for node in one.members if node != leader.node])
            await other.driver.propose(b"the others go on")
            leader.failed.clear()

    asyncio.run(main())


def test_p9_a_snapshot_that_cannot_be_read_stops_the_member_and_takes_the_place_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as one:
            leader = await one.leader()
            away = one.followers()[0]
            await away.stop()
            await leader.driver.propose(b"line")
            await leader.driver.snapshot()
            assert leader.durable is not None
            leader.durable.trim(0, 0)
            away.start()
            assert away.durable is not None
            before = away.durable.snapshot_meta()

            def unreadable(*_args: object) -> None:
                raise ValueError("these bytes are no book")

            monkeypatch.setattr(Pages, "finish", unreadable)
            while not away.failed:  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0.01)
            with pytest.raises(AgentStopped, match="no book"):
                await away.driver.propose(b"x")
            assert away.durable.snapshot_meta() == before
            await leader.driver.propose(b"the others go on")
            away.failed.clear()

    asyncio.run(main())


async def far_behind(one: Cluster, lines: list[bytes]) -> tuple[Member, Member]:
    """A leader that has these lines in a snapshot alone, and a follower that is not up and has none of them."""
    leader = await one.leader()
    away = one.followers()[0]
    await away.stop()
    for line in lines:
        await leader.driver.propose(line)
    await leader.driver.snapshot()
    assert leader.durable is not None
    leader.durable.trim(0, 0)
    return leader, away


class Gate:
    """Holds a thread until it is opened."""

    def __init__(self) -> None:
        self._here, self._open = threading.Event(), threading.Event()

    def hold(self) -> None:
        self._here.set()
        assert self._open.wait(20)

    async def held(self) -> None:
        assert await asyncio.to_thread(self._here.wait, 20)

    def open(self) -> None:
        self._open.set()


def test_a_member_answers_heartbeats_while_it_reads_a_leaders_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, finish = Gate(), Pages.finish

    def slowly(pages: Pages) -> list[bytes]:
        gate.hold()
        return finish(pages)

    monkeypatch.setattr(Pages, "finish", slowly)

    async def body(one: Cluster) -> None:
        leader, away = await far_behind(one, [b"line"])
        term = leader.driver.node.term
        (third,) = (member for member in one.followers() if member is not away)
        away.start()
        await gate.held()
        await third.stop()  # from here on a majority needs the one that reads
        ticks = [leader.driver._ticks, away.driver._ticks]
        while min(leader.driver._ticks - ticks[0], away.driver._ticks - ticks[1]) < 3 * driver.ELECTION_TICKS:
            await leader.driver.read_index()
        assert (leader.driver.node.term, away.driver.node.term, leader.driver.leads) == (term, term, True)
        assert away.book.lines == []
        gate.open()
        await leader.driver.propose(b"and on it goes")
        await away.until(lambda: away.book.lines == [b"line", b"and on it goes"])

    run(tmp_path, body)


def test_a_snapshot_that_is_written_slowly_is_of_its_own_index_and_holds_up_nothing(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        await leader.driver.propose(b"in it")
        gate, snapshot = Gate(), leader.book.snapshot

        def slowly() -> Iterator[bytes]:
            image = snapshot()

            def taken() -> Iterator[bytes]:
                gate.hold()
                yield from image

            return taken()

        leader.book.snapshot = slowly  # type: ignore[method-assign]
        index = leader.driver.applied
        making = asyncio.ensure_future(leader.driver.snapshot())
        await gate.held()
        await leader.driver.propose(b"after it")
        gate.open()
        await making
        assert leader.durable is not None
        assert leader.durable.snapshot_meta().index == index
        assert b"".join(leader.durable.read_snapshot()) == b"in it\n"

    run(tmp_path, body)


@pytest.mark.slow
def test_a_snapshot_whose_receiver_starts_again_on_the_way_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, feed, fed = Gate(), Pages.feed, 0

    def counted(pages: Pages, data: bytes) -> None:
        nonlocal fed
        fed += len(data)
        if fed == 9 * 2**20:
            gate.hold()
        feed(pages, data)

    monkeypatch.setattr(Pages, "feed", counted)
    monkeypatch.setattr(chunks, "GIVE_UP_TICKS", 30)

    async def body(one: Cluster) -> None:
        lines = [b"%d " % number + b"x" * 60_000 for number in range(200)]
        _leader, away = await far_behind(one, lines)
        away.start()
        await gate.held()
        stopping = asyncio.ensure_future(away.stop())
        gate.open()
        await stopping
        away.start()
        assert away.durable is not None
        assert away.durable._incoming.received == 8 * 2**20  # what was synced
        assert await agree(one, lines) == lines

    run(tmp_path, body)


def test_the_threads_keep_nothing_of_what_they_have_done() -> None:
    class State:
        pass

    async def main() -> None:
        thread = LogThread(asyncio.get_running_loop())
        state = State()
        kept = weakref.ref(state)
        thread.submit(partial(lambda one: one, state), lambda _result, _error: None)
        del state
        async with asyncio.timeout(20):
            while kept() is not None:  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0.001)
        thread.close()

    asyncio.run(main())


def test_what_was_read_of_a_snapshot_that_comes_no_more_is_let_go_p12(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        member, leader = one.followers()[0], await one.leader()
        head = SnapshotHead(SnapshotMeta(99, 1, ConfState((1, 2, 3))), 1000, 7)
        snapshots = member.driver.snapshots
        snapshots.offered(Message(MessageType.SNAPSHOT, sender=leader.node, term=1, snapshot=head.snapshot))
        snapshots.chunk(leader.node, make_chunk(1, 99, 7, 0, 1000, b"x" * 100))
        for _ in range(GIVE_UP_TICKS - 1):
            snapshots.tick()
        assert snapshots._arriving is not None
        snapshots.tick()
        assert snapshots._arriving is None

    run(tmp_path, body)


def test_a_change_is_known_to_be_committed_after_a_crash_that_follows_it(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        gone = one.followers()[0]
        leader.driver.change_members(ConfChange((Change(ConfChangeKind.REMOVE, gone.node),)))
        await leader.until(lambda: gone.node not in leader.driver.conf_state.voters)
        change = leader.driver.applied
        copy = tmp_path / "as a crash leaves it"
        shutil.copytree(tmp_path / str(leader.node), copy)
        with DurableLog.open(copy, Identity("c", leader.node, 1)) as found:
            assert found.storage.hard_state.commit >= change

    run(tmp_path, body)


def test_a_process_that_slept_hears_its_messages_before_it_stands(tmp_path: Path) -> None:
    async def body(one: Cluster) -> None:
        leader = await one.leader()
        term = leader.driver.node.term
        sleeper = one.followers()[0]
        sleeper.driver._next_tick_s -= 60  # as after a long pause: a thousand ticks are due at once
        sleeper.driver.wake()
        for _ in range(20):
            await leader.driver.propose(b"x")
        assert leader.driver.node.term == term
        assert sleeper.driver._next_tick_s > sleeper.driver._clock() - driver.TICKS_MAX * driver.TICK_S

    run(tmp_path, body)


def test_whoever_waits_for_a_place_that_is_taken_anew_is_told_and_not_forgotten() -> None:
    """A member may lead again before it hears what became of what it had placed in an earlier term (P1)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        proposals = Proposals()
        first, second = loop.create_future(), loop.create_future()
        for term, future in ((5, first), (7, second)):
            proposals.add(b"x", future, 0)
            proposals.place(proposals.take(term), 100, term, 0)
        with pytest.raises(Refusal) as caught:
            await first
        assert caught.value.code == "outcome_unknown"  # another member may still have the first
        proposals.applied(Entry(7, 100), "second")
        assert await second == "second"
        assert len(proposals) == 0

    asyncio.run(main())


def test_what_is_for_one_term_is_not_placed_in_another() -> None:
    async def main() -> None:
        proposals = Proposals()
        future = asyncio.get_running_loop().create_future()
        proposals.add(b"x", future, 0, term=5)
        assert proposals.take(6) == []
        with pytest.raises(Refusal, match="leads another term"):
            await future

    asyncio.run(main())

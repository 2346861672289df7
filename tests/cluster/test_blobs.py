"""Blobs on a majority before they are named (P1), and fetched where they are missing or damaged (P9)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from agent.cluster import blobs as module
from agent.cluster.blobs import PIECE_BYTES, Blobs, GetBlob, Held, HoldBlobs, Piece
from agent.cluster.calls import Asker
from agent.errors import Refusal
from agent.runtable import commands as c
from agent.store.blobs import BlobStore
from agent.store.errors import BlobDamaged, BlobError, BlobMissing
from tests.api.harness import in_loop
from tests.cluster.replicas import Cluster, Member, cluster
from tests.runtable.builders import START_MS

LARGE = bytes(range(256)) * (PIECE_BYTES // 256 * 5) + b"end"


def named_in(kind: str, data: bytes) -> Iterable[str]:
    """A list's lines are digests."""
    return data.decode().split() if kind == "list" else ()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def follows(member: Member, leader: Member) -> bool:
    return member.replica.driver.node.leader == leader.node


@asynccontextmanager
async def three(root: Path) -> AsyncIterator[tuple[Cluster, list[tuple[Member, Blobs]]]]:
    """Three members with a store each, the leader first; all know who leads."""
    async with cluster(root) as one:
        leader = await one.leader()
        made = []
        for member in sorted(one.up, key=lambda member: member is not leader):
            store = BlobStore(member.directory / "blobs")
            made.append((member, Blobs(store, member.replica, member.calls, named_in)))
            await member.until(partial(follows, member, leader))
        yield one, made


def damage(store: BlobStore, digest: str) -> None:
    path = store.path(digest)
    path.chmod(0o600)
    path.write_bytes(b"x" * path.stat().st_size)


@in_loop
async def test_after_a_spread_a_majority_has_it_on_disk_p1(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, members):
        for number, (_member, blobs) in enumerate(members):
            digests = [blobs.store.put(f"{number} {text}".encode()) for text in range(40)]
            await blobs.spread(digests)
            for digest in digests:
                assert sum(other.store.has(digest) for _member, other in members) >= 2


@in_loop
async def test_a_spread_takes_a_minority_that_is_away_and_refuses_without_a_majority_p1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three(tmp_path) as (one, members):
        (first, blobs), (second, held), (third, _away) = members
        one.cut({first.node, second.node}, {third.node})
        digest = blobs.store.put(b"with two")
        await blobs.spread([digest])
        assert held.store.has(digest)
        monkeypatch.setattr(module, "SPREAD_S", 0.3)
        one.cut({first.node}, {second.node}, {third.node})
        with pytest.raises(Refusal) as caught:
            await blobs.spread([blobs.store.put(b"alone")])
        assert (caught.value.code, caught.value.status) == ("no_majority", 503)
        one.cut()


@in_loop
async def test_a_majoritys_word_is_asked_for_once_and_again_when_it_is_old_or_no_majority_any_more_p1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three(tmp_path) as (one, members):
        (first, blobs), (second, _held), (third, _other) = members
        digests = [blobs.store.put(text) for text in (b"1", b"2")]
        await blobs.spread(digests)
        monkeypatch.setattr(module, "SPREAD_S", 0.3)
        one.cut({first.node}, {second.node}, {third.node})
        await blobs.spread(digests)  # nobody had to be asked
        new = blobs.store.put(b"3")
        for _ in range(2):  # what was refused is not taken for held
            with pytest.raises(Refusal):
                await blobs.spread([*digests, new])
        blobs._note_held([digests[0]], frozenset({first.node, second.node}))
        blobs._note_held([digests[1]], frozenset({first.node, third.node}))
        with pytest.raises(Refusal):  # no majority has both
            await blobs.spread(digests)
        blobs._note_held(digests, frozenset({first.node, second.node}))
        holders = blobs._held[digests[0]][1]
        assert first.node in holders
        blobs._note_held(digests, frozenset({first.node}))  # as after a change of the voters
        with pytest.raises(Refusal):
            await blobs.spread(digests)
        blobs._note_held(digests, holders)
        monkeypatch.setattr(module, "HELD_S", 0.0)
        with pytest.raises(Refusal):
            await blobs.spread(digests)
        monkeypatch.setattr(module, "HELD_MAX", 1)
        blobs._note_held(digests, holders)
        assert list(blobs._held) == digests[1:]  # P12
        one.cut()


@in_loop
async def test_who_says_that_it_holds_a_blob_has_it_whole(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, members):
        (first, blobs), (second, held), _third = members
        digest = blobs.store.put(LARGE)
        held.store.put(LARGE)
        damage(held.store, digest)
        await first.calls.ask(second.node, HoldBlobs((digest,)), Held)
        assert held.store.get(digest) == LARGE


@in_loop
async def test_who_has_no_room_for_a_blob_says_that_it_does_not_hold_it_p9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_data: bytes) -> str:
        raise BlobError("blobs: No space left on device; free some space")

    async with three(tmp_path) as (_one, members):
        (first, blobs), (second, held), (_third, other) = members
        digest = blobs.store.put(b"data")
        monkeypatch.setattr(held.store, "put", full)
        with pytest.raises(Refusal, match="No space left") as caught:
            await first.calls.ask(second.node, HoldBlobs((digest,)), Held)
        assert (caught.value.code, caught.value.status) == ("not_held", 507)
        await blobs.spread([digest])  # a majority has room
        assert other.store.has(digest)


@in_loop
async def test_a_blob_comes_in_pieces_from_whoever_has_it(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, members):
        (_first, blobs), (_second, other), (_third, last) = members
        for data in (LARGE, b"", b"x" * PIECE_BYTES):
            digest = last.store.put(data)
            assert await blobs.get(digest) == data
            assert await other.get(digest) == data


@in_loop
async def test_a_blob_that_is_damaged_here_is_fetched_from_another_p9(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, members):
        (_first, blobs), (_second, other), _third = members
        digest = blobs.store.put(LARGE)
        other.store.put(LARGE)
        damage(blobs.store, digest)
        with pytest.raises(BlobDamaged):
            blobs.store.get(digest)
        assert await blobs.get(digest) == LARGE
        assert blobs.store.get(digest) == LARGE


@in_loop
async def test_what_is_damaged_there_is_taken_from_the_next_and_nothing_false_is_kept_p9(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, members):
        (_first, blobs), (_second, other), (_third, last) = members
        digest = other.store.put(LARGE)
        damage(other.store, digest)
        with pytest.raises(BlobMissing):
            await blobs.get(digest)
        assert not blobs.store.has(digest)
        last.store.put(LARGE)
        assert await blobs.get(digest) == LARGE


@in_loop
async def test_what_a_damaged_blob_is_named_by_finds_it_whole_once_it_is_read_p9(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, members):
        (_first, blobs), (_second, other), _third = members
        asset = other.store.put(LARGE)
        blobs.store.put(LARGE)
        names = blobs.store.put(asset.encode())
        damage(blobs.store, asset)
        await blobs.fetch_whole("list", names)  # by its name it is there
        with pytest.raises(BlobDamaged):
            blobs.store.get(asset)
        await blobs.fetch_whole("list", names, read=True)
        assert blobs.store.get(asset) == LARGE


@in_loop
async def test_a_size_that_no_blob_has_is_not_waited_for(tmp_path: Path) -> None:
    async def lie(_asker: Asker, _question: GetBlob) -> Piece:
        return Piece(2**60, b"x")

    async with three(tmp_path) as (_one, members):
        for member, _blobs in members[1:]:
            member.calls.serve(GetBlob, lie)
        with pytest.raises(BlobMissing):
            await members[0][1].get("0" * 64)


@in_loop
async def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, members):
        (first, _blobs), (second, _other), _third = members
        for name in ("../../etc/passwd", "", "A" * 64):
            with pytest.raises(Refusal, match="is no blob name"):
                await first.calls.ask(second.node, GetBlob(name, 0), Piece)
            with pytest.raises(Refusal, match="is no blob name"):
                await first.calls.ask(second.node, HoldBlobs((name,)), Held)
        with pytest.raises(Refusal, match="at most"):
            await first.calls.ask(second.node, HoldBlobs(("0" * 64,) * 17), Held)


@in_loop
async def test_who_wants_the_same_blob_waits_for_one_copy_and_may_leave_before(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, members):
        (_first, blobs), (member, other), _third = members
        digest, asked = other.store.put(LARGE), 0

        async def count(_asker: Asker, question: GetBlob) -> Piece:
            nonlocal asked
            asked += not question.offset
            return other._read_piece(question.digest, question.offset)

        member.calls.serve(GetBlob, count)
        wanted = [asyncio.create_task(blobs.fetch(digest)) for _ in range(5)]
        await asyncio.sleep(0)
        wanted[0].cancel()
        await asyncio.gather(*wanted[1:])
        assert asked == 1
        assert blobs.store.get(digest) == LARGE


@in_loop
async def test_all_that_the_table_names_comes_and_how_much_lacks_is_known_for_an_index_p1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    async with three(tmp_path) as (one, members):
        (leader, blobs), _second, (third, lacking) = members
        leaf = digest_of(b"leaf")  # which nobody has yet
        whole = blobs.store.put(b"whole")
        listed = blobs.store.put(f"{whole} {leaf}".encode())
        named: list[tuple[str, str]] = []
        assert lacking.lacking == 1  # not looked at yet
        third.go(lacking.sync_forever(lambda: named))
        await lacking.looked(0)
        await third.until(lambda: not lacking.lacking)
        named.append(("list", listed))
        applied = await leader.replica.propose(c.PutProject(START_MS, "q"))
        await asyncio.wait_for(lacking.looked(applied.index), 20)
        assert lacking.lacking == 1
        assert lacking.store.has(listed)
        blobs.store.put(b"leaf")
        await third.until(lambda: not lacking.lacking)
        assert lacking.store.has(leaf)
        assert lacking.store.has(whole)
        assert one.up

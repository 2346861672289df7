"""How an agent comes to belong to a cluster, carried out over a network in memory and real files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.cluster import formation
from agent.cluster import founding as module
from agent.cluster.calls import Asker, Calls
from agent.cluster.formation import Member
from agent.cluster.founding import Founding, Join, Welcome
from agent.cluster.promise import PromiseFile
from agent.cluster.standing import Founder
from agent.errors import AgentStopped, ConfigError, Refusal
from agent.peers import Peers
from consensus.disk import RealFileSystem
from tests.api.harness import in_loop
from transport.frames import Envelope
from transport.memory import Network, Transport

pytestmark = pytest.mark.slow  # founders wait for each other

ADDRESSES = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")


@dataclass
class Agent:
    me: Founder
    calls: Calls
    transport: Transport
    promises: PromiseFile
    founding: Founding

    def serve_join(self, cluster: str, *, refuse: int = 0) -> list[str]:
        """Let who asks into this cluster, after so many refusals. Returns who has asked."""
        asked: list[str] = []

        async def let_in(asker: Asker, question: Join) -> Welcome:
            assert asker.outsider
            asked.append(question.me.id)
            if len(asked) <= refuse:
                raise Refusal("no_leader", "not yet", 503)
            return Welcome(cluster, 1, (self.me,), "the keys")

        self.calls.serve(Join, let_in, outsiders=True)
        return asked


class World:
    """Agents by their number: the address 127.0.0.1:NUMBER and the id aNUMBER."""

    def __init__(self, root: Path) -> None:
        self.root, self.network, self.agents = root, Network(), dict[int, Agent]()

    def start(
        self, number: int, join: Sequence[str] = ADDRESSES, expect: int = 3, member: Member | None = None
    ) -> Founding:
        directory = self.root / str(number)
        directory.mkdir(exist_ok=True)
        me = Founder(f"a{number}", number, f"127.0.0.1:{number}")
        peers = Peers(number)
        envelope = Envelope(member.cluster if member else "", 1, number, 1)
        transport = Transport(envelope, self.network, peers.on_frames, bind=me.address)
        peers.transport = transport
        calls, promises = Calls(peers), PromiseFile.open(directory, me.id)
        founding = Founding(me, join, expect, promises, calls, transport, version="1", member=member)
        self.agents[number] = Agent(me, calls, transport, promises, founding)
        return founding

    async def stop(self, number: int) -> None:
        agent = self.agents.pop(number)
        await agent.founding.close()
        await agent.calls.close()
        agent.transport.close()
        agent.promises.close()


@asynccontextmanager
async def world(root: Path) -> AsyncIterator[World]:
    one = World(root)
    try:
        yield one
    finally:
        for number in tuple(one.agents):
            await one.stop(number)


async def until(condition: Callable[[], object]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


@in_loop
async def test_who_knows_nobody_founds_alone_and_the_same_cluster_at_each_try(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        first = await one.start(1, (), 0).belong()
        await one.stop(1)
        again = await one.start(1, (), 1).belong()
    assert first == again
    assert first.founders == first.members
    assert [founder.id for founder in first.founders] == ["a1"]


@in_loop
async def test_three_with_one_list_found_one_cluster_whoever_comes_first(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        early = [asyncio.create_task(one.start(number).belong()) for number in (3, 1)]
        late = asyncio.create_task(one.start(2).belong())
        found = await asyncio.gather(*early, late)
    assert len({(each.cluster, each.founders) for each in found}) == 1
    assert sorted(founder.id for founder in found[0].founders) == ["a1", "a2", "a3"]


@in_loop
async def test_a_founder_that_dies_before_it_knows_founds_the_same_when_it_comes_back(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        tasks = [asyncio.create_task(one.start(number).belong()) for number in (1, 2, 3)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        first = done.pop().result()
        for number in (1, 2, 3):
            await one.stop(number)
        again = await asyncio.gather(*(one.start(number).belong() for number in (2, 3, 1)))
    assert {each.cluster for each in again} == {first.cluster}


@in_loop
async def test_who_only_joins_waits_for_a_member_and_is_handed_the_keys(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        joining = asyncio.create_task(one.start(9, ADDRESSES[:1], 0).belong())
        await asyncio.sleep(0)
        member = Founder("a1", 1, ADDRESSES[0])
        one.start(1, ADDRESSES[:1], 1, Member("c", 1, (member,)))
        asked = one.agents[1].serve_join("c", refuse=2)
        found = await joining
    assert asked == ["a9"] * 3  # it asks again until it is let in
    assert (found.cluster, found.founders, found.members, found.secret_keys) == ("c", (), (member,), "the keys")


@in_loop
async def test_a_list_that_leads_into_two_clusters_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        for number, name in ((1, "c"), (2, "d")):
            one.start(number, ADDRESSES, 3, Member(name, 1, (Founder(f"a{number}", number, ADDRESSES[number - 1]),)))
        with pytest.raises(ConfigError, match="belong to different clusters: c, d"):
            await one.start(3).belong()


@in_loop
async def test_who_belongs_already_may_be_given_another_list(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await asyncio.gather(*(one.start(number).belong() for number in (1, 2, 3)))
        await one.stop(1)
        with pytest.raises(ConfigError, match="start it as before"):
            one.start(1, ADDRESSES[:2], 0)
        one.network = Network()  # the address is still taken in the other one
        one.start(1, ADDRESSES[:2], 0, Member("c", 1, ()))


@in_loop
async def test_a_promise_that_cannot_be_kept_is_not_given_and_ends_the_agent_p9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(RealFileSystem):
        def fdatasync(self, _file: int) -> None:
            raise OSError(5, "Input/output error")

        fsync = fdatasync

    async with world(tmp_path) as one:
        others = [asyncio.create_task(one.start(number).belong()) for number in (1, 2)]
        broken = one.start(3)
        monkeypatch.setattr(one.agents[3].promises._slots._disk, "_io", Broken())
        with pytest.raises(AgentStopped, match="cannot keep its promises"):
            await broken.belong()
        assert broken._formation.standing.promised is None
        for task in others:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@in_loop
async def test_addresses_that_a_name_stands_for_no_more_are_let_go_p12(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [f"127.0.0.1:{port}" for port in (11, 12)]

    async def resolve(_entry: str) -> list[str]:
        return found

    monkeypatch.setattr(module, "_resolve", resolve)
    async with world(tmp_path) as one:
        joining = asyncio.create_task(one.start(9, ["agents:1"], 0).belong())
        founding = one.agents[9].founding
        await until(lambda: set(founding._peers) == {"127.0.0.1:11", "127.0.0.1:12"})
        found[:] = ["127.0.0.1:13"]
        await until(lambda: set(founding._peers) == {"127.0.0.1:13"})
        assert set(one.agents[9].transport._peers.values()) == {"127.0.0.1:13"}
        founding.hang_up()
        assert not one.agents[9].transport._peers
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)


@in_loop
async def test_who_does_not_answer_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SILENT_MS", 200)
    monkeypatch.setattr(module, "ASK_S", 0.1)
    monkeypatch.setattr(formation, "TICK_MS", 50)
    async with world(tmp_path) as one:
        one.start(1, ADDRESSES[:1], 1, Member("c", 1, ()))
        joining = asyncio.create_task(one.start(9, ADDRESSES[:2], 0).belong())
        with caplog.at_level(logging.WARNING):
            await until(lambda: "does not answer" in caplog.text)
        told = [record for record in caplog.records if "does not answer" in record.getMessage()]
        assert [vars(record)["address"] for record in told] == [ADDRESSES[1]]
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)


@in_loop
async def test_what_is_no_name_stands_for_nobody() -> None:
    assert await module._resolve(f"{'x' * 80}..example:1") == []
    assert await module._resolve("[::1]:7") == ["[::1]:7"]
    assert await module._resolve("127.0.0.1:7") == ["127.0.0.1:7"]

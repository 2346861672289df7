"""Questions and answers between agents, over a network in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest

from agent.cluster import calls as module
from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.errors import AgentStopped, Refusal
from agent.peers import Peers
from agent.spec.errors import Problem
from tests.api.harness import in_loop
from transport.frames import Envelope, Kind, Lane
from transport.memory import Network, Transport


class Double(Question, frozen=True):
    number: int


class Doubled(Answer, frozen=True):
    number: int
    of: int


@dataclass
class Agent:
    peers: Peers
    calls: Calls
    transport: Transport


@asynccontextmanager
async def agents(*nodes: int, outsiders: tuple[int, ...] = ()) -> AsyncIterator[list[Agent]]:
    network = Network()
    made = []
    for node in nodes:
        peers = Peers(node)
        envelope = Envelope("" if node in outsiders else "c", 1, node, 1)
        transport = Transport(envelope, network, peers.on_frames, bind=str(node))
        peers.transport = transport
        for other in nodes:
            transport.connect(other, str(other))
        made.append(Agent(peers, Calls(peers), transport))
    yield made
    for one in made:
        await one.calls.close()
        one.transport.close()


async def double(asker: Asker, question: Double) -> Doubled:
    return Doubled(2 * question.number, asker.node)


@in_loop
async def test_a_question_is_answered_and_the_asker_is_known() -> None:
    async with agents(1, 2) as (one, two):
        two.calls.serve(Double, double)
        for lane in Lane:
            assert await one.calls.ask(2, Double(21), Doubled, lane=lane) == Doubled(42, 1)


@in_loop
async def test_many_questions_at_once_each_get_their_own_answer() -> None:
    async with agents(1, 2) as (one, two):

        async def slowest_first(asker: Asker, question: Double) -> Doubled:
            for _ in range(20 - question.number):
                await asyncio.sleep(0)
            return await double(asker, question)

        two.calls.serve(Double, slowest_first)
        answers = await asyncio.gather(*(one.calls.ask(2, Double(number), Doubled) for number in range(20)))
        assert [answer.number for answer in answers] == [2 * number for number in range(20)]


@in_loop
async def test_a_refusal_comes_over_whole() -> None:
    refusal = Refusal("spec_invalid", "no", 422, retry_after_s=3, problems=[Problem("a.yaml", 1, 2, "key", "bad")])

    async def refuse(_asker: Asker, _question: Double) -> Doubled:
        raise refusal

    async with agents(1, 2) as (one, two):
        two.calls.serve(Double, refuse)
        with pytest.raises(Refusal) as caught:
            await one.calls.ask(2, Double(1), Doubled)
    got = caught.value
    assert (got.code, got.message, got.status, got.retry_after_s) == ("spec_invalid", "no", 422, 3)
    assert got.problems == refusal.problems


@pytest.mark.parametrize(("error", "code"), [(AgentStopped("the disk"), "unavailable"), (KeyError("x"), "internal")])
@in_loop
async def test_a_handler_that_fails_refuses(error: Exception, code: str) -> None:
    async def fail(_asker: Asker, _question: Double) -> Doubled:
        raise error

    async with agents(1, 2) as (one, two):
        two.calls.serve(Double, fail)
        with pytest.raises(Refusal) as caught:
            await one.calls.ask(2, Double(1), Doubled)
        assert caught.value.code == code


@in_loop
async def test_what_nobody_serves_is_refused() -> None:
    async with agents(1, 2) as (one, _two):
        with pytest.raises(Refusal, match="Double is not answered here"):
            await one.calls.ask(2, Double(1), Doubled)


@in_loop
async def test_who_cannot_be_reached_was_not_asked_and_who_is_silent_may_have_acted() -> None:
    async with agents(1, 2) as (one, two):
        with pytest.raises(Refusal) as caught:
            await one.calls.ask(9, Double(1), Doubled)
        assert caught.value.code == "unreachable"

        async def never(_asker: Asker, _question: Double) -> Doubled:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        two.calls.serve(Double, never)
        with pytest.raises(Refusal) as caught:
            await one.calls.ask(2, Double(1), Doubled, timeout_s=0.01)
        assert caught.value.code == "no_answer"


@in_loop
async def test_an_answer_of_somebody_else_or_too_late_or_malformed_is_nobodys() -> None:
    async with agents(1, 2, 3) as (one, two, three):
        asked = asyncio.Event()
        go_on = asyncio.Event()

        async def wait(asker: Asker, question: Double) -> Doubled:
            asked.set()
            await go_on.wait()
            return await double(asker, question)

        two.calls.serve(Double, wait)
        asking = asyncio.create_task(one.calls.ask(2, Double(1), Doubled))
        await asked.wait()
        three.peers.transport = three.transport
        forged = module._encode(module._Answered(1, msgspec.Raw(module._encode(Doubled(666, 3)))))
        three.transport.send(1, Lane.CONTROL, forged, Kind.ANSWER)
        three.transport.send(1, Lane.CONTROL, b"\xc1", Kind.ANSWER)
        two.transport.send(1, Lane.CONTROL, module._encode(module._Answered(99, module._NOTHING)), Kind.ANSWER)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asking.done()
        go_on.set()
        assert (await asking).number == 2
        assert one.calls.malformed == 1


@in_loop
async def test_an_answer_of_another_shape_is_no_answer() -> None:
    class Other(Answer, frozen=True):
        text: str

    async def other(_asker: Asker, _question: Double) -> Other:
        return Other("x")

    async with agents(1, 2) as (one, two):
        two.calls.serve(Double, other)
        with pytest.raises(Refusal, match="cannot be read"):
            await one.calls.ask(2, Double(1), Doubled)


@in_loop
async def test_a_question_that_cannot_be_read_is_passed_by() -> None:
    async with agents(1, 2) as (one, two):
        two.calls.serve(Double, double)
        for bad in (b"", b"\xc1", module._encode((1, "Double", ("x",))), module._encode([1, "Double"])):
            one.transport.send(2, Lane.CONTROL, bad, Kind.REQUEST)
        assert (await one.calls.ask(2, Double(1), Doubled)).number == 2
        assert two.calls.malformed == 4


@in_loop
async def test_an_outsider_is_answered_only_what_is_for_outsiders() -> None:
    class Knock(Question, frozen=True):
        pass

    async def knocked(asker: Asker, _question: Knock) -> Doubled:
        return Doubled(int(asker.outsider), asker.node)

    async with agents(1, 2, outsiders=(1,)) as (one, two):
        two.calls.serve(Double, double)
        two.calls.serve(Knock, knocked, outsiders=True)
        assert await one.calls.ask(2, Knock(), Doubled) == Doubled(1, 1)
        with pytest.raises(Refusal, match="is not answered here"):
            await one.calls.ask(2, Double(1), Doubled)


@in_loop
async def test_both_sides_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_asker: Asker, _question: Double) -> Doubled:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async with agents(1, 2) as (one, two):
        two.calls.serve(Double, never)
        waiting = asyncio.create_task(one.calls.ask(2, Double(1), Doubled))
        for _ in range(5):
            await asyncio.sleep(0)
        monkeypatch.setattr(module, "SERVED_MAX", 1)
        with pytest.raises(Refusal, match="busy"):
            await one.calls.ask(2, Double(1), Doubled)
        monkeypatch.setattr(module, "ASKED_MAX", 1)
        with pytest.raises(Refusal, match="too many"):
            await one.calls.ask(2, Double(1), Doubled)
        await one.calls.close()
        with pytest.raises(Refusal, match="stopping"):
            await waiting

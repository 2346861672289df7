"""Output over HTTP: exact, followed while it is written, gone on with where a connection broke."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse

from agent.api.tailing import Mark
from agent.runtable import commands as c
from agent.runtable.model import Agent
from executors.base import Stream
from executors.segments import Position
from tests.api.harness import Prime, in_loop, prime, refusal


async def event(response: ClientResponse) -> tuple[str, str, Any]:
    """(event, id, data) of the next event."""
    while True:
        fields: dict[str, str] = {}
        while (line := (await response.content.readuntil(b"\n")).decode().rstrip("\n")) != "":
            name, _colon, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        if "event" in fields:
            return fields["event"], fields.get("id", ""), json.loads(fields["data"])


async def rest(response: ClientResponse) -> list[tuple[str, str, Any]]:
    """All events up to `end`."""
    found: list[tuple[str, str, Any]] = []
    while not found or found[-1][0] != "end":
        found.append(await event(response))
    return found


async def text(agent: Prime, path: str, **headers: str) -> bytes:
    async with agent.client.get(path, headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        return await response.read()


@in_loop
async def test_output_is_given_byte_for_byte(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_OUTPUT="one\ntwo\nno newline", MOCK_ERRORS="bad")
        run = await agent.ended((await agent.submit())["id"])
        base = f"/api/v1/runs/{run['id']}/instances/container/logs"
        assert await text(agent, f"{base}?stream=stdout") == b"one\ntwo\nno newline"
        assert await text(agent, f"{base}?stream=stderr&attempt=1") == b"bad"
        assert await text(agent, f"{base}?tail=1") == b"bad"
        assert await text(agent, f"{base}?since=2100-01-01T00:00:00Z") == b""
        lines = (await text(agent, f"{base}?timestamps=true&stream=stdout")).decode().splitlines()
        assert [line.split(" ", 2)[1:] for line in lines] == [["stdout", one] for one in ("one", "two", "no newline")]
        for query, refusal in {
            "attempt=2": (404, "unknown_attempt"), "attempt=2&follow=true": (404, "unknown_attempt"),
            "attempt=0": (400, "invalid"), "stream=x": (400, "invalid"), "tail=-1": (400, "invalid"),
        }.items():  # fmt: skip
            assert await agent.refused("GET", f"{base}?{query}") == refusal
        assert await agent.refused("GET", base.replace("container", "x")) == (404, "unknown_instance")


@in_loop
async def test_following_begins_before_the_first_attempt_and_ends_with_it(tmp_path: Path) -> None:
    async with prime(tmp_path, slots=1) as agent:
        await agent.apply(
            MOCK_DURATION_MS="gate", MOCK_OUTPUT="begin\n", MOCK_OUTPUT_AT_END="end\n", MOCK_EXIT_CODE="3"
        )
        first, second = await agent.submit(), await agent.submit()
        name = await agent.running(first["id"])
        async with agent.client.get(f"/api/v1/runs/{second['id']}/instances/container/logs?follow=true") as response:
            assert response.content_type == "text/event-stream"
            agent.engine.release(name)
            kind, _id, line = await event(response)
            assert (kind, line["text"], line["stream"], line["partial"]) == ("line", "begin", "stdout", True)
            agent.engine.release(await agent.running(second["id"]))
            found = await rest(response)
        assert [data.get("text") for _name, _id, data in found] == ["end", None]
        assert found[-1][2] == {"attempt": 1, "state": "failed", "exit_code": 3, "reason": "exit_code"}


@in_loop
async def test_text_can_be_followed_too(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS="gate", MOCK_OUTPUT="begin\n", MOCK_OUTPUT_AT_END="end\n")
        run = await agent.submit()
        following = asyncio.create_task(
            text(agent, f"/api/v1/runs/{run['id']}/instances/container/logs?follow=true", Accept="text/plain")
        )
        agent.engine.release(await agent.running(run["id"]))
        assert await following == b"beginend"


@in_loop
async def test_a_run_that_ends_without_an_attempt_ends_its_followers(tmp_path: Path) -> None:
    async with prime(tmp_path, slots=1) as agent:
        await agent.apply(MOCK_DURATION_MS="gate")
        await agent.running((await agent.submit())["id"])
        waits = await agent.submit()
        async with agent.client.get(f"/api/v1/runs/{waits['id']}/instances/container/logs?follow=true") as response:
            await agent.ok("POST", f"/api/v1/runs/{waits['id']}/cancel")
            assert [(name, data["attempt"]) for name, _id, data in await rest(response)] == [("end", None)]


@in_loop
async def test_output_of_an_agent_that_is_away_is_refused_and_not_broken_off(tmp_path: Path) -> None:
    async with prime(tmp_path, slots=0) as agent:
        away = Agent("away", 0, "127.0.0.1:9201", "http://127.0.0.1:9200", 1, ("mock",), "1.2.3", node=2)
        await agent.replica.propose(c.AgentUp(agent.replica.clock_ms(), away))
        await agent.apply()
        run_id = (await agent.submit())["id"]
        await agent.until(lambda: agent.replica.table.rows.runs[run_id].instances[0].attempts)
        path = f"/api/v1/runs/{run_id}/instances/container/logs"
        for asked in (path, f"{path}?follow=true"):
            async with agent.client.get(asked) as response:
                assert await refusal(response) == (503, "unreachable")
                assert "the output is on agent away, which does not answer" in await response.text()


@in_loop
async def test_a_client_goes_on_behind_the_last_event_it_has(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_OUTPUT="".join(f"{n}\n" for n in range(700)))
        run = await agent.ended((await agent.submit())["id"])
        path = f"/api/v1/runs/{run['id']}/instances/container/logs?follow=true"
        async with agent.client.get(path) as response:
            whole = await rest(response)
        assert [data["text"] for name, _id, data in whole if name == "line"] == [str(n) for n in range(700)]
        assert len({id_ for _name, id_, _data in whole}) == 701
        for at in (0, 1, 255, 256, 257, 698, 699):
            async with agent.client.get(path, headers={"Last-Event-ID": whole[at][1]}) as response:
                assert await rest(response) == whole[at + 1 :]
        async with agent.client.get(f"{path}&tail=3", headers={"Last-Event-ID": "junk"}) as response:
            assert await rest(response) == whole[-4:]


@in_loop
async def test_a_client_goes_on_with_the_attempt_it_read_although_a_new_one_was_made(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_OUTPUT="a\nb\n", MOCK_EXIT_CODE="1")
        run = await agent.ended((await agent.submit())["id"])
        path = f"/api/v1/runs/{run['id']}/instances/container/logs"
        async with agent.client.get(path, headers={"Accept": "text/event-stream"}) as response:
            first = await rest(response)
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/retry")
        await agent.ended(run["id"])
        headers = {"Accept": "text/event-stream", "Last-Event-ID": first[0][1]}
        async with agent.client.get(path, headers=headers) as response:
            assert await rest(response) == first[1:]


@in_loop
async def test_p9_what_is_missing_shows_and_a_client_that_was_there_sees_what_follows(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        run = await agent.ended((await agent.submit())["id"])
        size = 16 * 1024 + 41
        with agent.logs.writer(run["id"], "container", 1, segment_bytes=size, limit_bytes=size * 8) as writer:
            for n in range(40):
                writer.write(Stream.STDOUT, b"%d %s\n" % (n, b"\xff" * 4000), n + 1)
        path = f"/api/v1/runs/{run['id']}/instances/container/logs"
        async with agent.client.get(path, headers={"Accept": "text/event-stream"}) as response:
            whole = await rest(response)
        assert [name for name, _id, _data in whole].count("gap") == 1
        line = whole[0][2]
        assert (line["text"][:4], len(line["base64"]) > 4000) == (
            "0 \N{REPLACEMENT CHARACTER}" * 1 + "\N{REPLACEMENT CHARACTER}",
            True,
        )
        assert b"--- output is missing here: 2 segments ---" in await text(agent, path)
        gone = Mark(1, Position(2, 0), 3)  # a place in a segment that was deleted since
        async with agent.client.get(
            path, headers={"Accept": "text/event-stream", "Last-Event-ID": str(gone)}
        ) as response:
            found = await rest(response)
        assert found[0][0] == "gap"
        after_gap = next(at for at, one in enumerate(whole) if one[0] == "gap") + 1
        assert [data for _name, _id, data in found[1:]] == [data for _name, _id, data in whole[after_gap:]]


@pytest.mark.parametrize("given", ["", "1", "a.b.c.d", "1.2.3.4.5", "1.2.3.99999999999"])
def test_what_is_no_mark_is_none(given: str) -> None:
    assert Mark.parse(given) is None


def test_a_mark_is_read_back() -> None:
    mark = Mark(3, Position(2, 77), 5)
    assert Mark.parse(str(mark)) == mark

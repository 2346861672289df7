"""Delivery against real servers on loopback ports: they fail, hang, die, redirect and ask to be left alone."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent import notifier, outward
from agent.notice_messages import Message
from agent.notifier import Notifier
from agent.post import Answer, Poster
from tests.api.harness import Prime, in_loop, prime

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
WEBHOOK = """  webhook:
    - on: success
      endpoints: [{{url: '{url}', headers: {{X-Token: '{{{{.secret.TOKEN}}}}'}}}}]
"""


@dataclass
class Receiver:
    """Keeps what it is sent, by path. answers: of a path, one for each request, the last one for ever."""

    url: str = ""
    got: dict[str, list[tuple[dict[str, str], bytes]]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, list[Handler]] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.got[request.path].append((dict(request.headers), await request.read()))
        self.news.set()
        answers = self.answers.get(request.path, [])
        handler = answers.pop(0) if len(answers) > 1 else answers[0] if answers else says(200)
        return await handler(request)

    def keys(self, path: str) -> list[str]:
        return [headers["Idempotency-Key"] for headers, _body in self.got[path]]

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()


def taken(server: Receiver, path: str, count: int) -> bool:
    return len(server.got[path]) == count


def says(status: int, **headers: str) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={key.replace("_", "-"): value for key, value in headers.items()})

    return answer


async def hangs(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def breaks(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.handle)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield one
    finally:
        await runner.cleanup()


@asynccontextmanager
async def delivering(agent: Prime, **more: Any) -> AsyncIterator[Notifier]:
    context = agent.service.context
    one = Notifier(agent.replica, context.keyring, context.load, **more)
    task = asyncio.create_task(one.run_forever())
    try:
        yield one
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


def job(name: str, behavior: str, task: str = "", code: str = "0") -> dict[str, str]:
    text = (
        f"version: 2\nname: {name}\nowner: someone\nbehavior:\n{behavior}task:\n  name: container\n  executor: mock\n"
        f"{task}  config: {{IMAGE: none, MOCK_EXIT_CODE: '{code}'}}\n"
    )
    return {"path": f"{name}/job.yaml", "yaml": text}


async def apply(agent: Prime, *specs: dict[str, str]) -> list[str]:
    answer = await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": list(specs)})
    return [one["message"] for one in answer["warnings"]]


def hook_to(url: str, on: str = "success") -> str:
    return f"  webhook:\n    - on: {on}\n      endpoints: [{{url: '{url}'}}]\n"


async def secret(agent: Prime, name: str, value: str) -> None:
    await agent.service.catalog.put_secret("p", "", name, value)


async def run(agent: Prime, name: str) -> str:
    run_id: str = (await agent.submit(name))["id"]
    await agent.ended(run_id)
    return run_id


def waiting(agent: Prime) -> int:
    return len(agent.replica.table.rows.events)


async def listed(agent: Prime) -> list[Any]:
    found: list[Any] = (await agent.ok("GET", "/api/v1/events"))["events"]
    return found


# -- what is sent ------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_webhook_gets_signed_json_with_the_jobs_headers_and_secrets_stay_out_of_the_table(
    tmp_path: Path,
) -> None:
    async with receiver() as server, prime(tmp_path) as agent, delivering(agent):
        await agent.ok("PUT", "/api/v1/projects/p", {})
        await secret(agent, "TOKEN", "s3cret")
        await secret(agent, "WEBHOOK_SECRET", "key")
        await secret(agent, "PLACE", "/taken")
        assert await apply(agent, job("job", WEBHOOK.format(url=server.url + "{{.secret.PLACE}}"))) == []
        run_id = await run(agent, "job")
        await server.until(lambda: server.got["/taken"])
        await agent.until(lambda: not waiting(agent))
        headers, body = server.got["/taken"][0]
        sent = json.loads(body)
        assert (sent["event"], sent["run"], sent["state"], sent["job"]) == ("success", run_id, "success", "job")
        assert sent["id"] == headers["Idempotency-Key"]
        signed = headers["X-Prime-Timestamp"].encode() + b"." + body
        assert headers["X-Prime-Signature"] == "v1=" + hmac.new(b"key", signed, hashlib.sha256).hexdigest()
        assert headers["X-Token"] == "s3cret"
        for hidden in (b"s3cret", b"/taken", server.url.encode()):
            assert hidden not in agent.replica.table.dump()


@in_loop
async def test_slack_and_pagerduty_get_their_formats_and_a_success_resolves_the_failure(tmp_path: Path) -> None:
    async with receiver() as server, prime(tmp_path) as agent, delivering(agent, pagerduty_url=f"{server.url}/pd"):
        await agent.ok("PUT", "/api/v1/projects/p", {})
        await secret(agent, "NOTIFY_SLACK", f"{server.url}/slack")
        await secret(agent, "NOTIFY_SLACK_ME_EXAMPLE_ORG", f"{server.url}/me")
        await secret(agent, "NOTIFY_PAGERDUTY", "routing")
        notify = (
            "  notify:\n    - {on: failure, channels: ['slack://#a<b', 'slack://me@example.org', 'pagerduty://#x'], "
            "severity: HIGH, team: t}\n"
        )
        await secret(agent, "CODE", "3")
        assert await apply(agent, job("job", notify, code="{{.secret.CODE}}")) == []
        run_id = await run(agent, "job")
        await agent.until(lambda: not waiting(agent))
        (slack,), (me,), (alarm,) = (
            [json.loads(body) for _headers, body in server.got[path]] for path in ("/slack", "/me", "/pd")
        )
        assert (slack["channel"], me["channel"]) == ("#a<b", "@me@example.org")
        assert slack["text"].startswith("p/job has failed: container failed (exit_code)")
        assert f"run {run_id}" in slack["text"]
        assert "severity HIGH, team t" in slack["text"]
        assert (alarm["routing_key"], alarm["event_action"]) == ("routing", "trigger")
        assert (alarm["payload"]["severity"], alarm["payload"]["class"]) == ("critical", "failure")
        assert alarm["payload"]["custom_details"]["run"] == run_id
        await secret(agent, "CODE", "0")
        await agent.ok("POST", f"/api/v1/runs/{run_id}/retry", {})
        await agent.ended(run_id)
        await server.until(lambda: len(server.got["/pd"]) == 2)
        resolved = json.loads(server.got["/pd"][1][1])
        assert (resolved["event_action"], resolved["dedup_key"]) == ("resolve", alarm["dedup_key"])
        assert len(server.got["/slack"]) == 1


# -- endpoints that fail -----------------------------------------------------------------------------------------------


@in_loop
async def test_every_event_comes_from_an_endpoint_that_fails_breaks_and_asks_for_time_under_one_key(
    tmp_path: Path,
) -> None:
    async with receiver() as server, prime(tmp_path) as agent, delivering(agent):
        server.answers["/a"] = [says(500), breaks, says(429, Retry_After="1"), says(200)]
        await apply(agent, job("job", hook_to(f"{server.url}/a")))
        began_s = time.monotonic()
        await run(agent, "job")
        await agent.until(lambda: not waiting(agent))
        assert len(server.keys("/a")) == 4
        assert len(set(server.keys("/a"))) == 1
        assert time.monotonic() - began_s >= 1 + 2 + 4 - 0.1  # each try later than the one before
        assert agent.replica.table.rows.events_given_up == 0


@in_loop
async def test_endpoints_that_hang_or_are_dead_delay_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than there are places."""
    monkeypatch.setattr(notifier, "PLACES", 8)
    monkeypatch.setattr(notifier, "AGAIN_PLACES", 4)
    monkeypatch.setattr(outward, "TIMEOUT_S", 0.5)
    async with receiver() as server, prime(tmp_path) as agent, delivering(agent):
        paths = [f"/hangs{n}" for n in range(20)]
        server.answers = {path: [hangs] for path in paths}
        many = "".join(f"{{url: '{server.url}{path}'}}, " for path in paths)
        dead = "{url: 'http://127.0.0.1:1/dead'}"
        await apply(
            agent,
            job("bad-job", f"  webhook:\n    - on: success\n      endpoints: [{many}{dead}]\n"),
            job("good-job", hook_to(f"{server.url}/good")),
        )
        await run(agent, "bad-job")
        await server.until(lambda: all(server.got[path] for path in paths))  # each was tried; now they are suspects
        for number in range(5):
            await run(agent, "good-job")
            await server.until(partial(taken, server, "/good", number + 1))
        await agent.until(lambda: waiting(agent) == 21)
        assert len(set(server.keys("/good"))) == 5
        errors = {one["error"] for one in await listed(agent) if one["tries"]}
        assert errors <= {"no answer within 0.5 s", "cannot be reached: ClientConnectorError"}


@in_loop
async def test_what_was_delivered_a_moment_ago_is_busy_though_nothing_waits_for_its_endpoint(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        context = agent.service.context
        one = Notifier(agent.replica, context.keyring, context.load)
        one._busy["failing"] = asyncio.create_task(asyncio.sleep(3600))
        one._endpoints["failing"] = notifier._Endpoint(failures=1)
        assert list(one._due(0)) == []
        assert one._failing() == 1
        await one._let_go()


@in_loop
async def test_one_event_that_is_not_taken_holds_up_none_behind_it(tmp_path: Path) -> None:
    async with receiver() as server, prime(tmp_path) as agent, delivering(agent):
        first: list[str] = []

        async def not_the_first(request: web.Request) -> web.StreamResponse:
            first[:] = first or [request.headers["Idempotency-Key"]]
            return web.Response(status=500 if request.headers["Idempotency-Key"] == first[0] else 200)

        server.answers["/a"] = [not_the_first]
        await apply(agent, job("job", hook_to(f"{server.url}/a")))
        for _ in range(3):
            await run(agent, "job")
        await agent.until(lambda: waiting(agent) == 1 and len(set(server.keys("/a"))) == 3)
        (left,) = await listed(agent)
        assert (left["id"], left["error"]) == (first[0], "it answered 500")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (says(404), "it answered 404, and would again"),
        (says(302, Location="http://127.0.0.1:1/"), "it answered 302, a redirect, which is not followed"),
    ],
)
def test_an_answer_that_no_other_try_would_change_ends_it_and_is_shown_p11(
    tmp_path: Path, answer: Handler, error: str
) -> None:
    @in_loop
    async def body() -> None:
        async with receiver() as server, prime(tmp_path) as agent, delivering(agent):
            server.answers["/a"] = [answer]
            await apply(agent, job("job", hook_to(f"{server.url}/a")))
            run_id = await run(agent, "job")
            await agent.until(lambda: agent.replica.table.rows.events_given_up)
            answered = await agent.ok("GET", f"/api/v1/events?run={run_id[:8]}")
            (one,) = answered["events"]
            assert (one["error"], one["tries"], one["next"], answered["given_up"]) == (error, 1, None, 1)
            assert one["given_up_at"] is not None
            assert len(server.got["/a"]) == 1

    body()


@in_loop
async def test_what_cannot_be_sent_warns_at_apply_and_says_why_p11(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent, delivering(agent):
        behavior = (
            "  notify:\n    - {on: success, channels: ['slack://#x', 'pagerduty://y']}\n"
            + hook_to("http://h/{{.secret.NONE}}")
            + "    - on: job_success\n      endpoints: [{url: 'http://169.254.169.254/latest'}]\n"
        )
        warnings = await apply(agent, job("job", behavior))
        assert len(warnings) == 3
        await run(agent, "job")
        await agent.until(lambda: agent.replica.table.rows.events_given_up == 4)
        assert sorted(one["error"] for one in await listed(agent)) == [
            "its address is refused: a reserved address",
            "pagerduty://y cannot be told: there is no secret NOTIFY_PAGERDUTY (nor NOTIFY_PAGERDUTY_Y); set it with "
            "`prime secret set`",
            "slack://#x cannot be told: there is no secret NOTIFY_SLACK (nor NOTIFY_SLACK_X); set it with "
            "`prime secret set`",
            "the url cannot be rendered: there is no NONE",
        ]


@in_loop
async def test_what_was_not_delivered_when_the_agent_stopped_is_delivered_by_the_next_under_the_same_key(
    tmp_path: Path,
) -> None:
    async with receiver() as server:
        server.answers["/a"] = [hangs, says(200)]
        async with prime(tmp_path) as agent:
            async with delivering(agent):
                await apply(agent, job("job", hook_to(f"{server.url}/a")))
                await run(agent, "job")
                await server.until(lambda: server.got["/a"])  # it has it; its answer never comes
            async with delivering(agent):
                await agent.until(lambda: not waiting(agent))
        assert len(server.keys("/a")) == 2
        assert len(set(server.keys("/a"))) == 1


# -- addresses ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_addresses_that_are_not_asked() -> None:
    async with Poster.open(1) as poster:
        for url, error in (
            ("http://169.254.169.254/", "its address is refused: a reserved address"),
            ("http://[fe80::1]/", "its address is refused: a reserved address"),
            ("http://2852039166/", "its address is no http:// or https:// URL"),
            ("ftp://h/", "its address is no http:// or https:// URL"),
            ("", "its address is no http:// or https:// URL"),
            ("http://h:99999/", "its address is no http:// or https:// URL"),
        ):
            answer = await poster.send(Message(url, {}, b"{}"))
            assert (answer.error, answer.final) == (error, True), url


def leads_astray(_host: str, port: int, *_words: object) -> list[tuple[Any, ...]]:
    """Every name is of a cloud's metadata as well."""
    return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.1", "169.254.169.254")]


@in_loop
async def test_a_name_that_leads_to_a_reserved_address_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", leads_astray)
    async with Poster.open(1) as poster:
        answer = await poster.send(Message("http://metadata.example/", {}, b"{}"))
    assert answer == Answer("its address is refused: its name leads to a reserved address", final=True)


@in_loop
async def test_what_cannot_be_reached_may_be_tried_again() -> None:
    async with receiver() as server, Poster.open(1) as poster:
        for url, error in (
            ("http://127.0.0.1:1/", "cannot be reached: ClientConnectorError"),
            (server.url.replace("127.0.0.1", "no-such-name.invalid"), "its host's name is not known"),
            (server.url.replace("http", "https"), "its certificate is not good, or it speaks no TLS"),
        ):
            assert await poster.send(Message(url, {}, b"{}")) == Answer(error)


@pytest.mark.parametrize(
    ("asked", "wait_ms"),
    [
        ({"Retry_After": "7"}, 7000),
        ({"Retry_After": "Wed, 21 Oct 2026 07:28:09 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 9000),
        ({"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT", "Date": "Wed, 21 Oct 2026 07:28:09 GMT"}, 0),
        ({"Retry_After": "-7"}, 0),
        ({"Retry_After": "soon"}, 0),
        ({}, 0),
    ],
)
def test_what_an_answer_says_of_the_next_try(asked: dict[str, str], wait_ms: int) -> None:
    @in_loop
    async def body() -> None:
        async with receiver() as server, Poster.open(1) as poster:
            server.answers["/a"] = [says(503, **asked)]
            answer = await poster.send(Message(f"{server.url}/a", {}, b"{}"))
            assert answer == Answer("it answered 503", wait_ms=wait_ms)

    body()

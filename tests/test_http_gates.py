"""Http gates on an agent: asked at once, with secrets that nobody is told, and not where they must not look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent import outward
from agent.http_gates import HttpGates, get
from agent.service import gating
from agent.spec.poke import HttpRequest
from tests.api.harness import Prime, in_loop, prime

JOB = """
version: 2
name: gated
owner: o
task: {{name: container, executor: mock, config: {{IMAGE: none}}}}
dependencies:
  - http:
      name: ready
      url: {url}
      headers: {{X-Token: "{{{{ .secret.TOKEN }}}}"}}
      params: {{at: "{{{{ .EXECUTION_TIME }}}}"}}
"""
SECRET = "s3cr3t-value"


class Upstream:
    """What is asked: says `statuses` one after another, the last for ever."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.asked: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers, text=SECRET)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a second."""
    monkeypatch.setattr(gating, "POKE_MS_MIN", 20)


@asynccontextmanager
async def serving(upstream: Upstream) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{any:.*}", upstream.answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/ready"))


@asynccontextmanager
async def gated(root: Path, url: str) -> AsyncIterator[Prime]:
    """An agent that asks, with a job that depends on `url`."""
    async with prime(root) as agent:
        context = agent.service.context
        agent.tasks.append(
            asyncio.create_task(HttpGates(agent.replica, context.provisioner, context.have).run_forever())
        )
        config = {"config": {"dependency.poke_interval": "20ms"}}
        await agent.ok("PUT", "/api/v1/projects/p", config)
        await agent.ok("PUT", "/api/v1/projects/p/secrets/TOKEN", {"value": SECRET})
        spec = {"path": "gated/job.yaml", "yaml": JOB.format(url=url)}
        await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})
        yield agent


async def submitted(agent: Prime) -> Any:
    return await agent.submit("gated", {"check_dependencies": True})


@in_loop
async def test_a_dependency_is_asked_until_it_is_met_and_nothing_of_its_secrets_is_kept_p11(tmp_path: Path) -> None:
    upstream = Upstream(503, 503, 200)
    async with serving(upstream) as url, gated(tmp_path, url) as agent:
        run = await submitted(agent)
        assert (run["state"], run["deadline_at"], run["gates"][0]["state"]) == ("queued", None, "waiting")
        ended = await agent.ended(run["id"])
        assert ended["state"] == "success"
        assert [one.headers["X-Token"] for one in upstream.asked] == [SECRET] * 3
        assert all(one.query["at"].endswith("Z") for one in upstream.asked)
        explained = await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain")
        assert explained["gates"][0]["why"] == "met: 200 OK"
        assert SECRET not in str(explained)
        assert SECRET.encode() not in agent.replica.table.dump()
        blobs = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        assert not any(SECRET.encode() in path.read_bytes() for path in blobs)


@in_loop
async def test_a_run_without_check_dependencies_begins_at_once(tmp_path: Path) -> None:
    upstream = Upstream(503)
    async with serving(upstream) as url, gated(tmp_path, url) as agent:
        run = await agent.submit("gated")
        assert (await agent.ended(run["id"]))["state"] == "success"
        assert upstream.asked == []


@in_loop
async def test_a_redirection_is_not_followed(tmp_path: Path) -> None:
    upstream = Upstream(302)
    async with serving(upstream) as url, gated(tmp_path, url) as agent:
        run = await submitted(agent)
        await agent.until(lambda: _asked(agent, run["id"]) > 1)
        assert {one.path for one in upstream.asked} == {"/ready"}
        why = (await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain"))["gates"][0]["why"]
        assert "last answer: 302 Found" in why
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        assert (await agent.ended(run["id"]))["state"] == "cancelled"


@in_loop
async def test_an_error_that_nobody_foresaw_is_told_and_does_not_end_whoever_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    async with serving(Upstream(200)) as url, gated(tmp_path, url) as agent:
        with monkeypatch.context() as now:
            now.setattr(type(agent.service.context.provisioner), "request", broken)
            run = await submitted(agent)
            await agent.until(lambda: _asked(agent, run["id"]) > 1)
        assert (await agent.ended(run["id"]))["state"] == "success"


@in_loop
async def test_a_dependency_that_cannot_be_rendered_any_more_says_so_without_the_secret(tmp_path: Path) -> None:
    async with serving(Upstream(200)) as url, gated(tmp_path, url) as agent:
        await agent.ok("PUT", "/api/v1/projects/p/secrets/TOKEN", {"value": "two\nlines"})
        run = await submitted(agent)
        await agent.until(lambda: _asked(agent, run["id"]) > 0)
        why = (await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain"))["gates"][0]["why"]
        assert "the request cannot be sent: ValueError" in why
        await agent.ok("DELETE", "/api/v1/projects/p/secrets/TOKEN")
        seen = _asked(agent, run["id"])
        await agent.until(lambda: _asked(agent, run["id"]) > seen + 1)
        why = (await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain"))["gates"][0]["why"]
        assert "dependencies[0].http.headers.X-Token" in why


def _asked(agent: Prime, run_id: str) -> int:
    run = agent.replica.run(run_id)
    assert run is not None
    return run.gates[0].asked


@in_loop
async def test_a_request_that_fails_says_why_without_the_request() -> None:
    async with outward.session(1) as session:

        async def said(url: str) -> str:
            met, text = await get(session, HttpRequest(url, {}, {}))
            assert not met
            assert "t0p" not in text
            return text

        assert "a reserved address" in await said("http://169.254.169.254/t0p")
        assert "a reserved address" in await said("http://0xa9fea9fe/t0p")  # the same address, by another name
        assert await said("http://127.0.0.1:1/t0p") == "cannot connect: Connection refused"
        assert "no answer: InvalidUrl" in await said("http://")

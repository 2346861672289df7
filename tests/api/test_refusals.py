"""Every "no" is a problem with a code (P11), whatever was sent, and whoever sent it (P8)."""

from __future__ import annotations

import ast
import asyncio
import base64
import errno
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from multidict import CIMultiDict

from agent.api import routing, server
from agent.api.problems import response as problem
from agent.api.serving import Runner
from agent.errors import Refusal
from tests.api.harness import Prime, in_loop, job_yaml, prime, refusal

JOBS = "/api/v1/projects/p/namespaces/n/jobs"
MIB = 1024 * 1024


async def send(agent: Prime, method: str, path: str, data: bytes, **headers: str) -> tuple[int, str]:
    """(status, code) of a body of raw bytes."""
    named = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
    async with agent.client.request(method, path, data=io.BytesIO(data), headers=named) as response:
        return await refusal(response)


@in_loop
async def test_an_unknown_path_or_method_is_a_problem(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        assert await agent.refused("GET", "/api/v2/runs") == (404, "not_found")
        async with agent.client.delete("/api/v1/runs") as response:
            assert await refusal(response) == (405, "method_not_allowed")
            assert response.headers["Allow"] == "GET"
        assert await agent.refused("GET", "/healthz?nonsense=1") == (400, "invalid")


@in_loop
async def test_what_is_no_json_is_refused_with_its_place(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        for data in (b"", b"{", b"nonsense", b"\xff", b'{"plugins": [}', b'"\\ud800"', b"[" * 100_000):
            assert (await send(agent, "POST", "/api/v1/projects/p/plugins", data))[0] == 400, data[:20]
        path = "/api/v1/projects/p/plugins"
        async with agent.client.post(
            path, data=b'{\n "plugins": }', headers={"Content-Type": "application/json"}
        ) as got:
            answer = json.loads(await got.read())
        assert answer["code"] == "bad_json"
        assert [(one["file"], one["line"], one["column"]) for one in answer["problems"]] == [("body", 2, 13)]
        status, answer = await agent.call("POST", path, {"plugins": [{"path": "x", "yaml": 1}]})
        assert (status, answer["code"]) == (400, "invalid")
        assert "$.plugins[0].yaml" in answer["detail"]


@in_loop
async def test_only_json_is_taken(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        form = "application/x-www-form-urlencoded"
        assert await send(agent, "POST", JOBS, b"{}", Content_Type=form) == (415, "media_type")
        async with agent.client.post(f"{JOBS[:-4]}runs", data=b"{}", skip_auto_headers=["Content-Type"]) as response:
            assert await refusal(response) == (400, "invalid")  # no type at all is taken for JSON


@in_loop
async def test_p12_a_body_past_its_limit_is_refused_and_not_cut_off(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        large = json.dumps({"plugins": [{"path": "p.yaml", "yaml": "x" * 2 * MIB}]}).encode()
        assert await send(agent, "POST", "/api/v1/projects/p/plugins", large) == (413, "too_large")

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(large), 65536):
                yield large[at : at + 65536]

        headers = {"Content-Type": "application/json"}
        async with agent.client.post("/api/v1/projects/p/plugins", data=pieces(), headers=headers) as response:
            assert await refusal(response) == (413, "too_large")


@in_loop
async def test_p12_an_asset_of_50_mb_is_refused_and_says_what_is_too_large(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        assets = {"big.bin": base64.b64encode(bytes(50_000_000)).decode()}
        sent = {"specs": [{"path": "j/job.yaml", "yaml": job_yaml(), "assets": assets}]}
        headers = {"Content-Type": "application/json"}
        async with agent.client.post(JOBS, data=io.BytesIO(json.dumps(sent).encode()), headers=headers) as response:
            answer = await response.json(content_type=None)
        assert (response.status, answer["code"]) == (413, "too_large")
        assert "big.bin has 50000000 bytes" in answer["detail"]
        assert await send(agent, "POST", JOBS, bytes(100 * MIB)) == (413, "too_large")


@in_loop
async def test_p12_large_bodies_wait_for_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGE_WAIT_S", 0.01)
    monkeypatch.setattr(server, "LARGE_BODIES_MAX", 0)
    async with prime(tmp_path) as agent:
        data = json.dumps({"specs": [], "padding": "x" * 2 * MIB}).encode()
        assert await send(agent, "POST", JOBS, data) == (429, "overloaded")


@in_loop
async def test_p12_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "BODY_WAIT_S", 0.05)
    async with prime(tmp_path) as agent:
        url = agent.client.make_url("")
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{{"
        writer.write(head.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()


NO_REQUESTS = {
    "LineTooLong": b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "BadHttpMessage": b"GET / HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n",
    "InvalidURLError": b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


async def answered(agent: Prime, sent: bytes) -> tuple[int, Any]:
    """(status, JSON) of the answer to raw bytes."""
    url = agent.client.make_url("")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(sent)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r")[0])
    data = await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    assert "content-type: application/problem+json" in head
    return int(head.split()[1]), json.loads(data)


@pytest.mark.parametrize("error", NO_REQUESTS)
@in_loop
async def test_what_is_no_request_is_a_problem_and_one_line_in_the_log(
    tmp_path: Path, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with prime(tmp_path) as agent:
        with caplog.at_level(logging.INFO):
            status, problem = await answered(agent, NO_REQUESTS[error])
            await agent.ok("GET", "/healthz")
        assert (status, problem["status"], problem["code"]) == (400, 400, "bad_request")
        assert "x" * 100 not in problem["detail"]
        (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert (record.message, record.__dict__["error"]) == ("a request cannot be read", error)
        assert record.exc_info is None


@in_loop
async def test_a_body_that_does_not_unpack_is_a_problem_and_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with prime(tmp_path) as agent:
        with caplog.at_level(logging.INFO):
            assert await send(agent, "POST", JOBS, b"this is no gzip", Content_Encoding="gzip") == (400, "bad_body")
            await agent.ok("GET", "/healthz")
        (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert record.message == "a request cannot be read"
        assert record.exc_info is None


@in_loop
async def test_an_error_of_the_agents_own_keeps_its_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with prime(tmp_path) as agent:
        runner = Runner(web.Application())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()

        async def fail(*_: object) -> web.Response:
            raise RuntimeError("broken")

        assert runner.server is not None
        runner.server.request_handler = fail
        async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session, session.get("/") as response:
            assert await refusal(response) == (500, "internal")
        await runner.cleanup()
        (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
        assert record.exc_info is not None
        await agent.ok("GET", "/healthz")


@in_loop
async def test_p2_two_keys_of_one_request_are_refused(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        for second in ("a", "b"):
            headers = CIMultiDict([("Idempotency-Key", "a"), ("Idempotency-Key", second)])
            path = "/api/v1/projects/p/jobs/hello/runs"
            assert await agent.refused("POST", path, {}, headers=headers) == (400, "invalid")
        assert not agent.replica.table.rows.runs


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "127.8.9.10:80", "[::1]:9100", "prime.localhost"])
@in_loop
async def test_p8_loopback_names_are_answered(tmp_path: Path, host: str) -> None:
    async with prime(tmp_path) as agent:
        await agent.ok("GET", "/healthz", headers={"Host": host, "Origin": f"http://{host}"})


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.1:9100", "[::1", "localhost.evil.example", "", "0.0.0.0"])
@in_loop
async def test_p8_another_name_for_this_host_is_refused(tmp_path: Path, host: str) -> None:
    async with prime(tmp_path) as agent:
        for path in ("/api/v1/runs", "/metrics", "/nothing"):
            assert await agent.refused("GET", path, headers={"Host": host}) == (403, "foreign_host")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://[::1", "file://"])
@in_loop
async def test_p8_a_web_page_cannot_drive_the_agent(tmp_path: Path, origin: str) -> None:
    async with prime(tmp_path) as agent:
        path = "/api/v1/projects/p/jobs/j/runs"
        assert await agent.refused("POST", path, {}, headers={"Origin": origin}) == (403, "foreign_origin")


@in_loop
async def test_what_nobody_foresaw_is_logged_and_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with prime(tmp_path) as agent:
        broken: Any = object()
        agent.state.mirror = broken
        with caplog.at_level(logging.ERROR):
            status, answer = await agent.call("GET", "/api/v1/cluster")
        assert (status, answer["code"]) == (500, "internal")
        assert "attribute" not in answer["detail"]
        record = next(one for one in caplog.records if one.message == "a request failed")
        assert record.__dict__["request"] in answer["detail"]


@in_loop
async def test_p9_a_full_disk_says_so(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:

        def full(_file: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        agent.service.context.blobs._fsync = full
        sent = {"specs": [{"path": "j/job.yaml", "yaml": job_yaml()}]}
        assert await agent.refused("POST", JOBS, sent) == (507, "disk_full")


@in_loop
async def test_p9_a_damaged_history_is_no_missing_run(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        run = await agent.ended((await agent.submit())["id"])
        await agent.replica.history_settled()
        agent.replica.history._writer.execute("UPDATE finished_run SET record = x'00'")
        agent.replica.history._writer.commit()
        assert await agent.refused("GET", f"/api/v1/runs/{run['id']}") == (503, "store_failed")


@in_loop
async def test_p9_an_agent_whose_log_has_failed_says_so(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        task = agent.tasks.pop(0)
        agent.replica.driver.fail(OSError(errno.EIO, "Input/output error"))
        await asyncio.gather(task, return_exceptions=True)
        assert await agent.refused("POST", "/api/v1/projects/p/jobs/hello/runs", {}) == (503, "agent_stopped")


@in_loop
async def test_a_connection_can_be_used_again_after_a_refusal(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent, ClientSession(agent.client.make_url("")) as session:
        for _ in range(3):
            async with session.post(JOBS, json={"nonsense": 1}) as response:
                assert await refusal(response) == (400, "invalid")


def test_a_problem_says_when_to_come_again() -> None:
    assert problem(Refusal("overloaded", "later", 429, retry_after_s=0.2)).headers["Retry-After"] == "1"


# -- the words ---------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent.parent
PROMISE = re.compile(r"\(P\d+\)")


def told(tree: ast.AST) -> Iterator[ast.Constant]:
    """The texts in a module that may come before a user: neither what documents the code nor what an assertion says."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node
        yield from told(node)


def test_p11_no_text_for_users_names_a_promise_by_its_number() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{text.lineno}"
        for package in ("agent", "executors", "consensus", "transport")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "invariants.py"  # what they say is for who changes the code
        for text in told(ast.parse(path.read_text()))
        if PROMISE.search(str(text.value))
    ]
    assert found == []

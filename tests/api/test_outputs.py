"""Output is read where it is: on the disk, in the archive; and where it is nowhere, it is said why."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from agent.archiving import Fetched
from agent.housekeeping import Housekeeper, Output
from agent.runtable.model import Reason
from agent.store.archive import Archive
from executors.base import Stream
from tests.api.harness import AGENT, Prime, in_loop, job_yaml, prime
from tests.test_housekeeping import FOREVER, nobody_has_it

DAY_MS = 86_400_000


def housekeeper(agent: Prime, **keep: int) -> Housekeeper:
    output = Output(agent.face.archiver.configured, agent.face.archiver.kept, agent.face.removals)
    kept = replace(FOREVER, **keep)
    context = agent.service.context
    return Housekeeper(agent.replica, agent.worker, context.blobs, agent.logs, kept, nobody_has_it, output)


async def until(condition: Callable[[], object]) -> None:
    """Look again and again, as nothing tells of what is awaited; for a minute at most."""
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


def make_archive(root: Path) -> str:
    (root / "archive").mkdir(exist_ok=True)
    return f"file://{root}/archive"


async def archived(agent: Prime, count: int) -> None:
    """Run the archiver until so many outputs have been sent and none waits."""
    task = asyncio.create_task(agent.face.archiver.run_forever())
    try:
        await until(lambda: agent.face.archiver.sent_bytes and not agent.face.archiver.backlog)
        assert (await agent.face.archiver.state()).backlog == 0
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert (await agent.face.archiver.state()).outputs == count


async def finished(agent: Prime, *lines: str, name: str = "hello") -> str:
    """A run that has ended, with this output."""
    await agent.apply(name)
    run = await agent.ended((await agent.submit(name))["id"])
    with agent.logs.writer(run["id"], "container", 1) as writer:
        for number, line in enumerate(lines):
            stream = Stream.STDERR if line.startswith("!") else Stream.STDOUT
            writer.write(stream, f"{line}\n".encode(), (1_700_000_000 + number) * 10**9)
    return str(run["id"])


def logs(run_id: str, **query: object) -> str:
    return f"/api/v1/runs/{run_id}/instances/container/logs?" + "&".join(f"{k}={v}" for k, v in query.items())


async def text(agent: Prime, run_id: str, **query: object) -> str:
    async with agent.client.get(logs(run_id, **query)) as response:
        assert response.status == 200, await response.text()
        return await response.text()


@in_loop
async def test_what_left_the_disk_is_read_from_the_archive_with_every_filter(tmp_path: Path) -> None:
    async with prime(tmp_path, archive=make_archive(tmp_path)) as agent:
        run_id = await finished(agent, "one", "!two", "three")
        since = "2023-11-14T22:13:22Z"
        answers: list[dict[str, object]] = [{}, {"tail": 1}, {"stream": "stderr"}, {"since": since}, {"follow": "true"}]
        before = [await text(agent, run_id, **query) for query in answers]
        assert before[0].endswith("one\ntwo\nthree\n".replace("two", "!two"))
        await archived(agent, 1)
        await housekeeper(agent, log_ms=-DAY_MS).sweep(None)
        assert not agent.logs.directory(run_id, "container", 1).exists()
        assert [await text(agent, run_id, **query) for query in answers] == before


@in_loop
async def test_a_reader_goes_on_in_the_archive_where_it_was_on_the_disk(tmp_path: Path) -> None:
    async with prime(tmp_path, archive=make_archive(tmp_path)) as agent:
        run_id = await finished(agent, *(f"line {number}" for number in range(600)))
        await archived(agent, 1)
        events = {"Accept": "text/event-stream"}
        async with agent.client.get(logs(run_id), headers=events) as response:
            whole = await response.text()
        ids = [line[4:] for line in whole.splitlines() if line.startswith("id: ")]
        await housekeeper(agent, log_ms=-DAY_MS).sweep(None)
        async with agent.client.get(logs(run_id), headers={**events, "Last-Event-ID": ids[300]}) as response:
            rest = await response.text()
        assert [line[4:] for line in rest.splitlines() if line.startswith("id: ")] == ids[301:]


@in_loop
async def test_output_stays_on_the_disk_until_the_archive_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with prime(tmp_path, archive=f"file://{tmp_path}/archive") as agent:  # which is not mounted
        run_id = await finished(agent, "precious")
        archiver = agent.face.archiver
        task = asyncio.create_task(archiver.run_forever())
        await until(lambda: archiver.failures)
        await housekeeper(agent, log_ms=-DAY_MS, log_bytes=0).sweep(None)
        assert (await text(agent, run_id)).endswith("precious\n")
        assert "output is kept past its time: it is not archived" in caplog.text
        answer = await agent.ok("GET", f"/api/v1/cluster/agents/{AGENT}/archive")
        assert answer["backlog"] == 1
        assert "make it, or mount it" in answer["error"]
        make_archive(tmp_path)
        await until(lambda: not archiver.backlog)  # it is tried again by itself
        task.cancel()
        await asyncio.wait([task])
        await housekeeper(agent, log_ms=-DAY_MS).sweep(None)
        assert not agent.logs.directory(run_id, "container", 1).exists()
        assert (await text(agent, run_id)).endswith("precious\n")
        metrics = await (await agent.client.get("/metrics")).text()
        assert "prime_log_archive_backlog 0" in metrics
        assert "prime_log_archive_failures_total 0" not in metrics


@in_loop
async def test_removed_lost_never_captured_and_unreachable_are_told_apart(tmp_path: Path) -> None:
    url = make_archive(tmp_path)
    async with prime(tmp_path, archive=url) as agent:
        removed, lost = await finished(agent, "a", name="one"), await finished(agent, "b", name="two")
        agent.face.fetched._archive = None
        await housekeeper(agent).sweep(None)
        notes = agent.face.removals
        await archived(agent, 2)
        shutil.rmtree(tmp_path / "archive" / "cluster1")
        await housekeeper(agent, log_bytes=agent_bytes(tmp_path) - 1).sweep(None)  # the oldest goes
        assert notes.find(removed, "container", 1) is not None
        shutil.rmtree(agent.logs.directory(lost, "container", 1))
        assert await agent.refused("GET", logs(removed)) == (410, "output_removed")
        status, problem = await agent.call("GET", logs(removed))
        assert "removed by retention on 20" in problem["detail"]
        assert "this agent knows no archive" in problem["detail"]
        assert await agent.refused("GET", logs(lost)) == (410, "output_lost")
        agent.face.fetched._archive = Archive(url, "cluster1", 1)
        status, problem = await agent.call("GET", logs(lost))
        assert (status, problem["code"]) == (410, "output_lost")
        assert f"agent {AGENT}" in problem["detail"]
        assert "it is not in the archive" in problem["detail"]
        shutil.rmtree(tmp_path / "archive")
        status, problem = await agent.call("GET", logs(removed))
        assert (status, problem["code"]) == (503, "archive_unreachable")
        assert "It was archived before" in problem["detail"]
        assert "make it, or mount it" in problem["detail"]


def agent_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / "logs").rglob("*.log"))


@in_loop
async def test_what_never_began_has_no_output_and_what_was_lost_may_have_had_some(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        run_id = await finished(agent, "x")
        shutil.rmtree(agent.logs.directory(run_id, "container", 1))
        run = await agent.service.queries.run(run_id)
        attempt = run.instances[0].attempts[0]

        async def as_it_were(_run_id: str) -> object:
            return run

        agent.service.queries.run = as_it_were  # type: ignore[method-assign,assignment]
        for agent_id in (AGENT, "gone-1"):
            attempt.agent, attempt.started_at_ms, attempt.reason = agent_id, None, Reason.IMAGE
            assert await agent.refused("GET", logs(run_id)) == (404, "never_captured")
            attempt.reason = Reason.AGENT_LOST
            assert await agent.refused("GET", logs(run_id)) == (410, "output_lost")


@in_loop
async def test_retention_goes_by_the_job_then_the_project_then_the_agent(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        runs = {}
        for name, keep in (("long", "keep_logs: 2400h"), ("short", "keep_logs: 24h"), ("usual", "")):
            yaml = job_yaml(name) + (f"behavior: {{{keep}}}\n" if keep else "")
            spec = {"path": f"{name}/job.yaml", "yaml": yaml}
            await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})
            runs[name] = str((await agent.ended((await agent.submit(name))["id"]))["id"])
            aged(agent, runs[name], days=20)
        sweep = housekeeper(agent, log_ms=30 * DAY_MS).sweep
        await agent.replica.history_settled()
        await sweep(None)
        assert [name for name in runs if agent.logs.exists(runs[name], "container", 1)] == ["long", "usual"]
        assert (await agent.refused("PUT", "/api/v1/projects/p", {"config": {"logs.keep": "15d"}})) == (422, "invalid")
        await agent.ok("PUT", "/api/v1/projects/p", {"config": {"logs.keep": "240h"}})
        await sweep(None)
        assert [name for name in runs if agent.logs.exists(runs[name], "container", 1)] == ["long"]


def aged(agent: Prime, run_id: str, days: int) -> None:
    directory = agent.logs.directory(run_id, "container", 1)
    for path in directory.glob("*.log"):
        old_ns = path.stat().st_mtime_ns - days * DAY_MS * 10**6
        os.utime(path, ns=(old_ns, old_ns))


@in_loop
async def test_p12_copies_of_the_archive_are_bounded_and_what_is_read_stays(tmp_path: Path) -> None:
    url = make_archive(tmp_path)
    async with prime(tmp_path, archive=url) as agent:
        runs = [await finished(agent, "x" * 1000, name=f"job{number}") for number in range(3)]
        await archived(agent, 3)
        fetched = Fetched(Archive(url, "cluster1", 1), tmp_path / "copies", max_bytes=2500)
        async with fetched.opened((runs[0], "container", 1)) as first:
            assert first is not None
            for run_id in runs[1:] * 2:
                async with fetched.opened((run_id, "container", 1)) as other:
                    assert other is not None
                    assert (other / "000001.log").exists()
            assert (first / "000001.log").exists()
            assert len(list((tmp_path / "copies").iterdir())) == 2
        async with fetched.opened(("nobody", "container", 1)) as none:
            assert none is None


@in_loop
async def test_a_restart_finds_what_is_not_archived_and_leaves_what_runs(tmp_path: Path) -> None:
    url = make_archive(tmp_path)
    async with prime(tmp_path) as agent:
        await finished(agent, "from before")
    async with prime(tmp_path, archive=url) as agent:
        await agent.apply("running", MOCK_DURATION_MS="gate")
        running = str((await agent.submit("running"))["id"])
        await agent.running(running)
        await agent.until(lambda: agent.worker.knows_its_work)
        await archived(agent, 2)
        assert len(list((tmp_path / "archive").rglob("manifest.json"))) == 1
        assert not list((tmp_path / "archive").rglob(f"{running}*"))


@in_loop
async def test_an_attempt_that_never_began_is_no_backlog(tmp_path: Path) -> None:
    async with prime(tmp_path, archive=make_archive(tmp_path)) as agent:
        archiver = agent.face.archiver
        archiver.ended(("r1", "container", 1))
        archiver._closed = lambda *_key: True
        task = asyncio.create_task(archiver.run_forever())
        await until(lambda: not archiver.backlog)
        task.cancel()
        await asyncio.wait([task])
        assert archiver.failures == 0
        assert list((tmp_path / "archive").iterdir()) == []


@in_loop
async def test_an_agent_that_is_not_there_says_nothing_of_its_output(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        assert await agent.refused("GET", "/api/v1/cluster/agents/nobody/archive") == (404, "unknown_agent")
        rows = agent.replica.table.rows.agents
        rows["a2"] = structs.replace(rows[AGENT], id="a2", lost=True, node=2)
        assert await agent.refused("GET", "/api/v1/cluster/agents/a2/archive") == (409, "agent_away")
        del rows["a2"]

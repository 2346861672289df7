"""What is named by anything is kept; the rest goes when its time is over (P12)."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import housekeeping
from agent.housekeeping import Fetch, Housekeeper, Keep
from agent.store.blobs import YOUNG_MS
from agent.store.errors import BlobMissing, StoreError
from tests.api.harness import Prime, in_loop, job_yaml, prime

FOREVER = Keep(log_ms=2**50, log_bytes=2**50, history_ms=2**50, history_bytes=2**50)


async def nobody_has_it(_kind: str, digest: str) -> None:
    raise BlobMissing(f"blob {digest} is on no agent")


def housekeeper(agent: Prime, keep: Keep = FOREVER, fetch: Fetch = nobody_has_it) -> Housekeeper:
    return Housekeeper(agent.replica, agent.worker, agent.service.context.blobs, agent.logs, keep, fetch)


def blobs(root: Path) -> set[str]:
    return {path.name for path in (root / "blobs").rglob("*") if path.is_file()}


def grow_old(root: Path) -> None:
    """Make every blob older than what is kept for its youth alone."""
    for name in blobs(root):
        path = root / "blobs" / name[:2] / name
        old_ns = path.stat().st_mtime_ns - (YOUNG_MS + 1000) * 10**6
        os.utime(path, ns=(old_ns, old_ns))


async def three_kinds(agent: Prime) -> tuple[str, str]:
    """Blobs named by an applied job, by a run and by the history alone. Returns (running, finished) run."""
    for name, body, gate in (("finished", "b25l", "0"), ("running", "dHdv", "gate")):
        spec = {
            "path": f"{name}/job.yaml",
            "yaml": job_yaml(name, MOCK_DURATION_MS=gate),
            "assets": {"a.txt": body, "b.txt": "e3sgLkRTVEFSVCB9fQ=="},
        }
        await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})
    finished = await agent.ended((await agent.submit("finished"))["id"])
    await agent.ok("DELETE", "/api/v1/projects/p/namespaces/n/jobs/finished")
    running = await agent.submit("running")
    await agent.running(running["id"])
    await agent.replica.history_settled()
    return running["id"], finished["id"]


@in_loop
async def test_p12_blobs_that_nothing_names_are_removed_and_all_others_stay(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        running, finished = await three_kinds(agent)
        store = agent.service.context.blobs
        unnamed = store.put(b"nothing names it")
        before = blobs(tmp_path)
        await housekeeper(agent).sweep(None)
        assert blobs(tmp_path) == before  # it is young
        grow_old(tmp_path)
        await housekeeper(agent).sweep(None)
        gone = before - blobs(tmp_path)
        assert unnamed in gone
        assert len(gone) == 2  # that one, and the deleted job's own
        for run_id in (running, finished):
            run = await agent.service.queries.run(run_id)
            assert await agent.service.queries.assets(run_id)
            bundle = await agent.service.queries.bundle(run)
            assert all(store.has(digest) for digest in bundle.assets.values())
        await agent.submit("running")  # the applied job is whole


@in_loop
async def test_p12_what_only_pruned_history_named_goes_with_it(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        running, finished = await three_kinds(agent)
        grow_old(tmp_path)
        before = len(blobs(tmp_path))
        await housekeeper(agent, replace(FOREVER, history_bytes=0)).sweep(None)
        assert agent.replica.history.get(finished) is None
        assert len(blobs(tmp_path)) < before - 1
        run = await agent.service.queries.run(running)
        assert await agent.service.queries.assets(run.id)


@in_loop
async def test_p5_history_that_the_database_lacks_is_kept(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        _running, finished = await three_kinds(agent)
        keeper = housekeeper(agent, replace(FOREVER, history_ms=-1, history_bytes=0))
        await keeper.sweep((0, 0))
        assert agent.replica.history.get(finished) is not None
        await keeper.sweep(agent.replica.history.last())
        assert agent.replica.history.get(finished) is None


@in_loop
async def test_p12_old_logs_are_removed_and_not_those_being_written(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        running, finished = await three_kinds(agent)
        await housekeeper(agent).sweep(None)
        assert agent.logs.exists(finished, "container", 1)
        await housekeeper(agent, replace(FOREVER, log_bytes=-1)).sweep(None)
        assert not agent.logs.exists(finished, "container", 1)
        assert (tmp_path / "logs" / running / "container" / "1").is_dir()


@in_loop
async def test_a_missing_blob_stops_no_sweep(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with prime(tmp_path) as agent:
        await three_kinds(agent)
        job = agent.replica.table.rows.jobs["p"]["running"]
        (tmp_path / "blobs" / job.spec[:2] / job.spec).unlink()
        await housekeeper(agent).sweep(None)
        assert "a blob is missing" in caplog.messages


@in_loop
async def test_what_finished_runs_name_and_is_not_here_is_fetched_p1(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with prime(tmp_path) as agent:
        _running, finished = await three_kinds(agent)
        run = await agent.service.queries.run(finished)
        manifest = run.instances[0].attempts[0].compiled
        assert manifest is not None
        asset = next(iter((await agent.service.queries.bundle(run)).assets.values()))
        for lost in (manifest, asset):
            (tmp_path / "blobs" / lost[:2] / lost).unlink()
        asked: list[tuple[str, str]] = []

        async def fetch(kind: str, digest: str) -> None:
            asked.append((kind, digest))

        await housekeeper(agent, fetch=fetch).sweep(None)
        assert ("manifest", manifest) in asked
        assert ("bundle", run.bundle) in asked  # whole itself, but what it names is not
        assert "a blob is missing" not in caplog.messages


@in_loop
async def test_what_a_lacking_blob_may_name_is_not_removed_before_it_is_here_or_a_day_is_over_p1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prime(tmp_path) as agent:
        _running, finished = await three_kinds(agent)
        run = await agent.service.queries.run(finished)
        store = agent.service.context.blobs
        bundle = store.get(run.bundle)
        asset = next(iter((await agent.service.queries.bundle(run)).assets.values()))
        path = store.path(run.bundle)
        path.unlink()
        unnamed = store.put(b"nothing names it")
        grow_old(tmp_path)
        keeper = housekeeper(agent)
        before = blobs(tmp_path)
        await keeper.sweep(None)
        assert blobs(tmp_path) == before

        async def fetch(_kind: str, digest: str) -> None:
            assert digest == run.bundle
            path.write_bytes(bundle)

        await housekeeper(agent, fetch=fetch).sweep(None)
        assert unnamed not in blobs(tmp_path)
        assert asset in blobs(tmp_path)
        path.unlink()
        unnamed = store.put(b"nor this")
        grow_old(tmp_path)
        await keeper.sweep(None)
        assert unnamed in blobs(tmp_path)
        monkeypatch.setattr(housekeeping, "LACKING_S", 0.0)
        await keeper.sweep(None)
        assert unnamed not in blobs(tmp_path)


@in_loop
async def test_what_is_lacking_keeps_no_sweep_from_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "HEAL_S", 0.0)
    async with prime(tmp_path) as agent:
        await three_kinds(agent)
        job = agent.replica.table.rows.jobs["p"]["running"]
        (tmp_path / "blobs" / job.spec[:2] / job.spec).unlink()

        async def never(_kind: str, _digest: str) -> None:
            await asyncio.Event().wait()

        await housekeeper(agent, fetch=never).sweep(None)
        assert "more blobs are lacking than could be fetched now" in caplog.messages


@in_loop
async def test_p9_a_damaged_blob_that_names_others_keeps_everything_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prime(tmp_path) as agent:
        await three_kinds(agent)
        job = agent.replica.table.rows.jobs["p"]["running"]
        good = agent.service.context.blobs.get(job.spec)
        (tmp_path / "blobs" / job.spec[:2] / job.spec).write_bytes(b"changed")
        grow_old(tmp_path)
        before = blobs(tmp_path)
        monkeypatch.setattr(housekeeping, "LACKING_S", 0.0)  # of what is missing alone
        await housekeeper(agent).sweep(None)
        assert blobs(tmp_path) == before
        assert "a blob is damaged" in caplog.messages
        whole = agent.service.context.blobs

        async def mend(_kind: str, digest: str) -> None:
            assert digest == job.spec
            (tmp_path / "blobs" / job.spec[:2] / job.spec).write_bytes(good)

        await housekeeper(agent, fetch=mend).sweep(None)
        assert blobs(tmp_path) < before  # the other agents have mended it, and what nothing names has gone
        assert whole.get(job.spec) == good


@in_loop
async def test_it_sweeps_again_and_again_and_survives_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(housekeeping, "FIRST_S", 0.0)
    monkeypatch.setattr(housekeeping, "EVERY_S", 0.0)
    async with prime(tmp_path) as agent:
        await three_kinds(agent)
        swept = 0
        mended = asyncio.Event()
        prune = agent.replica.history.prune

        def pruning(*given: Any, **named: Any) -> int:
            if "housekeeping failed" not in caplog.messages:
                raise StoreError("the disk has failed once")
            return prune(*given, **named)

        monkeypatch.setattr(agent.replica.history, "prune", pruning)

        def mirrored() -> None:
            nonlocal swept
            swept += 1
            if "swept" in caplog.messages:
                mended.set()

        with caplog.at_level(logging.INFO):
            task = asyncio.create_task(housekeeper(agent).run_forever(mirrored))
            await mended.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert swept >= 3

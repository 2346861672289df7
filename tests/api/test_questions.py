"""What a user asks about runs over HTTP, and what an operator does to whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.api.harness import Prime, in_loop, job_yaml, prime
from tests.test_service import code

IMPORTED = "/api/v1/projects/p/jobs/elsewhere/imported"
TICK = "2026-03-02T00:00:00Z"
FAIL_HOOK = "hooks:\n  - name: container\n    executor: mock\n    hooktype: {kind}\n    config: {{IMAGE: none}}\n"


async def hooked(agent: Prime, kind: str, **config: str) -> str:
    """Ask for a run of a job with a hook of this kind; returns its id."""
    spec = {"path": "hello/job.yaml", "yaml": job_yaml(hooks=FAIL_HOOK.format(kind=kind), **config)}
    await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})
    run_id: str = (await agent.submit())["id"]
    return run_id


def states(run: Any) -> dict[str, str]:
    return {one["name"]: one["state"] for one in run["instances"]}


@in_loop
async def test_what_another_scheduler_ran_is_a_run_as_any_other(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        report = {"scheduled_at": TICK, "state": "failed"}
        done = await agent.ok("POST", IMPORTED, report, headers={"Prime-User": "airflow"})
        run = done["run"]
        assert (run["origin"], run["state"], run["instances"], run["requested_by"]) == (
            "external",
            "failed",
            [],
            "airflow",
        )
        assert (run["audit"][0]["what"], run["audit"][0]["address"]) == ("import failed", "127.0.0.1")
        again = await agent.ok("POST", IMPORTED, report)
        assert (again["run"]["id"], again["duplicate"], done["duplicate"]) == (run["id"], True, False)
        mended = await agent.ok("POST", IMPORTED, {**report, "state": "success"})
        assert mended["run"]["id"] != run["id"]
        listed = (await agent.ok("GET", "/api/v1/runs?origin=external&job=elsewhere"))["runs"]
        assert {one["id"] for one in listed} == {run["id"], mended["run"]["id"]}
        base = f"/api/v1/runs/{run['id']}"
        assert (await agent.ok("GET", base))["params"] == {}
        assert (await agent.ok("GET", f"{base}/explain"))["explanations"] == []
        assert (await agent.ok("GET", f"{base}/assets"))["assets"] == []
        for verb in ("retry", "clear"):
            assert await agent.refused("POST", f"{base}/{verb}") == (409, "external")
        assert await agent.refused("POST", f"{base}/mark", {"state": "success"}) == (409, "run_final")
        assert await agent.refused("GET", f"{base}/instances/x/logs") == (404, "unknown_instance")
        assert await agent.refused("GET", f"{base}/diff") == (404, "no_previous_run")
        told = await agent.ok("GET", f"{base}/diff?against={mended['run']['id']}")
        assert {"what": "state", "before": "success", "after": "failed"} in told["changes"]


@in_loop
async def test_what_is_no_report_is_refused_p11(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        report = {"scheduled_at": TICK, "state": "success"}
        assert await agent.refused("POST", IMPORTED.replace("/p/", "/q/"), report) == (404, "unknown_project")
        assert await agent.refused("POST", IMPORTED.replace("elsewhere", "a%20b"), report) == (422, "invalid_name")
        assert await agent.refused("POST", IMPORTED, {**report, "state": "running"}) == (400, "invalid")
        early = {**report, "scheduled_at": "1969-12-31T00:00:00Z"}
        assert await agent.refused("POST", IMPORTED, early) == (422, "invalid")


@in_loop
async def test_a_whole_run_is_marked_and_says_from_where(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        run_id = await hooked(agent, "post", MOCK_DURATION_MS="gate")
        await agent.running(run_id)
        base = f"/api/v1/runs/{run_id}"
        assert await agent.refused("POST", f"{base}/mark", {"state": "success", "instance": ""}) == (400, "invalid")
        unknown = {"state": "success", "instance": "x"}
        assert await agent.refused("POST", f"{base}/mark", unknown) == (404, "unknown_instance")
        await agent.ok("POST", f"{base}/mark", {"state": "success"}, headers={"Prime-User": "bert"})
        ended = await agent.ended(run_id)
        assert (ended["state"], states(ended)) == ("success", {"container": "success", "container-hook": "success"})
        (entry,) = ended["audit"]
        assert (entry["who"], entry["via"], entry["address"]) == ("bert", "agent-1", "127.0.0.1")
        assert entry["what"] == "mark all unfinished success"


@in_loop
async def test_the_task_alone_or_what_failed_is_cleared(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        run_id = await hooked(agent, "pre", MOCK_EXIT_CODE="1")
        assert states(await agent.ended(run_id)) == {"container-hook": "success", "container": "failed"}
        base = f"/api/v1/runs/{run_id}"

        async def cleared(body: dict[str, Any]) -> dict[str, int]:
            await agent.ok("POST", f"{base}/clear", body)
            ended = await agent.ended(run_id)
            return {one["name"]: len(one["attempts"]) for one in ended["instances"]}

        assert await cleared({"task": True}) == {"container-hook": 1, "container": 2}
        assert await cleared({"only_failed": True}) == {"container-hook": 1, "container": 3}
        only = {"instances": ["container-hook"], "only_failed": True}
        assert await agent.refused("POST", f"{base}/clear", only) == (409, "nothing_to_clear")
        more = {**only, "downstream": True}
        assert await cleared(more) == {"container-hook": 1, "container": 4}


@in_loop
async def test_a_job_that_nobody_knows_is_told_where_no_run_is_like_that(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        await agent.ended((await agent.submit())["id"])
        (note,) = (await agent.ok("GET", "/api/v1/runs?job=helo"))["notes"]
        assert note.startswith("there is no job 'helo', nor was one of that name ever run; did you mean 'hello'?")
        assert (await agent.ok("GET", "/api/v1/runs?job=hello&state=failed"))["notes"] == []
        assert "in project 'q'" in (await agent.ok("GET", "/api/v1/runs?job=hello&project=q"))["notes"][0]
        await agent.ok("DELETE", "/api/v1/projects/p/namespaces/n/jobs/hello")
        assert (await agent.ok("GET", "/api/v1/runs?job=hello&state=failed"))["notes"] == []  # it was run once


@in_loop
async def test_a_diff_has_params_and_output_and_tells_what_is_gone(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_OUTPUT="one")
        first = (await agent.ended((await agent.submit())["id"]))["id"]
        await agent.apply(MOCK_OUTPUT="two")
        second = (await agent.ended((await agent.submit())["id"]))["id"]
        base = f"/api/v1/runs/{second}/diff"
        told = await agent.ok("GET", base)
        assert told["against"] == first
        assert ("spec" in told["texts"], told["untold"]) == (True, {})
        assert told["texts"]["container/log"].endswith("-one\n+two")
        await agent.ok("POST", IMPORTED, {"scheduled_at": TICK, "state": "success"})
        for path in (tmp_path / "blobs").rglob("*"):
            if path.is_file():
                path.unlink()
        agent.service.context.provisioner._bundle.cache_clear()
        told = await agent.ok("GET", base)
        assert set(told["untold"]) == {"spec", "container/rendered"}
        assert (await agent.ok("GET", f"/api/v1/runs/{second}"))["params"] is None
        assert {one["what"] for one in told["changes"]} <= {"took_s", "container.took_s"}


@in_loop
async def test_the_run_before_is_none_that_was_only_reported(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        first = (await agent.ended((await agent.submit())["id"]))["id"]
        service = agent.service
        for number in range(25):  # more than are looked at at a time
            state = ("success", "failed")[number % 2]
            report = {"scheduled_at": TICK, "state": state}
            await agent.ok("POST", IMPORTED.replace("elsewhere", "hello"), report)
        second = (await agent.ended((await agent.submit())["id"]))["id"]
        assert (await service.queries.diff(second))["against"] == first
        assert await code(service.queries.diff(first)) == "no_previous_run"

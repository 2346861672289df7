"""Pipelines as users ask for them: which jobs, in which order, with what, and what is refused why (P11)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.service import pipelines as service
from tests.api.harness import Prime, in_loop, prime


def job(name: str, *upstream: str, more: str = "", **config: str) -> dict[str, str]:
    """A job on the mock engine that depends on these."""
    values = "".join(f", {key}: '{value}'" for key, value in config.items())
    lines = "".join(f"  - {{job: {one}}}\n" for one in upstream)
    text = (
        f"version: 2\nname: {name}\nowner: o\n{more}"
        f"task: {{name: container, executor: mock, config: {{IMAGE: none{values}}}}}\n"
    )
    return {"path": f"{name}/job.yaml", "yaml": text + (f"dependencies:\n{lines}" if lines else "")}


async def apply(agent: Prime, *specs: dict[str, str], project: str = "p") -> Any:
    at = f"/api/v1/projects/{project}/namespaces/n/jobs"
    return await agent.ok("POST", at, {"specs": list(specs)})


async def diamond(agent: Prime, **of_left: str) -> None:
    """top <- left, right <- bottom, and below it a job of another project."""
    await apply(agent, job("top"), job("left", "top", **of_left), job("right", "top"), job("bottom", "left", "right"))
    await apply(agent, job("report", "p/bottom"), project="q")


async def submitted(agent: Prime, name: str, scope: str, **more: object) -> Any:
    answer = await agent.ok("POST", f"/api/v1/projects/p/jobs/{name}/pipelines", {"scope": scope, **more})
    return answer["pipeline"]


async def ended(agent: Prime, pipeline: str) -> Any:
    found = (await agent.ok("GET", f"/api/v1/pipelines/{pipeline}/wait?timeout=30"))["pipeline"]
    return found["state"], {run["job"]: run["state"] for run in found["runs"]}


def jobs(found: Any) -> list[str]:
    return [run["job"] for run in found["runs"]]


# -- which jobs --------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_job_runs_with_those_around_it_in_order_across_projects(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await diamond(agent)
        whole = await submitted(agent, "left", "pipeline", scheduled_at="2026-03-01T00:00:00Z")
        assert jobs(whole) == ["top", "left", "bottom", "report"]
        assert {run["scheduled_at"] for run in whole["runs"]} == {"2026-03-01T00:00:00Z"}
        assert {(run["origin"], run["pipeline"]) for run in whole["runs"]} == {("pipeline", whole["id"])}
        assert await ended(agent, whole["id"]) == ("success", dict.fromkeys(jobs(whole), "success"))
        up = await submitted(agent, "bottom", "upstream")
        assert jobs(up)[0] == "top"
        assert set(jobs(up)) == {"top", "left", "right", "bottom"}
        down = await submitted(agent, "bottom", "downstream")
        assert jobs(down) == ["bottom", "report"]
        assert down["runs"][0]["gates"] == []  # what is not in the pipeline is not awaited
        for one in (up, down):
            assert (await ended(agent, one["id"]))[0] == "success"


@in_loop
async def test_config_and_params_are_the_asked_jobs_alone(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(
            agent,
            job("source", more="params: {day: {default: monday}}\n"),
            job("down", "source", more="params: {day: {}}\n", DAY="{{ .params.day }}"),
        )
        sent = {"params": {"day": "friday"}, "config": {"EXTRA": "1"}}
        found = await submitted(agent, "down", "upstream", **sent)
        assert (await ended(agent, found["id"]))[0] == "success"
        shown = [await agent.ok("GET", f"/api/v1/runs/{run['id']}/assets") for run in found["runs"]]
        envs = [one["assets"][0]["envs"] for one in shown]
        assert ["EXTRA" in one for one in envs] == [False, True]
        assert envs[1]["DAY"] == "friday"
        refused = await agent.call("POST", "/api/v1/projects/p/jobs/source/pipelines", {"scope": "downstream"})
        assert (refused[0], refused[1]["code"]) == (422, "params_invalid")
        assert refused[1]["detail"].startswith("job p/down: ")


@in_loop
async def test_an_upstream_that_is_not_applied_is_a_warning_at_apply_and_refused_in_a_pipeline(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        told = await apply(agent, job("down", "sorce"), job("source"))
        (warning,) = told["warnings"]
        assert warning["key"] == "dependencies[0].job"
        assert (warning["file"], warning["line"], warning["severity"]) == ("down/job.yaml", 6, "warning")
        assert "the job p/sorce is not applied" in warning["message"]
        at = "/api/v1/projects/p/jobs/down/pipelines"
        assert await agent.refused("POST", at, {"scope": "upstream"}) == (409, "missing_dependency")
        assert jobs(await submitted(agent, "down", "downstream")) == ["down"]
        graph = await agent.ok("GET", "/api/v1/projects/p/graph?job=down")
        assert [(one["id"], one["applied"]) for one in graph["nodes"]] == [("p/sorce", False), ("p/down", True)]


@in_loop
async def test_a_circle_is_refused_and_told_whole_at_its_place(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await diamond(agent)
        specs = {"specs": [job("other"), job("top", "other", "q/report")]}
        status, problem = await agent.call("POST", "/api/v1/projects/p/namespaces/n/jobs", specs)
        assert (status, problem["code"]) == (422, "spec_invalid")
        (found,) = problem["problems"]
        assert (found["file"], found["key"], found["line"]) == ("top/job.yaml", "dependencies[1].job", 7)
        assert "top -> q/report -> bottom -> left -> top" in found["message"]
        assert "other" not in agent.replica.table.rows.jobs["p"]


@in_loop
async def test_the_graph_tells_http_dependencies_and_goes_the_way_that_is_asked(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await diamond(agent)
        http = job("top")
        http["yaml"] += "dependencies: [{http: {name: ready, url: 'http://x'}}]\n"
        await apply(agent, http)

        async def ids(query: str, project: str = "p") -> list[str]:
            graph = await agent.ok("GET", f"/api/v1/projects/{project}/graph{query}")
            return [one["id"] for one in graph["nodes"]]

        ready = "http ready of p/top"
        assert await ids("?job=left&upstream=true") == [ready, "p/top", "p/left"]
        assert await ids("?job=left&downstream=true") == ["p/left", "p/bottom", "q/report"]
        assert await ids("?job=left") == [ready, "p/top", "p/left", "p/bottom", "q/report"]
        assert set(await ids("")) == {ready, "p/top", "p/left", "p/right", "p/bottom"}
        assert "p/top" in await ids("", "q")
        assert await agent.refused("GET", "/api/v1/projects/p/graph?job=lfet") == (404, "unknown_job")


@in_loop
async def test_a_pipeline_is_bounded_p12(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with prime(tmp_path) as agent:
        await diamond(agent)
        at = "/api/v1/projects/p/jobs/top/pipelines"
        monkeypatch.setattr(service, "COMMAND_BYTES_MAX", 100)
        assert await agent.refused("POST", at) == (413, "too_large")
        monkeypatch.setattr(service, "PIPELINE_RUNS_MAX", 4)
        assert await agent.refused("POST", at) == (413, "too_large")
        assert agent.replica.table.rows.runs == {}
        wrong = {"scope": "upstream", "check_dependencies": True}
        assert await agent.refused("POST", at, wrong) == (422, "invalid")


# -- what becomes of it ------------------------------------------------------------------------------------------------


@in_loop
async def test_the_same_request_gets_the_same_pipeline_p2(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await diamond(agent)
        at, key = "/api/v1/projects/p/jobs/top/pipelines", {"Idempotency-Key": "k"}
        first = await agent.ok("POST", at, {}, headers=key)
        again = await agent.ok("POST", at, {}, headers=key)
        assert (first["duplicate"], again["duplicate"]) == (False, True)
        assert first["pipeline"]["id"] == again["pipeline"]["id"]
        other = await agent.refused("POST", at, {"scope": "downstream"}, headers=key)
        assert other == (422, "idempotency_conflict")


@in_loop
async def test_what_failed_is_retried_without_what_succeeded_and_then_nothing_is_left_to_retry(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await diamond(agent, MOCK_EXIT_CODE="1")
        found = await submitted(agent, "bottom", "pipeline")
        failed = {"top": "success", "left": "failed", "right": "success"}
        expected = {**failed, "bottom": "upstream_failed", "report": "upstream_failed"}
        assert await ended(agent, found["id"]) == ("failed", expected)
        ids = {run["job"]: run["id"] for run in found["runs"]}
        told = await agent.ok("GET", f"/api/v1/runs/{ids['report']}/explain")
        assert told["explanations"][0]["why"] == f"not started: run {ids['bottom']} of p/bottom failed"

        retried = await agent.ok("POST", f"/api/v1/pipelines/{found['id'][:10]}/retry")
        assert retried["pipeline"]["id"] == found["id"]
        assert (await ended(agent, found["id"]))[0] == "failed"
        runs = (await agent.ok("GET", f"/api/v1/pipelines/{found['id']}"))["pipeline"]["runs"]
        assert {run["job"]: len(run["instances"][0]["attempts"]) for run in runs} == {
            **dict.fromkeys(["top", "right"], 1),
            "left": 2,
            **dict.fromkeys(["bottom", "report"], 0),
        }
        below = await agent.ok("POST", f"/api/v1/runs/{ids['bottom']}/retry", {"downstream": True})
        assert below["run"]["id"] == ids["bottom"]
        assert (await ended(agent, found["id"]))[1] == expected
        await agent.ok("POST", f"/api/v1/runs/{ids['left']}/retry", {"downstream": True})
        assert (await ended(agent, found["id"]))[1] == expected


@in_loop
async def test_a_pipeline_that_succeeded_has_nothing_to_retry_unless_all_of_it_is(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await diamond(agent)
        found = await submitted(agent, "bottom", "upstream")
        at = f"/api/v1/pipelines/{found['id']}"
        assert (await ended(agent, found["id"]))[0] == "success"
        assert await agent.refused("POST", f"{at}/retry") == (409, "nothing_to_retry")
        assert await agent.refused("POST", f"{at}/cancel") == (409, "pipeline_final")
        await agent.ok("POST", f"{at}/retry", {"only_failed": False})
        assert (await ended(agent, found["id"]))[0] == "success"


@in_loop
async def test_a_pipeline_is_cancelled_whole(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await diamond(agent, MOCK_DURATION_MS="gate")
        found = await submitted(agent, "bottom", "pipeline")
        ids = {run["job"]: run["id"] for run in found["runs"]}
        await agent.running(ids["left"])
        assert await agent.refused("POST", f"/api/v1/runs/{ids['left']}/retry", {"downstream": True}) == (
            409,
            "run_not_final",
        )
        told = await agent.ok("GET", f"/api/v1/runs/{ids['bottom']}/explain")
        assert told["gates"][0]["awaited"][0]["run"] in {ids["left"], ids["right"]}
        assert told["explanations"][0]["why"].startswith("waits for what its run waits for: ")
        cancelled = await agent.ok("POST", f"/api/v1/pipelines/{found['id']}/cancel")
        assert {run["state"] for run in cancelled["pipeline"]["runs"]} >= {"cancelled"}
        state, of_jobs = await ended(agent, found["id"])
        assert state == "cancelled"
        assert [of_jobs[one] for one in ("left", "bottom", "report")] == ["cancelled"] * 3
        again = await agent.ok("POST", f"/api/v1/runs/{ids['bottom']}/retry", {"downstream": True})
        assert again["run"]["state"] in {"queued", "upstream_failed"}
        assert (await ended(agent, found["id"]))[1]["report"] == "upstream_failed"


@in_loop
async def test_ids_of_pipelines_may_be_shortened_and_unknown_ones_are_told(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await diamond(agent)
        found = await submitted(agent, "bottom", "upstream")
        shown = await agent.ok("GET", f"/api/v1/pipelines/{found['id'][:8].upper()}")
        assert shown["pipeline"]["id"] == found["id"]
        for unknown in ("p-", "p-zzzzzz", "nothing"):
            assert await agent.refused("GET", f"/api/v1/pipelines/{unknown}") == (404, "unknown_pipeline")
        run = await agent.submit("top")
        assert await agent.refused("POST", f"/api/v1/runs/{run['id']}/retry", {"downstream": True}) == (
            409,
            "no_pipeline",
        )


# -- waiting for ticks -------------------------------------------------------------------------------------------------


@in_loop
async def test_a_manual_run_that_checks_its_dependencies_waits_for_the_ticks_of_its_window_r22(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        daily = "schedule: {start_date: 2022-01-01, interval: '0 22 * * *'}\n"
        down = job("down", "source", "q/elsewhere")
        down["yaml"] = down["yaml"].replace("task: {name: container", "task: {window: {size: 48h}, name: container")
        await apply(agent, job("source", more=daily), down)
        run = await agent.submit("down", {"scheduled_at": "2022-10-02T23:00:00Z", "check_dependencies": True})
        told = await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain")
        ticks = [[one["scheduled_at"] for one in gate["awaited"]] for gate in told["gates"]]
        assert ticks == [["2022-10-01T22:00:00Z", "2022-10-02T22:00:00Z"], ["2022-10-02T23:00:00Z"]]
        assert {one["state"] for gate in told["gates"] for one in gate["awaited"]} == {"missing"}
        assert all(gate["until"] is not None for gate in told["gates"])
        assert (await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel"))["run"]["state"] == "cancelled"


@in_loop
async def test_more_ticks_than_a_run_may_wait_for_and_an_odd_interval_are_refused(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        often = "schedule: {start_date: 2022-01-01, interval: '* * * * *'}\n"
        down = job("down", "source")
        down["yaml"] = down["yaml"].replace("task: {name: container", "task: {window: {size: 720h}, name: container")
        http = job("http")
        http["yaml"] += "dependencies: [{http: {name: ready, url: 'http://x'}}]\n"
        await apply(agent, job("source", more=often), down, http)
        status, problem = await agent.call("POST", "/api/v1/projects/p/jobs/down/runs", {"check_dependencies": True})
        assert (status, problem["code"]) == (422, "invalid")
        assert "more than 10000 ticks of source" in problem["detail"]
        await agent.ok("PUT", "/api/v1/projects/p", {"config": {"dependency.poke_interval": "often"}})
        at = "/api/v1/projects/p/jobs/http/runs"
        assert await agent.refused("POST", at, {"check_dependencies": True}) == (422, "invalid")

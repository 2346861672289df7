"""What is applied can be compiled, what is asked for can be run: each no has its place and what to do (P11)."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.service import catalog
from agent.spec import trial
from agent.spec.compile import Rendering, render_instance
from tests.api.harness import Prime, in_loop, job_yaml, prime

P = "/api/v1/projects/p"
JOBS = f"{P}/namespaces/n/jobs"


def spec(name: str = "hello", assets: dict[str, str] | None = None, **config: str) -> dict[str, Any]:
    encoded = {path: base64.b64encode(text.encode()).decode() for path, text in (assets or {}).items()}
    return {"path": f"n/{name}/job.yaml", "yaml": job_yaml(name, **config), "assets": encoded}


async def problems(agent: Prime, method: str, path: str, sent: object) -> dict[tuple[str, int, int, str], str]:
    """What a request is refused for: {(file, line, column, key): message}."""
    status, answer = await agent.call(method, path, sent)
    assert (status, answer["code"]) == (422, "spec_invalid"), answer
    return {(one["file"], one["line"], one["column"], one["key"]): one["message"] for one in answer["problems"]}


def with_executor(name: str, executor: str) -> dict[str, Any]:
    made = spec(name)
    return {**made, "yaml": made["yaml"].replace("executor: mock", f"executor: {executor}")}


# -- apply -------------------------------------------------------------------------------------------------------------


@in_loop
async def test_p11_what_cannot_be_compiled_is_not_applied_and_all_of_all_files_is_told(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        sent = [
            spec("one", GOOD="x", BAD="{{ .GLOBAL__nope }}"),
            spec("two", {"q.sql": "select\n{{ frobnicate 1 }}"}),
            {**spec("three"), "yaml": job_yaml("three").replace("owner:", "ownr:")},
            spec("good"),
        ]
        found = await problems(agent, "POST", JOBS, {"specs": sent})
        assert "GLOBAL__nope" in found["n/one/job.yaml", 10, 10, "task.config.BAD"]
        assert "frobnicate" in found["n/two/assets/q.sql", 2, 4, "frobnicate"]
        assert {"owner", "ownr"} <= {key for file, *_place, key in found if file == "n/three/job.yaml"}
        assert await agent.refused("GET", P) == (404, "unknown_project")
        assert not list((tmp_path / "blobs").glob("??/*"))


@in_loop
async def test_variables_of_project_and_namespace_are_those_of_the_trial(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        namespaces = {"n": {"config": {}, "variables": {"mine": "x"}}, "other": {"config": {}, "variables": {}}}
        await agent.ok("PUT", P, {"variables": {"ours": "x"}, "namespaces": namespaces})
        sent = {"specs": [spec(A="{{ .GLOBAL__ours }} {{ .proj.mine }}")]}
        assert (await agent.ok("POST", JOBS, sent))["warnings"] == []
        found = await problems(
            agent, "POST", f"{P}/namespaces/other/jobs", {"specs": [spec("second", A="{{ .proj.mine }}")]}
        )
        assert [key for *_place, key in found] == ["task.config.A"]


@in_loop
async def test_a_secret_that_is_not_set_yet_is_a_warning_when_a_job_is_applied_and_an_error_when_it_is_run(
    tmp_path: Path,
) -> None:
    async with prime(tmp_path) as agent:
        sent = {"specs": [spec("hello", {"q.sql": "{{ .secret.DB }}"}, A="{{ .secret.KEY }}")]}
        told = "there is no secret {0}; set it with: prime secret set {0}".format
        wanted = {
            ("n/hello/job.yaml", 9, 8, "task.config.A"): told("KEY"),
            ("n/hello/assets/q.sql", 1, 11, "secret.DB"): told("DB"),
        }
        warnings = (await agent.ok("POST", JOBS, sent))["warnings"]
        assert {one["severity"] for one in warnings} == {"warning"}
        assert {(w["file"], w["line"], w["column"], w["key"]): w["message"] for w in warnings} == wanted
        assert await problems(agent, "POST", f"{P}/jobs/hello/runs", {}) == wanted
        assert await problems(agent, "POST", f"{P}/namespaces/n/runs", {"spec": sent["specs"][0]}) == wanted
        assert not agent.replica.table.rows.runs
        for name in ("KEY", "DB"):
            await agent.ok("PUT", f"{P}/secrets/{name}", {"value": "x"})
        assert (await agent.ok("POST", JOBS, sent))["warnings"] == []
        assert (await agent.ended((await agent.submit())["id"]))["state"] == "success"


@in_loop
async def test_a_secret_that_has_gone_after_the_run_was_accepted_is_told_with_what_to_do(tmp_path: Path) -> None:
    async with prime(tmp_path, slots=1) as agent:
        await agent.ok("PUT", P, {})
        await agent.ok("PUT", f"{P}/secrets/KEY", {"value": "x"})
        await agent.ok("POST", JOBS, {"specs": [spec("first", MOCK_DURATION_MS="gate"), spec(A="{{ .secret.KEY }}")]})
        first = await agent.submit("first")
        name = await agent.running(first["id"])
        second = await agent.submit()
        await agent.ok("DELETE", f"{P}/secrets/KEY")
        agent.engine.release(name)
        ended = await agent.ended(second["id"])
        assert ended["instances"][0]["message"] == (
            "task.config.A: there is no secret KEY; set it with: prime secret set KEY"
        )


@in_loop
async def test_a_value_of_the_request_is_not_looked_for_in_the_file(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.ok("POST", JOBS, {"specs": [spec(A="x")]})
        sent = {"config": {"A": "{{ .secret.KEY }}", "NEW": "{{ .nope }}"}}
        found = await problems(agent, "POST", f"{P}/jobs/hello/runs", sent)
        assert {place[:3] for place in found} == {("n/hello/job.yaml", 8, 5)}  # where the task's config begins
        assert all("(the value is the request's)" in message for message in found.values())


@in_loop
async def test_a_job_is_tried_for_its_next_tick(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        daily = "schedule:\n  start_date: 2022-01-01\n  interval: '0 3 * * *'\n"
        at_three = '{{ if eq (slice .SCHEDULE_TIME 11 16) "03:00" }}{{ .nope }}{{ end }}'
        made = spec(A=at_three)
        yaml = made["yaml"].replace("version: 2", "version: 3")
        found = await problems(agent, "POST", JOBS, {"specs": [{**made, "yaml": yaml + daily}]})
        assert [key for *_place, key in found] == ["task.config.A"]


@in_loop
async def test_p12_many_jobs_are_tried_beside_the_event_loop_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prime(tmp_path) as agent:
        loop = asyncio.get_running_loop()
        threads: list[int] = []
        turns: list[int] = []  # of the event loop, by how many instances were tried before them

        def watched(*args: Any, **named: Any) -> Rendering:
            threads.append(threading.get_ident())
            loop.call_soon_threadsafe(lambda: turns.append(len(threads)))
            return render_instance(*args, **named)

        monkeypatch.setattr(trial, "render_instance", watched)
        count = 3 * catalog.JOBS_AT_A_TIME
        await agent.ok("POST", JOBS, {"specs": [spec(f"job-{n}", A="{{ .DEND }}") for n in range(count)]})
        assert len(threads) == count
        assert threading.get_ident() not in threads
        assert min(turns) <= catalog.JOBS_AT_A_TIME  # others had their turn before all was done


# -- executors ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_an_executor_that_no_agent_has_is_told_when_a_run_is_asked_for_and_explained(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        hook = "hooks:\n  - name: container\n    executor: mock\n    hooktype: post\n    config: {IMAGE: none}\n"
        made = with_executor("hello", "docker")
        await agent.ok("POST", JOBS, {"specs": [{**made, "yaml": made["yaml"] + hook}]})
        answer = await agent.ok("POST", f"{P}/jobs/hello/runs", {})
        (note,) = answer["notes"]
        assert note.startswith("no agent has the executor 'docker' ready (ready: mock): container waits until one has")
        explained = await agent.ok("GET", f"/api/v1/runs/{answer['run']['id']}/explain")
        assert "no agent has the executor 'docker'" in explained["explanations"][0]["why"]
        await agent.ok("POST", f"/api/v1/runs/{answer['run']['id']}/cancel", {})
        await agent.ok("POST", JOBS, {"specs": [spec("other")]})
        assert (await agent.ok("POST", f"{P}/jobs/other/runs", {}))["notes"] == []


@in_loop
async def test_an_executor_that_is_not_known_is_a_warning_with_its_place(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        sent = {"specs": [with_executor("one", "dokcer"), with_executor("two", "docker"), spec("three")]}
        (warning,) = (await agent.ok("POST", JOBS, sent))["warnings"]
        assert (warning["file"], warning["line"], warning["key"]) == ("n/one/job.yaml", 6, "task.executor")
        assert "did you mean 'docker'? Known: docker, mock, process" in warning["message"]

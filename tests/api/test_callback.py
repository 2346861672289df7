"""The callback listener: an attempt finds what it shall work with, and nobody else finds anything (P8)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.api.harness import CALLBACK_HOST, Prime, in_loop, job_yaml, prime, refusal

HOOK = (
    "hooks:\n  - name: container\n    executor: mock\n    hooktype: post\n"
    '    config: {IMAGE: none, MOCK_DURATION_MS: "gate"}\n'
)
AT = "2022-07-05T02:10:10Z"
SENT = {"scheduled_at": AT, "instance_name": "container", "instance_type": "TYPE_TASK"}
INPUT = "api/v1beta1/project/p/job/hello/run_input"
INSTANCE = "api/v1beta1/project/p/job/hello/instance"


async def waiting_run(agent: Prime, **more: str) -> tuple[Any, str]:
    """A run whose task waits at its gate, and the task's capability."""
    await agent.ok("PUT", "/api/v1/projects/p", {"variables": {"COLOUR": "red"}})
    await agent.ok("PUT", "/api/v1/projects/p/secrets/TOKEN", {"value": "s3cr3t"})
    spec = {
        "path": "job.yaml",
        "yaml": job_yaml(MOCK_DURATION_MS="gate", PASSWORD="{{ .secret.TOKEN }}", C="{{ .GLOBAL__COLOUR }}", **more),
        "assets": {"query.sql": "c2VsZWN0IHt7IC5EU1RBUlQgfX0=", "blob.bin": "/w=="},
    }
    await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})
    run = await agent.submit(sent={"scheduled_at": AT})
    return run, agent.worker.driven[await agent.running(run["id"])].capability


async def ask(agent: Prime, path: str, sent: object, **headers: str) -> Any:
    async with agent.callbacks.post(f"/{path}", json=sent, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def refused(agent: Prime, path: str, sent: object, **headers: str) -> tuple[int, str]:
    async with agent.callbacks.post(f"/{path}", json=sent, headers=headers) as response:
        return await refusal(response)


@in_loop
async def test_an_attempt_finds_its_environment_files_and_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with prime(tmp_path) as agent:
        with caplog.at_level(logging.DEBUG):
            run, capability = await waiting_run(agent)
            found = await ask(agent, f"{capability}/{INPUT}", SENT)
            context = (await ask(agent, f"{capability}/{INSTANCE}", SENT))["context"]
        assert found["secrets"] == {"PASSWORD": "s3cr3t"}
        assert "PASSWORD" not in found["envs"]
        assert found["files"]["query.sql"].startswith("select 2022-")
        assert found["files_base64"] == {"blob.bin": "/w=="}
        envs = found["envs"]
        assert (envs["C"], envs["JOB_NAME"], envs["JOB_DIR"], envs["INSTANCE_TYPE"]) == (
            "red",
            "hello",
            "/data",
            "task",
        )
        assert (envs["PRIME_RUN_ID"], envs["SCHEDULED_AT"]) == (run["id"], AT)
        assert envs["OPTIMUS_HOST"] == f"http://{CALLBACK_HOST}/{capability}"
        assert context["envs"] == {**envs, "PASSWORD": "s3cr3t"}
        name = await agent.running(run["id"])
        real = agent.engine._attempts[name].spec.environment
        assert context["envs"] == dict(real)
        logged = "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
        assert "s3cr3t" not in logged
        assert capability not in logged


@pytest.mark.parametrize("kind", ["TASK", "TYPE_TASK", "task", ""])
@in_loop
async def test_both_generations_of_paths_and_types_are_taken(tmp_path: Path, kind: str) -> None:
    async with prime(tmp_path) as agent:
        _run, capability = await waiting_run(agent)
        sent = {**SENT, "instance_type": kind, "of_another_generation": 1}
        await ask(agent, f"{capability}/{INPUT}", sent)
        await ask(agent, INPUT.replace("v1beta1", "v1"), sent, Authorization=f"Bearer {capability}")
        await ask(agent, INSTANCE.replace("v1beta1", "v1"), sent, **{"Prime-Capability": capability})
        form = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` says
        async with agent.callbacks.post(f"/{capability}/{INPUT}", data=b"{}", headers=form) as response:
            assert response.status == 200


@in_loop
async def test_p8_a_capability_opens_its_own_attempt_alone_and_only_while_it_runs(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        run, capability = await waiting_run(agent, hooks=HOOK)
        no = (403, "forbidden")
        for wrong in (
            {"instance_name": "other"},
            {"instance_type": "TYPE_HOOK"},
            {"instance_type": "nonsense"},
            {"scheduled_at": "2022-07-06T00:00:00Z"},
        ):
            assert await refused(agent, f"{capability}/{INPUT}", {**SENT, **wrong}) == no
        assert await refused(agent, f"{capability}/{INPUT.replace('hello', 'other')}", SENT) == no
        assert await refused(agent, f"{capability}/{INPUT.replace('project/p', 'project/q')}", SENT) == no
        for given in ("", capability[:-1], f"{capability}x", "\xff"):
            assert await refused(agent, INPUT, SENT, Authorization=f"Bearer {given}") == no
        agent.engine.release(await agent.running(run["id"]))
        hook = agent.worker.driven[await agent.running(run["id"], "container-hook")]
        assert await refused(agent, f"{capability}/{INPUT}", SENT) == no
        await ask(agent, f"{hook.capability}/{INPUT}", {**SENT, "instance_type": "TYPE_HOOK"})


@in_loop
async def test_p8_nothing_else_is_said_there(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        _run, capability = await waiting_run(agent)
        for method, path in (
            ("GET", "/"),
            ("GET", "/healthz"),
            ("GET", "/api/v1/runs"),
            ("GET", f"/{capability}/{INPUT}"),
            ("POST", f"/{capability}/api/v1beta1/project/p/job/hello"),
        ):
            async with agent.callbacks.request(method, path) as response:
                assert (response.status, await response.read()) == (404, b"")


@in_loop
async def test_what_cannot_be_read_or_compiled_is_refused(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        _run, capability = await waiting_run(agent)
        path = f"/{capability}/{INPUT}"
        for data, said in ((b"{", (400, "bad_json")), (b"[]", (400, "invalid")), (b"x" * 65537, (413, "too_large"))):
            async with agent.callbacks.post(path, data=data) as response:
                assert await refusal(response) == said
        await agent.ok("DELETE", "/api/v1/projects/p/secrets/TOKEN")
        assert await refused(agent, path[1:], SENT) == (409, "not_compilable")

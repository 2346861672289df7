"""The HTTP face against its own OpenAPI document: every route, data that fits and data that does not."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.api import routing
from agent.api.openapi import document
from agent.api.server import ROUTES
from tests.api.harness import in_loop, prime

CONFIG = """
[parameters]
run = "{run}"

# A number that the agent will never reach is a good `min_index`, and 504 its honest answer.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]

# A schema cannot say what makes a job valid.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404", "409", "410", "422", "504"]
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
@in_loop
async def test_every_route_keeps_to_its_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MIN_INDEX_WAIT_S", 0.02)
    async with prime(tmp_path / "agent") as agent:
        await agent.apply(MOCK_OUTPUT="out\n")
        run = await agent.ended((await agent.submit())["id"])
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIG.format(run=run["id"]))
        done = await asyncio.to_thread(_schemathesis, config, str(agent.client.make_url("/openapi.json")), tmp_path)
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]


def _schemathesis(config: Path, url: str, directory: Path) -> subprocess.CompletedProcess[str]:
    arguments = ["--config-file", str(config), "run", url, "--phases", "coverage,fuzzing", "--max-examples", "5"]
    arguments += ["--seed", "1", "--generation-database", "none", "--no-color", "--request-timeout", "10"]
    return subprocess.run(
        [str(Path(sys.executable).with_name("st")), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_every_operation_says_what_it_answers_and_how_it_refuses() -> None:
    made = document(ROUTES, "1")
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            good = [status for status in operation["responses"] if status.startswith("2")]
            assert len(good) == 1, (method, path)
            for status, response in operation["responses"].items():
                assert all(one["schema"] for one in response["content"].values()), (method, path, status)
            problem = operation["responses"]["500"]["content"]["application/problem+json"]
            assert problem["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
    assert len({one["operationId"] for all_ in made["paths"].values() for one in all_.values()}) == len(ROUTES)


def test_whatever_the_document_refers_to_is_there() -> None:
    made = document(ROUTES, "1")
    text = json.dumps(made)
    names = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', text))
    assert len(names) > 20
    assert names <= made["components"]["schemas"].keys()


@in_loop
async def test_what_watches_an_agent_may_ask_for_the_head_alone(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            async with agent.client.head(path) as response:
                assert response.status == 200
                assert await response.read() == b""

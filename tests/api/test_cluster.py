"""The cluster, health and metrics over HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from agent.api.cluster import silent_ms
from agent.cluster.steward import Contact, Seen
from agent.runtable import commands as c
from agent.store.database import MirrorStatus
from tests.api.harness import AGENT, Prime, in_loop, prime

CLUSTER = {"cluster", "generation", "leader", "term", "agents"}
AGENT_KEYS = {"id", "address", "role", "state", "epoch", "match", "lag", "version"}


@in_loop
async def test_the_cluster_has_the_documented_shape(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        agent.state.mirror = MirrorStatus((3, 0), 2, "no route to host")
        shown = await agent.ok("GET", "/api/v1/cluster")
        assert shown.keys() >= CLUSTER
        assert (shown["cluster"], shown["generation"], shown["leader"], shown["term"]) == ("cluster1", 1, AGENT, 2)
        (one,) = shown["agents"]
        assert one.keys() >= AGENT_KEYS
        assert (one["id"], one["role"], one["state"], one["lag"]) == (AGENT, "leader", "alive", 0)
        assert one["match"] == agent.replica.applied_index
        assert shown["mirror"] == {"behind": 2, "error": "no route to host"}


@in_loop
async def test_an_agent_says_whether_it_is_alive_and_ready_and_why_not(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        assert await agent.call("GET", "/readyz") == (200, {"status": "ready", "reason": None})
        agent.state.not_ready = "the log is being read"
        status, answer = await agent.call("GET", "/readyz")
        assert (status, answer["reason"]) == (503, "the log is being read")
        assert (await agent.call("GET", "/healthz"))[0] == 200


@in_loop
async def test_who_is_silent_for_long_and_not_lost_is_told_where_work_is_explained_p11(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:

        async def seen() -> Seen:
            return Seen(9, (Contact(1, 9, 2_500), Contact(7, 3, 9_000)))

        silent = replace(agent.face, seen=seen)
        assert await silent_ms(agent.face) == {}
        assert await silent_ms(silent) == {AGENT: 2_500}
        await agent.replica.propose(c.AgentLost(agent.replica.clock_ms(), AGENT, 1))
        assert await silent_ms(silent) == {}


async def metrics(agent: Prime) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    async with agent.client.get("/metrics") as response:
        assert response.status == 200
        families = list(text_string_to_metric_families(await response.text()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def of(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


@in_loop
async def test_what_has_happened_is_counted(tmp_path: Path) -> None:
    async with prime(tmp_path, slots=1) as agent:
        await agent.apply(MOCK_DURATION_MS="gate", MOCK_EXIT_CODE="1")
        first, second = await agent.submit(), await agent.submit()
        name = await agent.running(first["id"])
        await agent.refused("GET", "/a/path/of/nobody")
        found = await metrics(agent)
        assert found["prime_runs_unfinished", of(state="running")] == 1
        assert found["prime_runs_unfinished", of(state="queued")] == 1
        assert (found["prime_instances_ready", of()], found["prime_slots", of()]) == (1, 1)
        assert found["prime_applied_index", of()] == agent.replica.applied_index
        assert 0 < found["prime_table_bytes", of()] < found["prime_table_limit_bytes", of()]
        assert found["prime_log_fsync_duration_seconds_count", of()] > 3
        assert found["prime_http_requests_total", of(method="GET", route="unknown", status="404")] == 1
        route = "/api/v1/projects/{project}/jobs/{job}/runs"
        assert found["prime_http_requests_total", of(method="POST", route=route, status="202")] == 2
        assert ("process_cpu_seconds_total", of()) in found
        agent.engine.release(name)
        await agent.ended(first["id"])
        await agent.running(second["id"])
        agent.state.mirror = MirrorStatus(None, 1, None)
        found = await metrics(agent)
        assert found["prime_runs_finished_total", of(state="failed", reason="exit_code")] == 1
        assert found["prime_attempts_ended_total", of(executor="mock", reason="exit_code")] == 1
        assert found["prime_attempts_started_total", of()] == 2
        assert (found["prime_mirror_lag_runs", of()], found["prime_mirror_up", of()]) == (1, 1)

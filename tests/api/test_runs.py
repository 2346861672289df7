"""Runs over HTTP: asked for once, read from any agent, ended, explained."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agent.api import routing, sse
from tests.api.harness import AGENT, in_loop, job_yaml, prime

RUN_KEYS = {
    "id", "project", "namespace", "job", "scheduled_at", "origin", "requested_by", "state", "reason", "created_at",
    "finished_at", "instances",
}  # fmt: skip
ATTEMPT_KEYS = {"number", "agent", "state", "exit_code", "reason", "started_at", "finished_at"}
HOOK = "hooks:\n  - name: container\n    executor: mock\n    hooktype: post\n    config: {IMAGE: none}\n"
RUNS = "/api/v1/projects/p/jobs/hello/runs"


@in_loop
async def test_a_run_has_the_documented_shape(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(hooks=HOOK)
        run = await agent.ended((await agent.submit(sent={"scheduled_at": "2022-07-05T02:10:10Z"}))["id"])
        answer = await agent.ok("GET", f"/api/v1/runs/{run['id']}?consistent=true")
        shown = answer["run"]
        assert shown.keys() >= RUN_KEYS
        assert (shown["state"], shown["scheduled_at"], shown["origin"]) == ("success", "2022-07-05T02:10:10Z", "manual")
        assert [(one["type"], one["hook_type"]) for one in shown["instances"]] == [("task", None), ("hook", "post")]
        attempt = shown["instances"][0]["attempts"][0]
        assert attempt.keys() >= ATTEMPT_KEYS
        assert (attempt["number"], attempt["agent"], attempt["exit_code"]) == (1, AGENT, 0)
        assert answer["meta"] == {
            "agent": AGENT,
            "leader": AGENT,
            "applied_index": agent.replica.applied_index,
            "age_ms": 0,
        }


@in_loop
async def test_a_shortened_id_is_enough_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        run = await agent.submit()
        assert (await agent.ok("GET", f"/api/v1/runs/{run['id'][:8]}"))["run"]["id"] == run["id"]
        assert await agent.refused("GET", "/api/v1/runs/nothere0") == (404, "unknown_run")


@in_loop
async def test_p2_the_same_key_and_body_get_the_same_run(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        sent = {"scheduled_at": "2022-07-05T00:00:00Z", "config": {"A": "1"}}
        status, first = await agent.call("POST", RUNS, sent, headers={"Idempotency-Key": "k"})
        assert (status, first["duplicate"]) == (202, False)
        again = await agent.ok("POST", RUNS, sent, headers={"Idempotency-Key": "k"})
        assert (again["run"]["id"], again["duplicate"]) == (first["run"]["id"], True)
        other = await agent.submit(sent=sent, Idempotency_Key="other")
        assert other["id"] != first["run"]["id"]
        refused = await agent.refused("POST", RUNS, {}, headers={"Idempotency-Key": "k"})
        assert refused == (422, "idempotency_conflict")


@in_loop
async def test_p2_a_request_without_a_key_is_a_run_of_its_own(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        async with agent.client.post(RUNS) as response:  # no body either
            first = (await response.json())["run"]
        assert first["id"] != (await agent.submit())["id"]


@in_loop
async def test_p6_a_read_waits_for_the_index_of_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        answer = await agent.ok("POST", RUNS, {})
        for path in ("/api/v1/runs", f"/api/v1/runs/{answer['run']['id']}", "/api/v1/projects", "/api/v1/cluster"):
            meta = (await agent.ok("GET", f"{path}?min_index={answer['index']}")).get("meta")
            assert meta is None or meta["applied_index"] >= answer["index"]
        waiting = asyncio.create_task(agent.ok("GET", f"/api/v1/runs?min_index={agent.replica.applied_index + 40}"))
        while not waiting.done():
            await agent.apply()
        assert len(waiting.result()["runs"]) == 1
        monkeypatch.setattr(routing, "MIN_INDEX_WAIT_S", 0.01)
        refused = await agent.refused("GET", f"/api/v1/runs/{answer['run']['id']}?min_index=1000000")
        assert refused == (504, "not_applied_yet")


@in_loop
async def test_runs_are_listed_newest_first_in_pages_and_by_what_they_are(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        await agent.apply("other")
        ids = []
        for name in ("hello", "hello", "other"):
            ids.append((await agent.submit(name))["id"])
            await agent.ended(ids[-1])
        page = await agent.ok("GET", "/api/v1/runs?limit=2")
        assert [one["id"] for one in page["runs"]] == [ids[2], ids[1]]
        rest = await agent.ok("GET", f"/api/v1/runs?limit=2&cursor={page['next_cursor']}")
        assert ([one["id"] for one in rest["runs"]], rest["next_cursor"]) == ([ids[0]], None)
        for filters, count in {
            "job=other": 1, "project=p": 3, "namespace=x": 0, "state=success": 3, "origin=replay": 0,
            "since=2020-01-01T00:00:00Z": 3, "until=2020-01-01T00:00:00Z": 0, "job=null": 0,
        }.items():  # fmt: skip
            assert len((await agent.ok("GET", f"/api/v1/runs?{filters}"))["runs"]) == count, filters


@in_loop
async def test_p11_what_cannot_be_asked_for_says_why(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        run = await agent.submit()
        for query in ("limit=0", "limit=x", "since=yesterday", "cursor=", "nonsense=1", "limit=1&limit=2"):
            assert await agent.refused("GET", f"/api/v1/runs?{query}") == (400, "invalid"), query
        assert await agent.refused("GET", "/api/v1/runs?cursor=zzz") == (422, "invalid")
        assert await agent.refused("POST", RUNS, {"params": {"A": 1}}) == (422, "params_invalid")
        assert await agent.refused("POST", RUNS, {"config": {"no name": ""}}) == (422, "invalid")
        assert await agent.refused("POST", RUNS, {"scheduled_at": "2022-07-05"}) == (400, "invalid")
        assert await agent.refused("POST", RUNS, {"sheduled_at": None}) == (400, "invalid")
        assert await agent.refused("POST", "/api/v1/projects/p/jobs/helo/runs") == (404, "unknown_job")
        assert await agent.refused("POST", "/api/v1/projects/x/jobs/helo/runs") == (404, "unknown_project")
        for key in ("\xe4", "x" * 257):
            status, code = await agent.refused("POST", RUNS, {}, headers={"Idempotency-Key": key})
            assert (status in (400, 422), code) == (True, "invalid")
        await agent.ended(run["id"])
        assert await agent.refused("POST", f"/api/v1/runs/{run['id']}/cancel") == (409, "run_final")
        assert await agent.refused("POST", f"/api/v1/runs/{run['id']}/retry") == (409, "nothing_to_retry")
        mark = {"instance": "container", "state": "success"}
        assert await agent.refused("POST", f"/api/v1/runs/{run['id']}/mark", mark) == (409, "run_final")
        assert await agent.refused("GET", f"/api/v1/runs/{run['id']}/diff") == (404, "no_previous_run")


@in_loop
async def test_a_job_that_was_never_applied_can_be_run(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        spec = {"path": "job.yaml", "yaml": job_yaml(MOCK_EXIT_CODE="3"), "assets": {"query.sql": "c2VsZWN0IDE="}}
        path = "/api/v1/projects/new/namespaces/n/runs"
        run = (await agent.ok("POST", path, {"spec": spec}, headers={"Prime-User": "anna\x80 "}))["run"]
        assert run["requested_by"] == "anna"
        ended = await agent.ended(run["id"])
        assert (ended["state"], ended["instances"][0]["reason"]) == ("failed", "exit_code")
        assets = (await agent.ok("GET", f"/api/v1/runs/{run['id']}/assets"))["assets"]
        assert assets[0]["assets"] == {"query.sql": "select 1"}


@in_loop
async def test_a_running_run_is_cancelled_and_says_by_whom(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS="gate")
        run = await agent.submit(Prime_User="anna")
        await agent.running(run["id"])
        explained = await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain")
        assert "is running on" in explained["explanations"][0]["why"]
        short = run["id"][:6]
        await agent.ok("POST", f"/api/v1/runs/{short}/cancel", headers={"Prime-User": "bert"})
        ended = await agent.ended(run["id"])
        assert (ended["state"], ended["cancelled_by"], ended["requested_by"]) == ("cancelled", "bert", "anna")
        assert ended["audit"][0]["what"] == "cancel"


@in_loop
async def test_p4_retry_clear_and_mark_make_new_attempts_and_keep_the_old(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_EXIT_CODE="1")
        run = await agent.ended((await agent.submit())["id"])
        base = f"/api/v1/runs/{run['id']}"
        await agent.ok("POST", f"{base}/retry", {"only_failed": True})
        assert [one["number"] for one in (await agent.ended(run["id"]))["instances"][0]["attempts"]] == [1, 2]
        await agent.ok("POST", f"{base}/clear", {"instances": ["container"], "downstream": True})
        assert len((await agent.ended(run["id"]))["instances"][0]["attempts"]) == 3
        assert await agent.refused("POST", f"{base}/clear", {"instances": ["x"]}) == (404, "unknown_instance")
        await agent.apply(MOCK_DURATION_MS="gate")
        other = await agent.submit()
        await agent.running(other["id"])
        wrong = {"instance": "container", "state": "running"}
        assert await agent.refused("POST", f"/api/v1/runs/{other['id']}/mark", wrong) == (400, "invalid")
        await agent.ok("POST", f"/api/v1/runs/{other['id']}/mark", {"instance": "container", "state": "success"})
        marked = await agent.ended(other["id"])
        assert (marked["state"], marked["instances"][0]["reason"]) == ("success", "marked")
        changes = (await agent.ok("GET", f"/api/v1/runs/{other['id']}/diff?against={run['id']}"))["changes"]
        assert {"what": "state", "before": "failed", "after": "success"} in changes


async def events(response: Any) -> list[tuple[str, Any]]:
    """All (event, data) of a stream that ends."""
    blocks = (await response.text()).split("\n\n")
    lines = [dict(line.split(": ", 1) for line in block.split("\n") if ": " in line) for block in blocks]
    return [(one["event"], json.loads(one["data"])) for one in lines if "event" in one]


@in_loop
async def test_changes_of_a_run_are_sent_until_it_has_ended(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS="gate")
        run = await agent.submit()
        async with agent.client.get(f"/api/v1/runs/{run['id']}/events") as response:
            assert response.content_type == "text/event-stream"
            agent.engine.release(await agent.running(run["id"]))
            found = await events(response)
        states = [data["state"] for name, data in found if name == "run"]
        assert states == sorted(states, key=["queued", "running", "success"].index)
        assert found[-1] == ("end", {"state": "success"})


@in_loop
async def test_waiting_ends_with_the_run_or_the_time(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS="gate")
        run = await agent.submit()
        path = f"/api/v1/runs/{run['id']}/wait"
        assert (await agent.ok("GET", f"{path}?timeout=0.01"))["run"]["state"] in ("queued", "running")
        waiting = asyncio.create_task(agent.ok("GET", path))
        agent.engine.release(await agent.running(run["id"]))
        assert (await waiting)["run"]["state"] == "success"


@in_loop
async def test_p12_followers_are_bounded_and_let_go_when_the_agent_stops(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS="gate")
        run = await agent.submit()
        await agent.running(run["id"])
        assert agent.client.app is not None
        places = agent.client.app[sse.FOLLOWERS]
        places.places_max = 1
        path = f"/api/v1/runs/{run['id']}/events"
        async with agent.client.get(path) as response:
            await response.content.readany()
            assert await agent.refused("GET", path) == (429, "too_many_followers")
            waiting = asyncio.create_task(agent.refused("GET", f"/api/v1/runs/{run['id']}/wait"))
            waiters = agent.client.app[sse.WAITING]
            while not len(waiters):  # noqa: ASYNC110  there is nothing to await but the other task getting there
                await asyncio.sleep(0)
            await places.close(agent.client.app)
            await waiters.close(agent.client.app)
            assert await waiting == (503, "agent_stopped")
            with pytest.raises(Exception, match="not completed"):
                await response.read()
        assert not len(places)
        assert await agent.refused("GET", path) == (503, "agent_stopped")


LOOKS = (
    "hooks:\n  - name: container\n    executor: mock\n    hooktype: {kind}\n{more}"
    '    config: {{IMAGE: none, MOCK_EXIT_CODE: "{code}"}}\n'
)


@in_loop
async def test_a_hook_that_finds_nothing_to_do_skips_the_run(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(hooks=LOOKS.format(kind="pre", more="    skip_exit_code: [99]\n", code=99))
        run = await agent.ended((await agent.submit())["id"])
        assert (run["state"], run["reason"]) == ("skipped", None)
        assert [(one["name"], one["state"]) for one in run["instances"]] == [
            ("container-hook", "skipped"),
            ("container", "skipped"),
        ]
        hook = run["instances"][0]
        assert [(one["state"], one["exit_code"]) for one in hook["attempts"]] == [("skipped", 99)]
        assert run["instances"][1]["attempts"] == []
        shown = (await agent.ok("GET", f"/api/v1/runs/{run['id']}/explain"))["explanations"]
        assert [one["why"] for one in shown] == [
            "skipped: exit code 99 means that there was nothing to do",
            "skipped: container-hook was skipped",
        ]
        assert await agent.refused("POST", f"/api/v1/runs/{run['id']}/retry") == (409, "nothing_to_retry")


@in_loop
async def test_a_post_hook_with_a_rule_runs_after_a_failure_and_an_allowed_one_fails_nothing(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        more = "    trigger_rule: one_failed\n    allow_failure: true\n"
        await agent.apply(MOCK_EXIT_CODE="3", hooks=LOOKS.format(kind="post", more=more, code=0))
        run = await agent.ended((await agent.submit())["id"])
        assert [(one["name"], one["state"]) for one in run["instances"]] == [
            ("container", "failed"),
            ("container-hook", "success"),
        ]
        await agent.apply("allowed", hooks=LOOKS.format(kind="post", more="    allow_failure: true\n", code=4))
        run = await agent.ended((await agent.submit("allowed"))["id"])
        assert (run["state"], run["instances"][1]["state"]) == ("success", "failed")


@in_loop
async def test_a_retry_runs_again_what_was_skipped_for_a_failure(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        hooks = LOOKS.format(kind="post", more="    trigger_rule: none_skipped\n", code=0)
        await agent.apply(MOCK_EXIT_CODE="3", hooks=hooks.replace("none_skipped", "all_skipped"))
        run = await agent.ended((await agent.submit())["id"])
        assert [one["state"] for one in run["instances"]] == ["failed", "skipped"]
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/retry")
        run = await agent.ended(run["id"])
        assert run["audit"][-1]["what"] == "retry container container-hook"


@in_loop
async def test_a_cancelled_run_is_torn_down_and_a_cleared_one_set_up_again(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        plugin = (
            "name: {0}\nplugintype: hook\nhooktype: pre\nimage: none\npluginversion: v1\nentrypoint: {{script: x}}\n"
        )
        for name in ("make", "remove"):
            sent = {"plugins": [{"path": f"{name}.yaml", "yaml": plugin.format(name)}]}
            await agent.ok("POST", "/api/v1/projects/p/plugins", sent)
        hooks = "hooks:\n" + "".join(
            f"  - {{name: {name}, executor: mock, hooktype: {kind}}}\n"
            for name, kind in (("make", "setup"), ("remove", "teardown"))
        )
        await agent.apply(MOCK_DURATION_MS="gate", hooks=hooks)
        run = await agent.submit()
        await agent.running(run["id"])
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        run = await agent.ended(run["id"])
        assert run["state"] == "cancelled"
        states = {one["name"]: one["state"] for one in run["instances"]}
        assert states == {"make": "success", "container": "cancelled", "remove": "success"}
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/clear", {"instances": ["container"]})
        await agent.running(run["id"])
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel", {"teardown": True})
        run = await agent.ended(run["id"])
        attempts = {one["name"]: len(one["attempts"]) for one in run["instances"]}
        assert attempts == {"make": 2, "container": 2, "remove": 1}
        assert run["audit"][0]["what"] == "cancel"
        assert run["audit"][1]["what"] == "clear make container remove"
        assert run["audit"][2]["what"] == "cancel, with its teardown"


PARAMS = (
    "params:\n  day: {default: monday}\n  count: {type: integer}\n  share: {type: number, default: 0.5}\n"
    "  dry: {type: boolean, default: false}\n"
)
READS = "{{ .params.day }}/{{ .params.count }}/{{ .params.share }}/{{ if .params.dry }}dry{{ else }}wet{{ end }}"


@in_loop
async def test_a_run_has_the_params_it_is_given_and_the_defaults_of_the_others(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(SEEN=READS, hooks=PARAMS)
        for given, seen in (
            ({"count": 7}, "monday/7/0.5/wet"),
            ({"count": "8", "day": "a,b=c", "share": 2, "dry": True}, "a,b=c/8/2/dry"),
            ({"count": "-1", "share": "1e3", "dry": "true"}, "monday/-1/1000/dry"),
        ):
            run = await agent.ended((await agent.submit(sent={"params": given}))["id"])
            (shown,) = (await agent.ok("GET", f"/api/v1/runs/{run['id']}/assets"))["assets"]
            assert shown["envs"]["SEEN"] == seen
            assert shown["params"]["count"] == int(str(given["count"]))


@in_loop
async def test_params_that_do_not_fit_are_refused_all_at_once_p11(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(SEEN=READS, hooks=PARAMS)
        status, problem = await agent.call("POST", RUNS, {"params": {"daj": "x", "share": "half", "dry": 1}})
        assert (status, problem["code"]) == (422, "params_invalid")
        assert [(one["key"], one["message"]) for one in problem["problems"]] == [
            ("params.daj", "the job has no such parameter; did you mean 'day'? Known: count, day, dry, share"),
            ("params.share", "a number is expected, not 'half'"),
            ("params.dry", "true or false is expected, not 1"),
            ("params.count", "a whole number is required: the job gives no default"),
        ]
        assert await agent.refused("POST", RUNS) == (422, "params_invalid")


@in_loop
async def test_a_repeated_request_with_other_params_is_another_request_p2(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(SEEN=READS, hooks=PARAMS)
        first = await agent.submit(sent={"params": {"count": 1}}, **{"Idempotency-Key": "k"})
        again = await agent.submit(sent={"params": {"count": 1}}, **{"Idempotency-Key": "k"})
        assert first["id"] == again["id"]
        headers = {"Idempotency-Key": "k"}
        status, problem = await agent.call("POST", RUNS, {"params": {"count": 2}}, headers=headers)
        assert (status, problem["code"]) == (422, "idempotency_conflict")

"""Replays over HTTP: planned, run by the leader, looked at, ended and resumed."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent import replaying
from agent.replaying import proposals, ticks_after
from agent.runtable import commands as c
from agent.runtable.model import Limits
from agent.runtable.replay_rows import ReplayPlan
from tests.api.harness import Prime, in_loop, job_yaml, prime

REPLAYS = "/api/v1/replays"
PLANS = "/api/v1/replay-plans"
DAILY = "schedule: {start_date: 2024-01-01, end_date: 2024-03-01, interval: '0 2 * * *'}\n"


async def apply(agent: Prime, name: str = "daily", schedule: str = DAILY, more: str = "", **config: str) -> None:
    text = job_yaml(name, **config).replace("task:\n", "task:\n  window: {size: 24h}\n")
    spec = {"path": f"{name}/job.yaml", "yaml": text + schedule + more}
    await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})


def asked(start: str = "2024-01-01", end: str | None = "2024-01-03", **more: object) -> dict[str, Any]:
    return {"project": "p", "job": "daily", "start": start, "end": end, **more}


async def create(agent: Prime, sent: dict[str, Any] | None = None, **headers: str) -> Any:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return (await agent.ok("POST", REPLAYS, sent or asked(), headers=named))["replay"]


async def ended(agent: Prime, replay_id: str) -> Any:
    return (await agent.ok("GET", f"{REPLAYS}/{replay_id}/wait?timeout=30"))["replay"]


async def runs(agent: Prime, replay_id: str) -> list[Any]:
    found: list[Any] = (await agent.ok("GET", f"/api/v1/runs?replay={replay_id}&limit=1000"))["runs"]
    return found


@in_loop
async def test_each_tick_has_its_run_one_after_the_other(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent)
        made = await create(agent, Prime_User="anna")
        assert (made["state"], made["ticks"], made["requested_by"]) == ("running", 3, "anna")
        assert (made["start"], made["end"]) == ("2024-01-01T00:00:00Z", "2024-01-03T23:59:59.999000Z")
        done = await ended(agent, made["id"])
        assert (done["state"], done["counts"], done["made"]) == ("success", {"success": 3}, 3)
        assert (done["why"], done["runs"]) == ("all its ticks have been run", [])
        found = await runs(agent, made["id"][:8])
        assert [one["scheduled_at"] for one in found] == [f"2024-01-0{day}T02:00:00Z" for day in (3, 2, 1)]
        assert {(one["origin"], one["replay"], one["requested_by"]) for one in found} == {
            ("replay", made["id"], "anna")
        }
        times = [(one["created_at"], one["finished_at"]) for one in reversed(found)]
        assert all(before[1] <= after[0] for before, after in pairwise(times))
        listed = await agent.ok("GET", f"{REPLAYS}?project=p&job=daily&state=success")
        assert [one["id"] for one in listed["replays"]] == [made["id"]]
        assert (await agent.ok("GET", f"{REPLAYS}?project=q"))["replays"] == []
        assert "prime_replays_unfinished 0.0" in await (await agent.client.get("/metrics")).text()


@in_loop
async def test_the_config_and_params_of_a_replay_are_those_of_its_runs(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent, more="params: {LEVEL: {type: integer}}\n", A="old", B="{{ .params.LEVEL }}")
        assert await agent.refused("POST", REPLAYS, asked()) == (422, "params_invalid")
        made = await create(agent, asked(end=None, config={"A": "new"}, params={"LEVEL": 7}))
        await ended(agent, made["id"])
        (run,) = await runs(agent, made["id"])
        (assets,) = (await agent.ok("GET", f"/api/v1/runs/{run['id']}/assets"))["assets"]
        assert (assets["envs"]["A"], assets["envs"]["B"]) == ("new", "7")


@in_loop
async def test_a_plan_tells_each_tick_with_its_window_and_changes_nothing(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent)
        await ended(agent, (await create(agent, asked("2024-01-02", None)))["id"])
        before = agent.replica.table.dump()
        blobs = sorted((tmp_path / "blobs").rglob("*"))
        sent = asked(reprocess="none", reverse=True, config={"A": "other"})
        plan = await agent.ok("POST", PLANS, sent)
        assert [(one["scheduled_at"][:10], one["run"]) for one in plan["ticks"]] == [
            ("2024-01-03", True),
            ("2024-01-02", False),
            ("2024-01-01", True),
        ]
        assert (plan["total"], plan["refused"]) == (3, None)
        assert plan["ticks"][0]["window"] == {"start": "2024-01-02T02:00:00Z", "end": "2024-01-03T02:00:00Z"}
        assert plan["ticks"][0]["why"] == "it has no run"
        assert "ended success" in plan["ticks"][1]["why"]
        assert agent.replica.table.dump() == before
        assert sorted((tmp_path / "blobs").rglob("*")) == blobs


@in_loop
async def test_p11_what_cannot_be_replayed_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent, MOCK_DURATION_MS="gate")
        await apply(agent, "manual", "")
        await apply(agent, "often", "schedule: {start_date: 2024-01-01, interval: '@every 1s'}\n")
        await apply(agent, "open", "schedule: {start_date: 2024-01-01, interval: '@daily'}\n")
        for sent, expected in (
            (asked(job="nothing"), (404, "unknown_job")),
            (asked(job="manual"), (422, "no_schedule")),
            (asked("2023-12-31"), (422, "before_start")),
            (asked(end="2024-03-02"), (422, "after_end")),
            (asked(job="open", end="9000-01-01"), (422, "in_future")),
            (asked("2024-01-03", "2024-01-02"), (422, "invalid")),
            (asked("2024-01-01T00:00:00Z", None), (422, "no_ticks")),
            (asked(job="often", end="2024-02-20"), (422, "too_many_ticks")),
            (asked("2024-01-01T00:00:00"), (422, "invalid")),
            (asked("yesterday, please"), (422, "invalid")),
            (asked("2024-13-01"), (422, "invalid")),
            (asked("1969-01-01"), (422, "invalid")),
            (asked(end="9999-12-31"), (422, "invalid")),
            (asked(parallel=101), (400, "invalid")),
            (asked(reprocess="some"), (400, "invalid")),
        ):
            assert await agent.refused("POST", REPLAYS, sent) == expected, sent
            assert await agent.refused("POST", PLANS, sent) == expected, sent
        assert await agent.refused("GET", f"{REPLAYS}/r-nothing") == (404, "unknown_replay")
        assert await agent.refused("GET", f"{REPLAYS}/r-") == (404, "unknown_replay")
        assert await agent.refused("GET", "/api/v1/runs?replay=r-nothing") == (404, "unknown_replay")


@in_loop
async def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent, MOCK_DURATION_MS="gate")
        made = await create(agent)
        async with agent.client.post(REPLAYS, json=asked("2024-01-03")) as response:
            assert (response.status, made["id"] in (await response.json(content_type=None))["detail"]) == (409, True)
        assert await agent.refused("POST", REPLAYS, asked("2024-01-03")) == (409, "replay_overlap")
        plan = await agent.ok("POST", PLANS, asked("2024-01-03"))
        assert made["id"] in plan["refused"]
        run = await agent.submit("daily", {"scheduled_at": "2024-01-09T02:00:00Z"})
        assert await agent.refused("POST", REPLAYS, asked("2024-01-09", None)) == (409, "run_in_range")
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/cancel")
        await agent.ok("POST", f"{REPLAYS}/{made['id']}/cancel")


@in_loop
async def test_p2_the_same_key_gets_the_same_replay(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent)
        first = await agent.ok("POST", REPLAYS, asked(), headers={"Idempotency-Key": "k"})
        again = await agent.ok("POST", REPLAYS, asked(), headers={"Idempotency-Key": "k"})
        assert (first["duplicate"], again["duplicate"]) == (False, True)
        assert again["replay"]["id"] == first["replay"]["id"]
        refused = await agent.refused("POST", REPLAYS, asked("2024-01-05", None), headers={"Idempotency-Key": "k"})
        assert refused == (422, "idempotency_conflict")


@in_loop
async def test_its_runs_wait_for_what_the_job_depends_on_unless_they_are_told_not_to(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent, "upstream")
        await apply(agent, more="dependencies:\n  - job: upstream\n")
        made = await create(agent)
        assert made["check_dependencies"] is True
        shown = (await agent.ok("GET", f"{REPLAYS}/{made['id']}"))["replay"]
        while not shown["runs"]:
            await agent.apply("other")
            shown = (await agent.ok("GET", f"{REPLAYS}/{made['id']}"))["replay"]
        run = (await agent.ok("GET", f"/api/v1/runs/{shown['runs'][0]}"))["run"]
        assert (run["state"], [one["state"] for one in run["gates"]]) == ("queued", ["waiting"])
        await create(agent, asked(job="upstream"))
        assert (await ended(agent, made["id"]))["counts"] == {"success": 3}
        free = await create(agent, asked("2024-01-08", None, check_dependencies=False))
        assert (await ended(agent, free["id"]))["state"] == "success"


@in_loop
async def test_r24_it_is_cancelled_with_its_runs_and_resumed_where_it_was(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent, MOCK_DURATION_MS="gate")
        made = await create(agent, asked(parallel=2))
        await agent.until(lambda: len(agent.worker.driven) == 2)
        shown = (await agent.ok("GET", f"{REPLAYS}/{made['id']}"))["replay"]
        assert len(shown["runs"]) == 2
        assert shown["why"].startswith("waits for runs ")
        assert await agent.refused("POST", f"{REPLAYS}/{made['id']}/resume") == (409, "replay_not_final")
        await agent.ok("POST", f"{REPLAYS}/{made['id'][:7]}/cancel", headers={"Prime-User": "bert"})
        done = await ended(agent, made["id"])
        assert (done["state"], done["counts"], done["cancelled_by"]) == ("cancelled", {"cancelled": 2}, "bert")
        assert await agent.refused("POST", f"{REPLAYS}/{made['id']}/cancel") == (409, "replay_final")
        await agent.ok("POST", f"{REPLAYS}/{made['id']}/resume")
        await agent.until(lambda: len(agent.worker.driven) == 2)
        assert (await agent.ok("GET", f"{REPLAYS}/{made['id']}"))["replay"]["round"] == 2
        await agent.ok("POST", f"{REPLAYS}/{made['id']}/cancel")
        assert [one["what"] for one in (await ended(agent, made["id"]))["audit"]] == [
            "create", "cancel", "resume", "cancel"
        ]  # fmt: skip


@in_loop
async def test_what_has_failed_is_run_again_by_a_resume_that_says_so(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent, MOCK_EXIT_CODE="3")
        made = await create(agent)
        assert (await ended(agent, made["id"]))["counts"] == {"failed": 3}
        assert await agent.refused("POST", f"{REPLAYS}/{made['id']}/resume") == (409, "nothing_to_resume")
        await agent.ok("POST", f"{REPLAYS}/{made['id']}/resume", {"failed": True})
        done = await ended(agent, made["id"])
        assert (done["state"], done["counts"], done["made"], done["round"]) == ("failed", {"failed": 3}, 3, 2)
        assert len(await runs(agent, made["id"])) == 6
        page = await agent.ok("GET", f"/api/v1/runs?replay={made['id']}&limit=4")
        rest = await agent.ok("GET", f"/api/v1/runs?replay={made['id']}&cursor={page['next_cursor']}")
        assert (len(page["runs"]), len(rest["runs"]), rest["next_cursor"]) == (4, 2, None)
        assert (await agent.ok("GET", f"/api/v1/runs?replay={made['id']}&job=other"))["runs"] == []


@in_loop
async def test_a_full_table_delays_a_replay_and_the_leader_asks_again(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent)
        now_ms = agent.replica.clock_ms()
        await agent.replica.propose(c.SetLimits(now_ms, Limits(runs_max=0)))
        made = await create(agent)
        shown = (await agent.ok("GET", f"{REPLAYS}/{made['id']}"))["replay"]
        assert shown["why"] == "waits for room in the run table, which is full"
        await agent.replica.propose(c.SetLimits(now_ms, Limits()))
        assert (await ended(agent, made["id"]))["state"] == "success"


class Heard(logging.Handler):
    """What was logged, as events."""

    def __init__(self) -> None:
        super().__init__()
        self._events: dict[str, asyncio.Event] = {}

    def event(self, message: str) -> asyncio.Event:
        """Set once that was logged."""
        return self._events.setdefault(message, asyncio.Event())

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self.event(record.getMessage()).set()


@in_loop
async def test_a_leader_whose_word_is_not_taken_says_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "REFUSED_WAIT_S", 0.01)
    heard = Heard()
    monkeypatch.setattr(replaying.log, "handlers", [heard])
    async with prime(tmp_path) as agent:
        await apply(agent)
        now_ms = agent.replica.clock_ms()
        await agent.replica.propose(c.SetLimits(now_ms, Limits(runs_max=0)))
        made = await create(agent, asked("2024-01-01", "2024-01-20", parallel=3, reverse=True))
        await heard.event("a replay's run was not accepted").wait()
        agent.replica.hold("held by a test")
        await heard.event("a replay's ticks were not taken").wait()
        agent.replica.hold(None)
        await agent.replica.propose(c.SetLimits(now_ms, Limits()))
        assert (await ended(agent, made["id"]))["counts"] == {"success": 20}
        assert proposals(agent.replica.table, 0) == []


@in_loop
async def test_the_last_day_is_as_much_of_it_as_there_is(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await apply(agent, schedule=DAILY.replace("0 2", "0 0"))
        await apply(agent, "open", "schedule: {start_date: 2024-01-01, interval: '@every 24h'}\n")
        plan = await agent.ok("POST", PLANS, asked("2024-02-29", "2024-03-01"))
        assert [one["scheduled_at"][:10] for one in plan["ticks"]] == ["2024-02-29", "2024-03-01"]
        now = datetime.fromtimestamp(agent.replica.clock_ms() / 1000, UTC)
        plan = await agent.ok("POST", PLANS, asked(now.date().isoformat(), None, job="open"))
        assert [one["scheduled_at"][:10] for one in plan["ticks"]] == [now.date().isoformat()]
        later = (now + timedelta(hours=1)).isoformat()
        refused = await agent.refused("POST", PLANS, asked("2024-02-29", later, job="open"))
        assert refused == (422, "in_future")


def test_the_ticks_after_a_cursor_are_those_that_follow_it_in_its_direction() -> None:
    minute = 60_000
    plan = ReplayPlan("p", "j", b"", "", "* * * * *", "UTC", "", 0, 3 * minute)
    assert list(ticks_after(plan, None)) == [0, minute, 2 * minute, 3 * minute]
    assert list(ticks_after(plan, minute)) == [2 * minute, 3 * minute]
    back = ReplayPlan("p", "j", b"", "", "* * * * *", "UTC", "", 0, 3 * minute, reverse=True)
    assert next(iter(ticks_after(back, None))) == 3 * minute
    assert list(ticks_after(back, minute)) == [0]

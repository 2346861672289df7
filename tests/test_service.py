"""The use cases below every face: what they refuse, and why (P11)."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.errors import Refusal
from agent.runtable import commands as c
from agent.runtable.model import Limits
from agent.service import Caller, JobFile, RunRequest
from agent.service.runs import limits_of
from agent.spec import limits
from agent.spec.jobspec import BehaviorSpec, Overlap
from agent.store.history import RunFilter
from tests.api.harness import Prime, in_loop, job_yaml, prime

CALLER = Caller(name="anna")
PRE_HOOK = "hooks:\n  - name: container\n    executor: mock\n    hooktype: pre\n    config: {IMAGE: none}\n"


async def refused(work: Any) -> Refusal:
    """What a use case was refused with."""
    with pytest.raises(Refusal) as found:
        await work
    assert found.value.message
    return found.value


async def code(work: Any) -> str:
    return (await refused(work)).code


def file(name: str = "hello", text: str | None = None, **config: str) -> JobFile:
    return JobFile(f"{name}/job.yaml", text if text is not None else job_yaml(name, **config))


async def with_hooks(agent: Prime, **config: str) -> str:
    """A run that has ended, of a job with a hook before its task; returns its id."""
    accepted = await agent.service.runs.submit_file(
        "p", "n", file(text=job_yaml(hooks=PRE_HOOK, **config)), RunRequest(), CALLER
    )
    assert accepted.run is not None
    await agent.ended(accepted.run.id)
    return accepted.run.id


# -- operators ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_p4_what_has_succeeded_is_not_retried_unless_all_of_it_is(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        runs = agent.service.runs
        run_id = await with_hooks(agent)
        assert await code(runs.retry(run_id, CALLER)) == "nothing_to_retry"
        accepted = await runs.retry(run_id[:8], CALLER, only_failed=False)
        assert set(accepted.names) == {"container", "container-hook"}
        ended = await agent.ended(run_id)
        assert [len(one["attempts"]) for one in ended["instances"]] == [2, 2]


@in_loop
async def test_clearing_takes_what_comes_after_only_where_asked(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        runs = agent.service.runs
        run_id = await with_hooks(agent)
        assert (await runs.clear(run_id, CALLER, instances=["container-hook"])).names == ("container-hook",)
        await agent.ended(run_id)
        accepted = await runs.clear(run_id, CALLER, instances=["container-hook"], downstream=True)
        assert set(accepted.names) == {"container-hook", "container"}
        await agent.ended(run_id)
        assert set((await runs.clear(run_id, CALLER)).names) == {"container-hook", "container"}
        ended = await agent.ended(run_id)
        assert [entry["what"].split()[0] for entry in ended["audit"]] == ["clear"] * 3
        unknown = await refused(runs.clear(run_id, CALLER, instances=["nothing"]))
        assert (unknown.code, unknown.status) == ("unknown_instance", 404)
        assert "container-hook" in unknown.message


@in_loop
async def test_what_has_not_ended_is_not_retried_and_what_has_is_not_stopped(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        runs = agent.service.runs
        await agent.apply(MOCK_DURATION_MS="gate")
        run_id = (await agent.submit())["id"]
        name = await agent.running(run_id)
        assert await code(runs.retry(run_id, CALLER)) == "run_not_final"
        assert (await refused(runs.mark(run_id, "container", "running", CALLER))).status == 422
        assert await code(runs.mark(run_id, "nothing", "success", CALLER)) == "unknown_instance"
        agent.engine.release(name)
        await agent.ended(run_id)
        assert await code(runs.cancel(run_id, CALLER)) == "run_final"
        assert await code(runs.mark(run_id, "container", "failed", CALLER)) == "run_final"


@in_loop
async def test_a_shortened_id_is_enough_for_every_operator(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        runs = agent.service.runs
        await agent.apply(MOCK_DURATION_MS="gate")
        for state in ("cancelled", "failed"):
            run_id = (await agent.submit())["id"]
            await agent.running(run_id)
            short = run_id[:8]
            accepted = await (
                runs.cancel(short, CALLER) if state == "cancelled" else runs.mark(short, "container", state, CALLER)
            )
            assert accepted.run is not None
            assert accepted.run.id == run_id
            assert (await agent.ended(run_id))["state"] == state


# -- submitting --------------------------------------------------------------------------------------------------------


@in_loop
async def test_p12_a_full_table_asks_the_client_to_come_again(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply(MOCK_DURATION_MS="gate")
        await agent.replica.propose(c.SetLimits(agent.replica.clock_ms(), Limits(runs_max=1)))
        await agent.submit()
        full = await refused(agent.service.runs.submit("p", "hello", RunRequest(), CALLER))
        assert (full.code, full.status, full.retry_after_s) == ("table_full", 429, 5)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (RunRequest(key="k" * 257), "at most 256 characters"),
        (RunRequest(config={"no name": "x"}), "no name for a config value"),
        (RunRequest(scheduled_at=datetime(1969, 12, 31, tzinfo=UTC)), "1970 to 9999"),
    ],
)
@in_loop
async def test_a_request_that_makes_no_sense_is_refused(tmp_path: Path, request_: RunRequest, said: str) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply()
        no = await refused(agent.service.runs.submit("p", "hello", request_, CALLER))
        assert (no.code, no.status) == ("invalid", 422)
        assert said in no.message


@in_loop
async def test_p11_a_job_that_cannot_be_compiled_is_refused_before_it_is_accepted(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.service.catalog.put_jobs("p", "n", [file(PASSWORD="{{ .secret.MISSING }}")])
        no = await refused(agent.service.runs.submit("p", "hello", RunRequest(), CALLER))
        assert (no.code, no.status) == ("spec_invalid", 422)
        assert "MISSING" in no.message
        assert not agent.replica.table.rows.runs


@in_loop
async def test_a_stand_in_for_an_absent_executor_is_told(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        service = agent.service
        service.runs._context = replace(service.context, fallback={"docker": "mock"})
        text = job_yaml(IMAGE="none").replace("executor: mock", "executor: docker")
        accepted = await service.runs.submit_file("new", "n", file(text=text), RunRequest(), CALLER)
        assert accepted.notes == ("executor docker is not there: mock stands in",)
        assert accepted.run is not None
        assert accepted.run.instances[0].plan.executor == "mock"
        assert "n" in service.catalog.project("new").namespaces


# -- the catalog -------------------------------------------------------------------------------------------------------


@in_loop
async def test_names_that_are_none_are_refused(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        catalog = agent.service.catalog
        await catalog.put_project("p")
        for work in (
            catalog.put_project("a/b"),
            catalog.put_jobs("p", "-n", [file()]),
            catalog.put_jobs("", "n", [file()]),
            catalog.put_secret("p", "a b", "A", "x"),
            catalog.put_secret("p", "", "1A", "x"),
            agent.service.runs.submit_file("p", "a/b", file(), RunRequest(), CALLER),
        ):
            assert await code(work) == "invalid_name"
        assert await code(catalog.put_secret("p", "", "A", "x" * 65537)) == "too_large"
        assert await code(catalog.put_secret("q", "", "A", "x")) == "unknown_project"
        assert await code(catalog.delete_secret("p", "", "A")) == "unknown_secret"


@in_loop
async def test_a_job_has_one_name_and_one_namespace(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        catalog = agent.service.catalog
        twice = await refused(catalog.put_jobs("p", "n", [file(), replace(file(), path="other.yaml")]))
        assert (twice.code, twice.status) == ("spec_invalid", 422)
        assert "'hello' is used by two" in twice.message
        await catalog.put_jobs("p", "n", [file()])
        moved = await refused(catalog.put_jobs("p", "m", [file()]))
        assert (moved.code, moved.status) == ("job_elsewhere", 409)
        assert await code(catalog.delete_job("p", "m", "hello")) == "unknown_job"
        near = await refused(agent.service.runs.submit("p", "helo", RunRequest(), CALLER))
        assert "hello" in near.message
        assert list(catalog.jobs("p", "n")) == ["hello"]
        assert catalog.jobs("p", "m") == {}


@in_loop
async def test_p12_assets_are_bounded_one_by_one_and_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ASSET_BYTES_MAX", 10)
    monkeypatch.setattr(limits, "JOB_ASSETS_BYTES_MAX", 15)
    async with prime(tmp_path) as agent:
        for assets, wanted in (
            ({"a": b"x" * 11}, "too_large"),
            ({"a": b"x" * 8, "b": b"x" * 8}, "too_large"),
            ({"../a": b""}, "invalid_path"),
            ({"/a": b""}, "invalid_path"),
        ):
            assert await code(agent.service.catalog.put_jobs("p", "n", [replace(file(), assets=assets)])) == wanted
        assert "p" not in agent.service.catalog.projects()


@pytest.mark.parametrize(
    ("assets", "said"),
    [
        ({"a": b"", "a/b": b""}, "'a/b' needs a folder where 'a' is a file"),
        ({".secret": b""}, "'.secret' has the name of a file that every attempt finds"),
        ({"./.env": b""}, "has the name of a file that every attempt finds"),
        ({"a\nb": b""}, "has a character in its name"),
        ({"x" * 256: b""}, "has a name of 256 bytes"),
        ({"/".join(["x" * 100] * 20): b""}, "has a path of 2019 bytes"),
    ],
)
@in_loop
async def test_p11_assets_that_no_attempt_can_be_given_are_refused_when_they_are_applied(
    tmp_path: Path, assets: dict[str, bytes], said: str
) -> None:
    async with prime(tmp_path) as agent:
        no = await refused(agent.service.catalog.put_jobs("p", "n", [replace(file(), assets=assets)]))
        assert (no.code, no.status) == ("spec_invalid", 422)
        (problem,) = no.problems
        assert (problem.file, problem.key) == ("hello/job.yaml", "assets")
        assert said in problem.message


@pytest.mark.parametrize("value", ["a\0b", "x" * 131_072])
@in_loop
async def test_p11_a_value_that_no_program_can_be_given_is_refused_when_it_is_applied_or_asked_for(
    tmp_path: Path, value: str
) -> None:
    async with prime(tmp_path) as agent:
        catalog, runs = agent.service.catalog, agent.service.runs
        no = await refused(
            catalog.put_jobs(
                "p", "n", [file(text=job_yaml().replace("IMAGE:", f"BIG: {json.dumps(value)}\n    IMAGE:"))]
            )
        )
        (problem,) = no.problems
        assert (problem.file, problem.line, problem.key) == ("hello/job.yaml", 8, "task.config.BIG")
        await catalog.put_project("p", variables={"big": "not yet"})
        await catalog.put_jobs("p", "n", [file(BIG="{{ .GLOBAL__big }}")])
        await catalog.put_project("p", variables={"big": value})
        for request in (RunRequest(), RunRequest(config={"BIG": value})):
            no = await refused(runs.submit("p", "hello", request, CALLER))
            assert (no.code, [one.key for one in no.problems]) == ("spec_invalid", ["task.config.BIG"])
        assert (await refused(catalog.put_secret("p", "", "A", "a\0b"))).code == "invalid"


@in_loop
async def test_p9_applying_a_job_again_mends_its_damaged_blobs(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        one = replace(file(), assets={"query.sql": b"select 1"})
        await agent.service.catalog.put_jobs("p", "n", [one])
        paths = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        for path in paths:
            path.write_bytes(b"?" * path.stat().st_size)
        await agent.service.catalog.put_jobs("p", "n", [one])
        assert (await agent.ended((await agent.submit())["id"]))["state"] == "success"
        assert all(b"?" not in path.read_bytes() for path in paths)


@in_loop
async def test_values_for_primes_own_variables_are_told_and_not_shown_as_if_they_were_used(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        applied = await agent.service.catalog.put_jobs("p", "n", [file(PRIME_ATTEMPT="7")])
        assert [(one.key, one.severity) for one in applied.warnings] == [("task.config.PRIME_ATTEMPT", "warning")]
        asked = RunRequest(config={"JOB_DIR": "/etc", "PRIME_RUN_ID": "x", "MINE": "y"})
        accepted = await agent.service.runs.submit("p", "hello", asked, CALLER)
        assert [note.split()[2] for note in accepted.notes] == ["JOB_DIR", "PRIME_ATTEMPT", "PRIME_RUN_ID"]
        assert all("has no effect" in note for note in accepted.notes)
        assert accepted.run is not None
        await agent.ended(accepted.run.id)
        (manifest,) = await agent.service.queries.assets(accepted.run.id)
        assert manifest["envs"]["MINE"] == "y"
        assert not {"JOB_DIR", "PRIME_RUN_ID", "PRIME_ATTEMPT"} & {*manifest["envs"], *manifest["secrets"]}


@in_loop
async def test_a_schedule_that_does_not_run_yet_is_told(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        text = job_yaml() + "schedule:\n  start_date: 2022-01-01\n  interval: '@daily'\n"
        (note,) = (await agent.service.catalog.put_jobs("p", "n", [file(text=text)])).notes
        assert "does not run yet" in note


@in_loop
async def test_of_two_plugins_of_one_name_none_is_taken(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        text = "name: mine\ndescription: x\nplugintype: task\nimage: none\n"
        no = await refused(agent.service.catalog.put_plugins("p", [("a.yaml", text), ("b.yaml", text)]))
        assert (no.code, no.status) == ("spec_invalid", 422)
        assert "in two of the files" in no.message
        assert "p" not in agent.service.catalog.projects()


# -- questions ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_run_is_compared_with_the_one_before_it(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        queries = agent.service.queries
        await agent.apply(COLOUR="red")
        first = (await agent.ended((await agent.submit())["id"]))["id"]
        assert await code(queries.diff(first)) == "no_previous_run"
        await agent.apply(COLOUR="blue")
        second = (await agent.ended((await agent.submit())["id"]))["id"]
        found = await queries.diff(second)
        assert (found["run"], found["against"]) == (second, first)
        assert {"what": "container.env.COLOUR", "before": "red", "after": "blue"} in found["changes"]
        assert "+" in found["texts"]["spec"]
        assert await code(queries.diff(second, "nothere0")) == "unknown_run"


@in_loop
async def test_ids_may_be_short_and_must_say_one_run(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        queries = agent.service.queries
        await agent.apply()
        run_id = (await agent.ended((await agent.submit())["id"]))["id"]
        await agent.replica.history_settled()
        assert (await queries.run(run_id[:4])).id == run_id
        short = await refused(queries.run(run_id[:3]))
        assert (short.code, short.status) == ("unknown_run", 404)
        assert "too short for a run's id: give at least 4 of its characters" in short.message
        for given in (run_id.upper(), run_id[:4].upper(), run_id[:9].title()):
            assert (await queries.run(given)).id == run_id
        run = await queries.run(run_id)
        twin = c.SubmitRun(
            agent.replica.clock_ms(), f"{run_id[:8]}{'0' * 8}", "p", "n", "hello", 0, run.origin, "anna", "agent-1",
            "local/p/twin", "", 1000, run.bundle, 10**7, 10**7, (run.instances[0].plan,),
        )  # fmt: skip
        await agent.replica.propose(twin)
        ambiguous = await refused(queries.run(run_id[:8]))
        assert (ambiguous.code, ambiguous.status) == ("ambiguous_run", 409)
        assert f"{min(run_id, twin.run_id)}, {max(run_id, twin.run_id)}; give more of it" in ambiguous.message


@in_loop
async def test_attempts_and_instances_that_are_none_are_refused(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        queries = agent.service.queries
        await agent.apply()
        run = await queries.run((await agent.ended((await agent.submit())["id"]))["id"])
        for instance, number, wanted in (("contaner", None, "unknown_instance"), (None, 2, "unknown_attempt")):
            with pytest.raises(Refusal) as found:
                queries.find_attempt(run, instance, number)
            assert (found.value.code, found.value.status) == (wanted, 404)
        assert queries.find_attempt(run, None, 1)[1] == run.instances[0].attempts[0]
        assert (await queries.assets(run.id, "container", 1))[0]["attempt"] == 1


@in_loop
async def test_what_was_swept_is_gone_and_not_unknown(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        queries = agent.service.queries
        await agent.apply()
        run = await queries.run((await agent.ended((await agent.submit())["id"]))["id"])
        for path in (tmp_path / "blobs").rglob("*"):
            if path.is_file():
                path.unlink()
        agent.service.context.provisioner._bundle.cache_clear()
        for work in (queries.assets(run.id), queries.bundle(run)):
            no = await refused(work)
            assert (no.code, no.status) == ("gone", 410)


@in_loop
async def test_p12_a_list_is_bounded_and_a_foreign_cursor_refused(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        queries = agent.service.queries
        await agent.apply()
        for _ in range(3):
            await agent.ended((await agent.submit())["id"])
        page = await queries.page(RunFilter(), 0)
        assert len(page.runs) == 1
        assert page.next_cursor is not None
        assert await code(queries.page(RunFilter(), 1, "zzz")) == "invalid"
        assert await code(queries.record("nothere0")) == "unknown_run"


@pytest.mark.parametrize(
    ("most", "overlap", "meant"),
    [
        (None, None, (0, "allow")),
        (3, None, (3, "queue")),
        (None, "skip", (1, "skip")),
        (2, "cancel_previous", (2, "cancel_previous")),
        (2, "allow", (0, "allow")),
    ],
)
def test_limits_of_a_job_mean_one_thing(most: int | None, overlap: str | None, meant: tuple[int, str]) -> None:
    behavior = BehaviorSpec(max_active_runs=most, overlap=None if overlap is None else Overlap(overlap))
    assert limits_of(behavior) == meant

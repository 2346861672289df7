"""Outputs of tasks: what is read at an attempt's end, who is told of it, and what later instances find of it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import telling
from agent.errors import Refusal
from agent.outputs import take
from agent.store.errors import BlobError
from agent.worker import Worker
from tests.api.harness import Prime, in_loop, job_yaml, prime
from tests.restarts import GATE, attempts, cleaned, kill, shown, start
from tests.test_housekeeping import housekeeper
from tests.test_worker import Far

READS = """hooks:
  - name: container
    hooktype: post
    executor: mock
    config: {IMAGE: none, GOT: "{{ .tasks.container.outputs.rows }}"}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An attempt's own, below `tmp_path`."""
    made = tmp_path / "run" / "task" / "1"
    (made / "out").mkdir(parents=True)
    return made


def taken(directory: Path, *secrets: str) -> tuple[dict[str, Any] | None, str]:
    found = take(directory.parents[2], directory, lambda: secrets)
    return json.loads(found.data) if found.data is not None else None, found.note


# -- reading -----------------------------------------------------------------------------------------------------------


def test_outputs_are_read_from_both_files_and_what_optimus_says_counts(directory: Path) -> None:
    assert taken(directory) == (None, "")
    (directory / "out" / "return.json").write_text('{"a": 1, "b": 1}')
    assert taken(directory) == ({"a": 1, "b": 1}, "")
    (directory / "out" / "outputs.json").write_text('{"b": 2}')
    assert taken(directory) == ({"a": 1, "b": 2}, "")
    (directory / "out" / "return.json").write_text("[1]")
    assert taken(directory) == ({"return_value": [1], "b": 2}, "")


def test_what_is_wrong_is_told_and_costs_only_its_own_file(directory: Path) -> None:
    (directory / "out" / "return.json").write_text("oops")
    (directory / "out" / "outputs.json").write_text('{"b": 2}')
    values, note = taken(directory)
    assert values == {"b": 2}
    assert note.startswith("out/return.json cannot be read as JSON: ")
    assert note.endswith("no outputs were taken from it")
    (directory / "out" / "return.json").write_text(json.dumps({"x": "x" * 40_000}))
    (directory / "out" / "outputs.json").write_text(json.dumps({"y": "y" * 40_000}))
    values, note = taken(directory)
    assert values is None
    assert "bytes of outputs; at most 65536 are kept" in note
    (directory / "out" / "return.json").unlink()
    (directory / "out" / "outputs.json").write_text(json.dumps({"y": "y" * 70_000}))
    assert taken(directory)[1] == (
        "out/outputs.json is larger than the 65536 bytes that outputs may have: no outputs were taken from it"
    )


def _link(path: Path) -> None:
    elsewhere = path.parents[4] / "elsewhere"
    elsewhere.write_text('{"a": "of another"}')
    path.symlink_to(elsewhere)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("make", [_link, os.mkfifo, Path.mkdir, _socket])
def test_nothing_but_a_regular_file_is_opened(directory: Path, make: Callable[[Path], None]) -> None:
    make(directory / "out" / "outputs.json")
    assert taken(directory) == (
        None,
        "out/outputs.json is no regular file; links are not followed: no outputs were taken from it",
    )


@pytest.mark.parametrize("step", ["out", "."])
def test_no_link_on_the_way_is_followed(directory: Path, step: str) -> None:
    elsewhere = directory.parents[2] / "elsewhere"
    (elsewhere / "out").mkdir(parents=True)
    for folder in (elsewhere, elsewhere / "out"):
        (folder / "outputs.json").write_text('{"a": 1}')
    place = directory / step
    place.rename(directory.parents[2] / "moved")
    place.symlink_to(elsewhere)
    values, note = taken(directory)
    assert values is None
    assert "has put something else in its folder's place" in note


def test_a_directory_that_is_gone_holds_no_outputs(directory: Path) -> None:
    (directory / "out").rmdir()
    assert taken(directory) == (None, "")


def test_outputs_that_tell_a_secret_are_left_out_by_name(directory: Path) -> None:
    (directory / "out" / "outputs.json").write_text('{"url": "x://me:hunter22@h", "ok": 1}')
    values, note = taken(directory, "hunter22")
    assert values == {"ok": 1}
    assert note == "outputs that hold a secret's value were left out: 'url'"
    (directory / "out" / "outputs.json").write_text('{"hunter22": 1}')
    values, note = taken(directory, "hunter22")
    assert values is None
    assert note == "outputs that hold a secret's value were left out: 1 whose name holds it"
    (directory / "out" / "outputs.json").write_text(json.dumps({f"k{n}": "hunter22" for n in range(12)}))
    assert taken(directory, "hunter22")[1].endswith("'k7', ... (12 in all)")


# -- an attempt's end --------------------------------------------------------------------------------------------------


async def apply(agent: Prime, hooks: str = READS, **config: str) -> None:
    spec = {"path": "job.yaml", "yaml": job_yaml(hooks=hooks, MOCK_DURATION_MS=GATE, **config)}
    await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})


def write(agent: Prime, run: Any, text: str, number: int = 1) -> None:
    """As the running task would."""
    root = agent.worker._settings.attempts
    (root / run["id"] / "container" / str(number) / "out" / "outputs.json").write_text(text)


async def put_out(agent: Prime, text: str, **config: str) -> Any:
    """A run whose task puts this out; returned when it has ended."""
    await apply(agent, **config)
    run = await agent.submit()
    name = await agent.running(run["id"])
    write(agent, run, text)
    agent.engine.release(name)
    return await agent.ended(run["id"])


async def environment(agent: Prime, run: Any, instance: str = "container-hook") -> dict[str, str]:
    (found,) = await agent.service.queries.assets(run["id"], instance)
    envs: dict[str, str] = found["envs"]
    return envs


@in_loop
async def test_what_a_task_puts_out_is_found_by_the_hook_after_it_and_shown(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        run = await put_out(agent, '{"rows": 1e6, "\\u001b": ["x"]}')
        assert run["state"] == "success"
        assert (await environment(agent, run))["GOT"] == "1e+06"  # as Go prints what its JSON gives
        digest = run["instances"][0]["attempts"][0]["outputs"]
        assert agent.service.context.blobs.get(digest) == b'{"\\u001b":["x"],"rows":1000000.0}'
        answer = await agent.ok("GET", f"/api/v1/runs/{run['id']}/outputs")
        assert answer["outputs"] == [
            {"instance": "container", "attempt": 1, "outputs": {"rows": 1e6, "\x1b": ["x"]}, "note": ""},
            {"instance": "container-hook", "attempt": 1, "outputs": {}, "note": ""},
        ]
        answer = await agent.ok("GET", f"/api/v1/runs/{run['id']}/outputs?instance=container-hook")
        assert [one["instance"] for one in answer["outputs"]] == ["container-hook"]
        agent.service.context.blobs.path(digest).unlink()
        assert await agent.refused("GET", f"/api/v1/runs/{run['id']}/outputs") == (410, "gone")


@in_loop
async def test_a_consumer_of_what_was_not_taken_is_told_why(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        run = await put_out(agent, '{"rows": ')
        assert run["state"] == "failed"
        task, hook = (one["attempts"][0] for one in run["instances"])
        assert (task["state"], task["outputs"]) == ("success", None)  # the work is done
        assert task["message"].startswith("out/outputs.json cannot be read as JSON")
        assert (hook["state"], hook["reason"]) == ("failed", "executor_error")
        assert "hooks[0].config.GOT: " in hook["message"]
        assert "; container has no output 'rows'; known: none (out/outputs.json cannot be read" in hook["message"]


@in_loop
async def test_p8_an_output_with_a_secret_of_the_attempt_is_kept_nowhere(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.apply("first")  # for the project
        await agent.ok("PUT", "/api/v1/projects/p/secrets/PW", {"value": "open sesame"})
        await agent.ok("PUT", "/api/v1/projects/p/secrets/OTHER", {"value": "other words"})
        await apply(agent, "", PASSWORD='{{ replace " " "" .secret.PW }}')
        run = await agent.submit()
        name = await agent.running(run["id"])
        write(agent, run, '{"a": ["open sesame"], "b": "<opensesame>", "c": "other words", "d": "old"}')
        await agent.ok("PUT", "/api/v1/projects/p/secrets/PW", {"value": "another one"})  # it was another at the start
        agent.engine.release(name)
        ended = await agent.ended(run["id"])
        answer = await agent.ok("GET", f"/api/v1/runs/{run['id']}/outputs")
        assert answer["outputs"][0]["outputs"] == {"c": "other words", "d": "old"}  # it was not told OTHER
        assert ended["instances"][0]["attempts"][0]["message"].endswith("left out: 'a', 'b'")
        await cleaned(agent)
        for path in (tmp_path / "blobs").rglob("*"):
            assert not path.is_file() or b"sesame" not in path.read_bytes()


@in_loop
async def test_only_a_success_puts_something_out(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        run = await put_out(agent, '{"rows": 1}', MOCK_EXIT_CODE="3")
        assert run["instances"][0]["attempts"][0]["outputs"] is None
        assert (await agent.ok("GET", f"/api/v1/runs/{run['id']}/outputs"))["outputs"] == []


@in_loop
async def test_outputs_of_an_instance_that_was_cleared_are_gone_until_it_ran_again(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        run = await put_out(agent, '{"rows": 1}')
        await agent.ok("POST", f"/api/v1/runs/{run['id']}/clear", {})
        name = await agent.running(run["id"])
        row = agent.replica.run(run["id"])
        assert row is not None
        assert row.instances[0].attempts[0].outputs is not None  # what was made stays (P4)
        assert row.instances[0].outputs is None
        write(agent, run, '{"rows": 2}', 2)
        agent.engine.release(name)
        again = await agent.ended(run["id"])
        assert again["state"] == "success"
        assert (await environment(agent, again))["GOT"] == "2"


@in_loop
async def test_the_callback_gives_what_the_attempt_itself_was_given(tmp_path: Path) -> None:
    hooks = READS.replace("IMAGE: none", f"IMAGE: none, MOCK_DURATION_MS: {GATE}")
    async with prime(tmp_path) as agent:
        await apply(agent, hooks)
        run = await agent.submit()
        name = await agent.running(run["id"])
        write(agent, run, '{"rows": [1, 2]}')
        agent.engine.release(name)
        name = await agent.running(run["id"], "container-hook")
        path = f"/{agent.worker.driven[name].capability}/api/v1beta1/project/p/job/hello/run_input"
        async with agent.callbacks.post(path, json={}) as response:
            assert (await response.json())["envs"]["GOT"] == "[1 2]"
        agent.engine.release(name)
        await agent.ended(run["id"])


# -- telling -----------------------------------------------------------------------------------------------------------


@in_loop
async def test_p1_outputs_are_with_others_before_the_end_is_told_and_survive_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "TELL_WAIT_MAX_S", 0.01)
    async with prime(tmp_path) as agent:
        far = agent.worker.teller.network = Far()
        far.room.set()
        await apply(agent, "")
        run = await agent.submit()
        name = await agent.running(run["id"])
        write(agent, run, '{"rows": 1}')
        far.room.clear()
        far.says, far.asked = [Refusal("no_majority", "too few", 503)] * 3, []
        agent.engine.release(name)
        while not any(driven.ended for driven in agent.worker.driven.values()) or len(far.asked) < 4:
            far.met.clear()
            await far.met.wait()
        assert attempts(agent, run)[0].open
        await kill(agent)  # the journal has them
        assert len(set(far.asked)) == 1
        agent.service.context.blobs.path(far.asked[0]).unlink()  # and nothing else
        write(agent, run, '{"rows": "changed"}')
        start(agent)
        ended = await agent.ended(run["id"])
        assert ended["instances"][0]["attempts"][0]["outputs"] == far.asked[0]
        assert agent.service.context.blobs.get(far.asked[0]) == b'{"rows":1}'


@in_loop
async def test_outputs_that_a_disk_cannot_keep_hold_no_word_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prime(tmp_path) as agent:

        async def broken(_outputs: bytes) -> None:
            raise BlobError("the disk is broken")

        monkeypatch.setattr(agent.worker.teller, "_spread_outputs", broken)
        await apply(agent, "")
        run = await agent.submit()
        name = await agent.running(run["id"])
        write(agent, run, '{"rows": 1}')
        agent.engine.release(name)
        ended = await agent.ended(run["id"])
        assert shown(ended) == [(1, "success", None)]
        attempt = ended["instances"][0]["attempts"][0]
        assert (attempt["outputs"], attempt["message"]) == (
            None,
            "its outputs could not be kept: the disk is broken",
        )


@in_loop
async def test_outputs_wait_for_room_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "TELL_WAIT_S", 0.001)
    async with prime(tmp_path) as agent:
        real, left = agent.worker.teller._spread_outputs, [1, 2]

        async def full(outputs: bytes) -> None:
            if left:
                left.pop()
                raise BlobError("no room") from OSError(28, "no space")
            await real(outputs)

        monkeypatch.setattr(agent.worker.teller, "_spread_outputs", full)
        await apply(agent, "")
        run = await agent.submit()
        name = await agent.running(run["id"])
        write(agent, run, '{"rows": 1}')
        agent.engine.release(name)
        assert (await agent.ended(run["id"]))["instances"][0]["attempts"][0]["outputs"] is not None
        assert not left


@in_loop
async def test_outputs_are_kept_as_long_as_a_run_names_them(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        run = await put_out(agent, '{"rows": 1}')
        path = agent.service.context.blobs.path(run["instances"][0]["attempts"][0]["outputs"])
        os.utime(path, (0, 0))
        await housekeeper(agent).sweep(None)
        assert path.exists()


@in_loop
async def test_outputs_that_are_missing_here_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Others(Far):
        """They have the outputs."""

        async def fetch_whole(self, kind: str, digest: str, *, read: bool = False) -> None:
            if kind == "outputs":
                self.asked.append(digest)
                agent.service.context.blobs.put(b'{"rows":7}')

    async with prime(tmp_path) as agent:
        far = agent.worker.teller.network = Others()
        far.room.set()
        real = Worker._prepare

        async def lose(worker: Worker, driven: Any) -> Any:
            if driven.instance == "container-hook":
                digest = attempts(agent, run)[0].outputs
                assert digest is not None
                agent.service.context.blobs.path(digest).unlink()
                monkeypatch.setattr(Worker, "_prepare", real)
            return await real(worker, driven)

        monkeypatch.setattr(Worker, "_prepare", lose)
        await apply(agent)
        run = await agent.submit()
        name = await agent.running(run["id"])
        write(agent, run, '{"rows": 7}')
        agent.engine.release(name)
        ended = await agent.ended(run["id"])
        assert ended["state"] == "success"
        assert (await environment(agent, ended))["GOT"] == "7"

"""Local work whose records, disk or supervisor are lost ends as it does, or is ended; it never runs unseen (P3)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from executors import proc
from executors.base import AttemptSpec
from executors.errors import ExecutorError, StartRefused, StateLost, Unsettled
from executors.fork_server import ForkServer
from executors.process import ProcessExecutor
from executors.process_state import EXIT, RECORD
from tests.executors.contract import (
    AT_GATE,
    in_loop,
    run,
    shell_release,
    shell_starts,
    until_seen,
)
from tests.executors.processes import Processes, left_of, record_of, state_of
from tests.small_disk import fill, small_disk

ROOT = Path(__file__).parents[2]
OTHER_LIMIT = "prlimit --rttime=1099511627777"
UNPRIVILEGED = 65534


async def until_ready(executor: ProcessExecutor, spec: AttemptSpec) -> None:
    await executor.start(spec)
    await until_seen(executor, spec, b"ready")


class TestTheDirectory:
    @pytest.mark.parametrize(
        "harm",
        [
            'rm -rf "$JOB_DIR"',
            'cd "$JOB_DIR"; for one in .[a-z]*; do mv "$one" "away$one"; done',
            'rm -rf "$JOB_DIR"/../../*',
            'rm -rf "$JOB_DIR"; ln -s /dev "$JOB_DIR"',
        ],
    )
    @in_loop
    async def test_a_task_takes_nothing_from_its_end_by_what_it_does_there(
        self, processes: Processes, harm: str
    ) -> None:
        async with processes.executor() as executor:
            spec = processes.spec(f"{harm}; exit 9")
            assert (await run(executor, spec)).exit_code == 9
            endless = processes.spec(f"{harm}; echo ready; exec sleep 1000")
            await until_ready(executor, endless)
            await executor.stop(endless.name, endless.directory, 10)
            assert (await executor.wait(endless.name, endless.directory)).exit_code == 143

    @in_loop
    async def test_what_is_kept_of_attempts_is_beside_their_directories_and_for_nobody_else(
        self, processes: Processes
    ) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("")
            await run(executor, spec)
            assert [path.name for path in spec.directory.iterdir() if path.name not in ("in", "out")] == []
            root = state_of(spec).parent
            assert root == processes.root / "attempts-state"
            assert root.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a" * 241])
    @in_loop
    async def test_a_name_that_is_no_files_name_is_refused(self, processes: Processes, name: str) -> None:
        async with processes.executor() as executor:
            with pytest.raises(ExecutorError, match="cannot be an attempt's name"):
                await executor.start(replace(processes.spec(""), name=name))
            processes.specs.clear()


class TestALostSupervisor:
    @pytest.mark.parametrize(
        "how",
        [
            "env -i setsid",  # known by its limit
            f"setsid {OTHER_LIMIT}",  # by its environment
            f"env -i {OTHER_LIMIT}",  # by its session
        ],
    )
    @in_loop
    async def test_what_it_leaves_is_found_by_any_mark_and_ended(self, processes: Processes, how: str) -> None:
        async with processes.executor() as executor:
            spec = processes.spec(
                f"({how} /bin/sh -c 'echo $$; exec sleep 301' > \"$JOB_DIR/out/pid\" &)\n"
                f'while [ ! -s "$JOB_DIR/out/pid" ]; do sleep 0.02; done\necho ready\n{AT_GATE}'
            )
            await until_ready(executor, spec)
            pid = int((spec.directory / "out" / "pid").read_text())
            os.kill(record_of(spec).pid, signal.SIGKILL)
            outcome = await executor.wait(spec.name, spec.directory)
            assert (outcome.reason, proc.start_ticks(pid)) == ("agent_lost", None)

    def test_a_later_session_of_the_tasks_number_is_not_taken_for_its_own(self, processes: Processes) -> None:
        with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
            ticks = proc.start_ticks(stranger.pid)
            assert ticks is not None
            try:
                assert stranger.pid in proc.marked(proc.Marks("/none", 1, (stranger.pid, ticks)))
                for other in (ticks - 1, ticks + 1):
                    assert proc.marked(proc.Marks("/none", 1, (stranger.pid, other))) == []
            finally:
                stranger.kill()

    def test_what_may_not_be_killed_is_not_said_to_have_ended(self, processes: Processes) -> None:
        """As a set-uid program that a task runs: seen by another user than its own, who can read only its limits."""
        if os.geteuid() != 0:
            pytest.skip("another user's process needs root")
        mark = proc.limit_mark(time.time_ns())
        end = (
            "import os; from executors import proc; from executors.errors import StillRunning\n"
            f"proc._KILL_ROUNDS_MAX = 3; os.setuid({UNPRIVILEGED})\n"
            f"try: proc.end_marked(proc.Marks('/none', {mark}))\n"
            "except StillRunning as error: print(error)\n"
        )
        with subprocess.Popen(["prlimit", f"--rttime={mark}", "sleep", "1000"]) as theirs:
            try:
                while proc.marked(proc.Marks("/none", mark)) != [theirs.pid]:
                    pass
                said = subprocess.check_output([sys.executable, "-c", end], cwd=ROOT)
                assert f"processes [{theirs.pid}] of this attempt do not end" in said.decode()
                proc.end_marked(proc.Marks("/none", mark))
                assert theirs.wait() == -signal.SIGKILL
            finally:
                theirs.kill()

    @in_loop
    async def test_an_agent_that_is_itself_such_work_marks_its_own_below(self, processes: Processes) -> None:
        script = (
            "import resource\nfrom executors import proc\n"
            "def within(limit):\n    resource.setrlimit(resource.RLIMIT_RTTIME, (limit, limit))\n"
            "outer = proc.limit_mark(7); within(outer)\n"
            "marks = {proc.limit_mark(n) for n in range(1000)}\n"
            "print(len(marks), max(marks) < outer, min(marks) > 2**40)\nwithin(2**40)\n"
            "try: proc.limit_mark(7)\nexcept ValueError as error: print(error)\n"
        )
        said = await asyncio.to_thread(subprocess.check_output, [sys.executable, "-c", script], cwd=ROOT, text=True)
        assert said.startswith("1000 True True\n")
        assert "LimitRTTIME=infinity" in said


class TestLostState:
    @in_loop
    async def test_running_work_without_a_record_is_neither_absent_nor_left_running(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("(env -i setsid sleep 301 &)\necho ready\nexec sleep 300")
            await until_ready(executor, spec)
            assert len(left_of(spec)) == 3
            shutil.rmtree(state_of(spec))
            for asked in (executor.attach, executor.wait):
                with pytest.raises(StateLost):
                    await asked(spec.name, spec.directory)
            with pytest.raises(ExecutorError, match="running"):
                await executor.remove(spec.name, spec.directory)
            await executor.stop(spec.name, spec.directory, 0)
            assert left_of(spec) == []
            assert await executor.attach(spec.name, spec.directory) is None
            with pytest.raises(StartRefused):
                await executor.start(spec)
            assert shell_starts(spec) == 1

    @in_loop
    async def test_a_supervisor_makes_room_again_to_write_its_end(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec(f"echo ready\n{AT_GATE}exit 4")
            await until_ready(executor, spec)
            waiting = asyncio.create_task(executor.wait(spec.name, spec.directory))
            await asyncio.sleep(0)
            shutil.rmtree(state_of(spec))
            await shell_release(spec)
            assert (await waiting).exit_code == 4
            found = await executor.attach(spec.name, spec.directory)
            assert found is not None
            assert await executor.start(spec) == found
            assert shell_starts(spec) == 1

    @in_loop
    async def test_a_supervisor_does_not_make_a_whole_data_directory_again(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec(f"echo ready\n{AT_GATE}")
            await until_ready(executor, spec)
            handle = os.pidfd_open(record_of(spec).pid)
            try:
                shutil.rmtree(state_of(spec).parent)
                await shell_release(spec)
                ended = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().add_reader(handle, ended.set_result, None)
                await asyncio.wait_for(ended, 10)
                asyncio.get_running_loop().remove_reader(handle)
            finally:
                os.close(handle)
            assert not state_of(spec).parent.exists()

    @in_loop
    async def test_state_that_vanishes_during_a_start_is_an_error_and_nothing_runs(
        self, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P11: and the reason is a sentence."""
        spec = processes.spec("exec sleep 300")
        ask = ForkServer.ask

        async def ask_and_lose(server: ForkServer, order: bytes) -> bytes:
            answer = await ask(server, order)
            shutil.rmtree(state_of(spec))
            return answer

        monkeypatch.setattr(ForkServer, "ask", ask_and_lose)
        async with processes.executor() as executor:
            with pytest.raises(
                ExecutorError, match="vanished while it was started; what ran of it has been ended"
            ) as e:
                await executor.start(spec)
            assert type(e.value) is ExecutorError
            assert left_of(spec) == []


DAMAGE = {
    "cut": b"{",
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "its name alone": b'{"name": "prime-test-1"}',
    "forged": b'{"name": "prime-test-1", "exit_code": 0}',
    "another's": b'{"name": "prime-test-2", "exit_code": 0, "reason": null, "message": "", "refused": false,'
    b' "started_at_ms": 1, "finished_at_ms": 1, "facts": {}}',
    "no time": b'{"name": "prime-test-1", "exit_code": 0, "reason": null, "message": "", "refused": false,'
    b' "started_at_ms": -1, "finished_at_ms": 1e99, "facts": {}}',
}


class TestDamagedState:
    @pytest.mark.parametrize("file", [EXIT, RECORD])
    @pytest.mark.parametrize("data", DAMAGE.values(), ids=DAMAGE.keys())
    @in_loop
    async def test_damaged_state_is_an_error_of_its_own_and_its_work_can_be_ended(
        self, processes: Processes, file: str, data: bytes
    ) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("(env -i setsid sleep 301 &)\necho ready\nexec sleep 300")
            await until_ready(executor, spec)
            (state_of(spec) / file).write_bytes(data)
            for asked in (executor.attach, executor.wait):
                with pytest.raises(StateLost, match=f"{file} is damaged"):
                    await asked(spec.name, spec.directory)
            assert await executor.list_names({"prime.test": "contract"}) == {spec.name}
            await executor.stop(spec.name, spec.directory, 0)
            assert left_of(spec) == []
            await executor.remove(spec.name, spec.directory)
            assert not state_of(spec).exists()

    @in_loop
    async def test_a_start_of_what_is_damaged_leaves_nothing_running(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("echo ready; exec sleep 300")
            await until_ready(executor, spec)
            (state_of(spec) / RECORD).write_text("{")
            with pytest.raises(ExecutorError, match="what ran of it has been ended"):
                await executor.start(spec)
            assert left_of(spec) == []
            assert shell_starts(spec) == 1

    @in_loop
    async def test_state_that_is_no_directory_is_damage(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("")
            state_of(spec).write_text("in the way")
            for asked in (executor.attach, executor.wait):
                with pytest.raises(StateLost):
                    await asked(spec.name, spec.directory)
            with pytest.raises(ExecutorError):
                await executor.start(spec)
            assert shell_starts(spec) == 0

    @in_loop
    async def test_an_interrupted_removal_is_made_whole(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("")
            await run(executor, spec)
            shutil.copytree(state_of(spec), state_of(spec).with_name(f".{spec.name}.removed"))
            await executor.remove(spec.name, spec.directory)
            assert list(state_of(spec).parent.iterdir()) == []


class TestAFullDisk:
    @pytest.fixture
    def on_small_disk(self, tmp_path: Path) -> Iterator[Processes]:
        with small_disk(tmp_path / "small", 4) as disk:
            processes = Processes(disk)
            yield processes
            assert [pid for spec in processes.specs for pid in left_of(spec)] == []

    @in_loop
    async def test_work_is_stopped_and_its_end_is_written_when_there_is_room(self, on_small_disk: Processes) -> None:
        """P9: an end that is on no disk has not happened yet."""
        async with on_small_disk.executor() as executor:
            spec = on_small_disk.spec("trap 'exit 7' TERM; echo ready\nwhile :; do sleep 0.02; done")
            spec = replace(spec, stop_grace_s=30)
            await until_ready(executor, spec)
            task = record_of(spec).task_pid
            ballast = fill(on_small_disk.root)
            stopping = asyncio.create_task(executor.stop(spec.name, spec.directory, 30))
            while proc.start_ticks(task) is not None:  # noqa: ASYNC110  it is no child of ours: nobody could tell us
                await asyncio.sleep(0)
            assert not stopping.done()
            ballast.unlink()
            await asyncio.wait_for(stopping, 20)
            assert (await executor.wait(spec.name, spec.directory)).exit_code == 7

    @in_loop
    async def test_the_end_of_lost_work_waits_for_room_as_well(self, on_small_disk: Processes) -> None:
        async with on_small_disk.executor() as executor:
            spec = on_small_disk.spec("echo ready\nexec sleep 300")
            await until_ready(executor, spec)
            ballast = fill(on_small_disk.root)
            os.kill(record_of(spec).pid, signal.SIGKILL)
            for _ in range(2):
                with pytest.raises(Unsettled, match="No space left"):
                    await executor.wait(spec.name, spec.directory)
                await executor.stop(spec.name, spec.directory, 0)  # which is about processes, not about records
            ballast.unlink()
            assert (await executor.wait(spec.name, spec.directory)).reason == "agent_lost"

    @in_loop
    async def test_what_cannot_be_kept_from_starting_is_not_said_to_be_stopped(self, on_small_disk: Processes) -> None:
        async with on_small_disk.executor() as executor:
            spec = on_small_disk.spec("")
            ballast = fill(on_small_disk.root)
            with pytest.raises(Unsettled, match="No space left"):
                await executor.stop(spec.name, spec.directory, 0)
            ballast.unlink()
            await executor.stop(spec.name, spec.directory, 0)
            with pytest.raises(StartRefused):
                await executor.start(spec)

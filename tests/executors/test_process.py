"""What local processes do beyond the contract: supervisors that outlive everything, and what happens if they do not."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from executors import fork_server, proc
from executors.base import AttemptSpec, LogLine, Stream
from executors.errors import EngineUnreachable, ExecutorError, StartRefused
from executors.process import ProcessExecutor, create
from executors.process_state import EXIT, RECORD, STOP, write_json
from executors.segments import Gap, read
from tests.executors.contract import (
    AT_GATE,
    content,
    in_loop,
    lines_of,
    run,
    shell_release,
    shell_starts,
    until_seen,
)
from tests.executors.processes import Processes, left_of, record_of, state_of

ROOT = Path(__file__).parents[2]


def supervisor_pid(spec: AttemptSpec) -> int:
    return record_of(spec).pid


async def until_written(path: Path) -> None:
    """Return once the file is there. It is another process's: nobody could tell us."""
    while not path.exists():  # noqa: ASYNC110  as said
        await asyncio.sleep(0)


def a_stranger() -> subprocess.Popen[bytes]:
    """A process that is no attempt's."""
    return subprocess.Popen(["sleep", "1000"])


async def output(executor: ProcessExecutor, spec: AttemptSpec, stream: Stream = Stream.STDOUT) -> str:
    return content(await lines_of(executor, spec), stream).decode()


class TestTheTask:
    @in_loop
    async def test_a_signal_is_128_and_its_number(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            outcome = await run(executor, processes.spec("kill -SEGV $$"))
            assert (outcome.exit_code, outcome.reason, outcome.message) == (139, "exit_code", "ended by SIGSEGV")

    @in_loop
    async def test_it_works_in_its_directory_with_a_plain_environment(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = replace(processes.spec(""), command=("env",), environment={"A": "b", "JOB_DIR": "/data"})
            await run(executor, spec)
            seen = dict(line.split("=", 1) for line in (await output(executor, spec)).splitlines())
            assert set(seen) == {"A", "JOB_DIR", "PATH", "HOME", "LANG"}
            assert seen["JOB_DIR"] == str(spec.directory)
            spec = replace(processes.spec(""), command=("pwd",))
            await run(executor, spec)
            assert await output(executor, spec) == f"{spec.directory}\n"

    @in_loop
    async def test_it_leads_a_session_with_plain_signals_and_three_open_files(self, processes: Processes) -> None:
        script = (
            "import os, signal; print(os.getsid(0) == os.getpgid(0) == os.getpid());"
            "print(sorted(os.listdir('/proc/self/fd')) == ['0', '1', '2', '3']);"
            "status = open('/proc/self/status').read();"
            "print([hex(int(line.split()[1], 16) & ~(0b11 << 31))"
            " for line in status.splitlines() if line[:6] in ('SigBlk', 'SigIgn')]);"
            "print(oct(os.umask(0)))"
        )
        # PYTHON's own start ignores SIGPIPE (13) and SIGXFSZ (25): these bits are its, not ours. 32 and 33 are the C
        # library's, which no program may set, and which a starter such as make may have left ignored.
        async with processes.executor() as executor:
            spec = replace(processes.spec(""), command=(sys.executable, "-I", "-S", "-c", script))
            await run(executor, spec)
            assert (await output(executor, spec)).splitlines() == [
                "True",
                "True",
                "['0x0', '0x1001000']",
                "0o22",
            ]

    @in_loop
    async def test_an_entrypoint_stands_before_the_command(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = replace(processes.spec(""), entrypoint=("echo", "-n"), command=("hello",))
            await run(executor, spec)
            assert await output(executor, spec) == "hello"

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ((), "no command"),
            (("no-such-command",), r"no-such-command: command not found in PATH=/usr/local/sbin"),
            (("/etc/passwd",), r"/etc/passwd: cannot be run in .*: Permission denied"),
            (("./missing",), r"\./missing: cannot be run in .*: No such file"),
        ],
    )
    @in_loop
    async def test_a_command_that_cannot_be_run_says_why(
        self, processes: Processes, command: tuple[str, ...], message: str
    ) -> None:
        """P11: the start says it, and so does the end if the agent died in between."""
        async with processes.executor() as executor:
            spec = replace(processes.spec(""), command=command)
            for _ in range(2):
                with pytest.raises(ExecutorError, match=message):
                    await executor.start(spec)
            if command:
                assert await executor.attach(spec.name, spec.directory) is not None
                outcome = await executor.wait(spec.name, spec.directory)
                assert (outcome.exit_code, outcome.reason) == (None, "executor_error")

    @in_loop
    async def test_a_directory_that_does_not_exist_says_so(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("")
            shutil.rmtree(spec.directory)
            with pytest.raises(ExecutorError, match=str(spec.directory)):
                await executor.start(spec)

    @in_loop
    async def test_secrets_are_in_no_process_arguments(self, processes: Processes) -> None:
        """P8: the environment goes over a socket, and is in no file of ours and no argument."""
        secret = "s3cr3t-of-this-test"
        async with processes.executor() as executor:
            spec = processes.spec(f"echo ready\n{AT_GATE}")
            spec = replace(spec, environment={**spec.environment, "PASSWORD": secret})
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            arguments = []
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    arguments.append((process / "cmdline").read_bytes())
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has ended since it was listed
            assert not any(secret.encode() in argument for argument in arguments)
            assert not any(secret in file.read_text() for file in state_of(spec).iterdir())
            assert state_of(spec).stat().st_mode & 0o077 == 0
            await shell_release(spec)
            await executor.wait(spec.name, spec.directory)

    @in_loop
    async def test_output_that_cannot_be_kept_stops_neither_the_task_nor_its_end(self, processes: Processes) -> None:
        """P9: no room for the log. What was lost is counted."""
        async with processes.executor() as executor:
            spec = processes.spec(f"echo ready\n{AT_GATE}seq 300000")
            spec = replace(spec, log_limit_bytes=1024 * 1024)
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            shutil.rmtree(spec.log_directory)
            await shell_release(spec)
            outcome = await executor.wait(spec.name, spec.directory)
            assert outcome.succeeded
            assert int(outcome.facts["log_bytes_dropped"]) > 1_000_000
            assert "No such file" in outcome.facts["log_error"]

    @in_loop
    async def test_a_log_that_has_room_again_shows_a_gap(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            # Two streams, as what is written to one may be read with what was written before.
            spec = processes.spec(f'echo ready\n{AT_GATE}seq 100000 >&2; read -r _ < "$JOB_DIR/in/other"; echo last')
            os.mkfifo(spec.directory / "in" / "other")
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            # The kernel's own refusal, of the supervisor alone: files no longer than a page, as on a full disk.
            resource.prlimit(supervisor_pid(spec), resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            await shell_release(spec)
            await asyncio.to_thread((spec.directory / "in" / "other").write_text, "go\n")
            outcome = await executor.wait(spec.name, spec.directory)
            records = list(read(spec.log_directory))
            assert outcome.succeeded
            assert int(outcome.facts["log_bytes_dropped"]) > 0
            assert any(isinstance(record, Gap) for record in records)
            assert [record.data for record in records if isinstance(record, LogLine)][-1] == b"last"


class TestStops:
    @in_loop
    async def test_what_was_stopped_before_its_start_never_starts(self, processes: Processes) -> None:
        """P3: a start that is still on its way when the stop returns comes too late."""
        async with processes.executor() as executor:
            spec = processes.spec("")
            await executor.stop(spec.name, spec.directory, 1)
            for _ in range(2):
                with pytest.raises(StartRefused, match="stop"):
                    await executor.start(spec)
            assert await executor.attach(spec.name, spec.directory) is None
            assert (await executor.wait(spec.name, spec.directory)).started_at_ms is None
            assert shell_starts(spec) == 0

    @in_loop
    async def test_a_stop_that_meets_a_start_leaves_nothing_running(self, processes: Processes) -> None:
        """P3: whichever is first, after the stop there is no process, and none comes."""
        async with processes.executor() as executor:
            for _ in range(20):
                spec = processes.spec("while :; do sleep 0.05; done")
                starting = asyncio.create_task(executor.start(spec))
                await executor.stop(spec.name, spec.directory, 0)
                await asyncio.wait({starting})
                refused = isinstance(starting.exception(), StartRefused)
                assert refused or starting.exception() is None
                outcome = await asyncio.wait_for(executor.wait(spec.name, spec.directory), 5)
                assert outcome.exit_code is None if refused else outcome.exit_code in (137, 143)
                assert left_of(spec) == []

    @in_loop
    async def test_the_grace_is_for_the_children_too(self, processes: Processes) -> None:
        """A shell dies of SIGTERM at once; the program that it ran may still clean up."""
        child = "trap 'sleep 0.3; echo cleaned; exit' TERM; echo ready; while :; do sleep 0.02; done"
        async with processes.executor() as executor:
            spec = processes.spec(f'sh -c "{child}"; echo not reached')
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            await executor.stop(spec.name, spec.directory, 30)
            assert await output(executor, spec) == "ready\ncleaned\n"
            assert (await executor.wait(spec.name, spec.directory)).exit_code == 143

    @in_loop
    async def test_a_second_stop_can_shorten_the_grace(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("trap '' TERM\necho ready\nwhile :; do sleep 0.05; done")
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            first = asyncio.create_task(executor.stop(spec.name, spec.directory, 1000))
            await until_written(state_of(spec) / STOP)
            await asyncio.wait_for(executor.stop(spec.name, spec.directory, 0), 10)
            await first
            assert (await executor.wait(spec.name, spec.directory)).exit_code == 137

    @in_loop
    async def test_running_work_cannot_be_removed(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec(AT_GATE)
            await executor.start(spec)
            with pytest.raises(ExecutorError, match="running"):
                await executor.remove(spec.name, spec.directory)
            await executor.stop(spec.name, spec.directory, 5)
            await executor.remove(spec.name, spec.directory)
            assert not state_of(spec).exists()


class TestDeaths:
    @in_loop
    async def test_work_goes_on_when_the_fork_server_dies_and_the_next_start_has_a_new_one(
        self, processes: Processes
    ) -> None:
        async with processes.executor() as executor:
            first, second = processes.spec(AT_GATE), processes.spec(AT_GATE)
            await executor.start(first)
            server = executor.server_pid
            assert server is not None
            os.kill(server, signal.SIGKILL)  # it may still be dying, and take the order with it
            await executor.start(second)
            assert executor.server_pid not in (None, server)
            assert shell_starts(second) <= 1
            for spec in (first, second):
                await shell_release(spec)
                assert (await executor.wait(spec.name, spec.directory)).succeeded

    @in_loop
    async def test_the_fork_server_ends_with_its_executor(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            await run(executor, processes.spec(""))
            server = executor.server_pid
            assert server is not None
        assert proc.start_ticks(server) is None

    @in_loop
    async def test_a_fork_server_that_is_stuck_is_replaced(self, processes: Processes) -> None:
        """P3: the order that was with it can no longer be carried out; asked again, it is carried out once."""
        async with processes.executor() as executor:
            await run(executor, processes.spec(""))
            server = executor.server_pid
            assert server is not None
            os.kill(server, signal.SIGSTOP)
            executor.start_window_s = 0.2
            spec = processes.spec("")
            with pytest.raises(EngineUnreachable, match=r"not answered in 0\.2 s"):
                await executor.start(spec)
            assert await executor.attach(spec.name, spec.directory) is None
            executor.start_window_s = 10
            assert (await run(executor, spec)).succeeded
            assert shell_starts(spec) == 1

    @in_loop
    async def test_a_fork_server_that_is_stuck_takes_no_order_for_ever_and_does_not_hold_up_the_end(
        self, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fork_server, "CLOSE_S", 0.2)
        server = fork_server.ForkServer()
        try:
            asked = [asyncio.ensure_future(server.ask(b"no order"))]
            await asyncio.sleep(0)  # it has begun
            pid = server.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            asked += [asyncio.ensure_future(server.ask(b"no order")) for _ in range(500)]  # a queue is not as long
            done, waiting = await asyncio.wait(asked, timeout=10, return_when=asyncio.FIRST_EXCEPTION)
            assert waiting
            assert {type(one.exception()) for one in done} == {EngineUnreachable}
            for one in waiting:
                one.cancel()
            await asyncio.wait(waiting)
        finally:
            await server.close()
        assert proc.start_ticks(pid) is None

    @in_loop
    async def test_an_attempt_whose_supervisor_is_killed_is_lost_and_nothing_of_it_is_left(
        self, processes: Processes
    ) -> None:
        """P3: and all that ask are told the same."""
        loop = "while :; do sleep 0.02; done"
        async with processes.executor() as executor:
            spec = processes.spec(f'setsid sh -c "{loop}" &\n(setsid sh -c "{loop}" &)\necho ready\n{AT_GATE}')
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            waiting = [asyncio.create_task(executor.wait(spec.name, spec.directory)) for _ in range(2)]
            await asyncio.sleep(0)
            os.kill(supervisor_pid(spec), signal.SIGKILL)
            outcomes = [await one for one in waiting]
            assert left_of(spec) == []
        async with processes.executor() as executor:
            outcomes.append(await executor.wait(spec.name, spec.directory))
            await executor.stop(spec.name, spec.directory, 1)
            assert [(outcome.exit_code, outcome.reason) for outcome in outcomes] == [(None, "agent_lost")] * 3
            assert await executor.start(spec) == await executor.attach(spec.name, spec.directory)
            assert shell_starts(spec) == 1

    @in_loop
    async def test_a_task_dies_with_its_supervisor_before_anybody_asks(self, processes: Processes) -> None:
        """P3: by the kernel's hand, so it holds for a task without the mark in its environment as well."""
        async with processes.executor() as executor:
            spec = processes.spec("exec env -i sh -c 'echo ready; exec sleep 1000'")
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            assert os.getsid(supervisor_pid(spec)) == supervisor_pid(spec), (
                "no signal to the agent's session reaches it"
            )
            (task,) = proc.descendants(supervisor_pid(spec))
            handle = os.pidfd_open(task)
            os.kill(supervisor_pid(spec), signal.SIGKILL)
            ended, _, _ = await asyncio.to_thread(select.select, [handle], [], [], 10)
            os.close(handle)
            assert ended
            assert (await executor.wait(spec.name, spec.directory)).reason == "agent_lost"

    @in_loop
    async def test_a_stuck_supervisor_does_not_save_its_work(
        self, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P3: a stop ends the work also if the supervisor cannot."""
        monkeypatch.setattr("executors.process._STOP_SLACK_S", 0.2)
        async with processes.executor() as executor:
            spec = processes.spec(f"echo ready\n{AT_GATE}")
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            os.kill(supervisor_pid(spec), signal.SIGSTOP)
            await executor.stop(spec.name, spec.directory, 0)
            assert left_of(spec) == []
            assert (await executor.wait(spec.name, spec.directory)).reason == "agent_lost"

    @pytest.mark.parametrize("change", [{"boot_id": "another"}, {"start_ticks": 1}, {"pid": 2**22 + 1}])
    @in_loop
    async def test_a_process_that_took_over_the_number_is_not_taken_for_the_supervisor(
        self, processes: Processes, change: dict[str, object]
    ) -> None:
        """Nothing is sent to it, and it is not waited for."""
        async with processes.executor() as executor:
            spec = processes.spec("")
            with a_stranger() as stranger:
                record = {
                    "name": spec.name,
                    "labels": {},
                    "directory": str(spec.directory),
                    "log_directory": str(spec.log_directory),
                    "pid": stranger.pid,
                    "start_ticks": proc.start_ticks(stranger.pid),
                    "task_pid": stranger.pid,
                    "task_start_ticks": 1,
                    "limit_us": 2**61,
                    "boot_id": proc.boot_id(),
                    "started_at_ms": 1,
                }
                state_of(spec).mkdir()
                write_json(state_of(spec) / RECORD, record | change)
                await executor.stop(spec.name, spec.directory, 1)
                assert (await executor.wait(spec.name, spec.directory)).reason == "agent_lost"
                assert stranger.poll() is None
                stranger.kill()

    def test_an_agent_killed_in_the_middle_finds_its_work_and_every_line_of_it(self, processes: Processes) -> None:
        """P3: a real process hosts the executor, and is killed while its task runs."""
        spec = processes.spec(f"seq 1000; echo ready\n{AT_GATE}seq 1001 2000; echo err >&2; exit 6")
        agent = f"""
import asyncio, signal
from pathlib import Path
from executors.base import AttemptSpec
from executors.process import ProcessExecutor

async def main():
    executor = ProcessExecutor(Path({str(processes.root / "attempts")!r}))
    directory = Path({str(spec.directory)!r})
    spec = AttemptSpec({spec.name!r}, directory, Path({str(spec.log_directory)!r}), command={spec.command!r})
    await executor.start(spec)
    async for line in executor.logs(spec.name, directory, follow=True):
        if line.data == b"ready":
            print("ready", executor.server_pid, flush=True)

asyncio.run(main())
"""
        with subprocess.Popen([sys.executable, "-c", agent], cwd=ROOT, stdout=subprocess.PIPE, text=True) as hosting:
            assert hosting.stdout is not None
            word, server = hosting.stdout.readline().split()
            assert word == "ready"
            hosting.send_signal(signal.SIGKILL)

        async def after() -> None:
            async with processes.executor() as executor:
                found = await executor.attach(spec.name, spec.directory)
                assert found is not None
                assert (await executor.start(spec)) == found
                waiting = asyncio.create_task(executor.wait(spec.name, spec.directory))
                await shell_release(spec)
                assert (await waiting).exit_code == 6
                lines = await lines_of(executor, spec)
                numbers = content(lines, Stream.STDOUT).decode().replace("ready\n", "").split()
                assert numbers == [str(number) for number in range(1, 2001)]
                assert content(lines, Stream.STDERR) == b"err\n"
                assert executor.server_pid is None, "the start found the attempt on disk"

        asyncio.run(asyncio.wait_for(after(), 60))
        assert shell_starts(spec) == 1
        end_s = time.monotonic() + 10
        while proc.start_ticks(int(server)) is not None:  # it ends by itself once its agent is gone
            assert time.monotonic() < end_s
            os.sched_yield()

    @in_loop
    async def test_starts_by_two_agents_at_once_are_one_start(self, processes: Processes) -> None:
        """P3: an old agent's request may still be on its way when the new one asks."""
        async with processes.executor() as old, processes.executor() as new:
            for _ in range(5):
                spec = processes.spec(AT_GATE)
                started = await asyncio.gather(*(one.start(spec) for one in (old, new) * 3))
                assert len({one.facts["pid"] for one in started}) == 1
                await shell_release(spec)
                assert (await new.wait(spec.name, spec.directory)).succeeded
                assert shell_starts(spec) == 1

    @in_loop
    async def test_a_start_whose_agent_leaves_before_the_answer_goes_on(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec(AT_GATE)
            starting = asyncio.create_task(executor.start(spec))
            await until_written(state_of(spec) / RECORD)
            starting.cancel()
            await asyncio.wait({starting})
            assert await executor.attach(spec.name, spec.directory) is not None
            await shell_release(spec)
            assert (await executor.wait(spec.name, spec.directory)).succeeded


class TestState:
    @in_loop
    async def test_damaged_state_is_an_error_and_not_an_absence(self, processes: Processes) -> None:
        """P9: a damaged record never reads as "has not started"."""
        async with processes.executor() as executor:
            spec = processes.spec("")
            await run(executor, spec)
            for file in (EXIT, RECORD):
                path = state_of(spec) / file
                path.write_text(path.read_text()[:10])
                with pytest.raises(ExecutorError, match=f"{file} is damaged"):
                    await executor.attach(spec.name, spec.directory)
                path.unlink()

    @in_loop
    async def test_what_was_never_started_cannot_be_waited_for(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("")
            with pytest.raises(ExecutorError, match="no start"):
                await executor.wait(spec.name, spec.directory)
            with pytest.raises(ExecutorError, match="no start"):
                await lines_of(executor, spec)

    @in_loop
    async def test_the_records_are_readable_by_people(self, processes: Processes) -> None:
        async with processes.executor() as executor:
            spec = processes.spec("exit 2")
            await run(executor, spec)
            end = json.loads((state_of(spec) / EXIT).read_text())
            assert (end["name"], end["exit_code"], end["reason"], end["refused"]) == (spec.name, 2, "exit_code", False)
            assert record_of(spec).boot_id == proc.boot_id()

    @in_loop
    async def test_an_order_that_is_too_big_is_refused(self, processes: Processes) -> None:
        """P12."""
        async with processes.executor() as executor:
            spec = replace(processes.spec(""), environment={"BIG": "x" * (17 * 1024 * 1024)})
            with pytest.raises(ExecutorError, match="at most"):
                await executor.start(spec)

    def test_the_root_has_to_be_configured(self) -> None:
        with pytest.raises(ExecutorError, match="attempts_root"):
            create({})

"""The executors' contract as tests: what `executors/base.py` promises, asked of every engine.

A test module gives each engine a class with the fixture `under_test`, and inherits what the engine can do:

    class TestProcess(ExecutorContract, ShellContract):
        @pytest.fixture
        def under_test(self, tmp_path): ...

`ExecutorContract` holds for all; `ShellContract` for engines that run programs; `CapturedLogContract` for those that
write the log themselves. What an attempt shall do is said twice (`Work`), so that an engine without processes can act
it.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, Protocol

import pytest

from executors.base import AttemptSpec, Executor, LogLine, Outcome, Resources, Stream
from executors.errors import ExecutorError, StartRefused
from executors.segments import Gap, read

TEST_TIMEOUT_S = 60
MIB = 1024 * 1024
P = ParamSpec("P")


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a coroutine test in an event loop of its own, with an end."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(TEST_TIMEOUT_S):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


@dataclass(frozen=True, slots=True)
class Work:
    """What an attempt shall do. sh: as a POSIX shell script; mock: as executors/mock.py's variables."""

    sh: str
    mock: Mapping[str, str] = field(default_factory=dict)


class ExecutorUnderTest(Protocol):
    """One engine with room for attempts."""

    def executor(self) -> Executor:
        """A new executor on the same engine: what an agent has after a restart."""

    def spec(self, work: Work) -> AttemptSpec:
        """A new attempt with a name and directories of its own. Tests change it with `dataclasses.replace`."""

    def starts(self, spec: AttemptSpec) -> int:
        """How often the work has begun, from evidence that the work itself leaves."""

    async def release(self, spec: AttemptSpec) -> None:
        """Let work that waits at its gate go on."""


# What shell engines share: `$JOB_DIR` is the attempt's directory, as the work sees it.
EVIDENCE = 'echo started >> "$JOB_DIR/out/evidence"\n'
AT_GATE = 'read -r _ < "$JOB_DIR/in/gate"\n'


def shell_spec(root: Path, name: str, work: Work, job_dir: str | None = None) -> AttemptSpec:
    """An attempt that leaves evidence of its start and runs `work.sh`. job_dir: where the work finds its directory."""
    directory = root / "attempts" / "run" / "instance" / name  # as `attempts_root` has it
    for part in ("in", "out"):
        (directory / part).mkdir(parents=True)
    os.mkfifo(directory / "in" / "gate")
    return AttemptSpec(
        name=name,
        directory=directory,
        log_directory=root / "logs" / name,
        command=("sh", "-c", EVIDENCE + work.sh),
        environment={"JOB_DIR": job_dir or str(directory)},
        labels={"prime.test": "contract"},
    )


def attempts_root(spec: AttemptSpec) -> Path:
    """The directory of all attempts of a `shell_spec`."""
    return spec.directory.parents[2]


def shell_starts(spec: AttemptSpec) -> int:
    """How often the work of a `shell_spec` has begun."""
    evidence = spec.directory / "out" / "evidence"
    return len(evidence.read_text().splitlines()) if evidence.exists() else 0


async def shell_release(spec: AttemptSpec) -> None:
    """Open the gate: waits until the work stands at it."""
    await asyncio.to_thread((spec.directory / "in" / "gate").write_text, "go\n")


SUCCESS = Work("exit 0")
GATED = Work(
    f"echo before\n{AT_GATE}echo after",
    {"MOCK_OUTPUT": "before\n", "MOCK_DURATION_MS": "gate", "MOCK_OUTPUT_AT_END": "after\n"},
)
FOREVER = Work("echo ready\nwhile :; do sleep 0.05; done", {"MOCK_OUTPUT": "ready\n", "MOCK_DURATION_MS": "gate"})
STUBBORN = Work(
    "trap '' TERM\necho ready\nwhile :; do sleep 0.05; done",
    {"MOCK_OUTPUT": "ready\n", "MOCK_DURATION_MS": "gate", "MOCK_TERM_EXIT_CODE": "ignore"},
)
POLITE = Work(
    "trap 'exit 7' TERM\necho ready\nwhile :; do sleep 0.05; done",
    {"MOCK_OUTPUT": "ready\n", "MOCK_DURATION_MS": "gate", "MOCK_TERM_EXIT_CODE": "7"},
)
MISSING_COMMAND = Work("", {"MOCK_START_ERROR": "executor_error"})


@asynccontextmanager
async def opened(under_test: ExecutorUnderTest) -> AsyncIterator[Executor]:
    """An executor that is closed in the end."""
    executor = under_test.executor()
    await executor.open()
    try:
        yield executor
    finally:
        await executor.close()


async def run(executor: Executor, spec: AttemptSpec) -> Outcome:
    """Start and wait."""
    await executor.start(spec)
    return await executor.wait(spec.name, spec.directory)


async def lines_of(executor: Executor, spec: AttemptSpec, **options: Any) -> list[LogLine]:
    """The attempt's lines; options as for `Executor.logs`."""
    return [line async for line in executor.logs(spec.name, spec.directory, **options)]


async def until_seen(executor: Executor, spec: AttemptSpec, data: bytes) -> None:
    """Return once the attempt has written the line `data`."""
    lines = executor.logs(spec.name, spec.directory, follow=True)
    async for line in lines:
        if line.data == data:
            break
    else:
        pytest.fail(f"{spec.name} ended and never wrote {data!r}")
    await lines.aclose()  # type: ignore[attr-defined]  # every executor's is an async generator


def content(lines: list[LogLine], stream: Stream) -> bytes:
    """What was written to `stream`, exactly."""
    return b"".join(line.data + (b"" if line.partial else b"\n") for line in lines if line.stream is stream)


class ExecutorContract:
    """What every executor does."""

    @in_loop
    async def test_work_that_ends_well_succeeds(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(SUCCESS)
            before_ms = time.time_ns() // 10**6
            started = await executor.start(spec)
            outcome = await executor.wait(spec.name, spec.directory)
            after_ms = time.time_ns() // 10**6
            assert started.name == spec.name
            assert (outcome.exit_code, outcome.reason, outcome.succeeded) == (0, None, True)
            assert outcome.started_at_ms is not None
            assert outcome.finished_at_ms is not None
            # An engine may round to its own grain, but a start is not after an end.
            assert before_ms - 1000 <= outcome.started_at_ms <= outcome.finished_at_ms <= after_ms + 1000

    @in_loop
    async def test_an_exit_code_is_the_reason_of_a_failure(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            outcome = await run(executor, under_test.spec(Work("exit 3", {"MOCK_EXIT_CODE": "3"})))
            assert (outcome.exit_code, outcome.reason) == (3, "exit_code")

    @in_loop
    async def test_stdout_and_stderr_are_apart_in_order_and_have_times(self, under_test: ExecutorUnderTest) -> None:
        work = Work(
            "echo one; echo two; echo wrong >&2; echo worse >&2; printf 'no newline'",
            {"MOCK_OUTPUT": "one\ntwo\nno newline", "MOCK_ERRORS": "wrong\nworse\n"},
        )
        async with opened(under_test) as executor:
            spec = under_test.spec(work)
            await run(executor, spec)
            lines = await lines_of(executor, spec)
            assert content(lines, Stream.STDOUT).removesuffix(b"\n") == b"one\ntwo\nno newline"
            assert content(lines, Stream.STDERR) == b"wrong\nworse\n"
            for stream in Stream:
                times = [line.time_ns for line in lines if line.stream is stream]
                assert times == sorted(times)
                assert abs(times[-1] - time.time_ns()) < 60 * 10**9

    @in_loop
    async def test_logs_since_a_time_leave_out_what_is_older(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(GATED)
            await executor.start(spec)
            await until_seen(executor, spec, b"before")
            await under_test.release(spec)
            await executor.wait(spec.name, spec.directory)
            lines = await lines_of(executor, spec)
            assert [line.data for line in lines] == [b"before", b"after"]
            assert await lines_of(executor, spec, since_ns=lines[1].time_ns) == lines[1:]
            assert await lines_of(executor, spec, since_ns=lines[1].time_ns + 1) == []

    @in_loop
    async def test_followed_logs_end_with_the_attempt_and_hold_all_of_it(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(GATED)
            await executor.start(spec)
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(lines_of(executor, spec, follow=True))
                await until_seen(executor, spec, b"before")
                await under_test.release(spec)
            assert [line.data for line in following.result()] == [b"before", b"after"]

    @in_loop
    async def test_starts_of_one_name_are_one_start(self, under_test: ExecutorUnderTest) -> None:
        """P3: an attempt starts at most once."""
        async with opened(under_test) as executor:
            spec = under_test.spec(GATED)
            started = await asyncio.gather(*(executor.start(spec) for _ in range(5)))
            assert len({one.started_at_ms for one in started}) == 1
            await until_seen(executor, spec, b"before")
            await executor.start(spec)
            await under_test.release(spec)
            await executor.wait(spec.name, spec.directory)
            await executor.start(spec)
            assert under_test.starts(spec) == 1
            assert [line.data for line in await lines_of(executor, spec)] == [b"before", b"after"]

    @in_loop
    async def test_what_is_fetched_is_no_attempt_yet(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(SUCCESS)
            for _ in range(2):
                await executor.fetch(spec)
            assert await executor.attach(spec.name, spec.directory) is None
            assert spec.name not in await executor.list_names(spec.labels)
            assert under_test.starts(spec) == 0
            assert (await run(executor, spec)).succeeded

    @in_loop
    async def test_a_start_after_its_not_after_is_refused_for_ever(self, under_test: ExecutorUnderTest) -> None:
        """P3: an attempt whose start was not seen in time can be declared lost, because it cannot begin later."""
        async with opened(under_test) as executor:
            spec = replace(under_test.spec(SUCCESS), not_after_s=time.clock_gettime(time.CLOCK_BOOTTIME) - 1)
            for _ in range(2):
                with pytest.raises(StartRefused):
                    await executor.start(spec)
            assert await executor.attach(spec.name, spec.directory) is None
            assert under_test.starts(spec) == 0

    @in_loop
    async def test_a_start_before_its_not_after_goes_on_beyond_it(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = replace(under_test.spec(SUCCESS), not_after_s=time.clock_gettime(time.CLOCK_BOOTTIME) + 30)
            assert (await run(executor, spec)).succeeded

    @in_loop
    async def test_an_unknown_attempt_cannot_be_attached_to(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(SUCCESS)
            assert await executor.attach(spec.name, spec.directory) is None

    @in_loop
    async def test_an_agent_started_again_finds_its_running_work(self, under_test: ExecutorUnderTest) -> None:
        """P3: the work is found again by its name, runs once, and each line is there once."""
        async with opened(under_test) as executor:
            spec = under_test.spec(GATED)
            started = await executor.start(spec)
            await until_seen(executor, spec, b"before")
        async with opened(under_test) as executor:
            found = await executor.attach(spec.name, spec.directory)
            assert found is not None
            assert (found.name, found.started_at_ms) == (started.name, started.started_at_ms)
            waiting = asyncio.create_task(executor.wait(spec.name, spec.directory))
            await under_test.release(spec)
            assert (await waiting).succeeded
            assert [line.data for line in await lines_of(executor, spec)] == [b"before", b"after"]
            assert under_test.starts(spec) == 1

    @in_loop
    async def test_the_outcome_can_be_asked_for_again_long_after_the_end(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(Work("exit 9", {"MOCK_EXIT_CODE": "9"}))
            outcomes = [await run(executor, spec)]
            outcomes += await asyncio.gather(*(executor.wait(spec.name, spec.directory) for _ in range(3)))
        async with opened(under_test) as executor:
            assert await executor.attach(spec.name, spec.directory) is not None
            outcomes.append(await executor.wait(spec.name, spec.directory))
        assert [outcome.exit_code for outcome in outcomes] == [9] * 5
        assert len({(outcome.started_at_ms, outcome.finished_at_ms) for outcome in outcomes}) == 1

    @in_loop
    async def test_a_wait_that_is_cancelled_leaves_the_work_alone(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(GATED)
            await executor.start(spec)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(executor.wait(spec.name, spec.directory), 0.05)
            await until_seen(executor, spec, b"before")
            await under_test.release(spec)
            assert (await executor.wait(spec.name, spec.directory)).succeeded

    @in_loop
    async def test_a_stop_lets_the_work_end_by_itself_within_its_grace(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(POLITE)
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            await executor.stop(spec.name, spec.directory, 30)
            outcome = await executor.wait(spec.name, spec.directory)
            assert (outcome.exit_code, outcome.reason) == (7, "exit_code")

    @in_loop
    async def test_a_stop_kills_what_ignores_it_after_the_grace(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(STUBBORN)
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            began_s = time.monotonic()
            await executor.stop(spec.name, spec.directory, 1.0)
            assert 0.9 <= time.monotonic() - began_s < 15
            outcome = await asyncio.wait_for(executor.wait(spec.name, spec.directory), 5)
            assert (outcome.exit_code, outcome.reason) == (137, "exit_code")

    @in_loop
    async def test_an_agent_started_again_can_stop_its_work(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(STUBBORN)
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
        async with opened(under_test) as executor:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(executor.stop(spec.name, spec.directory, 0.1))
            assert (await executor.wait(spec.name, spec.directory)).exit_code == 137

    @in_loop
    async def test_a_stray_is_ended_and_removed_by_its_name_alone(self, under_test: ExecutorUnderTest) -> None:
        """P3: whoever finds it in the list may not know where it works."""
        elsewhere = Path("/nonexistent/elsewhere")
        async with opened(under_test) as executor:
            labels = {"prime.contract": f"stray-{time.time_ns()}"}
            spec = under_test.spec(STUBBORN)
            spec = replace(spec, labels={**spec.labels, **labels})
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            (name,) = await executor.list_names(labels)
            await executor.stop(name, elsewhere, 0)
            assert (await asyncio.wait_for(executor.wait(spec.name, spec.directory), 10)).exit_code == 137
            await executor.remove(name, elsewhere)
            assert await executor.list_names(labels) == frozenset()

    @in_loop
    async def test_a_stop_of_what_is_unknown_or_has_ended_is_harmless(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            unknown, ended = under_test.spec(SUCCESS), under_test.spec(SUCCESS)
            await executor.stop(unknown.name, unknown.directory, 1)
            await executor.stop(unknown.name, unknown.directory, 1)
            assert await executor.attach(unknown.name, unknown.directory) is None
            await run(executor, ended)
            await executor.stop(ended.name, ended.directory, 1)
            assert (await executor.wait(ended.name, ended.directory)).succeeded

    @in_loop
    async def test_a_command_that_does_not_exist_is_the_executors_error(self, under_test: ExecutorUnderTest) -> None:
        """P11: and the message names it."""
        async with opened(under_test) as executor:
            spec = replace(under_test.spec(MISSING_COMMAND), command=("no-such-command", "--flag"))
            with pytest.raises(ExecutorError, match="no-such-command") as caught:
                await executor.start(spec)
            assert caught.value.reason == "executor_error"
            assert not isinstance(caught.value, StartRefused)

    @in_loop
    async def test_names_are_listed_by_label_until_they_are_removed(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            labels = {"prime.contract": f"listing-{time.time_ns()}"}
            running = under_test.spec(FOREVER)
            running = replace(running, labels={**running.labels, **labels, "n": "1"})
            ended = under_test.spec(SUCCESS)
            ended = replace(ended, labels={**ended.labels, **labels, "n": "2"})
            other = under_test.spec(SUCCESS)
            await executor.start(running)
            await run(executor, ended)
            await run(executor, other)
            assert await executor.list_names(labels) == {running.name, ended.name}
            assert await executor.list_names({**labels, "n": "2"}) == {ended.name}
            assert await executor.list_names({**labels, "n": "3"}) == frozenset()
            for _ in range(2):
                await executor.remove(ended.name, ended.directory)
            assert await executor.list_names(labels) == {running.name}
            assert await executor.attach(ended.name, ended.directory) is None
            await executor.stop(running.name, running.directory, 0)
            await executor.remove(running.name, running.directory)
            assert await executor.list_names(labels) == frozenset()


class ShellContract:
    """What executors that run programs do besides."""

    @in_loop
    async def test_work_sees_its_environment_its_files_and_its_directory(self, under_test: ExecutorUnderTest) -> None:
        work = Work('printf "%s|" "$GREETING" "$(cat "$JOB_DIR/in/asset.sql")"; echo made > "$JOB_DIR/out/result"')
        async with opened(under_test) as executor:
            spec = under_test.spec(work)
            greeting = 'it\'s "two" words\nand $HOME ünïcode'
            spec = replace(spec, environment={**spec.environment, "GREETING": greeting})
            (spec.directory / "in" / "asset.sql").write_text("select 1")
            assert (await run(executor, spec)).succeeded
            output = content(await lines_of(executor, spec), Stream.STDOUT).decode().removesuffix("\n")
            assert output == f"{greeting}|select 1|"
            assert (spec.directory / "out" / "result").read_text() == "made\n"

    @in_loop
    async def test_the_agents_environment_is_not_the_works(
        self, under_test: ExecutorUnderTest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P8: an agent's keys are not handed on."""
        monkeypatch.setenv("AGENT_ONLY", "key")
        async with opened(under_test) as executor:
            spec = under_test.spec(Work("env"))
            await run(executor, spec)
            assert b"AGENT_ONLY" not in content(await lines_of(executor, spec), Stream.STDOUT)

    @in_loop
    async def test_standard_input_is_empty(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            assert (await run(executor, under_test.spec(Work('test -z "$(cat)"')))).succeeded

    @in_loop
    async def test_output_is_kept_byte_for_byte(self, under_test: ExecutorUnderTest) -> None:
        """Bytes that are no text, empty lines, carriage returns, and a line longer than a record."""
        written = b"\x00\xff\xfe\x80 binary\n\n\r\n" + b"x" * 100_000 + b"\n\x1b[31mred\x1b[0m\n"
        async with opened(under_test) as executor:
            spec = under_test.spec(Work('cat "$JOB_DIR/in/bytes"'))
            (spec.directory / "in" / "bytes").write_bytes(written)
            assert (await run(executor, spec)).succeeded
            assert content(await lines_of(executor, spec), Stream.STDOUT) == written

    @in_loop
    async def test_everything_that_was_started_ends_with_a_stop(self, under_test: ExecutorUnderTest) -> None:
        """P3: work is proven stopped only if no process of it is left, whatever session it went to."""
        loop = "trap '' TERM HUP; while :; do echo alive; sleep 0.02; done"
        work = Work(
            f"""sh -c "{loop}" > "$JOB_DIR/out/child" &
            setsid sh -c "{loop}" > "$JOB_DIR/out/grandchild" &
            (setsid sh -c "({loop}) &" > "$JOB_DIR/out/orphan" &)
            for name in child grandchild orphan; do
                while [ ! -s "$JOB_DIR/out/$name" ]; do sleep 0.02; done
            done
            echo ready
            while :; do sleep 0.05; done"""
        )
        async with opened(under_test) as executor:
            spec = under_test.spec(work)
            await executor.start(spec)
            await until_seen(executor, spec, b"ready")
            await executor.stop(spec.name, spec.directory, 0.3)
            assert_silent(spec, "child", "grandchild", "orphan")

    @in_loop
    async def test_what_the_work_leaves_behind_ends_with_it(self, under_test: ExecutorUnderTest) -> None:
        """A process in the background holds the output open; neither the end nor the log waits for it."""
        loop = "while :; do echo alive; sleep 0.02; done"
        work = Work(
            f"""(setsid sh -c "{loop}" > "$JOB_DIR/out/orphan" &)
            setsid sleep 1000 &
            while [ ! -s "$JOB_DIR/out/orphan" ]; do sleep 0.02; done
            echo last words; exit 4"""
        )
        async with opened(under_test) as executor:
            spec = under_test.spec(work)
            outcome = await run(executor, spec)
            assert outcome.exit_code == 4
            assert content(await lines_of(executor, spec), Stream.STDOUT) == b"last words\n"
            assert_silent(spec, "orphan")

    @in_loop
    async def test_memory_beyond_the_limit_is_not_to_be_had(self, under_test: ExecutorUnderTest) -> None:
        """P12: and without the limit the same work succeeds."""
        work = Work("x=$(head -c 200000000 /dev/zero | tr '\\0' x); test ${#x} = 200000000")
        async with opened(under_test) as executor:
            limited = replace(under_test.spec(work), resources=Resources(memory_bytes=64 * MIB))
            assert not (await run(executor, limited)).succeeded
            assert under_test.starts(limited) == 1
            assert (await run(executor, under_test.spec(work))).succeeded


def assert_silent(spec: AttemptSpec, *names: str) -> None:
    """No process writes to these files of `out/` any more: what was written in them stays as it is."""
    files = [spec.directory / "out" / name for name in names]
    sizes = [file.stat().st_size for file in files]
    assert all(sizes)
    time.sleep(0.2)  # ten times the writers' interval; there is nothing to wait for, as nothing shall happen
    assert [file.stat().st_size for file in files] == sizes


class CapturedLogContract:
    """What executors with `captures_logs` do besides: the log is in segments, bounded, and says what is missing."""

    @in_loop
    async def test_a_million_lines_are_bounded_and_the_gap_is_marked(self, under_test: ExecutorUnderTest) -> None:
        """P12: the first and the last of too much output are kept."""
        async with opened(under_test) as executor:
            spec = replace(under_test.spec(Work("seq 1000000; echo end >&2")), log_limit_bytes=2 * MIB)
            assert (await run(executor, spec)).succeeded
            records = list(read(spec.log_directory))
            lines = [record for record in records if isinstance(record, LogLine)]
            gaps = [record for record in records if isinstance(record, Gap)]
            numbers = [int(line.data) for line in lines if line.stream is Stream.STDOUT]
            assert sum(file.stat().st_size for file in spec.log_directory.iterdir()) <= 2 * MIB
            assert (numbers[0], numbers[-1]) == (1, 1_000_000)
            assert len(gaps) == 1
            assert gaps[0].missing_segments > 0
            first = numbers.index(next(n for n, after in itertools.pairwise(numbers) if after != n + 1))
            assert numbers[: first + 1] == list(range(1, first + 2))
            assert numbers[first + 1 :] == list(range(numbers[first + 1], 1_000_001))
            assert [line.data for line in lines if line.stream is Stream.STDERR] == [b"end"]

    @in_loop
    async def test_all_output_within_the_limit_is_there(self, under_test: ExecutorUnderTest) -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(Work("seq 200000"))
            assert (await run(executor, spec)).succeeded
            expected = b"".join(b"%d\n" % number for number in range(1, 200_001))
            lines = [record for record in read(spec.log_directory) if isinstance(record, LogLine)]
            assert content(lines, Stream.STDOUT) == expected

"""The Docker executor against a real engine: the contract, and what is Docker's own."""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import docker as sdk
import docker.errors as sdk_errors
import pytest

from executors.base import AttemptSpec, LogLine, Resources, Stream
from executors.docker import DockerExecutor, Settings, create
from executors.docker_client import Client
from executors.docker_wire import NAME_LABEL
from executors.errors import EngineUnreachable, ExecutorError, ImageError, StartRefused
from executors.segments import SegmentWriter, read, resume_points
from tests.docker_engine import IMAGE, OwnEngine
from tests.executors.contract import (
    EVIDENCE,
    FOREVER,
    GATED,
    MIB,
    STUBBORN,
    ExecutorContract,
    ShellContract,
    Work,
    content,
    in_loop,
    lines_of,
    opened,
    run,
    shell_release,
    shell_spec,
    shell_starts,
    until_seen,
)
from tests.open_files import open_files, opened_since

pytestmark = pytest.mark.docker


class DockerUnderTest:
    """One engine, and attempts below a temporary directory."""

    def __init__(self, root: Path, url: str) -> None:
        self.url = url
        self._root = root
        self.api = sdk.APIClient(base_url=url)
        self.names: list[str] = []

    def executor(self) -> DockerExecutor:
        return DockerExecutor(Settings(base_url=self.url))

    def spec(self, work: Work) -> AttemptSpec:
        self.names.append(f"prime-test-{secrets.token_hex(6)}")
        return replace(shell_spec(self._root, self.names[-1], work, "/data"), image=IMAGE, pull="never")

    def starts(self, spec: AttemptSpec) -> int:
        return shell_starts(spec)

    async def release(self, spec: AttemptSpec) -> None:
        await shell_release(spec)

    def created(self, spec: AttemptSpec) -> str:
        """A container as a start leaves it that died between its two requests."""
        labels = {**spec.labels, NAME_LABEL: spec.name}
        made = self.api.create_container(
            IMAGE,
            list(spec.command),
            name=spec.name,
            labels=labels,
            environment=dict(spec.environment),
            host_config=self.api.create_host_config(binds=[f"{spec.directory}:/data"]),
        )
        return str(made["Id"])

    def end(self) -> None:
        for name in self.names:
            try:
                self.api.remove_container(name, v=True, force=True)
            except sdk_errors.NotFound:
                continue
        self.api.close()


@pytest.fixture
def under_test(tmp_path: Path, docker_host: str) -> Iterator[DockerUnderTest]:
    """Each test leaves no thread and no open file behind (P12), nor a container."""
    files, threads = open_files(), set(threading.enumerate())
    under_test = DockerUnderTest(tmp_path, docker_host)
    try:
        yield under_test
    finally:
        under_test.end()
    assert set(threading.enumerate()) == threads
    assert not opened_since(files)


class TestContract(ExecutorContract, ShellContract):
    """Each inherited test is asked of the engine."""


# ---- P3: at most one start


@in_loop
async def test_a_container_that_never_started_is_removed_by_attach_and_cannot_start(
    under_test: DockerUnderTest,
) -> None:
    """P3: removal is the proof; a start that is still under way for it finds nothing."""
    spec = under_test.spec(Work("exit 0"))
    container_id = under_test.created(spec)
    async with opened(under_test) as executor:
        assert spec.name in await executor.list_names({})
        assert await executor.attach(spec.name, spec.directory) is None
        assert spec.name not in await executor.list_names({})
    with pytest.raises(sdk_errors.NotFound):
        under_test.api.start(container_id)
    assert under_test.starts(spec) == 0


@in_loop
async def test_a_stop_of_what_never_started_keeps_it_from_starting(under_test: DockerUnderTest) -> None:
    """P3."""
    spec = under_test.spec(Work("exit 0"))
    container_id = under_test.created(spec)
    async with opened(under_test) as executor:
        await executor.stop(spec.name, spec.directory, 10)
    with pytest.raises(sdk_errors.NotFound):
        under_test.api.start(container_id)


@in_loop
async def test_a_start_does_not_take_over_what_another_caller_created(under_test: DockerUnderTest) -> None:
    """P3: only the caller that made a container can start it."""
    spec = under_test.spec(Work("exit 0"))
    container_id = under_test.created(spec)
    async with opened(under_test) as executor:
        await executor.start(spec)
        with pytest.raises(sdk_errors.NotFound):
            under_test.api.start(container_id)
        assert (await executor.wait(spec.name, spec.directory)).succeeded
    assert under_test.starts(spec) == 1


@pytest.mark.parametrize("ended", [False, True])
def test_a_removal_that_comes_after_the_start_says_that_it_started(under_test: DockerUnderTest, *, ended: bool) -> None:
    """P3: the start of a dead agent may take effect between the look at a container and its removal."""
    spec = under_test.spec(Work("exit 0" if ended else "sleep 60"))
    container_id = under_test.created(spec)
    client = Client(under_test.url, timeout_s=10, connections=2)
    try:
        found = client.find(spec.name)
        assert found is not None
        assert found.never_started
        under_test.api.start(container_id)
        if ended:
            under_test.api.wait(container_id)
        started_ns = client.discard(found)
        assert started_ns is not None
        assert abs(started_ns - time.time_ns()) < 60 * 10**9
        assert (client.find(spec.name) is None) is ended  # what runs is left alone
    finally:
        client.close()


@in_loop
async def test_a_refused_start_leaves_no_container(under_test: DockerUnderTest) -> None:
    async with opened(under_test) as executor:
        spec = replace(under_test.spec(Work("exit 0")), not_after_s=0)
        with pytest.raises(StartRefused, match="not-after"):
            await executor.start(spec)
        assert spec.name not in await executor.list_names({})


@in_loop
async def test_two_agents_on_one_engine_start_one_name_once(under_test: DockerUnderTest) -> None:
    """P3: also where they race; a caller that loses says so or finds the other's."""
    async with opened(under_test) as one, opened(under_test) as other:
        spec = under_test.spec(GATED)
        results = await asyncio.gather(one.start(spec), other.start(spec), return_exceptions=True)
        assert any(not isinstance(result, BaseException) for result in results)
        failures = [result for result in results if isinstance(result, BaseException)]
        assert [failure for failure in failures if not isinstance(failure, StartRefused)] == []
        await until_seen(one, spec, b"before")
        await under_test.release(spec)
        await other.wait(spec.name, spec.directory)
    assert under_test.starts(spec) == 1


@in_loop
async def test_an_agent_killed_in_the_middle_finds_its_work_and_each_line_once(
    under_test: DockerUnderTest, tmp_path: Path
) -> None:
    """P3: SIGKILL of the process that hosts the executor; the work runs on, once, and its output is whole."""
    script = f"{EVIDENCE}for i in $(seq 300); do echo out $i; echo err $i >&2; usleep 5000; done; exit 5"
    spec = under_test.spec(Work(script))
    segments = tmp_path / "segments"
    words = (under_test.url, spec.name, spec.directory, segments, f"export JOB_DIR=/data; {script}")
    agent = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.executors.docker_agent", *map(str, words))
    try:
        while not any(isinstance(record, LogLine) and record.data == b"out 40" for record in read(segments)):
            assert agent.returncode is None
            await asyncio.sleep(0.02)
    finally:
        agent.kill()
        await agent.wait()
    points = resume_points(segments)
    left = {stream: point.records for stream, point in points.items()}
    async with opened(under_test) as executor:
        assert await executor.attach(spec.name, spec.directory) is not None
        with SegmentWriter(segments, limit_bytes=2**28) as writer:
            since_ns = min(point.time_ns for point in points.values())
            async for line in executor.logs(spec.name, spec.directory, since_ns, follow=True):
                point = points[line.stream]
                if line.time_ns > point.time_ns or (line.time_ns == point.time_ns and left[line.stream] == 0):
                    writer.write_line(line)
                elif line.time_ns == point.time_ns:
                    left[line.stream] -= 1
        assert (await executor.wait(spec.name, spec.directory)).exit_code == 5
    lines = [record for record in read(segments) if isinstance(record, LogLine)]
    assert content(lines, Stream.STDOUT) == b"".join(b"out %d\n" % i for i in range(1, 301))
    assert content(lines, Stream.STDERR) == b"".join(b"err %d\n" % i for i in range(1, 301))
    assert under_test.starts(spec) == 1


# ---- failures and their words (P11)


@in_loop
async def test_work_that_needs_more_than_its_memory_ends_with_oom(under_test: DockerUnderTest) -> None:
    async with opened(under_test) as executor:
        work = Work("x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}")
        spec = replace(under_test.spec(work), resources=Resources(memory_bytes=16 * MIB))
        outcome = await run(executor, spec)
        assert outcome.reason == "oom"
        assert outcome.exit_code not in (0, None)
        assert str(16 * MIB) in outcome.message


@pytest.mark.parametrize(
    ("image", "pull", "words"),
    [
        ("prime-absent:1", "never", "image prime-absent:1 is not on this engine and pull policy is never"),
        ("localhost:9/prime-absent:1", "missing", "image localhost:9/prime-absent:1 cannot be pulled: .*localhost:9"),
        ("localhost:9/prime-absent:1", "always", "cannot be pulled"),
        (None, "missing", "names no image"),
        (IMAGE, "sometimes", "missing, always, never"),
    ],
)
def test_an_image_that_cannot_be_had_says_why(
    under_test: DockerUnderTest, image: str | None, pull: str, words: str
) -> None:
    @in_loop
    async def check() -> None:
        async with opened(under_test) as executor:
            spec = replace(under_test.spec(Work("exit 0")), image=image, pull=pull)
            with pytest.raises(ImageError, match=words) as caught:
                await executor.start(spec)
            assert caught.value.reason == "image"
            assert await executor.attach(spec.name, spec.directory) is None

    check()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"command": ("/no/such/program",)}, "/no/such/program.*no such file"),
        ({"entrypoint": ("no-such-entrypoint",)}, "no-such-entrypoint.*not found"),
        ({"network": "no-such-network"}, "no-such-network"),
        ({"directory": Path("/no/such/directory")}, "/no/such/directory"),
        ({"resources": Resources(memory_bytes=1)}, "[Mm]emory"),
    ],
)
def test_what_the_engine_cannot_start_is_told_in_its_words_and_removed(
    under_test: DockerUnderTest, change: dict[str, object], words: str
) -> None:
    @in_loop
    async def check() -> None:
        async with opened(under_test) as executor:
            spec = replace(under_test.spec(Work("exit 0")), **change)  # type: ignore[arg-type]  # each key's own kind
            with pytest.raises(ExecutorError, match=words) as caught:
                await executor.start(spec)
            assert caught.value.reason == "executor_error"
            assert spec.name not in await executor.list_names({})

    check()


@pytest.mark.parametrize("running", [True, False])
def test_a_container_that_someone_else_removes_is_an_executor_error(under_test: DockerUnderTest, running: bool) -> None:
    @in_loop
    async def check() -> None:
        async with opened(under_test) as executor:
            spec = under_test.spec(FOREVER if running else Work("exit 0"))
            await executor.start(spec)
            waiting = asyncio.create_task(executor.wait(spec.name, spec.directory))
            if running:
                await until_seen(executor, spec, b"ready")
            else:
                await waiting
            await asyncio.to_thread(under_test.api.remove_container, spec.name, force=True)
            outcome = await waiting if running else await executor.wait(spec.name, spec.directory)
            assert (outcome.exit_code, outcome.reason) == (None, "executor_error")
            assert outcome.message == "the container was removed by someone else"

    check()


def test_nobody_at_the_address_is_said_with_the_address(tmp_path: Path) -> None:
    @in_loop
    async def check() -> None:
        executor = create({"base_url": f"unix://{tmp_path}/none.sock"})
        with pytest.raises(EngineUnreachable, match=r"none\.sock.*DOCKER_HOST"):
            await executor.open()
        await executor.close()

    check()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"base": "x"}, "unknown setting 'base'; known are base_url"),
        ({"threads": "many"}, "threads must be a number"),
        ({"threads": "1"}, "at least 3 threads"),
        ({"pull": "sometimes"}, "missing, always, never"),
    ],
)
def test_a_wrong_setting_is_refused(config: dict[str, str], words: str) -> None:
    with pytest.raises(ExecutorError, match=words):
        create(config)


def test_the_module_is_cheap_until_it_is_used() -> None:
    check = "import sys, executors.docker; sys.exit('docker' in sys.modules or 'requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# ---- what the container is given


@in_loop
async def test_limits_labels_and_network_reach_the_engine(under_test: DockerUnderTest) -> None:
    async with opened(under_test) as executor:
        spec = replace(
            under_test.spec(Work("exit 0")),
            resources=Resources(cpu_cores=0.5, memory_bytes=64 * MIB),
            network="none",
            labels={"io.example": "a=b"},
        )
        started = await executor.start(spec)
        found = await asyncio.to_thread(under_test.api.inspect_container, spec.name)
        host = found["HostConfig"]
        assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 64 * MIB, 64 * MIB)
        assert host["NetworkMode"] == "none"
        assert host["PidsLimit"] == 4096
        assert host["LogConfig"]["Config"]["max-file"] == "5"  # P12: and with max-size its log is bounded
        assert found["Config"]["Labels"] == {"io.example": "a=b", NAME_LABEL: spec.name}
        assert started.facts["image"] == IMAGE
        assert started.facts["image_id"] == found["Image"]


@in_loop
async def test_a_container_reaches_this_host_at_the_callback_host(under_test: DockerUnderTest) -> None:
    async with opened(under_test) as executor:
        host = await executor.callback_host()
        assert host is not None
        server = await asyncio.start_server(lambda _, writer: writer.close(), host, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            outcome = await run(executor, under_test.spec(Work(f"nc -w 5 {host} {port} < /dev/null")))
        assert outcome.succeeded


@in_loop
async def test_an_entrypoint_replaces_the_images(under_test: DockerUnderTest) -> None:
    async with opened(under_test) as executor:
        spec = replace(under_test.spec(Work("")), entrypoint=("echo", "one"), command=("two",))
        assert (await run(executor, spec)).succeeded
        assert [line.data for line in await lines_of(executor, spec)] == [b"one two"]


@in_loop
async def test_a_plain_command_ends_at_the_first_signal(under_test: DockerUnderTest) -> None:
    """As process 1 it would ignore SIGTERM: the engine's init is in front of it."""
    info = await asyncio.to_thread(under_test.api.info)
    if info["InitCommit"]["ID"] == "N/A":
        pytest.skip("this engine has no docker-init")
    async with opened(under_test) as executor:
        spec = replace(under_test.spec(Work("")), command=("sleep", "1000"))
        await executor.start(spec)
        began_s = time.monotonic()
        await executor.stop(spec.name, spec.directory, 30)
        assert time.monotonic() - began_s < 15
        outcome = await executor.wait(spec.name, spec.directory)
        assert (outcome.exit_code, outcome.message) == (143, "exit code 143 (SIGTERM)")


@in_loop
async def test_many_stops_at_once_do_not_wait_for_each_other(under_test: DockerUnderTest) -> None:
    """P3: the time a fence may take does not grow with the number of attempts; nor does it hold a thread each."""
    async with opened(under_test) as executor:
        specs = [under_test.spec(STUBBORN) for _ in range(8)]
        await asyncio.gather(*(executor.start(spec) for spec in specs))
        await asyncio.gather(*(until_seen(executor, spec, b"ready") for spec in specs))
        began_s = time.monotonic()
        await asyncio.gather(*(executor.stop(spec.name, spec.directory, 1.0) for spec in specs))
        assert time.monotonic() - began_s < 1.0 * len(specs)  # one after the other they would take longer
        assert threading.active_count() < 8 + 6  # the pool, the events, and pytest's own


# ---- output


@in_loop
async def test_bursts_that_are_followed_come_whole_and_in_order(under_test: DockerUnderTest) -> None:
    """Reads of the last few records, of more, and of all: each finds where the one before ended."""
    script = "n=1; for size in 3 5000 1 200 0 20 3000; do seq $n $((n+size)); n=$((n+size+1)); sleep 0.4; done"
    async with opened(under_test) as executor:
        spec = under_test.spec(Work(script))
        await executor.start(spec)
        numbers = [int(line.data) async for line in executor.logs(spec.name, spec.directory, follow=True)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == 3 + 5000 + 1 + 200 + 20 + 3000 + 7


@in_loop
async def test_much_output_streams_through_little_memory(under_test: DockerUnderTest) -> None:
    """P12."""
    async with opened(under_test) as executor:
        spec = under_test.spec(Work("yes $(head -c 4000 /dev/zero | tr '\\0' y) | head -c 60000000"))
        assert (await run(executor, spec)).succeeded
        tracemalloc.start()
        try:
            size = 0
            async for line in executor.logs(spec.name, spec.directory):
                size += len(line.data) + (not line.partial)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert size == 60_000_000
    assert peak < 8 * MIB


@in_loop
async def test_output_that_the_engine_discards_before_it_is_read_leaves_a_mark(under_test: DockerUnderTest) -> None:
    """P12: the engine's log is bounded by the attempt's limit, and truncation is marked."""
    work = Work("seq 10; read -r _ < $JOB_DIR/in/gate; yes $(head -c 2000 /dev/zero | tr '\\0' y) | head -c 20000000")
    async with opened(under_test) as executor:
        spec = replace(under_test.spec(work), log_limit_bytes=MIB)
        await executor.start(spec)
        lines = executor.logs(spec.name, spec.directory, follow=True)
        seen = [await anext(lines) for _ in range(10)]
        await under_test.release(spec)
        await executor.wait(spec.name, spec.directory)
        seen += [line async for line in lines]
    assert [line.data for line in seen[:10]] == [b"%d" % i for i in range(1, 11)]
    assert seen[10].stream is Stream.STDERR
    assert b"missing" in seen[10].data
    assert len(seen) > 100
    assert all(line.stream is Stream.STDOUT for line in seen[11:])


@in_loop
async def test_a_follower_that_gives_up_lets_go_of_its_connection(under_test: DockerUnderTest) -> None:
    async with opened(under_test) as executor:
        spec = under_test.spec(Work("yes"))
        await executor.start(spec)
        for _ in range(5):
            async with asyncio.timeout(30):
                lines = executor.logs(spec.name, spec.directory, follow=True)
                assert (await anext(lines)).data == b"y"
                await lines.aclose()  # type: ignore[attr-defined]  # it is an async generator
        await executor.stop(spec.name, spec.directory, 0)


# ---- an engine that goes away


async def raises_until_back(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(EngineUnreachable):
        await call()


@asynccontextmanager
async def working(
    engine: OwnEngine, tmp_path: Path, timeout_s: float
) -> AsyncIterator[tuple[DockerExecutor, AttemptSpec]]:
    """An executor on an engine of its own, with work that never ends by itself."""
    executor = DockerExecutor(Settings(base_url=engine.url, timeout_s=timeout_s))
    await executor.open()
    try:
        spec = replace(shell_spec(tmp_path, f"prime-test-{secrets.token_hex(6)}", FOREVER, "/data"), image=IMAGE)
        await executor.start(spec)
        await until_seen(executor, spec, b"ready")
        yield executor, spec
        await executor.remove(spec.name, spec.directory)
    finally:
        await executor.close()


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_an_engine_that_is_started_again_ends_the_work_and_the_wait_says_so(
    docker_engine: OwnEngine, tmp_path: Path, how: str
) -> None:
    """The wait lasts while the engine is away; calls say so meanwhile; the end is a failure, never a success."""

    @in_loop
    async def check() -> None:
        async with working(docker_engine, tmp_path, 30) as (executor, spec):
            waiting = asyncio.create_task(executor.wait(spec.name, spec.directory))
            following = asyncio.create_task(lines_of(executor, spec, follow=True))
            if how == "stopped":
                await asyncio.to_thread(docker_engine.stop, keep_data=True)
            else:
                await asyncio.to_thread(docker_engine.kill)
            for call in (
                lambda: executor.attach(spec.name, spec.directory),
                lambda: executor.stop(spec.name, spec.directory, 1),
                lambda: executor.list_names({}),
                lambda: lines_of(executor, spec),
            ):
                await raises_until_back(call)
            assert how == "stopped" or not waiting.done()  # one that goes in order may tell of the end before
            await asyncio.to_thread(docker_engine.start)
            outcome = await waiting
            assert not outcome.succeeded
            assert outcome.reason == "exit_code"
            assert [line.data for line in await following] == [b"ready"]
            assert shell_starts(spec) == 1

    check()


def test_an_engine_that_hangs_for_a_while_is_waited_for(docker_engine: OwnEngine, tmp_path: Path) -> None:
    @in_loop
    async def check() -> None:
        async with working(docker_engine, tmp_path, 1) as (executor, spec):
            waiting = asyncio.create_task(executor.wait(spec.name, spec.directory))
            docker_engine.signal(signal.SIGSTOP)
            try:
                await raises_until_back(lambda: executor.attach(spec.name, spec.directory))
                assert not waiting.done()
            finally:
                docker_engine.signal(signal.SIGCONT)
            await executor.stop(spec.name, spec.directory, 0)
            assert (await waiting).exit_code == 137

    check()

"""Attempts as containers of a Docker engine.

The container's name is the attempt's, so whatever the agent forgets the engine knows. Nothing of an attempt passes
through the agent: the engine holds its output and its exit code until the worker has copied both.

**Why an attempt starts at most once, and never late (P3).** A container runs only after two requests: create, then
start. The start names the container by the id that create returned, so only the caller that made a container can start
it, and only while it exists. Nothing else ever starts one: there is no restart policy, and a found container is never
started again. `attach` removes a container that was created and has not started, and only then says None. From then on:

- a start still under way for it finds no such id. The engine takes the container's lock for both, so either the
  removal comes first and the start fails, or the start comes first and `attach` sees it;
- a create request still under way when its agent died may yet make a container, but nobody has its id: the agent that
  would have is dead. It stays `created` until somebody removes it; `list_names` shows it;
- an agent that lives and is only slow looks at the clock right before the start request, and removes its container
  instead of starting it when `not_after_s` is over.

Removal is the proof; the look at the clock only makes late containers rare. A caller that has seen `not_after_s` pass
and wants to be sure asks `attach`, `stop` or `remove`.

**Ends** come from one stream of events for all containers (`docker_events.py`), output from short reads
(`docker_wire.Position`): neither holds a thread or a connection for each attempt (P10, P12).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from executors.base import AttemptSpec, LogLine, Outcome, Started
from executors.docker_wire import REMOVED, REORDER_NS, Container, Frames, Image, Position, Reader, outcome_of
from executors.errors import EngineUnreachable, ExecutorError, ImageError, StartRefused, StillRunning, Unsettled

if TYPE_CHECKING:
    import requests

    from executors.docker_client import Client
    from executors.docker_events import EndWatch

PULL_POLICIES = ("missing", "always", "never")
DEFAULT_NETWORK = "bridge"
TAKEN_S = 0.5  # another caller took the name: look again when it has had time to start
PULLS_MAX = 2  # at a time: they take minutes, and a stop must find a free thread
LOOK_S = 1.0  # a stop looks so often by itself, in case the events are away
KILL_S = 30.0  # how long SIGKILL may take before it is an error
REMOVAL_S = 30.0
OOM_WORD_S = 0.25  # the engine may hear of the end before it hears why
POLL_S_MIN, POLL_S_MAX, POLL_GROWTH = 0.05, 1.0, 1.6
TAILS = (16, 256, 4096)  # records asked for from the log's end; one of them nearly always reaches back far enough
OUT_OF_MEMORY_CODE = 137

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be configured.

    base_url: the engine, such as unix:///var/run/docker.sock; None = what DOCKER_HOST says.
    pull: what `missing`, the spec's default, means on this host. network: where the spec names none.
    timeout_s: for one answer of the engine. threads: requests under way at a time. pids_limit: processes of an attempt.
    """

    base_url: str | None = None
    pull: str = "missing"
    network: str | None = None
    timeout_s: float = 60.0
    threads: int = 8
    pids_limit: int = 4096


def create(config: Mapping[str, str]) -> DockerExecutor:
    """Make an executor from configuration: the keys are those of `Settings`. Raises ExecutorError for a wrong one."""
    kinds: dict[str, Callable[[str], object]] = {
        "base_url": str, "pull": str, "network": str, "timeout_s": float, "threads": int, "pids_limit": int,
    }  # fmt: skip
    values: dict[str, object] = {}
    for key, text in config.items():
        if key not in kinds:
            raise ExecutorError(f"docker executor: unknown setting {key!r}; known are {', '.join(kinds)}")
        try:
            values[key] = kinds[key](text)
        except ValueError:
            raise ExecutorError(f"docker executor: {key} must be a number, not {text!r}") from None
    settings = Settings(**values)  # type: ignore[arg-type]  # each value was made by its key's own kind
    if settings.pull not in PULL_POLICIES:
        raise ExecutorError(f"docker executor: pull must be one of {', '.join(PULL_POLICIES)}, not {settings.pull!r}")
    if settings.threads < PULLS_MAX + 1 or settings.timeout_s < 1:
        raise ExecutorError(f"docker executor: at least {PULLS_MAX + 1} threads and a timeout_s of 1 are needed")
    return DockerExecutor(settings)


class DockerExecutor:
    """See `executors.base.Executor`. One instance belongs to one event loop; `open` comes first."""

    kind = "docker"
    fenceable = True
    captures_logs = False
    start_window_s = 900.0  # an image may have to be fetched
    absence_is_proof = True  # see the module's argument

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._pool = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="docker")
        self._pulls = asyncio.Semaphore(PULLS_MAX)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._client_or_none: Client | None = None
        self._watch_or_none: EndWatch | None = None
        self._closing = False

    async def open(self) -> None:
        """Connect. Raises EngineUnreachable."""
        settings = self._settings

        def connect() -> Client:
            from executors.docker_client import Client

            return Client(settings.base_url, timeout_s=settings.timeout_s, connections=settings.threads + 1)

        self._client_or_none = await self._call(connect)
        from executors.docker_events import EndWatch

        self._watch_or_none = EndWatch(self._client_or_none)

    async def close(self) -> None:
        """End the threads and connections once what is under way has been answered. Containers go on."""
        self._closing = True
        if self._watch_or_none is not None:
            await self._watch_or_none.close()
        await asyncio.to_thread(self._pool.shutdown)
        if self._client_or_none is not None:
            self._client_or_none.close()

    # ---- start and attach

    async def fetch(self, spec: AttemptSpec) -> None:
        """Have the image here. With the policy `always`, `start` only asks again whether there is a newer one."""
        await self._image(spec)

    async def start(self, spec: AttemptSpec) -> Started:
        """Create and start the container, unless one of that name has run: then it is only found again.

        A container of that name that never started is left from a caller that died: it is removed first.
        """
        async with self._lock(spec.name):
            for _ in range(3):  # the name may be taken by another agent on this engine
                ran = await self._ran(spec.name)
                if ran is not None:
                    return ran
                container_id = await self._create(spec, await self._image(spec))
                if container_id is not None:
                    return await self._start(spec, container_id)
                await asyncio.sleep(TAKEN_S)
        raise ExecutorError(f"container {spec.name}: others make and remove containers of this name")

    async def _start(self, spec: AttemptSpec, container_id: str) -> Started:
        started = await self._call(self._client.start, container_id, spec.not_after_s)
        found = await self._call(self._client.find_id, container_id) if started else None
        if found is not None:
            return _started(found)
        raise StartRefused(f"container {spec.name} was removed by someone else before it could be seen to run")

    async def attach(self, name: str, directory: Path) -> Started | None:  # noqa: ARG002  the contract's; the name is enough
        """Find an attempt started earlier. None = it has not started and never will: see the module's argument."""
        async with self._lock(name):
            return await self._ran(name)

    async def _ran(self, name: str) -> Started | None:
        """What has started under this name. A container that has not is removed for good, and counts as None."""
        found = await self._call(self._client.find, name)
        if found is None:
            return None
        if not found.never_started:
            return _started(found)
        started_ns = await self._call(self._client.discard, found)
        return None if started_ns is None else Started(name, started_ns // 1_000_000, found.facts)

    async def _create(self, spec: AttemptSpec, image: Image) -> str | None:
        from executors.docker_client import NameTaken

        network = spec.network or self._settings.network
        try:
            return await self._call(
                self._client.create, spec, image, network=network, pids_limit=self._settings.pids_limit
            )
        except NameTaken:
            return None

    async def _image(self, spec: AttemptSpec) -> Image:
        """The image by the pull policy. Raises ImageError."""
        if not spec.image:
            raise ImageError(f"attempt {spec.name} names no image: the docker executor needs one")
        if spec.pull not in PULL_POLICIES:
            raise ImageError(f"attempt {spec.name}: pull must be one of {', '.join(PULL_POLICIES)}, not {spec.pull!r}")
        name, policy = spec.image, self._settings.pull if spec.pull == "missing" else spec.pull
        image = None if policy == "always" else await self._call(self._client.image, name)
        if image is not None:
            return image
        if policy == "never":
            raise ImageError(f"image {name} is not on this engine and pull policy is never")
        async with self._lock(f"image {name}"), self._pulls:
            image = None if policy == "always" else await self._call(self._client.image, name)
            if image is None:  # nobody pulled it while this one queued
                await self._call(self._client.pull, name, lambda: self._closing)
                image = await self._call(self._client.image, name)
        if image is None:
            raise ImageError(f"image {name} was pulled, and is not on this engine: was it removed at once?")
        return image

    # ---- the end

    async def wait(self, name: str, directory: Path) -> Outcome:  # noqa: ARG002  as above
        """Return when the container has ended, however long the engine is away meanwhile."""
        with self._watch.waiting(name) as woken:
            while True:
                woken.clear()
                try:
                    outcome = await self._outcome(name)
                except EngineUnreachable as error:
                    _log.info("container %s: cannot see whether it ended, waiting for the engine: %s", name, error)
                else:
                    if outcome is not None:
                        return outcome
                await woken.wait()

    async def _outcome(self, name: str) -> Outcome | None:
        found = await self._call(self._client.find, name)
        if found is None:
            return Outcome(None, "executor_error", REMOVED)
        if found.exit_code == OUT_OF_MEMORY_CODE and found.memory_bytes and not (found.oom_killed or found.alive):
            await asyncio.sleep(OOM_WORD_S)
            found = await self._call(self._client.find_id, found.id) or found
        return outcome_of(found)

    async def stop(self, name: str, directory: Path, grace_s: float) -> None:  # noqa: ARG002  as above
        """The image's stop signal (SIGTERM by default), after grace_s seconds SIGKILL.

        A container that has not started is removed, so that it never does (P3).
        """
        with self._watch.waiting(name) as woken:
            if await self._ran(name) is None:
                return
            found = await self._call(self._client.find, name)
            if found is None or not found.alive:
                return
            if grace_s > 0:
                await self._call(self._client.kill, found.id, found.stop_signal)
                if await self._ends_within(grace_s, found.id, woken):
                    return
            await self._call(self._client.kill, found.id, "SIGKILL")
            if not await self._ends_within(KILL_S, found.id, woken):
                raise StillRunning(f"container {name} still runs {KILL_S:g} s after SIGKILL: look at the engine's log")

    async def _ends_within(self, seconds: float, container_id: str, woken: asyncio.Event) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            woken.clear()
            found = await self._call(self._client.find_id, container_id)
            if found is None or not found.alive:
                return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            await _wait_for(woken, min(left, LOOK_S))

    async def remove(self, name: str, directory: Path) -> None:  # noqa: ARG002  as above
        """Remove the container and its anonymous volumes, by force."""
        with self._watch.waiting(name) as woken:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + REMOVAL_S
            while not await self._call(self._client.remove, name):  # another removal is under way
                if loop.time() > deadline:
                    raise Unsettled(f"container {name}: a removal does not end: look at the engine's log")
                woken.clear()
                await _wait_for(woken, LOOK_S)

    async def list_names(self, labels: Mapping[str, str]) -> frozenset[str]:
        """Names of all attempts with these labels: created, running and ended ones."""
        return await self._call(self._client.names, labels)

    async def callback_host(self) -> str | None:
        """This host's address on the containers' network; None where the engine is on another host."""
        return await self._call(self._client.gateway, self._settings.network or DEFAULT_NETWORK)

    # ---- output

    async def logs(
        self,
        name: str,
        directory: Path,  # noqa: ARG002  as above
        since_ns: int = 0,
        *,
        follow: bool = False,
    ) -> AsyncGenerator[LogLine, None]:
        """Lines with the engine's times, in the engine's order; times never go back.

        Starting again with since_ns = the last time seen gives the lines of that time again, in the same order, and all
        that follow. Where the engine has rotated away what was not read yet, a line on stderr says so. With follow the
        engine may be away for a while. Raises ExecutorError if there is no such container.
        """
        position = Position(since_ns)
        pause_s, need, total = POLL_S_MIN, None, 0 if since_ns == 0 else TAILS[-1]
        with self._watch.waiting(name) as woken:
            while True:
                count = 0
                try:
                    woken.clear()
                    ended = not follow or await self._has_ended(name)  # first this, then the read: it is then the last
                    async with aclosing(self._unread(name, position, need, total)) as batches:
                        async for batch in batches:
                            count += len(batch)
                            for line in batch:
                                yield line
                except EngineUnreachable:
                    if not follow:
                        raise
                    ended = False
                if ended:
                    return
                need, total = count, total + count
                pause_s = POLL_S_MIN if count else min(pause_s * POLL_GROWTH, POLL_S_MAX)
                await _wait_for(woken, pause_s)

    async def _has_ended(self, name: str) -> bool:
        found = await self._call(self._client.find, name)
        return found is None or not found.alive

    async def _unread(
        self, name: str, position: Position, need: int | None, total: int
    ) -> AsyncGenerator[list[LogLine], None]:
        """One read of the log from `position` to its present end, in batches.

        The engine finds `since` by reading the whole file, but the last n records at once. So with `need` (about how
        many are new) ask for the last few, and for more where those do not reach back to before `position`; but not
        for more than there were in `total`.
        """
        tails = () if need is None else (tail for tail in TAILS if 2 * need < tail <= total)
        for tail in (*tails, None):
            since_ns = position.filter_ns if tail is None else 0
            async with aclosing(self._read(name, since_ns, tail)) as batches:
                reader = None
                async for batch in batches:
                    if reader is None:
                        if tail is not None and batch[0].time_ns >= position.time_ns - REORDER_NS:
                            break  # may not reach back far enough
                        reader = Reader(position)
                    yield reader.take(batch)
                else:
                    return

    async def _read(self, name: str, since_ns: int, tail: int | None) -> AsyncGenerator[list[LogLine], None]:
        response: requests.Response = await self._call(self._client.logs, name, since_ns, tail)
        try:
            frames = Frames()
            while chunk := await self._call(self._client.read_some, response):
                if records := frames.feed(chunk):
                    yield records
        finally:
            if self._closing:
                response.close()
            else:
                self._pool.submit(response.close)  # not here: it waits for a read that was cancelled to come back

    # ---- inside

    @property
    def _client(self) -> Client:
        if self._client_or_none is None:
            raise EngineUnreachable("the engine has not answered since this agent started")
        return self._client_or_none

    @property
    def _watch(self) -> EndWatch:
        if self._watch_or_none is None:
            raise EngineUnreachable("the engine has not answered since this agent started")
        return self._watch_or_none

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in the pool. Cancelled, a call that has begun goes on there and its answer is dropped."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))


def _started(container: Container) -> Started:
    started_ns = container.started_ns or container.created_ns
    return Started(container.name, started_ns // 1_000_000, container.facts)


async def _wait_for(woken: asyncio.Event, seconds: float) -> None:
    """Return when woken, at latest after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        return

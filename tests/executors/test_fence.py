"""P3: what an agent leaves running ends with its lease, whatever became of the agent. Real processes, real signals.

The tasks write down until when they ran, by CLOCK_BOOTTIME, outside of what they are given.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from executors import fence, fence_ends, proc
from executors.base import AttemptSpec
from executors.fence_docker import Engine
from executors.fence_state import FILE, Guard
from executors.process import create
from executors.process_state import EXIT
from tests.docker_engine import IMAGE, OwnEngine
from tests.executors.contract import Work, attempts_root, shell_spec
from tests.executors.processes import kill, kill_left, left_of, state_of
from tests.executors.watchdogs import (
    EVIDENCE,
    Client,
    StandIn,
    boottime_s,
    end_of,
    start_watchdog,
    wait_gone,
    wait_until,
)

pytestmark = pytest.mark.slow  # every lease has to run out

LEASE_S = 1.5
STOP_S = 1.0
KILL_S = 2.0  # what `LeaseTerms.kill_ms` leaves for detection and death


class Bench:
    """A data directory with a watchdog and local attempts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.data.mkdir()
        self.specs: list[AttemptSpec] = []
        self.stand_ins: list[StandIn] = []
        self._next: StandIn | None = None
        self.pids: list[int] = []

    def watchdog(self) -> int:
        """Start one; its number."""
        pid = start_watchdog(self.data)
        assert pid is not None
        self.pids.append(pid)
        return pid

    def task(self, script: str) -> tuple[AttemptSpec, dict[str, object], Path]:
        """Start a local attempt, which then goes on alone. Returns it, how to end it, and its evidence."""
        evidence = self.root / f"evidence-{len(self.specs)}"
        script = script.replace("{evidence}", EVIDENCE).replace("{file}", str(evidence))
        spec = shell_spec(self.root, f"prime-fence-{len(self.specs)}", Work(script))
        self.specs.append(spec)

        async def start() -> dict[str, object]:
            async with create({"attempts_root": str(attempts_root(spec))}) as executor:
                await executor.start(spec)
                return end_of(executor, spec)

        end = asyncio.run(start())
        wait_until(evidence.exists)
        self._ready()
        return spec, end, evidence

    def _ready(self) -> StandIn:
        """Who speaks next; it is up before a lease is asked for."""
        if self._next is None:
            self._next = StandIn(self.data)
            self.stand_ins.append(self._next)
        return self._next

    def stand_in(self, *messages: dict[str, object]) -> StandIn:
        """An agent that says this."""
        one, self._next = self._ready(), None
        one.say([*messages])
        return one

    def fenced(self) -> set[str]:
        """What stands on disk as fenced."""
        lines = [json.loads(line) for line in (self.data / FILE).read_text().splitlines()]
        return {line["name"] for line in lines if line.get("do") == "fence"}

    def close(self) -> None:
        """End everything."""
        for one in self.stand_ins:
            one.kill()
        for pid in self.pids:
            if proc.start_ticks(pid) is not None:
                kill(pid)
        for spec in self.specs:
            kill_left(spec)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.close()


def guard(name: str, end: dict[str, object], **words: object) -> dict[str, object]:
    return {"do": "guard", "name": name, "epoch": 1, "waits": False, "end": end, "runs": False, **words}


def lease(seconds: float = LEASE_S) -> tuple[dict[str, object], float]:
    until_s = boottime_s() + seconds
    return {"do": "renew", "until_s": until_s, "epoch": 1, "stop_s": STOP_S}, until_s


def ran_until_s(evidence: Path) -> float:
    return float(evidence.read_text().split()[-1])


STUBBORN = "trap '' TERM; {evidence}"
DAEMON = "trap '' TERM; setsid sh -c 'trap \"\" TERM; {evidence}' & exec sleep 600"
# Two forks, a session of its own, no supervisor above it, nothing inherited but the kernel's limits.
LOST_DAEMON = 'setsid env -i PATH="$PATH" sh -c \'trap "" TERM; ({evidence}) & exit 0\' & exec sleep 600'


@pytest.mark.parametrize("script", ["{evidence}", STUBBORN, LOST_DAEMON], ids=["plain", "ignores SIGTERM", "daemon"])
def test_the_work_of_a_killed_agent_ends_with_its_lease_and_is_on_record_as_fenced(bench: Bench, script: str) -> None:
    bench.watchdog()
    spec, end, evidence = bench.task(script)
    words, until_s = lease()
    agent = bench.stand_in(words, guard(spec.name, end))
    agent.kill()
    wait_until(lambda: not left_of(spec))
    assert boottime_s() < until_s + STOP_S + KILL_S
    assert until_s - 0.2 < ran_until_s(evidence) < until_s + STOP_S + KILL_S
    assert bench.fenced() == {spec.name}
    wait_until((state_of(spec) / EXIT).exists)  # its supervisor was left to tell the rest


def test_work_whose_supervisor_is_dead_too_ends_with_the_lease(bench: Bench) -> None:
    bench.watchdog()
    spec, end, evidence = bench.task(DAEMON)
    words, until_s = lease()
    agent = bench.stand_in(words, guard(spec.name, end))
    record = json.loads((state_of(spec) / "supervisor.json").read_text())
    os.kill(record["pid"], signal.SIGKILL)
    agent.kill()
    wait_until(lambda: not left_of(spec))
    assert ran_until_s(evidence) < until_s + STOP_S + KILL_S


def test_a_stopped_agent_is_killed_before_its_work_is_ended(bench: Bench) -> None:
    bench.watchdog()
    alive = bench.root / "agent-was-alive"
    runs = 'grep -qs "^State:[[:space:]][^ZX]" /proc/$(cat {file}.agent)/status'  # a zombie only waits for its parent
    spec, end, _ = bench.task(
        f"trap '{runs} && touch {shlex.quote(str(alive))}; exit 0' TERM\ntouch {{file}}; while :; do sleep 0.02; done"
    )
    words, until_s = lease()
    agent = bench.stand_in(words, guard(spec.name, end))
    (bench.root / "evidence-0.agent").write_text(f"{agent.pid}")
    agent.send_signal(signal.SIGSTOP)
    assert agent.wait() == -signal.SIGKILL
    wait_until(lambda: not left_of(spec))
    assert boottime_s() < until_s + STOP_S + KILL_S
    assert not alive.exists()
    assert bench.fenced() == {spec.name}


def test_an_agent_that_answers_is_left_alone_and_told_what_is_fenced(bench: Bench) -> None:
    """A restarted agent has no lease yet: it is not stuck. Only what was guarded ends."""
    bench.watchdog()
    spec, end, _ = bench.task("{evidence}")
    with Client(bench.data) as agent:
        agent.renew(0.5, stop_s=STOP_S)
        assert agent.guard(spec.name, end)["ok"]
        assert agent.next_event() == {"event": "over"}
        event = agent.next_event()
        assert (event["event"], event["name"]) == ("fenced", spec.name)
        wait_until(lambda: not left_of(spec))
        assert agent.say("look")["ok"]  # the test is alive as well


def test_the_mark_is_on_disk_before_the_work_is_asked_to_end(bench: Bench) -> None:
    bench.watchdog()
    seen = bench.root / "seen"
    state = shlex.quote(str(bench.data / FILE))
    spec, end, _ = bench.task(
        f"trap 'cp {state} {shlex.quote(str(seen))}; exit 0' TERM; touch {{file}}; while :; do sleep 0.02; done"
    )
    words, _ = lease(0.5)
    bench.stand_in(words, guard(spec.name, end)).kill()
    wait_until(seen.exists)
    wait_until(lambda: not left_of(spec))
    assert '"fence"' in seen.read_text()


def test_a_killed_watchdog_is_followed_by_one_that_knows_as_much(bench: Bench) -> None:
    first = bench.watchdog()
    spec, end, _ = bench.task("{evidence}")
    words, until_s = lease(3.0)
    agent = bench.stand_in(words, guard(spec.name, end))
    os.kill(first, signal.SIGKILL)
    wait_gone(first)
    agent.kill()
    bench.watchdog()
    with Client(bench.data) as later:
        assert later.told["guards"] == [spec.name]
        assert (later.told["until_s"], later.told["epoch"]) == (until_s, 1)
    assert left_of(spec)
    wait_until(lambda: not left_of(spec))
    assert until_s <= boottime_s() < until_s + STOP_S + KILL_S


def test_what_a_killed_watchdog_had_fenced_is_ended_by_the_next(bench: Bench) -> None:
    first = bench.watchdog()
    spec, end, _ = bench.task(STUBBORN)
    words, _ = lease(0.3)
    bench.stand_in({**words, "stop_s": 600}, guard(spec.name, end)).kill()
    wait_until(lambda: spec.name in bench.fenced())
    os.kill(first, signal.SIGKILL)
    wait_gone(first)
    bench.watchdog()
    wait_until(lambda: not left_of(spec))


def test_an_agent_restarted_within_its_lease_takes_over_and_prolongs_it(bench: Bench) -> None:
    bench.watchdog()
    spec, end, evidence = bench.task("{evidence}")
    words, until_s = lease(1.0)
    bench.stand_in(words, guard(spec.name, end)).kill()
    with Client(bench.data) as agent:
        assert agent.told["guards"] == [spec.name]
        agent.renew(60)
        wait_until(lambda: ran_until_s(evidence) > until_s + STOP_S)
        assert agent.say("release", name=spec.name)["ok"]
    assert bench.fenced() == set()


def test_work_that_waits_by_its_jobs_choice_goes_on(bench: Bench) -> None:
    bench.watchdog()
    waits, waits_end, evidence = bench.task("{evidence}")
    other, other_end, _ = bench.task("{evidence}")
    words, until_s = lease(0.5)
    bench.stand_in(words, guard(waits.name, waits_end, waits=True), guard(other.name, other_end)).kill()
    wait_until(lambda: not left_of(other))
    wait_until(lambda: ran_until_s(evidence) > until_s + STOP_S)
    assert bench.fenced() == {other.name}


def test_nothing_is_guarded_without_a_lease_of_its_epoch_and_what_was_fenced_stays_so(bench: Bench) -> None:
    bench.watchdog()
    end = {"kind": "agent"}
    with Client(bench.data) as agent:
        assert not agent.guard("a", end)["ok"]
        agent.renew(0.3, epoch=2)
        assert not agent.guard("a", end, epoch=1)["ok"]
        assert agent.guard("a", end, epoch=2)["ok"]
        while agent.next_event()["event"] != "fenced":
            pass
        agent.renew(60, epoch=2)
        assert agent.guard("a", end, epoch=2) == {"n": 1, "ok": False, "why": "it was fenced"}
        assert agent.guard("b", {"kind": "rocket"}, epoch=2)["ok"] is False
        assert agent.say("release", name="a")["ok"]


def test_a_lease_without_end_fences_nothing_until_the_agent_is_alone_no_more(bench: Bench) -> None:
    bench.watchdog()
    with Client(bench.data) as agent:
        assert agent.say("renew", until_s=float("inf"), epoch=1, stop_s=1.0)["ok"]
        assert agent.guard("a", {"kind": "agent"})["ok"]
        assert agent.say("bind", until_s=boottime_s() + 0.2)["ok"]
        assert agent.next_event()["event"] == "over"


def test_one_watchdog_has_a_data_directory(bench: Bench) -> None:
    first = bench.watchdog()
    with Client(bench.data):  # so it stays
        assert start_watchdog(bench.data) is None
        assert fence.holder(bench.data) == (first, proc.start_ticks(first))
        (bench.data / fence.LOCK).write_bytes(b"")  # as one leaves it that has only just taken the lock
        assert fence.holder(bench.data) is None


def test_a_watchdog_without_an_agent_and_without_work_ends(bench: Bench) -> None:
    pid = bench.watchdog()
    spec, end, _ = bench.task("{evidence}")
    with Client(bench.data) as agent:
        agent.renew(float("inf"))
        assert agent.guard(spec.name, end)["ok"]
    assert proc.start_ticks(pid) is not None
    kill_left(spec)
    wait_gone(pid)


def test_the_door_is_open_to_its_own_user_alone(bench: Bench) -> None:
    bench.watchdog()
    assert (bench.data / fence.SOCKET).stat().st_mode & 0o777 == 0o600


def test_an_engine_that_is_gone_is_asked_less_and_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = fence_ends.Ends(lambda: None)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 40:
            ends.release("a")

    monkeypatch.setattr("executors.fence_ends.time.sleep", sleep)
    end = {"kind": "docker", "url": f"unix://{tmp_path}/no.sock", "name": "a", "directory": str(tmp_path)}
    waiting = Guard("a", 1, waits=False, end=end)
    with ends._lock:
        ends._wanted["a"] = waiting
    ends._end_container(waiting, kill_at_s=0.0)
    assert waits[0] < 0.3
    assert waits == sorted(waits)
    assert waits[-1] == fence_ends.SILENT_MAX_S
    assert not ends.ended("a")


class Container:
    """One that writes down until when it ran, and ignores SIGTERM."""

    def __init__(self, root: Path, url: str) -> None:
        self.name, self.url = f"prime-fence-{root.name}-{os.getpid()}"[-60:], url
        self.folder = root / "attempts" / "run" / "instance" / "1"
        self.folder.mkdir(parents=True)
        self.evidence = self.folder / "seen"
        script = f"trap '' TERM; {EVIDENCE.replace('{file}', '/data/seen')}"
        self._docker("run", "-d", "--name", self.name, "-v", f"{self.folder}:/data", IMAGE, "sh", "-c", script)
        wait_until(self.evidence.exists)

    @property
    def end(self) -> dict[str, object]:
        """What a guard of it says."""
        named = {"name": self.name, "directory": str(self.folder)}
        return {"kind": "docker", "url": self.url, "certificates": "", **named}

    def start_again(self) -> None:
        """As a start that the engine carries out late."""
        self._docker("start", self.name)

    def remove(self) -> None:
        """By force."""
        self._docker("rm", "-f", self.name)

    def _docker(self, *words: str) -> None:
        subprocess.run(["docker", "--host", self.url, *words], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.docker
def test_the_container_of_a_killed_agent_ends_with_its_lease_and_so_does_one_that_starts_late(
    bench: Bench, docker_host: str
) -> None:
    bench.watchdog()
    container = Container(bench.root, docker_host)
    try:
        with Client(bench.data) as agent:  # it lives, and does not release what was fenced
            until_s = agent.renew(LEASE_S, stop_s=STOP_S)
            assert agent.guard(container.name, container.end)["ok"]
            while agent.next_event()["event"] != "fenced":
                pass
            engine = Engine(docker_host)
            wait_until(lambda: not engine.look(container.name).runs)
            assert ran_until_s(container.evidence) < until_s + STOP_S + KILL_S
            assert bench.fenced() == {container.name}
            container.start_again()
            wait_until(lambda: not engine.look(container.name).runs)
    finally:
        container.remove()


@pytest.mark.docker
def test_a_container_ends_with_its_lease_though_its_engine_hangs(bench: Bench, docker_engine: OwnEngine) -> None:
    bench.watchdog()
    container = Container(bench.root, docker_engine.url)
    words, until_s = lease(3.0)
    agent = bench.stand_in(words, guard(container.name, container.end))
    docker_engine.signal(signal.SIGSTOP)
    try:
        agent.kill()
        wait_until(lambda: boottime_s() > until_s + STOP_S + KILL_S)
        assert ran_until_s(container.evidence) < until_s + STOP_S + KILL_S - 0.1
    finally:
        docker_engine.signal(signal.SIGCONT)
        container.remove()

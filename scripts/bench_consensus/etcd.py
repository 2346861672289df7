"""Three members of etcd, as Debian packages it, with its defaults: fsync on, no TLS."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from scripts.bench_consensus.grpc import CallFailed, Connection, closed_loop
from scripts.bench_consensus.measure import (
    COMMAND_BYTES,
    WARM_UP_S,
    Load,
    Outage,
    load_of,
    median_load,
    outage_of,
)
from scripts.bench_consensus.processes import free_addresses

PUT: Final = "/etcdserverpb.KV/Put"
STATUS: Final = "/etcdserverpb.Maintenance/Status"
KEYS: Final = 1000
START_S: Final = 30.0
_LOOK_S: Final = 0.005


def version() -> str:
    """What is installed. Raises FileNotFoundError."""
    said = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0].removeprefix("etcd Version: ")


def installed() -> bool:
    """Whether there is an etcd to measure."""
    return shutil.which("etcd") is not None


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data: bytes) -> dict[int, int | bytes]:
    """A protobuf message of varints and length-delimited fields, by number."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if tag & 7 == 2:
            found[tag >> 3] = data[at : at + value]
            at += value
        else:
            found[tag >> 3] = value
    return found


class Put:
    """Makes one PutRequest after the other, over `KEYS` keys in turn: the same bytes as one command of the others."""

    def __init__(self) -> None:
        self._messages = itertools.cycle(
            [_field(1, b"%08d" % key) + _field(2, os.urandom(COMMAND_BYTES - 8)) for key in range(KEYS)]
        )

    def __call__(self) -> bytes:
        """The next."""
        return next(self._messages)


def _measure(address: str, connections: int, seconds: float) -> Load:
    """In a process of its own, so that its share of the processors is seen."""
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    latencies_ns = closed_loop(address, connections, seconds, PUT, Put())
    took_s = time.perf_counter() - begin_s
    load = load_of(connections, took_s, latencies_ns)
    cpu = (time.process_time() - begin_cpu_s) / took_s
    return Load(load.in_flight, load.seconds, load.count, load.rate, load.p50_ms, load.p99_ms, 0, round(cpu, 2))


class Etcd:
    """A cluster of three on loopback."""

    def __init__(self, folder: Path) -> None:
        """folder: for the data of all."""
        self._folder = folder
        addresses = free_addresses(6)
        self._client, self._peer = addresses[:3], addresses[3:]
        self._processes = [self._start(number) for number in range(3)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        peers = ",".join(f"m{one}=http://{address}" for one, address in enumerate(self._peer))
        settings = {
            "name": f"m{number}",
            "data-dir": str(self._folder / f"m{number}"),
            "listen-client-urls": f"http://{self._client[number]}",
            "advertise-client-urls": f"http://{self._client[number]}",
            "listen-peer-urls": f"http://{self._peer[number]}",
            "initial-advertise-peer-urls": f"http://{self._peer[number]}",
            "initial-cluster": peers,
            "log-level": "error",
            "logger": "zap",
        }
        with (self._folder / f"m{number}.err").open("ab") as errors:
            return subprocess.Popen(
                ["etcd", *(f"--{name}={value}" for name, value in settings.items())], stdout=errors, stderr=errors
            )

    def _status(self, number: int) -> tuple[int, int, int]:
        """(own id, the leader's id or 0, applied index) as one member tells. Raises CallFailed, OSError."""
        connection = Connection(self._client[number])
        try:
            found = fields(connection.call(STATUS, b""))
        finally:
            connection.close()
        header = found[1]
        assert isinstance(header, bytes)
        own, leader, applied = fields(header)[2], found.get(4, 0), found.get(7, 0)
        assert isinstance(own, int)
        assert isinstance(leader, int)
        assert isinstance(applied, int)
        return own, leader, applied

    def leader(self, among: tuple[int, ...] = (0, 1, 2)) -> int:
        """The number of the member that says it leads, as soon as one of `among` does. Raises TimeoutError."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            for number in among:
                try:
                    own, leader, _applied = self._status(number)
                except (CallFailed, OSError):
                    continue
                if own == leader:
                    return number
            time.sleep(_LOOK_S)
        raise TimeoutError(f"etcd has no leader after {START_S} s: see {self._folder}/*.err")

    def load(self, connections: int, seconds: float, repeats: int) -> Load:
        """Closed loops to the leader, after a warm-up: the run with the median rate."""
        address = self._client[self.leader()]
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(_measure, (address, connections, WARM_UP_S))
            return median_load([pool.apply(_measure, (address, connections, seconds)) for _ in range(repeats)])

    def kill_leader(self) -> tuple[float, float]:
        """As `Cluster.kill_leader`."""
        killed = self.leader()
        self._await_applied()
        others = tuple(number for number in range(3) if number != killed)
        killed_s = time.monotonic()
        self._processes[killed].kill()
        self._processes[killed].wait()
        leader = self.leader(others)
        led_s = time.monotonic()
        connection = Connection(self._client[leader])
        connection.call(PUT, Put()())
        committed_s = time.monotonic()
        connection.close()
        self._processes[killed] = self._start(killed)
        self._await_applied()
        return (led_s - killed_s) * 1000, (committed_s - killed_s) * 1000

    def _await_applied(self) -> None:
        target = self._status(self.leader())[2]
        deadline_s = time.monotonic() + START_S
        while min(self._applied(number) for number in range(3)) < target:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"a member of etcd does not catch up: see {self._folder}/*.err")
            time.sleep(_LOOK_S)

    def _applied(self, number: int) -> int:
        """A member's applied index; -1 while it is not up."""
        try:
            return self._status(number)[2]
        except (CallFailed, OSError):
            return -1

    def outages(self, count: int) -> Outage:
        """`count` times `kill_leader`."""
        return outage_of([self.kill_leader() for _ in range(count)])

    def stop(self) -> None:
        """End all members."""
        with ExitStack() as stack:
            for process in self._processes:
                stack.callback(process.wait)
                process.terminate()


@contextmanager
def running(folder: Path) -> Iterator[Etcd]:
    """An etcd for as long as the block lasts."""
    etcd = Etcd(folder)
    try:
        yield etcd
    finally:
        etcd.stop()

"""Remote clients of prime in a process of their own: each a connection, with one command at a time in flight.

Asked like a member (`processes`), so that its share of the processors is seen apart from the leader's.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final

import msgspec

from scripts.bench_consensus.measure import COMMAND_BYTES, load_of
from scripts.bench_consensus.prime_member import CLUSTER, KEY, MARK_BYTES, loop_factory
from scripts.bench_consensus.processes import MemberConfig, member_config, say
from transport.frames import Envelope, Frame, Kind, Lane
from transport.zmq import Transport

CONNECT_S: Final = 0.01


class Clients:
    """As many connections to the leader as the options say. Their numbers are their marks."""

    def __init__(self, config: MemberConfig) -> None:
        """config.addresses: the leader's alone."""
        self._latencies_ns: list[int] = []
        self._started_ns: dict[bytes, int] = {}
        self._errors = self._running = 0
        self._end_ns = 0
        self._done = asyncio.Event()
        self._command = bytes(COMMAND_BYTES)
        self._transport = Transport(Envelope(CLUSTER, 1, 0, 0), KEY, self._on_frames)
        (address,) = config.addresses.values()
        self._count = int(config.options["clients"])
        for number in range(self._count):
            self._transport.connect(number, address)

    async def load(self, seconds: float) -> dict[str, Any]:
        """Propose for so many seconds."""
        self._latencies_ns.clear()
        self._done.clear()
        self._errors, self._running = 0, self._count
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        self._end_ns = time.perf_counter_ns() + int(seconds * 1e9)
        for number in range(self._count):
            await self._begin(number.to_bytes(MARK_BYTES))
        await self._done.wait()
        took_s = time.perf_counter() - begin_s
        load = load_of(self._count, took_s, self._latencies_ns, self._errors)
        cpu = round((time.process_time() - begin_cpu_s) / took_s, 2)
        return msgspec.to_builtins(msgspec.structs.replace(load, client_cpu=cpu))  # type: ignore[no-any-return]

    async def _begin(self, mark: bytes) -> None:
        """The first command of a connection, as soon as it stands."""
        while True:
            if self._propose(mark):
                return
            await asyncio.sleep(CONNECT_S)

    def _propose(self, mark: bytes) -> bool:
        self._started_ns[mark] = time.perf_counter_ns()
        return self._transport.send(int.from_bytes(mark), Lane.CONTROL, mark + self._command, Kind.REQUEST)

    def _on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            now_ns = time.perf_counter_ns()
            mark, committed = frame.payload[:MARK_BYTES], frame.payload[MARK_BYTES:]
            if committed == b"\x01":
                self._latencies_ns.append(now_ns - self._started_ns[mark])
            else:
                self._errors += 1
            if now_ns >= self._end_ns or not self._propose(mark):
                self._running -= 1
                if not self._running:
                    self._done.set()


async def main() -> None:
    """Serve until the bench closes the pipe."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    clients = Clients(member_config())
    while line := await reader.readline():
        asked = msgspec.json.decode(line)
        del asked["do"]
        say({"answer": await clients.load(**asked)})


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())

"""One member of a PySyncObj cluster: a journal on disk, which it never fsyncs."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
from pysyncobj import SyncObj, SyncObjConf, replicated

from scripts.bench_consensus.measure import COMMAND_BYTES, load_of
from scripts.bench_consensus.processes import MemberConfig, member_config, say, serve

LEADER = 2  # pysyncobj.syncobj._RAFT_STATE


class Register(SyncObj):  # type: ignore[misc]  # the library has no types
    """The smallest thing that can be replicated: it keeps the last value."""

    def __init__(self, config: MemberConfig) -> None:
        others = [address for number, address in config.addresses.items() if number != config.id]
        options = {name: value for name, value in config.options.items() if name != "tick_s"}
        folder = Path(config.data_dir)
        conf = SyncObjConf(
            journalFile=str(folder / "journal"),
            fullDumpFile=str(folder / "dump"),  # or a member whose journal was compacted cannot come back
            onStateChanged=self._on_state_changed,
            **options,
        )
        super().__init__(config.addresses[config.id], others, conf)
        self.last = b""

    @replicated  # type: ignore[untyped-decorator]
    def put(self, value: bytes) -> None:
        """The command."""
        self.last = value

    def connected(self) -> bool:
        """Whether it has a connection to every other member: it tries again every 5 s only."""
        return all(self.isNodeConnected(node) for node in self.otherNodes)

    def _on_state_changed(self, _old: int, new: int) -> None:
        if new == LEADER:
            say({"event": "leader", "at_ns": time.monotonic_ns()})
            self.put(bytes(COMMAND_BYTES), callback=_on_first_commit)


def _on_first_commit(_result: Any, error: int) -> None:
    if not error:
        say({"event": "commit", "at_ns": time.monotonic_ns()})


class ClosedLoop:
    """Proposals that follow each other, from the library's own callbacks: nothing waits for a thread to be woken."""

    def __init__(self, register: Register, in_flight: int, seconds: float) -> None:
        self._register, self._in_flight, self._seconds = register, in_flight, seconds
        self._latencies_ns: list[int] = []
        self._errors = 0
        self._end_ns = 0
        self._left = in_flight
        self._done = threading.Event()

    def run(self) -> dict[str, Any]:
        """Propose for so many seconds."""
        begin_ns = time.perf_counter_ns()
        self._end_ns = begin_ns + int(self._seconds * 1e9)
        for _ in range(self._in_flight):
            self._propose()
        self._done.wait()
        took_s = (time.perf_counter_ns() - begin_ns) / 1e9
        return msgspec.to_builtins(load_of(self._in_flight, took_s, self._latencies_ns, self._errors))  # type: ignore[no-any-return]

    def _propose(self) -> None:
        begin_ns = time.perf_counter_ns()

        def committed(_result: Any, error: int) -> None:
            now_ns = time.perf_counter_ns()
            if error:
                self._errors += 1
            else:
                self._latencies_ns.append(now_ns - begin_ns)
            if now_ns < self._end_ns:
                self._propose()
            else:
                self._left -= 1
                if not self._left:
                    self._done.set()

        self._register.put(bytes(COMMAND_BYTES), callback=committed)


def main() -> None:
    """Serve until the bench closes the pipe. The option `tick_s` drives it by a loop of ours, which waits that long."""
    logging.disable()
    config = member_config()
    register = Register(config)
    stopped = threading.Event()
    ticker = None
    if not config.options.get("autoTick", True):
        ticker = threading.Thread(target=_tick, args=(register, config.options["tick_s"], stopped))
        ticker.start()
    serve(
        {
            "leads": lambda: register.getStatus()["state"] == LEADER and register.isReady(),
            "load": lambda in_flight, seconds: ClosedLoop(register, in_flight, seconds).run(),
            "applied": lambda: register.raftLastApplied if register.connected() else -1,
        }
    )
    stopped.set()
    if ticker is not None:
        ticker.join()
    register.destroy()


def _tick(register: Register, wait_s: float, stopped: threading.Event) -> None:
    while not stopped.is_set():
        register.doTick(wait_s)


if __name__ == "__main__":
    main()

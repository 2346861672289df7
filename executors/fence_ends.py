"""How a watchdog ends attempts: SIGTERM, after a grace SIGKILL, again and again until each is seen ended.

What is needed to find one is in its guard's `end`, a JSON object whose `kind` says how to read it:

    process     {"kind", "state", "directory", "limit_us"}    see `fence_proc.work_of`
    docker      {"kind", "url", "certificates", "name", "directory"}
    agent       {"kind"}: it runs within the agent, and ends with it

An engine that hangs, or hundreds of attempts, must not hold up the end of one of them: all local attempts are looked at
by one thread, and each container has a thread of its own.

This file is for the watchdog, which has nothing but the standard library.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from executors import fence_proc
from executors.fence_state import Guard
from executors.proc import boot_id

if TYPE_CHECKING:
    from executors.fence_docker import Engine

AGAIN_S: Final = 0.05  # between looks at what is being ended
CONTAINER_AGAIN_S: Final = 0.2
SILENT_MAX_S: Final = 2.0  # the same where the engine does not answer: it may be gone for good, and the work with it
QUIET: Final = 2  # looks that must find nothing: one may miss a process that forks and ends while it looks
LOOK_S: Final = 1.0  # between looks at a container that has ended, whose start may still be under way
KINDS: Final = ("process", "docker", "agent")


def boottime_s() -> float:
    """CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def problem_of(end: dict[str, Any]) -> str:
    """Why an attempt that is found in this way could not be ended; "" = it could. Does what would take time then."""
    try:
        match end["kind"]:
            case "process":
                known = type(end["limit_us"]) is int and str(end["state"]).startswith("/")
                return "" if known and str(end["directory"]).startswith("/") else f"{end}: no local attempt is named"
            case "docker":
                _engine(end)
                return "" if end["name"] and end["directory"] else f"{end}: no container is named"
            case "agent":
                return ""
            case kind:
                return f"attempts of the kind {kind!r} cannot be ended by the watchdog; it knows {', '.join(KINDS)}"
    except (KeyError, ValueError) as error:
        return f"{end}: {error}"


def _engine(end: dict[str, Any]) -> Engine:
    from executors.fence_docker import Engine

    return Engine(str(end["url"]), str(end.get("certificates") or ""))


class Ends:
    """The attempts that are being ended, and have been."""

    def __init__(self, on_ended: Callable[[], None]) -> None:
        """on_ended: called in some thread whenever one is seen ended."""
        self._on_ended = on_ended
        self._lock = threading.Lock()
        self._wanted: dict[str, Guard] = {}
        self._ended: set[str] = set()

    def begin(self, guards: Iterable[tuple[Guard, float]]) -> None:
        """End these. With each: CLOCK_BOOTTIME from when on SIGTERM was enough. Returns at once."""
        guards = list(guards)
        with self._lock:
            self._wanted.update({one.name: one for one, _ in guards})
        local = [(one, kill_at_s) for one, kill_at_s in guards if one.end["kind"] == "process"]
        if local:
            self._thread(self._end_local, local)
        for guard, kill_at_s in guards:
            if guard.end["kind"] == "docker":
                self._thread(self._end_container, guard, kill_at_s)
            elif guard.end["kind"] == "agent":  # the agent is dead, or ends it
                self._note(guard.name)

    def release(self, name: str) -> None:
        """The agent has the end of this one on record."""
        with self._lock:
            self._wanted.pop(name, None)
            self._ended.discard(name)

    def ended(self, name: str) -> bool:
        """Whether this one was seen ended."""
        with self._lock:
            return name in self._ended

    @staticmethod
    def _thread(target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _is_wanted(self, name: str) -> bool:
        with self._lock:
            return name in self._wanted

    def _note(self, name: str) -> None:
        with self._lock:
            new = name in self._wanted and name not in self._ended
            if new:
                self._ended.add(name)
        if new:
            self._on_ended()

    # -- local attempts ----------------------------------------------------------------------------------------------

    def _end_local(self, guards: list[tuple[Guard, float]]) -> None:
        """None of them starts any more: the not-after of each start lies before the lease's end."""
        boot = boot_id()
        quiet = dict.fromkeys((one.name for one, _ in guards), 0)
        asked: set[tuple[int, int]] = set()
        left = {one.name: (one, kill_at_s) for one, kill_at_s in guards}
        while left:
            seen = fence_proc.look()
            for name, (guard, kill_at_s) in list(left.items()):
                kill = boottime_s() >= kill_at_s
                work = fence_proc.work_of(guard.end, seen, boot)
                quiet[name] = 0 if work else quiet[name] + 1
                for one in work:
                    key = (one.pid, one.start_ticks)
                    if kill or key not in asked:
                        asked.add(key)
                        fence_proc.send(*key, signal.SIGKILL if kill else signal.SIGTERM)
                if quiet[name] == QUIET:
                    del left[name]
                    self._note(name)
            time.sleep(AGAIN_S)

    # -- containers --------------------------------------------------------------------------------------------------

    def _end_container(self, guard: Guard, kill_at_s: float) -> None:
        """Until the agent has its end on record: a start that the engine has taken may come at any time before."""
        from executors.fence_docker import EngineSilent

        engine, name = _engine(guard.end), str(guard.end["name"])
        asked = killed = False
        silent_s = CONTAINER_AGAIN_S
        while self._is_wanted(guard.name):
            kill = boottime_s() >= kill_at_s
            wait_s = CONTAINER_AGAIN_S
            try:
                state = engine.look(name)
                silent_s = CONTAINER_AGAIN_S
                if not state.runs:
                    if state.status == "created":
                        engine.discard(name)
                    else:
                        self._note(guard.name)
                        wait_s = LOOK_S
                elif kill:
                    if killed:  # the engine was told, and it runs
                        fence_proc.kill_mounted(guard.end["directory"])
                    engine.kill(name, "SIGKILL")
                    killed = True
                elif not asked:
                    engine.kill(name, state.stop_signal)
                    asked = True
            except EngineSilent:
                if kill:
                    fence_proc.kill_mounted(guard.end["directory"])
                wait_s = silent_s = min(SILENT_MAX_S, 1.1 * silent_s)
            time.sleep(wait_s)


def may_run(guards: Iterable[Guard], agent_runs: Callable[[], bool]) -> bool:
    """Whether one of them may run still. Takes as long as their engines take to answer."""
    boot, seen = boot_id(), fence_proc.look()
    return any(_may_run(one.end, boot, seen, agent_runs) for one in guards)


def _may_run(end: dict[str, Any], boot: str, seen: dict[int, fence_proc.Seen], agent_runs: Callable[[], bool]) -> bool:
    if end["kind"] == "agent":
        return agent_runs()
    if end["kind"] == "process":
        return not fence_proc.has_ended(end, seen, boot)
    from executors.fence_docker import EngineSilent

    try:
        state = _engine(end).look(str(end["name"]))
    except EngineSilent:
        return True
    return state.runs or state.status == "created"

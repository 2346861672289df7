"""An agent on a host of its own, as far as one machine can give it: a network, a small disk, a wall clock."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agent.client import Client
from tests.e2e.agents import AgentProcess
from tests.e2e.chaos import lan
from tests.small_disk import BALLAST, fill

DISK_MIB: Final = 320  # two segments of the log, a snapshot, and room
ASK_S: Final = 5.0
SOURCE: Final = Path(__file__).with_name("wall_clock.c")
SLOTS: Final = "8"


def wall_clock(root: Path) -> Path | None:
    """The library that puts an agent's wall clock off; None where there is no compiler to make it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    made = root / "wall_clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(made), str(SOURCE)], check=True)
    return made


def parent(pid: int) -> int:
    """Of a process; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def engines() -> list[int]:
    """The processes that local work is started by, of any agent on this machine, and the supervisors they have made."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and _is_engine(entry)]


def _is_engine(process: Path) -> bool:
    try:
        return b"supervisor.py\0--server" in (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended


class Site(AgentProcess):
    """One agent of the cluster. It can be started again after whatever has happened to it."""

    def __init__(self, root: Path, number: int, token: str, clock: Path | None, *options: str) -> None:
        """clock: see `wall_clock`."""
        self.number, self.name, self._token = number, f"a{number}", token
        self._disk, self._off = root / self.name, root / f"{self.name}.clock"
        self._off.write_bytes(bytes(8))
        environment = {"LD_PRELOAD": str(clock), "CHAOS_CLOCK": str(self._off)} if clock else {}
        ip = lan.address(number)
        own = ("--bind", f"{ip}:9101", "--http", f"{ip}:9100", "--executors", "process", "--slots", SLOTS)
        super().__init__(self._disk / "data", *own, *options, environment=environment)
        self.log = root / f"{self.name}.log"  # beside the disk: it is to be read when that is full
        self.prefix = lan.within(number)
        self._ballast = self._disk / BALLAST
        self.was_full = False  # since it was started
        self._hung: list[int] = []
        self._disk.mkdir()
        size = f"size={DISK_MIB}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self._disk)], check=True)

    def start(self, *, wait: bool = True) -> None:
        """See `AgentProcess`."""
        self.was_full = self._ballast.exists()
        super().start(wait=wait)

    @property
    def url(self) -> str:
        """Where it answers, whether it runs or not."""
        return f"http://{lan.address(self.number)}:9100"

    def client(self) -> Client:
        """A client of this agent alone, that gives up soon."""
        return Client([self.url], "chaos", limit_s=ASK_S, token=self._token)

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it has ended; negative: the signal. None = it runs, or was never started."""
        return None if self._process is None else self._process.poll()

    def cluster(self) -> dict[str, Any]:
        """What `prime cluster status` shows here."""
        answer: dict[str, Any] = self.client().get("/api/v1/cluster")
        return answer

    # -- what can happen to it -----------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """SIGSTOP; its watchdog, and its work, go on."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT, unless it is gone: its watchdog does not wait for ever."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def hang_engine(self) -> int:
        """SIGSTOP to the process that its local work is forked from: what was asked for waits.

        Its supervisors, which go by the same name, and their work go on. Returns how many it is: 0 where the agent is
        away.
        """
        found = [pid for pid in engines() if self.runs and parent(pid) == self.pid]
        for pid in found:
            self._hung.append(pid)
            os.kill(pid, signal.SIGSTOP)
        return len(found)

    def wake_engine(self) -> None:
        """It goes on, and carries out what still stands."""
        while self._hung:
            pid = self._hung.pop()
            if pid in engines():
                os.kill(pid, signal.SIGCONT)

    def lose_power(self) -> None:
        """SIGKILL to all that runs on its host: agent, watchdog, work. What it has written stays."""
        while found := self._everything():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._process is not None:
                self._process.poll()

    def remove(self) -> None:
        """End all of it, and its disk with it. What it has logged stays."""
        self.lose_power()
        subprocess.run(["umount", "--lazy", str(self._disk)], check=True)

    def _everything(self) -> list[int]:
        """All processes in its network, but those that are dead already."""
        network = Path(f"/run/netns/{self.name}").stat().st_ino
        found = []
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
            try:
                if Path(f"/proc/{pid}/ns/net").stat().st_ino == network:
                    found.append(pid)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # gone; a dead one's namespaces cannot be read any more
        return found

    def fill_disk(self) -> None:
        """No room, for anything."""
        self.was_full = True
        fill(self._disk)

    def free_disk(self) -> None:
        """Room again."""
        self._ballast.unlink(missing_ok=True)

    def set_clock(self, off_s: int) -> None:
        """Its wall clock is off by so much from now on."""
        with self._off.open("r+b") as file:
            file.write(off_s.to_bytes(8, "little", signed=True))

"""A network of its own for each agent, on one bridge, with links that can be cut one way or both.

All of it lives in namespaces of one process (network, processes, mounts) and is gone with it, however it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NoReturn

INSIDE: Final = "PRIME_CHAOS_INSIDE"
HOST: Final = "10.77.0.1"  # the clients', on the bridge itself
_NAMESPACES: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_NEEDED: Final = ("unshare", "nsenter", "ip", "iptables-restore", "flock", "mount")
_NAMES: Final = Path("/run/netns")
_TRIAL: Final = (
    f"mkdir -p {_NAMES} && mount -t tmpfs tmpfs {_NAMES} && ip netns add trial && ip link add lan type bridge"
)
_RULES: Final = f"{_TRIAL} && ip netns exec trial iptables-restore < /dev/null"

Link = tuple[int, int]
"""(from, to): numbers of agents. What is sent that way gets lost while the link is cut."""


def impossible() -> str | None:
    """Why there can be no such network here; None = there can be."""
    if os.geteuid() != 0:
        return "network namespaces are made as root"
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install util-linux iproute2 iptables)"
    done = subprocess.run([*_NAMESPACES, "sh", "-c", _RULES], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"a network namespace cannot be made: {done.stderr.strip()}"


def inside() -> bool:
    """Whether this process has namespaces of its own."""
    return os.environ.get(INSIDE) == "yes"


def go_inside(module: str, arguments: Sequence[str]) -> NoReturn:
    """Become this Python's module with namespaces of its own. When this process ends, all that it began is gone.

    A shell is the first process in there: it takes in what dead agents leave.
    """
    run = 'set -e; mkdir -p "$0"; mount -t tmpfs tmpfs "$0"; rc=0; "$@" || rc=$?; exit $rc'
    command = [*_NAMESPACES, "bash", "-c", run, str(_NAMES), sys.executable, "-m", module, *arguments]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "yes"})


def address(number: int) -> str:
    """Of an agent."""
    return f"10.77.0.{10 + number}"


def within(number: int) -> list[str]:
    """What to put before a command that is to run in that agent's network."""
    return ["nsenter", f"--net={_NAMES}/a{number}", "--"]


class Lan:
    """The bridge and its agents' networks."""

    def __init__(self, agents: int) -> None:
        """Make it. Raises CalledProcessError."""
        assert inside()
        self._agents = agents
        self._cut: dict[object, frozenset[Link]] = {}
        self._rules: dict[int, list[int]] = {number: [] for number in range(agents)}
        _ip("link set lo up", "link add lan type bridge", f"addr add {HOST}/24 dev lan", "link set lan up")
        for number in range(agents):
            name = f"a{number}"
            _ip(f"netns add {name}", f"link add {name} type veth peer name eth0 netns {name}")
            _ip(f"link set {name} master lan up", f"-n {name} addr add {address(number)}/24 dev eth0")
            _ip(f"-n {name} link set eth0 up", f"-n {name} link set lo up")

    def cut(self, why: object, links: Iterable[Link]) -> None:
        """Lose what is sent over these links, until the same reason is mended."""
        self._cut[why] = frozenset(links)
        self._follow()

    def mend(self, why: object) -> None:
        """These links carry again, where no other reason cuts them."""
        self._cut.pop(why, None)
        self._follow()

    def _follow(self) -> None:
        cut = frozenset[Link]().union(*self._cut.values())
        for to in range(self._agents):
            lost = sorted(sender for sender, receiver in cut if receiver == to)
            if lost != self._rules[to]:
                drops = "".join(f"-A INPUT -s {address(sender)} -j DROP\n" for sender in lost)
                text = f"*filter\n:INPUT ACCEPT\n{drops}COMMIT\n"
                subprocess.run([*within(to), "iptables-restore"], input=text, text=True, check=True)
                self._rules[to] = lost


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)

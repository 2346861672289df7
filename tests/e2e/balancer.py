"""A real load balancer for tests: Debian's haproxy in front of agents, asking each whether it is ready."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import pytest

INSTALL_TIMEOUT_S: Final = 300
CONFIG: Final = """
global
  maxconn 200
defaults
  mode http
  option forwardfor
  option redispatch
  timeout connect 1s
  timeout client 120s
  timeout server 120s
frontend prime
  bind {address}
  default_backend agents
backend agents
  balance roundrobin
  option httpchk GET /readyz
  default-server check inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
"""


class NoBalancer(Exception):
    """No haproxy could be had here; the message says why."""


def without_balancer(reason: NoBalancer) -> NoReturn:
    """Skip the test, or fail it where CI promises a load balancer."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true promises a haproxy: {reason}")
    pytest.skip(f"no haproxy: {reason}")


@contextmanager
def balancer(directory: Path, address: str, agents: Sequence[str]) -> Iterator[str]:
    """The URL of a balancer that listens on `address`, HOST:PORT, before agents at such. Raises NoBalancer."""
    program = _program()
    config = directory / "haproxy.cfg"
    servers = "".join(f"  server agent{number} {one}\n" for number, one in enumerate(agents))
    config.write_text(CONFIG.format(address=address) + servers)
    with (directory / "haproxy.log").open("ab") as log:
        process = subprocess.Popen([program, "-db", "-f", str(config)], stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def _program() -> str:
    search = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    found = shutil.which("haproxy", path=search)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "haproxy"]):
            subprocess.run(command, check=True, capture_output=True, env=environment, timeout=INSTALL_TIMEOUT_S)
        found = shutil.which("haproxy", path=search)
    if found is None:
        raise NoBalancer("haproxy is not installed; run: sudo apt-get install haproxy")
    return found

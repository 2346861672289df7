"""Docker engines for tests: the test run's, and those a test may kill."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
IMAGE = "busybox:1.36"
START_TIMEOUT_S = 300  # an installation of packages included


class NoEngine(Exception):
    """No engine could be had here; the message says why."""


class OwnEngine:
    """An engine below a directory, which may be stopped, killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"

    def start(self) -> None:
        """Raises NoEngine."""
        _script("docker-engine", "start", "--own", "--dir", str(self.directory))
        _script("test-image", host=self.url)

    def stop(self, *, keep_data: bool) -> None:
        """End it as a machine that goes down does, its containers with it. keep_data: it can be started again."""
        options = ["--keep-data"] if keep_data else []
        _script("docker-engine", "stop", "--dir", str(self.directory), *options)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to dockerd alone."""
        os.kill(self._pid(), number)

    def kill(self) -> None:
        """SIGKILL dockerd, and return when it is gone."""
        pid = self._pid()
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            while Path(f"/proc/{pid}/stat").exists() and not _is_zombie(pid):
                time.sleep(0.01)  # its parent may be the script's, so there is nothing to wait on
        finally:
            os.close(descriptor)

    def _pid(self) -> int:
        return int((self.directory / "docker.pid").read_text())


@contextmanager
def own_engine() -> Iterator[OwnEngine]:
    """A new engine, gone in the end. Raises NoEngine."""
    with tempfile.TemporaryDirectory(prefix="prime-docker-") as folder:  # short: a socket's path has 108 bytes
        engine = OwnEngine(Path(folder) / "d")
        try:
            engine.start()
            yield engine
        finally:
            engine.stop(keep_data=False)


@contextmanager
def any_engine() -> Iterator[str]:
    """The URL of an engine with the test image: one that is there, or a new one. Raises NoEngine."""
    with tempfile.TemporaryDirectory(prefix="prime-docker-") as folder:
        directory = Path(folder) / "d"
        try:
            output = _script("docker-engine", "start", "--dir", str(directory))
            url = output.strip().removeprefix("export DOCKER_HOST=")
            _script("test-image", host=url)
            yield url
        finally:
            _script("docker-engine", "stop", "--dir", str(directory))


def without_engine(reason: NoEngine) -> NoReturn:
    """Skip the test, or fail it where CI promises an engine."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true promises a Docker engine: {reason}")
    pytest.skip(f"no Docker engine: {reason}")


def _script(name: str, *arguments: str, host: str | None = None) -> str:
    environment = dict(os.environ) if host is None else {**os.environ, "DOCKER_HOST": host}
    done = subprocess.run(
        [str(SCRIPTS / name), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise NoEngine(f"{name} {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True

"""A real PostgreSQL for tests: Debian's package, started below a directory, on a Unix socket and nothing else."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

START_TIMEOUT_S = 60
INSTALL_TIMEOUT_S = 300
USER = "postgres"  # the server refuses to run as root


class NoDatabase(Exception):
    """No PostgreSQL could be had here; the message says why."""


def without_database(reason: NoDatabase) -> NoReturn:
    """Skip the test, or fail it where CI promises a database."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true promises a PostgreSQL: {reason}")
    pytest.skip(f"no PostgreSQL: {reason}")


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a new server's database, gone in the end. Raises NoDatabase."""
    given = os.environ.get("PRIME_TEST_POSTGRESQL")
    if given:
        yield given
        return
    with own_server() as server:
        yield server.url


class Server:
    """A server that a test may kill and start again."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs, self._directory = programs, directory
        self._runs = False
        self.url = f"postgresql://{USER}@/postgres?host={directory}"

    def start(self) -> None:
        """Return when it takes connections; at once if it runs. Raises NoDatabase."""
        if self._runs:
            return
        options = f"-c listen_addresses='' -c unix_socket_directories={self._directory} -c fsync=off"
        self._control("start", "-l", str(self._directory / "log"), "-o", options)
        self._runs = True

    def kill(self) -> None:
        """End it, if it runs, as a crash does: its clients are cut off, and the next start has to recover."""
        if self._runs:
            self._control("stop", "-m", "immediate")
        self._runs = False

    def _control(self, what: str, *options: str) -> None:
        _run(self._programs / "pg_ctl", what, "--wait", "-D", str(self._directory / "data"), *options)


@contextmanager
def own_server() -> Iterator[Server]:
    """A new server, gone in the end. Raises NoDatabase."""
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="prime-pg-") as folder:  # short: a socket's path has 108 bytes
        directory = Path(folder)
        if os.geteuid() == 0:
            shutil.chown(directory, USER)
        data = directory / "data"
        _run(programs / "initdb", "--pgdata", str(data), "--auth", "trust", "--username", USER, "--no-sync")
        server = Server(programs, directory)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _programs() -> Path:
    """Where the server's programs are; Debian keeps each version apart, and off PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        install = Path(__file__).parent.parent / "scripts" / "apt-install"
        subprocess.run([str(install), "postgresql"], check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise NoDatabase("PostgreSQL is not installed; run: sudo apt-get install postgresql")
    return found[-1].parent


def _run(program: Path, *arguments: str) -> None:
    user = pwd.getpwnam(USER).pw_name if os.geteuid() == 0 else None
    done = subprocess.run(
        [str(program), *arguments],
        check=False,
        stdout=subprocess.DEVNULL,  # the server that pg_ctl leaves behind would hold a pipe open
        stderr=subprocess.DEVNULL,
        user=user,
        cwd="/",
        timeout=START_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise NoDatabase(f"{program.name} failed with exit code {done.returncode}")

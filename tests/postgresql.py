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
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="prime-pg-") as folder:  # short: a socket's path has 108 bytes
        directory = Path(folder)
        if os.geteuid() == 0:
            shutil.chown(directory, USER)
        data = directory / "data"
        _run(programs / "initdb", "--pgdata", str(data), "--auth", "trust", "--username", USER, "--no-sync")
        server = f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off"
        _run(programs / "pg_ctl", "start", "--wait", "-D", str(data), "-l", str(directory / "log"), "-o", server)
        try:
            yield f"postgresql://{USER}@/postgres?host={directory}"
        finally:
            _run(programs / "pg_ctl", "stop", "--wait", "-D", str(data), "-m", "immediate")


def _programs() -> Path:
    """Where the server's programs are; Debian keeps each version apart, and off PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "postgresql"]):
            subprocess.run(command, check=True, capture_output=True, env=environment, timeout=INSTALL_TIMEOUT_S)
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

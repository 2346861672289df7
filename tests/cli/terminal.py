"""Runs `prime` in this process, in a folder of the test's choice."""

from __future__ import annotations

import json
import os
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from agent.cli.main import cli

DATA = Path(__file__).parent / "data"
SHOP = DATA / "shop"
BROKEN = DATA / "broken"
NOBODY = "http://127.0.0.1:1"  # a port on which nothing listens


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The JSON document on stdout; fails with stderr where there is none."""
        try:
            return json.loads(self.out)
        except ValueError:
            raise AssertionError(f"exit code {self.code}, {self.out!r}, {self.err!r}") from None


def prime(
    *words: str | Path, folder: Path | None = None, stdin: str | bytes | None = None, env: dict[str, str] | None = None
) -> Answer:
    """Run a command. Whatever else is raised than what a terminal would be told is a failure of the test."""
    environment = {"PRIME_HOST": None, "NO_COLOR": None, **(env or {})}
    with chdir(folder or Path.cwd()):
        done = CliRunner().invoke(
            cli, [os.fspath(word) for word in words], input=stdin, env=environment, prog_name="prime"
        )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Answer(done.exit_code, done.stdout, done.stderr)

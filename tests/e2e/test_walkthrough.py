"""docs/walkthrough.md does what it shows, on three agents with the leader killed in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.client import Client
from tests.e2e.agents import PROGRAM
from tests.e2e.cluster import free_ports, until
from tests.e2e.walkthrough import Shell, follow

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "walkthrough.md"
AGENTS = 3
APART = 10  # between the ports of two agents of `prime dev`

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A terminal in a copy of the examples, where `prime dev` runs in another one."""
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder)
    port = next(one for one in iter(lambda: free_ports(1)[0], None) if one + APART * AGENTS < 32_000)
    urls = [f"http://127.0.0.1:{port + APART * number}" for number in range(AGENTS)]
    paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": paths, "PRIME_HOST": ",".join(urls), "NO_COLOR": "1", "COLUMNS": "200"}
    with (tmp_path / "dev.txt").open("wb") as said:
        dev = subprocess.Popen([*PROGRAM, "dev", "--http", f"127.0.0.1:{port}"], cwd=folder, stdout=said, stderr=said)
    shell = Shell(folder, environment)
    try:
        until(lambda: "is applied" in (tmp_path / "dev.txt").read_text(), "the project is applied")
        for url in urls:
            Client([url]).get("/readyz")
        yield shell
    finally:
        shell.close()
        dev.send_signal(signal.SIGTERM)
        dev.wait(30)


def placed(text: str, root: Path, port: int) -> str:
    """With files and a port of the test's own in the place of those for everybody."""
    for name in ("prime-pipeline", "rates"):
        text = text.replace(f"/tmp/{name}", str(root / name))
    return text.replace("8899", str(port))


def test_the_walkthrough_does_what_it_shows(shell: Shell, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    for file in (tmp_path / "examples" / "pipeline").glob("*/optimus.yaml"):
        file.write_text(placed(file.read_text(), tmp_path, port))
    follow(placed(DOCUMENT.read_text(), tmp_path, port), shell)

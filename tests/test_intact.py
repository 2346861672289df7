"""A start looks at the whole data directory before it makes anything in it: what is lost is told, and not replaced."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import intact
from agent.config import AgentConfig
from agent.daemon import Daemon, serve
from agent.errors import ConfigError
from agent.identity import FILE, load_identity
from agent.store.history import History
from agent.store.journal import Journal
from tests.cli.terminal import prime

PARTS = ("log", "history.db", "journal.db", "secret.key")


def start_and_stop(data_dir: Path, key: str = "") -> None:
    """A whole agent, from its start until it takes work and back."""
    config = AgentConfig(data_dir=data_dir, http="127.0.0.1:0", bind="127.0.0.1:0", executors=("mock",), secret_key=key)

    async def run() -> None:
        stop = asyncio.Event()

        def started(_daemon: Daemon) -> None:
            stop.set()

        async with asyncio.timeout(60):
            await serve(config, started=started, stop=stop)

    asyncio.run(run())


def lose(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("part", PARTS)
def test_p9_a_lost_part_is_told_and_nothing_is_made_in_its_place(tmp_path: Path, part: str) -> None:
    start_and_stop(tmp_path)
    start_and_stop(tmp_path)
    lose(tmp_path / part)
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match=rf"this agent's {re.escape(part)}/? is missing\. Nothing was changed"):
        start_and_stop(tmp_path)
    assert everything(tmp_path) == before


def test_p9_all_that_is_lost_is_told_at_once(tmp_path: Path) -> None:
    start_and_stop(tmp_path)
    for part in PARTS:
        lose(tmp_path / part)
    (tmp_path / "log").mkdir()
    (tmp_path / "history.db").touch()
    with pytest.raises(ConfigError, match=r"log/, history\.db, journal\.db, secret\.key are missing") as caught:
        start_and_stop(tmp_path)
    assert "an empty directory" in str(caught.value)


def test_p9_the_rest_of_an_agent_without_its_identity_is_no_new_agent(tmp_path: Path) -> None:
    start_and_stop(tmp_path)
    lose(tmp_path / FILE)
    for found in (r"log, history\.db, journal\.db", r"history\.db, journal\.db", r"journal\.db"):
        with pytest.raises(ConfigError, match=rf"identity\.json: is missing, but there is {found}; restore"):
            start_and_stop(tmp_path)
        lose(tmp_path / found.partition(",")[0].replace("\\", ""))


def test_a_key_elsewhere_is_made_at_the_first_start_and_must_be_there_at_every_other(tmp_path: Path) -> None:
    key = tmp_path / "safe" / "key"
    data_dir = tmp_path / "data"
    for _ in range(2):
        start_and_stop(data_dir, str(key))
    assert not (data_dir / "secret.key").exists()
    key.unlink()
    with pytest.raises(ConfigError, match=f"key file {key} is missing"):
        start_and_stop(data_dir, str(key))
    assert not key.exists()


def test_a_first_start_that_was_cut_short_goes_on_wherever_that_was(tmp_path: Path) -> None:
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: load_identity(tmp_path),
        (tmp_path / "log").mkdir,
        lambda: History.open(tmp_path / "history.db").close(),
        lambda: Journal(tmp_path / "journal.db").close(),
    ]
    for step in steps:
        intact.prepare(tmp_path)
        step()
    start_and_stop(tmp_path)
    assert not (tmp_path / intact.FIRST_START).exists()
    lose(tmp_path / "journal.db")
    with pytest.raises(ConfigError, match="journal"):
        start_and_stop(tmp_path)


@pytest.mark.usefixtures("open_umask")
def test_p8_what_may_hold_secrets_is_closed_however_open_the_directory_is(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    start_and_stop(data_dir)
    for name in ("attempts", "attempts-state"):
        assert (data_dir / name).stat().st_mode & 0o777 == 0o700, "made so"
        (data_dir / name).chmod(0o777)
    start_and_stop(data_dir)
    found = {path.name: path.stat().st_mode & 0o777 for path in data_dir.iterdir()}
    wanted = {"attempts": 0o700, "attempts-state": 0o700, "history.db": 0o600, "journal.db": 0o600, "secret.key": 0o600}
    assert {name: found[name] for name in wanted} == wanted
    assert found["log"] == found["blobs"] == 0o700


def test_p8_the_files_of_an_earlier_version_are_closed_too(tmp_path: Path) -> None:
    start_and_stop(tmp_path)
    names = [f"{one}{more}" for one in ("history.db", "journal.db") for more in ("", "-wal", "-shm")]
    (tmp_path / "attempts").chmod(0o755)
    history, journal = History.open(tmp_path / "history.db"), Journal(tmp_path / "journal.db")
    there = [tmp_path / name for name in names if (tmp_path / name).exists()]
    assert len(there) > 3
    for path in there:
        path.chmod(0o644)
    intact.prepare(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in there} == {0o600}
    assert (tmp_path / "attempts").stat().st_mode & 0o777 == 0o700
    history.close()
    journal.close()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("attempts", "directory"),
        ("attempts-state", "directory"),
        ("log", "directory"),
        ("agent.json", "file"),
        ("agent.tmp", "file"),
        (FILE, "file"),
    ],
)
def test_what_has_a_parts_name_and_is_something_else_is_told_in_a_sentence(
    tmp_path: Path, name: str, wanted: str
) -> None:
    if wanted == "file":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).touch()
    done = prime("agent", "start", "--data-dir", str(tmp_path), "--http", "127.0.0.1:0", "--executors", "mock")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert f"{tmp_path / name}: is no {wanted}, and the agent keeps a {wanted} of this name; move it away" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_data_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: is no directory; name another with --data-dir"):
        intact.prepare(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be prepared: Not a directory"):
        intact.prepare(tmp_path / "file" / "data")

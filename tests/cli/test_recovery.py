"""`prime cluster init`, `snapshot`, `recover` without an agent: what they show, refuse and leave alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent.cli.common import RUN_FAILED, UNREACHABLE, USAGE
from agent.keyring import Keyring
from tests.cli.terminal import NOBODY, prime
from tests.cluster.left_behind import Left, a_file, left_behind


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A snapshot."""
    path = tmp_path / "saved"
    path.write_bytes(a_file())
    return path


@pytest.fixture
def left(tmp_path: Path) -> Left:
    """The directory of the last of three agents."""
    return left_behind(tmp_path / "d")


def test_a_snapshot_is_inspected_offline(file: Path) -> None:
    answer = prime("cluster", "snapshot", "inspect", file)
    assert answer.code == 0
    assert answer.out.startswith(f"{file}: sound; cluster c1, generation 1, index ")
    assert "1 finished run; 0 files of 0 bytes" in answer.out
    assert "agents: a1; projects: p" in answer.out
    found = prime("cluster", "snapshot", "inspect", file, "-o", "json").json()
    assert (found["cluster"], found["finished_runs"], found["lacking"], found["sound"]) == ("c1", 1, [], True)
    assert found["saved_at"].endswith("Z")


def test_a_damaged_one_and_none_are_told_apart_p9(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])
    cut = prime("cluster", "snapshot", "inspect", file)
    assert (cut.code, "it was cut" in cut.err) == (RUN_FAILED, True)
    none = prime("cluster", "snapshot", "inspect", file.with_name("none"))
    assert (none.code, "No such file" in none.err) == (USAGE, True)
    restored = prime(*RESTORE, file, "--data-dir", file.with_name("new"), "--secret-key", key_beside(file))
    assert (restored.code, file.with_name("new").exists()) == (RUN_FAILED, False)


RESTORE = ("cluster", "snapshot", "restore")


def key_beside(file: Path) -> Path:
    """A key file."""
    path = file.with_name("some.key")
    Keyring.open(path, create=True)
    return path


def test_a_restore_says_what_to_do_next_and_is_done_once(file: Path) -> None:
    words = (*RESTORE, file, "--data-dir", file.with_name("new"), "--secret-key", key_beside(file))
    answer = prime(*words)
    assert answer.code == 0
    assert "cluster c1 begins generation 2" in answer.out
    assert "prime cluster key new --out FILE" in answer.out
    assert "empty directories" in answer.out
    assert "15.3" in answer.out.replace("15.30", "15.3")
    again = prime(*words)
    assert (again.code, "is not empty" in again.err) == (USAGE, True)
    without = prime(*RESTORE, file, "--data-dir", file.with_name("other"), "--secret-key", file.with_name("none"))
    assert (without.code, "there is no key file" in without.err) == (USAGE, True)


def test_nothing_stays_of_a_snapshot_that_nobody_gave(tmp_path: Path) -> None:
    answer = prime("--host", NOBODY, "cluster", "snapshot", "save", tmp_path / "file")
    assert answer.code == UNREACHABLE
    assert list(tmp_path.iterdir()) == []
    nowhere = prime("--host", NOBODY, "cluster", "snapshot", "save", tmp_path / "none" / "file")
    assert nowhere.code == USAGE


def test_a_recovery_shows_what_would_be_and_wants_the_cluster_named(left: Left) -> None:
    for words in ((), ("--confirm", "c9")):
        shown = prime("cluster", "recover", "--data-dir", left.directory, *words)
        assert f"cluster {left.cluster}, generation 1" in shown.out
        assert f"term 3, index {left.driver.index}" in shown.out
        assert "2 attempts" in shown.out
        assert "a2, a3" in shown.out
        assert f"--confirm {left.cluster}" in shown.out
        assert shown.code == (USAGE if words else 0)
    assert not list(left.directory.glob("*before*"))
    done = prime("cluster", "recover", "--data-dir", left.directory, "--confirm", left.cluster, "-o", "json").json()
    assert (done["cluster"], done["generation"]) == (left.cluster, 2)


def test_a_recovery_tells_what_to_do_next_and_what_the_disk_lacks(left: Left) -> None:
    answer = prime("cluster", "recover", "--data-dir", left.directory, "--confirm", left.cluster)
    assert answer.code == 0
    assert f"{left.directory}/before-generation-2" in answer.out
    assert "a new cluster key" in answer.out
    assert "1 file that jobs or runs name" in answer.err  # the run's bundle, which was never made here


def test_what_cannot_be_recovered_says_why(left: Left, tmp_path: Path) -> None:
    nothing = prime("cluster", "recover", "--data-dir", tmp_path / "none")
    assert (nothing.code, "is no data directory" in nothing.err) == (USAGE, True)
    shutil.rmtree(left.directory / "log")
    (left.directory / "log").mkdir()
    empty = prime("cluster", "recover", "--data-dir", left.directory)
    assert (empty.code, "had no table" in empty.err) == (USAGE, True)


def test_a_cluster_is_founded_by_hand_once(tmp_path: Path) -> None:
    answer = prime("cluster", "init", "--data-dir", tmp_path / "d")
    assert (answer.code, "is founded" in answer.out) == (0, True)
    again = prime("cluster", "init", "--data-dir", tmp_path / "d")
    assert (again.code, "already" in again.err) == (USAGE, True)


def test_the_groups_list_them() -> None:
    told = prime("cluster", "--help").out
    assert all(f"  {name} " in told for name in ("init", "recover", "snapshot"))
    told = prime("cluster", "snapshot", "--help").out
    assert all(f"  {name} " in told for name in ("inspect", "restore", "save"))

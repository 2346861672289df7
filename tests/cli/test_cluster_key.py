"""`prime cluster key`: make a key file, look at it, rotate the key step by step."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.common import USAGE
from agent.cluster.keys import KeyRing
from tests.cli.terminal import prime


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file with one key."""
    assert prime("cluster", "key", "new", "--out", tmp_path / "key").code == 0
    return tmp_path / "key"


def test_new_makes_a_private_file_and_shows_no_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    answer = prime("cluster", "key", "new", "--out", path)
    ring = KeyRing.open(path)
    assert answer.code == 0
    assert ring.fingerprints[0] in answer.out
    assert ring.keys[0].hex() not in answer.out + answer.err
    assert path.stat().st_mode & 0o777 == 0o600


def test_new_never_overwrites(file: Path) -> None:
    before = file.read_bytes()
    answer = prime("cluster", "key", "new", "--out", file)
    assert answer.code == USAGE
    assert "there already" in answer.err
    assert file.read_bytes() == before
    assert prime("cluster", "key", "new", "--out", file.parent).code == USAGE


def test_two_files_have_two_keys(file: Path) -> None:
    other = file.with_name("other")
    prime("cluster", "key", "new", "--out", other)
    assert KeyRing.open(other).keys != KeyRing.open(file).keys


def test_a_rotation_goes_step_by_step_and_says_what_to_do(file: Path) -> None:
    (old,) = KeyRing.open(file).fingerprints
    first = prime("cluster", "key", "rotate", file)
    new = KeyRing.open(file).fingerprints[1]
    listed = prime("cluster", "key", "list", file, "-o", "json").json()
    assert listed == {"keys": [{"fingerprint": old, "use": "in use"}, {"fingerprint": new, "use": "next"}]}
    second = prime("cluster", "key", "rotate", file)
    shown = prime("cluster", "key", "list", file).out.splitlines()
    assert [line.split(maxsplit=1) for line in shown] == [["KEY", "USE"], [new, "in use"], [old, "accepted"]]
    third = prime("cluster", "key", "rotate", file)
    assert KeyRing.open(file).fingerprints == (new,)
    for number, answer in enumerate((first, second, third), 1):
        assert answer.code == 0
        assert answer.out.startswith(f"step {number} of 3: ")
        assert f"copy {file} to every host" in answer.out
        assert (f"prime cluster key rotate {file}" in answer.out) == (number < 3)
    assert old in third.out
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("verb", ["list", "rotate"])
def test_a_file_that_is_none_or_open_to_others_is_refused_and_left_alone(file: Path, verb: str) -> None:
    missing = prime("cluster", "key", verb, file.with_name("none"))
    assert missing.code == USAGE
    assert "cluster key new --out" in missing.err
    before = file.read_bytes()
    file.chmod(0o644)
    answer = prime("cluster", "key", verb, file)
    assert answer.code == USAGE
    assert "chmod 600" in answer.err
    assert file.read_bytes() == before


def test_the_group_lists_its_commands() -> None:
    help_text = prime("cluster", "--help").out
    assert "status" in help_text
    assert "key" in help_text

"""What an attempt cannot be given is known before it is started (P11)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agent.spec.limits import (
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
    STRING_BYTES_MAX,
    argument_problem,
    asset_problems,
    leaves_folder,
)


def starts(argument: str = "", **environment: str) -> bool:
    """Whether a real program can be started with these."""
    try:
        subprocess.run(["/bin/true", argument], env=environment, check=True)
    except (OSError, ValueError):
        return False
    return True


@pytest.mark.parametrize("text", ["", "x" * (STRING_BYTES_MAX - 2), "x" * (STRING_BYTES_MAX - 1), "a\0b", "é" * 70_000])
def test_a_variable_is_refused_exactly_where_linux_refuses_it(text: str) -> None:
    assert (argument_problem(text, "A") is None) is starts(A=text)


@pytest.mark.parametrize("text", ["x" * STRING_BYTES_MAX, "x" * (STRING_BYTES_MAX + 1), "\0"])
def test_an_argument_is_refused_exactly_where_linux_refuses_it(text: str) -> None:
    assert (argument_problem(text) is None) is starts(text)


def test_what_is_wrong_is_said_without_the_value() -> None:
    for text in ("secret" * 30_000, "secret\0"):
        message = argument_problem(text, "A")
        assert message is not None
        assert "secret" not in message


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b", "", ".", "./", "a\0"])
def test_p8_what_does_not_stay_in_its_folder_is_noticed(path: str) -> None:
    assert leaves_folder(path)
    (message,) = asset_problems([path])
    assert "leaves its folder" in message


LONG = "/".join(["x" * 200] * 6)


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ([".env"], "'.env' has the name of a file that every attempt finds (.env, .secret)"),
        (["./.secret"], "'./.secret' has the name of a file"),
        ([".secret/x"], "has the name of a file"),
        (["a\nb"], r"'a\nb' has a character"),
        (["a\u2028b"], "has a character"),
        (["\udc80"], "has a character"),
        (["x" * (NAME_BYTES_MAX + 1)], "has a name of 256 bytes"),
        (["d/" + "é" * 128], "has a name of 256 bytes"),
        ([LONG], f"has a path of {len(LONG)} bytes; at most {PATH_BYTES_MAX}"),
        (["a", "a/b"], "the asset 'a/b' needs a folder where 'a' is a file"),
        (["a/b", "a/b/c/d"], "the asset 'a/b/c/d' needs a folder where 'a/b' is a file"),
        (["a/b", "a//b"], "the assets 'a//b' and 'a/b' are the same file"),
    ],
)
def test_assets_that_cannot_lie_in_a_folder_are_told(paths: list[str], said: str) -> None:
    (message,) = asset_problems(paths)
    assert said in message


def test_what_is_taken_can_be_written(tmp_path: Path) -> None:
    paths = ["x" * NAME_BYTES_MAX, "a b/\u00a0ü.sql", ".envrc", "d/.env", "a", "ab/c", "\U0001f600"]
    assert list(asset_problems(paths)) == []
    for path in paths:
        target = tmp_path / path
        target.parent.mkdir(exist_ok=True)
        target.touch()
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) == len(paths)

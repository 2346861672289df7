"""What the walkthrough test takes from a document, and what it lets pass."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.walkthrough import Shell, Shown, commands_of, follow, matches

DOCUMENT = """# A title

```console
$ echo one \\
    two
one two
$ false  # exit 1
```

```sh
not run
```

```console
$ echo three
```
"""


def test_commands_are_those_of_console_blocks_with_line_exit_code_and_output() -> None:
    assert commands_of(DOCUMENT) == [
        Shown(4, "echo one \\\n    two", 0, ("one two",)),
        Shown(7, "false", 1, ()),
        Shown(15, "echo three", 0, ()),
    ]


def test_a_block_begins_with_a_command() -> None:
    with pytest.raises(ValueError, match="line 2: a block begins"):
        commands_of("```console\necho\n```\n")


@pytest.mark.parametrize(
    ("shown", "printed", "good"),
    [
        ((), "anything\n", True),
        (("a", "b"), "a\nb\n", True),
        (("a", "b"), "a\nc\n", False),
        (("a",), "a\nb\n", False),
        (("a", "...", "z"), "a\nb\nc\nz\n", True),
        (("a", "...", "z"), "a\nz\n", True),
        (("a", "...", "z"), "a\nb\n", False),
        (("run … of x",), "run 01ABC of x\n", True),
        (("run … of x",), "run 01ABC of y\n", False),
        (("a.c",), "abc\n", False),
        (("columns  ",), "columns\n", True),
    ],
)
def test_what_is_printed_is_compared_with_what_is_shown(shown: tuple[str, ...], printed: str, *, good: bool) -> None:
    assert matches(shown, printed) is good


def test_the_commands_share_a_shell_and_the_first_that_differs_is_told(tmp_path: Path) -> None:
    shell = Shell(tmp_path, os.environ)
    try:
        follow("```console\n$ A=5; mkdir d; cd d\n$ printf $A; basename $PWD\n5d\n$ (exit 3)  # exit 3\n```\n", shell)
        with pytest.raises(AssertionError, match=r"line 2: echo x\n.*is to print\ny\nbut prints\nx"):
            follow("```console\n$ echo x\ny\n```\n", shell)
        with pytest.raises(AssertionError, match="exit code 1, not 0"):
            follow("```console\n$ false\n```\n", shell)
        with pytest.raises(AssertionError, match="the shell has ended"):
            follow("```console\n$ exit 0\n```\n", shell)
    finally:
        shell.close()

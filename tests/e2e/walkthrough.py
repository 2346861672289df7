"""Runs what a document shows: the commands of its `console` blocks, in order, in one shell.

    $ a command, which may go on \\
      in the next line
    what it prints: `...` alone on a line stands for any lines, `…` within one for any text

A command ends with exit code 0, or with N where it ends with `# exit N`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXIT: Final = re.compile(r"\s+# exit (\d+)$")
_MARK: Final = "-- the command before has ended:"
END_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Shown:
    """A command as a document shows it. line: of the document, from 1.  output: its lines."""

    line: int
    command: str
    exit_code: int
    output: tuple[str, ...]


def commands_of(document: str) -> list[Shown]:
    """All commands of a document's blocks, in order. Raises ValueError for a block that begins with no command."""
    found: list[Shown] = []
    for block in _BLOCK.finditer(document):
        first = document.count("\n", 0, block.start(1)) + 1
        found += _commands(block[1].splitlines(), first)
    return found


def _commands(lines: list[str], first: int) -> Iterator[Shown]:
    if lines and not lines[0].startswith("$ "):
        raise ValueError(f"line {first}: a block begins with a command: `$ ...`")
    starts = [at for at, line in enumerate(lines) if line.startswith("$ ")]
    for at, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        last = at
        while lines[last].endswith("\\"):
            last += 1
        text = "\n".join(lines[at : last + 1])[2:]
        code = _EXIT.search(text)
        output = tuple(lines[last + 1 : end])
        yield Shown(first + at, _EXIT.sub("", text), int(code[1]) if code else 0, output)


def matches(shown: tuple[str, ...], printed: str) -> bool:
    """Whether a command has printed what is shown of it. Nothing shown: whatever it prints."""
    if not shown:
        return True
    lines = (r"(?:.*\n)*?" if line == "..." else _line(line) for line in shown)
    return re.fullmatch("".join(lines), printed) is not None


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ ]*\n"


class Shell:
    """One bash, which goes from command to command as a reader's terminal does."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """folder: where it begins."""
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            text=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Its exit code and all that it printed. One that does not end is cut off by the test's own limit."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n{_MARK} %d\\n' $?\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(_MARK):
                lines[-1:] = [lines[-1].removesuffix("\n")] if lines else []  # the mark's own first character
                return int(line.split()[-1]), "".join(lines)
            lines.append(line)
        raise AssertionError(f"the shell has ended in {command!r}: {''.join(lines)}")

    def close(self) -> None:
        """End it, with what it has put into the background."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        with suppress(BrokenPipeError):  # it has ended by itself
            self._shell.stdin.write("kill $(jobs -p) 2>/dev/null\n")
            self._shell.stdin.flush()
        with suppress(BrokenPipeError):
            self._shell.stdin.close()
        self._shell.wait(END_S)
        self._shell.stdout.close()


def follow(document: str, shell: Shell) -> None:
    """Run all commands of a document, and compare. Fails with the line of the first that does something else."""
    for shown in commands_of(document):
        code, printed = shell.run(shown.command)
        where = f"line {shown.line}: {shown.command}\n"
        assert code == shown.exit_code, f"{where}exit code {code}, not {shown.exit_code}:\n{printed}"
        told = "\n".join(shown.output)
        assert matches(shown.output, printed), f"{where}is to print\n{told}\nbut prints\n{printed}"

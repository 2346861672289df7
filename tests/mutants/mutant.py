"""One mutant: what is changed in which file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


class PatchError(Exception):
    """A patch does not fit its file: the code has changed, and the patch must follow."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """source[start:end] of a module of `consensus` becomes `text`. name: unique, and the same while the code is.

    operator: the kind of change; "listed" for a patch by hand.
    """

    name: str
    module: str
    operator: str
    start: int
    end: int
    text: str

    @property
    def path(self) -> Path:
        """Of its file, relative to the project."""
        return path_of(self.module)

    def applied(self, source: str) -> str:
        """The mutated source."""
        return source[: self.start] + self.text + source[self.end :]


def path_of(module: str) -> Path:
    """Of a module of `consensus`, relative to the project."""
    return Path("consensus") / f"{module}.py"


def source_of(module: str, root: Path = ROOT) -> str:
    """The text of a module of `consensus`."""
    return (root / path_of(module)).read_text()


@dataclass(frozen=True, slots=True)
class Patch:
    """A bug by hand: the one place in `module` that reads `old` becomes `new`. why: what is lost."""

    name: str
    module: str
    old: str
    new: str
    why: str

    def mutant(self, source: str) -> Mutant:
        """Raises PatchError where `old` does not stand in `source` exactly once."""
        if (found := source.count(self.old)) != 1:
            raise PatchError(f"{self.name}: what it replaces stands {found} times in {path_of(self.module)}, not once")
        start = source.index(self.old)
        return Mutant(self.name, self.module, "listed", start, start + len(self.old), self.new)

"""The tree of a parsed template. `str(node)` is the node as Go's messages show it, `position` its place in the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.spec.template.literals import WHITE_SPACE, Number, go_quote


@dataclass(frozen=True, slots=True)
class Source:
    """The text that nodes are places in."""

    name: str
    text: str

    def place(self, position: int) -> tuple[int, int]:
        """Line (1-based) and byte in that line (0-based) of a character."""
        start = self.text.rfind("\n", 0, position) + 1
        return 1 + self.text.count("\n", 0, position), len(self.text[start:position].encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class Dot:
    position: int

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True, slots=True)
class Nil:
    position: int

    def __str__(self) -> str:
        return "nil"


@dataclass(frozen=True, slots=True)
class Bool:
    position: int
    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


@dataclass(frozen=True, slots=True)
class NumberLiteral:
    position: int
    value: Number

    def __str__(self) -> str:
        return self.value.text


@dataclass(frozen=True, slots=True)
class String:
    position: int
    quoted: str
    value: str

    def __str__(self) -> str:
        return self.quoted


@dataclass(frozen=True, slots=True)
class Field:
    """`.a.b`: fields of the cursor."""

    position: int
    path: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.path)


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.a`: a variable, and fields of it."""

    position: int
    name: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.name, *self.path))


@dataclass(frozen=True, slots=True)
class Identifier:
    """A function's name."""

    position: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).a.b` or `function.a`: fields of a value."""

    position: int
    operand: Pipeline | Identifier
    path: tuple[str, ...]

    def __str__(self) -> str:
        operand = f"({self.operand})" if isinstance(self.operand, Pipeline) else str(self.operand)
        return ".".join((operand, *self.path))


@dataclass(frozen=True, slots=True)
class Command:
    """One stage of a pipeline: a value, or a function and its arguments."""

    position: int
    arguments: tuple[Operand, ...]

    def __str__(self) -> str:
        return " ".join(f"({item})" if isinstance(item, Pipeline) else str(item) for item in self.arguments)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each given the value of the one before; `declares` are the variables that get the last value."""

    position: int
    declares: tuple[str, ...]
    assigns: bool
    commands: tuple[Command, ...]

    def __str__(self) -> str:
        declared = f"{', '.join(self.declares)} {'=' if self.assigns else ':='} " if self.declares else ""
        return declared + " | ".join(str(command) for command in self.commands)


Operand = Dot | Nil | Bool | NumberLiteral | String | Field | Variable | Identifier | Chain | Pipeline


@dataclass(frozen=True, slots=True)
class Text:
    position: int
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """`{{pipeline}}`: printed, unless it declares variables."""

    position: int
    pipeline: Pipeline

    def __str__(self) -> str:
        return f"{{{{{self.pipeline}}}}}"


@dataclass(frozen=True, slots=True)
class Break:
    position: int


@dataclass(frozen=True, slots=True)
class Continue:
    position: int


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`: `keyword` says which. `otherwise` is None where there is no else."""

    position: int
    keyword: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...] | None


@dataclass(frozen=True, slots=True)
class Invoke:
    """`{{template "name" pipeline}}`."""

    position: int
    name: str
    pipeline: Pipeline | None

    def __str__(self) -> str:
        argument = "" if self.pipeline is None else f" {self.pipeline}"
        return f"{{{{template {go_quote(self.name)}{argument}}}}}"


Node = Text | Action | Break | Continue | Branch | Invoke


@dataclass(frozen=True, slots=True)
class Tree:
    """One named template: its nodes, and the text they come from."""

    name: str
    source: Source
    nodes: tuple[Node, ...]

    @property
    def empty(self) -> bool:
        """Whether it holds nothing but space; such a definition never replaces another."""
        return all(isinstance(node, Text) and not node.text.strip(WHITE_SPACE) for node in self.nodes)


Trees = Mapping[str, Tree]

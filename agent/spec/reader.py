"""Located nodes in, checked values out.

`Reader` takes a mapping apart key by key. It raises nothing: what is wrong is added to `Problems` with file, line,
column and path, and reading goes on with the default, so that one pass finds all mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from agent.spec import duration
from agent.spec.document import (
    MappingNode,
    Node,
    Problems,
    Scalar,
    Sequence,
    is_null,
    kind_of,
    nearest,
    shorten,
)
from agent.spec.errors import Position, Severity

# YAML 1.1's booleans, which is what Optimus' own decoder takes where a boolean is wanted.
_BOOLEANS = dict.fromkeys(("true", "yes", "on", "y"), True) | dict.fromkeys(("false", "no", "off", "n"), False)
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")

D = TypeVar("D")
E = TypeVar("E", bound=StrEnum)


@dataclass(slots=True, eq=False)
class Reading:
    """What all readers of one document share.

    `notes` maps the shape of a path (`hooks[].alert`) to a warning given where it is met. `positions` is filled with
    the place of every value that was asked for, by its path.
    """

    problems: Problems = field(default_factory=Problems)
    notes: Mapping[str, str] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)


class Reader:
    """Reads one mapping, key by key. A key that was never asked for is unknown when `close` is called.

    Every method returns the default (or what comes nearest to it) where the key is absent, null or wrong; what is wrong
    has been added to the problems by then.
    """

    __slots__ = ("_asked", "_node", "_path", "_position", "_reading", "_shape")

    def __init__(self, node: MappingNode | None, position: Position, reading: Reading, path: str = "", shape: str = ""):
        self._node = node  # None = not a mapping, which was reported: then nothing is missing in it
        self._position = position
        self._reading = reading
        self._path = path
        self._shape = shape
        self._asked: dict[str, None] = {}

    @classmethod
    def of_document(cls, node: Node | None, file: str, reading: Reading) -> Reader:
        """Return the reader of a document's root."""
        start = Position(file, 1, 1)
        if isinstance(node, MappingNode):
            return cls(node, node.position, reading)
        if node is None and not reading.problems.refused:
            reading.problems.add(start, "", "the file is empty")
        elif node is not None:
            reading.problems.add(node.position, "", f"a mapping of keys is expected, not {kind_of(node)}")
        return cls(None, start, reading)

    def path(self, key: str) -> str:
        """Return the full path of a key of this mapping."""
        return f"{self._path}.{key}" if self._path else key

    def position(self, key: str = "") -> Position:
        """Return the place of a key's value; of the mapping itself where the key is absent."""
        entry = self._node.entries.get(key) if self._node else None
        return entry.value.position if entry else self._position

    def problem(self, key: str, message: str, severity: Severity = Severity.ERROR) -> None:
        """Add a problem at a key's value (at the mapping where it is absent); an empty key means the mapping."""
        self._reading.problems.add(self.position(key), self.path(key) if key else self._path, message, severity)

    def names(self) -> list[str]:
        """Return the keys that are there, null or not."""
        return list(self._node.entries) if self._node else []

    def has(self, key: str) -> bool:
        """True where the key has a value; from here on it is known."""
        return self.find(key) is not None

    def find(self, key: str) -> Node | None:
        """Return a key's node, or None where it is absent or null; from here on the key is known."""
        self._asked[key] = None
        entry = self._node.entries.get(key) if self._node else None
        if entry is None or is_null(entry.value):
            return None
        path = self.path(key)
        self._reading.positions[path] = entry.value.position
        if note := self._reading.notes.get(self._shape_of(key)):
            self._reading.problems.add(entry.position, path, note, Severity.WARNING)
        return entry.value

    def string(self, key: str, default: D, *, pattern: re.Pattern[str] | None = None, expected: str = "") -> str | D:
        """Return a scalar's source text; where `pattern` does not match it whole, `expected` is told."""
        node = self._scalar(key, expected or "a text")
        if node is None:
            return default
        if pattern and not pattern.fullmatch(node.text):
            self.problem(key, f"{expected} is expected, not {shorten(node.text)}")
            return default
        return node.text

    def required(self, key: str, expected: str, *, pattern: re.Pattern[str] | None = None) -> str:
        """Return a scalar's text, which must be there and not be blank."""
        value = self.string(key, "", pattern=pattern, expected=expected)
        node = self.find(key)
        if node is None or (isinstance(node, Scalar) and not node.text.strip()):
            self.missing(key, f"{expected} is required")
        return value

    def missing(self, key: str, message: str) -> None:
        """Add the problem that a key is missing; not where the mapping itself is none, which was told already."""
        if self._node is not None:
            self.problem(key, f"{key} is missing: {message}")

    def boolean(self, key: str, default: bool) -> bool:  # noqa: FBT001  the default of what is read, not a switch
        """Return true or false."""
        node = self._scalar(key, "true or false")
        if node is None:
            return default
        value = _BOOLEANS.get(node.text.lower()) if node.plain else None
        if value is None:
            quoted = "" if node.plain else " in quotes"
            self.problem(key, f"true or false is expected, not {shorten(node.text)}{quoted}")
            return default
        return value

    def integer(self, key: str, default: D, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int | D:
        """Return a whole number from `minimum` to `maximum`."""
        expected = f"a whole number from {minimum} to {maximum}"
        node = self._scalar(key, expected)
        if node is None:
            return default
        value = self.integer_of(node, minimum, maximum)
        if value is None:
            self.problem(key, f"{expected} is expected, not {shorten(node.text)}{'' if node.plain else ' in quotes'}")
            return default
        return value

    @staticmethod
    def integer_of(node: Node, minimum: int, maximum: int) -> int | None:
        """Return the whole number a node holds, or None where it holds another thing."""
        if not isinstance(node, Scalar) or not node.plain or not _INTEGER.fullmatch(node.text):
            return None
        value = int(node.text)
        return value if minimum <= value <= maximum else None

    def duration(self, key: str, default: D, *, allow_zero: bool = False) -> float | D:
        """Return a Go duration (`15m`, `1h30m`) in seconds; never negative."""
        node = self._scalar(key, 'a duration such as "15m" or "1h30m"')
        if node is None:
            return default
        try:
            seconds = duration.parse(node.text).total_seconds()
        except ValueError as error:
            self.problem(key, str(error))
            return default
        if seconds < 0 or (seconds == 0 and not allow_zero):
            limit = "of zero or more" if allow_zero else "above zero"
            self.problem(key, f"a duration {limit} is expected, not {node.text}")
            return default
        return seconds

    def choice(self, key: str, kind: type[E], default: D) -> E | D:
        """Return one of an enumeration's words."""
        words = [member.value for member in kind]
        node = self._scalar(key, "one of " + ", ".join(words))
        if node is None:
            return default
        if node.text not in words:
            self.problem(key, f"{shorten(node.text)} is not possible here{nearest(node.text, words)}")
            return default
        return kind(node.text)

    def strings(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        texts = []
        for index, node in enumerate(self._items(key)):
            if isinstance(node, Scalar):
                texts.append(node.text)
            else:
                self._item_problem(key, index, node, f"a text is expected, not {kind_of(node)}")
        return tuple(texts)

    def string_map(self, key: str) -> dict[str, str]:
        """Return a mapping of texts to texts; a null becomes an empty text."""
        texts = {}
        node = self._mapping(key)
        for name, entry in node.entries.items() if node else ():
            path = f"{self.path(key)}.{name}"
            if not isinstance(entry.value, Scalar):
                message = f"a text is expected, not {kind_of(entry.value)}"
                self._reading.problems.add(entry.value.position, path, message)
            elif not name.strip():
                self._reading.problems.add(entry.position, self.path(key), "a key is empty; give it a name")
            else:
                self._reading.positions[path] = entry.value.position
                texts[name] = "" if is_null(entry.value) else entry.value.text
        return texts

    def child(self, key: str) -> Reader:
        """Return the reader of a mapping; of an empty one where the key is absent."""
        node = self.find(key)
        path, shape = self.path(key), self._shape_of(key)
        if node is None:
            # What is missing in a mapping that is itself missing is told at the nearest mapping that is there.
            absent = MappingNode({}, self._position) if self._node else None
            return Reader(absent, self._position, self._reading, path, shape)
        if not isinstance(node, MappingNode):
            self.problem(key, f"a mapping of keys is expected, not {kind_of(node)}")
            return Reader(None, node.position, self._reading, path, shape)
        return Reader(node, node.position, self._reading, path, shape)

    def children(self, key: str) -> list[Reader]:
        """Return the readers of a list of mappings; what is no mapping is left out."""
        readers = []
        for index, node in enumerate(self._items(key)):
            path, shape = f"{self.path(key)}[{index}]", f"{self._shape_of(key)}[]"
            if isinstance(node, MappingNode):
                self._reading.positions[path] = node.position
                readers.append(Reader(node, node.position, self._reading, path, shape))
            else:
                self._item_problem(key, index, node, f"a mapping of keys is expected, not {kind_of(node)}")
        return readers

    def named(self, key: str) -> list[tuple[str, Reader]]:
        """Return the readers of a mapping of mappings, by name."""
        mapping = self.child(key)
        return [(name, mapping.child(name)) for name in mapping.names()]

    def nodes(self, key: str) -> list[Node]:
        """Return what a list holds; a single scalar counts as a list of one."""
        node = self.find(key)
        return [node] if isinstance(node, Scalar) else self._items(key)

    def close(self, moved: Mapping[str, str] | None = None) -> None:
        """Report the keys that nothing asked for. `moved` says where a key belongs that users put here: key -> path."""
        for key, entry in self._node.entries.items() if self._node else ():
            if key in self._asked:
                continue
            hint = f"; it belongs to {moved[key]}" if moved and key in moved else nearest(key, self._asked)
            path = self.path(shorten(key)[1:-1])
            self._reading.problems.add(entry.position, path, f"unknown key {shorten(key)}{hint}")

    def _shape_of(self, key: str) -> str:
        return f"{self._shape}.{key}" if self._shape else key

    def _scalar(self, key: str, expected: str) -> Scalar | None:
        node = self.find(key)
        if node is None or isinstance(node, Scalar):
            return node
        self.problem(key, f"{expected} is expected, not {kind_of(node)}")
        return None

    def _mapping(self, key: str) -> MappingNode | None:
        node = self.find(key)
        if node is None or isinstance(node, MappingNode):
            return node
        self.problem(key, f"a mapping of texts is expected, not {kind_of(node)}")
        return None

    def _items(self, key: str) -> list[Node]:
        node = self.find(key)
        if node is None:
            return []
        if isinstance(node, Sequence):
            return node.items
        self.problem(key, f"a list is expected, not {kind_of(node)}")
        return []

    def _item_problem(self, key: str, index: int, node: Node, message: str) -> None:
        self._reading.problems.add(node.position, f"{self.path(key)}[{index}]", message)

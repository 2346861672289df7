"""YAML as users write it: every value with its place and its source text, every problem at once.

`compose` turns a text into located nodes. It differs from a YAML loader on purpose:

- a scalar keeps the text it was written with, so `yes`, `010` and `2021-01-01` are never turned into something else;
- a key given twice is an error, and so is a second document in the text;
- aliases and merge keys (`<<`) are expanded within bounds: a few lines of YAML can name billions of nodes (P12).

`agent.spec.reader` takes the nodes apart.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import yaml

from agent.spec.errors import Position, Problem, Severity, has_errors

TEXT_MAX: Final = 1 << 20
"""Characters in one document."""
NODES_MAX: Final = 100_000
"""Nodes in one document, each alias counted with all it stands for."""
DEPTH_MAX: Final = 64
"""Collections inside one another, aliases expanded."""
PROBLEMS_MAX: Final = 100
"""Problems listed for one document."""
_WORDS_MAX = 40
_NEAR_MAX = 5  # told of more words than `_WORDS_MAX`, where any is near

# What YAML 1.2 allows in a stream (section 5.1, c-printable). Looked for first, because only here is the place known.
_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_CORE_TAG = re.compile(r"!|tag:yaml\.org,2002:(str|int|float|bool|null|map|seq|timestamp)")


@dataclass(slots=True, eq=False)
class Scalar:
    """A text. `plain` = written without quotes, so that `null` and `true` may mean themselves."""

    text: str
    plain: bool
    position: Position


@dataclass(slots=True, eq=False)
class Sequence:
    """A list of nodes."""

    items: list[Node]
    position: Position


@dataclass(slots=True, eq=False)
class Entry:
    """One key of a mapping, with the place of the key, and its value."""

    position: Position
    value: Node


@dataclass(slots=True, eq=False)
class MappingNode:
    """Keys and values in the order they were written. Nodes are shared between documents: read, never changed."""

    entries: dict[str, Entry]
    position: Position


Node = Scalar | Sequence | MappingNode


class Problems:
    """Collects what is wrong with one document, at most `PROBLEMS_MAX` of it (P12)."""

    def __init__(self) -> None:
        self._listed: dict[Problem, None] = {}
        self._left_out = 0
        self.refused = False
        """True as soon as one error was added, listed or not."""

    def add(self, position: Position, key: str, message: str, severity: Severity = Severity.ERROR) -> None:
        """Add one problem."""
        self.extend((Problem(*position, key, message, severity),))

    def extend(self, problems: Iterable[Problem]) -> None:
        """Add problems found elsewhere."""
        for problem in problems:
            self.refused = self.refused or problem.severity is Severity.ERROR
            if len(self._listed) < PROBLEMS_MAX:
                self._listed[problem] = None
            elif problem not in self._listed:
                self._left_out += 1

    def listed(self) -> tuple[Problem, ...]:
        """All problems in the order of the text, by file; where some were left out, the last one says how many."""
        found = sorted(self._listed, key=lambda p: (p.file, p.line, p.column, p.key, p.message))
        if self._left_out:
            last = found[-1]
            # The note is an error if errors may be hidden behind warnings: a refused document must list one.
            severity = Severity.ERROR if self.refused and not has_errors(found) else Severity.WARNING
            message = f"{self._left_out} more problems are not listed; mend these first"
            found.append(Problem(last.file, last.line, last.column, "", message, severity))
        return tuple(found)


def shorten(text: str, limit: int = 80) -> str:
    """Quote a user's text for a message, cut where it is long."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: `; did you mean 'x'? Known: ...`, or `; known: ...`.

    Of many known words the nearest few are told, and how many there are.
    """
    names = sorted(known)
    by_folded = {name.lower(): name for name in names}
    folded = word[:200].lower()
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    if not close and folded:
        close = [name for name in by_folded if name.startswith(folded)]
    listed = ", ".join(names[:_WORDS_MAX]) + (", ..." if len(names) > _WORDS_MAX else "") or "none"
    if len(names) > _WORDS_MAX and (near := difflib.get_close_matches(folded, by_folded, n=_NEAR_MAX, cutoff=0.4)):
        listed = f"{', '.join(by_folded[one] for one in near)}, ... ({len(names)} in all)"
    return f"; did you mean {by_folded[close[0]]!r}? Known: {listed}" if close else f"; known: {listed}"


def is_null(node: Node) -> bool:
    """True for a value that was left out or written as YAML's null."""
    return isinstance(node, Scalar) and node.plain and node.text in _NULL


def kind_of(node: Node) -> str:
    """Return what a node is, for a message."""
    if isinstance(node, Scalar):
        return "an empty value" if is_null(node) else f"the text {shorten(node.text)}"
    return "a list" if isinstance(node, Sequence) else "a mapping"


def compose(text: str, file: str, problems: Problems) -> Node | None:
    """Turn one YAML document into located nodes.

    Arguments: `text`, at most `TEXT_MAX` characters; `file`, the name that problems carry; `problems`, added to.
    Returns the root, or None where the text is empty or broken (a broken one has added an error). Raises nothing.
    """
    if len(text) > TEXT_MAX:
        problems.add(Position(file, 1, 1), "", f"the text has {len(text)} characters; at most {TEXT_MAX} are read")
        return None
    if bad := _NOT_PRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        message = f"the character U+{ord(bad[0]):04X} is not allowed in YAML; write it as an escape in double quotes"
        problems.add(Position(file, line, column), "", message)
        return None
    composer = _Composer(file, problems)
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            composer.handle(event)
    except _Refused as error:
        problems.add(error.position, "", error.message)
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(file, mark.line + 1, mark.column + 1) if mark else Position(file, 1, 1)
        problems.add(position, "", _broken(error))
        return None
    return composer.root


def _broken(error: yaml.MarkedYAMLError) -> str:
    if error.problem and "nesting depth" in error.problem:  # newer parsers look ahead, and have a bound of their own
        return f"the document is deeper than {DEPTH_MAX} levels"
    return f"this is not YAML: {error.problem}" + (f" ({error.context})" if error.context else "")


class _Refused(Exception):
    """Composing cannot go on."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


@dataclass(slots=True, eq=False)
class _Open:
    """A collection whose end has not been read yet; a mapping's keys and values alternate in `children`."""

    is_mapping: bool
    position: Position
    anchor: str | None
    nodes_before: int
    children: list[Node] = field(default_factory=list)
    height: int = 1


class _Composer:
    """Builds nodes from parser events, without recursion: depth is bounded by a count, not by the stack."""

    def __init__(self, file: str, problems: Problems) -> None:
        self.root: Node | None = None
        self._file = file
        self._problems = problems
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}  # node, nodes, height; None while still open
        self._nodes = 0

    def handle(self, event: yaml.Event) -> None:
        """Take one event of the parser."""
        if isinstance(event, yaml.ScalarEvent):
            position = self._at(event)
            if event.tag:
                self._check_tag(event.tag, position)
            # A tag says what the text is: `!!str null` is the word, not the absence of one.
            node = Scalar(event.value, bool(event.implicit[0]) and not event.tag, position)
            self._add(node, 1, 0)
            if event.anchor is not None:
                self._anchors[event.anchor] = (node, 1, 0)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            position = self._at(event)
            if event.tag:
                self._check_tag(event.tag, position)
            if len(self._open) >= DEPTH_MAX:
                # At the start, not at the end: the parser's own work grows with the square of the depth.
                raise _Refused(position, f"the document is deeper than {DEPTH_MAX} levels")
            if event.anchor is not None:
                self._anchors[event.anchor] = None
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            self._open.append(_Open(is_mapping, position, event.anchor, self._nodes))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor), self._at(event))
        elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise _Refused(self._at(event), "a second document starts here; one file holds one document")

    def _at(self, event: yaml.Event) -> Position:
        mark = event.start_mark
        assert mark is not None  # the parser marks every event
        return Position(self._file, mark.line + 1, mark.column + 1)

    def _check_tag(self, tag: str, position: Position) -> None:
        if not _CORE_TAG.fullmatch(tag):
            self._problems.add(position, "", f"the tag {shorten(tag)} is not known; leave it out")

    def _alias(self, name: str, position: Position) -> None:
        if name not in self._anchors:
            raise _Refused(position, f"*{name} refers to nothing: no &{name} stands above it")
        anchored = self._anchors[name]
        if anchored is None:
            raise _Refused(position, f"*{name} stands inside of what it refers to")
        node, nodes, height = anchored
        if len(self._open) + height > DEPTH_MAX:
            raise _Refused(position, f"*{name} makes the document deeper than {DEPTH_MAX} levels")
        self._add(node, nodes, height)

    def _close(self) -> None:
        closed = self._open.pop()
        node: Node
        if closed.is_mapping:
            node = MappingNode(self._entries(closed), closed.position)
        else:
            node = Sequence(closed.children, closed.position)
        if closed.anchor is not None:
            # Its children are counted already; the node itself is by `_add` below.
            self._anchors[closed.anchor] = (node, self._nodes - closed.nodes_before + 1, closed.height)
        self._add(node, 1, closed.height)

    def _add(self, node: Node, nodes: int, height: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise _Refused(node.position, f"the document has more than {NODES_MAX} values with its aliases expanded")
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        parent.children.append(node)
        if height >= parent.height:
            parent.height = height + 1

    def _entries(self, closed: _Open) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: list[Node] = []
        for key, value in zip(closed.children[::2], closed.children[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._problems.add(key.position, "", "a key must be a text, not a list or a mapping")
            elif key.plain and key.text == "<<":
                merged.append(value)
            elif key.text in entries:
                line = entries[key.text].position.line
                message = f"the key {shorten(key.text)} is given twice, first in line {line}"
                self._problems.add(key.position, "", message)
            else:
                entries[key.text] = Entry(key.position, value)
        for value in merged:
            self._merge(entries, value)
        return entries

    def _merge(self, entries: dict[str, Entry], value: Node) -> None:
        """Add what `<<: value` names; the keys that stand in the mapping itself win, then the earlier of the list."""
        for source in value.items if isinstance(value, Sequence) else [value]:
            if isinstance(source, MappingNode):
                for key, entry in source.entries.items():
                    entries.setdefault(key, entry)
            else:
                self._problems.add(source.position, "<<", "a merge key takes a mapping or a list of mappings")

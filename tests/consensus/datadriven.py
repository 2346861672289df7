"""The data-driven test format: text files of commands, each with what it must print (cockroachdb/datadriven).

    # A comment.
    command argument key=value key=(value, value)
    input, any number of lines
    ----
    what must be printed, up to the next blank line

A command line that ends in a backslash goes on in the next. Output that has blank lines in it stands between two lines
`----` at its beginning (the second one right below the first) and two at its end. Here, other than there, nothing is
passed over: a command without its `----` is an error, and so is an argument that nobody asks for (`Arguments.end`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

SEPARATOR = "----"
_TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


class TranscriptError(Exception):
    """The transcript itself is wrong, or asks for something that is not known. The message says where."""


@dataclass(frozen=True, slots=True)
class Argument:
    """`key` (no values), `key=value` or `key=(value, value)`."""

    key: str
    values: tuple[str, ...] = ()


@dataclass(slots=True)
class Arguments:
    """The arguments and the input of one command, taken one after another; `end` refuses what is left."""

    left: list[Argument]
    given: str = ""

    def text(self) -> str:
        """The input."""
        given, self.given = self.given, ""
        return given

    def word(self, what: str) -> str:
        """The next argument without a value. Raises TranscriptError if there is none."""
        for position, argument in enumerate(self.left):
            if not argument.values:
                del self.left[position]
                return argument.key
        raise TranscriptError(f"{what} is missing")

    def words(self) -> list[str]:
        """All arguments without a value."""
        found = [argument.key for argument in self.left if not argument.values]
        self.left = [argument for argument in self.left if argument.values]
        return found

    def number(self, what: str) -> int:
        """The next argument without a value, which must be a number."""
        return to_number(self.word(what))

    def numbers(self) -> list[int]:
        """All arguments without a value, which must be numbers."""
        return [to_number(word) for word in self.words()]

    def values(self, key: str) -> tuple[str, ...] | None:
        """The values of `key`; None if it is not there. One that is there twice is an error."""
        found = [argument for argument in self.left if argument.key == key and argument.values]
        if len(found) > 1:
            raise TranscriptError(f"{key}= is given twice")
        self.left = [argument for argument in self.left if argument not in found]
        return found[0].values if found else None

    def ids(self, key: str) -> tuple[int, ...]:
        """The values of `key`, which must be numbers; none if it is not there."""
        return tuple(to_number(value) for value in self.values(key) or ())

    def value(self, key: str, default: str) -> str:
        """The one value of `key`."""
        values = self.values(key)
        if values is None:
            return default
        if len(values) != 1:
            raise TranscriptError(f"{key}= takes one value, not {len(values)}")
        return values[0]

    def size(self, key: str, default: int) -> int:
        """The one value of `key`, which must be a number."""
        return to_number(self.value(key, str(default)))

    def flag(self, key: str, *, default: bool) -> bool:
        """The one value of `key`, which must be true or false."""
        text = self.value(key, str(default)).lower()
        if text not in _TRUTH:
            raise TranscriptError(f"{key}= takes true or false, not {text!r}")
        return _TRUTH[text]

    def end(self) -> None:
        """Raises TranscriptError if there are arguments that nobody took."""
        if self.left:
            raise TranscriptError(f"unknown arguments: {', '.join(argument.key for argument in self.left)}")
        if self.given:
            raise TranscriptError(f"it takes no input: {self.given!r}")


def to_number(text: str) -> int:
    """Decimal digits as a number. Raises TranscriptError."""
    if not text.isdecimal():
        raise TranscriptError(f"{text!r} is not a number")
    return int(text)


@dataclass(frozen=True, slots=True)
class Directive:
    """One command of a transcript. number: from 1 on. line: where it stands. span: the lines of what it must print."""

    number: int
    line: int
    command: str
    arguments: tuple[Argument, ...]
    input: str
    expected: str
    span: tuple[int, int] = field(compare=False)

    def args(self) -> Arguments:
        """The arguments, to be taken."""
        return Arguments(list(self.arguments), self.input)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A file of directives. lines: its text, without line ends."""

    name: str
    lines: tuple[str, ...]
    directives: tuple[Directive, ...]

    def rewritten(self, outputs: Sequence[str]) -> str:
        """The text with what each directive must print replaced. outputs: one for each directive."""
        lines = list(self.lines)
        for directive, output in reversed(list(zip(self.directives, outputs, strict=True))):
            start, end = directive.span
            lines[start:end] = _framed(output)
        return "\n".join(lines) + "\n"


def _framed(output: str) -> list[str]:
    body = output.removesuffix("\n").split("\n")
    if any(not line.strip() for line in body):
        return [SEPARATOR, *body, SEPARATOR, SEPARATOR]
    return body


def parse(text: str, name: str) -> Transcript:
    """Read a transcript. name: what errors call it. Raises TranscriptError with the line."""
    lines = text.removesuffix("\n").split("\n")
    directives: list[Directive] = []
    position = 0
    while position < len(lines):
        try:
            directive, position = _directive(lines, position, len(directives) + 1)
        except TranscriptError as error:
            raise TranscriptError(f"{name}:{position + 1}: {error}") from error
        if directive is not None:
            directives.append(directive)
    return Transcript(name, tuple(lines), tuple(directives))


def _directive(lines: list[str], position: int, number: int) -> tuple[Directive | None, int]:
    """The directive that begins at `position`, or None for a blank line or a comment; and where to go on."""
    start = position
    head = lines[position].strip()
    position += 1
    if not head or head.startswith("#"):
        return None, position
    while head.endswith("\\") and position < len(lines):
        head = f"{head[:-1]} {lines[position].strip()}"
        position += 1
    command, arguments = parse_line(head)
    if SEPARATOR not in lines[position:]:
        raise TranscriptError(f"{command} has no {SEPARATOR}")
    separator = lines.index(SEPARATOR, position)
    given = "\n".join(lines[position:separator]).strip()
    begin = separator + 1
    if begin < len(lines) and lines[begin] == SEPARATOR:
        last = _closing(lines, begin + 1)
        span, body = (begin, last + 2), lines[begin + 1 : last]
    else:
        stop = next((at for at in range(begin, len(lines)) if not lines[at].strip()), len(lines))
        span, body = (begin, stop), lines[begin:stop]
    expected = "".join(f"{line}\n" for line in body)
    return Directive(number, start + 1, command, arguments, given, expected, span), span[1]


def _closing(lines: list[str], position: int) -> int:
    """Where the two lines are that end an output with blank lines in it."""
    while position + 1 < len(lines):
        if lines[position] == SEPARATOR:
            if lines[position + 1] == SEPARATOR:
                return position
            position += 1  # the line after a lone separator begins no pair
        position += 1
    raise TranscriptError(f"the output has no end: two lines {SEPARATOR}")


def parse_line(line: str) -> tuple[str, tuple[Argument, ...]]:
    """A command line as (command, arguments). Raises TranscriptError."""
    command, _, rest = line.strip().partition(" ")
    arguments: list[Argument] = []
    while rest := rest.strip():
        stop = min((at for at in (rest.find(" "), rest.find("=")) if at >= 0), default=len(rest))
        key, rest = rest[:stop], rest[stop:]
        if not key:
            raise TranscriptError(f"a value without a key before {rest!r}")
        values: tuple[str, ...] = ()
        if rest.startswith("=("):
            values, rest = _list(rest[2:])
        elif rest.startswith("="):
            value, _, rest = rest[1:].partition(" ")
            values = (value,)
        arguments.append(Argument(key, values))
    return command, tuple(arguments)


def _list(text: str) -> tuple[tuple[str, ...], str]:
    """The values up to the closing parenthesis, and what follows it. Parentheses within a value are its own."""
    values, depth, begin = [], 0, 0
    for at, char in enumerate(text):
        if depth == 0 and char in ",)":
            values.append(text[begin:at].strip())
            begin = at + 1
            if char == ")":
                return tuple(values), text[begin:]
        depth += {"(": 1, ")": -1}.get(char, 0)
    raise TranscriptError(f"no closing parenthesis: ({text}")

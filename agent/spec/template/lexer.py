"""Template text into tokens. Source: https://pkg.go.dev/text/template (Text and spaces, Actions, Arguments)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from agent.spec.template.literals import go_quote

LEFT, RIGHT = "{{", "}}"
_LEFT_COMMENT, _RIGHT_COMMENT = "/*", "*/"
_SPACES = " \t\r\n"
_TRIM_MARK = "-"
_TRIM_LENGTH = 2  # the mark and the space that must stand beside it


class Kind(StrEnum):
    """What a token is."""

    ERROR = "error"
    EOF = "EOF"
    TEXT = "text"
    LEFT_DELIM = "left delimiter"
    RIGHT_DELIM = "right delimiter"
    SPACE = "space"
    CHAR = "char"  # printable ASCII that means nothing by itself, such as a comma
    ASSIGN = "="
    DECLARE = ":="
    PIPE = "|"
    LEFT_PAREN = "("
    RIGHT_PAREN = ")"
    BOOL = "bool"
    RUNE = "rune"
    COMPLEX = "complex"
    NUMBER = "number"
    STRING = "string"
    RAW_STRING = "raw string"
    FIELD = "field"
    IDENTIFIER = "identifier"
    VARIABLE = "variable"
    DOT = "."
    NIL = "nil"
    BLOCK = "block"
    BREAK = "break"
    CONTINUE = "continue"
    DEFINE = "define"
    ELSE = "else"
    END = "end"
    IF = "if"
    RANGE = "range"
    TEMPLATE = "template"
    WITH = "with"


_KEYWORDS = frozenset(
    {Kind.BLOCK, Kind.BREAK, Kind.CONTINUE, Kind.DEFINE, Kind.ELSE, Kind.END, Kind.IF, Kind.NIL, Kind.RANGE}
    | {Kind.TEMPLATE, Kind.WITH}
)
_KEYWORD_OF = {str(kind): kind for kind in _KEYWORDS}
_PUNCTUATION = {"=": Kind.ASSIGN, "|": Kind.PIPE}
_QUOTES = {
    '"': (Kind.STRING, "quoted string"),
    "'": (Kind.RUNE, "character constant"),
    "`": (Kind.RAW_STRING, "raw quoted string"),
}


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text: what it is, where it begins (in characters), how it reads, and the line it begins on."""

    kind: Kind
    position: int
    text: str
    line: int

    def __str__(self) -> str:
        """The token as error messages show it."""
        if self.kind is Kind.ERROR:
            return self.text
        if self.kind in _KEYWORDS or self.kind is Kind.DOT:
            return f"<{self.text}>"
        if len(self.text) > 10:
            return f"{go_quote(self.text[:10])}..."
        return go_quote(self.text)


def is_alphanumeric(char: str) -> bool:
    """Letters, decimal digits and the underscore, as Go's identifiers have them."""
    return char == "_" or (char != "" and (unicodedata.category(char)[0] == "L" or unicodedata.category(char) == "Nd"))


def _describe(char: str) -> str:
    return f"U+{ord(char):04X} '{char}'" if char.isprintable() else f"U+{ord(char):04X}"


class _Stop(Exception):
    """The text cannot be read on: the token says why."""


class Lexer:
    """Reads tokens one after another, up to EOF or an error."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._start = 0  # of the token being read
        self._pos = 0
        self._line = 1  # at _start
        self._inside = False  # an action
        self._depth = 0  # of parentheses

    def next(self) -> Token:
        """The next token. After EOF or an error it must not be asked again."""
        try:
            return self._action_token() if self._inside else self._text_token()
        except _Stop as stop:
            return Token(Kind.ERROR, self._start, str(stop), self._line)

    def _peek(self) -> str:
        return self._source[self._pos : self._pos + 1]

    def _at(self, text: str, offset: int = 0) -> bool:
        return self._source.startswith(text, self._pos + offset)

    def _ignore(self) -> None:
        self._line += self._source.count("\n", self._start, self._pos)
        self._start = self._pos

    def _emit(self, kind: Kind) -> Token:
        token = Token(kind, self._start, self._source[self._start : self._pos], self._line)
        self._ignore()
        return token

    def _text_token(self) -> Token:
        while True:
            found = self._source.find(LEFT, self._pos)
            if found < 0:
                self._pos = len(self._source)
                return self._emit(Kind.TEXT if self._pos > self._start else Kind.EOF)
            if found > self._pos:
                self._pos = found
                if self._left_trim_mark(len(LEFT)):
                    text = self._source[self._start : found]
                    self._pos = self._start + len(text.rstrip(_SPACES))
                token = self._emit(Kind.TEXT)
                self._pos = found
                self._ignore()
                if token.text:
                    return token
            if not self._skip_comment():
                return self._left_delimiter()

    def _left_trim_mark(self, offset: int) -> bool:
        after = self._source[self._pos + offset : self._pos + offset + _TRIM_LENGTH]
        return len(after) == _TRIM_LENGTH and after[0] == _TRIM_MARK and after[1] in _SPACES

    def _left_delimiter(self) -> Token:
        trim = self._left_trim_mark(len(LEFT))
        self._pos += len(LEFT)
        token = self._emit(Kind.LEFT_DELIM)
        if trim:
            self._pos += _TRIM_LENGTH
            self._ignore()
        self._inside, self._depth = True, 0
        return token

    def _skip_comment(self) -> bool:
        """Skips a comment with its delimiters; False where there is none."""
        opening = len(LEFT) + (_TRIM_LENGTH if self._left_trim_mark(len(LEFT)) else 0)
        if not self._at(_LEFT_COMMENT, opening):
            return False
        self._pos += opening
        self._ignore()
        end = self._source.find(_RIGHT_COMMENT, self._pos + len(_LEFT_COMMENT))
        if end < 0:
            raise _Stop("unclosed comment")
        self._pos = end + len(_RIGHT_COMMENT)
        closing = self._right_delimiter_length()
        if not closing:
            raise _Stop("comment ends before closing delimiter")
        self._close(closing)
        return True

    def _right_delimiter_length(self) -> int:
        """Length of the right delimiter, with its trim mark, at the position; 0 where there is none."""
        if self._at(RIGHT):
            return len(RIGHT)
        mark = self._source[self._pos : self._pos + _TRIM_LENGTH]
        trims = len(mark) == _TRIM_LENGTH and mark[0] in _SPACES and mark[1] == _TRIM_MARK
        return _TRIM_LENGTH + len(RIGHT) if trims and self._at(RIGHT, _TRIM_LENGTH) else 0

    def _close(self, length: int) -> None:
        """Moves past a right delimiter and what it trims."""
        self._pos += length
        if length > len(RIGHT):
            while self._peek() and self._peek() in _SPACES:
                self._pos += 1
        self._ignore()

    def _action_token(self) -> Token:
        closing = self._right_delimiter_length()
        if closing:
            if self._depth:
                raise _Stop("unclosed left paren")
            self._pos += closing - len(RIGHT)
            self._ignore()
            token = Token(Kind.RIGHT_DELIM, self._pos, RIGHT, self._line)
            self._pos -= closing - len(RIGHT)
            self._close(closing)
            self._inside = False
            return token
        char = self._peek()
        if not char:
            raise _Stop("unclosed action")
        if char in _SPACES:
            return self._space()
        if char == "." and not ("0" <= self._source[self._pos + 1 : self._pos + 2] <= "9"):
            return self._field_or_variable(Kind.FIELD)
        if char in ".+-" or "0" <= char <= "9":
            return self._number()
        if is_alphanumeric(char):
            return self._identifier()
        return self._punctuation(char)

    def _punctuation(self, char: str) -> Token:
        self._pos += 1
        match char:
            case "=" | "|":
                return self._emit(_PUNCTUATION[char])
            case ":":
                if not self._at("="):
                    raise _Stop("expected :=")
                self._pos += 1
                return self._emit(Kind.DECLARE)
            case '"' | "'" | "`":
                return self._quoted(char)
            case "$":
                self._pos -= 1
                return self._field_or_variable(Kind.VARIABLE)
            case "(":
                self._depth += 1
                return self._emit(Kind.LEFT_PAREN)
            case ")":
                self._depth -= 1
                if self._depth < 0:
                    raise _Stop("unexpected right paren")
                return self._emit(Kind.RIGHT_PAREN)
        if "!" <= char <= "~":
            return self._emit(Kind.CHAR)
        raise _Stop(f"unrecognized character in action: {_describe(char)}")

    def _space(self) -> Token:
        # The last space may belong to a trim mark: it is left for the delimiter.
        while self._peek() and self._peek() in _SPACES and not self._right_delimiter_length():
            self._pos += 1
        return self._emit(Kind.SPACE)

    def _run(self, accepted: str) -> None:
        while self._peek() and self._peek() in accepted:
            self._pos += 1

    def _accept(self, accepted: str) -> bool:
        found = bool(self._peek()) and self._peek() in accepted
        self._pos += found
        return found

    def _word(self) -> None:
        while is_alphanumeric(self._peek()):
            self._pos += 1
        if not self._at_terminator():
            raise _Stop(f"bad character {_describe(self._peek())}")

    def _at_terminator(self) -> bool:
        """Whether a word may end here: .X.Y is two tokens, $x+2 is a mistake."""
        char = self._peek()
        return not char or char in _SPACES or char in ".,|:)(" or self._at(RIGHT)

    def _identifier(self) -> Token:
        self._word()
        word = self._source[self._start : self._pos]
        if word in ("true", "false"):
            return self._emit(Kind.BOOL)
        return self._emit(_KEYWORD_OF.get(word, Kind.IDENTIFIER))

    def _field_or_variable(self, kind: Kind) -> Token:
        self._pos += 1  # the . or $
        if self._at_terminator():
            return self._emit(Kind.DOT if kind is Kind.FIELD else kind)
        self._word()
        return self._emit(kind)

    def _quoted(self, quote: str) -> Token:
        kind, name = _QUOTES[quote]
        if kind is Kind.RAW_STRING:
            end = self._source.find(quote, self._pos)
            if end < 0:
                raise _Stop(f"unterminated {name}")
            self._pos = end + 1
            return self._emit(kind)
        while True:
            char = self._peek()
            self._pos += 1
            if char == quote:
                return self._emit(kind)
            if char == "\\":
                char = self._peek()
                self._pos += 1
            if not char or char == "\n":
                raise _Stop(f"unterminated {name}")

    def _number(self) -> Token:
        kind = Kind.NUMBER
        good = self._scan_number()
        if good and self._peek() and self._peek() in "+-":
            good = self._scan_number() and self._source[self._pos - 1] == "i"
            kind = Kind.COMPLEX
        if not good:
            raise _Stop(f"bad number syntax: {go_quote(self._source[self._start : self._pos])}")
        return self._emit(kind)

    def _scan_number(self) -> bool:
        """Scans what looks like a number; whether it is one is the parser's business."""
        self._accept("+-")
        digits, exponent = "0123456789_", "eE"
        if self._accept("0"):
            if self._accept("xX"):
                digits, exponent = "0123456789abcdefABCDEF_", "pP"
            elif self._accept("oO"):
                digits, exponent = "01234567_", ""
            elif self._accept("bB"):
                digits, exponent = "01_", ""
        self._run(digits)
        if self._accept("."):
            self._run(digits)
        if self._accept(exponent):
            self._accept("+-")
            self._run("0123456789_")
        self._accept("i")
        if is_alphanumeric(self._peek()):
            self._pos += 1
            return False
        return True

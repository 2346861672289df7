"""Go's literals: numbers, quoted strings and runes, and how Go quotes a string back.

A Go string is bytes, a Python one is characters. Where a template cuts a character in two, the bytes left over are kept
as lone surrogates (PEP 383), so that every byte survives until the text is whole again.
Source: https://go.dev/ref/spec (Integer, Floating-point, Rune and String literals), package strconv.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from agent.spec.template.errors import ValueRefused

INT_MIN, INT_MAX, UINT_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
RUNE_MAX = 0x10FFFF

# What Go's unicode.IsSpace calls space; Python's own strip would also take the separators 0x1c to 0x1f.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
WHITE_SPACE += "\u2028\u2029\u202f\u205f\u3000"

_SURROGATE = re.compile("[\ud800-\udfff]")
_INTEGER = re.compile(
    r"([+-]?)(?:0[bB]((?:_?[01])+)|0[oO]((?:_?[0-7])+)|0[xX]((?:_?[0-9a-fA-F])+)|0((?:_?[0-7])+)|(0|[1-9](?:_?[0-9])*))"
)
_BASES = (2, 8, 16, 8, 10)
_DECIMAL_FLOAT = re.compile(
    r"[+-]?(?:[0-9](?:_?[0-9])*(?:\.(?:[0-9](?:_?[0-9])*)?)?|\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9](?:_?[0-9])*)?"
)
_HEX_FLOAT = re.compile(
    r"[+-]?0[xX](?:_?[0-9a-fA-F])*(?:\.(?:[0-9a-fA-F](?:_?[0-9a-fA-F])*)?)?[pP][+-]?[0-9](?:_?[0-9])*"
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_ESCAPED = {char: escape for escape, char in _ESCAPES.items()}
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))", re.DOTALL
)


def as_bytes(text: str) -> bytes:
    """The bytes of a Go string."""
    return text.encode("utf-8", "surrogateescape")


def from_bytes(data: bytes) -> str:
    """A Go string of bytes; bytes that are no UTF-8 stay as lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def well_formed(text: str) -> str:
    """Text that came from outside, with the lone surrogates it has no right to replaced."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def printable(text: str) -> str:
    """Text that goes out: bytes that were joined become characters again, what is no UTF-8 becomes U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", from_bytes(as_bytes(text)))


@dataclass(frozen=True, slots=True)
class Number:
    """A literal number under every type that can hold it, as Go's untyped constants; None where that type cannot."""

    text: str
    integer: int | None
    floating: float
    is_float: bool
    """The literal's own spelling says float (it has a point or an exponent and is no rune and no hex integer)."""


def parse_number(text: str) -> Number:
    """A number literal. Raises ValueRefused where it is none, or is complex."""
    if text.endswith("i"):
        raise ValueRefused(f"complex numbers are not supported: {go_quote(text)}")
    spelled_float = any(mark in text for mark in ".eEpP")
    whole = _INTEGER.fullmatch(text)
    if whole is not None:
        digits = next(i for i in range(2, 7) if whole[i] is not None)
        spelling = whole[digits].replace("_", "")
        value = int(spelling, _BASES[digits - 2]) if len(spelling) <= 100 else UINT_MAX + 1
        value = -value if whole[1] == "-" else value
        if INT_MIN <= value <= INT_MAX:
            return Number(text, value, float(value), is_float=False)
        if INT_MAX < value <= UINT_MAX and not whole[1]:
            return Number(text, None, float(value), is_float=False)
        raise ValueRefused(f"integer overflow: {go_quote(text)}")
    if not spelled_float and _DECIMAL_FLOAT.fullmatch(text):
        raise ValueRefused(f"integer overflow: {go_quote(text)}")  # 089: Go's words, its digits are not octal
    value_f = _parse_float(text)
    if value_f is None or not spelled_float:
        raise ValueRefused(f"illegal number syntax: {go_quote(text)}")
    fits = value_f.is_integer() and INT_MIN <= value_f <= INT_MAX
    return Number(text, int(value_f) if fits else None, value_f, is_float=True)


def _parse_float(text: str) -> float | None:
    spelling = text.replace("_", "")
    if _HEX_FLOAT.fullmatch(text):
        try:
            return float.fromhex(spelling)
        except (ValueError, OverflowError):  # no digits, or too large
            return None
    if not _DECIMAL_FLOAT.fullmatch(text):
        return None
    value = float(spelling)
    return None if math.isinf(value) else value


def parse_rune(text: str) -> Number:
    """A rune literal with its quotes, as the number it is. Raises ValueRefused where it is none."""
    body = text[1:-1]
    if not body:
        raise ValueRefused("invalid syntax")
    if body[0] != "\\":
        length, char = 1, ord(body[0])
    else:
        escape = _ESCAPE.match(body)
        if escape is None:
            raise ValueRefused("invalid syntax")
        length, char = escape.end(), ord(_unescape(escape, "'"))
        if 0xDC80 <= char <= 0xDCFF:  # a byte, not a character
            char -= 0xDC00
    if length != len(body):
        raise ValueRefused(f"malformed character constant: {text}")
    return Number(text, char, float(char), is_float=False)


def unquote(text: str) -> str:
    """The string that a quoted or raw literal stands for. Raises ValueRefused where an escape is none of Go's."""
    body = text[1:-1]
    if text[0] == "`":
        return body.replace("\r", "")
    if "\\" not in body:
        return body
    out, at = [], 0
    while at < len(body):
        slash = body.find("\\", at)
        if slash < 0:
            out.append(body[at:])
            break
        escape = _ESCAPE.match(body, slash)
        if escape is None:
            raise ValueRefused("invalid syntax")
        out += [body[at:slash], _unescape(escape, '"')]
        at = escape.end()
    return from_bytes(as_bytes("".join(out)))


def _unescape(escape: re.Match[str], quote: str) -> str:
    simple, hexadecimal, short, long, octal = escape.groups()
    if simple:
        if simple in "'\"" and simple != quote:
            raise ValueRefused("invalid syntax")
        return _ESCAPES.get(simple, simple)
    if short or long:
        code = int(short or long, 16)
        if code > RUNE_MAX or 0xD800 <= code <= 0xDFFF:
            raise ValueRefused("invalid syntax")
        return chr(code)
    byte = int(hexadecimal, 16) if hexadecimal else int(octal, 8)
    if byte > 0xFF:
        raise ValueRefused("invalid syntax")
    return chr(byte) if byte < 0x80 else chr(0xDC00 + byte)


_QUOTABLE = re.compile(r"""[^ -~]|[\\"']""")


def go_quote(text: str, quote: str = '"', *, ascii_only: bool = False) -> str:
    """A string in Go's quotes (strconv.Quote); with `quote` ' the one rune as a rune literal."""

    def escaped(found: re.Match[str]) -> str:
        char = found[0]
        code = ord(char)
        if char in "\"'\\":
            return char if char in "\"'" and char != quote else "\\" + char
        if char in _ESCAPED:
            return "\\" + _ESCAPED[char]
        if code < 0x80:
            return f"\\x{code:02x}"
        if 0xDC80 <= code <= 0xDCFF:
            return f"\\x{code - 0xDC00:02x}"
        if char.isprintable() and not ascii_only:
            return char
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

    return quote + _QUOTABLE.sub(escaped, text) + quote


def can_backquote(text: str) -> bool:
    """Whether Go's %#q may write the string between backquotes."""
    return not any(
        char in "`\ufeff\x7f" or (char < " " and char != "\t") or "\udc80" <= char <= "\udcff" for char in text
    )

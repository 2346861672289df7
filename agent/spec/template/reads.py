"""What a template reads: the paths of fields in its actions. The text around the actions is none of them."""

from __future__ import annotations

from agent.spec.template.errors import ValueRefused
from agent.spec.template.lexer import Kind, Lexer
from agent.spec.template.literals import unquote, well_formed

_STRINGS = frozenset({Kind.STRING, Kind.RAW_STRING})


def paths_read(source: str) -> frozenset[tuple[str, ...]]:
    """The paths that a template may read: `.a.b` and `$.a.b` are ("a", "b").

    A string in an action is a path of one name, since `index` takes names as strings. What does not parse ends where it
    stops parsing: it cannot be rendered either.
    """
    lexer = Lexer(well_formed(source))
    found: set[tuple[str, ...]] = set()
    path: tuple[str, ...] = ()
    while True:
        token = lexer.next()
        if token.kind is Kind.FIELD:
            path = (*path, token.text[1:])
            continue
        if path:
            found.add(path)
            path = ()
        if token.kind in _STRINGS:
            found.add((_value(token.text),))
        elif token.kind in (Kind.EOF, Kind.ERROR):
            return frozenset(found)


def _value(quoted: str) -> str:
    try:
        return unquote(quoted)
    except ValueRefused:  # no string of Go's, so no template either
        return quoted

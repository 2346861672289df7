"""What can go wrong in a template.

TemplateError            the text does not parse, or cannot be rendered with this context
"""

from __future__ import annotations


class TemplateError(Exception):
    """The template does not parse or cannot be rendered; `str(error)` is the sentence Go's text/template would print.

    `name` is the template's name, `line` its 1-based line, `column` the byte in that line (0-based, as Go counts),
    `key` the key or function concerned (None where neither is), `message` what is wrong without the place.
    """

    def __init__(self, text: str, *, name: str, line: int, column: int, message: str, key: str | None = None) -> None:
        super().__init__(text)
        self.name = name
        self.line = line
        self.column = column
        self.message = message
        self.key = key


class ValueRefused(Exception):
    """A literal, a value or a call is refused. Inside this package only: who knows the place makes a TemplateError."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.key = key

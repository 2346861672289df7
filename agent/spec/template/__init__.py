"""Go's text/template, to the byte, with the functions of Optimus: `render(source, context, partials) -> text`.

lexer, parser   text to trees          executor   trees and a context to text
functions, methods     what can be called
    gofmt, gotime, timeparse, literals, values   Go's fmt, time, literals and types

It is pure: no clock, no file, no network. Times are shown in UTC. A missing key is an error (missingkey=error).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.spec.template import nodes
from agent.spec.template.errors import TemplateError
from agent.spec.template.executor import execute
from agent.spec.template.functions import FUNCTIONS
from agent.spec.template.literals import WHITE_SPACE, well_formed
from agent.spec.template.parser import parse_source

__all__ = ["Template", "TemplateError", "parse", "render"]

_NO_PARTIALS: Mapping[str, str | Template] = {}


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template, and what it defines. Made by `parse`; immutable, so it may be kept and shared."""

    name: str
    trees: nodes.Trees

    def render(self, context: Mapping[str, object], partials: Mapping[str, str | Template] = _NO_PARTIALS) -> str:
        """The text, trimmed, as Optimus trims it.

        `context` is the cursor (`.`): string keys; values are strings, numbers (Go's float64, as JSON's are), booleans,
        None, datetimes, lists and mappings of these. It is read by `in`, `[]`, `len` and iteration, and only where the
        template asks. `partials` are the templates it may call by name, as text or parsed; a definition of the template
        itself wins over one of a partial, and a later partial over an earlier one.

        Raises TemplateError: a key or template is missing, a value is of the wrong type, a partial does not parse, a
        limit is passed.
        """
        trees: dict[str, nodes.Tree] = {}
        for name, partial in partials.items():
            parsed = parse(partial, name=name) if isinstance(partial, str) else partial
            _associate(trees, parsed.trees)
        _associate(trees, self.trees)
        trees[self.name] = self.trees[self.name]
        return execute(trees, self.name, context).strip(WHITE_SPACE)


def _associate(known: dict[str, nodes.Tree], new: nodes.Trees) -> None:
    for name, tree in new.items():
        if not tree.empty or name not in known:
            known[name] = tree


def parse(source: str, name: str = "main") -> Template:
    """Parses a text that messages and `{{template}}` call `name`. Raises TemplateError where it is no template."""
    return Template(name, parse_source(well_formed(source), name, FUNCTIONS))


def render(
    source: str,
    context: Mapping[str, object],
    partials: Mapping[str, str | Template] = _NO_PARTIALS,
    *,
    name: str = "main",
) -> str:
    """Parses and renders a text at once: see `Template.render`. Raises TemplateError."""
    return parse(source, name).render(context, partials)

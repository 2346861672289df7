"""How a `this.yaml` fills what the documents below it leave open.

Merging works on located nodes, before anything is read from them: a value that is inherited keeps its place in the
`this.yaml` it came from, and an explicit `false` or `0` is a value like any other. The nearest document wins:

- scalars fill what is absent or null; mappings (`labels`, `config`, `metadata`, ...) merge key by key;
- lists of `LIST_KEYS` merge item by item where the items' keys are equal, and what is only inherited follows;
- lists of `UNIONS` keep their own items, then the inherited ones that are not among them;
- any other list is taken whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from agent.spec.document import Entry, MappingNode, Node, Problems, Scalar, compose, is_null
from agent.spec.document import Sequence as SequenceNode
from agent.spec.errors import Problem, Severity

LIST_KEYS: Final = {
    "behavior.notify": ("on",),
    "behavior.webhook": ("on",),
    "behavior.webhook[].endpoints": ("url",),
    "dependencies": ("job", "type", "http.name"),
    "hooks": ("name",),
}
"""Lists that merge item by item, with the keys that make two items the same."""

UNIONS: Final = frozenset({"behavior.notify[].channels"})

NEVER_INHERITED: Final = "name"
"""What belongs to one job alone."""


def inherit(node: Node | None, parents: Sequence[tuple[str, str]], problems: Problems) -> Node | None:
    """Fill a job's document from its `this.yaml` files.

    Arguments: `node`, the job's root; `parents`, (file, text) of the `this.yaml` files, nearest first; `problems`,
    added to. Returns the merged root; what is not a mapping is returned as it is. Raises nothing.
    """
    for file, text in parents:
        parent, found = _parent(text, file)
        problems.extend(found)
        if isinstance(node, MappingNode) and isinstance(parent, MappingNode):
            node = _mappings(node, parent, "", problems)
    return node


@lru_cache(maxsize=64)
def _parent(text: str, file: str) -> tuple[MappingNode | None, tuple[Problem, ...]]:
    """Compose a `this.yaml` once for all the jobs below it; nodes are never changed, so they can be shared."""
    problems = Problems()
    node = compose(text, file, problems)
    if node is not None and not isinstance(node, MappingNode):
        problems.add(node.position, "", "a mapping of keys is expected")
        node = None
    if node is not None and NEVER_INHERITED in node.entries:
        position = node.entries[NEVER_INHERITED].position
        problems.add(position, NEVER_INHERITED, "a name is not inherited; this has no effect", Severity.WARNING)
        entries = {key: entry for key, entry in node.entries.items() if key != NEVER_INHERITED}
        node = MappingNode(entries, node.position)
    return node, problems.listed()


def _merge(own: Node, inherited: Node, path: str, problems: Problems) -> Node:
    if is_null(inherited):
        return own
    if isinstance(own, MappingNode) and isinstance(inherited, MappingNode):
        return _mappings(own, inherited, path, problems)
    if isinstance(own, SequenceNode) and isinstance(inherited, SequenceNode):
        if path in LIST_KEYS:
            return _lists(own, inherited, path, problems)
        if path in UNIONS:
            return _union(own, inherited)
        return own
    if not isinstance(own, type(inherited)):
        problems.add(inherited.position, path.replace("[]", ""), _mismatch(own))
    return own


def _mismatch(own: Node) -> str:
    kind = {Scalar: "a text", SequenceNode: "a list", MappingNode: "a mapping"}[type(own)]
    place = f"{own.position.file}:{own.position.line}"
    return f"this cannot be merged with {kind} at {place}; both must have the same form"


def _mappings(own: MappingNode, inherited: MappingNode, path: str, problems: Problems) -> MappingNode:
    inherited = _without_rivals(own, inherited, path)
    entries = dict(own.entries)
    for key, entry in inherited.entries.items():
        mine = entries.get(key)
        if mine is None or is_null(mine.value):
            entries[key] = entry
        else:
            merged = _merge(mine.value, entry.value, f"{path}.{key}" if path else key, problems)
            entries[key] = Entry(mine.position, merged)
    return MappingNode(entries, own.position)


def _without_rivals(own: MappingNode, inherited: MappingNode, path: str) -> MappingNode:
    """Take out of what is inherited the keys that say in another way what the nearer document has said already."""
    if path == "task.window":
        # A preset and a window of one's own exclude each other.
        preset = "preset" in own.entries
        kept = {key: entry for key, entry in inherited.entries.items() if (key == "preset") is preset}
        return MappingNode(kept if own.entries else inherited.entries, inherited.position)
    if path == "metadata":
        # `airflow` is another name for `scheduler`.
        kept = dict(inherited.entries)
        for name, alias in (("airflow", "scheduler"), ("scheduler", "airflow")):
            said, theirs = own.entries.get(alias), kept.get(name)
            if said and theirs and isinstance(said.value, MappingNode) and isinstance(theirs.value, MappingNode):
                others = {k: v for k, v in theirs.value.entries.items() if k not in said.value.entries}
                kept[name] = Entry(theirs.position, MappingNode(others, theirs.value.position))
        return MappingNode(kept, inherited.position)
    return inherited


def _lists(own: SequenceNode, inherited: SequenceNode, path: str, problems: Problems) -> SequenceNode:
    items = list(own.items)
    places = {_identity(item, path): index for index, item in reversed(list(enumerate(items)))}
    for item in inherited.items:
        identity = _identity(item, path)
        index = places.get(identity) if any(identity) else None
        if index is None:
            items.append(item)
        else:
            items[index] = _merge(items[index], item, f"{path}[]", problems)
    return SequenceNode(items, own.position)


def _union(own: SequenceNode, inherited: SequenceNode) -> SequenceNode:
    texts = {item.text for item in own.items if isinstance(item, Scalar)}
    added = [item for item in inherited.items if not (isinstance(item, Scalar) and item.text in texts)]
    return SequenceNode([*own.items, *added], own.position)


def _identity(item: Node, path: str) -> tuple[str, ...]:
    """Return what makes an item of a list the same as another one's: the texts of its keys."""
    return tuple(_text_at(item, key) for key in LIST_KEYS[path])


def _text_at(node: Node | None, key: str) -> str:
    for name in key.split("."):
        entry = node.entries.get(name) if isinstance(node, MappingNode) else None
        node = entry.value if entry else None
    return node.text if isinstance(node, Scalar) and not is_null(node) else ""

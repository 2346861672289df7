"""How the graph of jobs is drawn: as a tree of text, for Mermaid, for Graphviz. The answer in, text out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agent.cli.output import CONTROL

Graph = Mapping[str, Any]  # the agent's answer
MISSING: Final = " (not applied)"


def ascii_tree(graph: Graph) -> str:
    """What depends on a job stands below it, further in; what was drawn before is only named again, with `^`."""
    below = _below(graph)
    labels = _labels(graph)
    wait_for = {one["job"] for one in graph["edges"]}
    drawn: set[str] = set()
    lines: list[str] = []
    open_ = [(one["id"], "", "") for one in reversed(graph["nodes"]) if one["id"] not in wait_for]
    while open_:
        node, head, indent = open_.pop()
        again = node in drawn and bool(below[node])
        lines.append(f"{head}{labels[node]}{' ^' if again else ''}")
        if again:
            continue
        drawn.add(node)
        last = len(below[node]) - 1
        children = [
            (child, f"{indent}{'`- ' if number == last else '|- '}", f"{indent}{'   ' if number == last else '|  '}")
            for number, child in enumerate(below[node])
        ]
        open_ += reversed(children)
    return "\n".join(lines)


def mermaid(graph: Graph) -> str:
    """A flowchart: an arrow leads from a job to who waits for it."""
    names, labels = _names(graph), _labels(graph)
    lines = ["graph LR"]
    for one in graph["nodes"]:
        text = labels[one["id"]].replace('"', "#quot;")
        shape = f'(["{text}"])' if one["kind"] == "http" else f'["{text}"]'
        lines.append(f"  {names[one['id']]}{shape}{'' if one['applied'] else ':::missing'}")
    lines += [f"  {names[one['on']]} --> {names[one['job']]}" for one in graph["edges"]]
    if not all(one["applied"] for one in graph["nodes"]):
        lines.append("  classDef missing stroke-dasharray: 5 5")
    return "\n".join(lines)


def dot(graph: Graph) -> str:
    """A digraph: an arrow leads from a job to who waits for it."""
    names, labels = _names(graph), _labels(graph)
    lines = ["digraph jobs {", "  rankdir=LR"]
    for one in graph["nodes"]:
        text = labels[one["id"]].replace("\\", "\\\\").replace('"', '\\"')
        shape = "ellipse" if one["kind"] == "http" else "box"
        style = "" if one["applied"] else ", style=dashed"
        lines.append(f'  {names[one["id"]]} [label="{text}", shape={shape}{style}]')
    lines += [f"  {names[one['on']]} -> {names[one['job']]}" for one in graph["edges"]]
    return "\n".join([*lines, "}"])


def _below(graph: Graph) -> dict[str, list[str]]:
    below: dict[str, list[str]] = {one["id"]: [] for one in graph["nodes"]}
    for one in graph["edges"]:
        below[one["on"]].append(one["job"])
    return below


def _names(graph: Graph) -> dict[str, str]:
    return {one["id"]: f"n{number}" for number, one in enumerate(graph["nodes"])}


def _labels(graph: Graph) -> dict[str, str]:
    return {one["id"]: f"{CONTROL.sub('?', one['id'])}{'' if one['applied'] else MISSING}" for one in graph["nodes"]}

"""How the graph of jobs is drawn."""

from __future__ import annotations

import textwrap

from agent.cli.graph import ascii_tree, dot, mermaid

NODES = [
    {"id": "http ready of p/a", "kind": "http", "applied": True},
    {"id": "p/a", "kind": "job", "applied": True},
    {"id": "p/b", "kind": "job", "applied": True},
    {"id": "p/c", "kind": "job", "applied": True},
    {"id": "q/x", "kind": "job", "applied": False},
    {"id": "q/d", "kind": "job", "applied": True},
    {"id": "q/e", "kind": "job", "applied": True},
]
EDGES = [
    ("p/a", "http ready of p/a"),
    ("p/b", "p/a"),
    ("p/c", "p/a"),
    ("q/d", "p/b"),
    ("q/d", "p/c"),
    ("q/d", "q/x"),
    ("q/e", "q/d"),
]
GRAPH = {"nodes": NODES, "edges": [{"job": job, "on": on} for job, on in EDGES], "truncated": False}


def test_a_tree_names_what_was_drawn_already() -> None:
    assert ascii_tree(GRAPH) == textwrap.dedent("""\
        http ready of p/a
        `- p/a
           |- p/b
           |  `- q/d
           |     `- q/e
           `- p/c
              `- q/d ^
        q/x (not applied)
        `- q/d ^""")


def test_a_chain_longer_than_any_stack_is_drawn() -> None:
    nodes = [{"id": f"p/j{number}", "kind": "job", "applied": True} for number in range(3000)]
    edges = [{"job": f"p/j{number + 1}", "on": f"p/j{number}"} for number in range(2999)]
    assert ascii_tree({"nodes": nodes, "edges": edges}).count("\n") == 2999


def test_mermaid_and_dot_have_each_node_and_edge() -> None:
    drawn = mermaid(GRAPH).splitlines()
    assert drawn[0] == "graph LR"
    assert '  n0(["http ready of p/a"])' in drawn
    assert '  n4["q/x (not applied)"]:::missing' in drawn
    assert "  n0 --> n1" in drawn
    assert drawn[-1] == "  classDef missing stroke-dasharray: 5 5"
    lines = dot(GRAPH).splitlines()
    assert '  n4 [label="q/x (not applied)", shape=box, style=dashed]' in lines
    assert '  n0 [label="http ready of p/a", shape=ellipse]' in lines
    assert "  n4 -> n5" in lines
    assert lines[-1] == "}"


def test_what_a_name_has_in_it_draws_nothing() -> None:
    node = {"id": 'http a"b\\\n\x1b of p/a', "kind": "http", "applied": True}
    graph = {"nodes": [node], "edges": []}
    assert ascii_tree(graph) == 'http a"b\\?? of p/a'
    assert mermaid(graph).splitlines()[1] == '  n0(["http a#quot;b\\?? of p/a"])'
    assert '\\"b\\\\?? of' in dot(graph)

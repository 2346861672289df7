"""YAML with places: what is read, what is refused, and where it says so."""

from __future__ import annotations

import time

import pytest

from agent.spec.document import (
    DEPTH_MAX,
    NODES_MAX,
    PROBLEMS_MAX,
    TEXT_MAX,
    MappingNode,
    Node,
    Problems,
    Scalar,
    Sequence,
    compose,
    nearest,
    shorten,
)
from agent.spec.errors import Position, Problem, Severity, SpecError, has_errors, require


def composed(text: str) -> Node | None:
    problems = Problems()
    node = compose(text, "a.yaml", problems)
    assert problems.listed() == ()
    return node


def refused(text: str) -> list[str]:
    problems = Problems()
    compose(text, "a.yaml", problems)
    assert problems.refused
    return [str(problem) for problem in problems.listed()]


def as_data(node: Node | None) -> object:
    """Texts, lists and dictionaries, without their places."""
    if isinstance(node, MappingNode):
        return {key: as_data(entry.value) for key, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [as_data(item) for item in node.items]
    return node.text if isinstance(node, Scalar) else None


def test_scalars_keep_their_source_text() -> None:
    text = "{a: yes, b: 010, c: 2021-01-01, d: 1e3, e: '007', f: null, g: 0x1F}"
    expected = {"a": "yes", "b": "010", "c": "2021-01-01", "d": "1e3", "e": "007", "f": "null", "g": "0x1F"}
    assert as_data(composed(text)) == expected


def test_every_node_knows_its_place() -> None:
    root = composed("a: 1\nb:\n  - x\n  - c: ü: no\n".replace("ü: no", "ü"))
    assert isinstance(root, MappingNode)
    entry = root.entries["b"]
    assert entry.position == Position("a.yaml", 2, 1)
    assert isinstance(entry.value, Sequence)
    assert [item.position[1:] for item in entry.value.items] == [(3, 5), (4, 5)]


def test_only_plain_nulls_are_null() -> None:
    root = composed("[~, null, '', 'null', !!str null, ]")
    assert isinstance(root, Sequence)
    assert [item.plain for item in root.items if isinstance(item, Scalar)] == [True, True, False, False, False]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\ufeff"])
def test_an_empty_text_is_no_document_and_no_error(text: str) -> None:
    assert composed(text) is None


def test_a_byte_order_mark_is_skipped() -> None:
    assert as_data(composed("\ufeffa: 1")) == {"a": "1"}


def test_a_key_given_twice_is_an_error_at_the_second_one() -> None:
    assert refused("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n") == [
        "a.yaml:4:3: the key 'c' is given twice, first in line 3",
        "a.yaml:5:1: the key 'a' is given twice, first in line 1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: [1, 2\nb: 3\n",
            "a.yaml:2:2: this is not YAML: did not find expected ',' or ']' (while parsing a flow seq",
        ),
        ("a: b: c\n", "a.yaml:1:5: this is not YAML: mapping values are not allowed in this context"),
        ("a: 'x\n", "a.yaml:2:1: this is not YAML: found unexpected end of stream (while scanning a quoted scalar)"),
        ("%YAML 2.0\n---\na\n", "a.yaml:1:1: this is not YAML: found incompatible YAML document"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2:1: a second document starts here; one file holds one document"),
        ("a: x\x00y\n", "a.yaml:1:5: the character U+0000 is not allowed in YAML"),
        ("a: 1\nb: \ud800\n", "a.yaml:2:4: the character U+D800 is not allowed in YAML"),
        ("a: *b\n", "a.yaml:1:4: *b refers to nothing: no &b stands above it"),
        ("a: &b [1, *b]\n", "a.yaml:1:11: *b stands inside of what it refers to"),
        ("a: !secret x\n", "a.yaml:1:4: the tag '!secret' is not known; leave it out"),
        ("a: !!set {x}\n", "a.yaml:1:4: the tag 'tag:yaml.org,2002:set' is not known; leave it out"),
        ("? [a]\n: 1\n", "a.yaml:1:3: a key must be a text, not a list or a mapping"),
        ("<<: x\n", "a.yaml:1:5: <<: a merge key takes a mapping or a list of mappings"),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_stands(text: str, message: str) -> None:
    found = refused(text)
    assert len(found) == 1
    assert found[0].startswith(message)


def test_aliases_stand_for_what_they_refer_to() -> None:
    assert as_data(composed("a: &x {k: v}\nb: *x\nc: &y 1\nd: [*y, *y]")) == {
        "a": {"k": "v"},
        "b": {"k": "v"},
        "c": "1",
        "d": ["1", "1"],
    }


def test_merge_keys_give_what_the_mapping_does_not_say_itself() -> None:
    text = "base: &b {x: 1, y: 2}\nmore: &m {y: 3, z: 4}\nall:\n  <<: [*b, *m]\n  x: own\n"
    root = as_data(composed(text))
    assert isinstance(root, dict)
    assert root["all"] == {"x": "own", "y": "2", "z": "4"}


def test_a_quoted_merge_key_is_a_key_like_any_other() -> None:
    assert as_data(composed("'<<': 1")) == {"<<": "1"}


def test_an_alias_bomb_is_refused_at_once() -> None:
    """P12: nine lines that stand for a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    started = time.perf_counter()
    (message,) = refused("\n".join(lines))
    assert f"more than {NODES_MAX} values" in message
    assert time.perf_counter() - started < 5


def test_depth_is_bounded_without_aliases_and_with_them() -> None:
    """P12: and no text can exhaust the stack."""
    assert f"deeper than {DEPTH_MAX} levels" in refused("[" * 100_000)[0]
    assert f"deeper than {DEPTH_MAX} levels" in refused("[" * 100 + "]" * 100)[0]
    deep = "[" * (DEPTH_MAX - 1) + "x" + "]" * (DEPTH_MAX - 1)
    assert composed(deep) is not None
    assert f"*d makes the document deeper than {DEPTH_MAX} levels" in refused(f"- &d {deep}\n- [[*d]]\n")[0]


def test_a_text_over_the_limit_is_not_read() -> None:
    """P12."""
    assert refused("x" * (TEXT_MAX + 1)) == [
        f"a.yaml:1:1: the text has {TEXT_MAX + 1} characters; at most {TEXT_MAX} are read"
    ]


def test_problems_are_bounded_and_say_how_many_are_not_shown() -> None:
    """P12."""
    problems = Problems()
    for line in range(1, PROBLEMS_MAX + 11):
        problems.add(Position("a.yaml", line, 1), "k", "warned", Severity.WARNING)
    problems.add(Position("a.yaml", 1, 1), "k", "warned", Severity.WARNING)
    assert not has_errors(problems.listed())
    problems.add(Position("a.yaml", 1, 1), "k", "wrong")
    listed = problems.listed()
    assert len(listed) == PROBLEMS_MAX + 1
    assert listed[-1].message == "11 more problems are not listed; mend these first"
    assert listed[-1].severity is Severity.ERROR, "an error that is not listed still shows as one"


def test_the_same_problem_is_listed_once_and_all_in_the_order_of_the_text() -> None:
    problems = Problems()
    for line in (3, 1, 3, 2):
        problems.add(Position("a.yaml", line, 1), "k", "wrong")
    assert [problem.line for problem in problems.listed()] == [1, 2, 3]


def test_a_problem_reads_as_place_key_and_message() -> None:
    assert str(Problem("a.yaml", 3, 7, "task.name", "is missing")) == "a.yaml:3:7: task.name: is missing"
    assert str(Problem("a.yaml", 1, 1, "", "is empty")) == "a.yaml:1:1: is empty"


def test_require_gives_the_value_or_raises_with_every_problem() -> None:
    assert require("value", ()) == "value"
    wrong = Problem("a.yaml", 1, 1, "k", "is wrong")
    warned = Problem("a.yaml", 2, 1, "l", "does nothing", Severity.WARNING)
    with pytest.raises(SpecError, match=r"^a\.yaml:1:1: k: is wrong$") as caught:
        require(None, (wrong, warned))
    assert caught.value.problems == (wrong, warned)


def test_the_nearest_known_word_is_suggested() -> None:
    assert nearest("onwer", ["owner", "name"]) == "; did you mean 'owner'? Known: name, owner"
    assert nearest("SCHEDULE", ["schedule"]) == "; did you mean 'schedule'? Known: schedule"
    assert nearest("desc", ["description", "window"]) == "; did you mean 'description'? Known: description, window"
    assert nearest("", ["owner"]) == "; known: owner"
    assert nearest("zzz", ["owner"]) == "; known: owner"
    assert nearest("zzz", []) == "; known: none"
    assert nearest("zzz", [f"k{i:02}" for i in range(60)]).endswith(", k39, ...")


def test_long_texts_are_cut_in_messages() -> None:
    assert shorten("x" * 100) == repr("x" * 77 + "...")

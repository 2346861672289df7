"""What a task has put out: which JSON is taken, and what of it tells a secret."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spec.lookups import Asked, TaskOutputs, Tasks
from agent.spec.outputs import (
    DEPTH_MAX,
    OUTPUTS_BYTES_MAX,
    OutputsRefused,
    decode_outputs,
    encode_outputs,
    parse_outputs,
    parse_return,
    telling,
)
from agent.spec.template import TemplateError, render

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_outputs_are_the_keys_of_an_object() -> None:
    assert parse_outputs(b' {"rows": 3, "list": [1.5, "a", null], "map": {"deep": true}} ') == {
        "rows": 3,
        "list": [1.5, "a", None],
        "map": {"deep": True},
    }
    assert parse_outputs(b'{"a": 1, "a": 2}') == {"a": 2}  # as Go has it


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "cannot be read as JSON"),
        (b"[1]", "must hold a JSON object"),
        (b'"text"', "must hold a JSON object"),
        (b"{", "cannot be read as JSON"),
        (b"{'a': 1}", "cannot be read as JSON"),
        (b'{"a": NaN}', "cannot be read as JSON"),
        (b'{"a": 1e999}', "cannot be read as JSON"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b'{"a": ' + b"9" * 400 + b"}", "has a number that is too large"),
        (b'{"a": ' + b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1) + b"}", "deeper than 32 levels"),
        (b'{"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "deeper than 32 levels"),
        (b'{"a": "' + b"x" * OUTPUTS_BYTES_MAX + b'"}', "is larger than the 65536 bytes"),
    ],
)
def test_what_cannot_be_outputs_is_refused_in_words(text: bytes, why: str) -> None:
    with pytest.raises(OutputsRefused, match=why):
        parse_outputs(text)


def test_what_nests_as_deep_as_it_may_can_be_printed() -> None:
    values = parse_outputs(b'{"a": ' + b"[" * DEPTH_MAX + b"1" + b"]" * DEPTH_MAX + b"}")
    assert render("{{ . }}", values) == f"map[a:{'[' * DEPTH_MAX}1{']' * DEPTH_MAX}]"


def test_a_returned_value_that_is_no_object_is_the_output_return_value() -> None:
    assert parse_return(b'{"destination": "t"}') == {"destination": "t"}
    assert parse_return(b"[1, 2]") == {"return_value": [1, 2]}
    assert parse_return(b"null") == {"return_value": None}
    assert parse_return(b" \n") == {}  # as Airflow has it
    with pytest.raises(OutputsRefused):
        parse_return(b"{")


def test_the_same_outputs_give_the_same_blob_and_too_many_none() -> None:
    assert encode_outputs({"b": 1, "a": [2.5]}) == encode_outputs({"a": [2.5], "b": 1}) == b'{"a":[2.5],"b":1}'
    assert decode_outputs(b'{"a":[2.5],"b":1}') == {"a": [2.5], "b": 1}
    with pytest.raises(OutputsRefused, match="at most 65536 are kept"):
        encode_outputs({"a": "x" * OUTPUTS_BYTES_MAX})


def test_an_output_tells_a_secret_by_its_name_or_anywhere_in_its_value() -> None:
    secrets = ["hunter22\n", "", "no", "4711.5"]
    values = {
        "plain": ["nothing", 1, None, True],
        "deep": {"a": [{"url": "https://me:hunter22@host"}]},
        "key": {"hunter22": 1},
        "is-hunter22": 1,
        "number": 4711.5,
        "short": " no ",
        "short inside": "nothing",
    }
    assert telling(values, secrets) == {"deep", "key", "is-hunter22", "number", "short"}
    assert telling(values, [""]) == frozenset()


@given(JSON)
def test_any_json_is_taken_or_refused_and_what_is_taken_is_kept_as_it_was(value: object) -> None:
    text = json.dumps(value).encode()
    try:
        values = parse_return(text)
    except OutputsRefused:
        return  # half a surrogate pair, or a number that is too large
    assert decode_outputs(encode_outputs(values)) == values
    telling(values, ["secret", "x"])
    render("{{ . }}{{ printf `%v %q` . . }}{{ range $k, $v := . }}{{ $k }}{{ $v }}{{ end }}", values)


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    for parse in (parse_outputs, parse_return):
        try:
            parse(data)
        except OutputsRefused:
            continue


# -- .tasks ------------------------------------------------------------------------------------------------------------


def tasks(outputs: dict[str, TaskOutputs] | None) -> Tasks:
    """As `transform` finds it, after `extract` and before `load`."""
    return Tasks(lambda: frozenset({"extract"}), lambda: frozenset({"extract", "transform", "load"}), outputs)


VALUES = {"rows": 3, "big": 1e6, "f": 0.1, "list": [1, 2.5, "x", None], "m": {"b": 1, "a": True}}
KNOWN = {"extract": TaskOutputs(VALUES)}


@pytest.mark.parametrize(
    ("text", "made"),
    [  # as Go prints what encoding/json has decoded
        ("{{ .tasks.extract.outputs.rows }}", "3"),
        ("{{ .tasks.extract.outputs.big }}", "1e+06"),
        ('{{ printf "%.0f" .tasks.extract.outputs.big }}', "1000000"),
        ("{{ .tasks.extract.outputs.f }}", "0.1"),
        ("{{ .tasks.extract.outputs.list }}", "[1 2.5 x <nil>]"),
        ("{{ range .tasks.extract.outputs.list }}{{ . }};{{ end }}", "1;2.5;x;<no value>;"),
        ("{{ index .tasks.extract.outputs.list 1 }}", "2.5"),
        ("{{ .tasks.extract.outputs.m }}", "map[a:true b:1]"),
        ("{{ .tasks.extract.outputs.m.b }}", "1"),
        ('{{ with index .tasks "extract" }}{{ index .outputs "rows" }}{{ end }}', "3"),
        ('{{ if index .tasks.extract.outputs "none" }}yes{{ else }}no{{ end }}', "no"),
        ('{{ if index .tasks "load" }}yes{{ else }}no{{ end }}', "no"),
        ("{{ range $name, $task := .tasks }}{{ $name }}={{ len $task.outputs }}{{ end }}", "extract=5"),
        ("{{ len .tasks }} {{ range $k, $v := .tasks.extract.outputs }}{{ $k }} {{ end }}", "1 big f list m rows"),
    ],
)
def test_templates_find_outputs_as_go_would(text: str, made: str) -> None:
    assert render(text, {"tasks": tasks(KNOWN)}) == made


def why(text: str, found: Tasks) -> str:
    """What is added to the error of a text."""
    with pytest.raises(TemplateError) as caught:
        render(text, {"tasks": found})
    return found.why(caught.value.key)


def test_what_is_missing_is_told_with_what_there_is() -> None:
    found = tasks({"extract": TaskOutputs({"rows": 3}, "out/return.json cannot be read")})
    assert why("{{ .tasks.extract.outputs.row }}", found) == (
        "; extract has no output 'row'; did you mean 'rows'? Known: rows (out/return.json cannot be read)"
    )
    assert why("{{ .tasks.extract.outputs.x }}", tasks(KNOWN)).startswith("; extract has no output 'x'; known: big")
    assert why("{{ .nothing }}", found) == ""  # another error has nothing to do with what was asked before
    found.asked = Asked()
    assert why("{{ .nothing }}", found) == ""


def test_an_instance_that_comes_later_and_one_that_is_none_are_told_apart() -> None:
    for text in ("{{ .tasks.load.outputs.x }}", '{{ (index .tasks "load").outputs.x }}'):
        found = tasks(KNOWN)
        late = "load, whose outputs it reads, does not come before it; before it: extract"
        assert why(text, found) == f"; {late}"
        assert found.comes_too_late("load") == late
        assert found.comes_too_late("other") is None
    found = tasks(None)
    assert why("{{ .tasks.lod.outputs.x }}", found).startswith("; the run has no instance 'lod'; did you mean 'load'?")
    assert found.comes_too_late("lod") is None
    first = Tasks(frozenset, lambda: frozenset({"extract"}), None)
    assert why("{{ .tasks.extract.outputs.x }}", first).endswith("before it: none")
    with pytest.raises(KeyError):
        first["extract"]


def test_without_a_run_any_output_stands_in_for_itself() -> None:
    found = tasks(None)
    assert found.asked == Asked()
    assert render("{{ .tasks.extract.outputs.x }}", {"tasks": found}) == "{{ .tasks.extract.outputs.x }}"
    assert found.asked == Asked(guessed=True)
    assert why("{{ .tasks.extract.outputs.x.y }}", found) == ""
    whole = "{{ range .tasks.extract.outputs }}x{{ end }}{{ .tasks.extract.outputs }}"
    assert render(whole, {"tasks": found}) == "map[]"

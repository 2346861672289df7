"""Parameters: typed, with defaults, and told of when they do not fit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spec.jobspec import ParamSpec, ParamType
from agent.spec.params import INTEGER_MAX, Value, defaults, read, values

DECLARED = {
    "day": ParamSpec(default="monday"),
    "count": ParamSpec(type=ParamType.INTEGER),
    "share": ParamSpec(type=ParamType.NUMBER, default="0.5"),
    "dry": ParamSpec(type=ParamType.BOOLEAN, default="true"),
}


@pytest.mark.parametrize(
    ("kind", "given_value", "value"),
    [
        (ParamType.STRING, "", ""),
        (ParamType.STRING, "a\nb", "a\nb"),
        (ParamType.INTEGER, "+007", 7),
        (ParamType.INTEGER, -3, -3),
        (ParamType.NUMBER, ".5", 0.5),
        (ParamType.NUMBER, "3", 3.0),
        (ParamType.NUMBER, 3, 3),
        (ParamType.NUMBER, 2.5, 2.5),
        (ParamType.BOOLEAN, "false", False),
        (ParamType.BOOLEAN, True, True),
    ],
)
def test_a_value_is_read_by_its_type(kind: ParamType, given_value: object, value: Value) -> None:
    found = read(kind, given_value)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "given_value", "words"),
    [
        (ParamType.STRING, 7, "a text is expected, not 7"),
        (ParamType.STRING, None, "a text is expected, not None"),
        (ParamType.INTEGER, "7.0", "a whole number is expected, not '7.0'"),
        (ParamType.INTEGER, 7.0, "a whole number is expected, not 7.0"),
        (ParamType.INTEGER, True, "a whole number is expected, not True"),
        (ParamType.INTEGER, INTEGER_MAX + 1, "too large a whole number"),
        (ParamType.INTEGER, "9" * 30, "too large a whole number"),
        (ParamType.NUMBER, "1e999", "too large a number"),
        (ParamType.NUMBER, math.inf, "a number is expected"),
        (ParamType.NUMBER, True, "a number is expected, not True"),
        (ParamType.BOOLEAN, "yes", "true or false is expected, not 'yes'"),
        (ParamType.BOOLEAN, 1, "true or false is expected, not 1"),
        (ParamType.BOOLEAN, ["x" * 500], "true or false is expected, not "),
    ],
)
def test_what_is_not_of_the_type_is_refused(kind: ParamType, given_value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", "[.]")) as caught:
        read(kind, given_value)
    assert len(str(caught.value)) < 200


def test_a_run_has_the_defaults_and_what_it_is_given() -> None:
    assert defaults(DECLARED) == {"day": "monday", "share": 0.5, "dry": True}
    assert values(DECLARED, {"count": 3, "day": "x"}) == ({"day": "x", "count": 3, "share": 0.5, "dry": True}, {})


def test_all_that_is_wrong_is_told() -> None:
    _made, wrong = values(DECLARED, {"cuont": 1, "share": "x"})
    assert wrong == {
        "cuont": "the job has no such parameter; did you mean 'count'? Known: count, day, dry, share",
        "share": "a number is expected, not 'x'",
        "count": "a whole number is required: the job gives no default",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda some: st.lists(some, max_size=2) | st.dictionaries(st.text(), some, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(ParamType), JSON)
def test_whatever_is_sent_is_read_or_refused(kind: ParamType, sent: object) -> None:
    kinds: dict[ParamType, type | tuple[type, ...]] = {
        ParamType.STRING: str,
        ParamType.INTEGER: int,
        ParamType.NUMBER: (int, float),
        ParamType.BOOLEAN: bool,
    }
    try:
        found = read(kind, sent)
    except ValueError:
        return
    assert isinstance(found, kinds[kind])
    assert read(kind, found) == found

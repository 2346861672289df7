"""The checker of histories: it accepts what one register could have done, and refuses what none could."""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linearizability import IMPOSSIBLE, UNKNOWN, Operation, check

WRITE, READ, SWAP = "write", "read", "swap"


def register(state: Hashable, action: tuple[str, int], output: object) -> Hashable:
    """One register: `write` gives nothing, `read` its value, `swap` the value before."""
    kind, value = action
    if kind == WRITE:
        return value
    if output is not UNKNOWN and output != state:
        return IMPOSSIBLE
    return state if kind == READ else value


def write(value: int, called: int, returned: int | None, key: str = "x") -> Operation:
    return Operation(key, (WRITE, value), None if returned is not None else UNKNOWN, called, returned)


def read(value: int, called: int, returned: int, key: str = "x") -> Operation:
    return Operation(key, (READ, 0), value, called, returned)


def swap(value: int, before: int, called: int, returned: int | None) -> Operation:
    return Operation("x", (SWAP, value), before if returned is not None else UNKNOWN, called, returned)


GOOD = {
    "nothing at all": [],
    "a read of the beginning": [read(0, 0, 1)],
    "one after the other": [write(1, 0, 1), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7)],
    "a read beside a write sees the old value": [write(1, 0, 10), read(0, 2, 3)],
    "a read beside a write sees the new value": [write(1, 0, 10), read(1, 2, 3)],
    "two writes at once, the first to end is last": [write(1, 0, 10), write(2, 1, 5), read(2, 6, 7), read(1, 11, 12)],
    "an unknown write that happened": [write(1, 0, None), read(0, 1, 2), read(1, 3, 4)],
    "an unknown write that never happened": [write(1, 0, None), read(0, 1, 2), read(0, 3, 4)],
    "an unknown write that happened long after": [write(1, 0, None), write(2, 5, 6), read(2, 7, 8), read(1, 9, 10)],
    "swaps in a chain that time does not give": [swap(1, 2, 0, 10), swap(2, 0, 1, 9), read(1, 11, 12)],
    "an unknown swap between two": [swap(1, 0, 0, 1), swap(2, 0, 2, None), swap(3, 2, 3, 4)],
    "operations that touch at one moment overlap": [write(1, 0, 5), read(0, 5, 6)],
    "keys are independent": [write(1, 0, 1, "x"), read(0, 2, 3, "y")],
}

BAD = {
    "a stale read": [write(1, 0, 1), read(0, 2, 3)],
    "a value from nowhere": [write(1, 0, 1), read(7, 2, 3)],
    "new, then old again": [write(1, 0, 10), read(1, 2, 3), read(0, 4, 5)],
    "an unknown write that is undone": [write(1, 0, None), read(1, 1, 2), read(0, 3, 4)],
    "a value before it is written": [read(1, 0, 1), write(1, 2, 3)],
    "a lost write": [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
    "two swaps that see the same value": [swap(1, 0, 0, 10), swap(2, 0, 1, 9)],
    "a swap that happened twice": [swap(1, 0, 0, 1), swap(2, 1, 2, 3), read(1, 4, 5)],
    "readers that disagree on an order": [
        write(1, 0, 20),
        write(2, 0, 20),
        read(1, 1, 2),
        read(2, 3, 4),
        read(1, 5, 6),
    ],
    "one key of several": [write(1, 0, 1, "x"), read(1, 2, 3, "x"), write(1, 0, 1, "y"), read(0, 2, 3, "y")],
    "a split brain": [swap(1, 0, 0, 1), swap(2, 1, 2, 3), swap(3, 1, 2, 4)],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_one_register_can_have_is_accepted(name: str) -> None:
    assert check(GOOD[name], 0, register) is None


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_no_register_can_have_is_refused(name: str) -> None:
    assert check(BAD[name], 0, register) is not None


def test_a_refusal_names_the_operation_that_fits_nowhere_and_what_came_before() -> None:
    stale = read(1, 4, 5)
    found = check([write(1, 0, 1), write(2, 2, 3), stale], 0, register)
    assert found is not None
    assert found.stuck == stale
    assert [one.action for one in found.placed] == [(WRITE, 1), (WRITE, 2)]
    assert str(stale) in str(found)


def _by_definition(history: Sequence[Operation]) -> bool:
    """Try every order of every subset that holds all that ended: slow, and plainly what the definition says."""
    ended = [one for one in history if one.returned is not None]
    unknown = [one for one in history if one.returned is None]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            if any(_explains(order) for order in itertools.permutations([*ended, *chosen])):
                return True
    return False


def _explains(order: Sequence[Operation]) -> bool:
    state: Hashable = 0
    for position, one in enumerate(order):
        if any(later.returned is not None and later.returned < one.called for later in order[position + 1 :]):
            return False
        state = register(state, one.action, one.output)
        if state is IMPOSSIBLE:
            return False
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Up to five operations with any values at any times: some linearizable, some not."""
    history = []
    for value in range(1, draw(st.integers(1, 5)) + 1):
        kind = draw(st.sampled_from([WRITE, READ, SWAP]))
        called = draw(st.integers(0, 8))
        unknown = draw(st.booleans()) and kind != READ
        returned = None if unknown else called + draw(st.integers(0, 4))
        output = UNKNOWN if unknown else None if kind == WRITE else draw(st.integers(0, 3))
        history.append(Operation("x", (kind, value), output, called, returned))
    return history


@given(histories())
def test_the_search_says_what_the_definition_says(history: list[Operation]) -> None:
    assert (check(history, 0, register) is None) == _by_definition(history)


@given(st.integers(0, 2**32), st.booleans())
def test_a_long_history_of_a_real_register_is_accepted_and_with_one_stale_read_refused(seed: int, spoil: bool) -> None:
    rng = random.Random(seed)
    value, now, history = 0, 0, []
    for number in range(1, 300):
        called = now - rng.randrange(3)  # some overlap with what came before
        kind = rng.choice([WRITE, READ, SWAP])
        output = None if kind == WRITE else value
        value = value if kind == READ else number
        history.append(Operation("x", (kind, number), output, called, now + rng.randrange(3)))
        now += 1
    if spoil:
        history += [write(1000, now + 5, now + 6), read(value, now + 7, now + 8)]
    assert (check(history, 0, register) is None) != spoil

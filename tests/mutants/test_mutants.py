"""The mutation check itself: patches fit the code, operators do what they say, and a bug is told from none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mutants import operators
from tests.mutants.bench import CORE_MODULES
from tests.mutants.equivalent import EQUIVALENT, REASONS
from tests.mutants.listed import LISTED
from tests.mutants.mutant import Mutant, Patch, PatchError, source_of
from tests.mutants.runner import BaselineError, Field, field, sample

SOURCE = '''\
class Thing:
    def grow(self, much: int) -> bool:
        """Words: 1 < 2."""
        assert much < 9
        if not much and self.size <= 1:
            self.size += much
        elif much == 3:
            raise ValueError(f"{much + 1}")
        return True

    def __str__(self) -> str:
        return "one" if self.size < 2 else "more"
'''


@pytest.fixture(scope="module")
def benches() -> Iterator[Field]:
    with field(1) as made:
        yield made


# -- the list ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", LISTED, ids=lambda patch: patch.name)
def test_a_patch_fits_its_file_and_leaves_a_program(patch: Patch) -> None:
    source = source_of(patch.module)
    mutated = patch.mutant(source).applied(source)
    assert mutated != source
    compile(mutated, patch.name, "exec")


@pytest.mark.parametrize("old", ["nowhere", "size"])
def test_a_patch_that_fits_nowhere_or_in_two_places_is_an_error(old: str) -> None:
    with pytest.raises(PatchError, match="not once"):
        Patch("a bug", "log", old, "", "").mutant(SOURCE)


def test_every_bug_has_a_name_of_its_own_and_says_what_it_costs() -> None:
    assert len({patch.name for patch in LISTED}) == len(LISTED) >= 25
    assert all(patch.why for patch in LISTED)


# -- the operators -----------------------------------------------------------------------------------------------------


def test_the_operators_change_each_place_and_nothing_that_only_speaks() -> None:
    found = operators.mutants("thing", SOURCE)
    if_, elif_ = "not much and self.size <= 1", "much == 3"
    assert [(one.operator, one.name.removeprefix("thing.Thing.grow: ")) for one in found] == [
        ("return", "return False before assert much < 9"),
        ("negate", f"not {if_}"),
        ("logic", f"{if_} -> (not much) or (self.size <= 1)"),
        ("operand", f"{if_} without not much"),
        ("operand", f"{if_} without self.size <= 1"),
        ("logic", "not much -> much"),
        ("compare", "self.size <= 1 -> <"),
        ("number", f"1 -> 2 in {if_}"),
        ("number", f"1 -> 0 in {if_}"),
        ("return", "return False before self.size += much"),
        ("drop", "drop self.size += much"),
        ("arithmetic", "self.size += much -> -="),
        ("negate", f"not {elif_}"),
        ("number", f"3 -> 4 in {elif_}"),
        ("number", f"3 -> 2 in {elif_}"),
        ("drop", "drop raise ValueError(f'{much + 1}')"),
        ("flag", "True -> False in return True"),
    ]


def test_a_mutant_changes_only_its_place() -> None:
    (one,) = (one for one in operators.mutants("thing", SOURCE) if one.operator == "compare")
    assert one.applied(SOURCE) == SOURCE.replace("self.size <= 1:", "((self.size) < (1)):")


@pytest.mark.parametrize("module", CORE_MODULES)
def test_every_mutant_of_the_core_is_another_program(module: str) -> None:
    source = source_of(module)
    found = operators.mutants(module, source)
    assert len({one.name for one in found}) == len(found)
    for one in sample(found, 20, seed=1):
        mutated = one.applied(source)
        assert mutated != source
        compile(mutated, one.name, "exec")


def test_what_is_called_equivalent_is_there_and_once() -> None:
    names = {one.name for module in CORE_MODULES for one in operators.mutants(module, source_of(module))}
    assert EQUIVALENT.keys() <= names
    assert len(EQUIVALENT) == sum(map(len, REASONS.values()))


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    found = operators.mutants("log", source_of("log"))
    assert sample(found, 10, seed=3) == sample(found, 10, seed=3) != sample(found, 10, seed=4)
    assert sample(found, 10**6, seed=3) == found


# -- the check ---------------------------------------------------------------------------------------------------------


def test_bugs_are_caught_by_the_tests_and_the_original_is_not(benches: Field) -> None:
    names = (
        "two votes in a term",
        "an old term's entry is committed by counting",
        "reads are answered without a round",
    )
    bugs = benches.listed(names)
    benches.check_original((bug.module for bug in bugs), (0, 1))
    verdicts = benches.judge(bugs, ())
    assert [verdict.result.how for verdict in verdicts] == ["test"] * len(names)


def test_an_original_that_fails_a_test_or_a_seed_is_an_error(benches: Field) -> None:
    (bug,) = benches.listed(["a vote is not noted"])
    broken = benches.root.parent / "0" / bug.path
    original = broken.read_text()
    broken.write_text(bug.applied(original))
    try:
        with pytest.raises(BaselineError, match="test_"):
            benches.check_original(["raft"], ())
        with pytest.raises(BaselineError, match="seed"):
            benches.check_original([], tuple(range(5)))
    finally:
        broken.write_text(original)


def test_the_simulator_alone_catches_what_no_node_can_see(benches: Field) -> None:
    (verdict,) = benches.judge(benches.listed(["a follower's messages need not wait"]), tuple(range(20)), tested=False)
    assert verdict.result.how == "simulator"


def test_a_mutant_that_changes_nothing_survives_also_after_others(benches: Field) -> None:
    nothing = Mutant("nothing", "raft", "none", 0, 0, "# nothing\n")
    bug = benches.listed(["two votes in a term"])
    assert [verdict.survived for verdict in benches.judge([*bug, nothing], (0, 1))] == [False, True]


@pytest.mark.slow
def test_what_never_ends_is_caught_as_a_hang(benches: Field) -> None:
    source = source_of("raft", benches.root)
    where = source.index("        self.election_elapsed += 1\n")
    endless = Mutant("endless", "raft", "none", where, where, "        while True:\n            pass\n")
    (verdict,) = benches.judge([endless], ())
    assert (verdict.result.how, verdict.survived) == ("hang", False)


def test_what_cannot_be_imported_is_caught(benches: Field) -> None:
    (verdict,) = benches.judge([Mutant("no name", "log", "none", 0, 0, "nowhere\n")], ())
    assert "import" in verdict.what

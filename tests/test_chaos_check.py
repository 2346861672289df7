"""The check of the chaos suite finds what it is there to find: each history here has one thing wrong, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.e2e.chaos.check import check
from tests.e2e.chaos.history import (
    Attempt,
    Call,
    Evidence,
    History,
    Instance,
    Kind,
    Record,
    Seen,
    evidence_of,
    record_of,
    seen_of,
)
from tests.e2e.chaos.plan import Fault, halves, make, ring

QUEUED, RUNNING = Seen("queued", None, 0, 0), Seen("running", None, 1, 0)
SUCCESS = Seen("success", None, 2, 2)


def attempt(number: int, state: str = "success", reason: str | None = None) -> Attempt:
    return Attempt(number, "a0", state, reason, 0 if state == "success" else None)


def record(run: str = "r", state: str = "success", *attempts: Attempt) -> Record:
    tries = attempts or (attempt(1),)
    return Record(run, state, None, (Instance("shell", tries[-1].state, tries[-1].reason, tries),))


def submit(run: str | None = "r", key: str = "k", called: int = 0, returned: int | None = 10) -> Call:
    return Call(Kind.SUBMIT, "a0", called, returned, key, run, index=5 if returned else 0, seen=QUEUED)


def read(seen: Seen | None, called: int, returned: int, index: int = 9, code: str = "") -> Call:
    return Call(Kind.CONSISTENT, "a1", called, returned, run="r", index=index, seen=seen, code=code)


def evidence(*begun_s: float, until_s: float = 2.0, ended: bool = True, held: bool = False) -> Evidence:
    return Evidence(list(begun_s), until_s, held, ended)


FENCED = attempt(1, "failed", "fenced")
GOOD = History([submit()], {("r", "shell", 1): evidence(1.0)}, {"a0": [record()], "a1": [record()]}, [record()])
RERUN = record("r", "success", FENCED, attempt(2))
GOOD_RERUN = History(
    [submit(), submit(called=20, returned=30), read(RUNNING, 40, 50), read(SUCCESS, 60, 70)],
    {("r", "shell", 1): evidence(1.0, ended=False), ("r", "shell", 2): evidence(3.0, until_s=4.0)},
    {"a0": [RERUN], "a1": [RERUN]},
    [RERUN],
)


@pytest.mark.parametrize("good", [GOOD, GOOD_RERUN])
def test_a_good_history_has_nothing_wrong(good: History) -> None:
    assert check(good) == []


def kept(*records: Record) -> History:
    """The same kept everywhere."""
    return replace(GOOD, records={"a0": records, "a1": records}, mirror=records)


def calls(*more: Call) -> History:
    return replace(GOOD, calls=[*GOOD.calls, *more])


def worked(number: int, found: Evidence, history: History = GOOD_RERUN) -> History:
    return replace(history, evidence={**history.evidence, ("r", "shell", number): found})


CANCELLED = Call(Kind.READ, "a1", 20, 30, run="r", index=9, seen=Seen("cancelled", "cancelled", 1, 1))
BAD: Sequence[tuple[str, History, str]] = (
    ("P1: r was accepted, and a0 knows nothing of it", kept(), "a lost run"),
    ("P1: r has not ended: a0 keeps it as running", kept(record("r", "running")), "a run without end"),
    ("P2: the key k got several runs", calls(submit("s", called=20, returned=30)), "two runs for a request"),
    ("P2: r was given to several keys", calls(submit("r", "other")), "one run for two requests"),
    ("P2: a0 keeps r 2 times", kept(record(), record()), "a doubled record"),
    ("P2: a0 keeps s, which no key was given", kept(record(), record("s")), "a run from nowhere"),
    ("P3: r/shell, attempt 1, began 2 times", worked(1, evidence(1.0, 1.5), GOOD), "a doubled start"),
    ("P3: r/shell, attempt 7, has run, and no record", worked(7, evidence(9.0, until_s=9.5)), "unknown work"),
    ("P3: r/shell: attempt 2 began at 1.5 s", worked(2, evidence(1.5)), "an overlap"),
    ("P3: r/shell, attempt 2, began while other work", worked(2, evidence(3.0, until_s=4, held=True)), "a held lock"),
    (
        "P3: r/shell, attempt 1, has worked to its end",
        worked(1, evidence(1.0, ended=False), GOOD),
        "a success too early",
    ),
    ("P3: r/shell, attempt 1, has run, as it is kept", replace(GOOD, evidence={}), "a success of nothing"),
    ("P3: r is cancelled, which nobody has asked for", kept(record("r", "cancelled")), "an unasked cancel"),
    (
        "P3: r/shell, attempt 1, was a success, and another",
        kept(record("r", "success", attempt(1), attempt(2))),
        "rerun",
    ),
    ("P3: r is a success without its instances", kept(record("r", "success", FENCED)), "a hollow success"),
    ("P3: r/shell: its attempts are [2]", kept(record("r", "success", attempt(2))), "a missing attempt"),
    ("P4: r is kept as success (None), and a1", calls(CANCELLED), "an end that changed"),
    ("P6: r: a1 keeps None", replace(GOOD, records={"a0": [record()], "a1": []}), "an agent that lacks a run"),
    ("P5: r: the database has None", replace(GOOD, mirror=[]), "a missing row"),
    ("P5: r: the database has Record", replace(GOOD, mirror=[RERUN]), "a wrong row"),
    ("P5: the database has r 2 times", replace(GOOD, mirror=[record(), record()]), "a doubled row"),
    ("P6: r was accepted, and later a1 says", calls(read(None, 20, 30, code="unknown_run")), "a forgotten run"),
    ("P6: no order explains", calls(read(SUCCESS, 20, 30), read(RUNNING, 40, 50)), "a read that goes back"),
    ("P6: a consistent read of a1 is as of index 4", calls(read(RUNNING, 20, 30, index=4)), "a stale read"),
)


@pytest.mark.parametrize(("found", "history", "what"), BAD, ids=[what for _found, _history, what in BAD])
def test_a_bad_history_is_found(found: str, history: History, what: str) -> None:
    assert [text for text in check(history) if text.startswith(found)]


def test_reads_that_overlap_may_be_in_any_order() -> None:
    assert check(calls(read(SUCCESS, 20, 60), read(RUNNING, 30, 50))) == []


def test_a_request_without_an_answer_promises_nothing() -> None:
    assert check(calls(submit(None, "other", returned=None))) == []


def test_evidence_is_read_from_lines() -> None:
    lines = ["begin r shell 1 1.50", "beat r shell 1 1.60", "held r shell 2 1.70", "end r shell 1 1.80"]
    first, second = evidence_of(lines).values()
    assert first == Evidence([1.5], 1.8, held=False, ended=True)
    assert second == Evidence([1.7], 1.7, held=True, ended=False)


def test_a_record_is_read_from_an_answer() -> None:
    tried = {"number": 1, "agent": "a0", "state": "running", "reason": None, "exit_code": None, "finished_at": None}
    instance = {"name": "shell", "state": "running", "reason": None, "attempts": [tried]}
    shown = {"id": "r", "state": "running", "reason": None, "instances": [instance]}
    assert record_of(shown).instances[0].attempts == (Attempt(1, "a0", "running", None, None),)
    assert seen_of(shown) == RUNNING


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_a_seed_gives_one_plan_and_another_seed_another() -> None:
    assert make(1, 60, 3, Fault) == make(1, 60, 3, Fault) != make(2, 60, 3, Fault)


@pytest.mark.parametrize("seed", range(20))
def test_every_fault_is_undone_in_time_and_has_its_turn(seed: int) -> None:
    steps = make(seed, 120, 5, Fault)
    assert all(step.at_s + step.lasts_s <= 120 for step in steps)
    assert {step.fault for step in steps} == set(Fault)


def hears(links: frozenset[tuple[int, int]], agents: int) -> list[int]:
    """How many each agent hears, itself included."""
    return [agents - sum(receiver == one for _sender, receiver in links) for one in range(agents)]


def test_in_a_ring_each_hears_a_majority_and_no_two_the_same() -> None:
    assert hears(ring([0, 1, 2, 3, 4]), 5) == [3] * 5
    assert sorted(hears(ring([0, 1, 2]), 3)) == [2, 2, 3]


def test_halves_are_apart() -> None:
    assert hears(halves([4, 0, 1, 2, 3]), 5) == [2, 3, 3, 3, 2]

"""Whether a history keeps the promises. Pure: a history in, a sentence for each thing that may not be out."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final

from tests.e2e.chaos.history import FINAL, Attempt, Call, Evidence, History, Instance, Kind, Record
from tests.linearizability import IMPOSSIBLE, UNKNOWN, Operation
from tests.linearizability import check as linearizable


def check(history: History) -> list[str]:
    """What is wrong with it; nothing if it may be."""
    return [f"{promise}: {text}" for promise, rule in RULES for text in rule(history)]


def _accepted_runs(history: History) -> set[str]:
    return {call.run for call in history.calls if call.kind is Kind.SUBMIT and call.done and call.run is not None}


def _kept(history: History) -> dict[str, Record]:
    """Each run as the first agent keeps it; that all keep the same is a rule of its own."""
    return {record.run: record for record in next(iter(history.records.values()), ())}


def every_accepted_run_is_final(history: History) -> Iterator[str]:
    accepted = _accepted_runs(history)
    for agent, records in history.records.items():
        states = {record.run: record.state for record in records}
        for run in sorted(accepted - states.keys()):
            yield f"{run} was accepted, and {agent} knows nothing of it"
        for run, state in states.items():
            if state not in FINAL:
                yield f"{run} has not ended: {agent} keeps it as {state}"


def one_run_for_a_key(history: History) -> Iterator[str]:
    runs: dict[str, set[str]] = defaultdict(set)
    keys: dict[str, set[str]] = defaultdict(set)
    for call in history.calls:
        if call.kind is Kind.SUBMIT and call.done and call.run is not None:
            runs[call.key].add(call.run)
            keys[call.run].add(call.key)
    yield from (f"the key {key} got several runs: {sorted(found)}" for key, found in runs.items() if len(found) > 1)
    yield from (f"{run} was given to several keys: {sorted(found)}" for run, found in keys.items() if len(found) > 1)
    for agent, records in history.records.items():
        counts = Counter(record.run for record in records)
        yield from (f"{agent} keeps {run} {count} times" for run, count in counts.items() if count > 1)
        yield from (f"{agent} keeps {run}, which no key was given" for run in sorted(counts.keys() - keys.keys()))


def an_attempt_starts_at_most_once(history: History) -> Iterator[str]:
    records = _kept(history)
    known = {
        (record.run, instance.name, attempt.number)
        for record in records.values()
        for instance in record.instances
        for attempt in instance.attempts
    }
    for key, evidence in history.evidence.items():
        if len(evidence.begun_s) != 1:
            yield f"{_name(*key)} began {len(evidence.begun_s)} times: {evidence.begun_s}"
        if key not in known:
            yield f"{_name(*key)} has run, and no record knows of it"


def attempts_do_not_overlap(history: History) -> Iterator[str]:
    instances: dict[tuple[str, str], list[tuple[int, Evidence]]] = defaultdict(list)
    for (run, instance, number), evidence in sorted(history.evidence.items()):
        if evidence.held:
            yield f"{_name(run, instance, number)} began while other work of the instance was going on"
        instances[run, instance].append((number, evidence))
    for (run, instance), attempts in instances.items():
        for (first, before), (second, after) in pairwise(attempts):
            begun_s = min(after.begun_s, default=0.0)
            if begun_s < before.alive_s:
                text = f"attempt {second} began at {begun_s} s, attempt {first} was at work until {before.alive_s} s"
                yield f"{run}/{instance}: {text}"


def _name(run: str, instance: str, number: int) -> str:
    return f"{run}/{instance}, attempt {number},"


def what_is_kept_has_happened(history: History) -> Iterator[str]:
    """A success was worked for to the end, in order; what was cancelled was asked to be."""
    asked = {call.run for call in history.calls if call.kind is Kind.CANCEL}
    for record in _kept(history).values():
        if record.state == "cancelled" and record.run not in asked:
            yield f"{record.run} is cancelled, which nobody has asked for"
        if record.state == "success" and any(one.state not in ("success", "skipped") for one in record.instances):
            yield f"{record.run} is a success without its instances"
        for instance in record.instances:
            yield from _instance_happened(record.run, instance, history)


def _instance_happened(run: str, instance: Instance, history: History) -> Iterator[str]:
    if [one.number for one in instance.attempts] != list(range(1, len(instance.attempts) + 1)):
        yield f"{run}/{instance.name}: its attempts are {[one.number for one in instance.attempts]}"
    if instance.state == "success" and not (instance.attempts and instance.attempts[-1].state == "success"):
        yield f"{run}/{instance.name} is a success, and its last attempt is none"
    for attempt in instance.attempts:
        evidence = history.evidence.get((run, instance.name, attempt.number))
        if _claims_an_end(attempt) and not (evidence and evidence.ended):
            text = "has worked to its end, as it is kept" if evidence else "has run, as it is kept"
            yield f"{_name(run, instance.name, attempt.number)} {text}, and has not written so"
        if attempt.state == "success" and attempt.number != len(instance.attempts):
            yield f"{_name(run, instance.name, attempt.number)} was a success, and another one followed"


def _claims_an_end(attempt: Attempt) -> bool:
    return attempt.state == "success" or attempt.reason == "exit_code"


def final_is_final(history: History) -> Iterator[str]:
    records = _kept(history)
    for call in history.calls:
        if call.seen is None or call.run not in records or call.seen.state not in FINAL:
            continue
        kept = records[call.run]
        if (call.seen.state, call.seen.reason) != (kept.state, kept.reason):
            shown = f"{call.agent} has shown it as {call.seen.state} ({call.seen.reason})"
            yield f"{call.run} is kept as {kept.state} ({kept.reason}), and {shown}"


def all_agents_keep_the_same(history: History) -> Iterator[str]:
    records = _kept(history)
    for agent, kept in history.records.items():
        yield from _differences(records, kept, f"{agent} keeps", f"{next(iter(history.records))} keeps")


def the_mirror_is_the_history(history: History) -> Iterator[str]:
    counts = Counter(record.run for record in history.mirror)
    yield from (f"the database has {run} {count} times" for run, count in counts.items() if count > 1)
    yield from _differences(_kept(history), history.mirror, "the database has", "it is kept as")


def _differences(records: dict[str, Record], others: Iterable[Record], here: str, there: str) -> Iterator[str]:
    found = {record.run: record for record in others}
    for run in sorted(records.keys() | found.keys()):
        if records.get(run) != found.get(run):
            yield f"{run}: {here} {found.get(run)}, {there} {records.get(run)}"


def an_accepted_run_is_never_said_to_be_none(history: History) -> Iterator[str]:
    accepted_ns: dict[str, int] = {}
    for call in history.calls:
        if call.kind is Kind.SUBMIT and call.done and call.run is not None and call.returned_ns is not None:
            accepted_ns[call.run] = min(call.returned_ns, accepted_ns.get(call.run, call.returned_ns))
    for call in history.calls:
        if call.code == "unknown_run" and call.run in accepted_ns and accepted_ns[call.run] < call.called_ns:
            yield f"{call.run} was accepted, and later {call.agent} says that there is none"


def consistent_reads_are_linearizable(history: History) -> Iterator[str]:
    """A run is an object that only goes on. What its work does, no client asks for: a read may find it further on."""
    operations = [one for call in history.calls if (one := _operation(call)) is not None]
    found = linearizable(operations, _ABSENT, _step)
    if found is not None:
        yield str(found)


_ABSENT: Final = (-1, 0, 0)


def _operation(call: Call) -> Operation | None:
    if call.run is None or call.code not in ("", "unknown_run"):
        return None
    returned = call.returned_ns
    if call.kind is Kind.SUBMIT:
        return Operation(call.run, call.kind, UNKNOWN if returned is None else "", call.called_ns, returned)
    if call.kind is not Kind.CONSISTENT or returned is None:
        return None
    progress = _ABSENT if call.seen is None else call.seen.progress
    return Operation(call.run, call.kind, progress, call.called_ns, returned, hint=float(sum(progress)))


def _step(state: Hashable, action: Any, output: Any) -> Hashable:
    assert isinstance(state, tuple)
    if action is Kind.SUBMIT:
        return max(state, (0, 0, 0))
    if output == _ABSENT or state == _ABSENT:
        return state if output == state else IMPOSSIBLE
    return output if all(now >= before for before, now in zip(state, output, strict=True)) else IMPOSSIBLE


def consistent_reads_have_what_was_answered_before(history: History) -> Iterator[str]:
    """By index: nothing is missing that any agent had shown or accepted before it was asked."""
    answered = sorted((call.returned_ns, call.index) for call in history.calls if call.done and call.returned_ns)
    times = [at for at, _index in answered]
    highest = [0]
    for _at, index in answered:
        highest.append(max(highest[-1], index))
    for call in history.calls:
        if call.kind is Kind.CONSISTENT and call.done:
            before = highest[bisect_left(times, call.called_ns)]
            if call.index < before:
                yield f"a consistent read of {call.agent} is as of index {call.index}, when {before} had been shown"


Rule = Callable[[History], Iterator[str]]
RULES: Final[tuple[tuple[str, Rule], ...]] = (
    ("P1", every_accepted_run_is_final),
    ("P2", one_run_for_a_key),
    ("P3", an_attempt_starts_at_most_once),
    ("P3", attempts_do_not_overlap),
    ("P3", what_is_kept_has_happened),
    ("P4", final_is_final),
    ("P6", all_agents_keep_the_same),
    ("P5", the_mirror_is_the_history),
    ("P6", an_accepted_run_is_never_said_to_be_none),
    ("P6", consistent_reads_are_linearizable),
    ("P6", consistent_reads_have_what_was_answered_before),
)

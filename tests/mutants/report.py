"""What came of a run, in words: a table for the terminal, and `docs/mutants.md`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tests.mutants.bench import Verdict
from tests.mutants.equivalent import REASONS
from tests.mutants.listed import BY_SUBJECT
from tests.mutants.operators import OPERATORS

INTRODUCTION: Final = """\
# Mutants

Written by `make mutants ALL=1 REPORT=1`; do not edit.

A mutant is the consensus core with one thing wrong. Each is put into a copy of the packages and must be caught: by the
tests of `tests/consensus`, which run first, or else by the simulator. How that works stands in `tests/mutants`.
"""


def line(verdict: Verdict) -> str:
    """One line of the table."""
    mark = "SURVIVED" if verdict.survived else "?" if verdict.result.undecided else "caught"
    by = f"  <-  {verdict.what}" if verdict.what else ""
    return f"{mark:8} {verdict.result.cpu_s:6.1f} s  {verdict.mutant.name}{by}"


def score(verdicts: Iterable[Verdict]) -> str:
    """How many were caught, and by what."""
    verdicts = list(verdicts)
    ways = Counter(verdict.result.how for verdict in verdicts if verdict.result.how)
    caught = sum(ways.values())
    words = {"test": "a test", "simulator": "the simulator alone", "hang": "never ending", "crash": "not starting"}
    how = ", ".join(f"{ways[way]} by {name}" for way, name in words.items() if ways[way])
    return f"{caught} of {len(verdicts)} caught" + (f" ({how})" if how else "")


def document(listed: Sequence[Verdict], alone: Sequence[Verdict], mechanical: Sequence[Verdict], seeds: int) -> str:
    """The whole of `docs/mutants.md`.

    alone: those of the core by hand again, tried by the simulator without the tests. seeds: how many it had for each.
    """
    left_out = sum(map(len, REASONS.values()))
    parts = [
        INTRODUCTION,
        f"- By hand: {score(listed)}.\n- By machine: {score(mechanical)}; {left_out} more are equivalent.\n"
        f"- The simulator had {seeds} seeds for each that the tests had not caught. Without the tests it catches "
        f"{sum(bool(one.result.how) for one in alone)} of the {len(alone)} by hand that are in what it runs.\n",
        "## By hand\n",
        *_by_subject(_named(listed), _named(alone)),
        "## By machine\n",
        _by_operator(mechanical),
        _by_module(mechanical),
        *_survivors([one for one in (*listed, *mechanical) if not one.result.how]),
        "## Equivalent\n\nThese do the same as the original, or change what is free. They are not tried.\n",
        *(_equivalent(reason, names) for reason, names in REASONS.items()),
    ]
    return "\n".join(parts)


def _named(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    return {verdict.mutant.name: verdict for verdict in verdicts}


def _by_subject(verdicts: Mapping[str, Verdict], alone: Mapping[str, Verdict]) -> Iterable[str]:
    for subject, patches in BY_SUBJECT.items():
        rows = []
        for patch in patches:
            by = _code(verdicts[patch.name].what or "SURVIVED")
            simulated = alone.get(patch.name)
            also = "" if simulated is None else _code(simulated.what) if simulated.what else "no"
            rows.append(f"| {patch.name} | `{patch.module}` | {patch.why} | {by} | {also} |")
        head = "| bug | in | what it costs | caught by | the simulator alone |\n"
        yield f"### {subject}\n\n{head}{_table(rows, 5)}"


def _code(text: str) -> str:
    return f"`{text.replace('|', ' ')}`"


def _by_operator(verdicts: Sequence[Verdict]) -> str:
    rows = [
        f"| {name} | {what} | {_counts(one for one in verdicts if one.mutant.operator == name)} |"
        for name, what in OPERATORS.items()
    ]
    return "| operator | what it does | tried | tests | simulator | hang, crash | survived |\n" + _table(rows, 7)


def _by_module(verdicts: Sequence[Verdict]) -> str:
    modules: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        modules[verdict.mutant.module].append(verdict)
    rows = [f"| `{name}` | {_counts(found)} |" for name, found in modules.items()]
    return "| module | tried | tests | simulator | hang, crash | survived |\n" + _table(rows, 6)


def _table(rows: Sequence[str], columns: int) -> str:
    return "|---" * columns + "|\n" + "\n".join(rows) + "\n"


def _counts(verdicts: Iterable[Verdict]) -> str:
    ways = Counter(verdict.result.how for verdict in verdicts)
    columns = (ways.total(), ways["test"], ways["simulator"], ways["hang"] + ways["crash"], ways.get("", 0) or "")
    return " | ".join(map(str, columns))


def _survivors(verdicts: Sequence[Verdict]) -> Iterable[str]:
    if verdicts:
        yield "## Survivors\n"
        yield "\n".join(f"- `{verdict.mutant.name}` {verdict.what}" for verdict in verdicts) + "\n"


def _equivalent(reason: str, names: Sequence[str]) -> str:
    return f"{reason}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"

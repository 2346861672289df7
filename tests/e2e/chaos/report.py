"""What a run has done and seen, as lines of Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from tests.e2e.chaos.history import History, Kind
from tests.e2e.chaos.run import Outcome


def lines(outcome: Outcome) -> Iterator[str]:
    """The report."""
    wanted, history = outcome.wanted, outcome.history
    runs = next(iter(history.records.values()))
    yield f"{wanted.agents} agents, {wanted.seconds:g} s of load and faults, seed {wanted.seed}:"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield _row("faults", _counted(step.fault for step in outcome.begun))
    yield from (_row(f"left out: {fault}", why) for fault, why in outcome.left_out.items())
    for kind in Kind:
        yield _row(f"asked: {kind}", _answers(history, kind))
    yield _row("runs, as they have ended", _counted(_end(one.state, one.reason) for one in runs))
    attempts = [each for one in runs for instance in one.instances for each in instance.attempts]
    yield _row("attempts, as they have ended", _counted(_end(one.state, one.reason) for one in attempts))
    yield _row("attempts that left evidence", f"{len(history.evidence)}")
    yield _row("terms, agents lost", f"{outcome.terms}, {outcome.lost}")
    yield _row("from peace to rest", f"{outcome.quiet_s:.0f} s")
    yield _row("violations", f"{len(outcome.violations)}")


def _row(name: str, text: str) -> str:
    return f"| {name} | {text} |"


def _counted(things: Iterable[str]) -> str:
    counts = Counter(str(one) for one in things)
    return f"{counts.total()}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _end(state: str, reason: str | None) -> str:
    return f"{state} ({reason})" if reason else state


def _answers(history: History, kind: Kind) -> str:
    return _counted(call.code or "answered" for call in history.calls if call.kind is kind)

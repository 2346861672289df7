"""What differs between two runs: pure, over what is kept of each.

What is not there any more of one of them, or cannot be asked for now, is not compared: it is told beside the rest.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.runtable.model import Run
from agent.spec.bundle import Bundle
from agent.spec.dump import dump_job

DIFF_LINES_MAX: Final = 2000
TEXT_CHARACTERS_MAX: Final = 512 * 1024  # of a text that is compared line by line; both bound the time it takes (P12)
TEXT_LINES_MAX: Final = 10_000
SPEC: Final = "spec"
NO_TEXT: Final = "(not a text)"


def rendered_of(instance: str) -> str:
    """The name of what was rendered for an instance, among what cannot be compared."""
    return f"{instance}/rendered"


def log_of(instance: str) -> str:
    """The name of the end of an instance's output."""
    return f"{instance}/log"


@dataclass(frozen=True, slots=True)
class Side:
    """What is known of a run.

    bundle: what it was accepted with.  rendered: the redacted manifest of each instance's last attempt.
    logs: the end of its output, by instance.  untold: {what: why it cannot be told}, with names as above.
    """

    run: Run
    bundle: Bundle | None = None
    rendered: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    untold: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """changes: (what, before, after), None = it is not there.  texts: {name: unified diff}.  untold: {what: why}."""

    changes: tuple[tuple[str, Any, Any], ...]
    texts: dict[str, str]
    untold: dict[str, str]


def compare(before: Side, after: Side) -> Comparison:
    """What is another in `after` than it was in `before`, by name."""
    untold = {
        what: "; ".join(f"of {side.run.id}: {side.untold[what]}" for side in (before, after) if what in side.untold)
        for what in sorted({*before.untold, *after.untold})
    }
    facts, facts_after = dict(_facts(before, untold)), dict(_facts(after, untold))
    texts, texts_after = dict(_texts(before, untold)), dict(_texts(after, untold))
    return Comparison(
        tuple(
            (what, facts.get(what), facts_after.get(what))
            for what in sorted({*facts, *facts_after})
            if facts.get(what) != facts_after.get(what)
        ),
        {
            name: unified(texts.get(name, ""), texts_after.get(name, ""), before.run.id, after.run.id)
            for name in sorted({*texts, *texts_after})
            if texts.get(name) != texts_after.get(name)
        },
        untold,
    )


def _facts(side: Side, untold: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    run = side.run
    yield from (("state", run.state), ("reason", run.reason), ("origin", run.origin))
    yield "took_s", _seconds(run.started_at_ms, run.finished_at_ms)
    if side.bundle is not None and SPEC not in untold:
        yield from ((f"params.{name}", value) for name, value in side.bundle.params.items())
    for instance in run.instances:
        last, name = instance.last, instance.plan.name
        yield from ((f"{name}.state", instance.state), (f"{name}.attempts", len(instance.attempts)))
        if last is not None:
            yield from ((f"{name}.agent", last.agent), (f"{name}.exit_code", last.exit_code))
            yield f"{name}.took_s", _seconds(last.started_at_ms, last.finished_at_ms)
            yield from ((f"{name}.{key}", value) for key, value in last.facts.items())
    for name, manifest in side.rendered.items():
        if rendered_of(name) not in untold:
            yield from ((f"{name}.env.{key}", value) for key, value in manifest["envs"].items())
            yield from ((f"{name}.window.{key}", value) for key, value in manifest["window"].items())


def _seconds(begin_ms: int | None, end_ms: int | None) -> float | None:
    return None if begin_ms is None or end_ms is None else (end_ms - begin_ms) / 1000


def _texts(side: Side, untold: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if side.bundle is not None and SPEC not in untold:
        yield SPEC, dump_job(side.bundle.job)
    for name, manifest in side.rendered.items():
        if rendered_of(name) not in untold:
            for path, text in manifest["assets"].items():
                yield f"{name}/{path}", text if text is not None else NO_TEXT
    for name, text in side.logs.items():
        if log_of(name) not in untold:
            yield log_of(name), text


def unified(before: str, after: str, name_before: str, name_after: str) -> str:
    """A unified diff of two texts that differ, of at most DIFF_LINES_MAX lines."""
    if max(len(before), len(after)) > TEXT_CHARACTERS_MAX or max(map(_lines, (before, after))) > TEXT_LINES_MAX:
        return f"(differs: {len(before)} and {len(after)} characters, too large to be compared line by line)"
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name_before, name_after, lineterm="")
    shown = [line for _number, line in zip(range(DIFF_LINES_MAX), lines, strict=False)]
    if next(lines, None) is not None:
        shown.append(f"(cut after {DIFF_LINES_MAX} lines)")
    return "\n".join(shown) or "(differs at its line ends alone)"


def _lines(text: str) -> int:
    return text.count("\n")

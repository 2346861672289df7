"""The least of a failing plan that still fails in the same way: fewer faults, fewer events, fewer clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.simulator.plan import Plan
from tests.simulator.run import Outcome, run


def shrink(failing: Outcome) -> Outcome:
    """Leave out one thing after another for as long as the failure stays. Returns the outcome of the least plan."""
    least = failing
    smaller = True
    while smaller:
        smaller = False
        for plan in _smaller(least.plan):
            outcome = run(plan)
            if outcome.failure is not None and outcome.kind == failing.kind:
                least, smaller = outcome, True
                break
    return least


def _smaller(plan: Plan) -> Iterator[Plan]:
    for fault in sorted(plan.faults):
        events = tuple(event for event in plan.events if event.fault is not fault)
        yield replace(plan, faults=plan.faults - {fault}, events=events)
    size = len(plan.events)
    while size := size // 2:  # halves first, then single events
        for at in range(0, len(plan.events), size):
            yield replace(plan, events=plan.events[:at] + plan.events[at + size :])
    if plan.clients > 1:
        yield replace(plan, clients=plan.clients // 2)
    if plan.length > 1000:
        yield replace(plan, length=plan.length * 3 // 4)

"""Bugs on purpose, in the product's own rules: the simulation has to find each within some seeds.

Much of P3 is held twice, by the agent and by its watchdog; where one of them alone would hide a bug, the mutant takes
the rule from both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from agent.cluster.leases import Leases
from agent.runtable import accepting
from agent.runtable.model import LeaseTerms
from agent.runtable.table import Table
from agent.worker import Worker
from tests.chaos.plan import Chaos, make, tense
from tests.chaos.run import run

SEEDS_MAX: Final = 12  # in which each has to be found

Patch = tuple[Any, str, Any]


async def _untold(*_arguments: object, **_words: object) -> str:
    return ""


def _without_waiting_for_the_intent() -> Any:
    journaled = Worker._journaled

    async def mutant(worker: Worker, call: Callable[[], Any]) -> Any:
        if getattr(getattr(call, "func", None), "__name__", "") == "intend":
            worker.late = asyncio.ensure_future(journaled(worker, call))  # type: ignore[attr-defined]
            return None
        return await journaled(worker, call)

    return mutant


def _forgets_requests() -> Any:
    submit = accepting.submit

    def mutant(table: Table, command: Any) -> Any:
        table.rows.requests.clear()
        return submit(table, command)

    return mutant


MUTANTS: Final[dict[str, Callable[[], list[Patch]]]] = {
    "half of the margin": lambda: [
        (LeaseTerms, "loss_ms", property(lambda terms: terms.ttl_ms + terms.margin_ms // 2))
    ],
    "a loss is declared without waiting": lambda: [(Leases, "_loss_s", property(lambda _leases: 0.5))],
    "the intent is not waited for": lambda: [(Worker, "_journaled", _without_waiting_for_the_intent())],
    "the watchdog is not told of a start": lambda: [(Leases, "guard", _untold)],
    "a repeated request is another one": lambda: [(accepting, "submit", _forgets_requests())],
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The product with one bug."""
    with ExitStack() as stack:
        for target, attribute, mutant in MUTANTS[name]():
            stack.enter_context(patch.object(target, attribute, mutant))
        yield


def plans_of(name: str) -> list[Chaos]:
    """The runs of which one has to find it. What is tense has fast disks; who does not wait needs a slow one."""
    if name == "the intent is not waited for":
        return [make(seed, 200.0) for seed in range(1, 1 + SEEDS_MAX)]
    return [tense(seed) for seed in range(SEEDS_MAX)]


def find(name: str) -> str | None:
    """What the simulation says of a bug; None = it does not find it."""
    with mutated(name):
        return next((failure for plan in plans_of(name) if (failure := run(plan).failure) is not None), None)

"""Which instances of a run are run again: what did not succeed, what comes after it, what goes with it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from agent.errors import Refusal
from agent.runtable.model import SIDE_KINDS, InstanceKind, InstanceState, Run

NOT_GOOD: Final = frozenset({InstanceState.FAILED, InstanceState.UPSTREAM_FAILED, InstanceState.CANCELLED})


def to_retry(run: Run, *, only_failed: bool = True) -> list[str]:
    """The instances that a retry runs again, () where all have succeeded. What was skipped for what failed is too."""
    chosen = [i.plan.name for i in run.instances if not only_failed or i.state in NOT_GOOD]
    skipped = {i.plan.name for i in run.instances if i.state is InstanceState.SKIPPED}
    if run.shut_by is not None:  # none of it was decided by its own rule
        return [*chosen, *(name for name in skipped if name not in chosen)]
    return [*chosen, *(name for name in with_downstream(run, chosen) if name in skipped)]


def with_downstream(run: Run, names: Collection[str]) -> list[str]:
    """These instances and all that come after them."""
    chosen = set(names)
    for instance in run.instances:  # each comes after all it waits for
        if chosen.intersection(instance.plan.after):
            chosen.add(instance.plan.name)
    return list(chosen)


def with_companions(run: Run, chosen: Collection[str]) -> tuple[str, ...]:
    """These instances and what goes with them, in the run's order.

    A fail hook and a teardown are always cleared with others: whether they run is decided anew. So is what was set
    up, once a teardown has removed it (as Airflow clears them).
    """
    torn_down = any(i.plan.kind is InstanceKind.TEARDOWN and i.final for i in run.instances)
    kinds = {*SIDE_KINDS, *({InstanceKind.SETUP} if torn_down else ())}
    hooks = [i.plan.name for i in run.instances if i.plan.kind in kinds and i.final]
    return tuple(i.plan.name for i in run.instances if i.plan.name in {*chosen, *hooks})


def nothing_to_retry(what: str) -> Refusal:
    """The refusal of a retry that had nothing to do. what: which run or pipeline."""
    return Refusal("nothing_to_retry", f"everything in {what} has succeeded", 409)

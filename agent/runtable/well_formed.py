"""What the instances of a run must be like, so that one pass decides them (`lifecycle.settle`)."""

from __future__ import annotations

from typing import Final

from agent.runtable.model import InstanceKind, InstancePlan

ORDER: Final = {InstanceKind.SETUP: 0, InstanceKind.FAIL: 2, InstanceKind.TEARDOWN: 3}  # the rest: 1


def well_formed(plans: tuple[InstancePlan, ...]) -> bool:
    """At least one instance, unique names, `after` naming earlier ones, kinds in order: so one pass settles a run."""
    earlier: set[str] = set()
    for plan in plans:
        if plan.name in earlier or not earlier.issuperset(plan.after):
            return False
        earlier.add(plan.name)
    order = [ORDER.get(plan.kind, 1) for plan in plans]
    return bool(earlier) and order == sorted(order)

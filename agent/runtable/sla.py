"""How long a run and its instances may take before somebody is told: `(run, its n-th wish) -> deadline`.

A run's time counts from when it was accepted, whatever it waits for; an instance's from its first start since it was
cleared last, so that retries count in. Nothing here changes a row.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.runtable.model import Run


def deadlines(run: Run) -> Iterator[tuple[int, int]]:
    """(due_ms, number of the wish) of all that is still waited for."""
    for number, wanted in enumerate(run.wants):
        due_ms = _due_ms(run, number)
        if due_ms is not None and (not wanted.instance or not _ended(run, wanted.instance)):
            yield due_ms, number


def missed(run: Run, now_ms: int) -> list[int]:
    """The wishes of which somebody is to be told now: what they watch took, or takes, too long.

    What has ended is judged by its own end, however late that became known.
    """
    return [number for number in range(len(run.wants)) if _is_late(run, number, now_ms)]


def _is_late(run: Run, number: int, now_ms: int) -> bool:
    due_ms = _due_ms(run, number)
    if due_ms is None:
        return False
    ended_ms = _ended(run, run.wants[number].instance)
    return due_ms <= (now_ms if ended_ms is None else ended_ms - 1)


def _due_ms(run: Run, number: int) -> int | None:
    wanted = run.wants[number]
    if wanted.within_ms is None or number in run.missed:
        return None
    if not wanted.instance:
        return run.created_at_ms + wanted.within_ms
    instance = run.instance(wanted.instance)
    if instance is None:
        return None
    starts = [one.started_at_ms for one in instance.attempts[instance.clears :] if one.started_at_ms is not None]
    return min(starts) + wanted.within_ms if starts else None


def _ended(run: Run, name: str) -> int | None:
    """When the work of an instance has ended; None where it has not, or for the run itself."""
    instance = run.instance(name)
    if instance is None or not instance.final or instance.last is None:
        return None
    return instance.last.finished_at_ms

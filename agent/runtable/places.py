"""Which runs of a job have their place, and which wait for one: an index of `Table`, judged by `limits.py`."""

from __future__ import annotations

from typing import Final

from agent.runtable.model import Run
from agent.runtable.waiting import JobKey

_NOBODY: Final[dict[str, None]] = {}


class Places:
    """The unfinished runs of each job by id, in order of acceptance; a run that was brought back comes last."""

    def __init__(self) -> None:
        """No runs yet."""
        self._active: dict[JobKey, dict[str, None]] = {}
        self._held: dict[JobKey, dict[str, None]] = {}

    def add(self, run: Run) -> None:
        """A run is there, or was held and is not any more: as the last of those that are what it is."""
        key = (run.project, run.job)
        self._drop(self._active if run.held else self._held, key, run.id)
        (self._held if run.held else self._active).setdefault(key, {}).setdefault(run.id)

    def remove(self, run: Run) -> None:
        """A run has left the table."""
        self._drop(self._held if run.held else self._active, (run.project, run.job), run.id)

    def _drop(self, lines: dict[JobKey, dict[str, None]], key: JobKey, run_id: str) -> None:
        line = lines.get(key, {})
        line.pop(run_id, None)
        if not line:
            lines.pop(key, None)

    def active(self, job: JobKey) -> dict[str, None]:
        """The runs of a job that have their place. To be read only."""
        return self._active.get(job, _NOBODY)

    def held(self, job: JobKey) -> dict[str, None]:
        """Those that wait for one, the first in front. To be read only."""
        return self._held.get(job, _NOBODY)

    def held_count(self) -> int:
        """How many wait for a place, of all jobs."""
        return sum(map(len, self._held.values()))

    def as_sets(self) -> dict[str, dict[JobKey, set[str]]]:
        """All of it, to be compared. The held in their order besides: see `held`."""
        both = (("active", self._active), ("held", self._held))
        return {name: {key: set(line) for key, line in lines.items()} for name, lines in both}

"""Which replays may go on, and which runs of them have not ended: an index of `Table`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from agent.runtable.replay_rows import Replay

if TYPE_CHECKING:
    from agent.runtable.model import Run, TableImage

_NONE: Final[frozenset[str]] = frozenset()


class Replaying:
    """The index.

    ready: replays that may be given more ticks now; who was given some goes to the end.
    """

    def __init__(self, rows: TableImage) -> None:
        """rows: the table's; they are read here, and `apply` changes them."""
        self._rows = rows
        self.ready: dict[str, None] = {}
        self._runs: dict[str, set[str]] = {}

    def runs(self, replay_id: str) -> Collection[str]:
        """The ids of its runs that have not ended."""
        return self._runs.get(replay_id, _NONE)

    def add_run(self, run: Run) -> None:
        """A run has come into the table."""
        if run.replay:
            self._runs.setdefault(run.replay, set()).add(run.id)
            self._look(run.replay)

    def remove_run(self, run: Run) -> None:
        """A run has left the table."""
        runs = self._runs.get(run.replay)
        if runs is not None:
            runs.discard(run.id)
            if not runs:
                del self._runs[run.replay]
            self._look(run.replay)

    def index(self, replay: Replay) -> None:
        """A replay was put, or changed."""
        self._look(replay.id)

    def drop(self, replay: Replay) -> None:
        """A replay has left the table."""
        self.ready.pop(replay.id, None)

    def _look(self, replay_id: str) -> None:
        self.ready.pop(replay_id, None)
        replay = self._rows.replays.get(replay_id)
        if replay is not None and replay.goes_on and len(self.runs(replay_id)) < replay.plan.parallel:
            self.ready[replay_id] = None

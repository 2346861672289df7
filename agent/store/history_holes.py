"""What a history knows that it has not got: ranges of positions, noted in its file.

A range is *missing* from the moment a leader's snapshot is about to take the place of log entries that this agent has
not applied, until other agents have given what ended there. It is *lost* where none of them has it any more.
Everything here happens in the transaction of the caller, which is the one that has the rows.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from agent.store.history_rows import Position, end_of


@dataclass(frozen=True, slots=True, order=True)
class Hole:
    """What is not here: the runs that ended after `after`, up to `to`. lost: nobody has them any more."""

    after: Position
    to: Position
    lost: bool = False

    def covers(self, position: Position) -> bool:
        """Whether what follows `position` is not here."""
        return self.after <= position < self.to

    @property
    def begins_index(self) -> int:
        """The last log index before it of which everything is here."""
        return self.after[0] if self.after == end_of(self.after[0]) else self.after[0] - 1


def read(sql: sqlite3.Connection) -> tuple[Hole, ...]:
    """All of them, in order."""
    rows = sql.execute(
        "SELECT from_index, from_ordinal, to_index, to_ordinal, lost FROM missing ORDER BY from_index, from_ordinal"
    )
    return tuple(Hole((a, b), (c, d), bool(lost)) for a, b, c, d, lost in rows)


def note(sql: sqlite3.Connection, held_index: int, up_to_index: int) -> None:
    """The log will not tell what ended after held_index, up to up_to_index. What is here up to held_index is."""
    hole = Hole(end_of(held_index), end_of(up_to_index))
    for old in read(sql):
        if not old.lost and old.to >= hole.after:  # they touch
            _delete(sql, old)
            hole = Hole(min(old.after, hole.after), max(old.to, hole.to))
    _insert(sql, hole)
    sql.execute("UPDATE mark SET covered_index = max(covered_index, ?)", (held_index,))


def close(sql: sqlite3.Connection, after: Position, to: Position) -> Position | None:
    """What is missing after `after` is here now, or lost, up to `to`. Returns where it began; None = nothing was."""
    for hole in read(sql):
        if not hole.lost and after <= hole.after < to:
            _move(sql, hole, to)
            left = Hole(max(hole.after, to), hole.to)
            index = hole.to[0] if to >= hole.to else left.begins_index
            sql.execute(
                "UPDATE mark SET covered_index = max(covered_index, ?) WHERE covered_index >= ?",
                (index, hole.begins_index),
            )
            return hole.after
    return None


def lose(sql: sqlite3.Connection, after: Position, to: Position) -> None:
    """Nobody has what is missing after `after`, up to `to`.

    Where nothing before it is here it counts as pruned, as it is by the others.
    """
    begin = close(sql, after, to)
    if begin is None:
        return
    older = sql.execute("SELECT 1 FROM finished_run WHERE (log_index, ordinal) <= (?, ?) LIMIT 1", to).fetchone()
    if older is None and not any(hole.after < begin and not hole.lost for hole in read(sql)):
        sql.execute("UPDATE mark SET pruned_index = ?, pruned_ordinal = ?", to)
        prune(sql, to)
    else:
        _insert(sql, Hole(begin, to, lost=True))


def prune(sql: sqlite3.Connection, to: Position) -> None:
    """Everything up to `to` was pruned: nobody misses it here."""
    for hole in read(sql):
        if hole.after < to:
            _move(sql, hole, to)


def clip(sql: sqlite3.Connection, index: int) -> None:
    """What ended after `index` is in the log: it was noted for a snapshot that was not installed."""
    end = end_of(index)
    for hole in read(sql):
        if hole.to > end:
            _delete(sql, hole)
            if hole.after < end:
                _insert(sql, Hole(hole.after, end, hole.lost))


def covered(holes: tuple[Hole, ...], index: int) -> int:
    """Up to where everything is here, or known not to be, if that holds up to `index` without looking at the holes."""
    for hole in holes:
        if hole.begins_index <= index:
            index = max(index, hole.to[0])
    return index


def _move(sql: sqlite3.Connection, hole: Hole, to: Position) -> None:
    """Let a hole begin at `to`."""
    _delete(sql, hole)
    if to < hole.to:
        _insert(sql, Hole(to, hole.to, hole.lost))


def _delete(sql: sqlite3.Connection, hole: Hole) -> None:
    sql.execute("DELETE FROM missing WHERE (from_index, from_ordinal) = (?, ?)", hole.after)


def _insert(sql: sqlite3.Connection, hole: Hole) -> None:
    sql.execute("INSERT INTO missing VALUES (?, ?, ?, ?, ?)", (*hole.after, *hole.to, int(hole.lost)))

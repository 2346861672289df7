"""Whose log a directory holds, and that none of its files is missing.

`identity` is written once, when everything else of a new directory is durable, and bound to the log by its id. So

- a wiped disk has none, and never speaks as who it was (a node that forgot its votes must not vote under its old id);
- where it is, the durable mark and the vote must be there as well; where it is missing, there may be no more than an
  empty log, left by a crash in the making. Anything else is damage (P9).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from consensus.disk import REAL, FileSystem, LogDisk
from consensus.errors import LogDamaged, LogForeign
from consensus.hard_state import VOTE_MAGIC, VOTE_NAME, SlotFile, decode_vote, newest_slot
from consensus.wal_survey import MARK_NAME, Survey, read_mark

IDENTITY_NAME: Final = "identity"
IDENTITY_MAGIC: Final = b"prime.id"


class Identity(msgspec.Struct, array_like=True, frozen=True):
    """Who a node is. cluster: its cluster's id. node: its Raft id, 1 and up, never given twice.

    incarnation: which life of the agent this is; whoever lost its disk begins another, with another node id.
    """

    cluster: str
    node: int
    incarnation: int

    def __str__(self) -> str:
        return f"node {self.node} of cluster {self.cluster}, incarnation {self.incarnation}"


def read_identity(directory: Path, *, io: FileSystem = REAL) -> Identity | None:
    """Who lives in `directory`; None = nobody yet. Changes nothing. Raises LogDamaged, LogTooNew, LogFailed."""
    disk = LogDisk(io)
    try:
        names = disk.listdir(directory)
    except FileNotFoundError:
        return None
    return find_identity(disk, directory, names)


def find_identity(disk: LogDisk, directory: Path, names: list[str]) -> Identity | None:
    """As `read_identity`; names: what lies in the directory."""
    if IDENTITY_NAME not in names:
        return None
    for name, what in ((MARK_NAME, "the durable mark"), (VOTE_NAME, "the vote")):
        if name not in names:
            raise LogDamaged(directory / name, 0, f"{what} is missing, though a node has lived here")
    path = directory / IDENTITY_NAME
    _, value = newest_slot(disk, path, IDENTITY_MAGIC, read_mark(disk, directory / MARK_NAME).log_id)
    try:
        return msgspec.msgpack.decode(value, type=Identity)
    except msgspec.MsgspecError as error:
        raise LogDamaged(path, 0, f"it is no identity: {error}") from error


def check_directory(disk: LogDisk, directory: Path, identity: Identity, found: Survey) -> int | None:
    """See that the node lives here, with all its files: returns the term in its vote. None = the directory is new.

    found: what else is there. Changes nothing. Raises LogForeign where another one lives here, LogDamaged, LogTooNew,
    LogFailed.
    """
    names = disk.listdir(directory)
    lives = find_identity(disk, directory, names)
    if lives is None:
        refuse_used(disk, directory, names, found)
        return None
    if lives != identity:
        raise LogForeign(
            f"{directory}: here lives {lives}, not {identity}. Give this one a directory of its own; a directory is "
            "never passed on."
        )
    assert found.mark is not None
    return decode_vote(newest_slot(disk, directory / VOTE_NAME, VOTE_MAGIC, found.mark.log_id)[1])[0]


def refuse_used(disk: LogDisk, directory: Path, names: list[str], found: Survey) -> None:
    """Raises LogDamaged where more is here than a crash in the making of the directory leaves behind."""
    used = any(one.nonzero_end > one.end or one.last_index > 0 for one in found.segments)
    voted = VOTE_NAME in names and (
        found.mark is None
        or decode_vote(newest_slot(disk, directory / VOTE_NAME, VOTE_MAGIC, found.mark.log_id)[1]) != (0, 0)
    )
    if used or voted or found.snapshots or (found.mark is not None and found.mark.index > 0):
        raise LogDamaged(directory / IDENTITY_NAME, 0, "the identity is missing, though a log or a vote is here")


def write_identity(disk: LogDisk, directory: Path, log_id: bytes, identity: Identity) -> None:
    """Write it, once, durably. Raises LogFull, LogFailed, ValueError for a name of thousands of letters."""
    SlotFile.create(disk, directory / IDENTITY_NAME, IDENTITY_MAGIC, log_id, msgspec.msgpack.encode(identity)).close()

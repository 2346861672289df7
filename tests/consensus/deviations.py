"""Where our core departs from etcd-io/raft's transcripts: the whole list, with the reasons.

A departure that is not here fails the tests, and so does one that is here and does not happen.
"""

from __future__ import annotations

from typing import Final

# (file, number of the directive in it, counted from 1) -> why what we do is as safe
DEVIATIONS: Final[dict[tuple[str, int], str]] = {}

# Files on features that we leave out: how their names begin -> (what the feature is called in them, why we leave it)
LEFT_OUT_FILES: Final[dict[str, tuple[str, str]]] = {
    "async_storage_writes": (
        "async-storage-writes",
        "The driver stores what a Ready asks for before it takes the next; a leader's appends leave meanwhile, which "
        "is most of what the feature gives. Entries that are replaced while they are written are told from those that "
        "were written by the term in which the Ready was taken.",
    ),
    "forget_leader": (
        "forget-leader",
        "For drivers that know by other means that the leader is dead. Ours do not: an election time-out says so.",
    ),
    "confchange_disable_validation": (
        "disable-conf-change-validation",
        "It lets through changes that do not fit the configuration they are applied to. Ours are always checked.",
    ),
}

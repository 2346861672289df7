"""The bugs by hand: what others had to repair, and what one line too few or too many would do.

A patch names the text that it replaces. When the code has changed so that the text is not there, or not once, the check
fails: then either the patch follows the code, or the bug is not possible any more.
"""

from __future__ import annotations

from typing import Final

from tests.mutants.listed_disk import CHUNKS, DISK, WAL
from tests.mutants.listed_log import BOUNDS, READS, REPLICATION, TRANSFER
from tests.mutants.listed_votes import ELECTIONS, MEMBERSHIP
from tests.mutants.mutant import Patch

BY_SUBJECT: Final[dict[str, tuple[Patch, ...]]] = {
    "Elections": ELECTIONS,
    "Membership": MEMBERSHIP,
    "Replication and commit": REPLICATION,
    "Bounds": BOUNDS,
    "Reads": READS,
    "Transfer": TRANSFER,
    "Durable log and vote": DISK,
    "Files": WAL,
    "Snapshots on their way": CHUNKS,
}
LISTED: Final = tuple(patch for patches in BY_SUBJECT.values() for patch in patches)

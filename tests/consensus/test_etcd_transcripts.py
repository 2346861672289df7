"""The data-driven transcripts of etcd-io/raft against our core: a peer's idea of what Raft does, message by message.

`ETCD_RAFT_TESTDATA=DIR pytest tests/consensus/test_etcd_transcripts.py` runs the folders quorum/, confchange/ and
interaction/ below DIR. What is printed must be the same but for log lines; `deviations` holds what may differ, and
which files are left out because they are on features that we do not have.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.consensus.datadriven import parse
from tests.consensus.deviations import DEVIATIONS, LEFT_OUT_FILES
from tests.consensus.transcripts import KINDS, mismatches

DIRECTORY = Path(os.environ.get("ETCD_RAFT_TESTDATA") or Path(__file__).parents[1] / "vectors" / "etcd-raft")
HOW_TO_RUN = "no transcripts here: set ETCD_RAFT_TESTDATA to a folder with quorum/, confchange/ and interaction/"


def _left_out(path: Path) -> bool:
    return path.parent.name == "interaction" and path.name.startswith(tuple(LEFT_OUT_FILES))


FILES = sorted(path for kind in KINDS for path in (DIRECTORY / kind).glob("*") if path.is_file())
RUN = [path for path in FILES if not _left_out(path)]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.skipif("ETCD_RAFT_TESTDATA" not in os.environ and not FILES, reason=HOW_TO_RUN)
def test_there_are_transcripts_to_run() -> None:
    assert RUN, HOW_TO_RUN


@pytest.mark.parametrize("path", RUN or [pytest.param(DIRECTORY, marks=pytest.mark.skip(HOW_TO_RUN))], ids=_name)
def test_our_core_prints_what_etcds_does(path: Path) -> None:
    found = mismatches(path, path.parent.name)
    allowed = {number for name, number in DEVIATIONS if name == _name(path)}
    unexpected = [one for one in found if one.directive.number not in allowed]
    assert not unexpected, "\n" + "\n".join(map(str, unexpected))
    assert {one.directive.number for one in found} == allowed, "a deviation is listed that does not happen"


@pytest.mark.parametrize("start", LEFT_OUT_FILES)
def test_a_file_that_is_left_out_is_on_a_feature_that_we_leave_out(start: str) -> None:
    feature, why = LEFT_OUT_FILES[start]
    assert why
    for path in (path for path in FILES if _left_out(path) and path.name.startswith(start)):
        directives = parse(path.read_text(), path.name).directives
        used = {directive.command for directive in directives}
        used |= {argument.key for directive in directives for argument in directive.arguments}
        assert feature in used, f"{path.name} does not use {feature}: it must run"


def test_every_deviation_has_a_reason() -> None:
    assert all(reason.strip() for reason in DEVIATIONS.values())

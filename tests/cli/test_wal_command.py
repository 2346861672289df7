"""`prime wal`: what an operator sees of a log, sound, torn and damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.durable import DurableLog
from consensus.messages import ConfState, HardState, SnapshotMeta
from consensus.wal import Wal
from consensus.wal_identity import Identity
from tests.cli.terminal import prime
from tests.consensus.durable_model import entries


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data directory of a stopped agent."""
    with DurableLog.open(tmp_path / "log", Identity("c1", 3, 7), segment_bytes=1 << 16) as log:
        log.save(HardState(2, 1, 0), entries(2, 1, 9), 0)
        log.create_snapshot(SnapshotMeta(5, 2, ConfState((1, 2, 3))), [b"the state"])
        log.save(HardState(3, 0, 0), entries(3, 10, 12), 9)
    return tmp_path


def contents(data: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}


def spoil(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


def segment(data: Path) -> Path:
    return next((data / "log").glob("*.wal"))


def test_inspect_says_whose_log_it_is_and_what_it_holds(data: Path) -> None:
    before = contents(data)
    answer = prime("wal", "inspect", data / "log")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[:3] == [
        "node 3 of cluster c1, incarnation 7",
        "term 3, vote none, committed 9",
        "durable up to record 12",
    ]
    assert lines[3].split() == ["FILE", "RECORDS", "SIZE", "END", "INDEX", "TERM"]
    assert lines[4].split()[:3] == ["0000000000000001.wal", "1-12", "65536"]
    assert lines[5].split()[:2] == ["0000000000000005.snap", "5"]
    assert lines[5].split()[-2:] == ["5", "2"]
    assert lines[6] == "entries 6 to 12"
    assert contents(data) == before


def test_inspect_as_json(data: Path) -> None:
    found = prime("wal", "inspect", data, "-o", "json").json()
    assert found["identity"] == {"cluster": "c1", "node": 3, "incarnation": 7}
    assert (found["term"], found["vote"], found["commit"], found["durable_record"]) == (3, 0, 9, 12)
    assert found["entries"] == {"first": 6, "last": 12}
    assert [(one["first_record"], one["last_record"]) for one in found["segments"]] == [(1, 12)]
    (snapshot,) = found["snapshots"]
    assert (snapshot["record"], snapshot["index"], snapshot["term"], snapshot["voters"]) == (5, 5, 2, [1, 2, 3])
    assert (found["sound"], found["torn"], found["problems"]) == (True, None, [])


def test_verify_of_a_sound_log_takes_its_data_directory_too(data: Path) -> None:
    for place in (data, data / "log"):
        answer = prime("wal", "verify", place)
        assert (answer.code, answer.out) == (0, f"{data}/log: sound; 12 records, 1 snapshot\n")
    assert prime("wal", "verify", data, "-o", "json").json() == {
        "directory": str(data / "log"),
        "sound": True,
        "torn": None,
        "problems": [],
    }


def test_damage_is_told_with_file_and_byte_offset_and_exit_code_1(data: Path) -> None:
    path = segment(data)
    offset = path.read_bytes().index(entries(3, 11, 11)[0].data)
    spoil(path, offset)
    before = contents(data)
    answer = prime("wal", "verify", data)
    assert answer.code == 1
    assert answer.out.splitlines()[0].split() == ["FILE", "OFFSET", "PROBLEM"]
    assert "record 11 is damaged" in answer.out
    assert answer.err == f"error: {data}/log: 1 problem; nothing was changed\n"
    (problem,) = prime("wal", "verify", data, "-o", "json").json()["problems"]
    assert problem["file"] == str(path)
    assert offset - 60 < problem["offset"] < offset
    shown = prime("wal", "inspect", data)
    assert shown.code == 1
    assert f"{path}: byte {problem['offset']}: record 11 is damaged" in shown.out
    assert prime("wal", "inspect", data, "-o", "json").code == 1
    assert contents(data) == before


def test_a_torn_end_is_shown_and_is_no_damage(data: Path) -> None:
    path = segment(data)
    raw = bytearray(path.read_bytes())
    end = len(raw.rstrip(b"\0")) + 8
    raw[end : end + 3] = b"abc"
    path.write_bytes(raw)
    answer = prime("wal", "verify", data)
    assert answer.code == 0
    assert "a torn end of" in answer.out
    assert "the next start cuts it" in prime("wal", "inspect", data).out
    torn = prime("wal", "verify", data, "-o", "json").json()["torn"]
    assert torn["file"] == str(path)
    assert torn["offset"] + torn["bytes"] == end + 3


def test_a_spoilt_snapshot_and_a_spoilt_vote_are_both_told(data: Path) -> None:
    snapshot = next((data / "log").glob("*.snap"))
    spoil(snapshot, 70)
    for at in (45, 4096 + 45):
        spoil(data / "log" / "vote", at)
    found = prime("wal", "inspect", data, "-o", "json").json()
    assert [one["file"] for one in found["problems"]] == [str(snapshot), str(data / "log" / "vote")]
    assert found["snapshots"][0]["problem"] is not None
    assert (found["entries"], found["commit"], found["term"]) == (None, None, None)
    assert prime("wal", "inspect", data).code == 1


def test_a_log_of_a_later_version_cannot_be_checked_and_says_so(data: Path) -> None:
    with Wal.open(data / "log") as wal:
        wal.append([b"\x09later"])
        wal.sync()
    answer = prime("wal", "verify", data, "-o", "json")
    assert answer.code == 1
    (problem,) = answer.json()["problems"]
    assert (problem["file"], problem["offset"]) == (None, None)
    assert "a later version wrote" in problem["problem"]
    assert "a later version wrote" in prime("wal", "inspect", data).out


def test_a_log_without_an_identity_is_shown_as_such(tmp_path: Path) -> None:
    with Wal.open(tmp_path, segment_bytes=4096) as wal:
        wal.append([b"\x82 any record"])
        wal.sync()
    answer = prime("wal", "inspect", tmp_path)
    assert answer.code == 0
    assert answer.out.startswith("a log without an identity: of an agent by itself\ndurable up to record 1\n")
    assert prime("wal", "inspect", tmp_path, "-o", "json").json()["identity"] is None


def test_a_directory_without_a_log_is_a_mistake(tmp_path: Path) -> None:
    answer = prime("wal", "verify", tmp_path)
    assert answer.code == 2
    assert "there is no log here" in answer.err
    assert prime("wal", "verify", tmp_path / "nowhere").code == 2


def test_a_directory_that_may_not_be_read_says_so(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("consensus.disk.os.listdir", refuse)
    answer = prime("wal", "verify", data)
    assert answer.code == 1
    assert "could not list" in answer.err


def test_a_file_that_goes_away_meanwhile_says_that_an_agent_runs(data: Path) -> None:
    (data / "log" / f"{99:016x}.snap").symlink_to("gone")  # a name that is listed and cannot be opened
    answer = prime("wal", "verify", data)
    assert answer.code == 2
    assert "went away while it was read" in answer.err

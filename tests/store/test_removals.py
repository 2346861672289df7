"""What retention has removed is known for a while, whatever happens to the file it is noted in."""

from __future__ import annotations

from pathlib import Path

from agent.store.removals import Removals, Removed


def test_the_last_note_of_an_attempt_counts(tmp_path: Path) -> None:
    notes = Removals(tmp_path / "removed-logs")
    assert notes.find("r1", "shell", 1) is None
    for number in (1, 2, 1):
        notes.note("r1", "shell", number, Removed(number * 1000, "its time was over"))
    notes.note("r1", "shell", 1, Removed(5000, "no room"))
    notes.note("r1", "shell", 11, Removed(6000, "its time was over"))
    assert Removals(tmp_path / "removed-logs").find("r1", "shell", 1) == Removed(5000, "no room")
    assert notes.find("r1", "she", 1) is None


def test_p12_old_notes_go(tmp_path: Path) -> None:
    notes = Removals(tmp_path / "removed-logs", max_bytes=1000)
    for number in range(1, 200):
        notes.note("r1", "shell", number, Removed(number, "its time was over"))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000
    assert notes.find("r1", "shell", 1) is None
    assert notes.find("r1", "shell", 199) == Removed(199, "its time was over")


def test_a_torn_note_spoils_no_other(tmp_path: Path) -> None:
    notes = Removals(tmp_path / "removed-logs")
    notes.note("r1", "shell", 1, Removed(1, "why"))
    with (tmp_path / "removed-logs").open("ab") as file:
        file.write(b'["r1","shell",2,')
    notes.note("r1", "shell", 3, Removed(3, "why"))
    assert [notes.find("r1", "shell", number) for number in (1, 2, 3)] == [Removed(1, "why"), None, Removed(3, "why")]

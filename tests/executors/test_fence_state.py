"""What a watchdog knows, and what it still knows after it was killed, or after the machine was (P3, P9)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from executors.fence_state import FILE, FOREVER, NEVER, Guard, StateFile, Watched

END = {"kind": "agent"}


def guard(name: str = "a", epoch: int = 1, *, waits: bool = False) -> Guard:
    return Guard(name, epoch, waits, END)


def watched(until_s: float = 10.0, epoch: int = 1) -> Watched:
    one = Watched()
    one.renew(until_s, epoch, 3.0)
    return one


def test_nothing_is_guarded_before_there_is_a_lease() -> None:
    assert Watched().may_guard(guard(), 0.0, runs=False) == "the agent has no lease"
    assert watched().may_guard(guard(), 9.9, runs=False) == ""
    assert watched().may_guard(guard(), 10.0, runs=False) == "the agent has no lease"
    assert watched(epoch=2).may_guard(guard(), 0.0, runs=False) == "the agent has no lease"


def test_what_runs_already_is_guarded_whatever_counts_unless_it_was_fenced() -> None:
    one = Watched()
    assert one.may_guard(guard(), 0.0, runs=True) == ""
    one.fence("a", 1)
    assert one.may_guard(guard(), 0.0, runs=True) == "it was fenced"


def test_a_lease_never_gets_shorter_within_its_epoch() -> None:
    one = watched(10.0)
    one.renew(8.0, 1, 3.0)
    assert one.until_s == 10.0
    one.renew(8.0, 2, 3.0)
    assert (one.until_s, one.epoch) == (8.0, 2)
    one.renew(99.0, 1, 3.0)
    assert (one.until_s, one.epoch) == (8.0, 2)


def test_the_grace_is_that_of_the_lease_which_counts() -> None:
    one = watched(10.0)
    one.renew(8.0, 1, 60.0)
    assert (one.until_s, one.stop_s) == (10.0, 3.0)
    one.renew(12.0, 1, 60.0)
    assert (one.until_s, one.stop_s) == (12.0, 60.0)
    one.renew(FOREVER, 1, 5.0)
    one.renew(FOREVER, 1, 6.0)
    assert one.stop_s == 6.0, "an agent alone was given another grace"


def test_only_a_lease_without_end_is_bound() -> None:
    one = watched(10.0)
    one.bind(5.0)
    assert one.until_s == 10.0
    one.renew(FOREVER, 1, 3.0)
    one.bind(5.0)
    assert one.until_s == 5.0


def test_what_is_due_is_what_its_lease_has_left_behind() -> None:
    one = watched(10.0, epoch=2)
    for each in (guard("now", 2), guard("old", 1), guard("waits", 1, waits=True)):
        one.guard(each)
    assert [each.name for each in one.due(5.0)] == ["old"]
    assert one.next_due_s() == NEVER
    one.fence("old", 1)
    assert one.due(9.9) == []
    assert one.next_due_s() == 10.0
    assert [each.name for each in one.due(10.0)] == ["now"]


def test_no_lease_takes_back_what_was_fenced() -> None:
    one = watched(10.0)
    one.guard(guard())
    one.fence("a", 123)
    one.renew(1000.0, 1, 3.0)
    one.fence("a", 456)
    assert one.fenced == {"a": 123}
    one.release("a")
    assert (one.fenced, one.guards) == ({}, {})


# -- on disk -----------------------------------------------------------------------------------------------------------


def filled(directory: Path) -> StateFile:
    file = StateFile(directory, "boot")
    file.write(
        [
            {"do": "renew", "until_s": 10.5, "epoch": 3, "stop_s": 2.0},
            {"do": "guard", "name": "a", "epoch": 3, "waits": True, "end": END},
            {"do": "guard", "name": "b", "epoch": 3, "waits": False, "end": END},
            {"do": "fence", "name": "a", "at_ms": 77},
            {"do": "release", "name": "b"},
        ],
        sync=True,
    )
    file.close()
    return StateFile(directory, "boot")


def check(one: Watched) -> None:
    assert (one.until_s, one.epoch, one.stop_s) == (10.5, 3, 2.0)
    assert one.guards == {"a": Guard("a", 3, True, END)}
    assert one.fenced == {"a": 77}


def test_the_next_one_knows_as_much(tmp_path: Path) -> None:
    check(filled(tmp_path).watched)


def test_it_knows_as_much_once_the_file_was_written_anew(tmp_path: Path) -> None:
    file = filled(tmp_path)
    file.write_anew(file.watched.lines())
    file.close()
    check(StateFile(tmp_path, "boot").watched)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_no_lease_and_a_lease_without_end_are_kept_as_well(tmp_path: Path) -> None:
    assert StateFile(tmp_path, "boot").watched.until_s == NEVER
    file = StateFile(tmp_path, "boot")
    file.write([{"do": "renew", "until_s": FOREVER, "epoch": 1, "stop_s": 1.0}], sync=False)
    assert StateFile(tmp_path, "boot").watched.until_s == FOREVER


def test_after_another_boot_nothing_runs_and_what_was_fenced_is_still_told(tmp_path: Path) -> None:
    filled(tmp_path).close()
    one = StateFile(tmp_path, "later").watched
    assert (one.guards, one.until_s, one.fenced) == ({}, NEVER, {"a": 77})


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_that_was_cut_takes_nothing_else_with_it(tmp_path: Path, cut: int) -> None:
    filled(tmp_path).close()
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"do": "guard", "name": "c", "epoch": 3, "waits": false, "end": {}}'[:cut])
    check(StateFile(tmp_path, "boot").watched)


def test_a_damaged_line_is_counted_and_the_others_hold(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"do": "gu\xffrd"}\n{"do": "dance"}\n[]\n')
    one = StateFile(tmp_path, "boot")
    assert one.damaged == 3
    check(one.watched)


def test_on_a_full_disk_a_line_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = filled(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    with pytest.raises(OSError, match="No space left"):
        file.write([{"do": "release", "name": "a"}], sync=True)
    monkeypatch.undo()
    file.close()
    check(StateFile(tmp_path, "boot").watched)

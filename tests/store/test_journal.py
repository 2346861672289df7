"""The worker's journal: an attempt starts at most once, and what was said of it is not forgotten (P3, P9)."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.store.errors import AlreadyJournaled, JournalDamaged, JournalError
from agent.store.journal import Journal, JournalEntry

BOOT = "6d6f9a3e-4f0b-4b55-8b9f-0d2a1f0e7a11"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as journal:
        yield journal


def reopened(journal: Journal, path: Path) -> Journal:
    journal.close()
    return Journal(path)


def test_an_attempt_is_followed_from_intent_to_outcome_over_a_restart(journal: Journal, path: Path) -> None:
    journal.intend("a-1", b"plan", 120.5, BOOT)
    started = journal.started("a-1", b"pid 7")
    ended = journal.ended("a-1", b"exit 0")
    assert 0 < started < ended
    with reopened(journal, path) as again:
        entry = again.get("a-1")
        assert entry == JournalEntry("a-1", b"plan", 120.5, BOOT, None, b"pid 7", started, b"exit 0", ended)
        assert entry is not None
        assert entry.seq == ended
        assert again.entries() == [entry]
        assert again.get("b-1") is None


def test_p3_an_intent_for_a_known_attempt_is_refused_whatever_became_of_it(journal: Journal, path: Path) -> None:
    journal.intend("meant", b"", math.inf, BOOT)
    journal.refuse("refused", "the lease had ended")
    journal.intend("ended", b"", math.inf, BOOT)
    journal.ended("ended", b"image missing")
    with reopened(journal, path) as again:
        for name in ("meant", "refused", "ended"):
            with pytest.raises(AlreadyJournaled, match=f"{name}: stands in the journal"):
                again.intend(name, b"", 1.0, BOOT)
        assert [(entry.name, entry.refused) for entry in again.entries()] == [
            ("ended", None),
            ("meant", None),
            ("refused", "the lease had ended"),
        ]


def test_what_may_be_known_is_told_without_the_disk_also_after_a_restart(journal: Journal, path: Path) -> None:
    assert not journal.may_know("a")
    journal.intend("a", b"", 1.0, "boot")
    journal.refuse("b", "full")
    assert journal.may_know("a")
    assert journal.may_know("b")
    journal.close()
    with Journal(path) as again:
        assert again.may_know("a")
        with suppress(KeyError), again.batch():
            again.forget(["a"])
            raise KeyError
        assert again.may_know("a")
        again.forget(["a", "c"])
        assert not again.may_know("a")
        assert again.may_know("b")


def test_p3_a_refused_attempt_cannot_start_and_a_started_one_cannot_be_refused(journal: Journal) -> None:
    journal.intend("a", b"", 1.0, BOOT)
    journal.refuse("a", "stop wanted")
    journal.refuse("a", "another reason")
    with pytest.raises(JournalError, match="cannot have started"):
        journal.started("a", b"")
    journal.intend("b", b"", 1.0, BOOT)
    journal.started("b", b"")
    with pytest.raises(JournalError, match="can no longer be refused"):
        journal.refuse("b", "too late")
    assert [entry.refused for entry in journal.entries()] == ["stop wanted", None]


def test_a_start_or_an_end_of_an_unknown_attempt_is_the_callers_error(journal: Journal) -> None:
    for call in (journal.started, journal.ended):
        with pytest.raises(JournalError, match="is not in the journal"):
            call("never heard of", b"")
    with pytest.raises(ValueError, match="not a number"):
        journal.intend("a", b"", math.nan, BOOT)


def test_p4_the_first_start_and_the_first_outcome_stay(journal: Journal) -> None:
    journal.intend("a", b"", 1.0, BOOT)
    started = journal.started("a", b"first")
    assert journal.started("a", b"second") == started
    ended = journal.ended("a", b"exit 0")
    assert journal.ended("a", b"exit 1") == ended
    assert journal.started("a", b"third") == started
    entry = journal.get("a")
    assert entry is not None
    assert (entry.started, entry.outcome) == (b"first", b"exit 0")


def test_sequence_numbers_grow_for_ever_also_after_everything_is_forgotten(journal: Journal, path: Path) -> None:
    seen = []
    for number in range(5):
        name = f"a-{number}"
        journal.intend(name, b"", 1.0, BOOT)
        seen += [journal.started(name, b""), journal.ended(name, b"")]
        journal.forget([name, "unknown"])
    assert journal.entries() == []
    with reopened(journal, path) as again:
        again.intend("last", b"", 1.0, BOOT)
        seen.append(again.ended("last", b""))
    assert seen == sorted(set(seen))


def test_a_batch_is_kept_whole_or_not_at_all(journal: Journal, path: Path) -> None:
    with journal.batch():
        journal.intend("a", b"", 1.0, BOOT)
        journal.intend("b", b"", 1.0, BOOT)
        first = journal.started("a", b"")

    def broken() -> None:
        with journal.batch():
            journal.intend("c", b"", 1.0, BOOT)
            journal.started("b", b"")
            raise KeyError("the worker failed")

    with pytest.raises(KeyError):
        broken()
    with journal.batch(), pytest.raises(JournalError, match="a batch within a batch"), journal.batch():
        pass
    with reopened(journal, path) as again:
        assert [(entry.name, entry.seq) for entry in again.entries()] == [("a", first), ("b", 0)]
        assert again.started("b", b"") > first


def test_p3_a_batch_that_ran_into_a_full_disk_keeps_nothing_even_if_the_error_is_caught(
    journal: Journal, path: Path
) -> None:
    (pages,) = journal._database.execute("PRAGMA page_count").fetchone()
    journal._database.execute(f"PRAGMA max_page_count = {pages}")

    def careless() -> None:
        with journal.batch():
            journal.intend("a", b"", 1.0, BOOT)
            with pytest.raises(JournalError, match="no space left"):
                journal.intend("b", os.urandom(100_000), 1.0, BOOT)
            journal.intend("c", b"", 1.0, BOOT)

    with pytest.raises(JournalError, match="the batch was taken back"):
        careless()
    assert journal.entries() == []


def test_p3_two_agents_cannot_hold_one_journal(journal: Journal, path: Path) -> None:
    journal.intend("a", b"", 1.0, BOOT)
    with pytest.raises(JournalError, match="another process holds the journal"):
        Journal(path)


def test_only_its_owner_may_read_it(journal: Journal, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


CHILD = """
import sys
from pathlib import Path
from agent.store.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(100_000):
    journal.intend(f"a-{number:06}", b"plan", 1.0, "boot")
    print(number, journal.started(f"a-{number:06}", b"pid"), flush=True)
"""


def test_p3_what_was_said_is_there_after_a_kill(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    said += child.stdout.readlines()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    with Journal(path) as journal:
        entries = {entry.name: entry for entry in journal.entries()}
        for line in said:
            if line.endswith("\n"):
                number, seq = line.split()
                assert entries[f"a-{int(number):06}"].started_seq == int(seq)
        assert len(entries) - len(said) in (0, 1)


# -- damage (P9) -----------------------------------------------------------------------------------------------------


def damaged_by(change: Callable[[Path], None], path: Path) -> pytest.ExceptionInfo[JournalDamaged]:
    with Journal(path) as journal:
        for number in range(50):
            journal.intend(f"a-{number:02}", b"payload " * 20, 1.0, BOOT)
        journal.started("a-07", b"pid")
    change(path)
    with pytest.raises(JournalDamaged) as caught:
        Journal(path)
    assert str(path) in str(caught.value)
    assert "restore the whole data directory" in str(caught.value)
    return caught


def test_p9_a_file_that_is_no_database_is_refused(path: Path) -> None:
    def change(path: Path) -> None:
        path.write_bytes(b"not a database at all " * 500)

    damaged_by(change, path)


def test_p9_a_changed_byte_within_a_value_is_noticed(path: Path) -> None:
    def change(path: Path) -> None:
        data = path.read_bytes()
        at = data.index(b"payload payload")
        path.write_bytes(data[:at] + b"P" + data[at + 1 :])

    assert "has changed on the disk" in str(damaged_by(change, path).value)


def test_p9_a_zeroed_page_is_noticed(path: Path) -> None:
    def change(path: Path) -> None:
        data = path.read_bytes()
        page = data.index(b"payload payload") // 4096
        path.write_bytes(data[: page * 4096] + bytes(4096) + data[(page + 1) * 4096 :])

    damaged_by(change, path)


def test_p9_a_sequence_that_went_back_is_noticed(path: Path) -> None:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as database:
            database.execute("UPDATE sequence SET last = 0")
        database.close()

    assert "the sequence is missing or has changed" in str(damaged_by(change, path).value)


def test_p9_another_programs_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    with pytest.raises(JournalDamaged, match="no journal of an agent"):
        Journal(path)


def test_a_journal_of_a_later_version_is_refused_as_such(journal: Journal, path: Path) -> None:
    journal.close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(JournalError, match="journal version 99"):
        Journal(path)


def test_p9_a_full_disk_refuses_the_intent_and_keeps_the_rest(journal: Journal, path: Path) -> None:
    journal.intend("a", b"", 1.0, BOOT)
    (pages,) = journal._database.execute("PRAGMA page_count").fetchone()
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalError, match="no space left: nothing was journaled"):
        journal.intend("b", os.urandom(100_000), 1.0, BOOT)
    assert [entry.name for entry in journal.entries()] == ["a"]
    journal._database.execute("PRAGMA max_page_count = 1000000")
    journal.intend("b", b"", 1.0, BOOT)
    with reopened(journal, path) as again:
        assert [entry.name for entry in again.entries()] == ["a", "b"]

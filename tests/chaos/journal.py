"""`agent.store.journal.Journal` without its file, which is proven elsewhere: what a call has changed is durable.

The worker calls it in its thread (`loop.run_in_executor`), so a process that is killed before has changed nothing, and
one that is killed between the call and its answer does not know that it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agent.store.errors import AlreadyJournaled, JournalError
from agent.store.journal import JournalEntry


class MemoryJournal:
    """Of one host."""

    def __init__(self) -> None:
        self._entries: dict[str, JournalEntry] = {}
        self._seq = 0

    def may_know(self, name: str) -> bool:
        """See Journal."""
        return name in self._entries

    def get(self, name: str) -> JournalEntry | None:
        """See Journal."""
        return self._entries.get(name)

    def entries(self) -> list[JournalEntry]:
        """See Journal."""
        return [self._entries[name] for name in sorted(self._entries)]

    def intend(self, name: str, payload: bytes, not_after_s: float, boot_id: str) -> None:
        """See Journal."""
        if name in self._entries:
            raise AlreadyJournaled(f"{name}: stands in the journal already, so it must not be started (again)")
        self._entries[name] = JournalEntry(name, payload, not_after_s, boot_id)

    def refuse(self, name: str, reason: str) -> None:
        """See Journal."""
        entry = self._entries.get(name) or JournalEntry(name)
        if entry.started is not None or entry.outcome is not None:
            raise JournalError(f"{name}: has been started or has ended already and can no longer be refused")
        if entry.refused is None:
            self._entries[name] = replace(entry, refused=reason)

    def started(self, name: str, payload: bytes) -> int:
        """See Journal."""
        entry = self._known(name)
        if entry.started_seq is not None:
            return entry.started_seq
        if entry.payload is None or entry.refused is not None or entry.outcome is not None:
            raise JournalError(f"{name}: cannot have started: it has no intent, was refused, or has ended")
        self._seq += 1
        self._entries[name] = replace(entry, started=payload, started_seq=self._seq)
        return self._seq

    def ended(self, name: str, payload: bytes) -> int:
        """See Journal."""
        entry = self._known(name)
        if entry.ended_seq is not None:
            return entry.ended_seq
        self._seq += 1
        self._entries[name] = replace(entry, outcome=payload, ended_seq=self._seq)
        return self._seq

    def forget(self, names: Iterable[str]) -> None:
        """See Journal."""
        for name in names:
            self._entries.pop(name, None)

    def _known(self, name: str) -> JournalEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise JournalError(f"{name}: is not in the journal: journal the intent or the refusal first")
        return entry

"""A cluster begun again: restored from a snapshot, or recovered from the one log that is left. Nothing runs meanwhile.

Both make a *new generation* of the same cluster: the same table, in which every agent of before is lost and removed for
ever, whose log one agent with a new id founds. So

- frames of the old generation are refused, should an old agent be alive, and no id or node number is used again;
- an attempt that was open has ended, or is `unknown` where its job waits; its name has the old generation in it;
- what old agents may still run is waited for: nothing is assigned before a leader has led for ttl + margin
  (`TableImage.hold_ms`);
- the database takes it for later than all that was written before, for its fence goes by (generation, term).

Log indexes go on where they were, so that positions in history and database stay unique.

Here is what both have in common, the restoring of a snapshot, and founding by hand, which makes a first generation in
the same way; `survivor` recovers. A restored directory gets its identity last: no agent starts on one without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from agent import intact
from agent.cluster import snapshot
from agent.cluster import snapshot_file as form
from agent.cluster.promise import PromiseFile
from agent.cluster.snapshot_file import Kind
from agent.cluster.standing import Founder, FoundingSet
from agent.errors import PrimeError
from agent.identity import FILE as IDENTITY
from agent.identity import Identity, load_identity, save_identity
from agent.keyring import Keyring, create_key_file, key_file_text
from agent.replica import found, rows_of
from agent.runtable import commands as c
from agent.runtable.apply import apply
from agent.runtable.model import TableImage
from agent.runtable.table import Table
from agent.store.blobs import BlobStore
from agent.store.history import START, FinishedRun, History, Part, end_of
from agent.store.journal import Journal
from consensus.durable import DurableLog
from consensus.messages import NONE, ConfState, HardState, SnapshotMeta
from consensus.wal_identity import Identity as NodeIdentity

MAKING: Final = "recovering"  # in a data directory: what is not whole yet
SEGMENT_BYTES: Final = 1024 * 1024  # of the log's first; an agent makes the next of its own size
BATCH: Final = 64  # blobs written before they are waited for
PIECE_BYTES: Final = 1024 * 1024
ROWS: Final = 500


class RecoveryError(PrimeError):
    """It cannot be done; nothing was changed."""


# -- a new generation --------------------------------------------------------------------------------------------------


def next_generation(table: Table, now_ms: int) -> list[FinishedRun]:
    """Make a table that of the next generation, with no agent in it. Returns the runs that have ended by it.

    now_ms: milliseconds since the epoch.
    """
    rows, ended = table.rows, list[FinishedRun]()
    now_ms = max(now_ms, rows.time_ms)

    def say(command: c.AnyCommand) -> None:
        applied = apply(table, rows.index + 1, c.encode(command))
        assert applied.ok, f"{command}: {applied.code}"
        ended.extend(rows_of(rows.index, applied.finished))

    for agent in tuple(rows.agents.values()):
        if not agent.lost:
            say(c.AgentLost(now_ms, agent.id, agent.epoch))
        say(c.AgentRemoved(now_ms, agent.id))
    rows.index += 1
    rows.generation += 1
    rows.hold_ms = _hold_ms(rows)
    return ended


def _hold_ms(rows: TableImage) -> int:
    """The longest that a lease of before, and the end of its work, may take."""
    terms = [rows.leases.terms, *([rows.leases.before] if rows.leases.before is not None else [])]
    return max(one.loss_ms for one in terms)


def found_log(directory: Path, identity: Identity, table: Table, term: int) -> None:
    """Begin the log of this node with that table, as its only voter."""
    rows = table.rows
    node = NodeIdentity(rows.cluster, identity.node, 1)
    with DurableLog.open(directory / intact.LOG, node, segment_bytes=SEGMENT_BYTES) as durable:
        meta = SnapshotMeta(rows.index, term, ConfState((identity.node,)))
        durable.install_snapshot(meta, HardState(term, NONE, rows.index), table.image())


# -- founding by hand --------------------------------------------------------------------------------------------------


def init(data_dir: Path, secret_key: Path | None = None) -> Identity:
    """Found a cluster of the agent that this directory is for; it may have waited for one, and must not run now.

    secret_key: file of the key for secrets, made if missing; None = the directory's own. Returns who it is. May be
    called again where it was cut short. Raises RecoveryError, ConfigError, LogError, KeyringError.
    """
    key = secret_key or data_dir / intact.KEY
    intact.prepare(data_dir, key)
    identity = load_identity(data_dir)
    if identity.cluster:
        raise RecoveryError(f"{data_dir}: its agent, {identity.agent}, belongs to cluster {identity.cluster} already")
    with closing(PromiseFile.open(data_dir, identity.agent)) as promises:
        promised = promises.record.promised
    if promised is not None:
        raise RecoveryError(
            f"{data_dir}: its agent has promised others to found cluster {promised.cluster} with them; start them all "
            "as before, or begin with empty directories"
        )
    alone = FoundingSet(1, (Founder(identity.agent, identity.node, "alone"),))
    node = NodeIdentity(alone.cluster, identity.node, 1)
    with DurableLog.open(data_dir / intact.LOG, node, segment_bytes=SEGMENT_BYTES) as durable:
        found(durable)
    Keyring.open(key, create=True)
    identity = replace(identity, cluster=alone.cluster, generation=1)
    save_identity(data_dir, identity)
    return identity


# -- restoring a snapshot ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """A new generation on a disk. lacking: blobs that its table names, and nobody had."""

    identity: Identity
    table: Table
    lacking: list[str] = field(default_factory=list)


def pieces_of(file: Path) -> Iterator[bytes]:
    """A file's bytes, in order. Raises OSError."""
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece


def restore(file: Path, data_dir: Path, secret_key: Path, now_ms: int, *, assume_stopped: bool = False) -> Begun:
    """Make an agent's directory of a snapshot. It is the whole cluster then; others join it with empty directories.

    data_dir: empty or missing. secret_key: a key file with the keys of the snapshot's secrets; it is copied.
    assume_stopped: the operator's word that the work of an agent which was alone has ended.
    Raises SnapshotError, RecoveryError, KeyringError before anything is made; StoreError, LogError, OSError.
    """
    contents = snapshot.read(pieces_of(file))
    absent = set(contents.header.secret_keys) - set(Keyring.open(secret_key, create=False).ids)
    if absent:
        raise RecoveryError(
            f"{secret_key}: has not got the key {', '.join(sorted(absent))}, with which secrets in the snapshot are "
            "encrypted; give the key file of the cluster that was saved"
        )
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise RecoveryError(f"{data_dir}: is not empty; a snapshot is restored into an empty directory alone")
    if not assume_stopped:
        _check_leases(contents.table.rows)
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    header, table = contents.header, contents.table
    ended = next_generation(table, now_ms)
    with closing(History.open(data_dir / intact.DATABASES[0])) as history:  # what no agent starts beside without a name
        history.note_missing(0, header.index)
        _put_contents(file, BlobStore(data_dir / "blobs"), history)
        settle_history(history, ended, table.rows.index)
    Journal(data_dir / intact.DATABASES[1]).close()
    create_key_file(data_dir / intact.KEY, key_file_text(secret_key))
    made = data_dir / MAKING
    identity = new_identity(made, table)
    found_log(data_dir, identity, table, header.term + 1)
    (made / intact.PROMISES).rename(data_dir / intact.PROMISES)
    sync(data_dir)
    (made / IDENTITY).rename(data_dir / IDENTITY)
    made.rmdir()
    sync(data_dir)
    return Begun(identity, table, contents.lacking)


def _check_leases(rows: TableImage) -> None:
    """Raises RecoveryError where no wait is long enough: the work of an agent alone has no lease that ends (P3)."""
    if len(rows.agents) == 1 and rows.runs:
        (agent,) = rows.agents
        raise RecoveryError(
            f"the agent {agent} was alone in its cluster when this was saved, so that its work ends with no lease; it "
            f"may go on, and what has not ended ({len(rows.runs)} of its runs) would be run again. Stop the agent and "
            "what it has started, and say so: --assume-stopped"
        )


def _put_contents(file: Path, blobs: BlobStore, history: History) -> None:
    """Blobs and finished runs of a snapshot that was found whole, onto the disk."""
    batch: list[bytes] = []
    for kind, body in form.records(pieces_of(file)):
        if kind is Kind.BLOB:
            batch.append(form.blob_of(body)[1])
            if len(batch) == BATCH:
                blobs.put_all(batch)
                batch = []
        elif kind is Kind.RUNS:
            runs = form.decode(body, form.Runs)
            history.fill(runs.after if runs.after != START else end_of(0), Part(runs.rows, runs.complete))
        elif kind is Kind.GONE:
            gone = form.decode(body, form.Gone)
            history.give_up(gone.after if gone.after != START else end_of(0), gone.to)
    blobs.put_all(batch)


def settle_history(history: History, ended: Sequence[FinishedRun], index: int) -> None:
    """Nobody has any more what is missing; what ended by the new generation is there, up to the index of its log."""
    for hole in history.missing:
        history.give_up(hole.after, hole.to)
    for at in range(0, len(ended), ROWS):
        history.append(ended[at : at + ROWS])
    history.set_covered(index)


def new_identity(directory: Path, table: Table) -> Identity:
    """Make a new agent of the table's cluster in this new directory: its identity, and its promises, which are none."""
    directory.mkdir(mode=0o700)
    identity = replace(load_identity(directory), cluster=table.rows.cluster, generation=table.rows.generation)
    save_identity(directory, identity)
    PromiseFile.open(directory, identity.agent).close()
    return identity


def sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)

"""`prime cluster init`, `snapshot`, `recover`: a cluster begun by hand, saved, and begun again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import output
from agent.cli.common import RUN_FAILED, USAGE, count, fail, format_option, listed, online
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from agent.client import Client
    from agent.cluster.recovery import Begun
    from agent.cluster.survivor import Survivor

FILE = click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
DATA_DIR = click.option(
    "--data-dir", required=True, type=click.Path(file_okay=False, path_type=Path), help="Of an agent that does not run."
)


@click.command()
@DATA_DIR
@click.option("--secret-key", type=click.Path(path_type=Path), help="File of the key for secrets, if not in there.")
def init(data_dir: Path, secret_key: Path | None) -> None:
    """Found a cluster of one agent by hand, before its start; the others of its --join list join it.

    For agents that were given --join and no --bootstrap-expect, which wait for somebody to found. Do this once, for
    one of them: stop it, and start it again afterwards as it was.
    """
    from agent.cluster import recovery

    with _told():
        identity = recovery.init(data_dir, secret_key)
    click.echo(f"cluster {identity.cluster} is founded, with the agent {identity.agent} alone")
    click.echo("start it as before; agents that name it in --join, and belong to no cluster, join it")


@click.group(cls=LazyGroup)
def snapshot() -> None:
    """Save the whole cluster in a file, look at one, make a cluster of one."""


@snapshot.command()
@FILE
@click.option("--history", is_flag=True, help="With the finished runs, and what they were made of.")
@online
def save(client: Client, file: Path, history: bool) -> None:  # noqa: FBT001  click gives flags so
    """Save what the cluster holds now: table, jobs, secrets as they are encrypted, unfinished runs. Any agent does.

    The key of the secrets is not in it: keep that as well.
    """
    from agent.client import Unreachable
    from agent.cluster.snapshot import read
    from agent.cluster.snapshot_file import SnapshotError

    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as opened:
            contents = read(_written(client.text("/api/v1/cluster/snapshot", history=history), opened))
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
        _sync(file.absolute().parent)
    except SnapshotError as error:
        raise Unreachable(f"what came is no whole snapshot, and was not kept: {error}") from error
    except OSError as error:
        fail(f"{error.filename or file}: {error.strerror or error}", USAGE)
    finally:
        temporary.unlink(missing_ok=True)
    told = contents.described()
    click.echo(f"{file}: {_in_words(told)}")
    _tell_keys(told)
    _tell_lacking(contents.lacking)


def _written(pieces: Iterator[bytes], opened: Any) -> Iterator[bytes]:
    for piece in pieces:
        opened.write(piece)
        yield piece


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@snapshot.command()
@FILE
@format_option
def inspect(file: Path, form: str) -> None:
    """Check a snapshot from its first byte to its last, and show what is in it. Needs no agent."""
    from agent.cluster.recovery import pieces_of
    from agent.cluster.snapshot import read
    from agent.cluster.snapshot_file import SnapshotError

    try:
        contents = read(pieces_of(file))
    except SnapshotError as error:
        fail(f"{file}: {error}", RUN_FAILED)
    except OSError as error:
        fail(f"{file}: {error.strerror or error}", USAGE)
    told = contents.described()
    saved_at = _moment(told.pop("time_ms"))
    if form == "json":
        output.show_json({**told, "saved_at": saved_at, "sound": True})
        return
    click.echo(f"{file}: sound; {_in_words(told)}")
    click.echo(f"saved {saved_at} by {told['agent']}, version {told['version']}")
    click.echo(f"agents: {listed(told['agents']) or 'none'}; projects: {listed(told['projects']) or 'none'}")
    _tell_keys(told)
    _tell_lacking(contents.lacking)


@snapshot.command()
@FILE
@DATA_DIR
@click.option("--secret-key", required=True, type=click.Path(path_type=Path), help="Key file of the saved cluster.")
@click.option("--assume-stopped", is_flag=True, help="The work of an agent that was alone has ended.")
def restore(file: Path, data_dir: Path, secret_key: Path, *, assume_stopped: bool) -> None:
    """Make the directory of a new agent of a snapshot: with it the cluster begins again, and others join.

    No agent of the saved cluster may run any more, nor start again: what it has done since is not known here.
    """
    from agent.cluster import recovery

    with _told():
        begun = recovery.restore(file, data_dir, secret_key, _now_ms(), assume_stopped=assume_stopped)
    _tell_begun(begun, data_dir)


@click.command()
@DATA_DIR
@click.option("--confirm", default="", metavar="CLUSTER", help="The cluster's id: do it, and lose what is lost.")
@format_option
def recover(data_dir: Path, confirm: str, form: str) -> None:
    """Begin a cluster again with one stopped agent, when a majority of its voters is gone for ever.

    Without --confirm nothing is changed: it shows what this agent has. Compare all agents that are left, and recover
    the one with the highest term, and of those with the same term the highest index; that one alone. All others have
    to begin with empty directories.
    """
    from agent.cluster import survivor

    with _told():
        if not survivor.is_unfinished(data_dir):
            found = survivor.look(data_dir)
            if confirm != found.identity.cluster:
                _show_survivor(found, data_dir, form)
                if confirm:
                    fail(f"--confirm {confirm}: the cluster is {found.identity.cluster}; nothing was changed", USAGE)
                return
        elif not confirm:
            fail(f"{data_dir}: a recovery was cut short; give --confirm CLUSTER again, and it goes on", USAGE)
        begun = survivor.recover(data_dir, _now_ms())
    if form == "json":
        output.show_json({"agent": begun.identity.agent, "cluster": begun.identity.cluster, **_place(begun)})
        return
    _tell_begun(begun, data_dir)
    click.echo(f"what was there before is in {data_dir}/before-generation-{begun.identity.generation}")


def _place(begun: Begun) -> dict[str, Any]:
    rows = begun.table.rows
    return {"generation": rows.generation, "index": rows.index, "lacking": begun.lacking}


def _show_survivor(found: Survivor, data_dir: Path, form: str) -> None:
    rows = found.table.rows
    told: dict[str, Any] = {
        "cluster": found.identity.cluster,
        "generation": rows.generation,
        "agent": found.identity.agent,
        "term": found.term,
        "index": found.index,
        "committed": found.committed,
        "last_change": _moment(rows.time_ms),
        "others": sorted(one.id for one in found.gone),
        "unfinished_runs": len(rows.runs),
        "open_attempts": sum(found.open_attempts.values()),
        "lacking": found.lacking,
    }
    if form == "json":
        output.show_json(told)
        return
    click.echo(f"cluster {told['cluster']}, generation {told['generation']}, agent {told['agent']}")
    click.echo(f"term {told['term']}, index {told['index']}; the last change was said at {told['last_change']}")
    click.echo(f"kept: all up to there, with {count(len(rows.runs), 'unfinished run')}")
    click.echo("lost: what was accepted after that, which this disk has not got")
    click.echo(f"given up: {count(told['open_attempts'], 'attempt')}; `on_agent_lost` of each job says what follows")
    click.echo(f"removed for ever: {listed([*told['others'], found.identity.agent])}; a new id is given here")
    _tell_lacking(found.lacking)
    click.echo(
        f"nothing was changed. To do it: prime cluster recover --data-dir {data_dir} --confirm {told['cluster']}"
    )


def _tell_begun(begun: Begun, data_dir: Path) -> None:
    rows = begun.table.rows
    click.echo(
        f"cluster {rows.cluster} begins generation {rows.generation} with the agent {begun.identity.agent} alone"
    )
    _tell_lacking(begun.lacking)
    click.echo("what to do now:")
    click.echo("  1. make a new cluster key, which no host of before has: prime cluster key new --out FILE")
    click.echo(f"  2. prime agent start --data-dir {data_dir} --cluster-key FILE ...")
    click.echo("  3. start others with the same key, --join, and empty directories")
    click.echo(
        f"work is given out {rows.hold_ms / 1000:g} s after its start: by then agents of before, which must not run "
        "any more, have ended theirs"
    )


def _tell_keys(told: dict[str, Any]) -> None:
    keys = told["secret_keys"]
    if keys:
        click.echo(f"the key of its secrets is not in it: keep the key file with {' and '.join(keys)} as well")


def _tell_lacking(lacking: Sequence[str]) -> None:
    if lacking:
        names = listed([one[:12] for one in lacking])
        output.note(f"warning: {count(len(lacking), 'file')} that jobs or runs name cannot be found: {names}")
        output.note("apply the jobs again; runs that need them fail")


def _in_words(told: dict[str, Any]) -> str:
    unfinished = sum(told["unfinished_runs"].values())
    parts = [
        f"cluster {told['cluster']}, generation {told['generation']}, index {told['index']}",
        f"{count(told['jobs'], 'job')}, {count(told['secrets'], 'secret')}, {count(unfinished, 'unfinished run')}",
        count(told["finished_runs"], "finished run") if told["history"] else "no finished runs",
        f"{count(told['blobs'], 'file')} of {told['blob_bytes']} bytes",
    ]
    return "; ".join(parts)


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong offline ends with a message and exit code 2, or 1 for what is damaged or full."""
    from agent.cluster.recovery import RecoveryError
    from agent.cluster.snapshot_file import SnapshotError
    from agent.errors import ConfigError
    from agent.keyring import KeyringError
    from agent.store.errors import StoreError
    from consensus.errors import LogError

    try:
        yield
    except (RecoveryError, ConfigError, KeyringError) as error:
        fail(str(error), USAGE)
    except (SnapshotError, LogError, StoreError) as error:
        fail(str(error), RUN_FAILED)
    except OSError as error:
        fail(f"{error.filename or ''}: {error.strerror or error}", RUN_FAILED)

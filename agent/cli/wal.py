"""`prime wal`: look at the durable log of an agent, without changing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import output
from agent.cli.common import RUN_FAILED, USAGE, count, fail, format_option
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from consensus.errors import LogError
    from consensus.wal_verify import Report

DIR = click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group(cls=LazyGroup)
def wal() -> None:
    """Look at the durable log of a stopped agent: its data directory, or `log` in it. Nothing is ever changed.

    Exit code 1 where something is damaged.
    """


@wal.command()
@DIR
@format_option
def inspect(directory: Path, form: str) -> None:
    """Show what a log holds: whose it is, its segments and snapshots, and what is wrong with it."""
    report = _report(directory)
    if form == "json":
        output.show_json({**_described(report), **_verdict(report)})
    else:
        _show(report)
    _end(report)


@wal.command()
@DIR
@format_option
def verify(directory: Path, form: str) -> None:
    """Check every record, snapshot and vote of a log; each problem with its file and byte offset."""
    report = _report(directory)
    verdict = _verdict(report)
    if form == "json":
        output.show_json(verdict)
    elif verdict["problems"]:
        rows = [(one["file"], one["offset"], one["problem"]) for one in verdict["problems"]]
        output.table(["FILE", "OFFSET", "PROBLEM"], rows)
    else:
        files = report.files
        records = sum(one.last_index - one.first_index + 1 for one in files.segments)
        snapshots = count(len(files.snapshots), "snapshot")
        click.echo(f"{files.directory}: sound; {count(records, 'record')}, {snapshots}")
    if form != "json":
        _show_torn(report)
    _end(report)


def _report(directory: Path) -> Report:
    """Read everything. Ends with exit code 2 where there is no log."""
    from consensus.errors import LogError
    from consensus.wal_verify import verify as check

    inner = directory / "log"
    place = inner if inner.is_dir() else directory
    try:
        report = check(place)
    except LogError as error:
        fail(str(error), RUN_FAILED)
    except FileNotFoundError as error:
        fail(f"{error.filename} went away while it was read: an agent runs here; stop it, or try again", USAGE)
    files = report.files
    if files.durable_index is None and not files.segments and not report.errors:
        fail(f"{place}: there is no log here; give the data directory of an agent, or `log` in it", USAGE)
    return report


def _end(report: Report) -> None:
    if report.errors:
        fail(f"{report.files.directory}: {count(len(report.errors), 'problem')}; nothing was changed", RUN_FAILED)


def _verdict(report: Report) -> dict[str, Any]:
    torn = report.torn
    return {
        "directory": str(report.files.directory),
        "sound": not report.errors,
        "torn": None if torn is None else {"file": str(torn[0]), "offset": torn[1], "bytes": torn[2]},
        "problems": [_problem(error) for error in report.errors],
    }


def _problem(error: LogError) -> dict[str, Any]:
    from consensus.errors import LogDamaged

    if isinstance(error, LogDamaged):
        return {"file": str(error.path), "offset": error.offset, "problem": error.problem}
    return {"file": None, "offset": None, "problem": str(error)}


def _described(report: Report) -> dict[str, Any]:
    files, log = report.files, report.log
    identity, vote = report.identity, report.vote
    return {
        "identity": None
        if identity is None
        else {"cluster": identity.cluster, "node": identity.node, "incarnation": identity.incarnation},
        "term": vote[0] if vote else None,
        "vote": vote[1] if vote else None,
        "durable_record": files.durable_index,
        "entries": None if log is None else {"first": _first(report), "last": log.log.places.last},
        "commit": None if log is None else log.log.commit,
        "segments": [
            {
                "file": str(one.path),
                "first_record": one.first_index,
                "last_record": one.last_index,
                "size": one.size,
                "end": one.end,
            }
            for one in files.segments
        ],
        "snapshots": [_snapshot(report, one.index, one.path, one.size, one.problem) for one in files.snapshots],
    }


def _first(report: Report) -> int:
    assert report.log is not None
    return report.log.log.places.last - len(report.log.log.entries) + 1


def _snapshot(report: Report, record: int, path: Path, size: int, problem: str | None) -> dict[str, Any]:
    head = report.heads.get(record)
    return {
        "file": str(path),
        "record": record,
        "size": size,
        "index": head.meta.index if head else None,
        "term": head.meta.term if head else None,
        "voters": list(head.meta.conf_state.voters) if head else None,
        "problem": problem,
    }


def _show(report: Report) -> None:
    """Who, how far, which files, what is wrong."""
    found = _described(report)
    if report.identity is not None:
        click.echo(report.identity)
    elif report.plain:
        click.echo("a log without an identity: of an agent by itself")
    if report.vote is not None:
        click.echo(f"term {found['term']}, vote {found['vote'] or 'none'}", nl=False)
        click.echo(f", committed {found['commit']}" if report.log else "")
    click.echo(f"durable up to record {found['durable_record']}")
    rows: list[list[Any]] = [
        [Path(one["file"]).name, f"{one['first_record']}-{one['last_record']}", one["size"], one["end"], None, None]
        for one in found["segments"]
    ]
    rows += [
        [Path(one["file"]).name, one["record"], one["size"], None, one["index"], one["term"]]
        for one in found["snapshots"]
    ]
    output.table(["FILE", "RECORDS", "SIZE", "END", "INDEX", "TERM"], rows)
    if report.log is not None and report.log.log.entries:
        click.echo(f"entries {found['entries']['first']} to {found['entries']['last']}")
    _show_torn(report)
    for error in report.errors:
        problem = _problem(error)
        where = f"{problem['file']}: byte {problem['offset']}: " if problem["file"] else ""
        click.echo(f"{where}{problem['problem']}")


def _show_torn(report: Report) -> None:
    if report.torn is not None:
        path, offset, size = report.torn
        click.echo(f"{path}: byte {offset}: a torn end of {size} bytes, never acknowledged; the next start cuts it")

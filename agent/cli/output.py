"""How answers look: tables or JSON on stdout, notes and errors on stderr, colour on terminals without NO_COLOR."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

COLOURS: Final = {
    "success": "green",
    "failed": "red",
    "upstream_failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "up_for_retry": "yellow",
}
MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # what a terminal might act on
FRACTION: Final = re.compile(r"\.\d+Z$")
PREFIX_COLOURS: Final = ("cyan", "magenta", "blue", "yellow", "green")


def coloured(text: str, colour: str | None, stream: Any = None) -> str:
    """The text in that colour, where colours are wanted."""
    stream = stream or sys.stdout
    if colour is None or os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return click.style(text, fg=colour)


def show_json(value: object) -> None:
    """One JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as they must be; nothing but the head where there are no rows."""
    texts = [[cell(one) for one in row] for row in rows]
    widths = [max(len(row[n]) for row in [list(head), *texts]) for n in range(len(head))]
    click.echo("  ".join(name.ljust(width) for name, width in zip(head, widths, strict=True)).rstrip())
    for row in texts:
        cells = [coloured(text.ljust(width), COLOURS.get(text)) for text, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def cell(value: object) -> str:
    """One line of text: `-` for nothing, times to the second."""
    if value is None:
        return "-"
    text = str(value).replace("\r", "\\r").replace("\n", "\\n")
    return FRACTION.sub("Z", text) if MOMENT.fullmatch(text) else text


def note(text: str) -> None:
    """Something a user should know; never part of the result."""
    click.echo(text, err=True)


def abandon() -> None:
    """Nobody reads stdout any more: what is still to be written there goes nowhere, at the program's end too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def problems(found: Iterable[Mapping[str, Any]], texts: Mapping[str, str] | None = None) -> None:
    """Problems of texts, one after another, each with its line and a caret where the text is at hand."""
    for one in found:
        severity = one.get("severity", "error")
        key = f"{one['key']}: " if one["key"] else ""
        place = f"{one['file']}:{one['line']}:{one['column']}"
        head = coloured(severity, "red" if severity == "error" else "yellow", sys.stderr)
        note(f"{place}: {head}: {key}{one['message']}")
        _excerpt(one, texts or {})


def _excerpt(one: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    text = texts.get(one["file"])
    if text is None:
        try:
            with open(one["file"], encoding="utf-8", errors="replace") as file:  # noqa: PTH123  a name from a message
                text = file.read(1 << 20)
        except OSError:
            return
    lines = text.split("\n")  # and not where else Python sees a line end: a form feed in an asset is none
    if 1 <= one["line"] <= len(lines) and lines[one["line"] - 1].strip():
        line = lines[one["line"] - 1]
        before = "".join("\t" if letter == "\t" else " " for letter in line[: one["column"] - 1])
        note(f"    {CONTROL.sub(chr(0xFFFD), line)}")
        note(f"    {before}^")


def duration(begin: str | None, end: str | None) -> str:
    """The time between two moments, as `1.2s` or `3m05s`; "" where one is missing."""
    if begin is None or end is None:
        return ""
    from datetime import datetime

    seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m{rest:02d}s" if hours else f"{minutes}m{rest:02d}s"


def show_run(run: Mapping[str, Any]) -> None:
    """A run with its instances and attempts."""
    reason = f" ({run['reason']})" if run["reason"] else ""
    state = coloured(run["state"], COLOURS.get(run["state"]))
    click.echo(f"run {run['id']}  {run['project']}/{run['namespace']}/{run['job']}  {state}{reason}")
    origin = f"replay {run['replay']}" if run.get("replay") else run["origin"]
    click.echo(f"scheduled at {cell(run['scheduled_at'])}, {origin} by {run['requested_by']}", nl=False)
    took = duration(run["started_at"], run["finished_at"])
    click.echo(f", took {took}" if took else "")
    if run.get("pipeline"):
        click.echo(f"of pipeline {run['pipeline']}")
    for gate in run.get("gates", ()):
        if gate["state"] != "open":
            click.echo(f"{'waits for' if gate['state'] == 'waiting' else 'ended by'} {CONTROL.sub('?', gate['what'])}")
    rows: list[list[object]] = []
    for instance in run["instances"]:
        kind = instance["hook_type"] or "task"
        rows += [_attempt_row(instance, kind, attempt) for attempt in instance["attempts"] or [None]]
    table(["INSTANCE", "TYPE", "STATE", "ATTEMPT", "AGENT", "EXIT", "TOOK", "REASON"], rows)
    for instance in run["instances"]:
        if instance["message"]:
            click.echo(f"{instance['name']}: {instance['message']}")
    for entry in run["audit"]:
        click.echo(f"{cell(entry['at'])} {entry['who']}: {entry['what']}")


def _attempt_row(instance: Mapping[str, Any], kind: str, attempt: Mapping[str, Any] | None) -> list[object]:
    if attempt is None:
        return [instance["name"], kind, instance["state"], None, None, None, None, instance["reason"]]
    last = attempt is instance["attempts"][-1]
    state = instance["state"] if last else attempt["state"]
    took = duration(attempt["started_at"], attempt["finished_at"]) or None
    return [
        instance["name"],
        kind,
        state,
        attempt["number"],
        attempt["agent"],
        attempt["exit_code"],
        took,
        attempt["reason"],
    ]

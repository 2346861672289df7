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


def show_run(run: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> None:
    """A run with its instances, a row each, their attempts below them, and who did what to it."""
    reason = f" ({run['reason']})" if run["reason"] else ""
    state = coloured(run["state"], COLOURS.get(run["state"]))
    click.echo(f"run {run['id']}  {run['project']}/{run['namespace'] or '-'}/{run['job']}  {state}{reason}")
    origin = f"replay {run['replay']}" if run.get("replay") else run["origin"]
    asked = f"{origin} by {run['requested_by']} via {run['via']} at {cell(run['created_at'])}"
    took = duration(run["started_at"], run["finished_at"])
    click.echo(f"scheduled at {cell(run['scheduled_at'])}, {asked}" + (f", took {took}" if took else ""))
    if run.get("pipeline"):
        click.echo(f"of pipeline {run['pipeline']}")
    for gate in run.get("gates", ()):
        if gate["state"] != "open":
            click.echo(f"{'waits for' if gate['state'] == 'waiting' else 'ended by'} {CONTROL.sub('?', gate['what'])}")
    if params:
        click.echo("params: " + ", ".join(f"{name}={json.dumps(value)}" for name, value in params.items()))
    if run["instances"]:
        head = ["INSTANCE", "TYPE", "STATE", "ATTEMPT", "AGENT", "EXIT", "STARTED", "TOOK", "REASON"]
        table(head, [row for instance in run["instances"] for row in _instance_rows(instance)])
    for text in dict.fromkeys(text for instance in run["instances"] for text in _remarks(instance)):
        click.echo(text)
    for entry in run["audit"]:
        where = f" from {entry['address']}" if entry["address"] else ""
        click.echo(f"{cell(entry['at'])} {entry['who']} via {entry['via']}{where}: {entry['what']}")


def _instance_rows(instance: Mapping[str, Any]) -> list[list[object]]:
    """Its own state, and a row for each attempt."""
    kind = instance["hook_type"] or "task"
    own: list[object] = [instance["name"], kind, instance["state"], None, None, None, None, None, instance["reason"]]
    return [own, *(_attempt_row(one) for one in instance["attempts"])]


def _attempt_row(attempt: Mapping[str, Any]) -> list[object]:
    return [
        "",
        "",
        attempt["state"],
        attempt["number"],
        attempt["agent"],
        attempt["exit_code"],
        attempt["started_at"],
        duration(attempt["started_at"], attempt["finished_at"]) or None,
        attempt["reason"],
    ]


def _remarks(instance: Mapping[str, Any]) -> list[str]:
    """What has no column: messages, and which image exactly was run."""
    name, found = instance["name"], []
    if instance["message"]:
        found.append(f"{name}: {cell(instance['message'])}")
    for attempt in instance["attempts"]:
        facts = attempt["facts"]
        if attempt["message"] not in ("", instance["message"]):
            found.append(f"{name}, attempt {attempt['number']}: {cell(attempt['message'])}")
        if "image" in facts:
            digest = facts.get("image_digest") or facts.get("image_id", "")
            found.append(f"{name}: image {facts['image']} {digest}".rstrip())
    return found

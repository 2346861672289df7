"""`prime token`: who may ask the agents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from agent.cli import output
from agent.cli.common import USAGE, fail, format_option, online
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from agent.client import Client

ROLES: Final = ("viewer", "user", "admin")
FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.group(cls=LazyGroup)
def token() -> None:
    """Who may ask: bearer tokens. A viewer reads; a user also changes jobs, secrets and runs; an admin does all.

    A command takes its own from PRIME_TOKEN, from the file that PRIME_TOKEN_FILE names, or from ~/.config/prime/token.
    """


@token.command()
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(ROLES))
@click.option("--expires", metavar="DURATION", help="When it ends by itself, as 90m or 720h; never if left out.")
@click.option("--out", type=FILE, help="Write it to a new file, mode 0600, and not to the terminal.")
@format_option
@online
def new(client: Client, name: str, role: str, expires: str | None, out: Path | None, form: str) -> None:
    """Make a token. It is shown this once: nobody keeps it, only a hash of it."""
    sent = {"name": name, "role": role, "expires_in": None if expires is None else _seconds(expires)}
    if out is not None and out.exists():
        fail(f"{out} is there already; take another name, or remove it yourself", USAGE)
    answer = client.post("/api/v1/tokens", sent)
    if out is not None:
        _write(out, answer["token"])
        output.note(f"{out}: made, with the token {name} of the role {role}")
    elif form == "json":
        output.show_json(answer)
    else:
        output.note(f"the token {name} of the role {role}; it is not shown again:")
        click.echo(answer["token"])


@token.command("list")
@format_option
@online
def list_tokens(client: Client, form: str) -> None:
    """All tokens, by name, with the end of each and never the whole."""
    answer = client.get("/api/v1/tokens")
    if form == "json":
        output.show_json(answer)
        return
    rows = [
        (
            one["name"],
            one["role"],
            f"...{one['last']}",
            one["created_at"],
            one["created_by"],
            "over" if one["expired"] else one["expires_at"],
        )
        for one in answer["tokens"]
    ]
    output.table(["TOKEN", "ROLE", "ENDS IN", "CREATED", "BY", "UNTIL"], rows)


@token.command()
@click.argument("name")
@online
def delete(client: Client, name: str) -> None:
    """Delete a token: from then on nothing is done for who has it."""
    from agent.client import path

    client.delete(path("tokens", name))
    click.echo(f"deleted {name}")


@token.command()
@click.option("--out", required=True, type=FILE, help="Must not exist yet.")
def bootstrap(out: Path) -> None:
    """Make the file for --bootstrap-token: copy it to all hosts, mode 0600.

    The token in it is an admin's for as long as the cluster has no admin's token that is good.
    """
    from agent.service.tokens import new_token

    _write(out, new_token())
    click.echo(f"{out}: made; copy it to every host, mode 0600, and start the agents with --bootstrap-token {out}")
    click.echo(f"then: PRIME_TOKEN_FILE={out} prime token new NAME --role admin")


def _write(out: Path, text: str) -> None:
    from agent import token_file
    from agent.errors import ConfigError

    try:
        token_file.create(out, text)
    except ConfigError as error:
        fail(str(error), USAGE)


def _seconds(text: str) -> float:
    from agent.spec import duration

    try:
        seconds = duration.parse(text).total_seconds()
    except (ValueError, OverflowError):
        seconds = 0.0
    if seconds < 1:
        fail(f"--expires {text!r}: a duration is expected, such as 90m or 720h", USAGE)
    return seconds

"""`prime`, and the same program as `optimus`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import click

from agent.cli.lazy import LazyGroup

COMMANDS: Final = {
    "job": ("agent.cli.job:job", "Check, apply and run jobs"),
    "run": ("agent.cli.run:run", "Look at runs, end them, run them again"),
    "secret": ("agent.cli.catalog:secret", "Secrets for templates"),
    "project": ("agent.cli.catalog:project", "Projects: variables, presets, namespaces"),
    "plugin": ("agent.cli.catalog:plugin", "Plugins: what tasks and hooks run"),
    "cluster": ("agent.cli.catalog:cluster", "The agents"),
    "agent": ("agent.cli.agent:agent", "Run an agent"),
    "dev": ("agent.cli.agent:dev", "An agent for development, with the project one stands in"),
    "completion": ("agent.cli.main:completion", "Shell completion"),
    "version": ("agent.cli.main:version", "The version"),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "PRIME"},
)
@click.option("--host", help="URL of an agent, or several with commas between.", metavar="URL[,URL...]")
def cli(host: str | None) -> None:
    """prime runs Optimus jobs.

    Exit codes: 0 ok, 1 the run failed, 2 usage, 3 no agent can be reached, 4 an agent refused.
    """
    del host  # looked up by the commands that ask an agent


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(prime completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "prime", "_PRIME_COMPLETE").source())


@click.command()
def version() -> None:
    """Print the version."""
    from agent import __version__

    click.echo(f"prime {__version__}")


def main() -> None:
    """The entry point `prime`."""
    cli(prog_name="prime")


def optimus() -> None:
    """The entry point `optimus`: what prime does not know goes to the next `optimus` on PATH."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    if words and not _knows(words):
        other = _next_optimus()
        if other is not None:
            os.execv(other, [other, *sys.argv[1:]])  # noqa: S606  the original client, with the user's own arguments
    cli(prog_name="optimus", auto_envvar_prefix="PRIME", complete_var="_OPTIMUS_COMPLETE")


def _knows(words: list[str]) -> bool:
    """Whether these are a command of ours: its group, and its verb where the group has any."""
    context = click.Context(cli)
    if words[0] not in cli.list_commands(context):
        return False
    command = cli.get_command(context, words[0])
    if not isinstance(command, click.Group) or len(words) < 2:
        return True
    return words[1] in command.list_commands(context)


def _next_optimus() -> str | None:
    """The first `optimus` on PATH that is not this program."""
    mine = {Path(sys.argv[0]).resolve(), (Path(sys.executable).parent / "optimus").resolve()}
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which("optimus", path=folder)
        if found is not None and Path(found).resolve() not in mine:
            return found
    return None


if __name__ == "__main__":
    main()

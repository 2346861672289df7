"""`prime`, and the same program as `optimus`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

import click

from agent import __version__
from agent.cli.lazy import LazyGroup

USAGE: Final = 2
PASSED: Final = "PRIME_OPTIMUS_PASSED"  # programs called optimus that know not what to do, for the next one
COMMANDS: Final = {
    "job": ("agent.cli.job:job", "Check, apply and run jobs"),
    "run": ("agent.cli.run:run", "Look at runs, end them, run them again"),
    "replay": ("agent.cli.replay:replay", "Run a job again over its past ticks"),
    "event": ("agent.cli.event:event", "Notifications that are not delivered"),
    "secret": ("agent.cli.catalog:secret", "Secrets for templates"),
    "project": ("agent.cli.catalog:project", "Projects: variables, presets, namespaces"),
    "plugin": ("agent.cli.catalog:plugin", "Plugins: what tasks and hooks run"),
    "cluster": ("agent.cli.cluster:cluster", "The agents, and the key they know each other by"),
    "token": ("agent.cli.token:token", "Who may ask: tokens"),
    "agent": ("agent.cli.agent:agent", "Run an agent"),
    "dev": ("agent.cli.dev:dev", "Agents for development, with the project one stands in"),
    "wal": ("agent.cli.wal:wal", "Look at the durable log of a stopped agent"),
    "completion": ("agent.cli.main:completion", "Shell completion"),
    "version": ("agent.cli.main:version", "The version"),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="prime %(version)s")
def cli() -> None:
    """prime runs Optimus jobs.

    Exit codes: 0 ok, 1 the run failed, 2 usage, 3 no agent can be reached, 4 an agent refused; 130 interrupted, 141
    nobody reads on.
    """


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(prime completion bash)"."""
    from click.shell_completion import get_completion_class

    name = click.get_current_context().find_root().info_name or "prime"
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, name, f"_{name.upper()}_COMPLETE").source())


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"prime {__version__}")


def main() -> None:
    """The entry point `prime`."""
    cli(prog_name="prime")


def optimus() -> None:
    """The entry point `optimus`: what prime does not know goes to the next `optimus` on PATH, the original client."""
    words = _words(sys.argv[1:])
    if words and not _knows(words):
        _hand_over(words)
    cli(prog_name="optimus")


def _words(arguments: list[str]) -> list[str]:
    """The words of a command line that are neither options nor the value of --host."""
    return [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if not word.startswith("-") and before != "--host"
    ]


def _knows(words: list[str]) -> bool:
    """Whether these are a command of ours: its group, and its verb where the group has any."""
    context = click.Context(cli)
    if words[0] not in cli.list_commands(context):
        return False
    command = cli.get_command(context, words[0])
    if not isinstance(command, click.Group) or len(words) < 2:
        return True
    return words[1] in command.list_commands(context)


def _hand_over(words: list[str]) -> None:
    """Become the next `optimus` on PATH. Ends with exit code 2 where there is none."""
    asked = " ".join(words[:2])
    passed = [one for one in os.environ.get(PASSED, "").split(os.pathsep) if one]
    mine = [str(Path(one).resolve()) for one in (sys.argv[0], Path(sys.executable).parent / "optimus")]
    other = _next_optimus({*passed, *mine})
    if other is None:
        message = f"`optimus {asked}` is no command of prime, and there is no other `optimus` on PATH to hand it to"
        click.echo(f"error: {message}. `optimus --help` shows what prime can do", err=True)
        raise SystemExit(USAGE)
    os.environ[PASSED] = os.pathsep.join([*passed, *mine])
    try:
        os.execv(other, [other, *sys.argv[1:]])  # noqa: S606  the original client, with the user's own arguments
    except OSError as error:
        click.echo(f"error: {other} cannot be run: {error.strerror}", err=True)
        raise SystemExit(USAGE) from error


def _next_optimus(passed: Collection[str]) -> str | None:
    """The first `optimus` on PATH that was not asked yet: another prime would hand it on to us again."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which("optimus", path=folder)
        if found is not None and str(Path(found).resolve()) not in passed:
            return found
    return None


if __name__ == "__main__":
    main()

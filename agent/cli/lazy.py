"""Command groups that import a command's module only when it is used: `prime --help` loads nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final

import click

HOST: Final = "prime.host"  # where the last --host is kept, in the context that all commands share


def _keep_host(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[HOST] = value


class HostOption(click.Option):
    """`--host`, before and after each word of a command; the last one counts."""

    def __init__(self) -> None:
        super().__init__(
            ["--host"],
            help="URL of an agent, or several with commas between.",
            metavar="URL[,URL...]",
            expose_value=False,
            callback=_keep_host,
        )


class LazyGroup(click.Group):
    """A group whose commands are named by `module:attribute` and a line of help. It takes --host."""

    def __init__(self, *args: object, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # handed through as click gave them
        self.lazy = dict(lazy or {})
        self.params.append(HostOption())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, loaded now."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _colon, attribute = self.lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """As click does, but that who stops reading, as `head` does, is no failed run (exit code 1)."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            from agent.cli import common, output

            output.abandon()
            raise SystemExit(common.PIPE_CLOSED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without loading anything that is lazy."""
        if not self.lazy:
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.lazy[name][1]) for name in self.lazy])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name where there is none such."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(ctx):
            from agent.spec.document import nearest

            ctx.fail(f"there is no command {name!r}{nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

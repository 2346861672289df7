"""What commands share: the options --host and -o, the way to an agent, exit codes."""

from __future__ import annotations

import functools
import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agent.cli import output

if TYPE_CHECKING:
    from agent.client import Client
    from agent.folder import Folder

OK, RUN_FAILED, USAGE, UNREACHABLE, REFUSED = range(5)
INTERRUPTED: Final = 130
F = TypeVar("F", bound=Callable[..., Any])


def host_option(command: F) -> F:
    """`--host`, on a command as well as before it."""
    return click.option("--host", help="URL of an agent, or several with commas between.", metavar="URL[,URL...]")(
        command
    )


def format_option(command: F) -> F:
    """`-o table|json`."""
    return click.option(
        "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", help="How to show it."
    )(command)


def online(command: F) -> F:
    """A command that asks an agent: gives it `client`, and turns what goes wrong into exit codes 3 and 4."""

    @host_option
    @functools.wraps(command)
    def wrapped(*args: Any, host: str | None, **kwargs: Any) -> Any:
        from agent.client import Refused, Unreachable

        client = make_client(host)
        try:
            return command(*args, client=client, **kwargs)
        except Unreachable as error:
            fail(str(error), UNREACHABLE)
        except Refused as error:
            if error.problems:
                output.problems(error.problems)
                fail(f"refused: {len(error.problems)} problems ({error.code})", REFUSED)
            fail(f"{error.detail} ({error.code})", REFUSED)

    return wrapped  # type: ignore[return-value]  # the same command with one option more


def fail(message: str, code: int) -> None:
    """Say what went wrong and end with `code`."""
    output.note(f"{output.coloured('error', 'red', sys.stderr)}: {message}")
    raise SystemExit(code)


def make_client(host: str | None) -> Client:
    """A client of the agents that --host, PRIME_HOST or optimus.yaml name, else of the one on this machine."""
    from agent.client import Client
    from agent.config import DEFAULT_HTTP

    context = click.get_current_context(silent=True)
    before = context.find_root().params.get("host") if context is not None else None
    text = host or before or os.environ.get("PRIME_HOST") or _host_of_folder() or f"http://{DEFAULT_HTTP}"
    hosts = [_url(one.strip()) for one in text.split(",") if one.strip()]
    return Client(hosts, user_name())


def _url(host: str) -> str:
    return (host if "://" in host else f"http://{host}").rstrip("/")


def _host_of_folder() -> str:
    from agent.folder import PROJECT_FILE, find_folder
    from agent.spec.project import parse_project

    root = find_folder(Path.cwd())
    if root is None:
        return ""
    project, _problems = parse_project((root / PROJECT_FILE).read_text(errors="replace"), PROJECT_FILE)
    return project.host if project is not None else ""


def user_name() -> str:
    """Who sits at the terminal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def open_folder(start: str | Path = ".") -> Folder:
    """The project folder that `start` lies in. Ends with exit code 2 where there is none, or it is unreadable."""
    from agent.folder import load_folder
    from agent.spec.errors import has_errors

    folder = load_folder(Path(start))
    if folder.project is None and not has_errors(folder.problems):
        fail(f"{Path(start).resolve()} lies in no project: no folder above it has an optimus.yaml", USAGE)
    if has_errors(folder.problems):
        output.problems(problem_view(one) for one in folder.problems)
        fail("the project folder has errors", USAGE)
    return folder


def project_name(given: str | None) -> str:
    """The project that is meant: named, or that of the folder one stands in."""
    if given:
        return given
    folder = open_folder()
    assert folder.project is not None
    return folder.project.name


def project_option(command: F) -> F:
    """`--project`, for commands outside of a project folder."""
    return click.option("-p", "--project", help="Project; else that of the folder one stands in.")(command)


def problem_view(problem: Any) -> dict[str, Any]:
    """A problem as JSON has it."""
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "key": problem.key,
        "message": problem.message,
        "severity": str(problem.severity),
    }


def show_applied(answer: dict[str, Any]) -> None:
    """Warnings and notes of an answer, on stderr."""
    output.problems(answer.get("warnings", ()))
    for text in answer.get("notes", ()):
        output.note(f"note: {text}")

"""What commands share: the options --host and -o, the way to an agent, exit codes."""

from __future__ import annotations

import functools
import getpass
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from agent.cli import output
from agent.cli.lazy import HOST, HostOption

if TYPE_CHECKING:
    from datetime import datetime

    from agent.client import Client, Refused
    from agent.folder import Folder

OK, RUN_FAILED, USAGE, UNREACHABLE, REFUSED = range(5)
WENT_WELL: Final = frozenset({"success", "skipped"})  # final states of a run whose exit code is OK
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141  # as a shell tells of SIGPIPE
LISTED_MAX: Final = 10  # names told of many
DEFAULT_HOST: Final = "http://127.0.0.1:9100"
FOLDER: Final = "prime.folder"  # in the context that all commands share
START: Final = "prime.start"
WITHHELD: Final = "prime.withheld"
UNAUTHORIZED: Final = 401
PORT: Final = re.compile(r":[0-9]+(/|$)")
AGO: Final = re.compile(r"([0-9.]+(h|m|s|ms))+")
F = TypeVar("F", bound=Callable[..., Any])


def format_option(command: F) -> F:
    """`-o table|json`."""
    return click.option(
        "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", help="How to show it."
    )(command)


def online(command: F) -> F:
    """A command that asks an agent: gives it `client`, and turns what goes wrong into exit codes 3 and 4."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from agent.client import Refused, Unreachable

        click.get_current_context().meta[START] = kwargs.get("where")
        try:
            return command(*args, client=make_client(), **kwargs)
        except Unreachable as error:
            fail(str(error), UNREACHABLE)
        except Refused as error:
            refused(error)

    parameters: list[click.Parameter] = wrapped.__dict__.setdefault("__click_params__", [])
    parameters.append(HostOption())
    return wrapped  # type: ignore[return-value]  # the same command with one option more


def refused(error: Refused) -> None:
    """Say why an agent said no, each problem with its place, and end with its exit code."""
    if not error.problems:
        fail(f"{error.detail} ({error.code}){_token_advice(error)}", REFUSED)
    show_problems(error.problems, folder_here())
    errors = sum(one["severity"] == "error" for one in error.problems)
    fail(f"the agent refused it: {count(errors, 'error')} ({error.code})", REFUSED)


def count(number: int, what: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def listed(names: Sequence[str]) -> str:
    """`a, b, c`; of many the first few."""
    return ", ".join(names[:LISTED_MAX]) + (", ..." if len(names) > LISTED_MAX else "")


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong and end with `code`."""
    output.note(f"{output.coloured('error', 'red', sys.stderr)}: {message}")
    raise SystemExit(code)


def make_client() -> Client:
    """A client of the agents that --host, PRIME_HOST or optimus.yaml name, else of the one on this machine."""
    from agent.client import Client

    named = click.get_current_context().meta.get(HOST) or os.environ.get("PRIME_HOST")
    text = named or _host_of_folder()
    hosts = [agent_url(one.strip()) for one in (text or DEFAULT_HOST).split(",") if one.strip()]
    if not hosts:
        fail(f"--host {text!r}: the URL of an agent is expected, such as {DEFAULT_HOST}", USAGE)
    token = _token(hosts, trusted=bool(named))
    return Client(hosts, user_name(), token=token, tell=lambda note: output.note(f"note: {note}"))


def agent_url(host: str) -> str:
    """The URL that a host stands for. One without a scheme is an agent at its usual port, unless it names another."""
    if "://" in host:
        return host.rstrip("/")
    host = host.rstrip("/")
    return f"http://{host}" if PORT.search(host) else f"http://{host}:{DEFAULT_HOST.rpartition(':')[2]}"


def _token(hosts: Iterable[str], *, trusted: bool) -> str:
    """The user's token: of PRIME_TOKEN, else of the file that PRIME_TOKEN_FILE names, else of the usual one.

    trusted: whether he has named the hosts himself. A folder's file names any it likes: none of them is sent a token,
    unless it is on this machine.
    """
    from agent import token_file
    from agent.errors import ConfigError

    if not trusted and not all(_on_this_machine(host) for host in hosts):
        click.get_current_context().meta[WITHHELD] = True
        return ""
    usual = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "prime" / "token"
    given = os.environ.get("PRIME_TOKEN_FILE")
    try:
        if os.environ.get("PRIME_TOKEN"):
            return token_file.check(os.environ["PRIME_TOKEN"].strip(), "PRIME_TOKEN")
        if given:
            return token_file.read(Path(given), "PRIME_TOKEN_FILE")
        return token_file.read(usual, "the token") if usual.exists() else ""
    except ConfigError as error:
        fail(str(error), USAGE)


def _on_this_machine(host: str) -> bool:
    from urllib.parse import urlsplit

    from agent.config import is_loopback

    return is_loopback(urlsplit(host).hostname or "")


def _token_advice(error: Refused) -> str:
    """What to do about a missing, wrong or weak token."""
    if error.status == UNAUTHORIZED and click.get_current_context().meta.get(WITHHELD):
        return (
            ". No token was sent, for only optimus.yaml names that address: name it yourself, by --host or PRIME_HOST"
        )
    if error.status == UNAUTHORIZED or error.code == "not_allowed":
        return ". A token is taken from PRIME_TOKEN, the file PRIME_TOKEN_FILE names, or ~/.config/prime/token (0600)"
    return ""


def _host_of_folder() -> str:
    folder = folder_here()
    return folder.project.host if folder is not None and folder.project is not None else ""


def folder_here() -> Folder | None:
    """The project of the command's PATH, else the one one stands in: its optimus.yaml, read once. None without any."""
    context = click.get_current_context()
    if FOLDER not in context.meta:
        from agent.folder import find_folder, load_project

        root = find_folder(context.meta.get(START) or Path.cwd())
        context.meta[FOLDER] = load_project(root) if root is not None else None
    found: Folder | None = context.meta[FOLDER]
    return found


def user_name() -> str:
    """Who sits at the terminal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def open_folder(start: str | Path = ".") -> Folder:
    """The project folder that `start` lies in. Ends with exit code 2 where there is none, or it has errors."""
    from agent.folder import load_folder

    folder = load_folder(Path(start))
    if not folder.is_project:
        fail(no_project(start), USAGE)
    return sound(folder)


def no_project(start: str | Path) -> str:
    """What is said where a project is needed and there is none."""
    return f"{Path(start).resolve()} lies in no project: neither it nor a folder above it has an optimus.yaml"


def sound(folder: Folder) -> Folder:
    """The folder, if there is no error in what was read of it so far; else ends with exit code 2."""
    from agent.spec.errors import has_errors

    if has_errors(folder.problems):
        from agent.offline import folder_problems

        show_problems([problem_view(one) for one in folder_problems(folder)], folder)
        fail("the project folder has errors", USAGE)
    assert folder.project is not None
    return folder


def project_name(given: str | None) -> str:
    """The project that is meant: named, or that of the folder one stands in."""
    if given:
        return given
    folder = folder_here()
    if folder is None:
        fail(f"{no_project('.')}; go to one, or name the project with --project", USAGE)
    project = sound(folder).project
    assert project is not None
    return project.name


def moment(text: str, flag: str) -> str:
    """A time that a user typed, as RFC 3339: `2026-03-08T07:30:00Z`, a date, or how long ago (`90m`)."""
    return read_moment(text, flag).isoformat().replace("+00:00", "Z")


def read_moment(text: str, flag: str) -> datetime:
    """As `moment`. Without a zone it is UTC. Ends with exit code 2 for what is no time."""
    from datetime import UTC, datetime

    from agent.spec import duration

    try:
        if AGO.fullmatch(text):
            return datetime.now(UTC) - duration.parse(text)
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        fail(f"{flag} {text!r}: a time is expected, such as 2026-03-08T07:30:00Z, or how long ago, such as 90m", USAGE)


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


def show_problems(found: Iterable[Mapping[str, Any]], folder: Folder | None) -> None:
    """Problems on stderr, their files named as the user would from where he stands."""
    output.problems(placed(found, folder))


def placed(found: Iterable[Mapping[str, Any]], folder: Folder | None) -> list[dict[str, Any]]:
    """Problems with their files named as the user would from where he stands."""
    return [{**one, "file": one["file"] if folder is None else folder.shown(one["file"])} for one in found]


def show_applied(answer: Mapping[str, Any], folder: Folder | None = None) -> None:
    """Warnings and notes of an answer, on stderr."""
    show_problems(answer.get("warnings", ()), folder)
    for text in answer.get("notes", ()):
        output.note(f"note: {text}")

"""`prime project`, `prime plugin` and `prime secret`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import quote

import click

from agent.cli import output
from agent.cli.apply import apply_project
from agent.cli.common import (
    USAGE,
    count,
    fail,
    format_option,
    listed,
    online,
    open_folder,
    project_name,
    project_option,
    refused,
    show_applied,
)
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from agent.client import Client

PATH: Final = click.Path(exists=True, path_type=Path)


@click.group(cls=LazyGroup)
def project() -> None:
    """Projects: variables, presets, namespaces."""


@project.command("list")
@format_option
@online
def list_projects(client: Client, form: str) -> None:
    """All projects."""
    from agent.client import path

    answer = client.get(path("projects"))
    if form == "json":
        output.show_json(answer)
        return
    output.table(
        ["PROJECT", "NAMESPACES", "VARIABLES"],
        [(one["name"], ",".join(one["namespaces"]) or None, len(one["variables"])) for one in answer["projects"]],
    )


@project.command()
@project_option
@format_option
@online
def show(client: Client, project: str | None, form: str) -> None:
    """A project as it is applied."""
    from agent.client import path

    answer = client.get(path("projects", project_name(project)))
    if form == "json":
        output.show_json(answer)
        return
    click.echo(f"project {answer['name']}")
    rows = [("", key, value) for key, value in answer["variables"].items()]
    for name, scope in answer["namespaces"].items():
        rows += [(name, key, value) for key, value in scope["variables"].items()]
    output.table(["NAMESPACE", "VARIABLE", "VALUE"], rows)


@project.command("apply")
@click.argument("where", required=False, default=".", type=PATH, metavar="[PATH]")
@format_option
@online
def apply_project_command(client: Client, where: Path, form: str) -> None:
    """Apply what optimus.yaml says of the project: its variables, presets and namespaces."""
    folder = open_folder(where)
    apply_project(client, folder)
    assert folder.project is not None
    if form == "json":
        output.show_json({"project": folder.project.name})
    else:
        click.echo(f"applied project {folder.project.name}")


@click.group(cls=LazyGroup)
def plugin() -> None:
    """Plugins: what tasks and hooks run."""


@plugin.command("apply")
@click.argument("where", required=False, default=".", type=PATH, metavar="[PATH]")
@format_option
@online
def apply_plugins(client: Client, where: Path, form: str) -> None:
    """Apply the plugins of a project folder (plugins/*.yaml beside optimus.yaml)."""
    from agent.client import path
    from agent.folder import PLUGINS, PROJECT_FILE

    folder = open_folder(where)
    assert folder.project is not None
    only = folder.name(where) if where.is_file() and where.name != PROJECT_FILE else None
    sent = [{"path": file, "yaml": text} for file, text in folder.plugin_files if only in (None, file)]
    if not sent:
        fail(f"{where} is no plugin: those of a project are the *.yaml in {folder.root / PLUGINS}", USAGE)
    apply_project(client, folder)
    answer = client.post(path("projects", folder.project.name, "plugins"), {"plugins": sent})
    show_applied(answer, folder)
    if form == "json":
        output.show_json({"project": folder.project.name, "plugins": answer["names"]})
    else:
        names = answer["names"]
        click.echo(f"applied {count(len(names), 'plugin')} to project {folder.project.name}: {listed(names)}")


@plugin.command("list")
@project_option
@format_option
@online
def list_plugins(client: Client, project: str | None, form: str) -> None:
    """Plugins that jobs of the project can name."""
    from agent.client import path

    answer = client.get(path("projects", project_name(project), "plugins"))
    if form == "json":
        output.show_json(answer)
        return
    rows = [
        (
            one["name"],
            one["kind"],
            one["hook_type"] if one["kind"] != "task" else None,
            one["executor"] or None,
            one["image"] or None,
            one["description"],
        )
        for one in answer["plugins"]
    ]
    output.table(["NAME", "KIND", "HOOK", "EXECUTOR", "IMAGE", "DESCRIPTION"], rows)


@click.group(cls=LazyGroup)
def secret() -> None:
    """Secrets: .secret.NAME in templates. A value is never shown again."""


@secret.command("set")
@click.argument("name")
@click.argument("typed", nargs=-1, metavar="")
@click.option("--file", type=click.File("rb"), help="Read the value from a file; - is stdin.")
@click.option("--namespace", default="", help="Only for this namespace's jobs.")
@project_option
@online
def set_secret(
    client: Client, name: str, typed: tuple[str, ...], file: IO[bytes] | None, namespace: str, project: str | None
) -> None:
    """Set a secret. The value comes from a prompt, from stdin or --file: never from an argument others can see."""
    from agent.client import path
    from agent.spec.document import nearest

    if typed:
        command = f"{click.get_current_context().command_path} {name}"
        fail(f"a value is no argument, for others can read those; pipe it in: `{command} < FILE`, or be asked", USAGE)
    if file is None and sys.stdin.isatty():
        value = click.prompt("value", hide_input=True, confirmation_prompt=True)
    else:
        value = _text(file.read() if file is not None else sys.stdin.buffer.read())
    if not value:
        fail(f"the value of {name} is empty; pipe it in, or name a file with --file", USAGE)
    body = {"value": value, "namespace": namespace}
    project = project_name(project)
    known = {one["name"] for one in client.get(path("projects"))["projects"]}
    if project not in known:
        client.put(path("projects", project), {})
        output.note(f"note: there was no project {project!r}, it is made by this{nearest(project, known)}")
    client.put(path("projects", project, "secrets", name), body)
    click.echo(f"set {name} in {project}{'/' + namespace if namespace else ''}")


def _text(data: bytes) -> str:
    """A secret as it was read, but for a last end of line."""
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        fail("a secret is a UTF-8 text; encode other bytes first, as with base64", USAGE)


@secret.command("list")
@project_option
@format_option
@online
def list_secrets(client: Client, project: str | None, form: str) -> None:
    """Names of secrets."""
    from agent.client import path

    answer = client.get(path("projects", project_name(project), "secrets"))
    if form == "json":
        output.show_json(answer)
        return
    rows = [(one["name"], one["namespace"] or None, one["updated_at"]) for one in answer["secrets"]]
    output.table(["NAME", "NAMESPACE", "UPDATED"], rows)


@secret.command("delete")
@click.argument("name")
@click.option("--namespace", default="")
@project_option
@online
def delete_secret(client: Client, name: str, namespace: str, project: str | None) -> None:
    """Delete a secret."""
    from agent.client import Refused, path

    where = path("projects", project_name(project), "secrets")
    try:
        client.delete(f"{where}/{quote(name, safe='')}", namespace=namespace)
    except Refused as error:
        if error.code != "unknown_secret":
            raise
        refused(Refused(error.status, error.code, error.detail + _near(name, client.get(where)["secrets"], namespace)))
    click.echo(f"deleted {name}")


def _near(name: str, secrets: list[dict[str, str]], namespace: str) -> str:
    """What may have been meant: the secret of that name elsewhere in the project, else the nearest one there."""
    from agent.spec.document import nearest

    elsewhere = [one["namespace"] for one in secrets if one["name"] == name]
    if elsewhere:
        places = (f"with --namespace {one}" if one else "without --namespace" for one in elsewhere)
        return f"; there is one {' and '.join(places)}"
    return nearest(name, [one["name"] for one in secrets if one["namespace"] == namespace])

"""`prime dev`: agents for development, on this machine alone, with the project one stands in."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from agent.cli import output
from agent.cli.agent import LEVELS, run_agent, set_up_logging
from agent.cli.common import RUN_FAILED, USAGE, fail

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from agent.daemon import Daemon

APART: Final = 10  # between the ports of two agents: HTTP at the first, other agents at the one behind it
READY_S: Final = 60.0
LOOK_S: Final = 0.2


@click.command()
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: .prime in the project.")
@click.option("--http", default="127.0.0.1:9100", show_default=True, help="HOST:PORT of the first agent's HTTP face.")
@click.option("--agents", default=3, show_default=True, type=click.IntRange(1, 9), help="How many.")
@click.option("--log-level", default="warning", show_default=True, type=click.Choice(LEVELS))
def dev(data_dir: Path | None, http: str, agents: int, log_level: str) -> None:
    """Agents for development: a cluster on this machine, with SQLite, and the project one stands in applied.

    Jobs that name the executor docker run as local processes where no Docker engine answers, and the answer says so.
    """
    from agent.config import AgentConfig, host_port
    from agent.errors import ConfigError
    from agent.folder import find_folder

    set_up_logging(log_level)
    root = find_folder(Path.cwd())
    data_dir = data_dir or (root or Path()) / ".prime"
    try:
        host, port = host_port(http, "--http")
        config = AgentConfig(
            data_dir=data_dir,
            http=http,
            bind="127.0.0.1:0",
            database=f"sqlite:///{(data_dir / 'runs.db').resolve()}",
            fallback=(("docker", "process"),),
        )
    except ConfigError as error:
        fail(str(error), USAGE)
    if agents > 1 and port + APART * agents > 65_535:
        fail(f"--http {http}: the ports behind it are needed too; choose a lower one", USAGE)
    _refuse_other_count(data_dir, agents)
    _keep_out_of_git(data_dir)
    if agents == 1:
        _run_one(config, root)
    else:
        _run_many(config, agents, host, port, root, log_level)


def _run_one(config: AgentConfig, root: Path | None) -> None:
    def started(daemon: Daemon) -> None:
        threading.Thread(target=_greet, args=([daemon.http], root), daemon=True).start()

    run_agent(config, started=started)


def _run_many(config: AgentConfig, count: int, host: str, port: int, root: Path | None, log_level: str) -> None:
    """Each agent is a process of its own: kill one, and see the others go on."""
    from agent.cluster.keys import Keys, create, new_key

    key = config.data_dir / "cluster.key"
    if not key.exists():
        create(key, Keys((new_key(),)))
    ports = [(port + APART * one, port + APART * one + 1) for one in range(count)] if port else _free_ports(host, count)
    join = ",".join(f"{host}:{peer}" for _http, peer in ports)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the agents end with this program
    agents = []
    for number, (http_port, peer_port) in enumerate(ports, 1):
        command = [
            *(
                sys.executable,
                "-m",
                "agent.cli.main",
                "agent",
                "start",
                "--data-dir",
                str(config.data_dir / str(number)),
            ),
            *("--http", f"{host}:{http_port}", "--bind", f"{host}:{peer_port}", "--join", join),
            *("--bootstrap-expect", str(count), "--cluster-key", str(key), "--database", config.database),
            *("--stand-in", "docker=process", "--log-level", log_level),
        ]
        agents.append(subprocess.Popen(command))
    try:
        urls = [f"http://{host}:{http_port}" for http_port, _peer in ports]
        _wait_until_ready(agents, urls)
        _greet(urls, root)
        _watch(agents, urls)
    except KeyboardInterrupt:
        pass  # the terminal has told the agents as well
    finally:
        for agent in agents:
            agent.terminate()
        for agent in agents:
            agent.wait()


def _free_ports(host: str, count: int) -> list[tuple[int, int]]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server((host, 0)) for _ in range(2 * count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return list(zip(ports[::2], ports[1::2], strict=True))


def _wait_until_ready(agents: list[subprocess.Popen[bytes]], urls: list[str]) -> None:
    from agent.client import Client, ClientError

    until_s = time.monotonic() + READY_S
    waiting = list(urls)
    while waiting:
        if any(agent.poll() is not None for agent in agents):
            fail("an agent has ended; what it said stands above", RUN_FAILED)
        if time.monotonic() > until_s:
            fail(f"the agents did not become a cluster within {READY_S:g} s", RUN_FAILED)
        with suppress(ClientError):
            Client([waiting[0]], limit_s=LOOK_S).get("/readyz")
            waiting.pop(0)
            continue
        time.sleep(LOOK_S)


def _watch(agents: list[subprocess.Popen[bytes]], urls: list[str]) -> None:
    """Until the last one has ended."""
    left = dict(zip(urls, agents, strict=True))
    while left:
        for url, agent in tuple(left.items()):
            code = agent.poll()
            if code is not None:
                del left[url]
                how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
                output.note(f"the agent at {url} {how}; {len(left)} go on")
        time.sleep(LOOK_S)


def _refuse_other_count(data_dir: Path, agents: int) -> None:
    """What was begun here with some agents goes on with as many: their database and their jobs belong together."""
    before = 1 if (data_dir / "identity.json").exists() else sum(1 for _ in data_dir.glob("[1-9]/identity.json"))
    if before not in (0, agents):
        fail(
            f"{data_dir} has a cluster of {before}: start it with --agents {before}, or take another --data-dir", USAGE
        )


def _keep_out_of_git(data_dir: Path) -> None:
    """The data directory lies in a project, and holds the key of its secrets."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        (data_dir / ".gitignore").write_text("*\n")
    except OSError as error:
        fail(f"{data_dir} cannot be written: {error.strerror}; choose another with --data-dir", USAGE)


def _greet(urls: list[str], root: Path | None) -> None:
    """Apply the project one stands in, and say what to do next."""
    from agent.client import Client, ClientError

    agents = Client(urls).get("/api/v1/cluster")["agents"]
    who = f"agent {agents[0]['id']} answers at {urls[0]}" if len(urls) == 1 else f"{len(urls)} agents answer"
    click.echo(f"{who}; Ctrl-C ends {'it' if len(urls) == 1 else 'them'}, their runs go on")
    if len(urls) > 1:
        for one in sorted(agents, key=lambda one: one["http"]):
            click.echo(f"  {one['http']}  {one['id']}  {one['role']}")
        click.echo(f"watch them: prime --host {','.join(urls)} cluster status --watch")
    if not any("docker" in one["executors"] for one in agents):
        click.echo("no Docker engine answers: jobs for docker run as local processes")
    if root is None:
        click.echo("this is no project folder: go to one and `prime plugin apply`, `prime job apply`")
        return
    try:
        name = _apply(urls, root)
    except ClientError as error:
        output.note(f"the project was not applied: {error}")
    except SystemExit:  # what is wrong was said
        output.note("the project was not applied; mend it, then `prime plugin apply` and `prime job apply`")
    else:
        if name:
            click.echo(f"try: prime{_host_option(urls, root)} job run {name} --follow")


def _host_option(urls: list[str], root: Path) -> str:
    """` --host URL`, unless a command in the project's folder asks one of these agents anyway."""
    from agent.cli.common import DEFAULT_HOST, agent_url
    from agent.folder import load_project

    project = load_project(root).project
    usual = os.environ.get("PRIME_HOST") or (project.host if project is not None else "") or DEFAULT_HOST
    return "" if agent_url(usual) in urls else f" --host {urls[0]}"


def _apply(urls: list[str], root: Path) -> str:
    """Apply plugins and jobs, each job by itself: one that has errors keeps no other out.

    Returns the name of a job to try, "" where there is none: without warnings and with a schedule if it can be.
    """
    from agent.cli.apply import apply_jobs, apply_project
    from agent.cli.common import listed, open_folder, show_applied, show_problems, user_name
    from agent.client import Client, Refused, path

    client, folder = Client(urls, user_name()), open_folder(root)
    assert folder.project is not None
    apply_project(client, folder)
    name = folder.project.name
    if folder.plugin_files:
        sent = [{"path": file, "yaml": text} for file, text in folder.plugin_files]
        client.post(path("projects", name, "plugins"), {"plugins": sent})
    applied: dict[str, bool] = {}  # whether there are warnings of it
    for found in folder.jobs():
        try:
            for answer in apply_jobs(client, folder, [found]):
                show_applied(answer, folder)
                applied |= dict.fromkeys(answer["jobs"], bool(answer["warnings"]))
        except Refused as error:
            show_problems(error.problems, folder)
            output.note(f"{folder.shown(found.file.path)} was not applied" + ("" if error.problems else f": {error}"))
    click.echo(f"project {name} is applied: {listed(list(applied)) or 'no jobs'}")
    scheduled = {one["name"] for one in client.get(path("projects", name, "jobs"))["jobs"] if one["interval"]}
    return min(applied, key=lambda job: (applied[job], job not in scheduled), default="")

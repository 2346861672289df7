"""`prime cluster`: the agents, and the key file by which they know each other."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli import output
from agent.cli.common import INTERRUPTED, USAGE, count, fail, format_option, online
from agent.cli.lazy import LazyGroup
from agent.cli.recovery import init, recover, snapshot

if TYPE_CHECKING:
    from agent.client import Client
    from agent.cluster.keys import Keys

AGAIN_S: Final = 1.0
AGENT: Final = click.argument("agent", metavar="AGENT")
FILE: Final = click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))


@click.group(cls=LazyGroup)
def cluster() -> None:
    """The agents."""


cluster.add_command(init)
cluster.add_command(snapshot)
cluster.add_command(recover)


@cluster.command()
@click.option("--watch", is_flag=True, help="Show it again every second, until interrupted.")
@format_option
@online
def status(client: Client, watch: bool, form: str) -> None:  # noqa: FBT001  click gives flags so
    """The cluster as an agent sees it."""
    try:
        while True:
            answer = client.get("/api/v1/cluster")
            if watch and sys.stdout.isatty():
                click.clear()
            if form == "json":
                output.show_json(answer)
            else:
                _show_cluster(answer)
            if not watch:
                return
            time.sleep(AGAIN_S)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _clock(ahead_s: float | None) -> str:
    """What is to be said of an agent's clock: nothing where it is about right."""
    from agent.cluster.agreement import SKEW_MS

    if ahead_s is None or abs(ahead_s) <= SKEW_MS / 1000:
        return ""
    return f", its clock {abs(ahead_s):.0f} s {'ahead' if ahead_s > 0 else 'behind'}"


def _show_cluster(answer: dict[str, Any]) -> None:
    click.echo(
        f"cluster {answer['cluster']}, generation {answer['generation']}, term {answer['term']}, "
        f"feature level {answer['level']}"
    )
    if answer["leader"] is None:
        click.echo(
            "NO LEADER: too few agents hear each other, or one is being elected; nothing new is accepted, and what is "
            "shown may be old.\nIf more than half of those that vote are gone for good: `prime cluster recover --help`"
        )
    rows = [
        (
            one["id"],
            one["role"],
            one["state"] + _clock(one["clock_ahead"]),
            one["http"],
            f"{one['running']}/{one['slots']}",
            ",".join(one["executors"]) or None,
            ",".join(f"{name}={value}" for name, value in sorted(one["labels"].items())) or None,
            one["lag"],
            one["version"] if one["level"] == answer["level"] else f"{one['version']} (level {one['level']})",
        )
        for one in answer["agents"]
    ]
    output.table(["AGENT", "ROLE", "STATE", "HTTP", "SLOTS", "EXECUTORS", "LABELS", "LAG", "VERSION"], rows)
    mirror = answer["mirror"]
    if mirror is not None:
        state = mirror["error"] or f"{mirror['behind']} finished runs behind"
        click.echo(f"database: {state}")


@cluster.command()
@AGENT
@click.option("--off", is_flag=True, help="Give it something again.")
@click.option("--wait", is_flag=True, help="Return once nothing runs there any more.")
@online
def drain(client: Client, agent: str, off: bool, wait: bool) -> None:  # noqa: FBT001  click gives flags so
    """Give an agent nothing more; what it has goes on to its end."""
    _drain(client, agent, on=not off)
    if wait and not off:
        _wait_until_idle(client, agent)
    click.echo(f"{agent} is given something again" if off else f"{agent} is given nothing more")


@cluster.command()
@AGENT
@click.option("--lose-logs", is_flag=True, help="Do not wait until its output is archived.")
@click.option("--archive-wait", default=600, show_default=True, type=click.IntRange(0), metavar="SECONDS")
@online
def leave(client: Client, agent: str, lose_logs: bool, archive_wait: int) -> None:  # noqa: FBT001  click gives flags so
    """Drain an agent, wait until nothing runs there, and take it out of the cluster for ever.

    The output of its runs goes with it, but for what is archived. Where agents have an archive (`--log-archive`), the
    command waits for it, for as long as --archive-wait says, and then takes out no agent whose output would be lost.
    """
    from agent.cli.outputs import wait_until_archived
    from agent.client import path

    _drain(client, agent, on=True)
    _wait_until_idle(client, agent)
    told = wait_until_archived(client, agent, 0 if lose_logs else archive_wait, lose=lose_logs)
    client.delete(path("cluster", "agents", agent))
    click.echo(told)
    click.echo(f"{agent} has left; it stops by itself, and its data directory is of no use any more")


@cluster.command()
@AGENT
@online
def transfer(client: Client, agent: str) -> None:
    """Let an agent lead, in a few milliseconds: before the one that leads is stopped, for example."""
    client.post("/api/v1/cluster/transfer", {"to": agent})
    click.echo(f"{agent} leads")


@cluster.command()
@click.option("--ttl", type=float, help="Seconds an agent's work may go on without a leader.")
@click.option("--stop", type=float, help="Seconds from SIGTERM to SIGKILL when that time is over.")
@click.option("--kill", type=float, help="Seconds that a kill may take, with an engine in between.")
@click.option("--rho", type=float, help="How much faster or slower than time a clock may go: 0.01 = one percent.")
@format_option
@online
def leases(client: Client, form: str, **terms: float | None) -> None:
    """Show for how long agents may run work without hearing from a leader, or set it; what is left out stays."""
    wanted = {name: value for name, value in terms.items() if value is not None}
    if wanted:
        client.put("/api/v1/cluster/leases", wanted)
    now = client.get("/api/v1/cluster", consistent=bool(wanted))["leases"]
    if form == "json":
        output.show_json({"leases": now})
    else:
        output.table(
            ["TTL", "STOP", "KILL", "RHO"], [tuple(f"{now[name]:g}" for name in ("ttl", "stop", "kill", "rho"))]
        )


def _drain(client: Client, agent: str, *, on: bool) -> None:
    from agent.client import path

    client.post(path("cluster", "agents", agent, "drain"), {"on": on})


def _wait_until_idle(client: Client, agent: str) -> None:
    while True:
        found = [one for one in client.get("/api/v1/cluster")["agents"] if one["id"] == agent]
        if not found or not found[0]["running"] or found[0]["state"] == "lost":
            return
        time.sleep(AGAIN_S)


@cluster.group(cls=LazyGroup)
def key() -> None:
    """The cluster's key file: make it, look at it, change the key. Who has the file is a member: keep it private."""


@key.command()
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Must not exist yet.")
def new(out: Path) -> None:
    """Make a key file, for a new cluster. Every agent needs a copy of it, and no other key."""
    from agent.cluster.keys import ClusterKeyError, Keys, create, new_key

    keys = Keys((new_key(),))
    try:
        create(out, keys)
    except ClusterKeyError as error:
        fail(str(error), USAGE)
    click.echo(f"{out}: made, with the key {keys.fingerprints[0]}")
    click.echo("copy it to every host of the cluster, mode 0600, and start the agents with --cluster-key FILE")


@key.command("list")
@FILE
@format_option
def list_keys(file: Path, form: str) -> None:
    """Show which keys a file holds, by their fingerprints; the keys themselves are not shown."""
    keys = _open(file)
    uses = ["in use", *("next" if at == keys.next else "accepted" for at in range(1, len(keys.keys)))]
    rows = list(zip(keys.fingerprints, uses, strict=True))
    if form == "json":
        output.show_json({"keys": [{"fingerprint": name, "use": use} for name, use in rows]})
    else:
        output.table(["KEY", "USE"], rows)


@key.command()
@FILE
def rotate(file: Path) -> None:
    """Take a key file one step further towards a new key, and say what to do next.

    A rotation has three steps: (1) a new key is added, (2) it is put in use, (3) the old one is dropped. After each,
    copy the file to all hosts: agents take it while they run, and log it. Take the next step when all of them have;
    then they reach each other all the time.
    """
    from agent.cluster.keys import ClusterKeyError, new_key, replace, rotated

    before = _open(file)
    after = rotated(before, new_key())
    try:
        replace(file, after)
    except ClusterKeyError as error:
        fail(str(error), USAGE)
    _tell(file, before, after)


def _open(file: Path) -> Keys:
    from agent.cluster.keys import ClusterKeyError, KeyRing

    try:
        return KeyRing.open(file).ring
    except ClusterKeyError as error:
        fail(str(error), USAGE)


def _tell(file: Path, before: Keys, after: Keys) -> None:
    from agent.cluster.keys import WATCH_S

    dropped = [name for name in before.fingerprints if name not in after.fingerprints]
    if after.next:
        click.echo(f"step 1 of 3: the key {after.fingerprints[after.next]} is added; {after.fingerprints[0]} is in use")
        then = f"then, when every agent has logged the change: prime cluster key rotate {file}"
    elif not dropped:
        click.echo(f"step 2 of 3: the key {after.fingerprints[0]} is in use; older ones are still accepted")
        then = f"then, when every agent has logged the change: prime cluster key rotate {file}"
    else:
        click.echo(f"step 3 of 3: {count(len(dropped), 'key')} dropped, {', '.join(dropped)}")
        then = f"then the old key opens nothing, and {after.fingerprints[0]} is the only one"
    click.echo(f"now copy {file} to every host, mode 0600; a running agent takes it within {WATCH_S:g} seconds")
    click.echo(then)

"""Shows a run while it goes: changes of state, and the output of every attempt as it comes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import click

from agent.cli import output
from agent.cli.common import INTERRUPTED

if TYPE_CHECKING:
    from agent.client import Client

WAIT_S = 30


def wait_for_run(client: Client, run_id: str) -> dict[str, Any]:
    """The run, once it has ended. Interrupting it leaves the run alone."""
    from agent.client import path

    try:
        while True:
            run: dict[str, Any] = client.get(path("runs", run_id, "wait"), timeout=WAIT_S)["run"]
            if run["finished_at"] is not None:
                return run
    except KeyboardInterrupt:
        leave(run_id)
        raise  # never reached


def leave(run_id: str) -> None:
    """The user stopped watching."""
    output.note(f"\nthe run goes on; see `prime run show {run_id}`, end it with `prime run cancel {run_id}`")
    raise SystemExit(INTERRUPTED)


def follow_run(client: Client, run_id: str) -> dict[str, Any]:
    """Show the run until it has ended; returns it as it is then."""
    try:
        return _Follower(client, run_id).follow()
    except KeyboardInterrupt:
        leave(run_id)
        raise  # never reached


class _Follower:
    """One thread follows the run, one more each attempt's output; lines are printed whole."""

    def __init__(self, client: Client, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}
        self._threads: dict[tuple[str, int], threading.Thread] = {}
        self._width = 0

    def follow(self) -> dict[str, Any]:
        from agent.client import path

        run: dict[str, Any] = {}
        for event in self._client.events(path("runs", self._run_id, "events")):
            if event.name == "run":
                run = event.data
                self._width = max(len(one["name"]) for one in run["instances"])
                self._show(run)
        for thread in self._threads.values():
            thread.join()
        self._say("run", f"{run['state']}{_because(run)}")
        return run

    def _show(self, run: dict[str, Any]) -> None:
        for number, instance in enumerate(run["instances"]):
            name = instance["name"]
            for attempt in instance["attempts"]:
                key = (name, attempt["number"])
                if key not in self._threads and attempt["started_at"] is not None:
                    thread = threading.Thread(target=self._output, args=(*key, number), daemon=True)
                    self._threads[key] = thread
                    thread.start()
            if self._states.get(name) != instance["state"]:
                self._states[name] = instance["state"]
                self._wait_for_output(instance)
                self._say(name, f"{instance['state']}{_because(instance)}", number, instance["state"])

    def _wait_for_output(self, instance: dict[str, Any]) -> None:
        """An instance that has ended has said everything: show that before its state."""
        if instance["state"] in ("pending", "scheduled", "running"):
            return
        for (name, _number), thread in self._threads.items():
            if name == instance["name"]:
                thread.join()

    def _output(self, name: str, attempt: int, number: int) -> None:
        from agent.client import Client, ClientError, path

        client = Client(list(self._client.hosts), self._client.user)
        try:
            for event in client.events(
                path("runs", self._run_id, "instances", name, "logs"), attempt=attempt, follow=True
            ):
                if event.name == "line":
                    self._say(name, event.data["text"], number, stream=event.data["stream"])
                elif event.name == "gap":
                    self._say(name, "--- output is missing here ---", number)
        except ClientError as error:
            self._say(name, f"--- no more output can be shown: {error} ---", number)

    def _say(
        self, name: str, text: str, number: int | None = None, state: str | None = None, *, stream: str | None = None
    ) -> None:
        colour = None if number is None else output.PREFIX_COLOURS[number % len(output.PREFIX_COLOURS)]
        head = output.coloured(name.rjust(self._width), colour)
        mark = {"stdout": "|", "stderr": "!"}.get(stream or "", "=")
        body = output.coloured(text, output.COLOURS.get(state or "")) if state else text
        with self._lock:
            click.echo(f"{head} {mark} {body}")


def _because(row: dict[str, Any]) -> str:
    return f" ({row['reason']})" if row["reason"] else ""

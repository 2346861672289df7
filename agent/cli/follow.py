"""Shows a run while it goes: changes of state, and the output of every attempt as it comes."""

from __future__ import annotations

import base64
import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from agent.cli import output
from agent.cli.common import INTERRUPTED, PIPE_CLOSED

if TYPE_CHECKING:
    from agent.client import Client

WAIT_S: Final = 30
LINE_MAX: Final = 64 * 1024  # characters kept of a line that has no end
GAP: Final = "--- output is missing here ---"
UNFINISHED: Final = ("pending", "scheduled", "running")
RUN: Final = "run"  # the head of lines about the run itself


def wait_for_run(client: Client, run_id: str) -> dict[str, Any]:
    """The run, once it has ended. Interrupting it leaves the run alone; an agent that starts anew is waited for."""
    from agent.client import path

    try:
        run: dict[str, Any] = client.get(path("runs", run_id))["run"]
        while run["finished_at"] is None:
            run = client.patient(lambda: client.poll(path("runs", run_id, "wait"), WAIT_S))["run"]
    except KeyboardInterrupt:
        leave(run_id)
    return run


def goes_on(run_id: str) -> None:
    """Say what becomes of a run that nobody watches."""
    output.note(f"\nthe run goes on; see `prime run show {run_id}`, end it with `prime run cancel {run_id}`")


def leave(run_id: str, code: int = INTERRUPTED) -> NoReturn:
    """The user stopped watching. code: what the command ends with."""
    goes_on(run_id)
    if code == PIPE_CLOSED:
        output.abandon()
    raise SystemExit(code)


def follow_run(
    client: Client, run_id: str, *, err: bool = False, wanted: Mapping[str, Any] | None = None, times: bool = False
) -> dict[str, Any]:
    """Show the run until it has ended; returns it as it is then.

    err: on stderr, where stdout is for the result. wanted: parameters of the logs. times: before each line of output.
    """
    follower = _Follower(client, run_id, err, dict(wanted or {}), times)
    try:
        return follower.follow()
    except KeyboardInterrupt:
        leave(run_id)
    except BrokenPipeError:
        leave(run_id, PIPE_CLOSED)


def follow_instance(client: Client, run_id: str, instance: str, wanted: Mapping[str, Any], *, times: bool) -> None:
    """Show the output of one instance, byte for byte, until it has ended."""
    from agent.client import Refused, path

    out = sys.stdout.buffer
    try:
        for event in client.events(path("runs", run_id, "instances", instance, "logs"), **wanted, follow=True):
            if event.name == "line":
                head = f"{event.data['time']} {event.data['stream']} ".encode() if times else b""
                out.write(head + line_bytes(event.data) + (b"" if event.data["partial"] and not times else b"\n"))
                out.flush()
            elif event.name == "gap":
                output.note(GAP)
    except Refused as error:
        if error.code != "never_captured":
            raise
        output.note(str(error))
    except KeyboardInterrupt:
        leave(run_id)
    except BrokenPipeError:
        leave(run_id, PIPE_CLOSED)


def line_bytes(line: Mapping[str, Any]) -> bytes:
    """What the task wrote."""
    return base64.b64decode(line["base64"]) if line.get("base64") else line["text"].encode()


class _Follower:
    """One thread follows the run, one more each attempt's output; lines are printed whole."""

    def __init__(self, client: Client, run_id: str, err: bool, wanted: dict[str, Any], times: bool) -> None:  # noqa: FBT001  private
        self._client = client
        self._run_id = run_id
        self._err = err
        self._wanted = wanted
        self._times = times
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}
        self._threads: dict[tuple[str, int], threading.Thread] = {}
        self._width = len(RUN)

    def follow(self) -> dict[str, Any]:
        from agent.client import path

        run: dict[str, Any] = {}
        for event in self._client.events(path("runs", self._run_id, "events")):
            if event.name == "run":
                run = event.data
                self._width = max(len(RUN), *(len(one["name"]) for one in run["instances"]))
                self._show(run)
        for thread in self._threads.values():
            thread.join()
        self._say(RUN, f"{run['state']}{_because(run)}", state=run["state"])
        return run

    def _show(self, run: dict[str, Any]) -> None:
        for number, instance in enumerate(run["instances"]):
            is_new = self._states.get(instance["name"]) != instance["state"]
            self._states[instance["name"]] = instance["state"]
            # A state comes before the output it leads to; what has ended has said everything, which comes first.
            comes_first = instance["state"] in UNFINISHED
            if is_new and comes_first:
                self._say_state(instance, number)
            self._start_output(instance, number)
            if is_new and not comes_first:
                self._wait_for_output(instance["name"])
                self._say_state(instance, number)

    def _say_state(self, instance: dict[str, Any], number: int) -> None:
        self._say(instance["name"], f"{instance['state']}{_because(instance)}", number, instance["state"])

    def _start_output(self, instance: dict[str, Any], number: int) -> None:
        for attempt in instance["attempts"]:
            key = (instance["name"], attempt["number"])
            if key not in self._threads and attempt["started_at"] is not None:
                if attempt["number"] > 1:
                    self._say(instance["name"], f"attempt {attempt['number']} on {attempt['agent']}", number)
                thread = threading.Thread(target=self._output, args=(*key, number), daemon=True)
                self._threads[key] = thread
                thread.start()

    def _wait_for_output(self, instance: str) -> None:
        for (name, _number), thread in self._threads.items():
            if name == instance:
                thread.join()

    def _output(self, name: str, attempt: int, number: int) -> None:
        """Show the output of one attempt, in a thread of its own."""
        try:
            self._show_output(name, attempt, number)
        except BrokenPipeError:
            # The main thread waits for an event, perhaps for hours; and SIGINT is ignored in the background.
            goes_on(self._run_id)
            sys.stderr.flush()
            os._exit(PIPE_CLOSED)

    def _show_output(self, name: str, attempt: int, number: int) -> None:
        from agent.client import ClientError, path

        client = self._client.twin()
        where = path("runs", self._run_id, "instances", name, "logs")
        begun = {"stdout": "", "stderr": ""}  # lines whose end has not come yet
        try:
            for event in client.events(where, **self._wanted, attempt=attempt, follow=True):
                if event.name == "line":
                    self._line(name, number, event.data, begun)
                elif event.name == "gap":
                    self._say(name, GAP, number)
        except ClientError as error:
            self._say(name, f"--- no more output can be shown: {error} ---", number)
        for stream, text in begun.items():
            if text:
                self._say(name, text, number, stream=stream)

    def _line(self, name: str, number: int, line: Mapping[str, Any], begun: dict[str, str]) -> None:
        """Show a line once it is whole, or longer than anybody reads."""
        stream = line["stream"]
        text = begun[stream] + line["text"]
        if line["partial"] and len(text) < LINE_MAX:
            begun[stream] = text
            return
        begun[stream] = ""
        self._say(name, f"{line['time']} {text}" if self._times else text, number, stream=stream)

    def _say(
        self, name: str, text: str, number: int | None = None, state: str | None = None, *, stream: str | None = None
    ) -> None:
        to = sys.stderr if self._err else sys.stdout
        colour = None if number is None else output.PREFIX_COLOURS[number % len(output.PREFIX_COLOURS)]
        head = output.coloured(name.rjust(self._width), colour, to)
        mark = {"stdout": "|", "stderr": "!"}.get(stream or "", "=")
        body = output.coloured(text, output.COLOURS.get(state), to) if state else text
        with self._lock:
            click.echo(f"{head} {mark} {body}", err=self._err)


def _because(row: dict[str, Any]) -> str:
    return f" ({row['reason']})" if row["reason"] else ""

"""What becomes of the output on an agent that leaves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from agent.cli import output
from agent.cli.common import REFUSED, count, fail

if TYPE_CHECKING:
    from agent.client import Client

AGAIN_S: Final = 1.0


def wait_until_archived(client: Client, agent: str, limit_s: float, *, lose: bool) -> str:
    """Wait until an agent's output is archived. Returns what becomes of it, in a sentence.

    Ends the command where the time is over and output would be lost; lose: that is what is wanted.
    """
    from agent.client import ClientError, Refused, path

    end_s, shown = time.monotonic() + limit_s, 0
    while True:
        try:
            state: dict[str, Any] = client.get(path("cluster", "agents", agent, "archive"))
        except Refused as error:
            if error.status == 404:
                raise
            return f"{agent} does not say what output it has: what is not archived is lost with it"
        except ClientError:
            return f"{agent} does not say what output it has: what is not archived is lost with it"
        outputs = count(state["outputs"], "output")
        if not state["outputs"]:
            return f"{agent} has no output of runs"
        if not state["configured"]:
            return f"{outputs} of attempts go with {agent}: it has no archive (--log-archive)"
        if not state["backlog"]:
            return f"{outputs} of attempts on {agent} are archived, and are read from there"
        backlog = count(state["backlog"], "output")
        if lose:
            return f"{backlog} of attempts on {agent} are lost with it: not archived yet"
        if time.monotonic() >= end_s:
            why = f": {state['error']}" if state["error"] else ""
            fail(
                f"{agent} has {backlog} not archived yet{why}. It stays in the cluster, and is given nothing more; "
                "mend the archive and say it again, or lose them with --lose-logs",
                REFUSED,
            )
        if state["backlog"] != shown:
            shown = state["backlog"]
            output.note(f"{backlog} to be archived yet")
        time.sleep(AGAIN_S)

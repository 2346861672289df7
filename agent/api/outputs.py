"""Where an attempt's output is: on this agent's disk, on another agent's, in the archive; and if nowhere, why not."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.api.cluster import silent_ms
from agent.api.elsewhere import Part, Wanted
from agent.api.face import Face
from agent.errors import Refusal
from agent.runtable.model import Agent, Attempt, Reason, Run
from agent.store.errors import ArchiveAway, ArchiveDamaged, LogsError
from agent.store.removals import Removals

NOT_THERE: Final = frozenset({"output_lost", "output_removed", "output_away", "unreachable"})
"""Answers of the agent that has an attempt after which the archive is asked: nothing more can come from that agent."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where to read. directory: of segments on this disk; else the agent that has them, and what it has given already.

    whole: nothing more will come into the directory.
    """

    directory: Path | None = None
    agent: Agent | None = None
    first: Part | None = None
    whole: bool = False


async def missing(removals: Removals, agent_id: str, run_id: str, instance: str, number: int) -> Refusal:
    """What is to be said of a closed attempt of this agent that has no output on its disk. Raises LogsError."""
    removed = await asyncio.to_thread(removals.find, run_id, instance, number)
    if removed is None:
        text = (
            f"the output is lost: agent {agent_id}, where the attempt was, has none on its disk, and retention has not "
            "removed it"
        )
        return Refusal("output_lost", text, 410)
    at = datetime.fromtimestamp(removed.at_ms / 1000, UTC)
    text = f"the output was removed by retention on {at:%Y-%m-%d at %H:%M:%S} UTC, from agent {agent_id}: {removed.why}"
    return Refusal("output_removed", text, 410)


async def find(asked: Face, run: Run, name: str, number: int, wanted: Wanted, stack: AsyncExitStack) -> Source:
    """Where an attempt that was made can be read. stack: keeps a copy of the archive's until it is closed.

    Raises Refusal: "never_captured" (404), "output_removed", "output_lost" (410), "output_away" (409), "unreachable",
    "archive_unreachable" (503), "archive_damaged" (500).
    """
    attempt = _attempt(run, name, number)
    here = asked.logs.directory(run.id, name, number)
    if here.exists() or (attempt.open and attempt.agent == asked.agent_id):
        return Source(here)  # what was here before a recovery bears another agent's name
    try:
        return await _of_agent(asked, run, name, attempt, wanted)
    except Refusal as refusal:
        if refusal.code not in NOT_THERE or attempt.open:
            raise
        why = refusal
    try:
        archived = await stack.enter_async_context(asked.fetched.opened((run.id, name, number)))
    except ArchiveAway as error:
        text = f"{why.message}. It may be archived, but the archive cannot be used now: {error}"
        raise Refusal("archive_unreachable", text, 503, retry_after_s=5) from error
    except ArchiveDamaged as error:
        raise Refusal("archive_damaged", f"{why.message}. {error}", 500) from error
    except LogsError as error:
        raise Refusal("logs", str(error), 500) from error
    if archived is not None:
        return Source(archived, whole=True)
    raise _nowhere(asked, attempt, why) from None


async def _of_agent(asked: Face, run: Run, name: str, attempt: Attempt, wanted: Wanted) -> Source:
    """On the agent that has had the attempt. Raises Refusal where it cannot be read there."""
    if attempt.agent == asked.agent_id:
        try:
            raise await missing(asked.removals, asked.agent_id, run.id, name, attempt.number)
        except LogsError as error:
            raise Refusal("logs", str(error), 500) from error
    row = asked.service.context.replica.table.rows.agents.get(attempt.agent)
    if row is None:
        text = f"the output is lost with agent {attempt.agent}, which has left the cluster"
        raise Refusal("output_lost", text, 410)
    if not attempt.open and asked.fetched.configured and row.id in await silent_ms(asked):
        text = f"the output is on agent {row.id}, which is not heard"  # so it is not waited for
        raise Refusal("unreachable", text, 503, retry_after_s=1)
    return Source(agent=row, first=await asked.elsewhere.part(row, wanted))


def _nowhere(asked: Face, attempt: Attempt, why: Refusal) -> Refusal:
    """What is said where the archive has nothing either."""
    lost = attempt.reason in {Reason.AGENT_LOST, Reason.FENCED}  # then nobody may have heard that it began
    if why.code == "output_lost" and attempt.started_at_ms is None and not lost:
        text = f"no output was ever captured: attempt {attempt.number} never started ({attempt.message or 'no reason'})"
        return Refusal("never_captured", text, 404)
    told = "it is not in the archive" if asked.fetched.configured else "this agent knows no archive (--log-archive)"
    return Refusal(why.code, f"{why.message}; {told}", why.status, retry_after_s=why.retry_after_s)


def _attempt(run: Run, name: str, number: int) -> Attempt:
    instance = run.instance(name)
    assert instance is not None  # who calls has found it
    return instance.attempts[number - 1]

"""What the HTTP face stands on: the parts of the agent it may ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from agent.api.access import Access
from agent.api.elsewhere import Elsewhere
from agent.archiving import Archiver, Fetched
from agent.cluster.steward import Seen
from agent.metrics import Metrics
from agent.runtable.commands import InstanceEnded, InstanceStarted
from agent.service import Service
from agent.store.database import MirrorStatus
from agent.store.logs import LogStore
from agent.store.removals import Removals
from agent.worker import Worker


@dataclass(frozen=True, slots=True)
class Face:
    """not_ready: why the agent is not ready, None = it is.  mirror: how the database stands, None = there is none.

    provisional: what workers say of a run, by its id, and the table does not know yet.
    seen: the members as their leader sees them, None = it does not answer.  elsewhere: output on other agents.
    fetched: output of the archive.  archiver: puts it there.  removals: what retention has removed here.
    access: who may ask.
    """

    service: Service
    worker: Worker
    logs: LogStore
    agent_id: str
    address: str
    version: str
    not_ready: Callable[[], str | None]
    mirror: Callable[[], MirrorStatus | None]
    metrics: Metrics
    seen: Callable[[], Awaitable[Seen | None]]
    elsewhere: Elsewhere
    fetched: Fetched
    archiver: Archiver
    removals: Removals
    provisional: Callable[[str], Iterable[InstanceStarted | InstanceEnded]] = lambda _run_id: ()
    access: Access = field(default_factory=Access)

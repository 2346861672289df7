"""What the HTTP face stands on: the parts of the agent it may ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.metrics import Metrics
from agent.service import Service
from agent.store.database import MirrorStatus
from agent.store.logs import LogStore
from agent.worker import Worker


@dataclass(frozen=True, slots=True)
class Face:
    """not_ready: why the agent is not ready, None = it is.  mirror: how the database stands, None = there is none."""

    service: Service
    worker: Worker
    logs: LogStore
    agent_id: str
    address: str
    version: str
    not_ready: Callable[[], str | None]
    mirror: Callable[[], MirrorStatus | None]
    metrics: Metrics

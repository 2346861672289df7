"""Pools and queues: what a project's config says of them, and what a job's `metadata.scheduler` asks for.

A *pool* is a number of slots in the project's config, as `pool.NAME`. A *queue* is what Airflow's Celery executor means
by it: only workers that listen to it take its work. Here an agent listens by its label `queue=NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from agent.spec.document import shorten
from agent.spec.jobspec import SchedulerSpec

POOL_PREFIX: Final = "pool."
DEFAULT_POOL: Final = "default_pool"  # Airflow has it always: it limits nothing unless the project's config has it
QUEUE_LABEL: Final = "queue"
DEFAULT_QUEUE: Final = "default"  # Airflow's name for that of work which names none
_SLOTS = re.compile(r"[0-9]{1,9}")


def pools_of(config: Mapping[str, str]) -> tuple[dict[str, int], dict[str, str]]:
    """The pools of a project's config: slots by name, and what is wrong by the config's key."""
    pools, wrong = {}, {}
    for key, text in config.items():
        if not key.startswith(POOL_PREFIX):
            continue
        name = key.removeprefix(POOL_PREFIX)
        if not name.strip():
            wrong[key] = "a pool needs a name: pool.NAME"
        elif not _SLOTS.fullmatch(text.strip()):
            wrong[key] = f"a pool is a whole number of slots, up to 999999999, not {shorten(text)}"
        else:
            pools[name] = int(text)
    return pools, wrong


def pool_of(scheduler: SchedulerSpec, pools: Mapping[str, int]) -> str:
    """The pool that instances of a job need, "" = none. pools: the project's."""
    return "" if scheduler.pool == DEFAULT_POOL and DEFAULT_POOL not in pools else scheduler.pool


def labels_of(scheduler: SchedulerSpec) -> tuple[tuple[str, str], ...]:
    """The labels (name, value) that an agent must have to be given instances of a job, sorted."""
    asked = set(scheduler.constraints.items())
    if scheduler.queue not in ("", DEFAULT_QUEUE):
        asked.add((QUEUE_LABEL, scheduler.queue))
    return tuple(sorted(asked))

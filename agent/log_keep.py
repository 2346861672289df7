"""For how long the output of each run is kept on the disk: as its job says, else its project, else the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from agent.replica import Replica
from agent.service.common import JobBlob
from agent.spec.project import keep_logs_s
from agent.store.blobs import BlobStore
from agent.store.errors import BlobError

FOREVER_MS = 2**62


class LogKeep:
    """Looks up what jobs and projects say now: a change counts for the runs of before as well."""

    def __init__(self, replica: Replica, blobs: BlobStore) -> None:
        self._replica, self._blobs = replica, blobs
        self._jobs: dict[str, tuple[str, str]] = {}  # (project, job) by run, of those that have output here

    async def by_run(self, run_ids: Iterable[str]) -> dict[str, int]:
        """Milliseconds by run; the runs for which the agent's own setting counts are left out. Raises HistoryError."""
        wanted, rows = set(run_ids), self._replica.table.rows
        jobs = {run_id: job for run_id, job in self._jobs.items() if run_id in wanted}
        for run_id in wanted - jobs.keys():
            run = self._replica.run(run_id)
            if run is not None:
                jobs[run_id] = (run.project, run.job)
        jobs |= await asyncio.to_thread(self._of_history, wanted - jobs.keys())
        self._jobs = jobs
        specs = {key: found.spec for key in set(jobs.values()) if (found := rows.jobs.get(key[0], {}).get(key[1]))}
        said = await asyncio.to_thread(lambda: {key: self._said(digest) for key, digest in specs.items()})
        keep: dict[str, int] = {}
        for run_id, key in jobs.items():
            own, project = said.get(key), rows.projects.get(key[0])
            keep_ms = own if own is not None else _of_project(project.config) if project is not None else None
            if keep_ms is not None:
                keep[run_id] = keep_ms
        return keep

    def _of_history(self, run_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
        rows = ((run_id, self._replica.history.get(run_id)) for run_id in run_ids)
        return {run_id: (row.project, row.job) for run_id, row in rows if row is not None}

    def _said(self, digest: str) -> int | None:
        """What the job says. Where that cannot be read, nothing of it goes now."""
        try:
            seconds = msgspec.json.decode(self._blobs.get(digest), type=JobBlob).job.behavior.keep_logs_s
        except (BlobError, msgspec.DecodeError):
            return FOREVER_MS
        return None if seconds is None else round(seconds * 1000)


def _of_project(config: dict[str, str]) -> int | None:
    try:
        seconds = keep_logs_s(config)
    except ValueError:  # accepted by a version that did not check it
        return None
    return None if seconds is None else round(seconds * 1000)

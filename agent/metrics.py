"""What Prometheus scrapes. Everything is read or counted outside `apply`; no label has unbounded values.

Names follow Prometheus' conventions: base units, `_total` for counters.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, exposition
from prometheus_client import Counter as Count
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.archiving import Archiver
    from agent.replica import Replica
    from agent.store.database import MirrorStatus
    from agent.store.logs import LogStore
    from agent.worker import Worker

_FSYNC_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
LOG_BYTES_KEEP_S = 60.0


class Metrics:
    """The metrics of one agent, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Count(
            "prime_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._request_seconds = Histogram(
            "prime_http_request_duration_seconds", "Time to answer.", ("route",), registry=self.registry
        )
        self._turned_away = Count(
            "prime_http_turned_away", "Requests without a token that allows them.", ("code",), registry=self.registry
        )
        self.fsync_seconds = Histogram(
            "prime_log_fsync_duration_seconds",
            "Time to append a batch to the log and make it durable.",
            buckets=_FSYNC_BUCKETS,
            registry=self.registry,
        )
        self._ready = Gauge("prime_agent_up", "1 while the agent answers.", registry=self.registry)
        self._ready.set(1)
        self._log_bytes = 0
        self._log_bytes_until_s = 0.0

    def turned_away(self, code: str) -> None:
        """Count one request whose sender may not ask so. code: of the problem."""
        self._turned_away.labels(code).inc()

    def request(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count one answered request."""
        method = method if method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"} else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(took_s)

    async def log_bytes(self, logs: LogStore) -> int:
        """Bytes of all attempts' logs. To measure them is a walk over the disk: done at most once a minute."""
        now_s = time.monotonic()
        if now_s >= self._log_bytes_until_s:
            self._log_bytes_until_s = now_s + LOG_BYTES_KEEP_S
            self._log_bytes = await logs.usage_bytes()
        return self._log_bytes

    def render(
        self,
        replica: Replica,
        worker: Worker,
        mirror: MirrorStatus | None,
        *,
        slots: int,
        log_bytes: int,
        archive: Archiver,
    ) -> tuple[bytes, str]:
        """The exposition and its content type. slots: this agent's; log_bytes: of attempts' logs."""
        look = _Look(replica, worker, mirror, slots, log_bytes, archive)
        own = CollectorRegistry(auto_describe=False)
        own.register(look)
        text = exposition.generate_latest(self.registry) + exposition.generate_latest(own)
        return text, exposition.CONTENT_TYPE_LATEST


class _Look(Collector):
    """One look at the parts of the agent."""

    def __init__(
        self,
        replica: Replica,
        worker: Worker,
        mirror: MirrorStatus | None,
        slots: int,
        log_bytes: int,
        archive: Archiver,
    ) -> None:
        self._archive = archive
        self._slots = slots
        self._log_bytes = log_bytes
        self._replica = replica
        self._worker = worker
        self._mirror = mirror

    def collect(self) -> Iterator[Metric]:
        yield from self._table()
        yield from self._work()
        if self._archive.configured:
            yield from self._archived()
        if self._mirror is not None and self._mirror.behind is not None:
            yield _gauge("prime_mirror_lag_runs", "Finished runs that the database lacks.", self._mirror.behind)
            yield _gauge("prime_mirror_up", "1 if the last write succeeded.", int(self._mirror.last_error is None))

    def _table(self) -> Iterator[Metric]:
        table, held = self._replica.table, self._replica.held is not None
        yield _gauge("prime_applied_index", "Index of the last applied entry.", self._replica.applied_index)
        yield _gauge("prime_table_bytes", "Encoded size of the run table.", table.bytes_used)
        yield _gauge("prime_table_limit_bytes", "What the run table may hold.", table.rows.limits.bytes_max)
        yield _gauge("prime_proposals_waiting", "Proposals that wait for the log.", self._replica.waiting)
        yield _gauge("prime_proposals_held", "1 while tables differ and no majority has one.", int(held))
        replays = sum(not replay.final for replay in table.rows.replays.values())
        yield _gauge("prime_replays_unfinished", "Replays that have not ended.", replays)
        yield _gauge("prime_instances_ready", "Instances that wait for a slot.", len(table.ready))
        yield _gauge("prime_events_waiting", "Notifications that wait to be delivered.", len(table.rows.events))
        given_up = CounterMetricFamily("prime_events_given_up", "Notifications that were never delivered.")
        given_up.add_metric([], table.rows.events_given_up)
        yield given_up
        clocks = GaugeMetricFamily(
            "prime_clock_ahead_seconds", "Clocks of agents against the voters' median, on a leader.", labels=["agent"]
        )
        for agent in table.rows.agents.values():
            if agent.node in self._replica.clock.members_ms and self._replica.leads:
                clocks.add_metric([agent.id], self._replica.clock.members_ms[agent.node] / 1000)
        yield clocks
        states = Counter(run.state.value for run in table.rows.runs.values())
        unfinished = GaugeMetricFamily("prime_runs_unfinished", "Runs that have not ended.", labels=["state"])
        for state in ("queued", "running"):
            unfinished.add_metric([state], states[state])
        yield unfinished
        finished = CounterMetricFamily(
            "prime_runs_finished", "Runs that have ended since the agent started.", labels=["state", "reason"]
        )
        for (state, reason), count in self._replica.finished_counts.items():
            finished.add_metric([state, reason], count)
        yield finished

    def _work(self) -> Iterator[Metric]:
        yield _gauge("prime_slots", "Attempts that may run at a time on this agent.", self._slots)
        yield _gauge("prime_attempt_log_bytes", "Bytes of attempts' logs on this agent's disk.", self._log_bytes)
        yield _gauge("prime_attempts_running", "Attempts on this agent.", len(self._worker.driven))
        ended = CounterMetricFamily(
            "prime_attempts_ended", "Attempts that have ended on this agent.", labels=["executor", "reason"]
        )
        for (executor, reason), count in self._worker.ended_counts.items():
            ended.add_metric([executor, reason], count)
        yield ended
        started = CounterMetricFamily("prime_attempts_started", "Attempts that this agent has started.")
        started.add_metric([], self._worker.starts)
        yield started

    def _archived(self) -> Iterator[Metric]:
        archive = self._archive
        yield _gauge("prime_log_archive_backlog", "Outputs of ended attempts to be archived yet.", archive.backlog)
        sent = CounterMetricFamily("prime_log_archived_bytes", "Bytes of output that were archived.")
        sent.add_metric([], archive.sent_bytes)
        yield sent
        failures = CounterMetricFamily("prime_log_archive_failures", "Tries to archive an output that failed.")
        failures.add_metric([], archive.failures)
        yield failures


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)

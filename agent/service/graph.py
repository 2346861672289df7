"""The graph of applied jobs, as it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.runtable.dependencies import JobKey, edges_of, in_order, reached, reversed_edges
from agent.runtable.model import DependencyKind
from agent.service.catalog import Catalog
from agent.service.common import Context

NODES_MAX: Final = 5000  # P12


@dataclass(frozen=True, slots=True)
class Node:
    """A job or an http dependency. id: `project/job`, or `http NAME` with the job it is of."""

    id: str
    kind: DependencyKind
    applied: bool


@dataclass(frozen=True, slots=True)
class Edge:
    """`job` depends on `on`."""

    job: str
    on: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Each job after those that it depends on."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    truncated: bool


class Graphs:
    """Which jobs depend on which."""

    def __init__(self, context: Context, catalog: Catalog) -> None:
        self._context, self._catalog = context, catalog

    def of(self, project: str, job: str | None, *, upstream: bool, downstream: bool) -> Graph:
        """The jobs of a project with what they depend on, or one job with those around it. Raises Refusal.

        upstream, downstream: in which direction; both where neither is asked for.
        """
        jobs = self._context.replica.table.rows.jobs
        up, down = edges_of(jobs), reversed_edges(jobs)
        keys: dict[JobKey, None] = {}
        if job is None:
            for name in self._catalog.jobs(project):
                keys |= dict.fromkeys(reached(up, (project, name), NODES_MAX))
                if len(keys) > NODES_MAX:
                    break
        else:
            self._catalog.job(project, job)
            if upstream or not downstream:
                keys |= dict.fromkeys(reached(up, (project, job), NODES_MAX))
            if downstream or not upstream:
                keys |= dict.fromkeys(reached(down, (project, job), NODES_MAX))
        chosen = dict.fromkeys(list(keys)[:NODES_MAX])
        return self._drawn(in_order(up, chosen), truncated=len(keys) > NODES_MAX)

    def _drawn(self, keys: list[JobKey], *, truncated: bool) -> Graph:
        shown = set(keys)
        nodes: dict[str, Node] = {}
        edges: list[Edge] = []
        for key in keys:
            row, name = self._catalog.applied(*key), "/".join(key)
            for one in row.dependencies if row is not None else ():
                http = one.kind is DependencyKind.HTTP
                on = f"http {one.name} of {name}" if http else f"{one.project}/{one.name}"
                if http:
                    nodes[on] = Node(on, one.kind, applied=True)
                if http or (one.project, one.name) in shown:
                    edges.append(Edge(name, on))
            nodes[name] = Node(name, DependencyKind.JOB, applied=row is not None)
        return Graph(tuple(nodes.values()), tuple(edges), truncated)

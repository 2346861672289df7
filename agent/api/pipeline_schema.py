"""Bodies and answers about pipelines and the graph of jobs; the rest, and the rules, are in `schema.py`."""

from __future__ import annotations

from typing import Literal

from agent.api.schema import CancelBody, MetaView, ReadQuery, RunBody, RunView, View, WaitQuery


class PipelineBody(RunBody, frozen=True):
    """A job with what it depends on (upstream), what depends on it (downstream), or both (pipeline).

    config and params are the job's own; the others run with theirs. check_dependencies is for single runs.
    """

    scope: Literal["upstream", "downstream", "pipeline"] = "pipeline"


class PipelineCancelBody(CancelBody, frozen=True):
    """As for a run: of every run of the pipeline."""


class PipelineView(View, frozen=True):
    """The runs of one request, each after those that it waits for. state: of all of them together."""

    id: str
    state: str
    runs: list[RunView]


class PipelineAnswer(View, frozen=True):
    """A pipeline."""

    pipeline: PipelineView
    meta: MetaView


class AcceptedPipelineAnswer(View, frozen=True):
    """A pipeline that was accepted or changed. duplicate: the same request was answered before, with this one."""

    pipeline: PipelineView
    index: int
    duplicate: bool
    notes: list[str]


class PipelineWaitQuery(WaitQuery, frozen=True):
    """As for a run: until all have ended."""


class GraphQuery(ReadQuery, frozen=True):
    """job: only that one, with what it depends on (upstream) and what depends on it (downstream); both if neither."""

    job: str | None = None
    upstream: bool = False
    downstream: bool = False


class NodeView(View, frozen=True):
    """A job or an http dependency. id: `project/job`, or `http NAME`. applied: false for a job that is not there."""

    id: str
    kind: str
    applied: bool


class EdgeView(View, frozen=True):
    """`job` depends on `on`; both are ids of nodes."""

    job: str
    on: str


class GraphAnswer(View, frozen=True):
    """Jobs, each after those that it depends on. truncated: there are more than are told."""

    nodes: list[NodeView]
    edges: list[EdgeView]
    truncated: bool = False

"""The use cases: a request's words in, one proposed command out.

Everything a client may ask is a method here; the faces only translate. A method raises `Refusal` for a no and returns
rows for a yes. What a run needs is checked and stored before it is proposed, so an accepted run can be compiled (P1).
"""

from __future__ import annotations

from agent.service.agents import Agents
from agent.service.catalog import Catalog
from agent.service.common import Accepted, Caller, Context, JobBlob, JobFile, RunRequest
from agent.service.graph import Graphs
from agent.service.notices import Events
from agent.service.pipelines import Pipelines
from agent.service.queries import Page, Queries
from agent.service.replays import ReplayRequest, Replays
from agent.service.runs import Runs
from agent.service.tokens import Tokens

__all__ = ["Accepted", "Caller", "Context", "JobBlob", "JobFile", "Page", "ReplayRequest", "RunRequest", "Service"]


class Service:
    """All use cases of one agent."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.agents = Agents(context)
        self.tokens = Tokens(context)
        self.events = Events(context)
        self.catalog = Catalog(context)
        self.queries = Queries(context)
        self.runs = Runs(context, self.catalog, self.queries)
        self.graph = Graphs(context, self.catalog)
        self.pipelines = Pipelines(context, self.catalog, self.queries, self.runs)
        self.replays = Replays(context, self.catalog, self.runs)

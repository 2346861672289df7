"""The agents of the cluster: they come, drain, are lost, return and are removed; and the terms of their leases.

Handlers of `apply.py`. Each takes the table and a command and returns a code, "ok" or why nothing was changed; those
that reach into runs also return which.
"""

from __future__ import annotations

from agent.runtable import commands as c
from agent.runtable import lifecycle
from agent.runtable.model import Agent, Attempt, Instance, Leases, Removed, Run, TableImage
from agent.runtable.table import Table

Touched = tuple[str, tuple[str, ...]]  # code, ids of the runs that were changed


def set_lease_terms(table: Table, cmd: c.SetLeaseTerms) -> str:
    """New terms; until every lease of before has run out, the longest of them counts as well."""
    now_ms, old = table.rows.time_ms, table.rows.leases
    before, until_ms = old.terms, now_ms + old.terms.loss_ms
    if old.before is not None and now_ms < old.before_until_ms:
        before = max(before, old.before, key=lambda terms: terms.loss_ms)
        until_ms = max(until_ms, old.before_until_ms)
    table.rows.leases = Leases(cmd.terms, before, until_ms)
    return "ok"


def agent_up(table: Table, cmd: c.AgentUp) -> Touched:
    """Register an agent, bring its row up to date, or take a lost one back with the next epoch."""
    rows, new = table.rows, cmd.agent
    refusal = _refuse_up(rows, cmd)
    if refusal is not None:
        return refusal, ()
    known = rows.agents.get(new.id)
    returned = known is not None and known.lost
    rows.agents[new.id] = Agent(
        new.id,
        known.epoch + returned if known is not None else 1,
        new.address,
        new.http,
        new.slots,
        new.executors,
        new.version,
        level=new.level,
        node=new.node or (known.node if known is not None else 0),
        labels=new.labels,
        draining=known is not None and known.draining,
        unfenceable=new.unfenceable,
    )
    _raise_level(rows)
    if not returned:
        return "ok", ()
    unknown = _open_attempts(table, new.id)  # all that its loss has left open
    for run, instance, attempt in unknown:
        lifecycle.regain(table, run, instance, attempt)
    return "ok", _ids(unknown)


def _refuse_up(rows: TableImage, cmd: c.AgentUp) -> str | None:
    new, known = cmd.agent, rows.agents.get(cmd.agent.id)
    if new.id in rows.removed or (new.node and any(one.node == new.node for one in rows.removed.values())):
        return "removed_agent"
    if new.node and any(one.node == new.node and one.id != new.id for one in rows.agents.values()):
        return "node_taken"
    if new.level < rows.level:
        return "older_level"
    if known is None:
        return "table_full" if len(rows.agents) >= rows.limits.agents_max else None  # P12
    if new.node and known.node and new.node != known.node:
        return "node_taken"
    clean = cmd.clean and cmd.epoch in (0, known.epoch)
    return "agent_lost" if known.lost and not clean else None


def _raise_level(rows: TableImage) -> None:
    """What all know may be said from here on."""
    rows.level = max(rows.level, min((agent.level for agent in rows.agents.values()), default=rows.level))


def agent_lost(table: Table, cmd: c.AgentLost) -> Touched:
    """Its lease is over: every open attempt of it goes the way that its job has chosen."""
    agent = table.rows.agents.get(cmd.agent)
    if agent is None:
        return "unknown_agent", ()
    if agent.lost or agent.epoch != cmd.epoch:
        return "stale", ()
    agent.lost, agent.lost_at_ms = True, table.rows.time_ms
    open_ones = _open_attempts(table, agent.id)
    for run, instance, attempt in open_ones:
        lifecycle.lose(table, run, instance, attempt)
    return "ok", _ids(open_ones)


def agent_draining(table: Table, cmd: c.AgentDraining) -> str:
    """It gets nothing more, or something again."""
    agent = table.rows.agents.get(cmd.agent)
    if agent is None:
        return "unknown_agent"
    agent.draining = cmd.on
    return "ok"


def agent_removed(table: Table, cmd: c.AgentRemoved) -> str:
    """Take it out; what it leaves unknown waits on for its word, an operator or the run's time-out."""
    rows = table.rows
    agent = rows.agents.get(cmd.agent)
    if agent is None:
        return "unknown_agent"
    if not agent.lost and table.assigned.get(agent.id):
        return "agent_busy"
    if not agent.lost and all(one.lost for one in rows.agents.values() if one is not agent):
        return "last_agent"  # what was accepted would have nobody to end it (P1)
    del rows.agents[agent.id]
    _raise_level(rows)
    rows.removed[agent.id] = Removed(agent.node, rows.time_ms)
    while len(rows.removed) > rows.limits.removed_max:
        del rows.removed[next(iter(rows.removed))]
    return "ok"


Open = tuple[Run, Instance, Attempt]


def stops_wanted(table: Table, agent: str) -> list[Open]:
    """What this agent has, and is to stop."""
    return [one for one in _open_attempts(table, agent) if one[2].stop_wanted is not None]


def _open_attempts(table: Table, agent: str) -> list[Open]:
    """In an order that is the same on every replica: the index is a set."""
    found = []
    for run_id, name in sorted(table.assigned.get(agent, ())):
        run = table.rows.runs[run_id]
        instance = run.instance(name)
        assert instance is not None
        assert instance.open_attempt is not None
        found.append((run, instance, instance.open_attempt))
    return found


def _ids(open_ones: list[Open]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.id for run, _instance, _attempt in open_ones))

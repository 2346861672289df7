"""The cluster itself and what users apply to it: limits, projects, plugins, jobs, secrets, tokens.

Handlers of `apply.py`: each takes the table and a command and returns a code, "ok" or why nothing was changed.
"""

from __future__ import annotations

from typing import Final, TypeVar

from agent.runtable import commands as c
from agent.runtable.dependencies import circle, edges_of
from agent.runtable.model import FrozenRow, Namespace, Project, Row, secret_key
from agent.runtable.table import Table

TOKENS_MAX: Final = 256  # each is compared with what a request brings (P12)


def found(table: Table, cmd: c.Found) -> str:
    """The cluster gets its id, once."""
    if table.rows.cluster:
        return "exists"
    table.rows.cluster, table.rows.generation = cmd.cluster, cmd.generation
    return "ok"


def set_limits(table: Table, cmd: c.SetLimits) -> str:
    """New limits bind from here on."""
    table.rows.limits = cmd.limits
    return "ok"


def put_project(table: Table, cmd: c.PutProject) -> str:
    """Create or replace a project; what is None stays."""
    old = table.rows.projects.get(cmd.project, Project())
    new = Project(
        old.config if cmd.config is None else cmd.config,
        old.variables if cmd.variables is None else cmd.variables,
        old.presets if cmd.presets is None else cmd.presets,
        {**old.namespaces, **(cmd.namespaces or {})},
        old.pools if cmd.pools is None else cmd.pools,
    )
    return _put(table, "project", table.rows.projects, {cmd.project: new})


def put_plugins(table: Table, cmd: c.PutPlugins) -> str:
    """Create or replace plugins."""
    if cmd.project not in table.rows.projects:
        return "unknown_project"
    rows = table.rows.plugins.setdefault(cmd.project, {})
    return _put(table, f"plugin/{cmd.project}", rows, cmd.plugins)


def put_jobs(table: Table, cmd: c.PutJobs) -> str:
    """Create or replace jobs; a job keeps its namespace, and namespaces are made as they are named."""
    project = table.rows.projects.get(cmd.project)
    if project is None:
        return "unknown_project"
    jobs = table.rows.jobs.setdefault(cmd.project, {})
    for name, job in cmd.jobs.items():
        known = jobs.get(name)
        if known is not None and known.namespace != job.namespace:
            return "exists"
    new = {(cmd.project, name): job for name, job in cmd.jobs.items()}
    if circle(edges_of(table.rows.jobs, new), new) is not None:
        return "dependency_circle"
    code = _put(table, f"job/{cmd.project}", jobs, cmd.jobs)
    if code == "ok":
        for job in cmd.jobs.values():
            project.namespaces.setdefault(job.namespace, Namespace())
        table.size(f"project/{cmd.project}", project)
    return code


RowT = TypeVar("RowT", bound=Row | FrozenRow)


def _put(table: Table, prefix: str, rows: dict[str, RowT], new: dict[str, RowT]) -> str:
    """All of them or none: past the table's limit nothing is put (P12)."""
    if table.bytes_used >= table.rows.limits.bytes_max:
        return "table_full"
    for name, row in new.items():
        rows[name] = row
        table.size(f"{prefix}/{name}", row)
    return "ok"


def delete_job(table: Table, cmd: c.DeleteJob) -> str:
    """Delete a job; its runs stay."""
    jobs = table.rows.jobs.get(cmd.project, {})
    job = jobs.get(cmd.job)
    if job is None or job.namespace != cmd.namespace:
        return "unknown_job"
    del jobs[cmd.job]
    table.size(f"job/{cmd.project}/{cmd.job}", None)
    return "ok"


def put_secret(table: Table, cmd: c.PutSecret) -> str:
    """Create or replace a secret."""
    if cmd.project not in table.rows.projects:
        return "unknown_project"
    key = secret_key(cmd.project, cmd.namespace, cmd.name)
    return _put(table, "secret", table.rows.secrets, {key: cmd.secret})


def delete_secret(table: Table, cmd: c.DeleteSecret) -> str:
    """Delete a secret."""
    key = secret_key(cmd.project, cmd.namespace, cmd.name)
    if key not in table.rows.secrets:
        return "unknown_secret"
    del table.rows.secrets[key]
    table.size(f"secret/{key}", None)
    return "ok"


def put_token(table: Table, cmd: c.PutToken) -> str:
    """Add a token. Also in a full table: who runs the cluster must be able to ask."""
    tokens = table.rows.tokens
    if cmd.name in tokens:
        return "exists"
    if len(tokens) >= TOKENS_MAX:
        return "too_many_tokens"
    tokens[cmd.name] = cmd.token
    table.size(f"token/{cmd.name}", cmd.token)
    return "ok"


def delete_token(table: Table, cmd: c.DeleteToken) -> str:
    """Delete a token."""
    if cmd.name not in table.rows.tokens:
        return "unknown_token"
    del table.rows.tokens[cmd.name]
    table.size(f"token/{cmd.name}", None)
    return "ok"

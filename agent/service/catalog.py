"""Projects, plugins, jobs and secrets: what users apply before anything runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import entry_points
from typing import Final

import msgspec

from agent.engines import GROUP
from agent.errors import Refusal
from agent.provision import safe_path
from agent.runtable import commands as c
from agent.runtable.apply import Applied
from agent.runtable.model import Job, Namespace, Plugin, Project, Secret, secret_key
from agent.runtable.table import Table
from agent.service.common import Accepted, Context, JobBlob, JobFile, unknown
from agent.service.dependencies import missing_jobs, refuse_circle, rows_of
from agent.service.trials import Scope, invalid, kept_positions, scope_of
from agent.spec.check import check_job, relocate
from agent.spec.errors import Position, Problem, Severity, has_errors
from agent.spec.job import ParsedJob, parse_job
from agent.spec.limits import size_problems
from agent.spec.notices import unresolved
from agent.spec.plugin import BUILTIN, parse_plugin
from agent.spec.plugin import Plugin as PluginSpec
from agent.spec.project import KEEP_LOGS, keep_logs_s
from agent.spec.scheduling import QUEUE_LABEL, pools_of
from agent.spec.trial import can_be_tried, trial_time, untold

SECRET_BYTES_MAX: Final = 64 * 1024
JOB_BLOBS_MAX: Final = 64  # kept in memory
JOBS_AT_A_TIME: Final = 16  # in a thread of their own: others get their turn between them
NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-.]{0,219}")
SECRET_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class Catalog:
    """What is applied, and the checks before it is."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._job_blobs: dict[str, JobBlob] = {}  # by hash, the one that was asked for last at the end

    # -- projects --------------------------------------------------------------------------------------------------

    def projects(self) -> dict[str, Project]:
        """All projects by name."""
        return self._context.replica.table.rows.projects

    def project(self, name: str) -> Project:
        """One project. Raises Refusal("unknown_project")."""
        projects = self.projects()
        if name not in projects:
            raise unknown("unknown_project", "project", name, projects)
        return projects[name]

    async def put_project(
        self,
        name: str,
        *,
        config: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        presets: dict[str, dict[str, str]] | None = None,
        namespaces: dict[str, Namespace] | None = None,
    ) -> Accepted:
        """Create or change a project; what is None stays as it is."""
        for one in (name, *(namespaces or ())):
            check_name(one)
        try:
            keep_logs_s(config or {})
        except ValueError as error:
            raise Refusal("invalid", f"config.{KEEP_LOGS}: {error}", 422) from error
        pools, wrong = pools_of(config) if config is not None else (None, {})
        for key, message in wrong.items():
            raise Refusal("invalid", f"config {key}: {message}", 422)
        command = c.PutProject(self._context.now_ms(), name, config, variables, presets, namespaces, pools)
        applied = await self._context.propose(command)
        return Accepted(applied.index, names=(name,))

    async def _make_project(self, name: str) -> None:
        if name not in self.projects():
            await self.put_project(name)

    # -- plugins ---------------------------------------------------------------------------------------------------

    def plugins(self, project: str) -> dict[str, PluginSpec]:
        """The plugins that jobs of the project can name, the built-in ones included."""
        rows = self._context.replica.table.rows.plugins.get(project, {})
        return {**BUILTIN, **{name: _parsed(name, row.yaml) for name, row in rows.items()}}

    async def put_plugins(self, project: str, files: Sequence[tuple[str, str]]) -> Accepted:
        """Apply plugins, all or none. files: (path, YAML text). Raises Refusal("spec_invalid") with every problem."""
        rows: dict[str, Plugin] = {}
        problems: list[Problem] = []
        for path, text in files:
            plugin, found = parse_plugin(text, path)
            problems += found
            if plugin is None:
                continue
            if plugin.name in rows:
                problems.append(Problem(path, 1, 1, "name", f"the plugin {plugin.name} is in two of the files"))
            rows[plugin.name] = Plugin(text, self._context.now_ms())
        if has_errors(problems):
            raise invalid(problems)
        await self._make_project(project)
        applied = await self._context.propose(c.PutPlugins(self._context.now_ms(), project, rows))
        return Accepted(applied.index, names=tuple(rows), warnings=tuple(problems))

    # -- jobs ------------------------------------------------------------------------------------------------------

    def jobs(self, project: str, namespace: str | None = None) -> dict[str, Job]:
        """The jobs of a project, or of one of its namespaces, by name."""
        self.project(project)
        jobs = self._context.replica.table.rows.jobs.get(project, {})
        return {name: job for name, job in sorted(jobs.items()) if namespace in (None, job.namespace)}

    def job(self, project: str, name: str) -> Job:
        """One job. Raises Refusal("unknown_project", "unknown_job")."""
        jobs = self.jobs(project)
        if name not in jobs:
            raise unknown("unknown_job", f"job in project {project}", name, jobs)
        return jobs[name]

    def applied(self, project: str, name: str) -> Job | None:
        """One job, None where it is not applied."""
        return self._context.replica.table.rows.jobs.get(project, {}).get(name)

    async def job_blob(self, job: Job) -> JobBlob:
        """The whole of an applied job. To be read only: the last ones are kept."""
        blob = self._job_blobs.pop(job.spec, None)
        if blob is None:
            blob = msgspec.json.decode(await self._context.load(job.spec), type=JobBlob)
        self._job_blobs[job.spec] = blob
        if len(self._job_blobs) > JOB_BLOBS_MAX:
            del self._job_blobs[next(iter(self._job_blobs))]
        return blob

    async def put_jobs(self, project: str, namespace: str, files: Sequence[JobFile]) -> Accepted:
        """Apply jobs, all or none.

        Raises Refusal: "spec_invalid" with every problem of every file, "too_large" for assets past their limits.
        """
        check_name(project)
        check_name(namespace)
        checked, warnings = await self.check(project, files, namespace)
        names = [blob.job.name for blob in checked]
        await self._make_project(project)
        self._refuse_moved(project, namespace, names)
        digests = await self._context.store([msgspec.json.encode(blob, order="deterministic") for blob in checked])
        now_ms = self._context.now_ms()
        rows = {
            blob.job.name: _row(project, namespace, digest, blob, now_ms)
            for blob, digest in zip(checked, digests, strict=True)
        }
        by_name = dict(zip(names, checked, strict=True))
        applied = await self._put(project, rows, by_name)
        warnings += missing_jobs(self._context.replica.table, project, by_name)
        notes = tuple(
            f"{blob.job.name}: its schedule ({blob.job.schedule.interval}) does not run yet; run it with `job run`"
            for blob in checked
            if blob.job.schedule.interval
        )
        return Accepted(applied.index, names=tuple(names), warnings=warnings, notes=notes)

    async def _put(self, project: str, rows: dict[str, Job], blobs: dict[str, JobBlob]) -> Applied:
        table = self._context.replica.table
        refuse_circle(table, project, rows, blobs)
        try:
            return await self._context.propose(c.PutJobs(self._context.now_ms(), project, rows))
        except Refusal as refusal:
            if refusal.code == "dependency_circle":  # by what was applied meanwhile
                refuse_circle(table, project, rows, blobs)
            raise

    def _refuse_moved(self, project: str, namespace: str, names: Sequence[str]) -> None:
        jobs = self._context.replica.table.rows.jobs.get(project, {})
        for name in names:
            if name in jobs and jobs[name].namespace != namespace:
                there = jobs[name].namespace
                raise Refusal(
                    "job_elsewhere",
                    f"the job {name!r} is in the namespace {there!r}; a name is unique in its project: delete it there "
                    "first, or choose another",
                    409,
                )

    async def check(
        self, project: str, files: Sequence[JobFile], tried_in: str | None = None
    ) -> tuple[list[JobBlob], tuple[Problem, ...]]:
        """Check jobs against the project's plugins, presets and executors, and store their assets. Raises Refusal.

        tried_in: the namespace whose variables and secrets to compile them with; None = they are not compiled.
        Returns the jobs, and what is to be told of them although they are taken. Of many jobs this is seconds of work:
        it is done beside the event loop, a few at a time.
        """
        for file in files:
            _check_assets(file)
        judge = self._judge(project, tried_in)
        judged: list[tuple[ParsedJob, list[Problem]]] = []
        for first in range(0, len(files), JOBS_AT_A_TIME):
            judged += await asyncio.to_thread(
                lambda some: list(map(judge, some)), files[first : first + JOBS_AT_A_TIME]
            )
        problems = [problem for _parsed, found in judged for problem in found]
        problems += _doubled(files, [parsed for parsed, _found in judged])
        if has_errors(problems):
            raise invalid(list(dict.fromkeys(problems)))  # what is wrong in a this.yaml is said once
        blobs = [await self._store(file, parsed) for file, (parsed, _found) in zip(files, judged, strict=True)]
        return blobs, tuple(dict.fromkeys(problems))

    def _judge(self, project: str, tried_in: str | None) -> Callable[[JobFile], tuple[ParsedJob, list[Problem]]]:
        """What reads a job and finds its problems, with the table as it is now. It blocks as long as that takes."""
        table = self._context.replica.table
        row = table.rows.projects.get(project, Project())
        presets, pools = tuple(row.presets), dict(row.pools)
        queues = known_queues(table)
        plugins = self.plugins(project)
        executors = known_executors(table)
        scope = scope_of(self._context, project, tried_in, plugins) if tried_in is not None else None
        now = datetime.fromtimestamp(self._context.now_ms() / 1000, UTC)

        def judge(file: JobFile) -> tuple[ParsedJob, list[Problem]]:
            parsed = parse_job(file.text, file.path, file.parents)
            if parsed.job is None:
                return parsed, list(parsed.problems)
            found = check_job(
                parsed.job,
                plugins,
                file.path,
                positions=parsed.positions,
                presets=presets,
                assets=tuple(file.assets),
                executors=executors,
                pools=pools,
                queues=queues,
            )
            problems = [*parsed.problems, *found]
            if scope is not None and can_be_tried(problems):
                problems += untold(_tried(scope, file, parsed, now, launch=not has_errors(problems)), problems)
            return parsed, problems

        return judge

    async def _store(self, file: JobFile, parsed: ParsedJob) -> JobBlob:
        assert parsed.job is not None
        paths = list(file.assets)
        digests = await asyncio.to_thread(self._context.blobs.put_all, [file.assets[path] for path in paths])
        return JobBlob(parsed.job, dict(zip(paths, digests, strict=True)), file.path, kept_positions(parsed.positions))

    async def delete_job(self, project: str, namespace: str, name: str) -> Accepted:
        """Delete a job; its runs and history stay."""
        job = self.job(project, name)
        if job.namespace != namespace:
            raise unknown("unknown_job", f"job in namespace {namespace}", name, self.jobs(project, namespace))
        applied = await self._context.propose(c.DeleteJob(self._context.now_ms(), project, namespace, name))
        return Accepted(applied.index, names=(name,))

    # -- secrets ---------------------------------------------------------------------------------------------------

    def secrets(self, project: str) -> list[tuple[str, str, int]]:
        """(namespace, name, updated_at_ms) of each secret; namespace "" = the whole project's. Never a value."""
        self.project(project)
        found = []
        for key, secret in sorted(self._context.replica.table.rows.secrets.items()):
            owner, namespace, name = key.split("/")
            if owner == project:
                found.append((namespace, name, secret.updated_at_ms))
        return found

    async def put_secret(self, project: str, namespace: str, name: str, value: str) -> Accepted:
        """Create or replace a secret. It is encrypted before anything else sees it."""
        self.project(project)
        if not SECRET_NAME.fullmatch(name):
            message = f"{name!r} is no name for a secret: letters, digits and '_', at most 100, no digit first"
            raise Refusal("invalid_name", message, 422)
        if namespace:
            check_name(namespace)
        if "\0" in value:
            raise Refusal("invalid", "a secret cannot have a NUL character: no program could be given it", 422)
        if len(value.encode()) > SECRET_BYTES_MAX:
            raise Refusal("too_large", f"a secret has at most {SECRET_BYTES_MAX} bytes", 413)
        sealed = self._context.keyring.encrypt(value, context=secret_key(project, namespace, name))
        now_ms = self._context.now_ms()
        applied = await self._context.propose(c.PutSecret(now_ms, project, namespace, name, Secret(sealed, now_ms)))
        return Accepted(applied.index, names=(name,))

    async def delete_secret(self, project: str, namespace: str, name: str) -> Accepted:
        """Delete a secret. Raises Refusal("unknown_secret")."""
        applied = await self._context.propose(c.DeleteSecret(self._context.now_ms(), project, namespace, name))
        return Accepted(applied.index, names=(name,))


def check_name(name: str) -> None:
    """Raise Refusal unless `name` is a name for a project or a namespace."""
    if not NAME.fullmatch(name):
        raise Refusal("invalid_name", f"{name!r} is no name: letters, digits, '_', '-' and '.', at most 220", 422)


def _tried(scope: Scope, file: JobFile, parsed: ParsedJob, now: datetime, *, launch: bool) -> list[Problem]:
    """What a trial rendering finds; launch: and what keeps it from being started.

    A secret may still be set before the first run: without it there is a warning.
    """
    assert parsed.job is not None
    blob = JobBlob(parsed.job, dict.fromkeys(file.assets, ""), file.path, dict(parsed.positions))
    trial = scope.attempt(scope.bundle(blob), blob, trial_time(parsed.job, now), file.assets, launch=launch)
    quiet = unresolved(scope.bundle(blob), scope.secrets, file.path)
    told = (relocate(one, file.path, parsed.positions) for one in quiet)
    return [*trial.problems, *(replace(one, severity=Severity.WARNING) for one in trial.missing), *told]


def _doubled(files: Sequence[JobFile], parsed: Sequence[ParsedJob]) -> Iterator[Problem]:
    """The names that an earlier of the files has already."""
    first: dict[str, str] = {}
    for file, one in zip(files, parsed, strict=True):
        if one.job is None:
            continue
        if one.job.name in first:
            at = one.positions.get("name", Position(file.path, 1, 1))
            message = f"the job name {one.job.name!r} is used by two of the files, {first[one.job.name]} is the other"
            yield Problem(*at, "name", message)
        first.setdefault(one.job.name, file.path)


def known_executors(table: Table) -> frozenset[str]:
    """The executors that are installed here, and those that an agent of the cluster has said it has."""
    elsewhere = {name for agent in table.rows.agents.values() for name in agent.executors}
    return _installed_executors() | elsewhere


def known_queues(table: Table) -> frozenset[str]:
    """The queues that an agent of the cluster listens to."""
    return frozenset(agent.labels.get(QUEUE_LABEL, "") for agent in table.rows.agents.values())


@cache
def _installed_executors() -> frozenset[str]:
    return frozenset(point.name for point in entry_points(group=GROUP))


def _parsed(name: str, text: str) -> PluginSpec:
    """A plugin that was checked before it came into the table."""
    plugin, problems = parse_plugin(text, f"plugin {name}")
    assert plugin is not None, problems
    return plugin


def _check_assets(file: JobFile) -> None:
    for path in file.assets:
        try:
            safe_path(path)
        except ValueError as error:
            raise Refusal("invalid_path", f"{file.path}: {error}", 422) from error
    for text in size_problems({path: len(data) for path, data in file.assets.items()}):
        raise Refusal("too_large", f"{file.path}: {text}", 413)


def _row(project: str, namespace: str, digest: str, blob: JobBlob, now_ms: int) -> Job:
    job = blob.job
    return Job(
        namespace,
        digest,
        job.owner,
        job.description[:200],
        job.schedule.interval,
        job.task.name,
        now_ms,
        rows_of(project, job),
    )

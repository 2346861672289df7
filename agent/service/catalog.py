"""Projects, plugins, jobs and secrets: what users apply before anything runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from agent.errors import Refusal
from agent.provision import safe_path
from agent.runtable import commands as c
from agent.runtable.model import Job, Namespace, Plugin, Project, Secret, secret_key
from agent.service.common import Accepted, Context, JobBlob, JobFile, unknown
from agent.spec.check import check_job
from agent.spec.errors import Problem, has_errors
from agent.spec.job import ParsedJob, parse_job
from agent.spec.plugin import BUILTIN, parse_plugin
from agent.spec.plugin import Plugin as PluginSpec
from agent.store.blobs import BLOB_BYTES_MAX

JOB_ASSET_BYTES_MAX: Final = 64 * 1024 * 1024
SECRET_BYTES_MAX: Final = 64 * 1024
NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-.]{0,219}")
SECRET_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class Catalog:
    """What is applied, and the checks before it is."""

    def __init__(self, context: Context) -> None:
        self._context = context

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
        command = c.PutProject(self._context.now_ms(), name, config, variables, presets, namespaces)
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

    async def job_blob(self, job: Job) -> JobBlob:
        """The whole of an applied job."""
        data = await asyncio.to_thread(self._context.blobs.get, job.spec)
        return msgspec.json.decode(data, type=JobBlob)

    async def put_jobs(self, project: str, namespace: str, files: Sequence[JobFile]) -> Accepted:
        """Apply jobs, all or none.

        Raises Refusal: "spec_invalid" with every problem of every file, "too_large" for assets past their limits.
        """
        check_name(project)
        check_name(namespace)
        checked = await self.check(project, files)
        names = [blob.job.name for blob in checked]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Refusal("spec_invalid", f"the job name {twice[0]!r} is used by two of the files", 422)
        await self._make_project(project)
        self._refuse_moved(project, namespace, names)
        digests = await asyncio.to_thread(
            self._context.blobs.put_all, [msgspec.json.encode(blob, order="deterministic") for blob in checked]
        )
        now_ms = self._context.now_ms()
        rows = {
            blob.job.name: _row(namespace, digest, blob, now_ms) for blob, digest in zip(checked, digests, strict=True)
        }
        applied = await self._context.propose(c.PutJobs(now_ms, project, rows))
        warnings = [problem for file in files for problem in _parse(file).problems]
        notes = tuple(
            f"{blob.job.name}: its schedule ({blob.job.schedule.interval}) does not run yet; run it with `job run`"
            for blob in checked
            if blob.job.schedule.interval
        )
        return Accepted(applied.index, names=tuple(names), warnings=tuple(warnings), notes=notes)

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

    async def check(self, project: str, files: Sequence[JobFile]) -> list[JobBlob]:
        """Check jobs against the project's plugins and presets, and store their assets. Raises Refusal."""
        presets = self.projects().get(project, Project()).presets
        plugins = self.plugins(project)
        problems: list[Problem] = []
        parsed: list[tuple[JobFile, ParsedJob]] = []
        for file in files:
            _check_assets(file)
            one = _parse(file)
            parsed.append((file, one))
            problems += one.problems
            if one.job is not None:
                problems += check_job(
                    one.job, plugins, file.path, positions=one.positions, presets=presets, assets=tuple(file.assets)
                )
        if has_errors(problems):
            raise invalid(problems)
        return [await self._store(file, one) for file, one in parsed]

    async def _store(self, file: JobFile, parsed: ParsedJob) -> JobBlob:
        assert parsed.job is not None
        paths = list(file.assets)
        digests = await asyncio.to_thread(self._context.blobs.put_all, [file.assets[path] for path in paths])
        return JobBlob(parsed.job, dict(zip(paths, digests, strict=True)), file.path)

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


def invalid(problems: Sequence[Problem]) -> Refusal:
    """The refusal of texts with errors, carrying every problem."""
    errors = [problem for problem in problems if has_errors([problem])]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Refusal("spec_invalid", f"{errors[0]}{more}", 422, problems=problems)


def with_config(blob: JobBlob, config: Mapping[str, str]) -> JobBlob:
    """The job with some of its task's config overridden by a request."""
    task = replace(blob.job.task, config={**blob.job.task.config, **config})
    return JobBlob(replace(blob.job, task=task), blob.assets, blob.path)


def _parse(file: JobFile) -> ParsedJob:
    return parse_job(file.text, file.path, file.parents)


def _parsed(name: str, text: str) -> PluginSpec:
    """A plugin that was checked before it came into the table."""
    plugin, problems = parse_plugin(text, f"plugin {name}")
    assert plugin is not None, problems
    return plugin


def _check_assets(file: JobFile) -> None:
    total = 0
    for path, data in file.assets.items():
        try:
            safe_path(path)
        except ValueError as error:
            raise Refusal("invalid_path", f"{file.path}: {error}", 422) from error
        total += len(data)
        if len(data) > BLOB_BYTES_MAX:
            limit = BLOB_BYTES_MAX // 2**20
            raise Refusal("too_large", f"{file.path}: the asset {path} has {len(data)} bytes; {limit} MiB at most", 413)
    if total > JOB_ASSET_BYTES_MAX:
        limit = JOB_ASSET_BYTES_MAX // 2**20
        raise Refusal("too_large", f"{file.path}: its assets have {total} bytes; {limit} MiB a job at most", 413)


def _row(namespace: str, digest: str, blob: JobBlob, now_ms: int) -> Job:
    job = blob.job
    return Job(namespace, digest, job.owner, job.description[:200], job.schedule.interval, job.task.name, now_ms)

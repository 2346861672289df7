"""Whether a job can be compiled and started: asked before it is applied, and again before a run is accepted (P11)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from agent.errors import Refusal
from agent.provision import sealed_secrets
from agent.runtable.model import Namespace, Project
from agent.service.common import Context, JobBlob
from agent.spec import bundle as bundles
from agent.spec import params
from agent.spec.bundle import EXECUTOR_KEY, Bundle, Planned
from agent.spec.check import relocate
from agent.spec.errors import PluginError, Position, Problem, has_errors
from agent.spec.jobspec import WindowSpec
from agent.spec.lookups import Masked
from agent.spec.plugin import Plugin
from agent.spec.trial import Trial, try_bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the jobs of a namespace are compiled with. A copy: other threads may use it while the table goes on.

    plugins: all that the project has, by name.  secrets: the names that exist.  fallback: executors that stand in for
    absent ones, in development.  pools: the slots of the project's.
    """

    project: str
    namespace: str
    plugins: Mapping[str, Plugin]
    variables: dict[str, str]
    presets: Mapping[str, Mapping[str, str]]
    executor: str
    secrets: Masked
    fallback: Mapping[str, str]
    pools: Mapping[str, int]

    def bundle(self, blob: JobBlob) -> Bundle:
        """What a run of the job would be accepted with. Raises Refusal("spec_invalid") for an unknown plugin."""
        window = blob.job.task.window
        preset = self.presets.get(window.preset) if window is not None and window.preset else None
        try:
            used = bundles.used_plugins(blob.job, self.plugins)
        except PluginError as error:
            raise invalid(placed([Problem(blob.path, 1, 1, "", str(error))], blob)) from error
        return Bundle(
            job=blob.job,
            project=self.project,
            namespace=self.namespace,
            plugins=used,
            variables=self.variables,
            preset=WindowSpec(**preset) if preset is not None else None,
            assets=blob.assets,
            executor=self.executor,
            params=params.defaults(blob.job.params),
        )

    def executor_of(self, planned: Planned) -> str:
        """The executor; in development another one may stand in for one that is not there, and the answer says so."""
        return self.fallback.get(planned.executor, planned.executor)

    def attempt(
        self, bundle: Bundle, blob: JobBlob, at: datetime, assets: Mapping[str, bytes], *, launch: bool = True
    ) -> Trial:
        """Try a bundle with `***` for every secret; what is found is placed where the job's author has it.

        blob: what the bundle was made of.  at: the scheduled time to try, aware.  assets: {path: raw bytes}.
        launch: look at what would be executed, too. Blocks as long as the job's templates take.
        """
        executor = self.executor_of if launch else None
        found = try_bundle(bundle, at=at, secrets=self.secrets, assets=assets, executor=executor)
        return replace(found, problems=placed(found.problems, blob), missing=placed(found.missing, blob))


def scope_of(context: Context, project: str, namespace: str, plugins: Mapping[str, Plugin]) -> Scope:
    """What the table says now. A project or namespace that is not there yet is an empty one."""
    table = context.replica.table
    row = table.rows.projects.get(project, Project())
    scope = row.namespaces.get(namespace, Namespace())
    return Scope(
        project=project,
        namespace=namespace,
        plugins=plugins,
        variables=bundles.variables_of(row.config, scope.config, row.variables, scope.variables),
        presets=dict(row.presets),
        executor={**row.config, **scope.config}.get(EXECUTOR_KEY, ""),
        secrets=Masked(frozenset(sealed_secrets(table, project, namespace))),
        fallback=context.fallback,
        pools=dict(row.pools),
    )


def placed(problems: Collection[Problem], blob: JobBlob) -> tuple[Problem, ...]:
    """Problems of compiling, where the job's author finds them. A job of which no path is known keeps its name."""
    if not blob.path:
        return tuple(problems)
    return tuple(relocate(one, blob.path, blob.positions, blob.assets) for one in problems)


def invalid(problems: Collection[Problem]) -> Refusal:
    """The refusal of texts with errors, carrying every problem."""
    errors = [problem for problem in problems if has_errors([problem])]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Refusal("spec_invalid", f"{errors[0]}{more}", 422, problems=tuple(problems))


def with_config(blob: JobBlob, config: Mapping[str, str]) -> JobBlob:
    """The job with some of its task's config overridden by a request; these values stand nowhere in its file."""
    task = replace(blob.job.task, config={**blob.job.task.config, **config})
    asked = asked_keys(config)
    positions = {key: place for key, place in blob.positions.items() if key not in asked}
    return JobBlob(replace(blob.job, task=task), blob.assets, blob.path, positions)


def asked_keys(config: Mapping[str, str]) -> frozenset[str]:
    """The keys, as problems have them, of the values that a request overrides."""
    return frozenset(f"task.config.{key}" for key in config)


def kept_positions(positions: Mapping[str, Position]) -> dict[str, Position]:
    """The places that problems of compiling can point at."""
    return {
        key: place for key, place in positions.items() if key.startswith(("task", "hooks", "labels", "dependencies"))
    }

"""What can be judged of a job only with its plugins, presets and assets at hand."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final, Protocol

from agent.spec import notices
from agent.spec.compile import OWN_VARIABLES
from agent.spec.document import Problems, nearest
from agent.spec.errors import PluginError, Position, Problem, Severity
from agent.spec.jobspec import (
    BehaviorSpec,
    HookSpec,
    HookType,
    JobSpec,
    Overlap,
    SchedulerSpec,
    TaskSpec,
    TriggerRule,
)
from agent.spec.limits import argument_problem, asset_problems
from agent.spec.plugin import BUILTIN, CONTAINER, SHELL, Plugin, PluginKind, script_asset
from agent.spec.scheduling import DEFAULT_QUEUE, QUEUE_LABEL, pool_of

_START: Final = (1, 1)


class _Report(Protocol):
    """Takes what is wrong at a key."""

    def __call__(self, key: str, message: str, severity: Severity = Severity.ERROR) -> None: ...


def check_job(
    job: JobSpec,
    plugins: Mapping[str, Plugin],
    file: str,
    *,
    positions: Mapping[str, Position] | None = None,
    presets: Collection[str] | None = None,
    assets: Collection[str] | None = None,
    executors: Collection[str] | None = None,
    pools: Mapping[str, int] | None = None,
    queues: Collection[str] | None = None,
) -> tuple[Problem, ...]:
    """Check a job against what it names.

    Arguments: `plugins`, the project's own by name (the built-in ones are always known); `file`, the job's, for
    problems; `positions`, those of `ParsedJob`, so that problems point at the right line; `presets`, the names of the
    project's window presets, `assets`, the paths of the job's assets, `executors`, the names of those that can be had,
    `pools`, the slots of the project's, and `queues`, those that agents listen to; None = not known, so not checked.
    Returns all problems; raises nothing.
    """
    problems = Problems()
    known = {**BUILTIN, **plugins}

    def report(key: str, message: str, severity: Severity = Severity.ERROR) -> None:
        problems.add(_place(key, file, positions or {}), key, message, severity)

    _check_instance(job.task, "task", known, assets, report)
    seen: set[str] = set()
    for index, hook in enumerate(job.hooks):
        _check_instance(hook, f"hooks[{index}]", known, assets, report)
        if hook.name in seen:
            report(f"hooks[{index}].name", f"the hook {hook.name} is given twice; a hook runs once in a job")
        seen.add(hook.name)
        _check_rule(hook, f"hooks[{index}]", known.get(hook.name), report)
    _check_limits(job.behavior, report)
    _check_scheduler(job.metadata.scheduler, pools, queues, report)
    for name, declared in job.params.items() if job.schedule.interval else ():
        if declared.default is None:
            message = "has no default: a run that the schedule asks for would have no value"
            report(f"params.{name}", message, Severity.WARNING)
    _check_dependencies(job, report)
    for key, message, severity in notices.problems(job):
        report(key, message, severity)
    if cycle := _cycle(job, known):
        report(
            "hooks", f"hooks wait for each other in a circle: {' -> '.join(cycle)}; break it in a plugin's dependson"
        )
    if assets is not None:
        task = known.get(job.task.name)
        for message in asset_problems({*assets, *(task.default_assets if task is not None else ())}):
            report("assets", message)
    for path, instance in _instances(job):
        if executors is not None and instance.executor and instance.executor not in executors:
            message = f"no executor is called {instance.executor!r} here{nearest(instance.executor, executors)}"
            report(f"{path}.executor", message, Severity.WARNING)
    preset = job.task.window.preset if job.task.window else ""
    if preset and presets is not None and preset not in presets:
        report("task.window.preset", f"there is no preset {preset!r}{nearest(preset, presets)}")
    return problems.listed()


def _check_limits(behavior: BehaviorSpec, report: _Report) -> None:
    if behavior.overlap is Overlap.ALLOW and behavior.max_active_runs is not None:
        message = "has no effect with overlap allow, which lets every run begin; take overlap queue, or leave it out"
        report("behavior.max_active_runs", message, Severity.WARNING)


def _check_scheduler(
    scheduler: SchedulerSpec, pools: Mapping[str, int] | None, queues: Collection[str] | None, report: _Report
) -> None:
    """All of it are warnings: the project's config and the agents may still change, and the run says what it awaits."""
    if scheduler.pool_slots != 1 and not scheduler.pool:
        report("metadata.scheduler.pool_slots", "has no effect without a pool", Severity.WARNING)
    name = pool_of(scheduler, pools) if pools is not None else ""
    if pools is not None and name and name not in pools:
        hint = nearest(name, pools)
        message = f"the project has no pool {name!r}{hint}; what waits for it does so until its config has pool.{name}"
        report("metadata.scheduler.pool", message, Severity.WARNING)
    elif pools is not None and name and pools[name] < scheduler.pool_slots:
        message = f"the pool {name} has {pools[name]}, so that nothing of the job can start until it has more"
        report("metadata.scheduler.pool_slots", message, Severity.WARNING)
    queue = scheduler.queue if scheduler.queue != DEFAULT_QUEUE else ""
    if queues is not None and queue and queue not in queues:
        message = f"no agent has the label {QUEUE_LABEL}={queue}; what waits for it does so until one has"
        report("metadata.scheduler.queue", message, Severity.WARNING)


def _instances(job: JobSpec) -> Iterator[tuple[str, TaskSpec | HookSpec]]:
    """The task and the hooks, each with its path in the spec."""
    yield "task", job.task
    for index, hook in enumerate(job.hooks):
        yield f"hooks[{index}]", hook


def _check_instance(
    instance: TaskSpec | HookSpec,
    path: str,
    known: Mapping[str, Plugin],
    assets: Collection[str] | None,
    report: _Report,
) -> None:
    _check_config(instance, path, report)
    plugin = known.get(instance.name)
    if plugin is None:
        report(f"{path}.name", f"there is no plugin {instance.name!r}{nearest(instance.name, known)}")
        return
    kind = PluginKind.TASK if isinstance(instance, TaskSpec) else PluginKind.HOOK
    if plugin.kind not in (kind, PluginKind.ANY):
        report(f"{path}.name", f"the plugin {plugin.name} is a {plugin.kind}; a {kind} plugin is required here")
    try:
        plugin.version(instance.version)
    except PluginError as error:
        report(f"{path}.version", str(error))
    config = {**plugin.default_config, **instance.config}
    if plugin is CONTAINER and not config.get(CONTAINER.image_key, "").strip():
        report(f"{path}.config", "the plugin container needs the config IMAGE: the image to run")
    has_script = bool(config.get(SHELL.script_key, "").strip()) or assets is None or script_asset(assets) is not None
    if plugin is SHELL and not has_script:
        report(f"{path}.config", "the plugin shell needs the config SCRIPT or an asset script.sh")


def _check_rule(hook: HookSpec, path: str, plugin: Plugin | None, report: _Report) -> None:
    """Fail and teardown hooks have a rule of their own; so has a teardown in Airflow."""
    kind = hook.hooktype or (plugin.hook_type if plugin is not None else None)
    if hook.trigger_rule is None:
        return
    if kind is HookType.FAIL:
        message = "a fail hook runs when something failed; take hooktype post for a hook with another rule"
        report(f"{path}.trigger_rule", message)
    elif kind is HookType.TEARDOWN:
        message = f"a teardown hook has the rule {TriggerRule.ALL_DONE_SETUP_SUCCESS}; take hooktype post for another"
        report(f"{path}.trigger_rule", message)


def _check_dependencies(job: JobSpec, report: _Report) -> None:
    """Each is awaited once, and an http dependency is known by its name."""
    seen: set[str] = set()
    for index, one in enumerate(job.dependencies):
        key, name = ("http.name", f"http {one.http.name}") if one.http is not None else ("job", one.job)
        if name in seen:
            report(f"dependencies[{index}].{key}", f"{name} is a dependency already; name each once")
        seen.add(name)
        if one.job == job.name:
            report(f"dependencies[{index}].job", f"the job would wait for itself: {job.name} -> {job.name}")


def _check_config(instance: TaskSpec | HookSpec, path: str, report: _Report) -> None:
    """What is a template is judged when it is rendered."""
    for name, text in instance.config.items():
        key = f"{path}.config.{name}"
        if "{{" not in text and (message := argument_problem(text.strip(), name)) is not None:
            report(key, message)
        if name in OWN_VARIABLES:
            report(key, own_variable(name), Severity.WARNING)


def own_variable(name: str) -> str:
    """What is told of a config value whose name is one of `OWN_VARIABLES`."""
    return f"has no effect; {name} is prime's own variable, and each attempt finds prime's value"


def _cycle(job: JobSpec, known: Mapping[str, Plugin]) -> list[str]:
    """Return a circle among the job's hooks, its first name repeated at its end; empty where there is none."""
    names = {hook.name for hook in job.hooks}
    waits = {name: [other for other in known[name].depends_on if other in names] for name in names if name in known}
    done: set[str] = set()
    for start in sorted(waits):
        # Depth first, without recursion; `path` holds the names from `start` down, `todo` what is left at each of them.
        path, todo = [start], [list(waits[start])]
        while path:
            if not todo[-1]:
                done.add(path.pop())
                todo.pop()
                continue
            name = todo[-1].pop(0)
            if name in path:
                return [*path[path.index(name) :], name]
            if name not in done:
                path.append(name)
                todo.append(list(waits.get(name, ())))
    return []


def relocate(problem: Problem, file: str, positions: Mapping[str, Position], assets: Collection[str] = ()) -> Problem:
    """A problem of compiling, where its author finds it: the value in the job's file, or the asset beside it.

    A value that is not in the file, such as a plugin's default, is placed at the nearest key above it that is.
    """
    if problem.file in assets:
        folder = file.rpartition("/")[0]
        return replace(problem, file=f"{folder}/assets/{problem.file}" if folder else f"assets/{problem.file}")
    place = _place(problem.key, file, positions)
    return replace(problem, file=place.file, line=place.line, column=place.column)


def _place(key: str, file: str, positions: Mapping[str, Position]) -> Position:
    """Where a key stands; of one that is not there, the nearest above it that is, and else the file's start."""
    while key and key not in positions:
        key = key.rpartition(".")[0]
    return positions.get(key, Position(file, *_START))

"""What can be judged of a job only with its plugins, presets and assets at hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from agent.spec.document import Problems, nearest
from agent.spec.errors import PluginError, Position, Problem
from agent.spec.jobspec import HookSpec, JobSpec, TaskSpec
from agent.spec.plugin import BUILTIN, CONTAINER, SHELL, Plugin, PluginKind, script_asset

_START: Final = (1, 1)


def check_job(
    job: JobSpec,
    plugins: Mapping[str, Plugin],
    file: str,
    *,
    positions: Mapping[str, Position] | None = None,
    presets: Collection[str] | None = None,
    assets: Collection[str] | None = None,
) -> tuple[Problem, ...]:
    """Check a job against what it names.

    Arguments: `plugins`, the project's own by name (the built-in ones are always known); `file`, the job's, for
    problems; `positions`, those of `ParsedJob`, so that problems point at the right line; `presets`, the names of the
    project's window presets, and `assets`, the paths of the job's assets; None = not known, so not checked.
    Returns all problems; raises nothing.
    """
    problems = Problems()
    known = {**BUILTIN, **plugins}

    def report(key: str, message: str) -> None:
        places = positions or {}
        # Of a key that is not there, the nearest one above it that is.
        at = key
        while at and at not in places:
            at = at.rpartition(".")[0]
        problems.add(places.get(at, Position(file, *_START)), key, message)

    _check_instance(job.task, "task", known, assets, report)
    seen: set[str] = set()
    for index, hook in enumerate(job.hooks):
        _check_instance(hook, f"hooks[{index}]", known, assets, report)
        if hook.name in seen:
            report(f"hooks[{index}].name", f"the hook {hook.name} is given twice; a hook runs once in a job")
        seen.add(hook.name)
    if cycle := _cycle(job, known):
        report(
            "hooks", f"hooks wait for each other in a circle: {' -> '.join(cycle)}; break it in a plugin's dependson"
        )
    preset = job.task.window.preset if job.task.window else ""
    if preset and presets is not None and preset not in presets:
        report("task.window.preset", f"there is no preset {preset!r}{nearest(preset, presets)}")
    return problems.listed()


def _check_instance(
    instance: TaskSpec | HookSpec,
    path: str,
    known: Mapping[str, Plugin],
    assets: Collection[str] | None,
    report: Callable[[str, str], None],
) -> None:
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
    """A problem of compiling, where its author finds it: the value in the job's file, or the asset beside it."""
    if problem.file in assets:
        folder = file.rpartition("/")[0]
        return replace(problem, file=f"{folder}/assets/{problem.file}" if folder else f"assets/{problem.file}")
    place = positions.get(problem.key)
    if place is None:
        return replace(problem, file=file)
    return replace(problem, file=place.file, line=place.line, column=place.column)

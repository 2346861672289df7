"""A trial: can all of a job be compiled and started? Asked before it is applied, and before a run is accepted (P11)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from agent.spec import bundle as bundles
from agent.spec.bundle import Bundle, Planned, spec_of
from agent.spec.compile import launch, render_instance, schedule_of, spec_file, spec_path
from agent.spec.errors import PluginError, Problem, Severity, SpecError
from agent.spec.jobspec import JobSpec
from agent.spec.poke import http_problems


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial has found, each thing once.

    problems: what cannot be compiled or started.  missing: the places that read a secret which does not exist.
    planned: the instances in their order, () where there is none.  Places are as `compile_instance` has them:
    `check.relocate` turns them into the author's.
    """

    problems: tuple[Problem, ...]
    missing: tuple[Problem, ...]
    planned: tuple[Planned, ...]


def try_bundle(
    bundle: Bundle,
    *,
    at: datetime,
    secrets: Mapping[str, str],
    assets: Mapping[str, bytes],
    executor: Callable[[Planned], str] | None,
) -> Trial:
    """Compile every instance of a run, and look at what would be executed. Nothing is kept of it; raises nothing.

    at: the scheduled time it is tried for, aware.  secrets: those that exist, as `Masked`.  assets: {path: raw bytes}.
    executor: which one an instance would be handed to; None = what would be executed is not looked at.
    """
    try:
        planned = bundles.plan(bundle)
    except PluginError as error:
        return Trial((Problem(spec_file(bundle.job), 1, 1, "hooks", str(error)),), (), ())
    problems: list[Problem] = []
    missing: list[Problem] = []
    left_out: list[dict[str, Problem]] = []
    for one in planned:
        try:
            made = render_instance(bundle, one.name, scheduled_at=at, started_at=at, secrets=secrets, assets=assets)
            problems += made.problems
            missing += made.missing
            left_out.append(made.left_out)
            if executor is not None and not (made.problems or made.unjudged or made.unknown):
                launch(bundle, one.name, {**made.compiled.environment, **made.compiled.secrets}, executor(one))
        except SpecError as error:
            problems += error.problems
        except PluginError as error:
            key = f"{spec_path(bundle.job, spec_of(bundle.job, one.name))}.name"
            problems.append(Problem(spec_file(bundle.job), 1, 1, key, str(error)))
    problems += _of_no_use(left_out)
    asked, unset = http_problems(bundle, at, secrets)
    problems += asked
    missing += unset
    return Trial(tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(missing)), planned)


def _of_no_use(left_out: list[dict[str, Problem]]) -> list[Problem]:
    """What is wrong with assets that no instance would find. left_out: of every instance that could be looked at."""
    first = left_out[0] if left_out else {}
    return [
        replace(problem, message=f"{problem.message}; no instance comes late enough to read this asset")
        for path, problem in first.items()
        if all(path in one for one in left_out)
    ]


def can_be_tried(found: Iterable[Problem]) -> bool:
    """Whether a job's texts can be rendered although these problems were found: none is of what rendering rests on."""
    return not any(
        one.severity is Severity.ERROR
        and (one.key in {"hooks", "task.window.preset"} or one.key.rpartition(".")[2] in {"name", "version"})
        for one in found
    )


def untold(tried: Iterable[Problem], found: Iterable[Problem]) -> list[Problem]:
    """What a trial has found of keys at which no error was found before."""
    told = {one.key for one in found if one.severity is Severity.ERROR}
    return [one for one in tried if one.key not in told]


def trial_time(job: JobSpec, now: datetime) -> datetime:
    """The time to try a job for: that of its next tick, and now where it has none.

    now: aware.
    """
    try:
        return schedule_of(job).next(now)
    except ValueError:
        return now

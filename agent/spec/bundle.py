"""The bundle of a run: all that is needed to compile its instances, frozen when the run is accepted.

It is stored as one JSON blob; the run table names it by hash. Secrets are not in it; assets are named by their hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from agent.spec.errors import PluginError
from agent.spec.jobspec import HookSpec, JobSpec, TaskSpec, TriggerRule, WindowSpec
from agent.spec.params import Value
from agent.spec.plugin import BUILTIN, Plugin

DEFAULT_EXECUTOR: Final = "docker"
EXECUTOR_KEY: Final = "executor"  # of a project's config


class Place(StrEnum):
    """Where an instance stands in its run."""

    SETUP = "setup"
    PRE = "pre"
    TASK = "task"
    POST = "post"
    FAIL = "fail"
    TEARDOWN = "teardown"


def variables_of(
    config: Mapping[str, str],
    scope_config: Mapping[str, str],
    variables: Mapping[str, str],
    scope_variables: Mapping[str, str],
) -> dict[str, str]:
    """What `.GLOBAL__X` and `.proj.X` give: Optimus takes config and variables together (`GetVariables`).

    config, variables: the project's; scope_*: the namespace's, which override them.
    """
    return {**config, **scope_config, **variables, **scope_variables}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a run was accepted with.

    plugins: those the job names, by name.  variables: what `.GLOBAL__X` gives, see `variables_of`.
    preset: the window of the preset that the job names.  assets: {path: hash of the blob}.
    executor: the project's default, "" = prime's.  params: those that have a value; for a run that is all of them.
    """

    job: JobSpec
    project: str
    namespace: str
    plugins: dict[str, Plugin]
    variables: dict[str, str] = field(default_factory=dict)
    preset: WindowSpec | None = None
    assets: dict[str, str] = field(default_factory=dict)
    executor: str = ""
    params: dict[str, Value] = field(default_factory=dict)


_encoder: Final = msgspec.json.Encoder(order="deterministic")
_decoder: Final = msgspec.json.Decoder(Bundle)


def encode(bundle: Bundle) -> bytes:
    """The blob of a bundle: the same bundle gives the same bytes."""
    return _encoder.encode(bundle)


def decode(data: bytes) -> Bundle:
    """The bundle in a blob. Raises msgspec.ValidationError for what `encode` did not make."""
    return _decoder.decode(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One instance of a run to be.

    name: unique in the run: the plugin's, with `-hook` behind it where a hook is called like the task.
    after: names of the instances it waits for, by `rule`.  timeout_s: seconds, None = none of its own.
    """

    name: str
    place: Place
    plugin: str
    after: tuple[str, ...]
    executor: str
    timeout_s: float | None
    rule: TriggerRule
    allow_failure: bool
    skip_exit_codes: tuple[int, ...]


def used_plugins(job: JobSpec, plugins: Mapping[str, Plugin]) -> dict[str, Plugin]:
    """The plugins that a job names, the built-in ones included. Raises PluginError for one that is not there."""
    used = {}
    for name in (job.task.name, *(hook.name for hook in job.hooks)):
        plugin = plugins.get(name) or BUILTIN.get(name)
        if plugin is None:
            raise PluginError(f"there is no plugin {name!r}; apply it with `prime plugin apply`")
        used[name] = plugin
    return used


def plan(bundle: Bundle) -> tuple[Planned, ...]:
    """The instances of a run in an order in which each comes after all it waits for.

    Setup hooks, pre hooks, the task, post hooks, fail hooks, teardown hooks; among hooks of one type the plugins'
    `dependson`, else the job's order. That all wait for the setup hooks is not said by `after`: it is not their rule's.
    """
    job = bundle.job
    setup = _hooks(bundle, Place.SETUP, ())
    pre = _hooks(bundle, Place.PRE, ())
    task = _planned(bundle, job.task, Place.TASK, tuple(hook.name for hook in pre))
    post = _hooks(bundle, Place.POST, (task.name,))
    fail = _hooks(bundle, Place.FAIL, ())
    before = (*setup, *pre, task, *post, *fail)
    teardown = _hooks(bundle, Place.TEARDOWN, tuple(one.name for one in before))
    return (*before, *teardown)


def before(planned: Iterable[Planned], name: str) -> frozenset[str]:
    """The instances of a run that come before the one of this name: it is decided on when they have ended, or later.

    A fail hook runs when the first of what comes before it has failed; the rest may not have ended then.
    """
    known = {one.name: one for one in planned}
    setups = [one.name for one in known.values() if one.place is Place.SETUP]
    core = [one.name for one in known.values() if one.place not in (Place.FAIL, Place.TEARDOWN)]
    place = known[name].place
    found: set[str] = set()
    todo = [*known[name].after, *(core if place is Place.FAIL else () if place is Place.SETUP else setups)]
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += known[one].after
    return frozenset(found)


def place_of(hook: HookSpec, plugin: Plugin) -> Place:
    """Where a hook stands: the job's word over the plugin's."""
    return Place((hook.hooktype or plugin.hook_type).value)


def instance_name(job: JobSpec, hook: HookSpec) -> str:
    """The name of a hook's instance."""
    return f"{hook.name}-hook" if hook.name == job.task.name else hook.name


def spec_of(job: JobSpec, name: str) -> TaskSpec | HookSpec:
    """The task or hook whose instance has this name. Raises KeyError for an unknown one."""
    if name == job.task.name:
        return job.task
    for hook in job.hooks:
        if instance_name(job, hook) == name:
            return hook
    raise KeyError(name)


def _hooks(bundle: Bundle, place: Place, first: tuple[str, ...]) -> list[Planned]:
    """The hooks of one place, each after those of the same place that its plugin depends on."""
    here = {hook.name: hook for hook in bundle.job.hooks if place_of(hook, bundle.plugins[hook.name]) is place}
    names = {name: instance_name(bundle.job, hook) for name, hook in here.items()}
    ordered = _in_order(here, {name: bundle.plugins[name].depends_on for name in here})
    return [
        _planned(
            bundle,
            here[name],
            place,
            (*first, *(names[before] for before in bundle.plugins[name].depends_on if before in here)),
        )
        for name in ordered
    ]


def _in_order(names: Iterable[str], depends_on: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names so that each comes after what it depends on, else as given. Raises PluginError on a circle."""
    left, ordered = list(names), []
    while left:
        free = next((n for n in left if not any(before in left for before in depends_on[n])), None)
        if free is None:
            raise PluginError(f"the hooks {', '.join(left)} wait for each other in a circle; see their dependson")
        left.remove(free)
        ordered.append(free)
    return ordered


def _planned(bundle: Bundle, spec: TaskSpec | HookSpec, place: Place, after: tuple[str, ...]) -> Planned:
    """An instance; its executor is the job's, else the plugin's, else the project's, else docker."""
    plugin = bundle.plugins[spec.name]
    name = instance_name(bundle.job, spec) if isinstance(spec, HookSpec) else spec.name
    return Planned(
        name=name,
        place=place,
        plugin=spec.name,
        after=after,
        executor=spec.executor or plugin.executor or bundle.executor or DEFAULT_EXECUTOR,
        timeout_s=spec.timeout_s,
        rule=_rule(spec, place),
        allow_failure=spec.allow_failure,
        skip_exit_codes=spec.skip_exit_code,
    )


def _rule(spec: TaskSpec | HookSpec, place: Place) -> TriggerRule:
    if place is Place.TEARDOWN:
        return TriggerRule.ALL_DONE_SETUP_SUCCESS
    own = spec.trigger_rule if isinstance(spec, HookSpec) else None
    return own or TriggerRule.ALL_SUCCESS

"""From a bundle to what one instance finds: environment, secrets, files, and what is executed.

Order, as in Optimus: the task's config, then a hook's (which sees the task's as `.TASK__X`), then the assets, which
see all. A missing key is an error with file, line and key.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from agent.spec import schedules, window
from agent.spec.bundle import Bundle, before, plan, spec_of
from agent.spec.context import fixed_context, system_variables
from agent.spec.context import rfc3339 as rfc3339
from agent.spec.cron import Schedule
from agent.spec.errors import PluginError, Problem, SpecError
from agent.spec.jobspec import HookSpec, JobSpec, TaskSpec, WindowSpec
from agent.spec.limits import ENVIRONMENT_BYTES_MAX, argument_problem, asset_problems
from agent.spec.lookups import Asked, Secrets, TaskOutputs, Tasks
from agent.spec.params import Value
from agent.spec.template import TemplateError, render
from agent.spec.template.reads import paths_read
from agent.spec.window import Interval

BREAK_MARKER: Final = "\n--*--optimus-break-marker--*--\n"
UNRENDERED: Final = (".gtpl", ".j2", ".tmpl", ".tpl")
QUERY_ASSET: Final = "query.sql"
LABEL_CHARACTERS_MAX: Final = 63
DAY: Final = timedelta(days=1)
_START: Final = (1, 1)  # of a file: its line and column where no better place is known
OWN_VARIABLES: Final = frozenset({"JOB_DIR", "OPTIMUS_HOST", "OPTIMUS_HOSTNAME", "PRIME_RUN_ID", "PRIME_ATTEMPT"})
"""Variables that say to an attempt where and which it is. A config value of such a name is not handed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What an instance finds.

    environment: config values without secrets, and the system's variables; secrets: config values made with one. Those
    that the worker sets for each attempt (`instance_environment`, OWN_VARIABLES) are in neither.
    files: {path below in/: bytes}.  params: what the run was given.  left_out: {path of an asset that is not in files,
    since it reads outputs of an instance that comes later: why}.
    """

    instance: str
    window: Interval
    environment: dict[str, str]
    secrets: dict[str, str] = field(repr=False)
    files: dict[str, bytes] = field(repr=False)
    params: dict[str, Value] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is executed: in `image` with an entrypoint of its own (None = the image's), or by `argv` on the host."""

    image: str
    entrypoint: tuple[str, ...] | None
    argv: tuple[str, ...]


def interval_of(bundle: Bundle, scheduled_at: datetime) -> Interval:
    """The window of the data that a run at `scheduled_at` stands for. Raises ValueError where it cannot be computed.

    A job of version 3 without a window has an incremental one; without a schedule either, its window is empty.
    """
    job = bundle.job
    spec = bundle.preset or job.task.window
    if job.version >= 3 and (spec is None or not (spec.size or spec.shift_by or spec.truncate_to)):
        return _incremental(job, scheduled_at)
    spec = spec or WindowSpec()
    made = window.parse(
        job.version,
        size=spec.size,
        offset=spec.offset,
        shift_by=spec.shift_by,
        truncate_to=spec.truncate_to,
        location=spec.location or "UTC",
    )
    return made.interval(scheduled_at)


def _incremental(job: JobSpec, scheduled_at: datetime) -> Interval:
    if not job.schedule.interval:
        return Interval(scheduled_at, scheduled_at)
    return window.incremental(schedule_of(job), scheduled_at)


def schedule_of(job: JobSpec) -> Schedule:
    """The job's schedule. Raises ValueError for a job without one."""
    if not job.schedule.interval:
        raise ValueError(f"the job {job.name} has no schedule.interval: it runs only when asked")
    return schedules.schedule_of(job.schedule.interval, job.schedule.location, job.schedule.start_date)


def compile_instance(
    bundle: Bundle,
    name: str,
    *,
    scheduled_at: datetime,
    started_at: datetime,
    secrets: Mapping[str, str],
    assets: Mapping[str, bytes],
    outputs: Mapping[str, TaskOutputs] | None = None,
) -> Compiled:
    """Compile one instance of a run.

    name: the instance's.  scheduled_at: the time the run stands for; started_at: when it was asked for; both aware.
    secrets: by name, or `Masked`.  assets: {path: raw bytes}.  outputs: of every instance of the run; None = there is
    no run yet: a text that reads some has the action that reads it in their place, or stays as it is.
    Raises SpecError with every text that does not compile.
    """
    made = render_instance(
        bundle, name, scheduled_at=scheduled_at, started_at=started_at, secrets=secrets, assets=assets, outputs=outputs
    )
    if made.problems or made.missing or made.unjudged:
        raise SpecError([*made.problems, *made.missing, *made.unjudged])
    return made.compiled


@dataclass(frozen=True, slots=True)
class Rendering:
    """An instance, whatever is wrong with it.

    compiled: with "" for what cannot be compiled.  problems: all but these: missing, the places that read a secret
    which does not exist.  unjudged: what may be for want of a parameter's value, which only a run has; unknown: for
    want of an output's.  left_out: {asset: what is wrong with it for this instance, and may not be for a later one}.
    """

    compiled: Compiled
    problems: tuple[Problem, ...]
    missing: tuple[Problem, ...]
    unjudged: tuple[Problem, ...]
    unknown: tuple[Problem, ...]
    left_out: dict[str, Problem]


def render_instance(
    bundle: Bundle,
    name: str,
    *,
    scheduled_at: datetime,
    started_at: datetime,
    secrets: Mapping[str, str],
    assets: Mapping[str, bytes],
    outputs: Mapping[str, TaskOutputs] | None = None,
) -> Rendering:
    """As `compile_instance`, for who wants all that is wrong. Raises SpecError for a window that has no interval."""
    compiler = _Compiler(bundle, name, scheduled_at, started_at, secrets, outputs)
    compiled = compiler.compile(spec_of(bundle.job, name), name, assets)
    return Rendering(
        compiled,
        tuple(compiler.problems),
        tuple(compiler.missing),
        tuple(compiler.unjudged),
        tuple(compiler.unknown),
        compiler.left_out,
    )


def spec_file(job: JobSpec) -> str:
    """What problems of a spec carry for its file, whose path is not known here: `check.relocate` puts it in."""
    return f"{job.name}/job.yaml"


def spec_path(job: JobSpec, spec: TaskSpec | HookSpec) -> str:
    """Where an instance stands in its spec."""
    return f"hooks[{job.hooks.index(spec)}]" if isinstance(spec, HookSpec) else "task"


class _Compiler:
    """Collects what goes wrong, so that all of it is said at once: see `Rendering`.

    too_early: the task's config values that are not there for a hook which comes before what they read, and why.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        scheduled_at: datetime,
        started_at: datetime,
        secrets: Mapping[str, str],
        outputs: Mapping[str, TaskOutputs] | None,
    ) -> None:
        self.bundle = bundle
        self.job = bundle.job
        self.scheduled_at = scheduled_at.astimezone(UTC)
        self.started_at = started_at.astimezone(UTC)
        self.problems: list[Problem] = []
        self.missing: list[Problem] = []
        self.secrets = Secrets(secrets)
        self.open_params = bundle.job.params.keys() - bundle.params.keys()
        self.unjudged: list[Problem] = []
        self.unknown: list[Problem] = []
        self.left_out: dict[str, Problem] = {}
        self.too_early: dict[str, str] = {}
        self.is_task = name == bundle.job.task.name
        self.order = cache(lambda: self._order(name))
        self.tasks = Tasks(lambda: self.order()[0], lambda: self.order()[1], outputs)
        self.defaults: Collection[str] = ()  # the assets that are the plugin's own
        try:
            self.interval = interval_of(bundle, self.scheduled_at)
        except ValueError as error:
            raise SpecError([Problem(spec_file(self.job), *_START, "task.window", str(error))]) from error
        self.context = {**fixed_context(bundle, self.secrets), "tasks": self.tasks}

    def _order(self, name: str) -> tuple[frozenset[str], frozenset[str]]:
        """The instances before this one, and all of the run."""
        try:
            planned = plan(self.bundle)
        except PluginError as error:
            raise SpecError([Problem(spec_file(self.job), *_START, "hooks", str(error))]) from error
        return before(planned, name), frozenset(one.name for one in planned)

    def compile(self, spec: TaskSpec | HookSpec, name: str, assets: Mapping[str, bytes]) -> Compiled:
        """What the instance finds; worth something only where `problems` and `missing` are empty behind it."""
        system = self._system(self.interval)
        self._use(system)
        task_config = self._config(self.job.task, "task", system)
        self.context |= {"task": task_config, **{f"TASK__{key}": value for key, value in task_config.items()}}
        path = spec_path(self.job, spec)
        config = self._config(spec, path, system) if isinstance(spec, HookSpec) else task_config
        files = self._files(assets, task_config)
        self._check_environment(config, system, path)
        given = {key: value for key, value in config.items() if key not in system and key not in OWN_VARIABLES}
        hidden = made_with_secret(self.bundle, spec)
        secret = {key: value for key, value in given.items() if key in hidden}
        environment = {key: value for key, value in given.items() if key not in hidden}
        return Compiled(
            instance=name,
            window=self.interval,
            environment=environment | system,
            secrets=secret,
            files=files,
            params=self.bundle.params,
            left_out={path: problem.message for path, problem in self.left_out.items()},
        )

    def _check_environment(self, config: Mapping[str, str], system: Mapping[str, str], path: str) -> None:
        """What no program could be started with is told now; the values themselves are not in what is told."""
        told = {
            **{f"{path}.config.{key}": (key, value) for key, value in config.items()},
            "task.name": ("JOB_DESTINATION", system["JOB_DESTINATION"]),
            "labels": ("JOB_LABELS", job_labels(self.bundle)),
        }
        for key, (name, value) in told.items():
            if (message := argument_problem(value, name)) is not None:
                self._problem(key, f"{name}: {message}")
        total = sum(len(name.encode()) + len(value.encode()) + 2 for name, value in told.values())
        if total > ENVIRONMENT_BYTES_MAX:
            message = f"its values have {total} bytes; an environment has room for {ENVIRONMENT_BYTES_MAX}; use assets"
            self._problem(f"{path}.config", message)

    def _problem(self, key: str, message: str) -> None:
        self.problems.append(Problem(spec_file(self.job), *_START, key, message))

    def _use(self, system: Mapping[str, str]) -> None:
        self.context |= {**system, "inst": dict(system)}

    def _system(self, interval: Interval) -> dict[str, str]:
        return system_variables(self.job.version, interval, scheduled_at=self.scheduled_at, started_at=self.started_at)

    def _config(self, spec: TaskSpec | HookSpec, path: str, system: dict[str, str]) -> dict[str, str]:
        """Render a config. Values that name JOB_DESTINATION come last: it is made from the task's other values."""
        raw = raw_config(self.bundle, spec)
        late = {key for key, value in raw.items() if "JOB_DESTINATION" in value}
        config = {key: self._text(value, f"{path}.config.{key}") for key, value in raw.items() if key not in late}
        if isinstance(spec, TaskSpec):
            urn = self.bundle.plugins[spec.name].destination_urn_template
            if urn:
                whole = self.context
                self.context = {**whole, **{key: value for key, value in config.items() if key not in self.too_early}}
                system["JOB_DESTINATION"] = self._text(urn, "task.name", name=f"{spec.name}: destination_urn_template")
                self.context = whole
                self._use(system)
        made = {key: config[key] if key in config else self._text(raw[key], f"{path}.config.{key}") for key in raw}
        return made if spec is not self.job.task else {k: v for k, v in made.items() if k not in self.too_early}

    def _text(
        self, text: str, key: str, partials: Mapping[str, str] | None = None, *, asset: str = "", name: str = ""
    ) -> str:
        """Render one text; "" for one that cannot be.

        key: of the spec, which the text is the value of, or belongs to; asset: the path of the asset that it is.
        name: what the template's own messages call it.
        """
        if "{{" not in text:
            return text.strip()
        self.secrets.assumed.clear()
        self.secrets.missed()
        self.tasks.asked = Asked()
        file = asset if asset not in self.defaults else ""  # of one that is the plugin's own, the user has its name
        while True:
            try:
                return render(text, self.context, partials or {}, name=name or file or key)
            except TemplateError as error:
                # A line of a value is none of the spec's file: where the value stands is for `check.relocate` to say.
                place = (file, error.line, error.column + 1) if file else (spec_file(self.job), *_START)
                secret = self.secrets.missed()
                if secret is None or secret != error.key or self._reads_open_param(text, partials or {}):
                    problem = Problem(*place, (error.key or "") if file else key, str(error))
                    return self._judge(problem, error.key, text, partials or {}, asset, key)
                self.missing.append(Problem(*place, f"secret.{secret}" if file else key, missing_secret(secret)))
                self.secrets.assumed.add(secret)  # what else is wrong with the text is told as well

    def _judge(
        self, problem: Problem, missed: str | None, text: str, partials: Mapping[str, str], asset: str, key: str
    ) -> str:
        """Put what is wrong with a text where it belongs. Returns what stands for the text.

        missed: the key at which its rendering has ended.
        """
        if self._reads_open_param(text, partials):
            self.unjudged.append(problem)
            return ""
        early = self.tasks.comes_too_late(missed) or self.too_early.get((missed or "").removeprefix("TASK__"))
        if early is not None and asset:
            self.left_out[asset] = replace(problem, message=early)
        elif early is not None and key.startswith("task.") and not self.is_task:
            self.too_early[key.rpartition(".")[2]] = early
        elif early is None and self.tasks.asked.guessed and self.tasks.asked.instance is None:
            self.unknown.append(problem)
            return text.strip()
        else:
            why = f"; {early}" if early is not None else self.tasks.why(missed)
            self.problems.append(replace(problem, message=problem.message + why))
        return ""

    def _reads_open_param(self, text: str, partials: Mapping[str, str]) -> bool:
        """Whether an error may be for want of a parameter's value: what only a run will say cannot be judged before."""
        texts = (text, *partials.values()) if self.open_params else ()
        paths = (path for one in texts for path in paths_read(one))
        return any(path[0] == "params" and (len(path) < 2 or path[1] in self.open_params) for path in paths)

    def _files(self, assets: Mapping[str, bytes], task_config: Mapping[str, str]) -> dict[str, bytes]:
        defaults = {
            path: text.encode()
            for path, text in self.bundle.plugins[self.job.task.name].default_assets.items()
            if path not in assets
        }
        for message in asset_problems({**defaults, **assets}):
            self._problem("assets", message)
        texts: dict[str, str] = {}
        files: dict[str, bytes] = {}
        self.defaults = defaults.keys()
        for path, data in {**defaults, **assets}.items():
            try:
                texts[path] = data.decode()
            except UnicodeDecodeError:
                files[path] = data  # not a text: as it is
        partials = {path: text for path, text in texts.items() if "{{" in text or path.endswith(UNRENDERED)}
        for path, text in texts.items():
            if path.endswith(UNRENDERED):
                files[path] = text.encode()
            elif path == QUERY_ASSET and self._one_query_a_day(task_config):
                files[path] = self._daily(text, path, partials).encode()
            else:
                files[path] = self._asset(text, path, partials).encode()
        return {path: data for path, data in files.items() if path not in self.left_out}

    def _asset(self, text: str, path: str, partials: Mapping[str, str]) -> str:
        if path in self.defaults:
            return self._text(text, "task.name", partials, asset=path, name=f"{self.job.task.name}: {path}")
        return self._text(text, path, partials, asset=path)

    def _one_query_a_day(self, task_config: Mapping[str, str]) -> bool:
        return task_config.get("LOAD_METHOD") == "REPLACE" and self.interval.end - self.interval.start > DAY

    def _daily(self, text: str, path: str, partials: Mapping[str, str]) -> str:
        """`LOAD_METHOD=REPLACE` over more than a day: the query once a day, as Optimus' bq2bq expects it."""
        whole = dict(self.context)
        parts = []
        start = self.interval.start
        while start < self.interval.end:
            day = self._system(Interval(start, start + DAY))
            day["JOB_DESTINATION"] = str(whole["JOB_DESTINATION"])
            self._use(day)
            parts.append(self._asset(text, path, partials))
            start += DAY
        self.context = whole
        return BREAK_MARKER.join(parts)


def missing_secret(name: str) -> str:
    """What is told of a text that reads a secret which does not exist."""
    return f"there is no secret {name}; set it with: prime secret set {name}"


def raw_config(bundle: Bundle, spec: TaskSpec | HookSpec) -> dict[str, str]:
    """The config of an instance before it is rendered: the plugin's defaults below the job's own."""
    return {**bundle.plugins[spec.name].default_config, **spec.config}


def made_with_secret(bundle: Bundle, spec: TaskSpec | HookSpec) -> frozenset[str]:
    """The keys of an instance's config whose templates read a secret, or a value of the task that is made with one."""
    task = bundle.job.task
    tainted = frozenset(key for key, text in raw_config(bundle, task).items() if _reads(text, frozenset()))
    return frozenset(key for key, text in raw_config(bundle, spec).items() if _reads(text, tainted))


def _reads(text: str, tainted: frozenset[str]) -> bool:
    """Whether a template reads `.secret`, or one of the task's values in `tainted`; `.task` as a whole is all of it."""
    for first, *rest in paths_read(text):
        if first == "secret" or (first.removeprefix("TASK__") in tainted and first.startswith("TASK__")):
            return True
        if first == "task" and tainted and (not rest or rest[0] in tainted):
            return True
    return False


def launch(bundle: Bundle, name: str, config: Mapping[str, str], executor: str) -> Launch:
    """What an instance executes. config: its compiled values.  Raises PluginError where the plugin cannot run so.

    Arguments can be read by every user of a host. So a script in the config that is made with a secret (of the built-in
    plugins; no other's is rendered) is not handed to a shell of its own as an argument, but evaluated from the
    environment.
    """
    spec = spec_of(bundle.job, name)
    plugin = bundle.plugins[spec.name]
    entry = plugin.entrypoint(spec.version, config)
    script = (entry.shell, "-c", entry.script) if entry is not None else None
    command = plugin.command
    key = plugin.script_key
    if entry is not None and config.get(key, "").strip() and key in made_with_secret(bundle, spec):
        script, command = (entry.shell, "-c", f'eval "${key}"'), ()
    if executor == "process":
        argv = command or script
        if argv is None:
            raise PluginError(
                f"plugin {plugin.name} has no command and no entrypoint script: the process executor has nothing to run"
            )
        return Launch(image="", entrypoint=None, argv=argv)
    return Launch(image=plugin.image(spec.version, config), entrypoint=script, argv=())


def instance_environment(bundle: Bundle, name: str, scheduled_at: datetime) -> dict[str, str]:
    """The variables that say to a task which one it is in Optimus' words."""
    spec = spec_of(bundle.job, name)
    return {
        "JOB_NAME": bundle.job.name,
        "JOB_LABELS": job_labels(bundle),
        "PROJECT": bundle.project,
        "NAMESPACE": bundle.namespace,
        "INSTANCE_TYPE": "hook" if isinstance(spec, HookSpec) else "task",
        "INSTANCE_NAME": spec.name,
        "SCHEDULED_AT": rfc3339(scheduled_at),
    }


def job_labels(bundle: Bundle) -> str:
    """`k=v,k=v`, with characters that labels of the usual stores refuse replaced, and cut to their length."""
    job_id = uuid.uuid5(uuid.NAMESPACE_URL, f"{bundle.project}/{bundle.namespace}/{bundle.job.name}")
    labels = {
        "project": bundle.project,
        "namespace": bundle.namespace,
        "job_name": bundle.job.name,
        "job_id": str(job_id),
        **bundle.job.labels,
    }
    return ",".join(f"{_label(key)}={_label(value)}" for key, value in labels.items())


def _label(text: str) -> str:
    clean = re.sub(r"[^a-z0-9_-]", "-", text.lower())
    return clean if len(clean) <= LABEL_CHARACTERS_MAX else f"__{clean[-(LABEL_CHARACTERS_MAX - 3) :]}"

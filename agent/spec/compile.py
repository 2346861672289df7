"""From a bundle to what one instance finds: environment, secrets, files, and what is executed.

Order, as in Optimus: the task's config, then a hook's (which sees the task's as `.TASK__X`), then the assets, which
see all. A missing key is an error with file, line and key.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from agent.spec import cron, window
from agent.spec.bundle import Bundle, spec_of
from agent.spec.errors import PluginError, Problem, SpecError
from agent.spec.jobspec import HookSpec, JobSpec, TaskSpec, WindowSpec
from agent.spec.template import TemplateError, render
from agent.spec.window import Interval

MASK: Final = "***"
BREAK_MARKER: Final = "\n--*--optimus-break-marker--*--\n"
UNRENDERED: Final = (".gtpl", ".j2", ".tmpl", ".tpl")
SECRET_MARK: Final = re.compile(r"\.secret\b")
QUERY_ASSET: Final = "query.sql"
LABEL_CHARACTERS_MAX: Final = 63
DAY: Final = timedelta(days=1)


class Masked(Mapping[str, str]):
    """Stands in for the secrets where something is shown or stored: `***` for each name that exists.

    names: None = any name exists (compiling without an agent).
    """

    def __init__(self, names: frozenset[str] | None = None) -> None:
        self._names = names

    def __getitem__(self, name: str) -> str:
        if self._names is not None and name not in self._names:
            raise KeyError(name)
        return MASK

    def __contains__(self, name: object) -> bool:
        return self._names is None or name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names or ())

    def __len__(self) -> int:
        return len(self._names or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What an instance finds.

    environment: config values without secrets, and the system's variables; secrets: config values made with one.
    files: {path below in/: bytes}.
    """

    instance: str
    window: Interval
    environment: dict[str, str]
    secrets: dict[str, str] = field(repr=False)
    files: dict[str, bytes] = field(repr=False)


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


def schedule_of(job: JobSpec) -> cron.Schedule:
    """The job's schedule. Raises ValueError for a job without one."""
    if not job.schedule.interval:
        raise ValueError(f"the job {job.name} has no schedule.interval: it runs only when asked")
    zone = cron.load_location(job.schedule.location)
    date = job.schedule.start_date
    start = datetime.fromisoformat(date).replace(tzinfo=zone) if date else None
    return cron.parse(job.schedule.interval, location=job.schedule.location, start=start)


def compile_instance(
    bundle: Bundle,
    name: str,
    *,
    scheduled_at: datetime,
    started_at: datetime,
    secrets: Mapping[str, str],
    assets: Mapping[str, bytes],
) -> Compiled:
    """Compile one instance of a run.

    name: the instance's.  scheduled_at: the time the run stands for; started_at: when it was asked for; both aware.
    secrets: by name, or `Masked`.  assets: {path: raw bytes}.  Raises SpecError with every text that does not compile.
    """
    compiler = _Compiler(bundle, scheduled_at, started_at, secrets)
    return compiler.compile(spec_of(bundle.job, name), name, assets)


class _Compiler:
    """Collects what goes wrong, so that all of it is said at once."""

    def __init__(
        self, bundle: Bundle, scheduled_at: datetime, started_at: datetime, secrets: Mapping[str, str]
    ) -> None:
        self.bundle = bundle
        self.job = bundle.job
        self.scheduled_at = scheduled_at.astimezone(UTC)
        self.started_at = started_at.astimezone(UTC)
        self.problems: list[Problem] = []
        try:
            self.interval = interval_of(bundle, self.scheduled_at)
        except ValueError as error:
            raise SpecError([Problem(f"{self.job.name}/job.yaml", 1, 1, "task.window", str(error))]) from error
        self.context: dict[str, object] = {
            "proj": bundle.variables,
            "secret": secrets,
            **{f"GLOBAL__{key}": value for key, value in bundle.variables.items()},
        }

    def compile(self, spec: TaskSpec | HookSpec, name: str, assets: Mapping[str, bytes]) -> Compiled:
        system = self._system(self.interval)
        self._use(system)
        task_config = self._config(self.job.task, "task", system)
        self.context |= {"task": task_config, **{f"TASK__{key}": value for key, value in task_config.items()}}
        raw = self._raw_config(spec)
        config = (
            self._config(spec, f"hooks[{self.job.hooks.index(spec)}]", system)
            if isinstance(spec, HookSpec)
            else task_config
        )
        files = self._files(assets, task_config)
        if self.problems:
            raise SpecError(self.problems)
        tainted = {key for key, text in self._raw_config(self.job.task).items() if SECRET_MARK.search(text)}
        secret = {key: value for key, value in config.items() if key not in system and _is_secret(raw[key], tainted)}
        environment = {key: value for key, value in config.items() if key not in secret}
        return Compiled(
            instance=name, window=self.interval, environment=environment | system, secrets=secret, files=files
        )

    def _use(self, system: Mapping[str, str]) -> None:
        self.context |= {**system, "inst": dict(system)}

    def _system(self, interval: Interval) -> dict[str, str]:
        """Optimus' variables of an instance. JOB_DESTINATION is set once the config it is made of is known."""
        variables = {
            "DSTART": rfc3339(interval.start),
            "DEND": rfc3339(interval.end),
            "EXECUTION_TIME": rfc3339(self.started_at),
            "JOB_DESTINATION": "",
        }
        if self.job.version >= 3:
            variables |= {
                "EXECUTION_TIME": self.scheduled_at.strftime("%Y-%m-%d %H:%M:%S"),
                "START_DATE": interval.start.strftime("%Y-%m-%d"),
                "END_DATE": interval.end.strftime("%Y-%m-%d"),
                "SCHEDULE_TIME": rfc3339(self.scheduled_at),
                "SCHEDULE_DATE": self.scheduled_at.strftime("%Y-%m-%d"),
            }
        return variables

    def _raw_config(self, spec: TaskSpec | HookSpec) -> dict[str, str]:
        return {**self.bundle.plugins[spec.name].default_config, **spec.config}

    def _config(self, spec: TaskSpec | HookSpec, path: str, system: dict[str, str]) -> dict[str, str]:
        """Render a config. Values that name JOB_DESTINATION come last: it is made from the task's other values."""
        raw = self._raw_config(spec)
        late = {key for key, value in raw.items() if "JOB_DESTINATION" in value}
        config = {key: self._text(value, f"{path}.config.{key}") for key, value in raw.items() if key not in late}
        if isinstance(spec, TaskSpec):
            urn = self.bundle.plugins[spec.name].destination_urn_template
            if urn:
                self.context |= config
                system["JOB_DESTINATION"] = self._text(urn, f"{spec.name}: destination_urn_template")
                for key in config:
                    del self.context[key]
                self._use(system)
        return {key: config[key] if key in config else self._text(raw[key], f"{path}.config.{key}") for key in raw}

    def _text(self, text: str, key: str, partials: Mapping[str, str] | None = None, file: str = "") -> str:
        if "{{" not in text:
            return text.strip()
        try:
            return render(text, self.context, partials or {}, name=file or key)
        except TemplateError as error:
            place = file or f"{self.job.name}/job.yaml"
            where = "" if file else key
            self.problems.append(Problem(place, error.line, error.column + 1, where or (error.key or ""), str(error)))
            return ""

    def _files(self, assets: Mapping[str, bytes], task_config: Mapping[str, str]) -> dict[str, bytes]:
        defaults = {
            path: text.encode()
            for path, text in self.bundle.plugins[self.job.task.name].default_assets.items()
            if path not in assets
        }
        texts: dict[str, str] = {}
        files: dict[str, bytes] = {}
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
                files[path] = self._text(text, path, partials, path).encode()
        return files

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
            parts.append(self._text(text, path, partials, path))
            start += DAY
        self.context = whole
        return BREAK_MARKER.join(parts)


def _is_secret(text: str, tainted: set[str]) -> bool:
    """Whether a config value is made with a secret, or with a value of the task that is."""
    return bool(SECRET_MARK.search(text)) or any(f"TASK__{key}" in text or f".task.{key}" in text for key in tainted)


def launch(bundle: Bundle, name: str, config: Mapping[str, str], executor: str) -> Launch:
    """What an instance executes. config: its compiled values.  Raises PluginError where the plugin cannot run so."""
    spec = spec_of(bundle.job, name)
    plugin = bundle.plugins[spec.name]
    entry = plugin.entrypoint(spec.version, config)
    script = (entry.shell, "-c", entry.script) if entry is not None else None
    if executor == "process":
        argv = plugin.command or script
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


def rfc3339(at: datetime) -> str:
    """`2021-02-10T10:00:00Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""What can be told of a project folder without any agent: is it right, what would be rendered, when would it run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from agent.errors import PrimeError
from agent.folder import PROJECT_FILE, Folder, FolderJob
from agent.spec import bundle as bundles
from agent.spec.bundle import EXECUTOR_KEY, Bundle, Planned
from agent.spec.check import check_job, relocate
from agent.spec.compile import Compiled, Masked, compile_instance, launch, schedule_of
from agent.spec.document import nearest
from agent.spec.errors import PluginError, Position, Problem, Severity, SpecError
from agent.spec.job import JobSpec, ParsedJob, parse_job

TRIAL_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)  # any time: what is tried is whether the texts compile


class NoSuchJob(PrimeError):
    """No job of that name in the folder."""


@dataclass(slots=True)
class Report:
    """What `validate` found."""

    jobs: int = 0
    problems: list[Problem] = field(default_factory=list)

    def of(self, severity: Severity) -> list[Problem]:
        """The problems of one weight."""
        return [one for one in self.problems if one.severity is severity]


def validate(folder: Folder, below: Path | None = None) -> Report:
    """Check the project, its presets and plugins, and every job: all problems of all files at once."""
    report = Report()
    by_path = []
    for job in folder.jobs(below) if not _is_other(folder, below) else ():
        parsed, problems = check(folder, job)
        report.problems += problems
        by_path.append((job.file.path, parsed))
    report.jobs = len(by_path)
    report.problems += doubled(by_path)
    # What cannot be read is known only now. What is wrong in a this.yaml is said once, not for each job below it.
    report.problems = list(dict.fromkeys([*folder.problems, *report.problems]))
    return report


def doubled(jobs: Iterable[tuple[str, ParsedJob]]) -> Iterator[Problem]:
    """The names that are another job's already, in whichever namespace that is. jobs: with the paths of their files."""
    names: dict[str, str] = {}
    for path, parsed in jobs:
        if parsed.job is None:
            continue
        first = names.setdefault(parsed.job.name, path)
        if first != path:
            at = parsed.positions.get("name", Position(path, 1, 1))
            message = f"the name {parsed.job.name} is taken by {first}; a name is unique in its project"
            yield Problem(*at, "name", message)


def _is_other(folder: Folder, path: Path | None) -> bool:
    """Whether it is a file of the project that is no job; what is wrong with it was found when it was read."""
    if path is None or not path.is_file() or not folder.is_project:
        return False
    preset_path = folder.project.preset_path if folder.project is not None else ""
    return folder.name(path) in {PROJECT_FILE, preset_path, *(name for name, _text in folder.plugin_files)}


def check(folder: Folder, job: FolderJob) -> tuple[ParsedJob, list[Problem]]:
    """One job against its folder. Outside of a project, plugins and variables are not known and not checked."""
    file = job.file
    parsed = parse_job(file.text, file.path, file.parents)
    unreadable = {one.file for one in folder.problems}
    # Of a file that could not be read it is said once, and not that its text is empty.
    problems = [one for one in parsed.problems if file.text or one.file not in unreadable]
    if parsed.job is None or folder.project is None:
        return parsed, problems
    found = check_job(
        parsed.job,
        folder.plugins,
        file.path,
        positions=parsed.positions,
        presets=folder.presets,
        assets=tuple(file.assets),
    )
    problems += found
    if not any(one.severity is Severity.ERROR for one in found):
        problems += _try(folder, job, parsed.job)
    return parsed, problems


def _try(folder: Folder, job: FolderJob, spec: JobSpec) -> list[Problem]:
    """A trial rendering of every instance. What all of them find wrong, such as an asset, is said once."""
    try:
        bundle = bundle_of(folder, job, spec)
        plan = bundles.plan(bundle)
    except PluginError as error:
        return [Problem(job.file.path, 1, 1, "", str(error))]
    return list(dict.fromkeys(problem for one in plan for problem in _try_instance(bundle, job, one)))


def _try_instance(bundle: Bundle, job: FolderJob, one: Planned) -> Sequence[Problem]:
    try:
        compiled = compile_job(bundle, job, TRIAL_AT, one.name)
        launch(bundle, one.name, {**compiled.environment, **compiled.secrets}, one.executor)
    except SpecError as error:
        return error.problems
    except PluginError as error:
        return [Problem(job.file.path, 1, 1, "", str(error))]
    return ()


def find_job(folder: Folder, name: str) -> tuple[FolderJob, JobSpec]:
    """The job of that name in any namespace. Raises NoSuchJob, SpecError with all that is wrong with it."""
    jobs = list(folder.jobs())
    # Reading a spec takes a millisecond, and most say their name in plain words: those that say this one come first.
    jobs.sort(key=lambda job: name not in job.file.text)
    names = []
    for job in jobs:
        parsed = parse_job(job.file.text, job.file.path, job.file.parents)
        known = parsed.job.name if parsed.job is not None else _name_of(job)
        if known != name:
            names.append(known)
            continue
        if parsed.job is None:
            raise SpecError(parsed.problems)
        return job, parsed.job
    raise NoSuchJob(f"there is no job {name!r} in {folder.root}{nearest(name, names)}")


def _name_of(job: FolderJob) -> str:
    """The name that a broken spec seems to have."""
    for line in job.file.text.splitlines():
        if line.startswith("name:"):
            return line.removeprefix("name:").strip().strip("'\"")
    return ""


def bundle_of(folder: Folder, job: FolderJob, spec: JobSpec) -> Bundle:
    """What an agent would accept a run with. Raises PluginError."""
    project = folder.project
    assert project is not None
    scope = next((one for one in project.namespaces if one.name == job.namespace), None)
    window = spec.task.window
    preset = folder.presets.get(window.preset) if window is not None and window.preset else None
    config = {**project.config, **(scope.config if scope is not None else {})}
    return Bundle(
        job=spec,
        project=project.name,
        namespace=job.namespace,
        plugins=bundles.used_plugins(spec, folder.plugins),
        variables={**project.variables, **(scope.variables if scope is not None else {})},
        preset=preset.window if preset is not None else None,
        assets={path: sha256(data).hexdigest() for path, data in job.file.assets.items()},
        executor=config.get(EXECUTOR_KEY, ""),
    )


def compile_job(bundle: Bundle, job: FolderJob, at: datetime, instance: str | None = None) -> Compiled:
    """What an instance (the task) would find at a scheduled time, every secret as `***`.

    Raises SpecError, each problem at its place in the job's file or the asset beside it.
    """
    try:
        return compile_instance(
            bundle,
            instance or bundle.job.task.name,
            scheduled_at=at,
            started_at=at,
            secrets=Masked(),
            assets=job.file.assets,
        )
    except SpecError as error:
        file = job.file
        positions = parse_job(file.text, file.path, file.parents).positions
        found = [relocate(one, file.path, positions, tuple(file.assets)) for one in error.problems]
        raise SpecError(found) from error


def next_ticks(spec: JobSpec, after: datetime, count: int) -> list[datetime]:
    """The next ticks after a time, within start_date and end_date. Raises ValueError for a job without a schedule."""
    schedule = schedule_of(spec)
    start, end = schedule_bounds(spec)
    at = max(after, start - timedelta(microseconds=1)) if start is not None else after
    found: list[datetime] = []
    while len(found) < count:
        at = schedule.next(at)
        if end is not None and at > end:
            break
        found.append(at)
    return found


def schedule_bounds(spec: JobSpec) -> tuple[datetime | None, datetime | None]:
    """The first and the last moment at which a tick may be: 00:00 of start_date and of end_date, as in Airflow."""
    from agent.spec.cron import load_location

    zone = load_location(spec.schedule.location)

    def midnight(date: str) -> datetime | None:
        return datetime.fromisoformat(date).replace(tzinfo=zone).astimezone(UTC) if date else None

    return midnight(spec.schedule.start_date), midnight(spec.schedule.end_date)

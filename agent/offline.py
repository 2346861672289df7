"""What can be told of a project folder without any agent: is it right, what would be rendered, when would it run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from agent.errors import PrimeError
from agent.folder import PROJECT_FILE, Folder, FolderJob
from agent.spec import bundle as bundles
from agent.spec import params
from agent.spec.bundle import EXECUTOR_KEY, Bundle
from agent.spec.check import check_job, relocate
from agent.spec.compile import Compiled, compile_instance
from agent.spec.document import nearest
from agent.spec.errors import PluginError, Position, Problem, Severity, SpecError, has_errors
from agent.spec.job import JobSpec, ParsedJob, parse_job
from agent.spec.limits import size_problems
from agent.spec.lookups import Masked
from agent.spec.params import Value
from agent.spec.project import project_positions
from agent.spec.scheduling import pools_of
from agent.spec.trial import can_be_tried, try_bundle, untold

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
    """Check the project, its presets and plugins, and every job: all problems of all files at once.

    below: check this folder's jobs alone, or this one file. Of the others' files only errors are told then.
    """
    report = Report()
    by_path = []
    for job in folder.jobs(below) if not _is_other(folder, below) else ():
        parsed, problems = check(folder, job)
        report.problems += problems
        by_path.append((job.file.path, parsed))
    report.jobs = len(by_path)
    report.problems += doubled(by_path)
    # What cannot be read is known only now. What is wrong in a this.yaml is said once, not for each job below it.
    own = [one for one in folder_problems(folder) if below is None or _concerns(one, folder, below)]
    report.problems = list(dict.fromkeys([*own, *report.problems]))
    return report


def _concerns(problem: Problem, folder: Folder, below: Path) -> bool:
    """Whether who looks at one path wants to know of it."""
    return problem.severity is Severity.ERROR or problem.file == folder.name(below)


def folder_problems(folder: Folder) -> list[Problem]:
    """What is wrong with the folder's own files; what contradicts optimus.yaml stands at the key that says it."""
    problems = list(folder.problems)
    if not any(_lacks_place(one) for one in problems):
        return problems
    positions = project_positions(folder.read(folder.root / PROJECT_FILE), PROJECT_FILE)
    return [relocate(one, PROJECT_FILE, positions) if _lacks_place(one) else one for one in problems]


def _lacks_place(problem: Problem) -> bool:
    return problem.file == PROJECT_FILE and bool(problem.key) and (problem.line, problem.column) == (1, 1)


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
    unread = _unread_plugins(folder)
    unjudged = [key for key, plugin in plugins_named(parsed.job).items() if plugin in unread]
    found = check_job(
        parsed.job,
        folder.plugins,
        file.path,
        positions=parsed.positions,
        presets=folder.presets if _presets_are_read(folder) else None,
        assets=tuple(file.assets),
        executors=_executors(parsed.job),
        pools=pools_of(folder.project.config)[0],
    )
    problems += [one for one in found if one.key not in unjudged]
    sizes = {path: len(data) for path, data in file.assets.items()}
    problems += [Problem(file.path, 1, 1, "assets", text) for text in size_problems(sizes)]
    if not unjudged and can_be_tried(found):
        problems += untold(_try(folder, job, parsed.job, parsed.positions, launch=not has_errors(found)), found)
    return parsed, problems


def plugins_named(spec: JobSpec) -> dict[str, str]:
    """The plugins that a job names, by the key where it does: `{"task.name": "sql", "hooks[0].name": "tell"}`."""
    return {"task.name": spec.task.name, **{f"hooks[{n}].name": hook.name for n, hook in enumerate(spec.hooks)}}


def _unread_plugins(folder: Folder) -> set[str]:
    """The plugins whose files have errors. That is told once, and not again by each job that names one."""
    broken = {one.file for one in folder.problems if one.severity is Severity.ERROR}
    return {_name_of(text) for file, text in folder.plugin_files if file in broken} - {"", *folder.plugins}


def _presets_are_read(folder: Folder) -> bool:
    """Whether all presets are known: their file is there and has no errors, or none is named."""
    assert folder.project is not None
    file = folder.name(folder.root / folder.project.preset_path)
    return not any(
        one.severity is Severity.ERROR and (one.file == file or one.key == "project.preset_path")
        for one in folder.problems
    )


def _try(
    folder: Folder, job: FolderJob, spec: JobSpec, positions: Mapping[str, Position], *, launch: bool
) -> list[Problem]:
    """A trial rendering of every instance, as an agent makes it before it accepts a job. launch: and of its start."""
    file = job.file
    try:
        bundle = bundle_of(folder, job, spec)
    except PluginError as error:
        return [Problem(file.path, 1, 1, "", str(error))]
    executor = (lambda planned: planned.executor) if launch else None
    trial = try_bundle(bundle, at=TRIAL_AT, secrets=Masked(), assets=file.assets, executor=executor)
    return list(dict.fromkeys(relocate(one, file.path, positions, tuple(file.assets)) for one in trial.problems))


def _executors(spec: JobSpec) -> Collection[str] | None:
    """The executors that are known here; None where the job names none, so that nobody has to look."""
    if not (spec.task.executor or any(hook.executor for hook in spec.hooks)):
        return None
    from importlib.metadata import entry_points

    from agent.engines import GROUP

    return {point.name for point in entry_points(group=GROUP)}


def find_job(folder: Folder, name: str) -> tuple[FolderJob, JobSpec]:
    """The job of that name in any namespace. Raises NoSuchJob, SpecError with all that is wrong with it."""
    jobs = list(folder.jobs())
    # Reading a spec takes a millisecond, and most say their name in plain words: those that say this one come first.
    jobs.sort(key=lambda job: name not in job.file.text)
    names = []
    for job in jobs:
        parsed = parse_job(job.file.text, job.file.path, job.file.parents)
        known = parsed.job.name if parsed.job is not None else _name_of(job.file.text)
        if known != name:
            names.append(known)
            continue
        if parsed.job is None:
            raise SpecError(parsed.problems)
        return job, parsed.job
    raise NoSuchJob(f"there is no job {name!r} in {folder.root}{nearest(name, names)}")


def _name_of(text: str) -> str:
    """The name that a broken spec seems to have."""
    for line in text.splitlines():
        if line.startswith("name:"):
            return line.removeprefix("name:").strip().strip("'\"")
    return ""


def bundle_of(folder: Folder, job: FolderJob, spec: JobSpec, values: Mapping[str, Value] | None = None) -> Bundle:
    """What an agent would accept a run with. values: of its parameters; None = their defaults. Raises PluginError."""
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
        variables=bundles.variables_of(
            project.config,
            scope.config if scope is not None else {},
            project.variables,
            scope.variables if scope is not None else {},
        ),
        preset=preset.window if preset is not None else None,
        assets={path: sha256(data).hexdigest() for path, data in job.file.assets.items()},
        executor=config.get(EXECUTOR_KEY, ""),
        params=params.defaults(spec.params) if values is None else dict(values),
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

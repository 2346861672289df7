"""A project folder as Optimus has it, read from disk: optimus.yaml, presets, plugins, jobs with their assets.

Jobs are the files called exactly `job.yaml` below a namespace's `job.path`; a job's own `assets` folder is not looked
into. `this.yaml` files count from the job's own folder up to the project's.

Files are named by their path below the project folder, wherever the user stands: that name goes to the agent, and so
the same folder gives the same jobs. `Folder.shown` turns it into what the user would type.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.spec.errors import Problem

if TYPE_CHECKING:
    from agent.spec.plugin import Plugin
    from agent.spec.project import ProjectConfig, WindowPreset

PROJECT_FILE: Final = "optimus.yaml"
JOB_FILE: Final = "job.yaml"
PARENT_FILE: Final = "this.yaml"
ASSETS: Final = "assets"
PLUGINS: Final = "plugins"
UNNAMED: Final = ""  # the namespace of jobs outside any project


@dataclass(frozen=True, slots=True)
class JobOnDisk:
    """A job as its author has it. parents: (path, text) of the `this.yaml`s above it, nearest first."""

    path: str
    text: str
    assets: dict[str, bytes]
    parents: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FolderJob:
    """A job on disk, and the namespace it belongs to."""

    namespace: str
    file: JobOnDisk


@dataclass(slots=True)
class Folder:
    """What a project folder holds. problems: what is wrong with its files, and which cannot be read.

    project: None outside of a project, or where optimus.yaml has errors; `is_project` tells which.
    """

    root: Path
    is_project: bool = False
    project: ProjectConfig | None = None
    presets: dict[str, WindowPreset] = field(default_factory=dict)
    plugins: dict[str, Plugin] = field(default_factory=dict)
    plugin_files: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def jobs(self, below: Path | None = None) -> Iterator[FolderJob]:
        """The jobs of all namespaces in order of their paths; below: only those in that folder, or that one file.

        A file that is named is a job whatever it is called. What cannot be read is added to `problems`.
        """
        if below is not None and below.is_file():
            yield self.job(below)
            return
        if self.project is None:
            if not self.is_project:
                yield from (self._job(UNNAMED, path) for path in job_files(below or self.root))
            return
        bases = self._bases()
        for name, base in bases.items():
            others = frozenset(one for one in bases.values() if one != base)
            for path in job_files(base, others):
                if below is None or path.is_relative_to(below.resolve()):
                    yield self._job(name, path)

    def job(self, path: Path) -> FolderJob:
        """The job in one file; its namespace is the innermost whose folder it lies in."""
        path = _place(path)
        bases = self._bases() if self.project is not None else {}
        around = [name for name, base in bases.items() if path.is_relative_to(base)]
        return self._job(max(around, key=lambda name: len(bases[name].parts), default=UNNAMED), path)

    def name(self, path: Path) -> str:
        """A file's name in the project: its path below the project folder."""
        return Path(os.path.relpath(_place(path), self.root.resolve())).as_posix()

    def shown(self, name: str) -> str:
        """What a user would type for it from where he stands."""
        path = self.root / name
        relative = os.path.relpath(path)
        return relative if not relative.startswith(os.path.join("..", "..", "..")) else str(path)  # noqa: PTH118

    def _bases(self) -> dict[str, Path]:
        """The folder of each namespace. One that is missing, or another's already, is a problem."""
        assert self.project is not None
        bases: dict[str, Path] = {}
        for index, namespace in enumerate(self.project.namespaces):
            base = (self.root / namespace.job_path).resolve()
            if base.is_dir() and base not in bases.values():
                bases[namespace.name] = base
                continue
            wrong = "belongs to another namespace" if base.is_dir() else "is not there"
            message = f"the folder {namespace.job_path} of the namespace {namespace.name} {wrong}"
            self._add(Problem(PROJECT_FILE, 1, 1, f"namespaces[{index}].job.path", message))
        return bases

    def _job(self, namespace: str, path: Path) -> FolderJob:
        text = self.read(path)
        parents = tuple((self.name(one), self.read(one)) for one in self._parents(path.parent))
        return FolderJob(namespace, JobOnDisk(self.name(path), text, self._assets(path.parent / ASSETS), parents))

    def _parents(self, directory: Path) -> Iterator[Path]:
        """The `this.yaml`s from the job's folder up to the project's, nearest first."""
        root = self.root.resolve()
        for folder in (directory, *directory.parents):
            if (folder / PARENT_FILE).is_file():
                yield folder / PARENT_FILE
            if folder == root or not folder.is_relative_to(root):
                return

    def _assets(self, base: Path) -> dict[str, bytes]:
        if not base.is_dir():
            return {}
        paths = sorted(path for path in base.rglob("*") if not path.is_dir())
        return {path.relative_to(base).as_posix(): self._bytes(path) for path in paths}

    def read(self, path: Path) -> str:
        """A file's text; an empty one, and a problem, where it cannot be read."""
        data = self._bytes(path)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            before = data[: error.start]
            line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
            message = f"this is not UTF-8: {error.reason}; save the file as UTF-8"
            self._add(Problem(self.name(path), line, column, "", message))
            return ""

    def _bytes(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            self._add(Problem(self.name(path), 1, 1, "", f"cannot be read: {error.strerror or error}"))
            return b""

    def _add(self, problem: Problem) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _place(path: Path) -> Path:
    """Where a file really lies. A link is a file of the folder it is in, whatever it leads to."""
    return path.parent.resolve() / path.name


def find_folder(start: Path) -> Path | None:
    """The nearest folder with an optimus.yaml, from `start` upwards."""
    start = start.resolve()
    for folder in (start, *start.parents) if start.is_dir() else start.parents:
        if (folder / PROJECT_FILE).is_file():
            return folder
    return None


def load_project(root: Path) -> Folder:
    """Read optimus.yaml alone: who asks an agent needs no more to know which project is meant."""
    from agent.spec.project import parse_project

    folder = Folder(root, is_project=True)
    text = folder.read(root / PROJECT_FILE)
    if not folder.problems:
        folder.project, problems = parse_project(text, PROJECT_FILE)
        folder.problems += problems
    return folder


def load_folder(start: Path) -> Folder:
    """Read the project that `start` lies in, or, where there is none, the folder itself. Problems are in the answer."""
    root = find_folder(start)
    if root is None:
        return Folder(start if start.is_dir() else start.parent)
    folder = load_project(root)
    _load_presets(folder)
    _load_plugins(folder)
    return folder


def _load_presets(folder: Folder) -> None:
    from agent.spec.project import parse_presets

    if folder.project is None or not folder.project.preset_path:
        return
    path = folder.root / folder.project.preset_path
    if not path.is_file():
        message = f"the file {folder.project.preset_path} is not there"
        folder.problems.append(Problem(PROJECT_FILE, 1, 1, "project.preset_path", message))
        return
    presets, problems = parse_presets(folder.read(path), folder.name(path))
    folder.presets = presets or {}
    folder.problems += problems


def _load_plugins(folder: Folder) -> None:
    from agent.spec.plugin import parse_plugin

    names: dict[str, str] = {}
    for path in sorted((folder.root / PLUGINS).glob("*.y*ml")):
        name, text = folder.name(path), folder.read(path)
        plugin, problems = parse_plugin(text, name)
        folder.problems += problems
        folder.plugin_files.append((name, text))
        if plugin is None:
            continue
        if plugin.name in names:
            message = f"the plugin {plugin.name} is in {names[plugin.name]} as well; keep one"
            folder.problems.append(Problem(name, 1, 1, "name", message))
        names[plugin.name] = name
        folder.plugins[plugin.name] = plugin


def job_files(base: Path, others: frozenset[Path] = frozenset()) -> list[Path]:
    """Every job.yaml below `base`, in order. Left out: a job's assets, hidden folders, and those in `others`."""
    found = []
    for directory, folders, files in os.walk(base.resolve()):
        here = Path(directory)
        if JOB_FILE in files:
            found.append(here / JOB_FILE)
        folders[:] = [
            one
            for one in folders
            if not one.startswith(".") and not (one == ASSETS and JOB_FILE in files) and here / one not in others
        ]
    return sorted(found)

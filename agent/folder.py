"""A project folder as Optimus has it, read from disk: optimus.yaml, presets, plugins, jobs with their assets.

Jobs are the files called exactly `job.yaml` below a namespace's `job.path`; what lies below an `assets` folder is never
a job. `this.yaml` files count from the job's own folder up to the project's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from agent.service.common import JobFile
from agent.spec.errors import Problem
from agent.spec.plugin import Plugin, parse_plugin
from agent.spec.project import ProjectConfig, WindowPreset, parse_presets, parse_project

PROJECT_FILE: Final = "optimus.yaml"
JOB_FILE: Final = "job.yaml"
PARENT_FILE: Final = "this.yaml"
ASSETS: Final = "assets"
PLUGINS: Final = "plugins"
UNNAMED: Final = ""  # the namespace of jobs outside any project


@dataclass(frozen=True, slots=True)
class FolderJob:
    """A job on disk: which namespace it belongs to, and its file."""

    namespace: str
    file: JobFile


@dataclass(slots=True)
class Folder:
    """What a project folder holds. problems: what is wrong in optimus.yaml, presets and plugins."""

    root: Path
    project: ProjectConfig | None = None
    presets: dict[str, WindowPreset] = field(default_factory=dict)
    plugins: dict[str, Plugin] = field(default_factory=dict)
    plugin_files: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def jobs(self, below: Path | None = None) -> Iterator[FolderJob]:
        """The jobs of all namespaces in order of their paths; below: only those in that folder, or that one file."""
        if self.project is None:
            yield from (self._job(UNNAMED, path) for path in job_files(below or self.root))
            return
        for namespace in self.project.namespaces:
            base = (self.root / namespace.job_path).resolve()
            if not base.is_dir():
                message = f"the folder {namespace.job_path} is not there"
                self.problems.append(
                    Problem(shown(self.root / PROJECT_FILE), 1, 1, f"namespaces.{namespace.name}.job.path", message)
                )
                continue
            for path in job_files(base):
                if below is None or path.is_relative_to(below.resolve()):
                    yield self._job(namespace.name, path)

    def _job(self, namespace: str, path: Path) -> FolderJob:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(Problem(shown(path), 1, 1, "", f"cannot be read as text: {error}"))
            text = ""
        return FolderJob(
            namespace, JobFile(shown(path), text, _assets(path.parent / ASSETS), self._parents(path.parent))
        )

    def _parents(self, directory: Path) -> list[tuple[str, str]]:
        """The `this.yaml`s from the job's folder up to the project's, nearest first."""
        found = []
        root = self.root.resolve()
        for folder in (directory, *directory.parents):
            path = folder / PARENT_FILE
            if path.is_file():
                found.append((shown(path), path.read_text(errors="replace")))
            if folder == root or not folder.is_relative_to(root):
                break
        return found


def find_folder(start: Path) -> Path | None:
    """The nearest folder with an optimus.yaml, from `start` upwards."""
    start = start.resolve()
    for folder in (start, *start.parents) if start.is_dir() else start.parents:
        if (folder / PROJECT_FILE).is_file():
            return folder
    return None


def load_folder(start: Path) -> Folder:
    """Read the project that `start` lies in, or, where there is none, the folder itself. Problems are in the answer."""
    root = find_folder(start)
    if root is None:
        return Folder(start if start.is_dir() else start.parent)
    folder = Folder(root)
    path = root / PROJECT_FILE
    folder.project, problems = parse_project(path.read_text(errors="replace"), shown(path))
    folder.problems += problems
    _load_presets(folder)
    for file in sorted((root / PLUGINS).glob("*.y*ml")):
        text = file.read_text(errors="replace")
        plugin, problems = parse_plugin(text, shown(file))
        folder.problems += problems
        folder.plugin_files.append((shown(file), text))
        if plugin is not None:
            folder.plugins[plugin.name] = plugin
    return folder


def _load_presets(folder: Folder) -> None:
    if folder.project is None or not folder.project.preset_path:
        return
    path = folder.root / folder.project.preset_path
    if not path.is_file():
        message = f"the file {folder.project.preset_path} is not there"
        folder.problems.append(Problem(shown(folder.root / PROJECT_FILE), 1, 1, "project.preset_path", message))
        return
    presets, problems = parse_presets(path.read_text(errors="replace"), shown(path))
    folder.presets = presets or {}
    folder.problems += problems


def job_files(base: Path) -> list[Path]:
    """Every job.yaml below `base` (or `base` itself, if it is a file), in order; assets are not looked into."""
    if base.is_file():
        return [base.resolve()]
    found = []
    for directory, folders, files in os.walk(base.resolve()):
        folders[:] = sorted(one for one in folders if one != ASSETS and not one.startswith("."))
        if JOB_FILE in files:
            found.append(Path(directory) / JOB_FILE)
    return sorted(found)


def load_job_file(path: Path) -> FolderJob:
    """One job from its file, whatever it is called, with the assets and `this.yaml`s around it."""
    folder = load_folder(path)
    job = folder._job(UNNAMED, path.resolve())  # noqa: SLF001  the same reading, of one file
    return replace(job, file=replace(job.file, path=str(path)))


def _assets(base: Path) -> dict[str, bytes]:
    if not base.is_dir():
        return {}
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in sorted(base.rglob("*")) if path.is_file()}


def shown(path: Path) -> str:
    """A path as a user would name it from where he stands."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("../../..") else str(path)

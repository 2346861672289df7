"""`optimus.yaml`, which says what a project is, and the file of its window presets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.spec import duration
from agent.spec.document import Problems, compose, shorten
from agent.spec.errors import Position, Problem
from agent.spec.instance import CHARACTERS, VERSIONS, read_window
from agent.spec.jobspec import WindowSpec
from agent.spec.reader import Reader, Reading

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-.]{0,219}")
_NAME_EXPECTED = f"a name of 1 to 220 {CHARACTERS},"
KEEP_LOGS: Final = "logs.keep"
_NOTES: Final = {"namespaces[].datastore": "has no effect; prime runs jobs and makes no tables"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceConfig:
    """A namespace: where its jobs lie (`job_path`, relative to `optimus.yaml`) and what they are given."""

    name: str
    job_path: str
    config: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectConfig:
    """What `optimus.yaml` says. Values keep their source text; `config` is free-form, as are `variables`."""

    version: int
    name: str
    host: str = ""
    log_level: str = ""
    config: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    preset_path: str = ""
    namespaces: tuple[NamespaceConfig, ...] = ()
    auth: dict[str, str] = field(default_factory=dict, repr=False)  # credentials: kept out of logs


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPreset:
    """A window that jobs of version 3 name."""

    name: str
    description: str = ""
    window: WindowSpec


def parse_project(text: str, file: str) -> tuple[ProjectConfig | None, tuple[Problem, ...]]:
    """Read an `optimus.yaml`.

    Arguments: `text`; `file`, the name that problems carry. Returns the project, None exactly where there is an error,
    and all problems. Raises nothing.
    """
    problems = Problems()
    reader = Reader.of_document(compose(text, file, problems), file, Reading(problems, _NOTES))
    project = _project(reader)
    return None if problems.refused else project, problems.listed()


def project_positions(text: str, file: str) -> dict[str, Position]:
    """Return the place of every value of an `optimus.yaml`, by the path of its key. Raises nothing."""
    problems = Problems()
    reading = Reading(problems)
    _project(Reader.of_document(compose(text, file, problems), file, reading))
    return reading.positions


def _project(reader: Reader) -> ProjectConfig:
    project, log = reader.child("project"), reader.child("log")
    config = ProjectConfig(
        version=reader.integer("version", 1, minimum=1),
        name=project.required("name", _NAME_EXPECTED, pattern=_NAME),
        host=reader.string("host", ""),
        log_level=log.string("level", ""),
        config=_config(project),
        variables=project.string_map("variables"),
        preset_path=project.string("preset_path", ""),
        namespaces=_namespaces(reader),
        auth=reader.string_map("auth"),
    )
    log.find("format")
    log.close()
    project.close()
    reader.close()
    return config


def _config(project: Reader) -> dict[str, str]:
    """The free-form settings; those that prime itself reads are checked."""
    config = project.string_map("config")
    if KEEP_LOGS in config:
        try:
            keep_logs_s(config)
        except ValueError as error:
            project.child("config").problem(KEEP_LOGS, str(error))
    return config


def keep_logs_s(config: Mapping[str, str]) -> float | None:
    """How long agents keep the output of a project's runs, in seconds; None where its `config` does not say.

    Raises ValueError for what is no duration above zero; the message says what is expected.
    """
    if KEEP_LOGS not in config:
        return None
    seconds = duration.parse(config[KEEP_LOGS]).total_seconds()
    if seconds <= 0:
        raise ValueError(f"a duration above zero is expected, not {shorten(config[KEEP_LOGS])}")
    return seconds


def _namespaces(project: Reader) -> tuple[NamespaceConfig, ...]:
    namespaces: dict[str, NamespaceConfig] = {}
    for reader in project.children("namespaces"):
        name = reader.required("name", _NAME_EXPECTED, pattern=_NAME)
        if name in namespaces:
            reader.problem("name", f"the namespace {name} is given twice")
        job = reader.child("job")
        path = job.required("path", "the folder of the namespace's jobs")
        job.close()
        config, variables = reader.string_map("config"), reader.string_map("variables")
        namespaces[name] = NamespaceConfig(name=name, job_path=path, config=config, variables=variables)
        reader.find("datastore")
        reader.close()
    return tuple(namespaces.values())


def parse_presets(text: str, file: str) -> tuple[dict[str, WindowPreset] | None, tuple[Problem, ...]]:
    """Read a file of window presets, which have the windows of version 3.

    Arguments: `text`; `file`, the name that problems carry. Returns the presets by name, None exactly where there is an
    error, and all problems. Raises nothing.
    """
    problems = Problems()
    root = Reader.of_document(compose(text, file, problems), file, Reading(problems))
    presets = {}
    for name, reader in root.named("presets"):
        if not _NAME.fullmatch(name):
            reader.problem("", f"{_NAME_EXPECTED} is expected, not {shorten(name)}")
        window = read_window(reader, VERSIONS[-1])
        if window is None:
            reader.missing("window", "a preset is a window, such as {size: 1d}")
        elif window.preset:
            reader.problem("window", "a preset has a window of its own, not another preset")
        else:
            description = reader.string("description", "")
            presets[name] = WindowPreset(name=name, description=description, window=window)
        reader.find("description")
        reader.close()
    root.close()
    return None if problems.refused else presets, problems.listed()

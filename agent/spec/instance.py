"""The instances of a job as they are written: its task, its hooks, and the window that the task works on."""

from __future__ import annotations

import re
from typing import Final

from agent.spec import cron, window
from agent.spec.document import shorten
from agent.spec.jobspec import AlertSpec, HookSpec, HookType, SlaMissAlert, TaskSpec, TriggerRule, WindowSpec
from agent.spec.reader import Reader

VERSIONS: Final = (1, 2, 3)

CHARACTERS = "letters, digits, '_', '-' and '.', beginning with a letter or digit"
INSTANCE_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-.]{0,99}")
"""Names of tasks, hooks and plugins: they become parts of paths and of containers' names."""
INSTANCE_EXPECTED: Final = f"a plugin's name of 1 to 100 {CHARACTERS},"
_CONFIG_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
EXECUTOR: Final = re.compile(r"[a-z][a-z0-9_\-]*")


def read_task(reader: Reader, version: int) -> TaskSpec:
    """Read a job's `task`; `version` is the job's, 0 where it is not known, and selects the rules of the window."""
    task = TaskSpec(
        name=reader.required("name", INSTANCE_EXPECTED, pattern=INSTANCE_NAME),
        version=reader.string("version", ""),
        config=read_config(reader, "config"),
        window=read_window(reader, version),
        executor=read_executor(reader),
        timeout_s=reader.duration("timeout", None),
        allow_failure=reader.boolean("allow_failure", False),
        skip_exit_code=_exit_codes(reader, "skip_exit_code"),
        alert=_alert(reader),
    )
    reader.close()
    return task


def read_hook(reader: Reader) -> HookSpec:
    """Read one of a job's `hooks`."""
    hook = HookSpec(
        name=reader.required("name", INSTANCE_EXPECTED, pattern=INSTANCE_NAME),
        version=reader.string("version", ""),
        config=read_config(reader, "config"),
        hooktype=reader.choice("hooktype", HookType, None),
        executor=read_executor(reader),
        timeout_s=reader.duration("timeout", None),
        trigger_rule=reader.choice("trigger_rule", TriggerRule, None),
        allow_failure=reader.boolean("allow_failure", False),
        skip_exit_code=_exit_codes(reader, "skip_exit_code"),
        alert=_alert(reader),
    )
    reader.close()
    return hook


def read_executor(reader: Reader) -> str:
    """Return the name of an executor; empty where none is given."""
    return reader.string("executor", "", pattern=EXECUTOR, expected="an executor such as docker or process")


def read_config(reader: Reader, key: str) -> dict[str, str]:
    """Return a configuration, whose keys become the names of environment variables."""
    config = reader.string_map(key)
    for name in config:
        if not _CONFIG_KEY.fullmatch(name):
            message = (
                f"{shorten(name)} cannot be a variable's name: letters, digits and '_', not beginning with a digit"
            )
            reader.problem(key, message)
    return config


def _exit_codes(reader: Reader, key: str) -> tuple[int, ...]:
    codes = []
    for node in reader.nodes(key):
        code = Reader.integer_of(node, 1, 255)
        if code is None:
            reader.problem(key, "exit codes are whole numbers from 1 to 255")
        else:
            codes.append(code)
    return tuple(codes)


def _alert(instance: Reader) -> AlertSpec:
    reader = instance.child("alert")
    alerts = []
    for item in reader.children("sla_miss"):
        threshold_s = item.duration("duration_threshold", None)
        auto = item.boolean("auto_threshold", False)
        if item.has("duration_threshold") is auto:
            item.problem("", "either a duration_threshold or `auto_threshold: true` is required")
        severity, team = item.string("severity", ""), item.string("team", "")
        alerts.append(SlaMissAlert(duration_threshold_s=threshold_s, auto_threshold=auto, severity=severity, team=team))
        item.close()
    reader.close()
    return AlertSpec(sla_miss=tuple(alerts))


def read_window(task: Reader, version: int) -> WindowSpec | None:
    """Read the `window` of a task or a preset by the rules of a version; None where nothing is said of one."""
    reader = task.child("window")
    window_spec = WindowSpec(
        size=reader.string("size", ""),
        offset=reader.string("offset", ""),
        shift_by=reader.string("shift_by", ""),
        truncate_to=reader.string("truncate_to", ""),
        location=read_location(reader, "location", ""),
        preset=reader.string("preset", ""),
    )
    reader.close()
    if window_spec == WindowSpec():
        return None
    _check_window(reader, window_spec, version)
    return window_spec


def _check_window(reader: Reader, spec: WindowSpec, version: int) -> None:
    """Add to the problems of a window's reader what is wrong with the window; version 0 is one that is not known."""
    if spec.preset and 0 < version < VERSIONS[-1]:
        reader.problem("preset", f"version {version} has no presets; write the window out, or use version 3")
    elif spec.preset and spec != WindowSpec(preset=spec.preset):
        reader.problem("preset", "a preset stands alone; leave out size, shift_by, truncate_to and location")
    if spec.preset or not version:
        return
    try:
        window.parse(
            version,
            size=spec.size,
            offset=spec.offset,
            shift_by=spec.shift_by,
            truncate_to=spec.truncate_to,
            location=spec.location,
        )
    except ValueError as error:
        message = str(error)
        named = re.match("window ([a-z_]+) ", message)
        key = named[1] if named and reader.has(named[1]) else ""
        reader.problem(key, message)


def read_location(reader: Reader, key: str, default: str) -> str:
    """Return a zone's name, or an empty text where there is no such zone."""
    name = reader.string(key, default)
    try:
        cron.load_location(name)
    except ValueError as error:
        reader.problem(key, str(error))
        return ""
    return name

"""A job as YAML again: what `agent.spec.job.parse_job` reads back to an equal `JobSpec`."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import Any

import yaml

from agent.spec import duration
from agent.spec.jobspec import JobSpec

_RARE_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


def dump_job(job: JobSpec) -> str:
    """Return the YAML of a job; `parse_job` reads it back to an equal one. What has its default is left out."""
    # A width without end: a folded line would hide the places where a text really breaks.
    return yaml.dump(_plain(job), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, the way people write queries and scripts."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Line ends other than the usual one are escaped: written as they are, they would come back as another one.
    style = '"' if _RARE_LINE_ENDS.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    key: str
    is_duration: bool
    always: bool
    default: Any


@cache
def _fields(kind: type) -> tuple[_Field, ...]:
    fields = []
    for item in dataclasses.fields(kind):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        key, always = item.name.removesuffix("_s"), item.metadata.get("always", False)
        fields.append(_Field(item.name, key, item.name.endswith("_s"), always, default))
    return tuple(fields)


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    entries = {}
    kind: type = type(value)
    for item in _fields(kind):
        inner = getattr(value, item.name)
        if item.always or inner != item.default:
            is_duration = item.is_duration and inner is not None
            entries[item.key] = duration.format(timedelta(seconds=inner)) if is_duration else _plain(inner)
    return entries

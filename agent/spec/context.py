"""What the templates of a job can name: Optimus' variables of a run, variables, params, secrets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from agent.spec.bundle import Bundle
from agent.spec.window import Interval


def fixed_context(bundle: Bundle, secrets: Mapping[str, str]) -> dict[str, object]:
    """What is the same for all texts of a run."""
    return {
        "params": bundle.params,
        "proj": bundle.variables,
        "secret": secrets,
        **{f"GLOBAL__{key}": value for key, value in bundle.variables.items()},
    }


def system_variables(
    version: int, interval: Interval, *, scheduled_at: datetime, started_at: datetime
) -> dict[str, str]:
    """Optimus' variables of an instance. JOB_DESTINATION is set once the config it is made of is known.

    version: of the job's spec.  scheduled_at, started_at: in UTC.
    """
    variables = {
        "DSTART": _with_offset(interval.start),
        "DEND": _with_offset(interval.end),
        "EXECUTION_TIME": rfc3339(started_at),
        "JOB_DESTINATION": "",
    }
    if version >= 3:
        variables |= {
            "EXECUTION_TIME": scheduled_at.strftime("%Y-%m-%d %H:%M:%S"),
            "START_DATE": interval.start.strftime("%Y-%m-%d"),
            "END_DATE": interval.end.strftime("%Y-%m-%d"),
            "SCHEDULE_TIME": rfc3339(scheduled_at),
            "SCHEDULE_DATE": scheduled_at.strftime("%Y-%m-%d"),
        }
    return variables


def _with_offset(at: datetime) -> str:
    """`2021-02-10T10:00:00+07:00`, as Go writes a time that has a location: `Z` where the offset is none."""
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")[:25]  # an offset has no seconds there


def rfc3339(at: datetime) -> str:
    """`2021-02-10T10:00:00Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

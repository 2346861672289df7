"""What can be said to the run table.

A command is a frozen struct in tagged array form. It carries its time, names the state it expects, and is a recorded
no-op where it does not find it. Bytes that do not decode are the same no-op on every replica: `decode` never raises.
"""

from __future__ import annotations

import msgspec

from agent.runtable.model import (
    Agent,
    Count,
    InstancePlan,
    InstanceState,
    Job,
    Limits,
    Namespace,
    Origin,
    Plugin,
    Reason,
    Secret,
)


class Command(msgspec.Struct, array_like=True, frozen=True, tag=True, gc=False):
    """Base. time_ms: the proposer's clock; the table's time is the latest of all it has seen."""

    time_ms: Count


class Found(Command, frozen=True):
    """The first command of a cluster: its id. Founding twice is a no-op."""

    cluster: str
    generation: Count


class SetLimits(Command, frozen=True):
    """New limits; they bind from here on."""

    limits: Limits


class AgentUp(Command, frozen=True):
    """An agent is there (again) with this address, these slots and executors. Its epoch is the table's business."""

    agent: Agent


class PutProject(Command, frozen=True):
    """Create or replace what optimus.yaml says of a project. None leaves that part as it is; namespaces are added."""

    project: str
    config: dict[str, str] | None = None
    variables: dict[str, str] | None = None
    presets: dict[str, dict[str, str]] | None = None
    namespaces: dict[str, Namespace] | None = None


class PutPlugins(Command, frozen=True):
    """Create or replace plugins of a project, by name."""

    project: str
    plugins: dict[str, Plugin]


class PutJobs(Command, frozen=True):
    """Create or replace jobs of a project, by name: all of them or none."""

    project: str
    jobs: dict[str, Job]


class DeleteJob(Command, frozen=True):
    """Delete a job. Its runs, and its history, stay."""

    project: str
    namespace: str
    job: str


class PutSecret(Command, frozen=True):
    """Create or replace a secret. namespace "" = the whole project's."""

    project: str
    namespace: str
    name: str
    secret: Secret


class DeleteSecret(Command, frozen=True):
    """Delete a secret."""

    project: str
    namespace: str
    name: str


class SubmitRun(Command, frozen=True):
    """Accept a run.

    request: the scoped key of the request, "" = none; body_hash: of its body; keep_ms: how long the key is remembered.
    bundle: hash of the blob with all the run needs, durable before this is proposed.
    """

    run_id: str
    project: str
    namespace: str
    job: str
    scheduled_at_ms: Count
    origin: Origin
    requested_by: str
    via: str
    request: str
    body_hash: str
    keep_ms: Count
    bundle: str
    timeout_ms: Count
    queue_timeout_ms: Count
    instances: tuple[InstancePlan, ...]


class Assign(Command, frozen=True):
    """Hand the next attempt of an instance to an agent. number: of the attempt, one more than there are."""

    run_id: str
    instance: str
    number: Count
    agent: str
    epoch: Count


class InstanceStarted(Command, frozen=True):
    """The owner's word that the work began. seq: of its journal. compiled: hash of what was rendered, redacted."""

    run_id: str
    instance: str
    number: Count
    agent: str
    epoch: Count
    seq: Count
    started_at_ms: Count
    compiled: str | None
    facts: dict[str, str]


class InstanceEnded(Command, frozen=True):
    """The owner's word that the work has ended, and how. reason None = success. started_at_ms None = it never began."""

    run_id: str
    instance: str
    number: Count
    agent: str
    epoch: Count
    seq: Count
    reason: Reason | None
    exit_code: int | None
    message: str
    started_at_ms: Count | None
    finished_at_ms: Count
    compiled: str | None
    facts: dict[str, str]


class CancelRun(Command, frozen=True):
    """End a run early. What runs is stopped first; what waits is cancelled at once."""

    run_id: str
    who: str
    via: str


class ClearRun(Command, frozen=True):
    """Make instances of a run pending again, with new attempts to come; what was made stays (P4).

    instances: their names. record: the packed run, where it has left the table already; b"" = it is in the table.
    ended_index: where that record says it ended, so that an older end of the same run is not taken for its last.
    what: the operator's verb, for the audit ("retry", "clear").
    """

    run_id: str
    instances: tuple[str, ...]
    record: bytes
    ended_index: Count
    who: str
    via: str
    what: str


class MarkInstance(Command, frozen=True):
    """Give an unfinished instance a result by hand. What runs is stopped first."""

    run_id: str
    instance: str
    state: InstanceState
    who: str
    via: str


class AdvanceTime(Command, frozen=True):
    """Let time pass: every deadline at or before `time_ms` fires."""


AnyCommand = (
    Found
    | SetLimits
    | AgentUp
    | PutProject
    | PutPlugins
    | PutJobs
    | DeleteJob
    | PutSecret
    | DeleteSecret
    | SubmitRun
    | Assign
    | InstanceStarted
    | InstanceEnded
    | CancelRun
    | ClearRun
    | MarkInstance
    | AdvanceTime
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyCommand] = msgspec.msgpack.Decoder(AnyCommand)


def encode(command: AnyCommand) -> bytes:
    """The bytes of a command, as they stand in the log."""
    return _encoder.encode(command)


def decode(data: bytes) -> AnyCommand | None:
    """The command in `data`, or None where it is none: the same no-op on every replica."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # a ValidationError is a DecodeError
        return None

"""What can be said to the run table.

A command is a frozen struct in tagged array form. It carries its time, names the state it expects, and is a recorded
no-op where it does not find it. Bytes that do not decode are the same no-op on every replica: `decode` never raises.

    command   level u8, 1 to 127 | msgpack          without the level, as in older logs: level 1

The *feature level* (`LEVELS`) says which programs know a command. A new one, and an old one that is to say or do
something else, is a new class with a new level: for a program without it, it would be a no-op, and tables would part.
"""

from __future__ import annotations

from typing import Final, get_args

import msgspec

from agent.runtable.gate_rows import GatePlan
from agent.runtable.model import (
    Agent,
    Count,
    FrozenRow,
    InstancePlan,
    InstanceState,
    Job,
    LeaseTerms,
    Limits,
    Namespace,
    Origin,
    Overlap,
    Plugin,
    Reason,
    RunState,
    Secret,
    Token,
)
from agent.runtable.notice_rows import Wanted
from agent.runtable.replay_rows import ReplayPlan


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


class SetLeaseTerms(Command, frozen=True):
    """New terms of leases. Losses still count by the old ones until what was granted by them has run out."""

    terms: LeaseTerms


class AgentUp(Command, frozen=True):
    """An agent is there: a new one, or one that is known, with this address, these slots, labels and executors.

    Epoch, drain and loss in `agent` are not looked at: they are the table's business.
    clean: the agent's word that all work of `epoch` and of earlier ones which can be fenced has ended. One that was
    lost returns by it alone, with the next epoch; a word that comes late says nothing of an epoch lost since.
    epoch: 0 = whichever was lost last, as in logs of before.
    """

    agent: Agent
    clean: bool = False
    epoch: Count = 0


class AgentLost(Command, frozen=True):
    """The agent's lease has run out, and its work was stopped or waits by its job's choice (`OnAgentLost`)."""

    agent: str
    epoch: Count


class AgentDraining(Command, frozen=True):
    """Give the agent nothing more, or something again. What it has goes on."""

    agent: str
    on: bool


class AgentRemoved(Command, frozen=True):
    """Take an agent out for ever: it was lost, or has no open attempts."""

    agent: str


class PutProject(Command, frozen=True):
    """Create or replace what optimus.yaml says of a project. None leaves that part as it is; namespaces are added.

    pools: what `config` says of them, {name: slots}.
    """

    project: str
    config: dict[str, str] | None = None
    variables: dict[str, str] | None = None
    presets: dict[str, dict[str, str]] | None = None
    namespaces: dict[str, Namespace] | None = None
    pools: dict[str, Count] | None = None


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


class PutToken(Command, frozen=True):
    """Let who has this token ask. A name is given once: to change anything, delete it and make another."""

    name: str
    token: Token


class DeleteToken(Command, frozen=True):
    """Let nobody ask with it any more."""

    name: str


class SubmitRun(Command, frozen=True):
    """Accept a run.

    request: the scoped key of the request, "" = none; body_hash: of its body; keep_ms: how long the key is remembered.
    bundle: hash of the blob with all the run needs, durable before this is proposed.
    max_active, overlap: its job's limits, by which it is judged; 0 or ALLOW = none.
    gates: what it waits for; a run gate names a run that is there.
    replay: the one that makes it. No log says so: a replay's runs are made by `ReplayTicks`.
    wants: what somebody is to be told of.
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
    max_active: Count = 0
    overlap: Overlap = Overlap.ALLOW
    gates: tuple[GatePlan, ...] = ()
    replay: str = ""
    wants: tuple[Wanted, ...] = ()


class PipelineRun(FrozenRow, frozen=True):
    """One run of a pipeline. Its fields are those of `SubmitRun`; a run gate may name a run that stands before it."""

    run_id: str
    project: str
    namespace: str
    job: str
    bundle: str
    timeout_ms: Count
    queue_timeout_ms: Count
    instances: tuple[InstancePlan, ...]
    gates: tuple[GatePlan, ...] = ()
    max_active: Count = 0
    overlap: Overlap = Overlap.ALLOW
    wants: tuple[Wanted, ...] = ()


class SubmitPipeline(Command, frozen=True):
    """Accept the runs of a pipeline, all of them or none. The rest is as in `SubmitRun`; its request gets the pipeline.

    scheduled_at_ms: of all its runs.
    """

    pipeline: str
    scheduled_at_ms: Count
    requested_by: str
    via: str
    request: str
    body_hash: str
    keep_ms: Count
    runs: tuple[PipelineRun, ...]


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
    """The owner's word that the work has ended, and how. reason None = success. started_at_ms None = it never began.

    outputs: hash of the blob with what it has put out for later instances.
    """

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
    outputs: str | None = None


class CancelRun(Command, frozen=True):
    """End a run early. What runs is stopped first; what waits is cancelled at once.

    assume_stopped: the operator's word that work on lost agents has ended; without it such a run is not cancelled.
    teardown: end its teardown hooks too, which are spared otherwise, where something of the run has begun.
    """

    run_id: str
    who: str
    via: str
    assume_stopped: bool = False
    teardown: bool = False
    address: str = ""


class ClearRun(Command, frozen=True):
    """Make instances of a run pending again, with new attempts to come; what was made stays (P4).

    instances: their names. record: the packed run, where it has left the table already; b"" = it is in the table.
    ended_index: where that record says it ended, so that an older end of the same run is not taken for its last.
    what: the operator's verb, for the audit ("retry", "clear").
    assume_stopped: the operator's word that work which was given up without proof has ended.
    """

    run_id: str
    instances: tuple[str, ...]
    record: bytes
    ended_index: Count
    who: str
    via: str
    what: str
    assume_stopped: bool = False
    address: str = ""


class CancelPipeline(Command, frozen=True):
    """End all runs of a pipeline early, all at once: none fails for another's end. The rest is as in `CancelRun`."""

    pipeline: str
    who: str
    via: str
    assume_stopped: bool = False
    teardown: bool = False
    address: str = ""


class ClearedRun(FrozenRow, frozen=True):
    """A finished run that is brought back. Its fields are those of `ClearRun`."""

    run_id: str
    instances: tuple[str, ...]
    record: bytes
    ended_index: Count


class ClearRuns(Command, frozen=True):
    """Bring finished runs back, all of them or none. Those that waited for others of them wait for these again."""

    runs: tuple[ClearedRun, ...]
    who: str
    via: str
    what: str
    assume_stopped: bool = False
    address: str = ""


class GateAnswered(Command, frozen=True):
    """How a request of an http gate was answered.

    gate: its place among the run's.  asked: how many were answered before.  met: whether it opens the gate.
    """

    run_id: str
    gate: Count
    asked: Count
    met: bool
    message: str


class MarkInstance(Command, frozen=True):
    """Give an unfinished instance a result by hand; instance "" = all of the run. What runs is stopped first.

    assume_stopped: the operator's word that its work on a lost agent has ended; without it that is not marked.
    """

    run_id: str
    instance: str
    state: InstanceState
    who: str
    via: str
    assume_stopped: bool = False
    address: str = ""


class ImportRun(Command, frozen=True):
    """Record that another scheduler ran a job for a tick, and how that ended: success, failed or skipped.

    The job need not be known. run_id: of the record, if there is none of this tick that says the same.
    """

    run_id: str
    project: str
    namespace: str
    job: str
    scheduled_at_ms: Count
    state: RunState
    who: str
    via: str
    address: str = ""


class CreateReplay(Command, frozen=True):
    """Accept a replay. request, body_hash, keep_ms: as of `SubmitRun`."""

    replay_id: str
    plan: ReplayPlan
    who: str
    via: str
    request: str
    body_hash: str
    keep_ms: Count
    address: str = ""


class ReplayTicks(Command, frozen=True):
    """What the leader has computed of a replay's schedule: the ticks that follow its cursor in this round.

    As many are taken as may run; the rest is said again. done: no tick follows these.
    gates: what the run of each tick waits for; () = none waits for anything.
    """

    replay_id: str
    round: Count
    cursor: Count | None
    ticks: tuple[Count, ...]
    done: bool
    gates: tuple[tuple[GatePlan, ...], ...] = ()


class CancelReplay(Command, frozen=True):
    """Make no run more of a replay, and end those that go on.

    assume_stopped: the operator's word that work on lost agents has ended; runs with such work go on without it.
    """

    replay_id: str
    who: str
    via: str
    assume_stopped: bool = False
    address: str = ""


class ResumeReplay(Command, frozen=True):
    """Let a replay that has ended go on: with the ticks that are left, and those whose run was cancelled.

    failed: and those whose run has failed.
    """

    replay_id: str
    who: str
    via: str
    failed: bool = False
    address: str = ""


class Delivered(Command, frozen=True):
    """An endpoint has taken an event."""

    event: str


class NotDelivered(Command, frozen=True):
    """A try to deliver an event has failed. tries: how many had failed before. final: no other would do better.

    error: why, without any secret. wait_ms: how long the endpoint has asked to be left alone.
    """

    event: str
    tries: Count
    error: str
    wait_ms: Count = 0
    final: bool = False


class AdvanceTime(Command, frozen=True):
    """Let time pass: every deadline at or before `time_ms` fires."""


AnyCommand = (
    Found
    | SetLimits
    | SetLeaseTerms
    | AgentUp
    | AgentLost
    | AgentDraining
    | AgentRemoved
    | PutProject
    | PutPlugins
    | PutJobs
    | DeleteJob
    | PutSecret
    | DeleteSecret
    | PutToken
    | DeleteToken
    | SubmitRun
    | Assign
    | InstanceStarted
    | InstanceEnded
    | CancelRun
    | ClearRun
    | MarkInstance
    | AdvanceTime
    | SubmitPipeline
    | CancelPipeline
    | ClearRuns
    | GateAnswered
    | ImportRun
    | CreateReplay
    | ReplayTicks
    | CancelReplay
    | ResumeReplay
    | Delivered
    | NotDelivered
)

LEVEL: Final = 1  # the highest that this program knows
LEVELS: Final[dict[type[Command], int]] = dict.fromkeys(get_args(AnyCommand), 1)  # those of later levels: | {...}
_NO_LEVEL: Final = 0x80  # a first byte from here on is that of a msgpack array

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyCommand] = msgspec.msgpack.Decoder(AnyCommand)


def encode(command: AnyCommand) -> bytes:
    """The bytes of a command, as they stand in the log."""
    return bytes((LEVELS[type(command)],)) + _encoder.encode(command)


def level_of(data: bytes) -> int:
    """The feature level of an encoded command, known to this program or not."""
    return data[0] if data and data[0] < _NO_LEVEL else 1


def decode(data: bytes) -> AnyCommand | None:
    """The command in `data`, or None where it is none: the same no-op on every replica that knows its level."""
    try:
        command = _decoder.decode(data if data and data[0] >= _NO_LEVEL else memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # a ValidationError is a DecodeError
        return None
    return command if LEVELS[type(command)] == level_of(data) else None  # as for a program that knows no higher one

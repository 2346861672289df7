"""From an attempt in the table to what its executor is asked to start."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.attempt import Driven
from agent.keyring import SecretError
from agent.outputs import PutOut, Taken, take
from agent.provision import Provisioner, Workspace
from agent.retired import KEEP_ENDED_S
from agent.runtable.model import Run
from agent.spec.bundle import Bundle
from agent.spec.compile import Compiled, instance_environment, launch, spec_file
from agent.spec.errors import PluginError, Problem, SpecError
from agent.spec.quantity import cores, size_bytes
from agent.store.errors import StoreError
from agent.store.logs import LogStore
from executors.base import AttemptSpec, Resources

log = logging.getLogger(__name__)

STOP_GRACE_S: Final = 10.0
ROOM_BYTES: Final = 8 * 1024 * 1024  # that must be free before an attempt is prepared: its first files and log


@dataclass(frozen=True, slots=True)
class Settings:
    """How this worker works. Paths below the agent's data directory; host: where containers call back, "" = nowhere."""

    agent_id: str
    attempts: Path
    boot_id: str
    boottime_s: Callable[[], float]
    labels: Mapping[str, str]
    callback_host: Callable[[str], str]
    log_limit_bytes: int
    keep_ended_s: float = KEEP_ENDED_S
    network: str | None = None
    pull: str = "missing"
    room_bytes: int = ROOM_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What an attempt works with, for images that ask for it."""

    run_id: str
    project: str
    job: str
    instance: str
    plugin: str
    type: str
    scheduled_at: datetime
    environment: dict[str, str]
    secrets: dict[str, str] = field(repr=False)
    files: dict[str, bytes] = field(repr=False)


Sealed = Mapping[str, tuple[str, bytes]]


class Preparer:
    """Makes what an attempt finds and is started with."""

    def __init__(self, provisioner: Provisioner, logs: LogStore, settings: Settings) -> None:
        self._provisioner = provisioner
        self._logs = logs
        self._settings = settings

    def directory(self, run_id: str, instance: str, number: int) -> Path:
        """The attempt's own directory."""
        return self._settings.attempts / run_id / instance / str(number)

    def prepare(
        self, driven: Driven, run: Run, sealed: Sealed, outputs: Mapping[str, PutOut]
    ) -> tuple[AttemptSpec, str]:
        """Compile an attempt, fill its directory and keep the redacted copy. Returns (its spec, the copy's hash).

        Blocks. sealed: see `provision.sealed_secrets`; outputs: see `outputs.put_out`.
        Raises PluginError, SecretError, StoreError, ValueError for what
        cannot be compiled, OSError; none of them quotes a secret.
        """
        data = self._settings.attempts.parent
        if shutil.disk_usage(data).free < self._settings.room_bytes:
            raise OSError(errno.ENOSPC, "too little room to start work", str(data))
        provisioner = self._provisioner
        bundle = provisioner.bundle(run.bundle)
        try:
            kept = provisioner.keep(provisioner.compile(run, driven.instance, sealed, masked=True, put_out=outputs))
            driven.compiled, driven.kept = kept[-1], kept
            compiled = provisioner.compile(run, driven.instance, sealed, put_out=outputs)
        except SpecError as error:
            raise ValueError("\n".join(_told(one, bundle) for one in error.problems)) from error
        spec = self._spec(driven, run, bundle, compiled)
        Workspace(spec.directory).fill(compiled)
        return spec, kept[-1]

    def take_outputs(self, driven: Driven, run: Run, now: Sealed, outputs: Mapping[str, PutOut]) -> Taken:
        """What an attempt that has succeeded has put out, without what tells a secret of it. Blocks; raises nothing.

        now: the secrets as they are at its end; another value may have been there at its start.
        """

        def hidden() -> set[str]:
            several = [now, *([driven.sealed] if driven.sealed and driven.sealed != now else [])]
            return {value for one in several for value in self._provisioner.told_to(run, driven.instance, one, outputs)}

        try:
            return take(self._settings.attempts, self.directory(driven.run_id, driven.instance, driven.number), hidden)
        except (SpecError, PluginError, SecretError, StoreError) as error:
            log.warning("outputs cannot be looked through", extra={**driven.fields(), "error": type(error).__name__})
            return Taken(None, "its outputs could not be looked through for secrets, so none were taken")

    def _spec(self, driven: Driven, run: Run, bundle: Bundle, compiled: Compiled) -> AttemptSpec:
        config = {**compiled.environment, **compiled.secrets}
        started = launch(bundle, driven.instance, config, driven.executor)
        limit = bundle.job.metadata.resource.limit
        return AttemptSpec(
            name=driven.name,
            directory=self.directory(driven.run_id, driven.instance, driven.number),
            log_directory=self._logs.directory(driven.run_id, driven.instance, driven.number),
            command=started.argv,
            entrypoint=started.entrypoint,
            image=started.image or None,
            pull=self._settings.pull,
            environment={**config, **self.told(driven, run, bundle)},
            labels={**self._settings.labels, "io.prime.run": run.id, "io.prime.instance": driven.instance},
            resources=Resources(cores(limit.cpu), size_bytes(limit.memory)),
            stop_grace_s=STOP_GRACE_S,
            log_limit_bytes=self._settings.log_limit_bytes,
            network=self._settings.network,
        )

    def told(self, driven: Driven, run: Run, bundle: Bundle) -> dict[str, str]:
        """The variables that say to an attempt which one it is, and where to call back."""
        host = self._settings.callback_host(driven.executor)
        directory = self.directory(driven.run_id, driven.instance, driven.number)
        return {
            **instance_environment(bundle, driven.instance, datetime.fromtimestamp(run.scheduled_at_ms / 1000, UTC)),
            "JOB_DIR": str(directory) if driven.executor == "process" else "/data",
            "OPTIMUS_HOST": f"http://{host}/{driven.capability}" if host else "",
            "OPTIMUS_HOSTNAME": host,
            "PRIME_RUN_ID": run.id,
            "PRIME_ATTEMPT": str(driven.number),
        }


def _told(problem: Problem, bundle: Bundle) -> str:
    """A problem in an attempt's record. Where the spec lies is not known here; which of its keys it is tells enough."""
    return f"{problem.key}: {problem.message}" if problem.file == spec_file(bundle.job) else str(problem)

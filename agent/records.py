"""A run as others keep it: the history's row, the mirror's rows."""

from __future__ import annotations

from agent.runtable.lifecycle import FinishedRun
from agent.runtable.model import Run
from agent.runtable.table import unpack_run
from agent.store import history
from agent.store.database import MirroredAttempt, MirroredInstance, MirroredRun
from agent.store.errors import HistoryError


def history_row(index: int, ordinal: int, finished: FinishedRun) -> history.FinishedRun:
    """The history's row of a run that ended at (index, ordinal)."""
    run = finished.run
    assert run.finished_at_ms is not None
    return history.FinishedRun(
        index=index,
        ordinal=ordinal,
        run_id=run.id,
        project=run.project,
        namespace=run.namespace,
        job=run.job,
        origin=run.origin.value,
        state=run.state.value,
        reason=run.reason.value if run.reason is not None else None,
        requested_by=run.requested_by,
        scheduled_at_ms=run.scheduled_at_ms,
        created_at_ms=run.created_at_ms,
        started_at_ms=run.started_at_ms,
        finished_at_ms=run.finished_at_ms,
        record=finished.record,
    )


def run_of(row: history.FinishedRun) -> Run:
    """The run in a history row. Raises HistoryError for a record of a later version."""
    run = unpack_run(row.record)
    if run is None:
        raise HistoryError(
            f"run {row.run_id}: its record cannot be read by this version; start the version that wrote it"
        )
    return run


def mirrored(row: history.FinishedRun) -> MirroredRun:
    """What the database shows of a run beside its own row."""
    return MirroredRun(
        tuple(
            MirroredInstance(
                name=instance.plan.name,
                type=instance.plan.kind.value,
                state=instance.state.value,
                reason=instance.reason.value if instance.reason is not None else None,
                attempts=tuple(
                    MirroredAttempt(
                        number=attempt.number,
                        agent=attempt.agent,
                        state=attempt.state.value,
                        reason=attempt.reason.value if attempt.reason is not None else None,
                        exit_code=attempt.exit_code,
                        started_at_ms=attempt.started_at_ms,
                        finished_at_ms=attempt.finished_at_ms,
                    )
                    for attempt in instance.attempts
                ),
            )
            for instance in run_of(row).instances
        )
    )

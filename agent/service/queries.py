"""What a user asks about runs: which there are, what became of one, why not yet, what was rendered, what differs."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.errors import Refusal
from agent.records import run_of
from agent.retired import NO_ROOM, UNPROVEN
from agent.runtable.explain import Explanation, Unproven, explain
from agent.runtable.explain_gates import GateExplanation, explain_gates
from agent.runtable.model import Attempt, AttemptState, Instance, Origin, Run
from agent.runtable.replay_rows import Replay
from agent.service.common import Context, unknown
from agent.service.comparison import SPEC, Side, compare, log_of, rendered_of
from agent.spec.bundle import Bundle
from agent.spec.document import nearest
from agent.spec.outputs import decode_outputs
from agent.spec.params import Value
from agent.store.errors import BlobError, HistoryError, LogsError
from agent.store.history import FinishedRun, RunFilter, decode_cursor, encode_cursor

PREFIX_MIN: Final = 4
CANDIDATES_MAX: Final = 10  # that are told of an id which is too short for one of them
LIST_MAX: Final = 1000
PREVIOUS_BATCH: Final = 20  # runs looked at for the one before
PARAMS_S: Final = 3.0
TAIL_S: Final = 10.0
CATCH_UP_S: Final = 5.0

Tail = Callable[[Run, str, int], Awaitable[str]]
"""Gives the end of the output of an attempt: (run, instance, number)."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some runs, newest first. next_cursor: None where there are no more."""

    runs: list[Run]
    next_cursor: str | None


class Queries:
    """Answers from this agent's replica and history alone: no read depends on a database (P5)."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def resolve(self, run_id: str) -> str:
        """The whole id for a shortened one, in small or capital letters. Raises Refusal.

        "unknown_run": none begins so, or what is given is too short to say; "ambiguous_run": more than one does;
        "no_leader": none that is known here, and nobody can say more.
        """
        try:
            return await self._resolve_here(run_id)
        except Refusal as refusal:
            if refusal.code != "unknown_run":
                raise
        await self.catch_up(f"run {run_id!r}")  # it may be younger than what is known here (P6)
        return await self._resolve_here(run_id)

    async def catch_up(self, what: str) -> None:
        """Have all that was acknowledged before. what: is not there; for the Refusal("no_leader")."""
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await self._context.replica.caught_up()
        except TimeoutError as error:
            text = f"there is no {what} here, and no leader answers that could know more"
            raise Refusal("no_leader", text, 503, retry_after_s=1) from error

    async def _resolve_here(self, run_id: str) -> str:
        replica = self._context.replica
        if replica.run(run_id) is not None:
            return run_id
        begin = run_id.lower()
        if len(begin) < PREFIX_MIN:
            message = f"{run_id!r} is too short for a run's id: give at least {PREFIX_MIN} of its characters"
            raise Refusal("unknown_run", message, 404)
        live = [one.id for one in replica.unfinished_or_leaving() if one.id.startswith(begin)]
        old = await asyncio.to_thread(replica.history.find, begin, CANDIDATES_MAX + 1)
        found = sorted({*live, *old})
        if len(found) > 1:
            more = ", ..." if len(found) > CANDIDATES_MAX else ""
            told = f"{', '.join(found[:CANDIDATES_MAX])}{more}"
            raise Refusal("ambiguous_run", f"{run_id!r} is short for more than one run: {told}; give more of it", 409)
        if not found:
            raise Refusal("unknown_run", f"there is no run {run_id!r}; `prime run list` shows them", 404)
        return found[0]

    async def run(self, run_id: str) -> Run:
        """A run by its id or a shortened one, wherever it is. Raises Refusal("unknown_run", "ambiguous_run")."""
        run_id = await self.resolve(run_id)
        run = self._context.replica.run(run_id)
        if run is not None:
            return run
        row = await asyncio.to_thread(self._context.replica.history.get, run_id)
        if row is None:  # it has left the table, and has been cleared into it again
            run = self._context.replica.run(run_id)
            if run is None:
                raise Refusal("unknown_run", f"run {run_id!r} has been forgotten: its record was pruned", 404)
            return run
        return run_of(row)

    async def record(self, run_id: str) -> tuple[bytes, int]:
        """The packed record of a finished run and the index it ended at; (b"", 0) while it is in the table."""
        replica = self._context.replica
        if run_id in replica.table.rows.runs:
            return b"", 0
        await replica.history_settled()
        row: FinishedRun | None = await asyncio.to_thread(replica.history.get, run_id)
        if row is None:
            raise Refusal("unknown_run", f"there is no run {run_id!r}", 404)
        return row.record, row.index

    async def page(
        self, wanted: RunFilter, limit: int, cursor: str | None = None, replay: Replay | None = None
    ) -> Page:
        """Runs by time of creation, newest first. Raises Refusal("invalid") for a cursor of another list.

        replay: only those that it has made.
        """
        limit = max(1, min(limit, LIST_MAX))
        if replay is None:
            return await self._page(wanted, limit, cursor)
        has = ((wanted.project, replay.plan.project), (wanted.job, replay.plan.job), (wanted.origin, Origin.REPLAY))
        if any(want not in {None, value} for want, value in has):
            return Page([], None)
        since_ms = max(replay.created_at_ms, wanted.since_ms or 0)
        wanted = dataclasses.replace(
            wanted, project=replay.plan.project, job=replay.plan.job, origin=Origin.REPLAY.value, since_ms=since_ms
        )
        runs: list[Run] = []
        while True:  # others of the job's replays are passed by: few, as they are of other times
            page = await self._page(wanted, LIST_MAX, cursor)
            runs += [run for run in page.runs if run.replay == replay.id]
            cursor = page.next_cursor
            if cursor is None or len(runs) > limit:
                break
        more = len(runs) > limit
        runs = runs[:limit]
        return Page(runs, encode_cursor(*_key(runs[-1])) if more else None)

    async def _page(self, wanted: RunFilter, limit: int, cursor: str | None) -> Page:
        replica = self._context.replica
        try:
            before = decode_cursor(cursor) if cursor else None
        except HistoryError as error:
            raise Refusal("invalid", f"cursor: {error}", 422) from error
        here = replica.unfinished_or_leaving()  # before the history is read: what leaves meanwhile is in both
        old, more = await asyncio.to_thread(replica.history.list, wanted, limit, cursor)
        live = [run for run in here if _matches(run, wanted) and _after_cursor(run, before)]
        known = {run.id for run in here}
        runs = sorted(
            [*live, *(run_of(row) for row in old if row.run_id not in known)],
            key=lambda run: (run.created_at_ms, run.id),
            reverse=True,
        )
        page = runs[:limit]
        has_more = len(runs) > limit or more is not None
        return Page(page, encode_cursor(page[-1].created_at_ms, page[-1].id) if has_more and page else None)

    async def no_such_job(self, wanted: RunFilter) -> str:
        """Why no run is like that: there is no such job, nor was there ever a run of one. "" = not for that."""
        jobs = self._context.replica.table.rows.jobs
        scopes = jobs.values() if wanted.project is None else [jobs.get(wanted.project, {})]
        if wanted.job is None or any(wanted.job in scope for scope in scopes):
            return ""
        if (await self.page(RunFilter(project=wanted.project, job=wanted.job), 1)).runs:
            return ""
        hint = nearest(wanted.job, tuple({name for scope in scopes for name in scope}))
        where = "" if wanted.project is None else f" in project {wanted.project!r}"
        return f"there is no job {wanted.job!r}{where}, nor was one of that name ever run{hint}"

    async def explain(
        self, run_id: str, silent_ms: Callable[[], Awaitable[dict[str, int]]]
    ) -> tuple[Run, list[Explanation], list[GateExplanation]]:
        """Why each instance of a run, and each gate, is where it is (P11).

        silent_ms: who is not heard, asked where work is out.

        What this agent cannot prove to have ended is known to it alone: another one says of that no more than the
        table has.
        """
        run = await self.run(run_id)
        silent = await silent_ms() if any(one.open_attempt is not None for one in run.instances) else {}
        run = await self.run(run_id)  # as it is now
        told = explain(self._context.replica.table, run, UNPROVEN.of_run(run.id), silent)
        no_room = {name: one for (name, _number), one in NO_ROOM.of_run(run.id).items()}
        gates = explain_gates(self._context.replica.table, run)
        return run, [_with_full_disk(one, no_room.get(one.instance)) for one in told], gates

    def find_attempt(self, run: Run, instance: str | None, number: int | None) -> tuple[Instance, Attempt | None]:
        """An instance of a run (its task where none is named), and one of its attempts (the last).

        The attempt is None where none was made yet. Raises Refusal("unknown_instance", "unknown_attempt").
        """
        if not run.instances:
            raise Refusal("unknown_instance", f"run {run.id} was not run here, only reported: it has no instances", 404)
        names = {one.plan.name: one for one in run.instances}
        name = instance or next(one.plan.name for one in run.instances if one.plan.kind == "task")
        if name not in names:
            raise unknown("unknown_instance", f"instance in run {run.id}", name, names)
        found = names[name]
        if number is None:
            return found, found.last
        if not 1 <= number <= len(found.attempts):
            made = len(found.attempts)
            raise Refusal("unknown_attempt", f"{name} has no attempt {number}: {made} made so far", 404)
        return found, found.attempts[number - 1]

    async def assets(self, run_id: str, instance: str | None = None, number: int | None = None) -> list[dict[str, Any]]:
        """What exactly was rendered, secrets as `***`, for each attempt asked for (all instances' last by default)."""
        return [
            {**await self._kept(attempt.compiled), "instance": name, "attempt": attempt.number}
            for name, attempt in self._attempts(await self.run(run_id), instance, number)
            if attempt.compiled is not None
        ]

    async def outputs(
        self, run_id: str, instance: str | None = None, number: int | None = None
    ) -> list[dict[str, Any]]:
        """What the attempts asked for (as for `assets`) have put out; those that succeeded, for no other counts."""
        return [
            {
                "instance": name,
                "attempt": attempt.number,
                "outputs": await self._put_out(attempt.outputs) if attempt.outputs is not None else {},
                "note": attempt.message,
            }
            for name, attempt in self._attempts(await self.run(run_id), instance, number)
            if attempt.state is AttemptState.SUCCESS
        ]

    def _attempts(self, run: Run, instance: str | None, number: int | None) -> Iterator[tuple[str, Attempt]]:
        """The attempts that are asked for, with their instance's name. Raises Refusal as `find_attempt` does."""
        for name in [instance] if instance else [one.plan.name for one in run.instances]:
            of_all = instance is None and number is not None  # who has made fewer attempts has nothing to show
            if of_all and len(self.find_attempt(run, name, None)[0].attempts) < (number or 0):
                continue
            one, attempt = self.find_attempt(run, name, number)
            if attempt is not None:
                yield one.plan.name, attempt

    async def _put_out(self, digest: str) -> dict[str, object]:
        try:
            await self._context.fetch_whole("outputs", digest)
            return decode_outputs(await asyncio.to_thread(self._context.blobs.get, digest))
        except BlobError as error:
            raise Refusal("gone", f"what was put out is not here any more: {error}", 410) from error

    async def _kept(self, digest: str) -> dict[str, Any]:
        try:
            await self._context.fetch_whole("manifest", digest)
            return await asyncio.to_thread(self._context.provisioner.kept, digest)
        except BlobError as error:
            raise Refusal("gone", f"what was rendered is not here any more: {error}", 410) from error

    async def bundle(self, run: Run) -> Bundle:
        """What a run was accepted with."""
        try:
            await self._context.have([run.bundle])
            return await asyncio.to_thread(self._context.provisioner.bundle, run.bundle)
        except BlobError as error:
            raise Refusal("gone", f"what the run was accepted with is not here any more: {error}", 410) from error

    async def previous(self, run: Run) -> Run | None:
        """The run of the same job that was asked for before this one; those that were only reported apart."""
        cursor: str | None = encode_cursor(run.created_at_ms, run.id)
        while cursor is not None:
            page = await self.page(RunFilter(project=run.project, job=run.job), PREVIOUS_BATCH, cursor)
            found = next((one for one in page.runs if one.origin is not Origin.EXTERNAL), None)
            if found is not None:
                return found
            cursor = page.next_cursor
        return None

    async def params(self, run: Run) -> dict[str, Value] | None:
        """The values of a run's parameters; None where they cannot be told now, or not any more."""
        if not run.bundle:
            return {}
        try:
            async with asyncio.timeout(PARAMS_S):
                return (await self.bundle(run)).params
        except (Refusal, TimeoutError):
            return None

    async def diff(self, run_id: str, against: str | None = None, tail: Tail | None = None) -> dict[str, Any]:
        """What differs between a run and another, or the one before it: spec, params, assets, environment, results.

        tail: gives the end of an attempt's output; raises Refusal where it cannot be had.
        Returns {"run", "against", "changes": [{"what", "before", "after"}], "texts": {name: unified diff},
        "untold": {what: why it could not be compared}}. Raises Refusal("no_previous_run").
        """
        after = await self.run(run_id)
        before = await self.run(against) if against else await self.previous(after)
        if before is None:
            raise Refusal("no_previous_run", f"there is no run of {after.job} before {after.id}", 404)
        sides = [await self._side(one, tail) for one in (before, after)]
        found = await asyncio.to_thread(compare, *sides)
        changes = [{"what": what, "before": was, "after": now} for what, was, now in found.changes]
        told = {"run": after.id, "against": before.id, "changes": changes}
        return {**told, "texts": found.texts, "untold": found.untold}

    async def _side(self, run: Run, tail: Tail | None) -> Side:
        """All that is kept of a run; what is not there any more is named, and no error."""
        bundle: Bundle | None = None
        rendered: dict[str, dict[str, Any]] = {}
        logs: dict[str, str] = {}
        untold: dict[str, str] = {}
        try:
            bundle = await self.bundle(run) if run.bundle else None
        except Refusal as refusal:
            untold[SPEC] = refusal.message
        made = [(one.plan.name, one.last) for one in run.instances if one.last is not None]
        for name, attempt in made:
            try:
                if attempt.compiled is not None:
                    rendered[name] = await self._kept(attempt.compiled)
            except Refusal as refusal:
                untold[rendered_of(name)] = refusal.message
        if tail is not None:
            ends = await asyncio.gather(*(_end_of(tail, run, *one) for one in made))
            for name, text, why in ends:
                if why:
                    untold[log_of(name)] = why
                else:
                    logs[name] = text
        return Side(run, bundle, rendered, logs, untold)


async def _end_of(tail: Tail, run: Run, name: str, attempt: Attempt) -> tuple[str, str, str]:
    """(instance, the end of its output, why that cannot be told)."""
    try:
        async with asyncio.timeout(TAIL_S):
            return name, await tail(run, name, attempt.number), ""
    except Refusal as refusal:
        return name, "", refusal.message
    except (LogsError, OSError) as error:
        return name, "", str(error) or f"it did not come within {TAIL_S:g} s"


def _with_full_disk(told: Explanation, waits: Unproven | None) -> Explanation:
    if waits is None:
        return told
    seconds = max(0, time.time_ns() // 10**6 - waits.since_ms) // 1000
    why = f"{told.why}; its agent's disk has been full for {seconds} s, it waits for room: {waits.error}"
    return replace(told, why=why)


def _key(run: Run) -> tuple[int, str]:
    return run.created_at_ms, run.id


def _after_cursor(run: Run, before: tuple[int, str] | None) -> bool:
    return before is None or _key(run) < before


def _matches(run: Run, wanted: RunFilter) -> bool:
    pairs: Iterable[tuple[str | None, str]] = (
        (wanted.project, run.project),
        (wanted.namespace, run.namespace),
        (wanted.job, run.job),
        (wanted.state, run.state),
        (wanted.origin, run.origin),
    )
    if any(want is not None and want != have for want, have in pairs):
        return False
    if wanted.since_ms is not None and run.created_at_ms < wanted.since_ms:
        return False
    return wanted.until_ms is None or run.created_at_ms < wanted.until_ms

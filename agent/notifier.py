"""The leader's loop that delivers events: what is due is read from the table, what came of it is a command.

One event at a time for each endpoint, endpoints side by side. An endpoint that has failed is left alone for a while,
longer each time, with all that waits for it: so one that hangs costs one place now and then, and half of the places are
never given to such. A leader that dies between a delivery and its command leaves the event to the next one, which sends
it again under the same key: at least once, never not at all (R23).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from agent.config import PAGERDUTY_URL
from agent.errors import Refusal
from agent.keyring import Keyring, SecretError
from agent.notice_messages import message
from agent.post import Answer, Poster
from agent.provision import OpenedSecrets, sealed_secrets
from agent.replica import Replica
from agent.runtable import commands as c
from agent.runtable.notice_rows import Event
from agent.runtable.notices import backoff_ms
from agent.spec import bundle as bundles
from agent.spec import notices
from agent.spec.notices import NoticeError, Target, Wish
from agent.store.errors import StoreError

log = logging.getLogger(__name__)

PLACES: Final = 32  # deliveries at a time
AGAIN_PLACES: Final = PLACES // 2  # of them for endpoints that have failed
WAIT_MAX_S: Final = 60.0  # a wall clock that was set forward is noticed after this
REFUSED_WAIT_S: Final = 1.0
UNFORESEEN_MS: Final = 60_000


@dataclass(slots=True)
class _Endpoint:
    """failures: in a row.  held_ms: nothing is sent before."""

    failures: int = 0
    held_ms: int = 0


@dataclass(slots=True)
class Notifier:
    """load: a blob, wherever it is. pagerduty_url: of its Events API."""

    replica: Replica
    keyring: Keyring
    load: Callable[[str], Awaitable[bytes]]
    pagerduty_url: str = PAGERDUTY_URL
    _endpoints: dict[str, _Endpoint] = field(default_factory=dict)
    _busy: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def run_forever(self) -> None:
        """Deliver for as long as this agent leads. Ends when cancelled."""
        async with Poster.open(PLACES) as poster:
            try:
                while True:
                    await self._step(poster)
            finally:
                await self._let_go()

    async def _step(self, poster: Poster) -> None:
        changed = self.replica.changed()
        if not self.replica.leads:
            await self._let_go()
            await asyncio.shield(changed)
            return
        term = self.replica.term
        for event in list(self._due(self.replica.clock.now_ms())):
            again = bool(self._endpoint(event).failures)
            if len(self._busy) < PLACES and (not again or self._failing() < AGAIN_PLACES):
                self._busy[event.endpoint] = asyncio.create_task(self._deliver(poster, event, term))
        await asyncio.wait(
            {changed, *self._busy.values()},
            timeout=self._wait_s(self.replica.clock.now_ms()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        for endpoint, task in list(self._busy.items()):
            if task.done():
                del self._busy[endpoint]
                if (error := task.exception()) is not None:
                    log.error("a delivery met an error nobody foresaw", exc_info=error)
                    held_ms = self.replica.clock.now_ms() + UNFORESEEN_MS
                    self._endpoints.setdefault(endpoint, _Endpoint(1)).held_ms = held_ms

    async def _let_go(self) -> None:
        """Nothing is delivered by who does not lead; what is on its way may have come."""
        for task in self._busy.values():
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)
        self._busy.clear()
        self._endpoints.clear()

    def _endpoint(self, event: Event) -> _Endpoint:
        return self._endpoints.setdefault(event.endpoint, _Endpoint())

    def _failing(self) -> int:
        return sum(1 for endpoint in self._busy if self._endpoints[endpoint].failures)

    def _due(self, now_ms: int) -> Iterator[Event]:
        """The event of each endpoint that is to be sent now: of those that have not failed first."""
        table = self.replica.table
        kept = {*table.outbox, *self._busy}  # what was delivered a moment ago is still busy
        self._endpoints = {key: one for key, one in self._endpoints.items() if key in kept}
        free = [key for key in table.outbox if key not in self._busy and self._held_ms(key) <= now_ms]
        for endpoint in sorted(free, key=lambda key: key in self._endpoints and self._endpoints[key].failures > 0):
            events = (table.rows.events[event_id] for event_id in table.outbox[endpoint])
            due = [one for one in events if one.next_due_ms <= now_ms]
            if due:
                yield min(due, key=lambda one: one.tries)  # so that one that is never taken holds up none behind it

    def _held_ms(self, endpoint: str) -> int:
        known = self._endpoints.get(endpoint)
        return known.held_ms if known is not None else 0

    def _wait_s(self, now_ms: int) -> float:
        """Until something else is due; while all places are taken, until one is free."""
        if len(self._busy) >= PLACES or self._failing() >= AGAIN_PLACES:
            return WAIT_MAX_S
        table = self.replica.table
        dues = (
            max(self._held_ms(endpoint), min(table.rows.events[one].next_due_ms for one in ids))
            for endpoint, ids in table.outbox.items()
            if endpoint not in self._busy
        )
        return min(WAIT_MAX_S, max(0.0, (min(dues, default=now_ms + 60_000) - now_ms) / 1000))

    async def _deliver(self, poster: Poster, event: Event, term: int) -> None:
        """One try, and its command."""
        answer = await self._try(poster, event)
        endpoint = self._endpoint(event)
        now_ms = self.replica.clock.now_ms()
        told: c.AnyCommand = c.Delivered(now_ms, event.id)
        if answer.error:
            told = c.NotDelivered(now_ms, event.id, event.tries, answer.error, answer.wait_ms, answer.final)
            extra = {"event": event.id, "endpoint": event.endpoint, "error": answer.error, "final": answer.final}
            log.warning("an event was not delivered", extra=extra)
        if answer.error and not answer.final:
            endpoint.held_ms = now_ms + max(backoff_ms(endpoint.failures), answer.wait_ms)
            endpoint.failures += 1
        else:
            endpoint.failures = endpoint.held_ms = 0
        while self.replica.leads and self.replica.term == term:
            try:
                await self.replica.decide(told, term)
            except Refusal as refusal:
                log.warning("the word of an event was not taken", extra={"code": refusal.code})
                await asyncio.sleep(REFUSED_WAIT_S)
            else:
                return

    async def _try(self, poster: Poster, event: Event) -> Answer:
        table = self.replica.table
        sealed = sealed_secrets(table, event.project, event.namespace)
        try:
            data = await self.load(event.bundle)
            wish, target = await asyncio.to_thread(_read, data, event.place, OpenedSecrets(self.keyring, sealed))
        except NoticeError as error:
            return Answer(str(error), final=True)
        except msgspec.ValidationError:
            return Answer("what the run was accepted with cannot be read by this release")
        except (StoreError, SecretError) as error:
            return Answer(f"not sent: {error}")
        now_ms = self.replica.clock.now_ms()
        return await poster.send(message(event, wish, target, now_ms=now_ms, pagerduty_url=self.pagerduty_url))


def _read(data: bytes, place: str, secrets: Mapping[str, str]) -> tuple[Wish, Target]:
    """What stands in a bundle at a place. Raises NoticeError, SecretError, msgspec.ValidationError."""
    bundle = bundles.decode(data)
    wish = notices.find(bundle.job, place)
    if wish is None:
        raise NoticeError("its endpoint is not in the job as the run was accepted with it")
    return wish, notices.resolve(bundle, wish, secrets)

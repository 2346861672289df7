"""Events that somebody is to be told of, and that nobody could be told of."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aiohttp import web

from agent.api import schema as s
from agent.api import views
from agent.api.routing import Route, answer, face, read
from agent.runtable.notice_rows import Event


class EventsQuery(s.ReadQuery, frozen=True):
    """run: the id, or its beginning; left out = of all."""

    run: str | None = None


class EventView(s.View, frozen=True):
    """An event for one endpoint. id: its idempotency key; tries: how many have failed; error: why the last one did.

    next: when it is tried again, until: when it is given up, both null once it was; given_up_at: when.
    """

    id: str
    event: str
    endpoint: str
    project: str
    namespace: str
    job: str
    run: str
    instance: str | None
    at: datetime
    tries: int
    error: str | None
    next: datetime | None
    until: datetime | None
    given_up_at: datetime | None


class EventsAnswer(s.View, frozen=True):
    """Those that wait to be delivered, then the newest that never will be; given_up: of these there were in all."""

    events: list[EventView]
    given_up: int
    meta: s.MetaView


def _view(row: Event) -> EventView:
    waits = row.given_up_ms is None
    return EventView(
        id=row.id,
        event=str(row.kind),
        endpoint=row.endpoint,
        project=row.project,
        namespace=row.namespace,
        job=row.job,
        run=row.run_id,
        instance=row.instance or None,
        at=views.moment(row.at_ms),
        tries=row.tries,
        error=row.error or None,
        next=views.moment(row.next_due_ms) if waits else None,
        until=views.moment(row.give_up_ms) if waits else None,
        given_up_at=views.maybe(row.given_up_ms),
    )


async def _list(request: web.Request) -> web.Response:
    asked = await read(request, EventsQuery)
    service = face(request).service
    run_id = None if asked.run is None else await service.queries.resolve(asked.run)
    events = [_view(one) for one in service.events.all(run_id)]
    return answer(EventsAnswer(events=events, given_up=service.events.given_up, meta=views.meta(face(request))))


ROUTES: Final = (
    Route(
        method="GET",
        path="/api/v1/events",
        name="listEvents",
        summary="What is not delivered to who is to be told of it, and why",
        handler=_list,
        query=EventsQuery,
        answer=EventsAnswer,
        refusals=(404, 409),
    ),
)

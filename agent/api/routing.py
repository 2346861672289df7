"""One table of routes: what is served is what the OpenAPI document says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar, get_args

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent.api.face import Face
from agent.api.schema import NoQuery, ReadQuery, Request
from agent.errors import Refusal
from agent.replica import Replica
from agent.spec.errors import Problem

FACE: Final = web.AppKey("face", Face)
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
BODY_BYTES_MAX: Final = 1024 * 1024
JOBS_BODY_BYTES_MAX: Final = 96 * 1024 * 1024  # 64 MiB of assets in base64
BODY_WAIT_S: Final = 300.0
MIN_INDEX_WAIT_S: Final = 5.0
CATCH_UP_S: Final = 5.0
ReadT = TypeVar("ReadT", bound=ReadQuery)
QueryT = TypeVar("QueryT", bound=Request)
BodyT = TypeVar("BodyT", bound=msgspec.Struct)

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_encoder: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. body, query, answer: types of `schema.py`; answer None = `media`, not JSON.

    events: names and types of server-sent events, where it can answer with them.

    refusals: the statuses of its problems, beside those that every route has.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    answer: type | None = None
    status: int = 200
    body: type[Request] | None = None
    query: type[Request] = NoQuery
    media: str = "application/json"
    events: tuple[tuple[str, type], ...] = ()
    refusals: tuple[int, ...] = ()
    body_bytes_max: int = BODY_BYTES_MAX
    body_optional: bool = False


def face(request: web.Request) -> Face:
    """The parts of the agent."""
    return request.app[FACE]


def query(request: web.Request, kind: type[QueryT]) -> QueryT:
    """The query parameters. Raises Refusal("invalid") naming the one that is wrong."""
    given: dict[str, Any] = {}
    expected = _expected(kind)
    for key, value in request.query.items():
        if key in given:
            raise Refusal("invalid", f"query: {key!r} is given twice", 400)
        given[key] = _scalar(value, expected.get(key, frozenset()))
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise Refusal("invalid", f"query: {error}", 400) from error


@cache
def _expected(kind: type[Request]) -> dict[str, frozenset[type]]:
    """The plain types that each field takes."""
    return {one.name: frozenset(_plain_types(one.type)) for one in msgspec.structs.fields(kind)}


def _plain_types(kind: Any) -> Iterator[type]:
    if isinstance(kind, type):
        yield kind
    for one in get_args(kind):
        yield from _plain_types(one)


def _scalar(text: str, kinds: frozenset[type]) -> Any:
    """A parameter's text as the value that is meant; what fits none stays a text, and is refused by its type.

    Stricter than a lax conversion, for which a job called "null" would be no job.
    """
    if bool in kinds:
        return {"true": True, "false": False}.get(text, text)
    if int in kinds and _INTEGER.fullmatch(text):
        return int(text)
    if float in kinds and _NUMBER.fullmatch(text):
        return float(text)
    return text


async def read(request: web.Request, kind: type[ReadT]) -> ReadT:
    """The parameters of a read, once this agent has applied `min_index`; or all there is, if `consistent` (P6)."""
    wanted = query(request, kind)
    replica = face(request).service.context.replica
    if wanted.consistent:
        await catch_up(replica)
    if not await replica.wait_applied(wanted.min_index, MIN_INDEX_WAIT_S):
        message = f"this agent has applied {replica.applied_index} so far, not {wanted.min_index}"
        raise Refusal("not_applied_yet", message, 504, retry_after_s=1)
    return wanted


async def catch_up(replica: Replica) -> None:
    """Wait until this agent has applied everything that was acknowledged before. Raises Refusal("no_leader")."""
    try:
        async with asyncio.timeout(CATCH_UP_S):
            await replica.caught_up()
    except TimeoutError as error:
        text = (
            "no leader answers: too few agents can be reached. Nothing was done; what this agent has, it tells those "
            "who do not ask for more (`consistent`)"
        )
        raise Refusal("no_leader", text, 503, retry_after_s=1) from error


async def body(
    request: web.Request, kind: type[BodyT], bytes_max: int = BODY_BYTES_MAX, *, optional: bool = False
) -> BodyT:
    """The JSON body; optional: an absent one stands for `{}`.

    Raises Refusal: "bad_json", "invalid", "too_large", "media_type", "body_timeout".
    """
    given = request.headers.get("Content-Type")
    if request.can_read_body and given is not None and request.content_type != "application/json":
        raise Refusal("media_type", f"application/json is expected, not {request.content_type}", 415)
    return decode(await receive(request, bytes_max) or (b"{}" if optional else b""), kind)


def decode(data: bytes, kind: type[BodyT]) -> BodyT:
    """The value in a JSON text. Raises Refusal("bad_json", "invalid") that says where it is wrong."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise Refusal("invalid", f"body: {error}", 400) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        line, column = _place(data, str(error))
        message = f"the body is no JSON: {error}" if data else "a JSON body is expected"
        problem = Problem("body", line, column, "", message)
        raise Refusal("bad_json", f"{message}; line {line}, column {column}", 400, problems=[problem]) from error


def _place(data: bytes, message: str) -> tuple[int, int]:
    """Line and column of the byte that a decoder complains of; of the end where it names none."""
    found = re.search(r"(?:byte|position) (\d+)", message)
    before = data[: int(found[1])] if found else data
    return before.count(b"\n") + 1, len(before) - before.rfind(b"\n")


async def receive(request: web.Request, bytes_max: int) -> bytes:
    """The body's bytes. Never more than bytes_max are held (P12)."""
    too_large = Refusal("too_large", f"the body is too large: at most {_size(bytes_max)} are taken here", 413)
    if request.content_length is not None and request.content_length > bytes_max:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            async for piece in request.content.iter_any():
                data += piece
                if len(data) > bytes_max:
                    raise too_large
    except TimeoutError as error:
        raise Refusal("body_timeout", f"the body did not come within {BODY_WAIT_S:.0f} seconds", 408) from error
    except (HttpProcessingError, web.RequestPayloadError) as error:
        raise Refusal("bad_body", f"the body cannot be read: {' '.join(str(error).split())}", 400) from error
    return bytes(data)


def _size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count // 2**10} KiB"


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=_encoder.encode(value), status=status, content_type="application/json", headers=headers or {}
    )

"""One table of routes: what is served is what the OpenAPI document says."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from agent.api.face import Face
from agent.api.schema import NoQuery, Request
from agent.errors import Refusal

FACE: Final = web.AppKey("face", Face)
BODY_BYTES_MAX: Final = 1024 * 1024
JOBS_BODY_BYTES_MAX: Final = 96 * 1024 * 1024  # 64 MiB of assets in base64
QueryT = TypeVar("QueryT", bound=Request)
BodyT = TypeVar("BodyT", bound=Request)

_encoder: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. body, query, answer: types of `schema.py`; answer None = `media`, not JSON.

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
    refusals: tuple[int, ...] = ()
    body_bytes_max: int = BODY_BYTES_MAX
    body_optional: bool = False


def face(request: web.Request) -> Face:
    """The parts of the agent."""
    return request.app[FACE]


def query(request: web.Request, kind: type[QueryT]) -> QueryT:
    """The query parameters. Raises Refusal("invalid") naming the one that is wrong."""
    given: dict[str, Any] = {}
    for key, value in request.query.items():
        if key in given:
            raise Refusal("invalid", f"query: {key!r} is given twice", 400)
        given[key] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal("invalid", f"query: {error}", 400) from error


async def body(request: web.Request, kind: type[BodyT], bytes_max: int = BODY_BYTES_MAX) -> BodyT:
    """The JSON body. An empty one stands for `{}`. Raises Refusal: "bad_json", "invalid", "too_large", "media_type"."""
    data = await raw_body(request, bytes_max)
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise Refusal("invalid", f"body: {error}", 400) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("bad_json", f"the body is no JSON: {error}", 400) from error


async def raw_body(request: web.Request, bytes_max: int) -> bytes:
    """The body's bytes, if they are JSON by their type and no more than bytes_max."""
    if request.content_length is not None and request.content_length > bytes_max:
        raise Refusal("too_large", f"a body of at most {bytes_max // 2**20} MiB is taken here", 413)
    if request.can_read_body and request.content_type not in ("application/json", "application/octet-stream"):
        raise Refusal("media_type", f"application/json is expected, not {request.content_type}", 415)
    data = await request.read()
    if len(data) > bytes_max:
        raise Refusal("too_large", f"a body of at most {bytes_max // 2**20} MiB is taken here", 413)
    return data


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=_encoder.encode(value), status=status, content_type="application/json", headers=headers or {}
    )


def refuse_foreign(request: web.Request) -> None:
    """P8: without tokens only this machine is answered, and no web page may speak for it (DNS rebinding, CSRF)."""
    host = urlsplit(f"//{request.host}").hostname or ""
    if not _is_loopback_name(host):
        raise Refusal("foreign_host", f"this agent answers to loopback names only, not to {host!r}", 403)
    origin = request.headers.get("Origin")
    if origin is not None and not _is_loopback_name(urlsplit(origin).hostname or ""):
        raise Refusal("foreign_origin", "this agent takes no requests from web pages", 403)


def _is_loopback_name(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Who may ask what (P8): tokens are looked at here, before anything else is done for a request.

Without a token, an agent that listens on a loopback address alone, and was given no bootstrap token, takes requests of
this host as its user's own, who may do everything; no web page and no proxy may speak for him. Any other agent answers
without a token only what a load balancer asks.
"""

from __future__ import annotations

import ipaddress
import re
from contextvars import ContextVar
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from agent.api import schema as s
from agent.api import views
from agent.api.access import Access
from agent.api.routing import FACE, READS, Route, answer, body, catch_up, face, read
from agent.errors import Refusal
from agent.runtable.model import Role, Token
from agent.service import Caller
from agent.service.tokens import BOOTSTRAP, Tokens, digest_of, same

OPEN: Final = frozenset({"/healthz", "/readyz", "/openapi.json"})  # to all
METRICS: Final = "/metrics"
SNAPSHOT: Final = "/api/v1/cluster/snapshot"  # all that the cluster knows, secrets as they are encrypted
PROXIED: Final = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
RANKS: Final = {Role.VIEWER: 0, Role.USER: 1, Role.ADMIN: 2}
NAME_CHARACTERS: Final = 100
_CALLER: Final[ContextVar[Caller]] = ContextVar("caller")
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


def caller(request: web.Request) -> Caller:
    """Who asks."""
    del request  # each is answered in a task whose context is its own
    return _CALLER.get()


def needed(request: web.Request) -> Role | None:
    """The role that a request takes, None = it is open to all. By what is served, not by how the path was written."""
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None else ""
    if path in OPEN or (path == METRICS and request.app[FACE].access.metrics_open):
        return None
    if path.startswith("/api/v1/tokens") or path == SNAPSHOT:
        return Role.ADMIN
    if request.method in READS:
        return Role.VIEWER
    return Role.ADMIN if path.startswith("/api/v1/cluster") else Role.USER


async def admit(request: web.Request) -> None:
    """Let a request in, and note who asks. Raises Refusal, which is counted.

    401 "token_wanted", "bad_token", "token_expired", "bootstrap_over"; 403 "not_allowed", "foreign_host",
    "foreign_origin"; 429 "too_many_tries"; 503 "no_leader", where a token is not known here and nobody can be asked.
    """
    role = needed(request)
    if role is None:
        return
    asked = request.app[FACE]
    try:
        found = _allowed(await _identify(request, asked.access, asked.service.tokens), role)
        _CALLER.set(replace(found, address=request.remote or ""))
    except Refusal as refusal:
        asked.metrics.turned_away(refusal.code)
        raise


def _allowed(found: Caller, role: Role) -> Caller:
    if RANKS[found.role] < RANKS[role]:
        text = f"this takes the role {role}, and {found.name} has the role {found.role}; ask an admin for a token"
        raise Refusal("not_allowed", text, 403)
    return found


async def _identify(request: web.Request, access: Access, tokens: Tokens) -> Caller:
    given: list[str] = request.headers.getall("Authorization", [])
    if not given:
        return _local_user(request, access, tokens)
    scheme, _space, text = given[0].partition(" ")
    text = text.strip()
    if len(given) > 1 or scheme.lower() != "bearer" or not text:
        raise Refusal("bad_token", "one header `Authorization: Bearer TOKEN` is expected", 401)
    found = _known(text, access, tokens)
    if found is not None:
        return found
    address = request.remote or ""
    wait_s = access.tries.take(address)
    if wait_s:
        text = "too many wrong tokens have come from this address; come again later"
        raise Refusal("too_many_tries", text, 429, retry_after_s=wait_s)
    replica = face(request).service.context.replica
    if not replica.leads:
        await catch_up(replica)  # it may have been made a moment ago, at another agent (P6)
        found = _known(text, access, tokens)
    if found is None:
        raise Refusal("bad_token", "this token is not known, or was deleted; `prime token new` makes one", 401)
    access.tries.give_back(address)
    return found


def _known(text: str, access: Access, tokens: Tokens) -> Caller | None:
    """Whose token this is. The bootstrap token counts exactly while no admin's token does. Raises Refusal."""
    if access.bootstrap and same(digest_of(text), access.bootstrap):
        if tokens.has_admin:
            text = "the bootstrap token counts no longer, for there is an admin's token: send that one"
            raise Refusal("bootstrap_over", text, 401)
        return Caller(BOOTSTRAP, BOOTSTRAP, Role.ADMIN)
    return tokens.caller(text)


def _local_user(request: web.Request, access: Access, tokens: Tokens) -> Caller:
    """Who asks without a token: all are one principal; the name is what the client says of itself. Raises Refusal."""
    if access.tokens_wanted:
        text = "a token is wanted: send `Authorization: Bearer TOKEN`"
        if not access.bootstrap and not tokens.all():
            text += "; there is none yet: start the agents with --bootstrap-token FILE (`prime token bootstrap`)"
        raise Refusal("token_wanted", text, 401)
    if any(name in request.headers for name in PROXIED):
        text = (
            "this came through a proxy, and without a token nobody knows from whom; start the agent with "
            "--bootstrap-token FILE, and send a token"
        )
        raise Refusal("token_wanted", text, 401)
    _refuse_foreign(request)
    name = _UNPRINTABLE.sub("", request.headers.get("Prime-User", "")).strip()[:NAME_CHARACTERS]
    return Caller(name=name or "anonymous")


def _refuse_foreign(request: web.Request) -> None:
    """Without tokens only this machine is answered, and no web page may speak for it (DNS rebinding, CSRF)."""
    if not _is_loopback_name(_hostname(f"//{request.host}")):
        text = f"without a token this agent answers to loopback names only, not to {request.host!r}"
        raise Refusal("foreign_host", text, 403)
    origin = request.headers.get("Origin")
    if origin is not None and not _is_loopback_name(_hostname(origin)):
        raise Refusal("foreign_origin", "without a token this agent takes no requests from web pages", 403)


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # no address at all
        return ""


def _is_loopback_name(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# -- the tokens themselves ---------------------------------------------------------------------------------------------


def _view(tokens: Tokens, name: str, row: Token) -> s.TokenView:
    return s.TokenView(
        name=name,
        role=row.role,
        last=row.last,
        created_at=views.moment(row.created_at_ms),
        created_by=row.created_by,
        expires_at=views.maybe(row.expires_at_ms),
        expired=tokens.has_expired(name),
    )


async def _list(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    tokens = face(request).service.tokens
    return answer(s.TokensAnswer(tokens=[_view(tokens, name, row) for name, row in tokens.all().items()]))


async def _create(request: web.Request) -> web.Response:
    sent = await body(request, s.TokenBody)
    tokens = face(request).service.tokens
    made = await tokens.create(sent.name, sent.role, caller(request), expires_in_s=sent.expires_in)
    shown = s.NewTokenAnswer(token=made.text, name=made.name, role=made.row.role, index=made.index)
    return answer(shown, 201, {"Cache-Control": "no-store"})


async def _delete(request: web.Request) -> web.Response:
    return answer(views.applied(await face(request).service.tokens.delete(request.match_info["token"])))


ROUTES: Final = (
    Route(
        method="GET",
        path="/api/v1/tokens",
        name="listTokens",
        summary="Who may ask; the tokens themselves are not kept",
        handler=_list,
        query=s.ReadQuery,
        answer=s.TokensAnswer,
    ),
    Route(
        method="POST",
        path="/api/v1/tokens",
        name="createToken",
        summary="Make a token, which is told this once",
        handler=_create,
        body=s.TokenBody,
        answer=s.NewTokenAnswer,
        status=201,
        refusals=(409, 422),
    ),
    Route(
        method="DELETE",
        path="/api/v1/tokens/{token}",
        name="deleteToken",
        summary="Delete a token: nothing more is done for who has it",
        handler=_delete,
        answer=s.AppliedView,
        refusals=(404,),
    ),
)

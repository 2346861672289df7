"""How a no is said: RFC 9457 problem details with a stable code."""

from __future__ import annotations

import http
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from agent.api import schema as s
from agent.api.views import problems as shown
from agent.errors import AgentStopped, Refusal
from agent.spec.errors import SpecError
from agent.store.errors import StoreError, is_full

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/problem+json"
UNREADABLE: Final = frozenset({"bad_body"})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HTTP_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 400: "bad_request"}


def response(refusal: Refusal, headers: dict[str, str] | None = None) -> web.Response:
    """The problem document of a refusal."""
    status = http.HTTPStatus(refusal.status)
    details = s.ProblemDetails(
        type=f"urn:prime:problem:{refusal.code}",
        title=status.phrase,
        status=refusal.status,
        detail=refusal.message,
        code=refusal.code,
        problems=shown(refusal.problems),
        retry_after=refusal.retry_after_s,
    )
    headers = dict(headers or {})
    if refusal.status == http.HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(refusal.retry_after_s)))
    return web.Response(
        body=msgspec.json.encode(details), status=refusal.status, content_type=CONTENT_TYPE, headers=headers
    )


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error of a handler into a problem. What nobody foresaw is logged under an id that the client gets."""
    try:
        return await handler(request)
    except Refusal as refusal:
        answer = response(refusal)
        if refusal.code in UNREADABLE:  # where it ends is not known, so nothing can follow it on this connection
            answer.force_close()
        return answer
    except SpecError as error:
        return response(Refusal("spec_invalid", str(error), 422, problems=error.problems))
    except AgentStopped as error:
        return response(Refusal("agent_stopped", str(error), 503, retry_after_s=5))
    except StoreError as error:
        log.exception("the store failed", extra={"path": request.path})
        return response(_of_store(error))
    except web.HTTPException as error:
        return _of_aiohttp(request, error)
    except ConnectionResetError:
        raise  # the client has gone: nobody to answer
    except Exception:
        request_id = uuid.uuid4().hex[:12]
        log.exception("a request failed", extra={"request": request_id, "path": request.path})
        return response(Refusal("internal", f"the agent failed; its log has the cause under {request_id}", 500))


def _of_store(error: StoreError) -> Refusal:
    if is_full(error):
        return Refusal("disk_full", str(error), 507, retry_after_s=30)
    return Refusal("store_failed", str(error), 503, retry_after_s=30)


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    if error.status < 400:
        raise error
    code = _HTTP_CODES.get(error.status, "http_error")
    details = {
        "not_found": "there is nothing at this path; GET /openapi.json lists what there is",
        "method_not_allowed": f"{request.method} is not possible here",
        "too_large": "the request's body is too large",
    }
    allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return response(Refusal(code, details.get(code, error.text or error.reason), error.status), allowed)

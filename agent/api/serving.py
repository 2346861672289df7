"""How an application is served: what is no HTTP at all is answered as everything else is, and logged in one line."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError, LineTooLong

from agent.api import problems
from agent.errors import Refusal

log = logging.getLogger(__name__)

SAID_MAX = 200  # characters of what the client sent that are said again


class Runner(web.AppRunner):
    """`web.AppRunner`, for whose server a client's mistake is no error of the agent's."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, self._kwargs)


class _Server(web.Server):
    def __init__(self, made: web.Server, options: dict[str, Any]) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
        )
        self._options = {key: value for key, value in options.items() if key != "handler_cancellation"}

    def __call__(self) -> web.RequestHandler:
        """The protocol of one connection."""
        return _Connection(self, loop=self._loop, **self._options)


class _Connection(web.RequestHandler):
    def log_exception(self, *args: Any, **kw: Any) -> None:
        """A mistake of the client's is one line; all else has its traceback."""
        error = kw.get("exc_info")
        if isinstance(error, HttpProcessingError | web.RequestPayloadError):
            log.warning("a request cannot be read", extra={"error": type(error).__name__})  # it may quote a token
        else:
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never became a request with a problem. Raises ConnectionError where an answer has begun."""
        super().handle_error(request, status, exc, message)  # logs it, and sees whether it can be answered
        if status < 500:
            refusal = Refusal("bad_request", f"this is no request: {_said(exc or message)}", status)
        else:
            refusal = Refusal("internal", "the agent failed; its log has the cause", status)
        response = problems.response(refusal)
        response.force_close()
        return response


def _said(error: BaseException | str | None) -> str:
    """What is wrong, in one line and without what the client sent at length."""
    if isinstance(error, LineTooLong):
        return "its first line or one of its headers is too long"
    if isinstance(error, InvalidURLError):
        return "its first line names no URL"
    text = error.message if isinstance(error, HttpProcessingError) else str(error)
    return " ".join(text.split())[:SAID_MAX]

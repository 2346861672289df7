"""The HTTP socket of an agent, which is open from the first moment: who asks early is told to wait, not turned away."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

from aiohttp import web

from agent.api import problems
from agent.api import schema as s
from agent.api.routing import answer
from agent.api.serving import Runner
from agent.config import host_port
from agent.errors import ConfigError, Refusal

SHUTDOWN_S: Final = 5.0  # for answers that are under way
BACKLOG: Final = 1024


class Door:
    """One listening socket, and the application behind it."""

    def __init__(self, listening: socket.socket) -> None:
        """See `open`."""
        self._listening = listening
        self._runner: Runner | None = None
        host, port = listening.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.here = {"0.0.0.0": f"127.0.0.1:{port}", "::": f"[::1]:{port}"}.get(host, self.address)  # noqa: S104

    @classmethod
    def open(cls, address: str, flag: str) -> Door:
        """Listen on HOST:PORT, port 0 for any. flag: whose setting it is, for messages. Raises ConfigError."""
        host, port = host_port(address, flag)
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            return cls(socket.create_server((host, port), family=family, backlog=BACKLOG))
        except OSError as error:
            in_use = "; is another agent running here? Give another port" if error.errno == errno.EADDRINUSE else ""
            raise ConfigError(f"{flag} {address}: cannot listen there: {error.strerror or error}{in_use}") from error

    async def show(self, app: web.Application) -> None:
        """Serve this application from now on, in the place of the one before."""
        await self._hide()
        runner = Runner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False)
        await runner.setup()
        self._runner = runner
        # What stops serving closes its socket: it gets a copy of ours, whose queue of connections stays.
        await web.SockSite(runner, self._listening.dup(), backlog=BACKLOG).start()

    async def _hide(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def close(self) -> None:
        """Serve nothing more."""
        await self._hide()
        self._listening.close()


def build_waiting_app(reason: Callable[[], str]) -> web.Application:
    """What an agent answers before it has a table: that it is alive, and why it is not ready."""

    async def alive(_request: web.Request) -> web.Response:
        return answer(s.StatusAnswer(status="alive"))

    async def ready(_request: web.Request) -> web.Response:
        return answer(s.StatusAnswer(status="not ready", reason=reason()), 503, {"Retry-After": "1"})

    async def wait(_request: web.Request) -> web.Response:
        raise Refusal("joining", reason(), 503, retry_after_s=1)

    app = web.Application(middlewares=[problems.middleware])
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_route("*", "/{path:.*}", wait)
    return app

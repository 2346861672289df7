"""The requests of http gates: the leader asks, and its answer is a command (ARCHITECTURE.md, "What runs wait for").

Which request is due stands in the table; nothing is kept here but the requests in flight. A leader that changes costs a
request at most: the next one asks again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import aiohttp
from yarl import URL

from agent import outward
from agent.errors import PrimeError, Refusal
from agent.keyring import SecretError
from agent.outward import ReservedAddress
from agent.provision import Provisioner, sealed_secrets
from agent.replica import Replica
from agent.runtable import commands as c
from agent.runtable.awaiting import GateKey
from agent.runtable.model import Run
from agent.spec.errors import SpecError
from agent.spec.poke import HttpRequest
from agent.store.errors import BlobError

log = logging.getLogger(__name__)

AT_A_TIME: Final = 16
WAIT_MAX_S: Final = 60.0  # a wall clock that was set forward is noticed after this
REFUSED_WAIT_S: Final = 1.0
REASON_CHARACTERS_MAX: Final = 100


class HttpGates:
    """Asks for the http gates of all runs, while this agent leads."""

    def __init__(
        self, replica: Replica, provisioner: Provisioner, have: Callable[[Iterable[str]], Awaitable[None]]
    ) -> None:
        """have: brings blobs of these names to this disk. Raises BlobError."""
        self._replica, self._provisioner, self._have = replica, provisioner, have
        self._flying: dict[GateKey, asyncio.Task[None]] = {}

    async def run_forever(self) -> None:
        """Ask whenever a request is due. Ends when cancelled, with all that is in flight."""
        try:
            async with outward.session(AT_A_TIME) as session:
                while True:
                    await self._step(session)
        finally:
            await self._land()

    async def _step(self, session: aiohttp.ClientSession) -> None:
        replica = self._replica
        changed = replica.changed()
        if not replica.leads:
            await self._land()
            await asyncio.shield(changed)
            return
        now_ms = replica.clock.now_ms()
        due = [(run_id, number) for _ms, run_id, number in replica.table.awaiting.polls_due(now_ms, AT_A_TIME)]
        for key in due:
            if key not in self._flying and len(self._flying) < AT_A_TIME:
                self._flying[key] = asyncio.create_task(self._ask(session, key, replica.term))
        next_ms = replica.table.awaiting.next_poll_ms()
        left_s = WAIT_MAX_S if due or next_ms is None else (next_ms - now_ms) / 1000
        await asyncio.wait(
            {changed, *self._flying.values()},
            timeout=min(WAIT_MAX_S, max(0.0, left_s)),
            return_when=asyncio.FIRST_COMPLETED,
        )
        for key, task in list(self._flying.items()):
            if task.done():
                del self._flying[key]
                task.result()

    async def _land(self) -> None:
        for task in self._flying.values():
            task.cancel()
        await asyncio.gather(*self._flying.values(), return_exceptions=True)
        self._flying.clear()

    async def _ask(self, session: aiohttp.ClientSession, key: GateKey, term: int) -> None:
        """Ask once, and have the answer in the table before another is asked for."""
        run_id, number = key
        run = self._replica.table.rows.runs.get(run_id)
        if run is None:
            return
        gate = run.gates[number]
        asked, name = gate.asked, gate.plan.name
        met, message = await self._answer(session, run, name)
        log.info("an http dependency was asked", extra={"run": run_id, "dependency": name, "met": met, "said": message})
        command = c.GateAnswered(self._replica.clock.now_ms(), run_id, number, asked, met, message)
        try:
            await self._replica.decide(command, term)
        except Refusal as refusal:
            log.warning("an answer was not taken", extra={"run": run_id, "code": refusal.code})
            await asyncio.sleep(REFUSED_WAIT_S)

    async def _answer(self, session: aiohttp.ClientSession, run: Run, name: str) -> tuple[bool, str]:
        """Whether it is met, and how it was answered; what is told has nothing of the request, which may be secret."""
        try:
            await self._have([run.bundle])
            sealed = sealed_secrets(self._replica.table, run.project, run.namespace)
            request = await asyncio.to_thread(self._provisioner.request, run, name, sealed)
        except SpecError as error:
            return False, f"the request cannot be made: {error}"
        except (BlobError, PrimeError, SecretError) as error:
            return False, f"the request cannot be made on this agent: {error}"
        except Exception as error:  # a job must not be able to end whoever leads
            log.exception("a request met an error nobody foresaw", extra={"run": run.id, "dependency": name})
            return False, f"the request met an error of the agent, {type(error).__name__}; its log has more"
        return await get(session, request)


async def get(session: aiohttp.ClientSession, request: HttpRequest) -> tuple[bool, str]:
    """Send a GET. Returns whether it is answered with 2xx, and with what. A redirection is followed nowhere."""
    try:
        outward.check(URL(request.url))
        async with session.get(
            request.url, headers=request.headers, params=request.params, allow_redirects=False
        ) as response:
            reason = "".join(one for one in response.reason or "" if one.isprintable())[:REASON_CHARACTERS_MAX]
            return 200 <= response.status < 300, f"{response.status} {reason}".strip()
    except TimeoutError:
        return False, f"no answer within {outward.TIMEOUT_S:g} s"
    except ReservedAddress as error:
        return False, f"its address is refused: {error}"
    except aiohttp.ClientConnectorError as error:
        return False, f"cannot connect: {_why(error.os_error)}"
    except (aiohttp.ClientError, OSError) as error:
        return False, f"no answer: {type(error).__name__}"
    except (ValueError, TypeError) as error:  # a header with a line end, and the like
        return False, f"the request cannot be sent: {type(error).__name__}"


def _why(error: OSError) -> str:
    """Without the address, which may be made with a secret."""
    if isinstance(error, ReservedAddress):
        return str(error)
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else "no such host"

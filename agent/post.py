"""One POST to an endpoint that a user named; where none goes stands in `outward.py`.

What comes back is not read: the status decides. Nothing of address, headers or answer is in what is told of a failure,
for all of them may hold secrets.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from yarl import URL

from agent import outward
from agent.notice_messages import Message
from agent.outward import ReservedAddress

AGAIN: Final = frozenset({408, 421, 425, 429})  # of 4xx: the request was right, the moment was not


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a try. error: "" = it was taken. final: another try would be no better. wait_ms: asked for."""

    error: str = ""
    final: bool = False
    wait_ms: int = 0


class Poster:
    """Sends messages, over connections of its own."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """session: as `open` makes one."""
        self._session = session

    @classmethod
    @asynccontextmanager
    async def open(cls, connections: int) -> AsyncIterator[Poster]:
        """connections: at most, at a time."""
        async with outward.session(connections) as session:
            yield cls(session)

    async def send(self, message: Message) -> Answer:
        """Try once. Raises nothing but CancelledError."""
        try:
            url = _checked(message.url)
            asked = self._session.post(url, data=message.body, headers=message.headers, allow_redirects=False)
            async with asked as response:
                return _judged(
                    response.status, response.headers.get("Retry-After", ""), response.headers.get("Date", "")
                )
        except ReservedAddress as error:
            return Answer(f"its address is refused: {error}", final=True)
        except (aiohttp.InvalidURL, ValueError):
            return Answer("its address is no http:// or https:// URL", final=True)
        except TimeoutError:
            return Answer(f"no answer within {outward.TIMEOUT_S:g} s")
        except aiohttp.ClientConnectorDNSError as error:
            return _no_name(error)
        except (aiohttp.ClientSSLError, ssl.SSLError):
            return Answer("its certificate is not good, or it speaks no TLS")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(f"cannot be reached: {type(error).__name__}")


def _checked(text: str) -> URL:
    if not re.match(r"https?://[^/]", text):
        raise ValueError("no URL")
    url = URL(text)
    outward.check(url)
    return url


def _no_name(error: aiohttp.ClientConnectorDNSError) -> Answer:
    if isinstance(error.os_error, ReservedAddress):
        return Answer(f"its address is refused: {error.os_error}", final=True)
    return Answer("its host's name is not known")


def _judged(status: int, retry_after: str, date: str) -> Answer:
    if 200 <= status < 300:
        return Answer()
    wait_ms = _wait_ms(retry_after, date)
    if 300 <= status < 400:
        return Answer(f"it answered {status}, a redirect, which is not followed", final=True)
    if 400 <= status < 500 and status not in AGAIN:
        return Answer(f"it answered {status}, and would again", final=True)
    return Answer(f"it answered {status}", wait_ms=wait_ms)


def _wait_ms(text: str, date: str) -> int:
    """Retry-After: seconds, or a date beside that of the answer."""
    if re.fullmatch(r"[0-9]{1,6}", text):
        return 1000 * int(text)
    try:
        return max(0, round(1000 * (parsedate_to_datetime(text) - parsedate_to_datetime(date)).total_seconds()))
    except (TypeError, ValueError):
        return 0

"""One POST to an endpoint that a user named: bounded in time, no redirect followed, no reserved address reached.

What comes back is not read: the status decides. Nothing of address, headers or answer is in what is told of a failure,
for all of them may hold secrets.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from agent.notice_messages import Message

TIMEOUT_S: Final = 10.0
AGAIN: Final = frozenset({408, 421, 425, 429})  # of 4xx: the request was right, the moment was not
METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a try. error: "" = it was taken. final: another try would be no better. wait_ms: asked for."""

    error: str = ""
    final: bool = False
    wait_ms: int = 0


def reserved(address: str) -> bool:
    """Whether an IP address is one that no endpoint has: link-local, where clouds keep their metadata, or no host's."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = (
            ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        )
        if inner is not None:
            return reserved(str(inner))
    return ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in METADATA


class ReservedAddress(OSError):
    """A host's address is one that `reserved` refuses."""


class Resolver(AbstractResolver):
    """The system's, without what is reserved; so a name cannot lead to where an address may not.

    In threads of its own: a name server that hangs must not take those in which the agent waits for its disk.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Its addresses. Raises OSError."""
        look = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._pool, look)
        addresses = [(str(at[0]), kind, proto) for kind, _type, proto, _name, at in found]
        if any(reserved(address) for address, _kind, _proto in addresses):
            raise ReservedAddress("a reserved address")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST)
            for address, kind, proto in addresses
        ]

    async def close(self) -> None:
        """Wait for nothing that still looks for a name."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Poster:
    """Sends messages, over connections of its own."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """session: as `open` makes one."""
        self._session = session

    @classmethod
    @asynccontextmanager
    async def open(cls, connections: int) -> AsyncIterator[Poster]:
        """connections: at most, at a time."""
        connector = aiohttp.TCPConnector(
            limit=connections, resolver=Resolver(connections), use_dns_cache=False, force_close=True
        )
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as session:
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
        except (ReservedAddress, _Refused) as error:
            return Answer(f"its address is refused: {error}", final=True)
        except (aiohttp.InvalidURL, ValueError):
            return Answer("its address is no http:// or https:// URL", final=True)
        except TimeoutError:
            return Answer(f"no answer within {TIMEOUT_S:g} s")
        except aiohttp.ClientConnectorDNSError as error:
            return _no_name(error)
        except (aiohttp.ClientSSLError, ssl.SSLError):
            return Answer("its certificate is not good, or it speaks no TLS")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(f"cannot be reached: {type(error).__name__}")


class _Refused(Exception):
    """An address that is not asked."""


def _checked(text: str) -> URL:
    if not re.match(r"https?://[^/]", text):
        raise ValueError("no URL")
    url = URL(text)
    try:
        if reserved(url.host or ""):
            raise _Refused("a reserved address")
    except ValueError:  # a name
        pass
    return url


def _no_name(error: aiohttp.ClientConnectorDNSError) -> Answer:
    if isinstance(error.os_error, ReservedAddress):
        return Answer("its address is refused: its name leads to a reserved address", final=True)
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

"""Requests to where a user's spec says: webhooks, http dependencies. Bounded, and to no reserved address.

An agent reaches what its users may not: the address where a cloud tells a host its own credentials, above all. So no
reserved address is asked, by whatever name, and whoever asks follows no redirection. Source: OWASP, "Server-Side
Request Forgery Prevention".
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

TIMEOUT_S: Final = 10.0  # of a request, from the look for its host's name to the answer
METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class ReservedAddress(OSError):
    """A host's address is one that `reserved` refuses."""


def reserved(address: str) -> bool:
    """Whether an IP address is one that is not asked: link-local, where clouds keep their metadata, or no host's.

    Raises ValueError for what is no address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = (
            ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        )
        if inner is not None:
            return reserved(str(inner))
    return ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in METADATA


def check(url: URL) -> None:
    """Raise ReservedAddress where the host of a URL is a reserved address. A name is looked at when it is resolved."""
    try:
        refused = reserved(url.host or "")
    except ValueError:  # a name
        return
    if refused:
        raise ReservedAddress("a reserved address")


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
            raise ReservedAddress("its name leads to a reserved address")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST)
            for address, kind, proto in addresses
        ]

    async def close(self) -> None:
        """Wait for nothing that still looks for a name."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@asynccontextmanager
async def session(connections: int) -> AsyncIterator[aiohttp.ClientSession]:
    """What requests are sent with: a connection for each, no cookies. connections: at most, at a time."""
    connector = aiohttp.TCPConnector(
        limit=connections, resolver=Resolver(connections), use_dns_cache=False, force_close=True
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "prime"},
    ) as one:
        yield one

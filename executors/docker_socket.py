"""The SDK's connection over a Unix socket, except that one that fails is closed.

The SDK forgets the socket when nobody answers, and leaves it to the garbage collector. An engine that is away is asked
again and again, so here it is closed at once.
"""

from __future__ import annotations

import socket

import docker
import docker.constants
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool

SDK_URL = "http+docker://"  # what the SDK's requests begin with, whatever the socket


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout)
            made.connect(self.unix_socket)
        except BaseException:
            made.close()
            raise
        self.sock = made


class _Pool(UnixHTTPConnectionPool):
    def __init__(self, base_url: str, socket_path: str, timeout_s: int, maxsize: int) -> None:
        super().__init__(base_url, socket_path, timeout_s, maxsize=maxsize)
        self._timeout_s = timeout_s

    def _new_conn(self) -> UnixHTTPConnection:  # type: ignore[override]  # as the SDK's, which its stubs leave out
        return _Connection(self.base_url, self.socket_path, self._timeout_s)


class _Adapter(UnixHTTPAdapter):
    def get_connection(self, url: bytes | str, proxies: object = None) -> UnixHTTPConnectionPool:
        del proxies  # a socket has none
        key = str(url)
        with self.pools.lock:
            pool = self.pools.get(key)
            if pool is None:
                pool = self.pools[key] = _Pool(key, self.socket_path, self.timeout, self.max_pool_size)
        return pool


def connect(url: str, *, timeout_s: int, connections: int) -> docker.APIClient:
    """An SDK client for the engine at the Unix socket `url`. Raises what the SDK raises."""
    first = _client(url, docker.constants.MINIMUM_DOCKER_API_VERSION, timeout_s, connections)  # any: it is not sent
    try:
        version = str(first.version(api_version=False)["ApiVersion"])
    finally:
        first.close()
    return _client(url, version, timeout_s, connections)


def _client(url: str, version: str, timeout_s: int, connections: int) -> docker.APIClient:
    client = docker.APIClient(base_url=url, version=version, timeout=timeout_s, max_pool_size=connections)
    socket_url = url.replace("unix://", "http+unix://", 1)
    client.mount(SDK_URL, _Adapter(socket_url, timeout_s, max_pool_size=connections))
    return client

"""Unary gRPC calls in closed loops over plain TCP, as lean as they come: a client that is not the bottleneck.

HTTP/2 (RFC 9113) as far as a unary call needs it. Headers are sent without compression state, and those of answers are
not looked at: an answer that has no message is a failed call.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
PADDED: Final = 8
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW_BYTES: Final = 2**31 - 1
_FIRST_WINDOW_BYTES: Final = 65_535
_RECEIVE_BYTES: Final = 65_536
_FRAME_HEADER_BYTES: Final = 9
_CALL_S: Final = 10.0


class CallFailed(Exception):
    """The server answered without a message, or hung up."""


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing, its name spelled out (RFC 7541, 6.2.2). Up to 126 bytes each."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Connection:
    """One HTTP/2 connection with at most one call at a time."""

    def __init__(self, address: str) -> None:
        """address: HOST:PORT. Raises OSError."""
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=_CALL_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._authority = address.encode()
        self._headers: dict[str, bytes] = {}
        self._stream = -1
        self._buffer = bytearray()
        self._message = b""
        self._sendable = _FIRST_WINDOW_BYTES
        settings = struct.pack(">HI", 4, _WINDOW_BYTES)
        window = struct.pack(">I", _WINDOW_BYTES - _FIRST_WINDOW_BYTES)
        self.socket.sendall(_PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, window))

    def start(self, method: str, message: bytes) -> None:
        """Send a call. method: as in "/etcdserverpb.KV/Put". message: encoded, under 16 KiB."""
        self._stream += 2
        self._message = b""
        body = b"\0" + struct.pack(">I", len(message)) + message
        self._sendable -= len(body)
        if self._sendable < 0:
            raise CallFailed("the server opened no window")
        self.socket.sendall(
            _frame(HEADERS, 4, self._stream, self._head(method)) + _frame(DATA, END_STREAM, self._stream, body)
        )

    def _head(self, method: str) -> bytes:
        if method not in self._headers:
            post, http = b"\x83", b"\x86"  # whole fields of the static table (RFC 7541, appendix A)
            self._headers[method] = (
                post
                + http
                + _literal(b":path", method.encode())
                + _literal(b":authority", self._authority)
                + _literal(b"content-type", b"application/grpc")
                + _literal(b"te", b"trailers")
            )
        return self._headers[method]

    def receive(self) -> bytes | None:
        """Read what has come. Returns the answer's message when the call is complete. Raises CallFailed, OSError."""
        received = self.socket.recv(_RECEIVE_BYTES)
        if not received:
            raise CallFailed("the server hung up")
        buffer = self._buffer
        buffer += received
        done = False
        while len(buffer) >= _FRAME_HEADER_BYTES:
            end = _FRAME_HEADER_BYTES + int.from_bytes(buffer[:3])
            if len(buffer) < end:
                break
            kind, flags, stream = buffer[3], buffer[4], int.from_bytes(buffer[5:9])
            payload = bytes(buffer[_FRAME_HEADER_BYTES:end])
            del buffer[:end]
            done |= self._take(kind, flags, stream, payload)
        if not done:
            return None
        if len(self._message) < 5:
            raise CallFailed("the call was refused")
        return self._message[5:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        """One frame. Returns whether it ends the call."""
        if kind == SETTINGS and not flags & ACK:
            self.socket.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(_frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._sendable += int.from_bytes(payload)
        elif kind in (GOAWAY, RST_STREAM):
            raise CallFailed(f"frame {kind} of the server: {payload[:64]!r}")
        elif kind == DATA:
            self._message += payload
        return stream == self._stream and kind in (DATA, HEADERS) and bool(flags & END_STREAM)

    def call(self, method: str, message: bytes) -> bytes:
        """One call, waited for. Raises CallFailed, OSError."""
        self.start(method, message)
        while True:
            answer = self.receive()
            if answer is not None:
                return answer

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def closed_loop(address: str, connections: int, seconds: float, method: str, message: Callable[[], bytes]) -> list[int]:
    """So many connections, each with one call at a time, from this thread. Returns each call's time in nanoseconds."""
    latencies_ns: list[int] = []
    started_ns: dict[Connection, int] = {}
    opened = [Connection(address) for _ in range(connections)]
    with selectors.EpollSelector() as selector:
        for one in opened:
            selector.register(one.socket, selectors.EVENT_READ, one)
            started_ns[one] = time.perf_counter_ns()
            one.start(method, message())
        end_ns = time.perf_counter_ns() + int(seconds * 1e9)
        while started_ns:
            for key, _events in selector.select(_CALL_S):
                one = key.data
                if one.receive() is None:
                    continue
                now_ns = time.perf_counter_ns()
                latencies_ns.append(now_ns - started_ns.pop(one))
                if now_ns < end_ns:
                    started_ns[one] = now_ns
                    one.start(method, message())
                else:
                    selector.unregister(one.socket)
    for one in opened:
        one.close()
    return latencies_ns

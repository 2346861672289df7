"""Who sits on the line between two agents: hears every byte, and may send them again or change them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

GREETING_BYTES: Final = 64
_LONG: Final = 0x02  # the size of a ZMTP frame has 8 bytes, not 1
MESSAGE: Final = b"\x07MESSAGE"  # what begins a frame that CURVE has encrypted

Tamper = Callable[[bytes], list[bytes]]
"""What goes on in the place of one encrypted frame."""


class Wiretap:
    """Passes on what is said between those who connect to `address` and a listener."""

    def __init__(self, port: tuple[str, int]) -> None:
        """port: the listener's."""
        self.recorded: list[bytearray] = []  # what each client has sent, connection by connection
        self.tamper: Tamper = lambda frame: [frame]
        self.address = ""
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def pass_on(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(*self._port)
        recorded = bytearray()
        self.recorded.append(recorded)
        back = asyncio.create_task(_copy(server, to_client))
        self._tasks.add(back)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._listen_in(client, to_server, recorded)
        finally:
            to_server.close()
            await back
            self._tasks.discard(back)

    async def _listen_in(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, recorded: bytearray
    ) -> None:
        """ZMTP: a greeting, in which each side waits for the other, then frames of flags, size and body."""
        while len(recorded) < GREETING_BYTES:
            data = await client.readexactly(1)
            recorded += data
            to_server.write(data)
        while True:
            head = await client.readexactly(1)
            size = await client.readexactly(8 if head[0] & _LONG else 1)
            body = await client.readexactly(int.from_bytes(size))
            frame = head + size + body
            recorded += frame
            for one in self.tamper(frame) if body.startswith(MESSAGE) else [frame]:
                to_server.write(one)
            await to_server.drain()


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            to.write(data)
            await to.drain()
    to.close()


@asynccontextmanager
async def wiretap(port: tuple[str, int]) -> AsyncIterator[Wiretap]:
    """One in front of a listener."""
    tap = Wiretap(port)
    running: set[asyncio.Task[None]] = set()

    def accept(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(tap.pass_on(client, to_client))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, number = server.sockets[0].getsockname()
    tap.address = f"{host}:{number}"
    try:
        yield tap
    finally:
        server.close()
        for task in tuple(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


async def say(port: tuple[str, int], data: bytes) -> None:
    """Connect, say it, and listen until the other side hangs up."""
    reader, writer = await asyncio.open_connection(*port)
    with suppress(OSError):
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        await reader.read()
    writer.close()

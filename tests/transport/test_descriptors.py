"""A stranger who opens more connections than the agent may have files stops nothing that runs (P8, P12)."""

from __future__ import annotations

import asyncio
import resource
import sys

from tests.transport.harness import WAIT_S, envelope, run, trying
from tests.transport.victim import KEY, Victim
from transport.frames import Lane
from transport.zmq import Transport

FILES = 128


async def be_the_victim() -> None:
    """Listen with few descriptors; be well at each line that is said, and say so."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    victim = Victim()
    await victim.is_well()
    print(victim.transport.address, flush=True)  # noqa: T201
    while await asyncio.to_thread(sys.stdin.readline):
        await victim.is_well()
        print("well", flush=True)  # noqa: T201
    victim.close()


def test_more_connections_than_there_are_descriptors_stop_nothing_that_runs() -> None:
    async def test() -> None:
        command = [sys.executable, "-m", "tests.transport.test_descriptors"]
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert child.stdin is not None
        assert child.stdout is not None

        async def well() -> None:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(b"are you well?\n")
            assert await child.stdout.readline() == b"well\n"

        address = (await child.stdout.readline()).decode().strip()
        host, _, port = address.rpartition(":")
        strangers = [await asyncio.open_connection(host, int(port)) for _ in range(FILES + 50)]
        await well()
        for _reader, writer in strangers:
            writer.close()
        await well()
        newcomer = Transport(envelope(3), KEY, lambda _frames: None)
        newcomer.connect(1, address)
        await trying(lambda: newcomer.send(1, Lane.CONTROL, b"let in"))
        newcomer.close()
        child.stdin.close()
        async with asyncio.timeout(WAIT_S):
            assert await child.wait() == 0

    run(test())


if __name__ == "__main__":
    run(be_the_victim())

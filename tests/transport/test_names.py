"""A peer's name is resolved anew each time it is connected to: an agent that has moved under its name is found."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.transport.harness import WAIT_S, Inbox, envelope, run, trying
from tests.transport.victim import KEY
from transport.errors import BindFailed
from transport.frames import Lane
from transport.zmq import Transport

HOSTS = Path("/etc/hosts")
NAME = "prime-that-moves"
PRIVATE_HOSTS = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


async def follow_a_name() -> None:
    """The name stands for nothing, then for one agent, then for another: the peer is reached all the same."""
    here, there = Inbox(), Inbox()
    first = Transport(envelope(2), KEY, here.on_frames, bind="127.0.0.2:0")
    port = first.address.rpartition(":")[2]
    second = Transport(envelope(2), KEY, there.on_frames, bind=f"127.0.0.3:{port}")
    agent = Transport(envelope(1), KEY, lambda _frames: None)
    HOSTS.write_text("")
    agent.connect(2, f"{NAME}:{port}")
    assert not agent.send(2, Lane.CONTROL, b"nowhere")
    await asyncio.sleep(0.2)  # so that a try or two has failed
    HOSTS.write_text(f"127.0.0.2 {NAME}\n")
    await trying(partial(agent.send, 2, Lane.CONTROL, b"here"))
    await here.until_frames(1)
    HOSTS.write_text(f"127.0.0.3 {NAME}\n")
    assert agent.send(2, Lane.CONTROL, b"still here"), "what is connected stays so"
    await here.until_frames(2)
    first.close()
    await trying(lambda: agent.send(2, Lane.CONTROL, b"there") and bool(there.frames))
    for one in (agent, second):
        one.close()


def test_a_name_that_stands_for_another_address_leads_there_at_the_next_connection(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can have an /etc/hosts of its own")
    hosts = tmp_path / "hosts"
    hosts.touch()
    inside = [sys.executable, "-m", "tests.transport.test_names"]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", PRIVATE_HOSTS, "sh", str(hosts), *inside]
    before = HOSTS.read_text()
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert HOSTS.read_text() == before


@pytest.mark.parametrize(
    ("bind", "dialled"),
    [
        ("127.0.0.1:0", "localhost"),
        ("localhost:0", "127.0.0.1"),
        ("[::1]:0", "[::1]"),
        ("*:0", "127.0.0.1"),
        ("*:0", "[::1]"),
        ("[::]:0", "[::1]"),
    ],
)
def test_an_agent_is_reached_by_every_address_it_listens_on(bind: str, dialled: str) -> None:
    async def test() -> None:
        inbox = Inbox()
        listener = Transport(envelope(1), KEY, inbox.on_frames, bind=bind)
        agent = Transport(envelope(2), KEY, lambda _frames: None)
        agent.connect(1, f"{dialled}:{listener.address.rpartition(':')[2]}")
        await trying(partial(agent.send, 1, Lane.CONTROL, b"found"))
        await inbox.until_frames(1)
        agent.close()
        listener.close()

    run(test())


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "no-such-host.invalid:0", "8.8.8.8:0"])
def test_what_cannot_be_listened_on_is_said(bind: str) -> None:
    async def test() -> None:
        with pytest.raises(BindFailed, match=f"cannot listen on {bind}"):
            Transport(envelope(1), KEY, lambda _frames: None, bind=bind)

    run(test())


if __name__ == "__main__":
    run(follow_a_name())

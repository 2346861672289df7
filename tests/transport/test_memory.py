"""The transport in memory, where it is more than the one it stands for: frames can be lost on purpose."""

from __future__ import annotations

from tests.transport.harness import Inbox, envelope, run
from transport import memory
from transport.frames import Lane


def test_frames_are_lost_where_the_test_wants_it_and_the_sender_does_not_know() -> None:
    async def test() -> None:
        network, inbox = memory.Network(), Inbox()
        one = memory.Transport(envelope(1), network, lambda _frames: None, bind="a")
        two = memory.Transport(envelope(2), network, inbox.on_frames, bind="b")
        one.connect(2, "b")
        network.lose = lambda sender, receiver: (sender, receiver) == ("a", "b")
        assert one.send(2, Lane.CONTROL, b"lost")
        network.lose = lambda _sender, _receiver: False
        assert one.send(2, Lane.CONTROL, b"heard")
        await inbox.until_frames(1)
        assert inbox.payloads == [b"heard"]
        two.close()

    run(test())


def test_a_queue_that_is_full_takes_no_more() -> None:
    async def test() -> None:
        network, inbox = memory.Network(), Inbox()
        one = memory.Transport(envelope(1), network, lambda _frames: None)
        memory.Transport(envelope(2), network, inbox.on_frames, bind="b")
        one.connect(2, "b")
        sent = [one.send(2, Lane.CONTROL, b"x") for _ in range(memory.QUEUE_FRAMES + 1)]
        assert sent == [True] * memory.QUEUE_FRAMES + [False]
        assert one.dropped == {2: 1}
        await inbox.until_frames(memory.QUEUE_FRAMES)

    run(test())


def test_bytes_that_are_no_frame_are_counted_and_dropped() -> None:
    async def test() -> None:
        network, inbox = memory.Network(), Inbox()
        two = memory.Transport(envelope(2), network, inbox.on_frames, bind="b")
        one = memory.Transport(envelope(1), network, lambda _frames: None)
        one.connect(2, "b")
        assert two.take(b"", "nobody", b"noise")
        assert one.send(2, Lane.CONTROL, b"frame")
        await inbox.until_frames(1)
        assert inbox.payloads == [b"frame"]
        assert two.refused == {"FrameMalformed": 1}

    run(test())

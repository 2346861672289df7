"""How the driver's messages leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agent.snapshots import ChunkNetwork, Snapshots
from consensus.messages import Message, MessageType


class Outbox:
    """Sorts the messages of a Ready. Belongs to the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: ChunkNetwork,
        snapshots: Snapshots,
        unreachable: Callable[[int], None],
    ) -> None:
        """unreachable: told of a member to which an append was certainly not sent."""
        self._loop, self._network, self._snapshots, self._unreachable = loop, network, snapshots, unreachable
        self._commits: dict[int, Message] = {}  # appends without entries that wait for company
        self._closed = False

    def send(self, messages: Sequence[Message]) -> None:
        """Send or drop each, in order."""
        for message in messages:
            if message.type is MessageType.SNAPSHOT:
                self._snapshots.send(message)
            elif message.type is MessageType.APPEND:
                self._send_append(message)
            else:
                self._network.send(message)

    def _send_append(self, message: Message) -> None:
        """Appends that only tell what is committed are kept back for two rounds of the loop.

        By then whoever was answered may have proposed again, and the append with its entries says the same. That is
        half of all messages where one client waits for each answer.
        """
        if not message.entries:
            if not self._commits:
                self._loop.call_soon(self._loop.call_soon, self._send_commits)
            self._commits[message.to] = message
            return
        held = self._commits.get(message.to)
        if held is not None and held.commit <= message.commit:
            del self._commits[message.to]
        if not self._network.send(message):
            self._unreachable(message.to)

    def _send_commits(self) -> None:
        commits, self._commits = self._commits, {}
        if not self._closed:
            for message in commits.values():
                self._network.send(message)

    def close(self) -> None:
        """Send nothing that was kept back."""
        self._closed = True

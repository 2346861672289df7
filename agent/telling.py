"""A worker's words: told until they are applied, and not before others have what they name (P1)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from agent.attempt import Driven
from agent.errors import Refusal
from agent.replica import Replica
from agent.runtable import commands as c
from agent.store.blobs import BlobStore
from agent.store.errors import BlobError, is_full

log = logging.getLogger(__name__)

TELL_WAIT_S: Final = 0.05
TELL_WAIT_MAX_S: Final = 5.0
SPREAD_AGAIN_S: Final = 1800.0  # a blob that nothing names is kept an hour (`store.blobs.YOUNG_MS`)

Word = c.InstanceStarted | c.InstanceEnded


class Network(Protocol):
    """Blobs on other agents (`cluster.blobs.Blobs`)."""

    async def fetch_whole(self, kind: str, digest: str, *, read: bool = False) -> None:
        """Have a blob here, with all it names; read: and none of it damaged. Raises BlobError."""

    async def spread(self, digests: Sequence[str]) -> None:
        """Have a majority of the voters hold blobs that are here. Raises Refusal."""

    async def spread_whole(self, kind: str, digest: str) -> None:
        """Have a majority of the voters hold it, with all it names. Raises Refusal, BlobError."""


class Teller:
    """Of one worker. network: None = this agent is alone. on_word: told of each word before it is agreed on."""

    def __init__(
        self, replica: Replica, blobs: BlobStore, network: Network | None, on_word: Callable[[Word], None]
    ) -> None:
        self._replica, self._blobs, self.network, self._on_word = replica, blobs, network, on_word

    async def tell(self, driven: Driven, command: Word, outputs: bytes | None = None) -> None:
        """Tell a word. What was rendered, which it names, is on other disks first (P1), and so are outputs.

        outputs: the blob of what a word of an end names as such, as the journal has it.
        """
        wait_s = TELL_WAIT_S
        while command.compiled is not None and not driven.spread:
            try:
                await self._spread(driven, command.compiled)
            except Refusal as refusal:
                log.warning("what was rendered does not spread", extra={"run": command.run_id, "code": refusal.code})
                await asyncio.sleep(wait_s)
                wait_s = min(TELL_WAIT_MAX_S, wait_s * 2)
        await self._tell_again_and_again(command, outputs)

    async def _spread(self, driven: Driven, manifest: str) -> None:
        """Put what was rendered on a majority of disks. Raises Refusal."""
        try:
            if self.network is not None and driven.kept:
                await self.network.spread(driven.kept)
            elif self.network is not None:  # it was rendered by an earlier process
                await self.network.spread_whole("manifest", manifest)
        except BlobError as error:  # not even this agent has it whole any more: the word is true without
            log.warning("what was rendered is lost", extra={"run": driven.run_id, "error": str(error)})
        driven.spread = True

    async def _tell_again_and_again(self, command: Word, outputs: bytes | None) -> None:
        """Propose until it is applied; a repetition is a no-op there. Others hear of it at once."""
        wait_s, spread_s = TELL_WAIT_S, float("-inf")
        heard: Word | None = None
        while True:
            try:
                if outputs is not None and time.monotonic() - spread_s > SPREAD_AGAIN_S:
                    await self._spread_outputs(outputs)
                    spread_s = time.monotonic()
            except Refusal as refusal:
                log.warning("outputs do not spread", extra={"run": command.run_id, "code": refusal.code})
            except BlobError as error:
                if not is_full(error):
                    log.warning("outputs cannot be kept", extra={"run": command.run_id, "error": str(error)})
                    command, outputs = _without_outputs(command, error), None
                    continue
                log.warning("the disk is full; outputs wait", extra={"run": command.run_id})
            else:
                if heard is not command:
                    self._on_word(command)
                    heard = command
                try:
                    await self._replica.propose(command)
                except Refusal as refusal:
                    log.warning("the outcome is not taken yet", extra={"code": refusal.code})
                else:
                    return
            await asyncio.sleep(wait_s)
            wait_s = min(TELL_WAIT_MAX_S, wait_s * 2)

    async def _spread_outputs(self, outputs: bytes) -> None:
        """Put them on a majority of disks, this one included. Raises Refusal, BlobError."""
        digest = await asyncio.to_thread(self._blobs.put, outputs)
        if self.network is not None:
            await self.network.spread([digest])


def _without_outputs(command: Word, error: BlobError) -> Word:
    """The word of an end whose outputs are lost, which is true without."""
    assert isinstance(command, c.InstanceEnded)
    message = f"its outputs could not be kept: {error}"
    told = "; ".join(one for one in (command.message, message) if one)
    return msgspec.structs.replace(command, outputs=None, message=told)

"""This agent's end of the network between agents: one transport, and what comes by it, sorted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.cluster import keys as key_files
from agent.cluster.calls import Calls
from agent.cluster.keys import KeyRing, Keys
from agent.config import AgentConfig
from agent.errors import ConfigError
from agent.identity import Identity
from agent.peers import Peers
from transport.errors import BindFailed
from transport.frames import Envelope
from transport.zmq import CurveKey, Transport

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
TELL_S: Final = 60.0  # between words about connections that are refused
OWN_KEY: Final = "cluster.key"  # in the data directory of an agent that was given none


@dataclass(frozen=True, slots=True)
class Link:
    """address: HOST:PORT by which others reach this agent."""

    ring: KeyRing
    peers: Peers
    calls: Calls
    transport: Transport
    address: str

    def use_keys(self, keys: Sequence[bytes]) -> None:
        """The ring has changed."""
        self.transport.use_keys([CurveKey.of_cluster(key) for key in keys])

    def belongs(self, identity: Identity) -> None:
        """This agent has come to belong to a cluster: it speaks as a member from now on."""
        self.transport.use_envelope(_envelope(identity))

    async def watch_forever(self) -> None:
        """Say who is turned away for holding another key. Ends when cancelled."""
        told: Counter[str] = Counter()
        while True:
            refused = self.transport.refused_connections
            news = refused - told
            for address, count in news.items():
                text = "connections are refused: who tries holds another cluster key"
                log.warning(text, extra={"address": address, "count": count})
            told = Counter(refused)
            await asyncio.sleep(TELL_S if news else LOOK_S)

    async def close(self) -> None:
        """Hang up."""
        await self.calls.close()
        self.transport.close()


def open_link(config: AgentConfig, identity: Identity) -> Link:
    """Listen. Raises ConfigError, ClusterKeyError."""
    path = Path(config.cluster_key) if config.cluster_key else config.data_dir / OWN_KEY
    if not config.cluster_key and not path.exists():
        key_files.create(path, Keys((key_files.new_key(),)))
    ring = KeyRing.open(path)
    peers = Peers(identity.node)
    calls = Calls(peers)
    curve = [CurveKey.of_cluster(key) for key in ring.keys]
    try:
        transport = Transport(_envelope(identity), curve, peers.on_frames, bind=config.bind)
    except BindFailed as error:
        raise ConfigError(f"--bind {config.bind}: {error}; is another agent running here? Give another port") from error
    peers.transport = transport
    return Link(ring, peers, calls, transport, config.advertise or transport.address)


def _envelope(identity: Identity) -> Envelope:
    return Envelope(identity.cluster, identity.generation, identity.node, 1)

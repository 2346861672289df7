"""Who is there, and what all should hear soon: membership and rumors, without I/O. A hint, never the truth.

How a driver uses it, with one `Gossip` for each process and `monotonic_ms()` for a clock that never goes back:

    gossip = Gossip(node, Metadata(address, http, version, labels), random.randrange, monotonic_ms())
    gossip.join(ids of all that should be there, monotonic_ms())         again whenever that set changes
    output = gossip.tick(monotonic_ms())                                 every 50 to 100 ms
    output = gossip.step(frame.payload, frame.sender, monotonic_ms())    for each frame; MessageMalformed: drop it
    for to, payload in output.messages: send(to, payload)                may be dropped; never waits
    output.events, output.rumors                                         what has changed; output.rumors are provisional

- `gossip.members`, `gossip.member(id)`: what is believed of others. `gossip.health`: of oneself, 0 is good.
- `gossip.broadcast(Rumor(key, epoch, seq, payload), now_ms)` tells all; of one key the highest (epoch, seq) counts.
- `gossip.rumors` holds what is provisional. `gossip.forget(key, (epoch, seq), now_ms)`, on every agent by itself, once
  the truth up to there is known; also for a rumor that comes after it (`output.rumors`): what was forgotten is refused
  for a minute only. Forgetting what was never heard is right too: it is then not shown when it comes.
- `gossip.leave()`, then tick until `gossip.unsent` is 0 or a second has passed.
- Frames of agents that do not belong here are to be dropped before `step`: it believes whoever speaks.
- A late tick is taken as a pause of this member, and not counted against others, if it is `probe_ms` late.

node.py      the door: tick, step, broadcast -> messages and events
swim.py      membership: what is believed of each member     detector.py   probes, and the local health
members.py   the table, and the order of the probes          suspicion.py  the time a suspect has to speak up
rumors.py    broadcast and what is forgotten                 sync.py       anti-entropy: what the other side lacks
messages.py  what agents say, and its bytes                  retransmit.py what is still to be passed on
config.py    how eager it is     errors.py
"""

from transport.gossip.config import FAST, LAN, Config
from transport.gossip.errors import GossipError, MessageMalformed, MetadataTooLarge, RumorTooLarge
from transport.gossip.messages import Metadata, Rumor, State, Update
from transport.gossip.node import Gossip, Output
from transport.gossip.swim import Change, MemberEvent

__all__ = [
    "FAST",
    "LAN",
    "Change",
    "Config",
    "Gossip",
    "GossipError",
    "MemberEvent",
    "MessageMalformed",
    "Metadata",
    "MetadataTooLarge",
    "Output",
    "Rumor",
    "RumorTooLarge",
    "State",
    "Update",
]

"""What can go wrong in `transport.gossip`.

TransportError
└── GossipError
    ├── MessageMalformed    theirs: bytes that no agent of this version sends; nothing of them is acted on (P8)
    ├── MetadataTooLarge    the caller's: more than a member may say of itself
    └── RumorTooLarge       the caller's: a key or a payload that is too long
"""

from __future__ import annotations

from transport.errors import TransportError


class GossipError(TransportError):
    """Base of all errors of `transport.gossip`."""


class MessageMalformed(GossipError):
    """Bytes that are no message, or one whose fields are out of their range."""


class MetadataTooLarge(GossipError):
    """What a member says of itself does not fit. Nothing was changed."""


class RumorTooLarge(GossipError):
    """A key or a payload that does not fit. Nothing was said."""

"""What can go wrong in `transport`.

TransportError
├── FrameError          theirs: bytes that are no frame for this agent; nothing of them is acted on (P8)
│   ├── FrameMalformed      no frame at all, or one that contradicts itself
│   ├── VersionUnknown      a frame of another version of this format
│   ├── ForeignCluster      of another cluster, or of none and no question
│   └── ForeignGeneration   of this cluster before or after it was recovered
├── PayloadTooLarge     the caller's: more than the lane takes
├── BindFailed          the address cannot be listened on
└── TransportClosed     the caller's: used after close
"""

from __future__ import annotations


class TransportError(Exception):
    """Base of all errors of `transport`."""


class FrameError(TransportError):
    """Bytes that came and are refused. They are counted by this class' name and dropped."""


class FrameMalformed(FrameError):
    """No frame, or one whose fields are out of their range."""


class VersionUnknown(FrameError):
    """A frame of a version that this program does not speak."""


class ForeignCluster(FrameError):
    """The sender belongs to another cluster; or one of both belongs to none, and the frame is not for such."""


class ForeignGeneration(FrameError):
    """The sender belongs to this cluster as it was before, or is after, a recovery."""


class PayloadTooLarge(TransportError):
    """A payload that its lane does not take. Nothing was sent."""


class BindFailed(TransportError):
    """The address is taken, or none of this host's."""


class TransportClosed(TransportError):
    """The transport was closed."""

"""Who did what: of a run and of a replay."""

from __future__ import annotations

import msgspec


class Audit(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Who did what to it, when, through which agent and from which address ("" = it is not known)."""

    at_ms: int
    who: str
    via: str
    what: str
    address: str = ""

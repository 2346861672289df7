"""Numbers in rows and commands, bounded, so that sums of what was committed still encode."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Level = Annotated[int, msgspec.Meta(ge=1, le=127)]
Weight = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31)]

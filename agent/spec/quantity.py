"""Kubernetes quantities: `250m` cores, `512Mi` bytes (apimachinery, resource.Quantity)."""

from __future__ import annotations

from typing import Final

_UNITS: Final = {
    "": 1,
    "k": 10**3,
    **{unit: 10 ** (3 * power) for power, unit in enumerate("MGTPE", start=2)},
    **{f"{unit}i": 2 ** (10 * power) for power, unit in enumerate("KMGTPE", start=1)},
}


def cores(text: str) -> float | None:
    """Cores in `250m` or `1.5`; None for an empty text. Raises ValueError for anything else."""
    if not text:
        return None
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def size_bytes(text: str) -> int | None:
    """Bytes in `512Mi`, `2G` or `1000`; None for an empty text. Raises ValueError for anything else."""
    if not text:
        return None
    digits = text.rstrip("kKMGTPEi")
    unit = text[len(digits) :]
    if unit not in _UNITS:
        raise ValueError(f"{text!r} is no amount of bytes; write one such as 512Mi or 2G")
    return int(float(digits) * _UNITS[unit])

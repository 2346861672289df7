"""What the code itself must keep, where no linter looks."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("agent", "consensus", "transport", "executors")


def test_nothing_is_raised_inside_except_star() -> None:
    """Before Python 3.11.4 it comes out wrapped in a group of its own: catch ExceptionGroup instead."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip().startswith("except*")
    ]
    assert found == []

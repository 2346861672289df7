"""Fixtures that more than one file of these tests uses."""

from tests.cli.project import agent, applied, ask, folder

__all__ = ["agent", "applied", "ask", "folder"]

"""The agent: takes requests, decides, runs the work, keeps the records. ARCHITECTURE.md is its map."""

__version__ = "0.1.0"

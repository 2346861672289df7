"""Agents for end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.agents import AgentProcess

Start = Callable[..., AgentProcess]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts real agents."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Start]:
    """Starts agents, and ends all of them after the test."""
    agents: list[AgentProcess] = []

    def start(name: str = "a", *options: str, **environment: str) -> AgentProcess:
        one = AgentProcess(tmp_path / name, *options, environment=environment)
        agents.append(one)
        one.start()
        return one

    yield start
    for one in agents:
        one.stop()


@pytest.fixture
def agent(start_agent: Start) -> AgentProcess:
    """One agent that runs local processes."""
    return start_agent("a", "--executors", "process")

"""Fixtures for all tests. What a fixture costs is paid by the first test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.docker_engine import NoEngine, OwnEngine, any_engine, own_engine, without_engine
from tests.postgresql import NoDatabase, postgresql, without_database


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """The URL of a Docker engine that has the image `busybox:1.36`. Skips without one; fails where CI=true."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(any_engine())
        except NoEngine as reason:
            without_engine(reason)
        yield url


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The URL of a real PostgreSQL. Skips without one; fails where CI=true."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgresql())
        except NoDatabase as reason:
            without_database(reason)
        yield url


@pytest.fixture(scope="session")
def _own_docker_engine() -> Iterator[OwnEngine]:
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(own_engine())
        except NoEngine as reason:
            without_engine(reason)
        yield engine


@pytest.fixture
def docker_engine(_own_docker_engine: OwnEngine) -> OwnEngine:
    """An engine the test may stop and kill; it runs when the test begins. Skips without one; fails where CI=true."""
    _own_docker_engine.start()
    return _own_docker_engine

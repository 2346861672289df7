"""Fixtures for all tests. What a fixture costs is paid by the first test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docker_engine import NoEngine, OwnEngine, any_engine, own_engine, without_engine


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """The URL of a Docker engine that has the image `busybox:1.36`. Skips without one; fails where CI=true."""
    try:
        engine = any_engine()
        url = engine.__enter__()
    except NoEngine as reason:
        without_engine(reason)
        return
    try:
        yield url
    finally:
        engine.__exit__(None, None, None)


@pytest.fixture
def docker_engine() -> Iterator[OwnEngine]:
    """An engine of the test's own, to be stopped and killed. Skips without one; fails where CI=true."""
    try:
        context = own_engine()
        engine = context.__enter__()
    except NoEngine as reason:
        without_engine(reason)
        return
    try:
        yield engine
    finally:
        context.__exit__(None, None, None)

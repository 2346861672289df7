"""The archive on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.store.archive import MANIFEST, Archive
from agent.store.errors import ArchiveAway, ArchiveDamaged
from tests.e2e.cluster import free_ports
from tests.s3 import S3, s3
from tests.store.test_archive import KEY, contents, fetched, write

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3(free_ports(1)[0], tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def server(running: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running


def test_what_was_put_is_fetched_byte_for_byte(server: S3, tmp_path: Path) -> None:
    archive = Archive(f"s3://{server.bucket}/prime/logs", "c1", 1)
    here = write(tmp_path / "here", "".join(f"line {n}\n" for n in range(20_000)), segment_bytes=68 * 1024)
    assert archive.find(KEY) is None
    assert archive.put(KEY, here)
    assert archive.has(KEY, here)
    assert archive.put(KEY, here) == 0
    there = fetched(archive, tmp_path / "there")
    assert there is not None
    assert contents(there) == contents(here)
    names = server.files().find(f"{server.bucket}/prime/logs/c1/1/r1/shell/1")
    assert [name.rpartition("/")[2] for name in names] == [*sorted(contents(here)), MANIFEST]
    assert Archive(f"s3://{server.bucket}/prime/logs", "c2", 1).find(KEY) is None
    assert Archive(f"s3://{server.bucket}/prime/logs", "c1", 2).find(KEY) is not None


def test_a_log_without_a_line_and_one_that_changed_late(server: S3, tmp_path: Path) -> None:
    archive, here = Archive(f"s3://{server.bucket}", "c3", 1), write(tmp_path / "here", "")
    archive.put(KEY, here)
    assert fetched(archive, tmp_path / "empty") is not None
    write(here, "late\n")
    assert archive.put(KEY, here)
    there = fetched(archive, tmp_path / "there")
    assert there is not None
    assert contents(there) == contents(here)


def test_p9_another_object_is_not_given_out(server: S3, tmp_path: Path) -> None:
    archive, here = Archive(f"s3://{server.bucket}", "c4", 1), write(tmp_path / "here")
    archive.put(KEY, here)
    server.files().pipe_file(f"{server.bucket}/c4/1/r1/shell/1/000001.log", b"another one")
    with pytest.raises(ArchiveDamaged):
        fetched(archive, tmp_path / "there")


def test_a_bucket_that_is_not_there_is_not_made(server: S3, tmp_path: Path) -> None:
    archive, here = Archive("s3://mistyped/logs", "c1", 1), write(tmp_path / "here")
    for ask in (lambda: archive.find(KEY), lambda: archive.put(KEY, here)):
        with pytest.raises(ArchiveAway, match="s3://mistyped/logs"):
            ask()
    assert server.bucket in server.files().ls("")
    assert "mistyped" not in server.files().ls("")


def test_p8_a_server_that_does_not_answer_is_away_and_no_secret_is_told(
    server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    archive = Archive(f"s3://{server.bucket}/elsewhere", "c1", 1)
    archive._fs = type(archive._fs)(skip_instance_cache=True)  # one is made for each process, with its environment
    with pytest.raises(ArchiveAway) as caught:
        archive.put(KEY, write(tmp_path / "here"))
    assert "secret-of-tests" not in str(caught.value)

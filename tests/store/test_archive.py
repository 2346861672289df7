"""Output in an archive: whole or not at all, wherever a crash comes; and found again by those who share it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.store.archive import MANIFEST, Archive, check_url
from agent.store.errors import ArchiveAway, ArchiveDamaged, LogsError
from executors.base import Stream
from executors.segments import SegmentWriter, read

KEY = ("r1", "shell", 1)


def write(directory: Path, text: str = "hello\n", segment_bytes: int = 1 << 20) -> Path:
    with SegmentWriter(directory, limit_bytes=1 << 30, segment_bytes=segment_bytes) as writer:
        writer.write(Stream.STDOUT, text.encode(), 1)
    return directory


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("*.log")}


def fetched(archive: Archive, into: Path, key: tuple[str, str, int] = KEY) -> Path | None:
    found = archive.find(key)
    if found is None:
        return None
    into.mkdir()
    archive.fetch(found, into)
    return into


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    home = tmp_path / "archive"
    home.mkdir()
    fs = fsspec.filesystem("memory")
    fs.mkdir("/archive")
    yield f"file://{home}" if request.param == "file" else "memory://archive"
    fs.rm("/archive", recursive=True)


def test_what_was_put_is_fetched_byte_for_byte(url: str, tmp_path: Path) -> None:
    archive, many = Archive(url, "c1", 1), "".join(f"line {number}\n" for number in range(20_000))
    here = write(tmp_path / "here", many, segment_bytes=68 * 1024)
    assert len(contents(here)) > 3
    assert archive.find(KEY) is None
    assert not archive.has(KEY, here)
    assert archive.put(KEY, here) == sum(path.stat().st_size for path in here.glob("*.log"))
    assert archive.has(KEY, here)
    there = fetched(archive, tmp_path / "there")
    assert there is not None
    assert contents(there) == contents(here)
    assert list(read(there)) == list(read(here))


def test_it_is_put_once_and_again_when_it_has_changed(url: str, tmp_path: Path) -> None:
    archive, here = Archive(url, "c1", 1), write(tmp_path / "here")
    assert archive.put(KEY, here)
    assert archive.put(KEY, here) == 0  # it is there; the mark alone may have been lost
    write(here, "late\n")
    assert not archive.has(KEY, here)
    assert archive.put(KEY, here)
    there = fetched(archive, tmp_path / "there")
    assert there is not None
    assert contents(there) == contents(here)


def test_two_clusters_share_an_archive_and_generations_of_one_find_what_was_before(url: str, tmp_path: Path) -> None:
    here = write(tmp_path / "here")
    Archive(url, "c1", 2).put(KEY, here)
    assert Archive(url, "c2", 2).find(KEY) is None
    assert Archive(url, "c1", 1).find(KEY) is None
    assert Archive(url, "c1", 4).find(KEY) is not None


def test_an_attempt_without_a_line_is_archived_too(url: str, tmp_path: Path) -> None:
    archive, here = Archive(url, "c1", 1), write(tmp_path / "here", "")
    archive.put(KEY, here)
    assert fetched(archive, tmp_path / "there") is not None
    assert archive.has(KEY, here)


def test_another_archive_is_another_place(url: str, tmp_path: Path) -> None:
    here = write(tmp_path / "here")
    Archive(url, "c1", 1).put(KEY, here)
    assert not Archive(f"{url}/below", "c1", 1).has(KEY, here)


def test_p9_what_was_changed_in_the_archive_is_not_given_out(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    archive, here = Archive(f"file://{tmp_path}/archive", "c1", 1), write(tmp_path / "here")
    archive.put(KEY, here)
    segment = tmp_path / "archive" / "c1" / "1" / "r1" / "shell" / "1" / "000001.log"
    segment.write_bytes(segment.read_bytes().replace(b"hello", b"hellO"))
    with pytest.raises(ArchiveDamaged, match=r"000001\.log"):
        fetched(archive, tmp_path / "there")


def test_a_manifest_that_names_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    archive, here = Archive(f"file://{tmp_path}/archive", "c1", 1), write(tmp_path / "here")
    archive.put(KEY, here)
    manifest = tmp_path / "archive" / "c1" / "1" / "r1" / "shell" / "1" / MANIFEST
    manifest.write_text(manifest.read_text().replace("000001.log", "../../x"))
    with pytest.raises(ArchiveDamaged, match="no manifest"):
        archive.find(KEY)


def test_an_archive_that_is_not_mounted_is_away_and_not_empty(tmp_path: Path) -> None:
    archive, here = Archive(f"file://{tmp_path}/archive", "c1", 1), write(tmp_path / "here")
    for ask in (lambda: archive.find(KEY), lambda: archive.put(KEY, here)):
        with pytest.raises(ArchiveAway, match="is not there: make it, or mount it"):
            ask()
    assert not (tmp_path / "archive").exists()
    assert not archive.has(KEY, here)


def test_what_this_disk_cannot_read_is_not_the_archives_fault(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "000001.log").symlink_to("gone")
    with pytest.raises(LogsError) as caught:
        Archive(f"file://{tmp_path}/archive", "c1", 1).put(KEY, tmp_path / "here")
    assert not isinstance(caught.value, ArchiveAway)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("/mnt/logs", "a URL is expected"),
        ("s3://key:secret@bucket/logs", "no credentials"),
        ("s3://bucket/logs?versionId=1", "no credentials and no query"),
        ("nothing-like-it://x", "nothing-like-it"),
    ],
)
def test_p11_a_url_that_cannot_be_used_says_why_and_no_secret(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        Archive(url, "c1", 1)
    assert "secret" not in str(caught.value)


def test_usual_urls_are_taken() -> None:
    for url in ("s3://bucket/logs", "file:///mnt/logs", "memory://x", "gs://bucket"):
        check_url(url)


class _Crash(BaseException):
    """The agent is gone at this point: nothing of it runs on."""


class _Crashing:
    """A file system that does so many writes more, and of the last one half, and then the agent is gone."""

    def __init__(self, fs: Any, writes: int) -> None:
        self._fs, self._left = fs, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def _spend(self, half: Any) -> None:
        if not self._left:
            half()
            raise _Crash
        self._left -= 1

    def put_file(self, here: str, there: str) -> None:
        data = Path(here).read_bytes()
        self._spend(lambda: self._fs.pipe_file(there, data[: len(data) // 2]))
        self._fs.put_file(here, there)

    def pipe_file(self, there: str, data: bytes) -> None:
        self._spend(lambda: self._fs.pipe_file(there, data[: len(data) // 2]))
        self._fs.pipe_file(there, data)

    def makedirs(self, path: str, exist_ok: bool) -> None:
        self._spend(lambda: None)
        self._fs.makedirs(path, exist_ok=exist_ok)

    def rm_file(self, path: str) -> None:
        self._spend(lambda: None)
        self._fs.rm_file(path)

    def mv(self, one: str, other: str) -> None:
        self._spend(lambda: None)
        self._fs.mv(one, other)


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), min_size=1, max_size=3), flat=st.booleans(), changed=st.booleans())
def test_p9_wherever_an_agent_crashes_the_archive_has_all_of_it_or_nothing(
    cuts: list[int], flat: bool, changed: bool
) -> None:
    """cuts: after how many writes each try ends. flat: as an object store, where the manifest is put at once."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "archive").mkdir()
        archive = Archive(f"file://{root}/archive", "c1", 1)
        here = write(root / "here", "".join(f"line {number}\n" for number in range(6_000)), segment_bytes=68 * 1024)
        if changed:
            archive.put(KEY, here)
            write(here, "late\n")
        fs = archive._fs
        if flat:
            archive._flat, archive._local = True, False
            archive._root = str(root / "archive").lstrip("/")
            archive._fs = fs = _Rooted(fs)
        for number, writes in enumerate(cuts):
            archive._fs = _Crashing(fs, writes)
            try:
                archive.put(KEY, here)
            except _Crash:
                assert not archive.has(KEY, here)
            archive._fs = fs
            there = fetched(archive, root / f"there{number}")
            if (there is not None and archive.has(KEY, here)) or (there is not None and not changed):
                assert contents(there) == contents(here)
        archive.put(KEY, here)
        assert archive.has(KEY, here)
        whole = fetched(archive, root / "whole")
        assert whole is not None
        assert contents(whole) == contents(here)


class _Rooted:
    """Directories made as they are needed, as in an object store; names without a slash before them."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._fs, name)

        def rooted(*names: Any, **more: Any) -> Any:
            return call(*(f"/{one}" if isinstance(one, str) and one[:1] != "/" else one for one in names), **more)

        return rooted

    def put_file(self, here: str, there: str) -> None:
        Path(f"/{there}").parent.mkdir(parents=True, exist_ok=True)
        self._fs.put_file(here, f"/{there}")

    def pipe_file(self, there: str, data: bytes) -> None:
        Path(f"/{there}").parent.mkdir(parents=True, exist_ok=True)
        self._fs.pipe_file(f"/{there}", data)

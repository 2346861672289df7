"""Blobs: what has a name is whole and durable, what nothing names goes, and never too early (P1, P9, P12)."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from agent.store.blobs import YOUNG_MS, BlobStore, Swept
from agent.store.errors import BlobDamaged, BlobError, BlobMissing, BlobTooLarge


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def age(path: Path, by_ms: int) -> None:
    then = path.stat().st_mtime - by_ms / 1000
    os.utime(path, (then, then))


def name_of(file: int) -> str:
    return str(Path(f"/proc/self/fd/{file}").readlink())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_blob_is_found_under_the_sha256_of_its_bytes(store: BlobStore, tmp_path: Path) -> None:
    digest = store.put(b"select 1")
    assert digest == sha256(b"select 1")
    assert store.has(digest)
    assert store.get(digest) == b"select 1"
    assert store.path(digest) == tmp_path / "blobs" / digest[:2] / digest
    assert BlobStore(tmp_path / "blobs").get(digest) == b"select 1"


def test_storing_the_same_bytes_twice_keeps_one_file(store: BlobStore) -> None:
    digest = store.put(b"x")
    inode = store.path(digest).stat().st_ino
    assert store.put(b"x") == digest
    assert store.path(digest).stat().st_ino == inode


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    assert store.get(store.put(b"")) == b""


def test_many_are_stored_in_order_with_one_sync_of_each_directory(tmp_path: Path) -> None:
    synced: list[str] = []
    store = BlobStore(tmp_path, fsync=lambda file: synced.append(name_of(file)))
    blobs = [bytes([number % 100]) * number for number in range(150)]
    assert store.put_all(blobs) == [sha256(blob) for blob in blobs]
    assert all(store.get(sha256(blob)) == blob for blob in blobs)
    synced.clear()
    blobs = [next(data for n in range(9999) if sha256(data := b"%d %d" % (n, k))[:2] == "ab") for k in range(10)]
    store.put_all(blobs)
    files = [path for path in synced if Path(path).parent.name == "tmp"]
    assert len(files) == 10
    assert synced.count(str(tmp_path / "ab")) == 1
    assert synced.index(str(tmp_path / "ab")) > synced.index(files[-1])


def test_p1_a_blob_that_is_there_already_is_synced_before_it_counts_as_stored(tmp_path: Path) -> None:
    synced: list[str] = []
    store = BlobStore(tmp_path, fsync=lambda file: synced.append(name_of(file)))
    path = store.path(store.put(b"another thread has only just renamed it"))
    synced.clear()
    store.put(b"another thread has only just renamed it")
    assert synced == [str(path), str(path.parent)]


def test_p12_a_blob_that_is_too_large_is_refused(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, max_bytes=10)
    store.put(b"x" * 10)
    with pytest.raises(BlobTooLarge, match="11 bytes: 10 are allowed"):
        store.put(b"x" * 11)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "ab" * 31, "AB" * 32, "ab" * 32 + "\n", "/" * 64])
def test_p8_what_is_no_digest_is_refused_before_a_path_is_made_of_it(store: BlobStore, name: str) -> None:
    for refused in (store.get, store.has, store.path, lambda name: store.pin([name], 0)):
        with pytest.raises(ValueError, match="64 lower-case hexadecimal"):
            refused(name)


def test_a_missing_blob_is_told_from_a_damaged_one(store: BlobStore) -> None:
    with pytest.raises(BlobMissing, match="swept or lost; apply its job again"):
        store.get("0" * 64)
    digest = store.put(b"good bytes")
    store.path(digest).write_bytes(b"bad bytes!")
    with pytest.raises(BlobDamaged, match="are not those its name stands for"):
        store.get(digest)


def test_p9_a_blob_cut_short_is_written_anew_when_it_is_stored_again(store: BlobStore) -> None:
    digest = store.put(b"all of it")
    store.path(digest).write_bytes(b"all o")
    assert store.put(b"all of it") == digest
    assert store.get(digest) == b"all of it"


def test_p9_a_blob_whose_bytes_have_changed_is_written_anew_when_it_is_stored_again(store: BlobStore) -> None:
    digest = store.put(b"good bytes")
    store.path(digest).write_bytes(b"bad bytes!")
    assert store.put(b"good bytes") == digest
    assert store.get(digest) == b"good bytes"


def test_p9_what_is_no_file_is_not_taken_for_a_blob(store: BlobStore, caplog: pytest.LogCaptureFixture) -> None:
    store.path(sha256(b"x")).mkdir(parents=True)
    with pytest.raises(BlobError, match="could not store a blob"):
        store.put(b"x")
    assert [one.message for one in caplog.records] == [
        "a blob cannot be read",
        "a damaged blob is written anew; check the disk",
    ]


def test_p9_after_a_failed_sync_nothing_is_published_and_nothing_more_is_stored(tmp_path: Path) -> None:
    failing = False

    def fsync(file: int) -> None:
        if failing:
            raise OSError(errno.EIO, "Input/output error")

    store = BlobStore(tmp_path, fsync=fsync)
    good = store.put(b"good")
    failing = True
    with pytest.raises(BlobError, match="could not store a blob: Input/output error"):
        store.put(b"lost")
    assert not store.has(sha256(b"lost"))
    assert list((tmp_path / "tmp").iterdir()) == []
    failing = False
    with pytest.raises(BlobError, match="a sync failed"):
        store.put(b"lost")
    assert store.get(good) == b"good"


def test_an_error_that_is_not_of_a_sync_says_so_and_is_not_the_end(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    (tmp_path / "tmp").rmdir()
    with pytest.raises(BlobError, match="could not store a blob"):
        store.put(b"x")
    (tmp_path / "tmp").mkdir()
    assert store.get(store.put(b"x")) == b"x"


def test_a_sweep_takes_what_is_old_and_named_by_nothing(store: BlobStore, tmp_path: Path) -> None:
    named, young, pinned, old = store.put_all([b"named", b"young", b"pinned", b"old"])
    leftover = tmp_path / "blobs" / "tmp" / "unfinished"
    leftover.write_bytes(b"1234567")
    stranger = tmp_path / "blobs" / "README"
    stranger.write_text("not a blob")
    for path in (store.path(named), store.path(pinned), store.path(old), leftover, stranger):
        age(path, YOUNG_MS + 2000)
    store.pin([pinned], now_ms() + 60_000)
    assert store.sweep({named}, now_ms()) == Swept(count=2, bytes=3 + 7)
    assert [store.has(digest) for digest in (named, young, pinned, old)] == [True, True, True, False]
    assert stranger.exists()
    assert store.sweep({named}, now_ms() + 61_000) == Swept(count=1, bytes=6)


def test_a_pin_is_never_shortened(store: BlobStore) -> None:
    digest = store.put(b"x")
    age(store.path(digest), YOUNG_MS + 2000)
    store.pin([digest], now_ms() + 60_000)
    store.pin([digest], 0)
    assert store.sweep([], now_ms()).count == 0


def test_p1_storing_an_old_blob_again_keeps_it_from_the_next_sweep(store: BlobStore) -> None:
    digest = store.put(b"x")
    age(store.path(digest), YOUNG_MS + 2000)
    store.put(b"x")
    assert store.sweep([], now_ms()).count == 0
    assert store.get(digest) == b"x"


def test_p1_stored_and_swept_from_many_threads_a_blob_that_was_stored_is_there(store: BlobStore) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()

    def put(number: int) -> None:
        try:
            for _ in range(40):
                digest = store.put(b"shared %d" % (number % 2))
                age(store.path(digest), 0)
                assert store.get(digest)
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    def sweep() -> None:
        while not stop.is_set():
            store.sweep([], now_ms())

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    sweeper = threading.Thread(target=sweep)
    for thread in (*threads, sweeper):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    sweeper.join()
    assert failures == []

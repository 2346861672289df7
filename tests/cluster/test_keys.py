"""The cluster's key file: private, whole, changed under running agents, and never half taken (P8, P9)."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cluster import keys
from agent.cluster.keys import KEYS_MAX, ClusterKeyError, KeyRing, Keys, create, dump, parse, replace, rotated
from tests.transport.harness import run, trying
from transport.frames import Envelope, Frame, Lane
from transport.zmq import CurveKey, Transport

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))


def file_of(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


rings = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=KEYS_MAX, unique=True).flatmap(
    lambda found: st.builds(Keys, st.just(tuple(found)), st.integers(0, len(found) - 1))
)


@given(rings)
def test_what_is_written_is_read(ring: Keys) -> None:
    assert parse(dump(ring), "file") == ring


def test_comments_blanks_and_capitals_are_no_matter() -> None:
    text = f"# ours\n\n  {A.hex().upper()}  \n# theirs\n{B.hex()}\tnext\n"
    assert parse(text, "file") == Keys((A, B), next=1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1 to 4 keys, not 0"),
        ("# nothing\n", "not 0"),
        (A.hex()[:-1], "file:1: no key"),
        (f"{A.hex()}\n{B.hex()} soon", "file:2: no key"),
        (f"{A.hex()}\n{A.hex()}", "there twice"),
        (f"{A.hex()} next\n{B.hex()}", "file:1: `next`"),
        (f"{A.hex()}\n{B.hex()} next\n{C.hex()} next", "file:3: `next`"),
        ("\n".join(bytes([number] * 32).hex() for number in range(5)), "not 5"),
        ("\0" * 64, "no key"),
    ],
)
def test_what_is_no_ring_is_refused_with_its_line_and_without_a_key(text: str, problem: str) -> None:
    with pytest.raises(ClusterKeyError, match=problem) as caught:
        parse(text, "file")
    assert A.hex()[:-1] not in str(caught.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_ring_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("keys") / "key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ClusterKeyError):
        KeyRing.open(path)


def test_a_key_is_named_by_a_fingerprint_and_never_shown() -> None:
    ring = Keys((A, B), next=1)
    assert len(set(ring.fingerprints)) == 2
    assert all(len(one) == 16 for one in ring.fingerprints)
    assert A.hex() not in repr(ring)
    assert str(A) not in repr(ring)


def test_a_new_file_is_for_its_owner_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create(tmp_path / "key", Keys((A,)))
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ClusterKeyError, match="there already"):
        create(tmp_path / "key", Keys((B,)))
    assert KeyRing.open(tmp_path / "key").keys == (A,)
    with pytest.raises(ClusterKeyError, match="cannot be made"):
        create(tmp_path / "no" / "key", Keys((B,)))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = file_of(tmp_path / "key", A.hex(), mode)
    with pytest.raises(ClusterKeyError, match=f"mode 0{mode:o}.*chmod 600"):
        KeyRing.open(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_belongs_to_another_user_is_refused_and_a_change_leaves_it_to_its_owner(tmp_path: Path) -> None:
    path = file_of(tmp_path / "key", A.hex())
    os.chown(path, 12345, 12345)
    with pytest.raises(ClusterKeyError, match="belongs to user 12345"):
        KeyRing.open(path)
    replace(path, Keys((B,)))
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 12345, 0o600)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterKeyError, match="cluster key new --out"):
        KeyRing.open(tmp_path / "none")
    with pytest.raises(ClusterKeyError, match="is no file"):
        KeyRing.open(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ClusterKeyError, match="is no file"):
        KeyRing.open(tmp_path / "pipe")
    with pytest.raises(ClusterKeyError, match="larger"):
        KeyRing.open(file_of(tmp_path / "large", "#" * 100_000))


def test_a_rotation_has_three_steps_and_one_that_all_have_reached_meets_the_next() -> None:
    """Whoever listens with its first key is reached by all in the same step, the one before and the one after."""
    steps = [Keys((A,))]
    for fresh in (B, C, C):
        steps.append(rotated(steps[-1], fresh))
    assert steps == [Keys((A,)), Keys((A, B), next=1), Keys((B, A)), Keys((B,))]
    for one, other in itertools.pairwise(steps):
        assert one.keys[0] in other.keys
        assert other.keys[0] in one.keys
    assert not set(steps[0].keys) & set(steps[-1].keys)


def test_a_change_through_a_link_changes_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = file_of(tmp_path / "key", A.hex())
    (tmp_path / "link").symlink_to(path)
    replace(tmp_path / "link", Keys((B,)))
    assert (tmp_path / "link").is_symlink()
    assert KeyRing.open(path).keys == (B,)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["key", "link"]


def test_reload_tells_of_a_change_once(tmp_path: Path) -> None:
    path = file_of(tmp_path / "key", dump(Keys((A,))))
    ring = KeyRing.open(path)
    assert not ring.reload()
    replace(path, Keys((A, B), next=1))
    assert ring.reload()
    assert ring.keys == (A, B)
    assert not ring.reload()
    path.write_text(f"# another comment\n{dump(ring.ring)}")
    assert not ring.reload(), "the keys are the same"


@pytest.mark.parametrize("broken", ["", "nonsense", "missing", "open to all"])
def test_a_file_that_went_bad_is_complained_of_once_and_the_ring_stays(tmp_path: Path, broken: str) -> None:
    path = file_of(tmp_path / "key", dump(Keys((A,))))
    ring = KeyRing.open(path)
    if broken == "missing":
        path.unlink()
    elif broken == "open to all":
        path.chmod(0o644)
    else:
        path.write_text(broken)
    with pytest.raises(ClusterKeyError):
        ring.reload()
    assert not ring.reload()
    assert ring.keys == (A,)
    file_of(path, dump(Keys((B,))))
    assert ring.reload()
    assert ring.keys == (B,)


def test_watching_gives_each_new_ring_and_outlives_a_bad_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = file_of(tmp_path / "key", dump(Keys((A,))))

    async def test() -> None:
        used: asyncio.Queue[Sequence[bytes]] = asyncio.Queue()
        hurry = asyncio.Event()
        told = asyncio.Event()

        def tell(_record: logging.LogRecord) -> bool:
            told.set()
            return True

        keys.log.addFilter(tell)
        watching = asyncio.create_task(keys.watch(KeyRing.open(path), used.put_nowait, hurry, every_s=3600))
        path.write_text("torn")
        hurry.set()
        async with asyncio.timeout(20):
            await told.wait()
            replace(path, Keys((B, A)))
            hurry.set()
            assert await used.get() == (B, A)
        keys.log.removeFilter(tell)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert watching.cancelled()
        assert used.empty()

    with caplog.at_level(logging.INFO):
        asyncio.run(test())
    assert "cannot be used" in caplog.text
    assert keys.fingerprint(B) in str([vars(record).get("keys") for record in caplog.records])
    assert B.hex() not in caplog.text


def test_watching_looks_by_itself(tmp_path: Path) -> None:
    path = file_of(tmp_path / "key", dump(Keys((A,))))

    async def test() -> None:
        used: asyncio.Queue[Sequence[bytes]] = asyncio.Queue()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            watching = group.create_task(keys.watch(KeyRing.open(path), used.put_nowait, every_s=0.01))
            replace(path, Keys((B,)))
            assert await used.get() == (B,)
            watching.cancel()

    asyncio.run(test())


def test_two_agents_go_on_talking_while_their_key_files_are_rotated(tmp_path: Path) -> None:
    files = [file_of(tmp_path / name, dump(Keys((A,)))) for name in ("one", "two")]

    async def test() -> None:
        heard: list[Frame] = []
        agents = [
            Transport(Envelope("c", 1, number, 1), curve([A]), heard.extend, bind="127.0.0.1:0") for number in (0, 1)
        ]
        rings = [KeyRing.open(path) for path in files]
        watching = [
            asyncio.create_task(keys.watch(ring, user(agent), every_s=0.01))
            for ring, agent in zip(rings, agents, strict=True)
        ]
        for number, agent in enumerate(agents):
            agent.connect(1 - number, agents[1 - number].address)
        for fresh in (B, C, C):
            after = rotated(rings[0].ring, fresh)
            for path in files:
                replace(path, after)
                await both_ways(agents, heard)
            await trying(lambda after=after: all(ring.ring == after for ring in rings))  # type: ignore[misc]
        await both_ways(agents, heard)
        old, new = (Transport(Envelope("c", 1, 9, 1), curve([key]), heard.extend) for key in (A, B))
        for one in (old, new):
            one.connect(0, agents[0].address)
        await trying(lambda: new.send(0, Lane.CONTROL, b"with the new key"))
        assert not old.send(0, Lane.CONTROL, b"with the old key")
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        for one in (*agents, old, new):
            one.close()

    run(test())


async def both_ways(agents: Sequence[Transport], heard: list[Frame]) -> None:
    """Each agent is heard by the other."""
    for number, agent in enumerate(agents):
        heard.clear()
        await trying(
            lambda agent=agent, number=number: (  # type: ignore[misc]
                agent.send(1 - number, Lane.CONTROL, b"?") and any(frame.sender == number for frame in heard)
            )
        )


def user(agent: Transport) -> Callable[[Sequence[bytes]], None]:
    """What gives an agent its keys."""
    return lambda found: agent.use_keys(curve(found))


def curve(found: Sequence[bytes]) -> list[CurveKey]:
    return [CurveKey.of_cluster(key) for key in found]

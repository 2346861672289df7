"""The cluster's keys: a file that holds the ring of keys by which agents know each other (P8).

One key a line, 64 hexadecimal digits; empty lines and lines that begin with `#` are skipped. The first key is *in use*:
this agent listens with it. With each of the others it tries to reach agents that listen with another. A key that is to
become the first has the word `next` behind it. What `transport.zmq` makes of a ring is told there.

To rotate, `prime cluster key rotate` takes the file through three steps, each of which must have reached every agent
before the next one begins:

    K               all use K
    K, N next       N is added: all can reach who uses it          -> N, K
    N, K            N is in use, agent after agent                 -> N
    N               K opens nothing any more

Agents look at the file every few seconds (`watch`). A file that cannot be used changes nothing: the last ring stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import PrimeError
from agent.files import NotPrivate, create_private, read_private, sync_directory

log = logging.getLogger(__name__)

KEY_BYTES: Final = 32
KEYS_MAX: Final = 4  # each is one more connection that is tried to every agent (P12)
WATCH_S: Final = 2.0
_FILE_BYTES_MAX: Final = 16 * 1024
_LINE: Final = re.compile(r"([0-9a-fA-F]{64})(\s+next)?")
_HEADER: Final = "# Keys of a prime cluster: who has one is a member. Change it with `prime cluster key rotate`."


class ClusterKeyError(PrimeError):
    """The key file is missing, open to others, or holds no ring of keys. The message shows no key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A ring of keys: 32 bytes each, the one in use first. `repr` shows fingerprints only.

    next: the place of the key that is to become the first; 0 where there is none.
    """

    keys: tuple[bytes, ...]
    next: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for no key, too many, a double one or one of another length."""
        if not 0 < len(self.keys) <= KEYS_MAX:
            raise ValueError(f"a key file holds 1 to {KEYS_MAX} keys, not {len(self.keys)}")
        if any(len(key) != KEY_BYTES for key in self.keys):
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("one of the keys is there twice")
        if not 0 <= self.next < len(self.keys):
            raise ValueError("the key that comes next is none of these")

    def __repr__(self) -> str:
        return f"Keys({', '.join(self.fingerprints)}, next={self.next})"

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of each key, 16 hexadecimal digits that name it and do not help to find it."""
        return tuple(fingerprint(key) for key in self.keys)


def fingerprint(key: bytes) -> str:
    """The first 16 hexadecimal digits of a hash of the key."""
    return hashlib.blake2b(key, digest_size=8, person=b"prime key name").hexdigest()


def new_key() -> bytes:
    """A key of random bytes."""
    return os.urandom(KEY_BYTES)


def rotated(keys: Keys, fresh: bytes) -> Keys:
    """The ring after the next step of a rotation. fresh: the key to add, where this is the first step."""
    if keys.next:
        first = keys.keys[keys.next]
        return Keys((first, *(key for key in keys.keys if key != first)))
    if len(keys.keys) > 1:
        return Keys(keys.keys[:1])
    return Keys((*keys.keys, fresh), next=1)


class KeyRing:
    """The ring in a file, as it was when it was last read. `keys` is what the transport is given."""

    def __init__(self, path: Path, keys: Keys, mark: tuple[int, ...]) -> None:
        """See `open`."""
        self.path = path
        self.ring = keys
        self._mark = mark

    @classmethod
    def open(cls, path: Path) -> KeyRing:
        """Read the key file. Raises ClusterKeyError."""
        return cls(path, *_read(path))

    @property
    def keys(self) -> tuple[bytes, ...]:
        """32 bytes each, the one in use first."""
        return self.ring.keys

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """As `Keys.fingerprints`."""
        return self.ring.fingerprints

    def reload(self) -> bool:
        """Look at the file again. Returns whether the ring has changed.

        Raises ClusterKeyError where the file has changed and cannot be used; the ring stays, and the same file is not
        complained of again.
        """
        try:
            mark = _mark(self.path.stat())
        except OSError:
            mark = ()  # reading it says why
        if mark == self._mark:
            return False
        self._mark = mark
        keys, self._mark = _read(self.path)
        before, self.ring = self.ring, keys
        return before.keys != keys.keys


async def watch(
    ring: KeyRing, use: Callable[[Sequence[bytes]], None], hurry: asyncio.Event | None = None, every_s: float = WATCH_S
) -> None:
    """Give `use` the keys of the ring whenever its file has changed. Ends when cancelled.

    hurry: set it to have the file looked at now (SIGHUP). What is wrong with the file is logged, once.
    """
    hurry = hurry or asyncio.Event()
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await hurry.wait()
        hurry.clear()
        try:
            if ring.reload():
                use(ring.keys)
                log.info("the cluster's keys have changed", extra={"keys": ring.fingerprints})
        except ClusterKeyError as error:
            log.warning(
                "the cluster's key file cannot be used; the keys stay as they were", extra={"error": str(error)}
            )


# -- the file ----------------------------------------------------------------------------------------------------------


def parse(text: str, where: str) -> Keys:
    """The ring in a key file's text. where: the file's name, for messages. Raises ClusterKeyError."""
    keys: list[bytes] = []
    following = 0
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ClusterKeyError(
                f"{where}:{number}: no key: 64 hexadecimal digits on a line of its own are expected, as "
                "`prime cluster key new` writes them"
            )
        if found[2] is not None:
            if following or not keys:
                raise ClusterKeyError(f"{where}:{number}: `next` stands behind one key that is not the first")
            following = len(keys)
        keys.append(bytes.fromhex(found[1]))
    try:
        return Keys(tuple(keys), following)
    except ValueError as error:
        raise ClusterKeyError(f"{where}: {error}") from error


def dump(keys: Keys) -> str:
    """A key file's text."""
    lines = [key.hex() + (" next" if at == keys.next > 0 else "") for at, key in enumerate(keys.keys)]
    return "\n".join([_HEADER, *lines, ""])


def create(path: Path, keys: Keys) -> None:
    """Make a key file, mode 0600, durable. Raises ClusterKeyError, also where there is one: it is never overwritten."""
    try:
        create_private(path, dump(keys))
    except FileExistsError as error:
        raise ClusterKeyError(
            f"{path} is there already, and may be a cluster's key; take another name, or remove it yourself"
        ) from error
    except OSError as error:
        raise ClusterKeyError(f"{path} cannot be made: {error.strerror or error}") from error


def replace(path: Path, keys: Keys) -> None:
    """Put other keys into a key file, whole or not at all; its owner stays. Raises ClusterKeyError."""
    path = path.resolve()  # a link to it stays one
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        owner = path.stat()
        create_private(temporary, dump(keys))
        try:
            if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(temporary, owner.st_uid, owner.st_gid)
            temporary.rename(path)
        except OSError:
            temporary.unlink()
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise ClusterKeyError(f"{path} cannot be written: {error.strerror or error}") from error


def _read(path: Path) -> tuple[Keys, tuple[int, ...]]:
    """The ring, and by what is seen that the file has changed."""
    try:
        text, status = read_private(path, _FILE_BYTES_MAX, "the keys", "rotate the key")
    except FileNotFoundError as error:
        raise ClusterKeyError(
            f"{path}: there is no key file; make one with `prime cluster key new --out {path}` on one host, and copy "
            "it to the others"
        ) from error
    except OSError as error:
        raise ClusterKeyError(f"{path}: the key file cannot be read: {error.strerror or error}") from error
    except NotPrivate as error:
        raise ClusterKeyError(str(error)) from error
    return parse(text, str(path)), _mark(status)


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

"""Secrets at rest: AES-256-GCM with keys from a file only this agent's user can read (P8).

The file holds one key a line, 64 hexadecimal digits; empty lines and lines that begin with `#` are skipped. The first
key encrypts, every key decrypts. To rotate: put a new key on top, start the agents again, encrypt the secrets anew,
then remove the old line. A key's id is the first 8 hexadecimal digits of its SHA-256.

    ciphertext = version 1 u8 | key id, 4 bytes | nonce, 12 bytes | AES-256-GCM ciphertext and tag

The first five bytes and the context are authenticated with it: a secret copied to another name does not decrypt.
Nonces are random, which is safe for 2**32 encryptions with one key (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.files import NotPrivate, read_private, sync_directory

KEY_BYTES: Final = 32
VERSION: Final = 1
_KEY_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEADER_BYTES: Final = 1 + _KEY_ID_BYTES
_FILE_BYTES_MAX: Final = 64 * 1024
HEADER: Final = "# Keys of this cluster's secrets. Without them the secrets are lost.\n"
_KEY_LINE = re.compile(r"[0-9a-fA-F]{64}")


class KeyringError(Exception):
    """The key file is missing, readable by others, or no key file."""


class SecretError(Exception):
    """A secret cannot be decrypted. The message holds neither the secret nor its ciphertext."""


class Keyring:
    """The keys of one agent. `repr` shows their ids, never the keys."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """keys: 32 bytes each, the current one first. Raises KeyringError for none, a double one, or another length."""
        if not keys:
            raise KeyringError("a keyring needs a key")
        if any(len(key) != KEY_BYTES for key in keys):
            raise KeyringError(f"a key must have {KEY_BYTES} bytes")
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        if len(self._ciphers) != len(keys):
            raise KeyringError("two keys have the same id: is one of them there twice? Remove one")
        self._current = _key_id(keys[0])

    @classmethod
    def open(cls, path: Path, create: bool) -> Keyring:  # noqa: FBT001  `create` is the one question there is
        """Read the key file; with `create`, make it with one new key if there is none.

        Raises KeyringError for a file that is missing, that its group or others may read, or that holds no keys.
        """
        try:
            text = key_file_text(path)
        except FileNotFoundError as error:
            if not create:
                raise KeyringError(
                    f"{path}: there is no key file. Put it back from where a copy is kept; without it the secrets "
                    "stored here cannot be read"
                ) from error
            create_key_file(path, HEADER + _new_key())
            text = key_file_text(path)
        except OSError as error:
            raise KeyringError(f"{path}: the key file cannot be read: {error.strerror or error}") from error
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if not _KEY_LINE.fullmatch(line):
                raise KeyringError(f"{path}:{number}: not a key: a key is 64 hexadecimal digits on a line of its own")
            keys.append(bytes.fromhex(line))
        try:
            return cls(keys)
        except KeyringError as error:
            raise KeyringError(f"{path}: {error}") from error

    def __repr__(self) -> str:
        return f"Keyring(current={self.current_id!r}, ids={self.ids!r})"

    @property
    def current_id(self) -> str:
        """Id of the key that encrypts: 8 hexadecimal digits."""
        return self._current.hex()

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all keys, the current one first."""
        return tuple(key_id.hex() for key_id in self._ciphers)

    def encrypt(self, plaintext: str | bytes, *, context: str) -> bytes:
        """Encrypt with the current key. context: "project/namespace/name"; the same is needed to decrypt."""
        data = plaintext.encode() if isinstance(plaintext, str) else plaintext
        header = bytes([VERSION]) + self._current
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + self._ciphers[self._current].encrypt(nonce, data, header + context.encode())

    def decrypt(self, ciphertext: bytes, *, context: str) -> bytes:
        """The bytes given to `encrypt` (a text's in UTF-8). Raises SecretError."""
        if len(ciphertext) < _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES or ciphertext[0] != VERSION:
            raise SecretError(f"secret {context}: not encrypted by this program, or by a later version. Store it again")
        header, sealed = ciphertext[:_HEADER_BYTES], ciphertext[_HEADER_BYTES:]
        key_id = header[1:]
        if (cipher := self._ciphers.get(key_id)) is None:
            raise SecretError(
                f"secret {context}: encrypted with key {key_id.hex()}, but this agent has {', '.join(self.ids)}. "
                "Add that key to its key file, or store the secret again"
            )
        try:
            return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], header + context.encode())
        except InvalidTag:
            raise SecretError(
                f"secret {context}: does not decrypt with key {key_id.hex()}: it was changed, or stored under another "
                "name. Store it again"
            ) from None

    def decrypt_text(self, ciphertext: bytes, *, context: str) -> str:
        """The same as text. Raises SecretError also for bytes that are no UTF-8."""
        try:
            return self.decrypt(ciphertext, context=context).decode()
        except UnicodeDecodeError:
            raise SecretError(f"secret {context}: is no text in UTF-8. Store it again as text") from None


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_KEY_ID_BYTES]


def key_file_text(path: Path) -> str:
    """The whole key file, for an agent that joins and holds the cluster's own key. Raises KeyringError, OSError."""
    try:
        return read_private(path, _FILE_BYTES_MAX, "the keys", "put a new key in")[0]
    except NotPrivate as error:
        raise KeyringError(str(error)) from error


def derived_key(cluster_key: bytes, cluster: str) -> str:
    """The first key of a new cluster's secrets, the same on all its founders: HKDF-SHA256 (RFC 5869) of its own key."""
    return HKDF(SHA256(), KEY_BYTES, salt=cluster.encode(), info=b"prime secrets").derive(cluster_key).hex()


def create_key_file(path: Path, text: str) -> None:
    """Make the file whole and durable or not at all. Whoever comes second uses the first one's. Raises KeyringError."""
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, f"{text.rstrip()}\n".encode())
            os.fsync(file)
            path.hardlink_to(temporary)
        except FileExistsError:
            pass  # another process was first, and its key may be in use already
        finally:
            os.close(file)
            temporary.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise KeyringError(f"{path}: the key file cannot be made: {error.strerror or error}") from error


def _new_key() -> str:
    return os.urandom(KEY_BYTES).hex()

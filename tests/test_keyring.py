"""Secrets at rest: only the right key, name and file mode give them back (P8)."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.keyring import Keyring, KeyringError, SecretError

CONTEXT = "sales/nightly/warehouse_password"
KEY, OTHER_KEY = bytes(range(32)), bytes(range(32, 64))


def key_file(path: Path, *lines: str, mode: int = 0o600) -> Path:
    path.write_text("\n".join(lines))
    path.chmod(mode)
    return path


@given(st.one_of(st.text(), st.binary()), st.text(min_size=1))
def test_what_was_encrypted_comes_back(plaintext: str | bytes, context: str) -> None:
    keyring = Keyring([KEY])
    data = keyring.decrypt(keyring.encrypt(plaintext, context=context), context=context)
    assert data == (plaintext.encode() if isinstance(plaintext, str) else plaintext)


def test_the_same_secret_is_never_encrypted_to_the_same_bytes() -> None:
    keyring = Keyring([KEY])
    assert len({keyring.encrypt("hunter2", context=CONTEXT) for _ in range(100)}) == 100


def test_the_format_is_version_key_id_nonce_ciphertext_tag() -> None:
    sealed = Keyring([KEY]).encrypt("hunter2", context=CONTEXT)
    assert sealed[0] == 1
    assert sealed[1:5] == hashlib.sha256(KEY).digest()[:4]
    assert len(sealed) == 1 + 4 + 12 + 7 + 16


def test_a_secret_under_another_name_does_not_decrypt() -> None:
    keyring = Keyring([KEY])
    sealed = keyring.encrypt("hunter2", context=CONTEXT)
    with pytest.raises(SecretError, match="stored under another name"):
        keyring.decrypt(sealed, context="sales/nightly/other")


def test_p9_no_changed_byte_decrypts_and_no_error_tells_the_secret() -> None:
    keyring = Keyring([KEY])
    sealed = keyring.encrypt("hunter2", context=CONTEXT)
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(SecretError, match=f"^secret {CONTEXT}: ") as caught:
            keyring.decrypt(changed, context=CONTEXT)
        assert "hunter2" not in str(caught.value)
        assert sealed[5:].hex() not in str(caught.value)
    for length in range(len(sealed)):
        with pytest.raises(SecretError):
            keyring.decrypt(sealed[:length], context=CONTEXT)


def test_after_a_rotation_the_old_key_still_decrypts_and_the_new_one_encrypts() -> None:
    old = Keyring([KEY])
    both = Keyring([OTHER_KEY, KEY])
    new = Keyring([OTHER_KEY])
    sealed = old.encrypt("hunter2", context=CONTEXT)
    assert both.decrypt_text(sealed, context=CONTEXT) == "hunter2"
    assert new.decrypt_text(both.encrypt("hunter2", context=CONTEXT), context=CONTEXT) == "hunter2"
    with pytest.raises(SecretError, match=f"encrypted with key {old.current_id}, but this agent has {new.current_id}"):
        new.decrypt(sealed, context=CONTEXT)


def test_a_secret_that_is_no_text_is_told_from_one_that_is() -> None:
    keyring = Keyring([KEY])
    sealed = keyring.encrypt(b"\xff\xfe", context=CONTEXT)
    with pytest.raises(SecretError, match="no text in UTF-8") as caught:
        keyring.decrypt_text(sealed, context=CONTEXT)
    assert caught.value.__cause__ is None
    assert keyring.decrypt(sealed, context=CONTEXT) == b"\xff\xfe"


def test_repr_shows_ids_and_no_keys() -> None:
    keyring = Keyring([KEY, OTHER_KEY])
    assert repr(keyring) == f"Keyring(current={keyring.ids[0]!r}, ids={keyring.ids!r})"
    for key in (KEY, OTHER_KEY):
        assert key.hex() not in repr(keyring)


def test_a_new_key_file_is_private_and_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys"
    made = Keyring.open(path, create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["keys"]
    sealed = made.encrypt("hunter2", context=CONTEXT)
    for create in (True, False):
        assert Keyring.open(path, create=create).decrypt_text(sealed, context=CONTEXT) == "hunter2"


def test_agents_that_make_the_file_at_once_agree_on_one_key(tmp_path: Path) -> None:
    rings: list[Keyring] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        rings.append(Keyring.open(tmp_path / "keys", create=True))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rings) == 8
    assert len({ring.ids for ring in rings}) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o602])
def test_p8_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path / "keys", KEY.hex(), mode=mode)
    with pytest.raises(KeyringError, match=f"has mode {mode:04o}, .*chmod 600 {path}") as caught:
        Keyring.open(path, create=True)
    assert KEY.hex() not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_p8_another_users_file_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path / "keys", KEY.hex())
    os.chown(path, 12345, -1)
    with pytest.raises(KeyringError, match="belongs to user 12345"):
        Keyring.open(path, create=False)


def test_comments_and_empty_lines_are_skipped_and_the_first_key_is_the_current_one(tmp_path: Path) -> None:
    path = key_file(tmp_path / "keys", "# rotated in May", OTHER_KEY.hex().upper(), "", KEY.hex(), "")
    assert Keyring.open(path, create=False).ids == (Keyring([OTHER_KEY]).current_id, Keyring([KEY]).current_id)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "a keyring needs a key"),
        ([KEY.hex(), KEY.hex()], "there twice"),
        ([KEY.hex(), KEY.hex()[:-1]], ":2: not a key"),
        (["swordfish"], ":1: not a key"),
        (["x" * 70_000], "larger than"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_without_showing_it(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    path = key_file(tmp_path / "keys", *lines)
    with pytest.raises(KeyringError, match=message) as caught:
        Keyring.open(path, create=False)
    assert str(path) in str(caught.value)
    assert not any(line in str(caught.value) for line in lines)


def test_a_missing_file_or_a_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="Put it back"):
        Keyring.open(tmp_path / "keys", create=False)
    with pytest.raises(KeyringError, match="is no file"):
        Keyring.open(tmp_path, create=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyringError, match="cannot be"):
        Keyring.open(tmp_path / "file" / "keys", create=True)

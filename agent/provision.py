"""From a run in the table to what one attempt finds: compiled texts, secrets, its directory.

Everything is compiled twice: once with the secrets, for the attempt's own directory, and once with `***` in their
place, for the copy that is kept and shown. So no stored copy has ever held a secret.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from agent.keyring import Keyring
from agent.runtable.model import Run, Secret
from agent.runtable.table import Table
from agent.spec import bundle as bundles
from agent.spec.bundle import Bundle
from agent.spec.compile import MASK, Compiled, Masked, compile_instance, rfc3339
from agent.store.blobs import BlobStore


class OpenedSecrets(Mapping[str, str]):
    """The secrets that a run may use, each decrypted when it is read. Namespace values override the project's."""

    def __init__(self, keyring: Keyring, sealed: Mapping[str, tuple[str, bytes]]) -> None:
        """sealed: {name: (context, ciphertext)}, as `sealed_secrets` gives them."""
        self._keyring = keyring
        self._sealed = sealed

    def __getitem__(self, name: str) -> str:
        context, ciphertext = self._sealed[name]
        return self._keyring.decrypt(ciphertext, context=context).decode()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sealed)

    def __len__(self) -> int:
        return len(self._sealed)


def sealed_secrets(table: Table, project: str, namespace: str) -> dict[str, tuple[str, bytes]]:
    """The encrypted secrets that a job of this namespace may use: {name: (context, ciphertext)}."""
    found: dict[str, tuple[str, bytes]] = {}
    for scope in ("", namespace):
        prefix = f"{project}/{scope}/"
        for key, secret in _with_prefix(table.rows.secrets, prefix):
            found[key.removeprefix(prefix)] = (key, secret.ciphertext)
    return found


def _with_prefix(secrets: dict[str, Secret], prefix: str) -> Iterator[tuple[str, Secret]]:
    return ((key, secret) for key, secret in secrets.items() if key.startswith(prefix))


class Provisioner:
    """Compiles instances from blobs. Its methods block on the disk: call them in a thread."""

    def __init__(self, blobs: BlobStore, keyring: Keyring) -> None:
        self.blobs = blobs
        self._keyring = keyring
        self._bundle = lru_cache(maxsize=128)(self._read_bundle)

    def _read_bundle(self, digest: str) -> Bundle:
        return bundles.decode(self.blobs.get(digest))

    def bundle(self, digest: str) -> Bundle:
        """The bundle of that hash. Raises BlobMissing, BlobDamaged."""
        return self._bundle(digest)

    def compile(
        self, run: Run, name: str, sealed: Mapping[str, tuple[str, bytes]], *, masked: bool = False
    ) -> Compiled:
        """Compile one instance of a run, with the secrets or with `***` for each.

        Raises SpecError, SecretError, BlobError.
        """
        bundle = self.bundle(run.bundle)
        secrets = Masked(frozenset(sealed)) if masked else OpenedSecrets(self._keyring, sealed)
        return compile_instance(
            bundle,
            name,
            scheduled_at=datetime.fromtimestamp(run.scheduled_at_ms / 1000, UTC),
            started_at=datetime.fromtimestamp(run.created_at_ms / 1000, UTC),
            secrets=secrets,
            assets={path: self.blobs.get(digest) for path, digest in bundle.assets.items()},
        )

    def keep(self, compiled: Compiled) -> str:
        """Store what was compiled with masked secrets; returns the hash of its manifest."""
        digests = self.blobs.put_all([compiled.files[path] for path in compiled.files])
        manifest = {
            "instance": compiled.instance,
            "window": {"start": rfc3339(compiled.window.start), "end": rfc3339(compiled.window.end)},
            "envs": compiled.environment,
            "secrets": dict.fromkeys(compiled.secrets, MASK),
            "assets": dict(zip(compiled.files, digests, strict=True)),
        }
        return self.blobs.put(msgspec.json.encode(manifest, order="deterministic"))

    def kept(self, digest: str) -> dict[str, Any]:
        """What `keep` stored, the assets as text (None where an asset is no text)."""
        manifest: dict[str, Any] = msgspec.json.decode(self.blobs.get(digest))
        manifest["assets"] = {path: _text(self.blobs.get(one)) for path, one in manifest["assets"].items()}
        return manifest


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


class Workspace:
    """An attempt's own directory: `in/` is what it finds, `out/` is its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fill(self, compiled: Compiled) -> None:
        """Write `in/`: the files, `.env` and `.secret` as Optimus' images expect them. Secrets are mode 0600."""
        into = self.directory / "in"
        into.mkdir(parents=True, exist_ok=True)
        out = self.directory / "out"
        out.mkdir(exist_ok=True)
        out.chmod(0o777)  # an image may run as any user
        for path, data in compiled.files.items():
            target = into / safe_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        (into / ".env").write_text(shell_lines(compiled.environment))
        descriptor = os.open(into / ".secret", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(shell_lines(compiled.secrets))

    def scrub(self) -> None:
        """Remove what may hold secrets, now that the work has ended."""
        shutil.rmtree(self.directory / "in", ignore_errors=True)

    def remove(self, root: Path) -> None:
        """Remove the directory, and those of its run that are empty then, below `root`."""
        shutil.rmtree(self.directory, ignore_errors=True)
        for parent in self.directory.parents:
            if parent == root or not parent.is_relative_to(root):
                return
            try:
                parent.rmdir()
            except OSError:  # another attempt of the run is still there
                return


def safe_path(path: str) -> PurePosixPath:
    """An asset's path, which must stay below the directory it is written to. Raises ValueError otherwise."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in path:
        raise ValueError(f"the asset path {path!r} leaves its folder; use a relative path without '..'")
    return pure


def shell_lines(values: Mapping[str, str]) -> str:
    """`KEY='VALUE'` lines that a POSIX shell reads back as they were."""
    return "".join(f"{key}='{quote(value)}'\n" for key, value in values.items())


def quote(value: str) -> str:
    """The text between single quotes of a shell."""
    return value.replace("'", "'\\''")

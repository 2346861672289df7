"""From a run in the table to what one attempt finds: compiled texts, secrets, its directory.

Everything is compiled twice: once with the secrets, for the attempt's own directory, and once with `***` in their
place, for the copy that is kept and shown. So no stored copy has ever held a secret.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from agent import outputs
from agent.keyring import Keyring
from agent.outputs import PutOut
from agent.runtable.model import Run, Secret
from agent.runtable.table import Table
from agent.spec import bundle as bundles
from agent.spec.bundle import Bundle
from agent.spec.compile import Compiled, compile_instance, rfc3339
from agent.spec.errors import Problem, SpecError
from agent.spec.limits import leaves_folder
from agent.spec.lookups import MASK, Masked
from agent.spec.poke import HttpRequest, http_request
from agent.store.blobs import BlobStore, name_of

log = logging.getLogger(__name__)


class OpenedSecrets(Mapping[str, str]):
    """The secrets that a run may use, each decrypted when it is read. Namespace values override the project's.

    read: the values of those that were.
    """

    def __init__(self, keyring: Keyring, sealed: Mapping[str, tuple[str, bytes]]) -> None:
        """sealed: {name: (context, ciphertext)}, as `sealed_secrets` gives them."""
        self._keyring = keyring
        self._sealed = sealed
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        context, ciphertext = self._sealed[name]
        value = self._keyring.decrypt(ciphertext, context=context).decode()
        self.read.add(value)
        return value

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
        self,
        run: Run,
        name: str,
        sealed: Mapping[str, tuple[str, bytes]],
        *,
        masked: bool = False,
        put_out: Mapping[str, PutOut] | None = None,
    ) -> Compiled:
        """Compile one instance of a run, with the secrets or with `***` for each.

        put_out: what others have put out (`outputs.put_out`); None = read it from `run` now.
        Raises SpecError, whose problems quote no secret; SecretError, BlobError.
        """
        hidden = Masked(frozenset(sealed))
        known = outputs.put_out(run) if put_out is None else put_out
        if masked:
            return self._compile(run, name, hidden, known)
        try:
            return self._compile(run, name, OpenedSecrets(self._keyring, sealed), known)
        except SpecError as error:
            problems = error.problems
        self._compile(run, name, hidden, known)  # what is wrong without the secrets as well may be told in full
        raise SpecError([_without_values(problem) for problem in problems])

    def told_to(
        self, run: Run, name: str, sealed: Mapping[str, tuple[str, bytes]], put_out: Mapping[str, PutOut]
    ) -> set[str]:
        """All that is secret in what an instance was given: the secrets its texts read, and what is made of them.

        Where it cannot be compiled with these secrets, they are all taken for read. Raises SecretError, BlobError.
        """
        opened = OpenedSecrets(self._keyring, sealed)
        try:
            compiled = self._compile(run, name, opened, put_out)
        except SpecError:
            return set(opened.values())
        return opened.read | set(compiled.secrets.values())

    def _compile(self, run: Run, name: str, secrets: Mapping[str, str], put_out: Mapping[str, PutOut]) -> Compiled:
        bundle = self.bundle(run.bundle)
        return compile_instance(
            bundle,
            name,
            scheduled_at=datetime.fromtimestamp(run.scheduled_at_ms / 1000, UTC),
            started_at=datetime.fromtimestamp(run.created_at_ms / 1000, UTC),
            secrets=secrets,
            assets={path: self.blobs.get(digest) for path, digest in bundle.assets.items()},
            outputs=outputs.RunOutputs(put_out, self.blobs),
        )

    def request(self, run: Run, name: str, sealed: Mapping[str, tuple[str, bytes]]) -> HttpRequest:
        """The request of an http dependency of a run. Raises as `compile`."""
        try:
            return self._request(run, name, OpenedSecrets(self._keyring, sealed))
        except SpecError as error:
            problems = error.problems
        self._request(run, name, Masked(frozenset(sealed)))
        raise SpecError([_without_values(problem) for problem in problems])

    def _request(self, run: Run, name: str, secrets: Mapping[str, str]) -> HttpRequest:
        return http_request(
            self.bundle(run.bundle),
            name,
            scheduled_at=datetime.fromtimestamp(run.scheduled_at_ms / 1000, UTC),
            started_at=datetime.fromtimestamp(run.created_at_ms / 1000, UTC),
            secrets=secrets,
        )

    def keep(self, compiled: Compiled) -> tuple[str, ...]:
        """Store what was compiled with masked secrets; returns the hashes of all that is kept, its manifest's last."""
        manifest = {
            "instance": compiled.instance,
            "window": {"start": rfc3339(compiled.window.start), "end": rfc3339(compiled.window.end)},
            "envs": compiled.environment,
            "secrets": dict.fromkeys(compiled.secrets, MASK),
            **({"params": compiled.params} if compiled.params else {}),
            **({"left_out": compiled.left_out} if compiled.left_out else {}),
            "assets": {path: name_of(data) for path, data in compiled.files.items()},
        }
        data = msgspec.json.encode(manifest, order="deterministic")
        return tuple(self.blobs.put_all([*compiled.files.values(), data]))

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


def _without_values(problem: Problem) -> Problem:
    """A problem that only the secrets' values lead to: its message may be made of one; its key is the author's."""
    message = (
        "cannot be compiled with the secrets as they are: a function refuses one, or the value is too long or has a "
        "NUL character. More is not said here, as it could quote a secret"
    )
    return replace(problem, message=message)


class Workspace:
    """An attempt's own directory: `in/` is what it finds, `out/` is its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fill(self, compiled: Compiled) -> None:
        """Write `in/`: the files, `.env` and `.secret` as Optimus' images expect them.

        Assets may hold secrets and an image may run as any user, so they can be read by whoever comes this far: the
        folder of all attempts is open to the agent's user alone. `.secret` is mode 0600.
        """
        into = self.directory / "in"
        into.mkdir(parents=True, exist_ok=True)
        out = self.directory / "out"
        out.mkdir(exist_ok=True)
        out.chmod(0o777)  # an image may run as any user
        for path, data in compiled.files.items():
            target = into / safe_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        _write_new(into / ".env", shell_lines(compiled.environment), 0o644)
        _write_new(into / ".secret", shell_lines(compiled.secrets), 0o600)

    def scrub(self) -> None:
        """Remove what may hold secrets, now that the work has ended."""
        if not self.directory.is_symlink():
            _remove(self.directory / "in")

    def remove(self, root: Path) -> None:
        """Remove the directory, and those of its run that are empty then, below `root`.

        The work may have put something else in its place, or in place of a folder above it: a link, a file. That is
        removed, and what a link leads to is left alone.
        """
        above = [one for one in self.directory.parents if one != root and one.is_relative_to(root)]
        gone = next((one for one in reversed(above) if _stands_in(one)), self.directory)
        _remove(gone)
        for parent in gone.parents:
            if parent not in above:
                return
            try:
                parent.rmdir()
            except OSError:  # another attempt of the run is still there
                return


def _stands_in(path: Path) -> bool:
    """Whether something lies there that is no folder; a link to one is none."""
    return path.is_symlink() or (path.exists() and not path.is_dir())


def _remove(path: Path) -> None:
    """Remove whatever lies there, as far as that is possible. No link is followed."""
    if not _stands_in(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink()
    except OSError as error:
        log.warning("what an attempt has left cannot be removed", extra={"path": str(path), "error": str(error)})


def safe_path(path: str) -> PurePosixPath:
    """An asset's path, which must stay below the directory it is written to. Raises ValueError otherwise."""
    if leaves_folder(path):
        raise ValueError(f"the asset path {path!r} leaves its folder; use a relative path without '..'")
    return PurePosixPath(path)


def _write_new(path: Path, text: str, mode: int) -> None:
    """Write a file of its own, in place of whatever was there: a file that is found keeps its mode."""
    path.unlink(missing_ok=True)
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "w", encoding="utf-8"
    ) as file:
        file.write(text)


def shell_lines(values: Mapping[str, str]) -> str:
    """`KEY='VALUE'` lines that a POSIX shell reads back as they were."""
    return "".join(f"{key}='{quote(value)}'\n" for key, value in values.items())


def quote(value: str) -> str:
    """The text between single quotes of a shell."""
    return value.replace("'", "'\\''")

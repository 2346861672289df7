"""Outputs of tasks between an attempt's directory and the texts that read them.

An attempt may have left anything in its `out/`: nothing but a regular file is opened there, and no link is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from agent.runtable.model import Instance, InstanceState, Run
from agent.spec.document import shorten
from agent.spec.lookups import TaskOutputs
from agent.spec.outputs import (
    OUTPUTS_BYTES_MAX,
    OutputsRefused,
    decode_outputs,
    encode_outputs,
    parse_outputs,
    parse_return,
    telling,
)
from agent.store.blobs import BlobStore

FILES: Final = {"return.json": parse_return, "outputs.json": parse_outputs}  # in `out/`; what a later one says counts
NAMES_TOLD_MAX: Final = 10
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Taken:
    """What an attempt has put out. data: the blob of it, None = nothing.  note: what of it was not taken, and why."""

    data: bytes | None = None
    note: str = ""


def take(root: Path, directory: Path, secrets: Callable[[], Collection[str]]) -> Taken:
    """Read what an attempt has put out.

    root: of all attempts' directories; directory: the attempt's own, below it. secrets: what may not be told, asked
    for only where there is something that could. Blocks; raises nothing but what `secrets` raises.

    What cannot be taken fails nobody: the work is done, and maybe nobody reads it. Who does is told.
    """
    values: dict[str, object] = {}
    notes: list[str] = []
    for name, parse in FILES.items():
        try:
            data = _read(root, directory, name)
            values |= parse(data) if data is not None else {}
        except OutputsRefused as refused:
            notes.append(f"out/{name} {refused}: no outputs were taken from it")
        except OSError as error:
            notes.append(f"out/{name} cannot be read ({error.strerror}): no outputs were taken from it")
    sought = secrets() if values else ()
    hidden = telling(values, sought)
    if hidden:
        notes.append(_not_told(hidden, telling(dict.fromkeys(hidden), sought)))
    kept = {name: value for name, value in values.items() if name not in hidden}
    try:
        encoded = encode_outputs(kept) if kept else None
    except OutputsRefused as refused:
        return Taken(None, "; ".join([*notes, f"out/ {refused}: none were taken"]))
    return Taken(encoded, "; ".join(notes))


def _not_told(hidden: frozenset[str], unspeakable: frozenset[str]) -> str:
    """What is said of outputs that were left out. unspeakable: those whose name holds a secret itself."""
    names = [shorten(name) for name in sorted(hidden - unspeakable)]
    if len(names) > NAMES_TOLD_MAX:
        names = [*names[:NAMES_TOLD_MAX], f"... ({len(names)} in all)"]
    names += [f"{len(unspeakable)} whose name holds it"] if unspeakable else []
    return f"outputs that hold a secret's value were left out: {', '.join(names)}"


def _read(root: Path, directory: Path, name: str) -> bytes | None:
    """A file in an attempt's `out/`; None where there is none. Raises OutputsRefused, OSError.

    It is looked at before it is opened, as itself: opening a device or a pipe may do something, or wait.
    """
    try:
        folder = _open_folder(root, directory)
    except FileNotFoundError:
        return None
    except NotADirectoryError:  # a link as well
        raise OutputsRefused("is not looked at: the attempt has put something else in its folder's place") from None
    try:
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OutputsRefused("is no regular file; links are not followed")
        with open(f"/proc/self/fd/{found}", "rb") as file:  # noqa: PTH123 - a descriptor's own name, no path
            return file.read(OUTPUTS_BYTES_MAX + 1)
    finally:
        os.close(found)


def _open_folder(root: Path, directory: Path) -> int:
    """Open an attempt's `out/`, no step of the way being a link. Raises OSError."""
    folder = os.open(root, _FOLDER)
    for part in (*directory.relative_to(root).parts, "out"):
        try:
            inner = os.open(part, _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


@dataclass(frozen=True, slots=True)
class PutOut:
    """What the table says of an instance's outputs. digest: of their blob; note: why there is nothing, or not all."""

    digest: str | None
    note: str


def put_out(run: Run) -> dict[str, PutOut]:
    """What the instances of a run have put out, by name. To be read where the table is."""
    return {one.plan.name: PutOut(one.outputs, _note(one)) for one in run.instances}


def _note(instance: Instance) -> str:
    if instance.state is not InstanceState.SUCCESS:
        return f"it is {instance.state}"
    last = instance.last
    told = last.message if last is not None and len(instance.attempts) > instance.clears else ""
    return told or ("" if instance.outputs is not None else "it has put out nothing")


class RunOutputs(Mapping[str, TaskOutputs]):
    """The outputs of a run's instances, each read from its blob when it is asked for. Raises BlobError then."""

    def __init__(self, known: Mapping[str, PutOut], blobs: BlobStore) -> None:
        self._known = known
        self._read = lru_cache(maxsize=None)(lambda digest: decode_outputs(blobs.get(digest)))

    def __getitem__(self, name: str) -> TaskOutputs:
        found = self._known[name]
        return TaskOutputs(self._read(found.digest) if found.digest is not None else {}, found.note)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

"""What an attempt can be given at all: Linux bounds the strings of an environment, and paths.

Sources: execve(2), "Limits on size of arguments and environment"; path_resolution(7) and limits.h.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from agent.spec.document import shorten

STRING_BYTES_MAX: Final = 32 * 4096 - 1
"""Of one argument, or of one `NAME=VALUE`: MAX_ARG_STRLEN counts the NUL behind it as well."""
ENVIRONMENT_BYTES_MAX: Final = 1536 * 1024
"""Of all `NAME=VALUE` together: arguments and environment share 2 MiB, a quarter of the usual stack."""
ASSET_BYTES_MAX: Final = 16 * 1024 * 1024
JOB_ASSETS_BYTES_MAX: Final = 64 * 1024 * 1024
PATH_BYTES_MAX: Final = 1024
"""Of an asset's path: 4096 is the limit of a whole one, the folders of an attempt above it included."""
NAME_BYTES_MAX: Final = 255
RESERVED: Final = (".env", ".secret")
"""What an attempt finds beside its assets, under these very names."""
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def argument_problem(text: str, name: str = "") -> str | None:
    """Why a text can be no argument of a program (no variable `name` of its environment); None where it can."""
    if "\0" in text:
        return "a NUL character cannot be handed to a program; leave it out"
    size = len(f"{name}={text}".encode(errors="replace")) if name else len(text.encode(errors="replace"))
    if size > STRING_BYTES_MAX:
        return f"{size} bytes are too many: a program takes at most {STRING_BYTES_MAX} at a time; use an asset"
    return None


def leaves_folder(path: str) -> bool:
    """Whether a path does not stay below the folder that it is relative to, or names nothing in it."""
    parts = _parts(path)
    return path.startswith("/") or ".." in parts or not parts or "\0" in path


def asset_problems(paths: Collection[str]) -> Iterator[str]:
    """Why these assets cannot lie beside each other in an attempt's folder, one sentence for each problem."""
    files: dict[tuple[str, ...], str] = {}
    for path in sorted(paths):
        message = _path_problem(path)
        if message is not None:
            yield f"the asset {shorten(path)} {message}"
            continue
        parts = _parts(path)
        if parts in files:
            yield f"the assets {shorten(files[parts])} and {shorten(path)} are the same file; keep one"
        files[parts] = path
    for parts, path in files.items():
        for length in range(1, len(parts)):
            if (above := files.get(parts[:length])) is not None:
                yield f"the asset {shorten(path)} needs a folder where {shorten(above)} is a file; rename one"


def _path_problem(path: str) -> str | None:
    parts = _parts(path)
    if leaves_folder(path):
        return "leaves its folder; use a relative path without '..'"
    if _UNPRINTABLE.search(path):
        return "has a character in its name that is none of a text, such as a line end; rename it"
    if parts[0] in RESERVED:
        return f"has the name of a file that every attempt finds ({', '.join(RESERVED)}); rename it"
    if len(path.encode()) > PATH_BYTES_MAX:
        return f"has a path of {len(path.encode())} bytes; at most {PATH_BYTES_MAX} are taken"
    longest = max(len(part.encode()) for part in parts)
    if longest > NAME_BYTES_MAX:
        return f"has a name of {longest} bytes; at most {NAME_BYTES_MAX} are taken between two slashes"
    return None


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def size_problems(sizes: Mapping[str, int]) -> Iterator[str]:
    """What is said of assets, {path: bytes}, that are too large to be applied."""
    for path, size in sizes.items():
        if size > ASSET_BYTES_MAX:
            yield f"the asset {path} has {size} bytes; {ASSET_BYTES_MAX >> 20} MiB at most"
    total = sum(sizes.values())
    if total > JOB_ASSETS_BYTES_MAX:
        yield f"its assets have {total} bytes; {JOB_ASSETS_BYTES_MAX >> 20} MiB a job at most"

"""A file that holds one bearer token: what an agent or a command is given instead of the token itself (P8)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from agent.errors import ConfigError
from agent.files import NotPrivate, create_private, read_private

TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{32,256}")  # what a header carries (RFC 6750, 2.1), and nobody guesses
_BYTES_MAX: Final = 4096


def read(path: Path, flag: str) -> str:
    """The token in a file, which nobody but its owner may read. flag: whose setting it is. Raises ConfigError."""
    try:
        text, _status = read_private(path, _BYTES_MAX, "the token", "make another token")
    except OSError as error:
        raise ConfigError(f"{flag}: {path} cannot be read: {error.strerror or error}") from error
    except NotPrivate as error:
        raise ConfigError(f"{flag}: {error}") from error
    return check(text.strip(), f"{flag}: {path}")


def check(text: str, where: str) -> str:
    """The text, if it is a token. where: for the message, which does not show it. Raises ConfigError."""
    if not TOKEN.fullmatch(text):
        raise ConfigError(
            f"{where} holds no token: one line of 32 to 256 letters, digits or '._~+/=-' is expected, as "
            "`prime token new` and `prime token bootstrap` write it"
        )
    return text


def create(path: Path, token: str) -> None:
    """Make the file, mode 0600. Raises ConfigError, also where there is one: it is never overwritten."""
    try:
        create_private(path, f"{token}\n")
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already; take another name, or remove it yourself") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error

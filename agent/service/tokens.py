"""Bearer tokens: who may ask, and what for (P8). The table keeps a hash of each, and the token itself nobody.

A token is 256 random bits, so a plain SHA-256 of it can neither be turned round nor tried out: what slow hashes are
for, passwords that people think of, does not come here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

from agent.errors import Refusal
from agent.runtable import commands as c
from agent.runtable.model import Role, Token
from agent.service.common import Accepted, Caller, Context, unknown

PREFIX: Final = "prime_"  # so that scanners for secrets, and people, know one
RANDOM_BYTES: Final = 32
LAST: Final = 4  # characters that are shown of it
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
BOOTSTRAP: Final = "bootstrap"  # who asks with the bootstrap token
RESERVED: Final = frozenset({BOOTSTRAP, "local", "anonymous"})


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was made. text: what its owner sends; it is told once and never again."""

    text: str
    name: str
    row: Token
    index: int


def new_token() -> str:
    """A random token, as it is sent."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def digest_of(text: str) -> str:
    """What is kept of a token: its SHA-256, hexadecimal."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def same(digest: str, other: str) -> bool:
    """Whether two digests are equal, in a time that tells nothing."""
    return hmac.compare_digest(digest, other)


class Tokens:
    """Make, list, delete and know tokens."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def all(self) -> dict[str, Token]:
        """All of them by name, also those whose time is over."""
        return dict(sorted(self._context.replica.table.rows.tokens.items()))

    def caller(self, text: str) -> Caller | None:
        """Who sends this token, None = nobody that is known here. Raises Refusal("token_expired")."""
        digest = digest_of(text)
        found: Caller | None = None
        for name, row in self._context.replica.table.rows.tokens.items():
            if same(digest, row.digest):  # the others are compared as well, so that all take the same time
                found = Caller(f"token:{name}", name, row.role)
        if found is not None and self.has_expired(found.name):
            text = f"the token {found.name} is good no longer; ask an admin for another (`prime token new`)"
            raise Refusal("token_expired", text, 401)
        return found

    def has_expired(self, name: str) -> bool:
        """Whether a token's time is over, by this agent's clock."""
        until_ms = self._context.replica.table.rows.tokens[name].expires_at_ms
        return until_ms is not None and until_ms <= self._context.now_ms()

    @property
    def has_admin(self) -> bool:
        """Whether there is a token in force by which others can be made."""
        rows = self._context.replica.table.rows.tokens
        return any(row.role is Role.ADMIN and not self.has_expired(name) for name, row in rows.items())

    async def create(self, name: str, role: Role, caller: Caller, *, expires_in_s: float | None = None) -> NewToken:
        """Make a token. Raises Refusal: "invalid", "exists", "too_many_tokens"."""
        if not NAME.fullmatch(name) or name in RESERVED:
            text = f"{name!r} is no name for a token: letters, digits and '._-', at most 63, and not a name of prime's"
            raise Refusal("invalid", text, 422)
        token, now_ms = new_token(), self._context.now_ms()
        until_ms = None if expires_in_s is None else now_ms + round(1000 * expires_in_s)
        row = Token(role, digest_of(token), token[-LAST:], now_ms, caller.name, until_ms)
        applied = await self._context.propose(c.PutToken(now_ms, name, row))
        return NewToken(token, name, row, applied.index)

    async def delete(self, name: str) -> Accepted:
        """Delete a token: from the answer on nothing is done for who has it. Raises Refusal("unknown_token")."""
        if name not in self.all():
            raise unknown("unknown_token", "token", name, self.all())
        applied = await self._context.propose(c.DeleteToken(self._context.now_ms(), name))
        return Accepted(applied.index, names=(name,))

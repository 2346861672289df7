"""What the agent says no with.

PrimeError
├── Refusal         a request that cannot be granted: `code`, `status` (HTTP) and a message for the one who asked
├── ConfigError     a setting that cannot be used; says which and what to do
└── AgentStopped    the agent can no longer keep its promises and has stopped, with the reason (P9)
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.spec.errors import Problem


class PrimeError(Exception):
    """Base of the agent's own errors."""


class Refusal(PrimeError):
    """A request that is not granted.

    code: stable, for programs. status: the HTTP status. retry_after_s: when it may be worth asking again.
    problems: what is wrong in the texts that were sent, with file, line and key.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int = 400,
        *,
        retry_after_s: float | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        self.problems = tuple(problems)


class ConfigError(PrimeError):
    """A setting that cannot be used."""


class AgentStopped(PrimeError):
    """The agent has stopped because going on could break a promise."""

"""What can go wrong in an executor.

ExecutorError            the engine could not do what was asked; the attempt fails with `reason`
+-- StartRefused         the start came after its not-after: the work was not started, and never will be
+-- ImageError           the image is missing or cannot be pulled
+-- EngineUnreachable    no engine answers at its address: nothing is known about the attempt
"""

from __future__ import annotations


class ExecutorError(Exception):
    """The engine could not do what was asked. `reason` is the table's word for it."""

    reason = "executor_error"


class StartRefused(ExecutorError):
    """A start that came after `AttemptSpec.not_after_s`. The work has not begun and cannot begin."""


class ImageError(ExecutorError):
    """The image does not exist, or may not or cannot be pulled."""

    reason = "image"


class EngineUnreachable(ExecutorError):
    """No engine answers. The attempt may or may not exist: ask again before deciding anything."""

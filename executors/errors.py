"""What can go wrong in an executor.

ExecutorError            the engine could not do what was asked; the attempt fails with `reason`
+-- StartRefused         the start came after its not-after: the work was not started, and never will be
+-- ImageError           the image is missing or cannot be pulled
+-- StateLost            what was kept of the attempt is gone or damaged: how it goes, or went, cannot be told
+-- Unsettled            nothing can be decided now; the same call may succeed later
    +-- EngineUnreachable    no engine answers at its address: nothing is known about the attempt
    +-- StillRunning         work that was killed has not ended yet
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


class StateLost(ExecutorError):
    """What the engine kept of the attempt is gone or damaged. It may run: `Executor.stop` ends what is left of it."""


class Unsettled(ExecutorError):
    """Nothing can be decided now: an engine is away, a disk is full, a process does not die. Ask again (P3)."""


class EngineUnreachable(Unsettled):
    """No engine answers. The attempt may or may not exist: ask again before deciding anything."""


class StillRunning(Unsettled):
    """Work that was killed is still there. It has not ended before it is gone, and may not be said to have (P3)."""

"""Which state of an instance may follow which: the one table of allowed moves.

Who makes the move stands beside it. `lifecycle.enter` asserts every move against this table; a move that does not stand
here cannot happen.
"""

from __future__ import annotations

from agent.runtable.model import InstanceState as S

ALLOWED: dict[S, frozenset[S]] = {
    S.PENDING: frozenset(
        {
            S.SCHEDULED,  # its trigger rule is met (a fail hook: something failed)
            S.SKIPPED,  # its trigger rule says so, or it is a fail hook with nothing to do
            S.UPSTREAM_FAILED,  # its trigger rule says so: something before it failed
            S.CANCELLED,  # the run was cancelled or ran out of time
            S.SUCCESS,  # an operator marked it
            S.FAILED,  # an operator marked it
        }
    ),
    S.SCHEDULED: frozenset(
        {
            S.RUNNING,  # its agent says: started
            S.SUCCESS,  # its agent says: ended (the word of its start came late or never), or an operator marked it
            S.FAILED,  # as above, or the queue time-out
            S.SKIPPED,  # its agent says: ended, with an exit code that means so
            S.UP_FOR_RETRY,  # its agent says: failed, and a retry is left
            S.SCHEDULED,  # the attempt was lost before it began
            S.CANCELLED,
            S.UNKNOWN,  # its agent is lost, and its job waits for the work to end
        }
    ),
    S.RUNNING: frozenset(
        {
            S.SUCCESS,
            S.FAILED,
            S.SKIPPED,
            S.UP_FOR_RETRY,
            S.SCHEDULED,  # the attempt was lost without fault of its own: it is run again at once
            S.CANCELLED,
            S.UNKNOWN,  # as above
        }
    ),
    S.UP_FOR_RETRY: frozenset(
        {
            S.SCHEDULED,  # the delay is over
            S.CANCELLED,  # cancel beats retry
            S.SUCCESS,  # an operator marked it
            S.FAILED,  # an operator marked it
        }
    ),
    S.UNKNOWN: frozenset(
        {
            S.RUNNING,  # its agent has returned
            S.SCHEDULED,  # as above, and has not said that the work began; or its agent says that it was stopped
            S.SUCCESS,  # its agent says: ended, or an operator marked it
            S.FAILED,  # as above, or the run's time-out
            S.SKIPPED,  # its agent says: ended, with an exit code that means so
            S.UP_FOR_RETRY,  # its agent says: failed, and a retry is left
            S.CANCELLED,  # an operator says that the work has ended, or its agent that it has stopped it
        }
    ),
    # Final is final (P4): only an operator's clear leads out, and what was made before stays in `attempts`.
    S.SUCCESS: frozenset({S.PENDING}),
    S.FAILED: frozenset({S.PENDING}),
    S.SKIPPED: frozenset({S.PENDING}),
    S.UPSTREAM_FAILED: frozenset({S.PENDING}),
    S.CANCELLED: frozenset({S.PENDING}),
}


def allowed(before: S, after: S) -> bool:
    """Whether an instance may go from `before` to `after`."""
    return after in ALLOWED[before]

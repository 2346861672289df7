"""Whether a history of operations could have come from one object that does one thing at a time.

The search is Wing and Gong's (1993) with Lowe's memory of what was tried (2017): two orders of the same operations that
lead to the same state need not both be followed. Histories of different keys are independent of one another (Herlihy
and Wing 1990, locality), so that each is searched alone.

An operation without an end, such as one whose client gave up waiting, is *unknown*: it may have happened at any time
after its call, or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

UNKNOWN: Final = "unknown"  # the output of an operation whose end nobody saw
IMPOSSIBLE: Final = "impossible"  # no state


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. called, returned: when; any unit, the same for all. returned = None: unknown. output: UNKNOWN then.

    hint: of operations that overlap, the one with the lowest is tried first. It can only make the search shorter.
    """

    key: Hashable
    action: Any
    output: Any
    called: int
    returned: int | None
    hint: float = 0.0

    def __str__(self) -> str:
        end = "unknown" if self.returned is None else f"{self.returned} -> {self.output}"
        return f"{self.key}: {self.action} [{self.called}, {end}]"


Step = Callable[[Hashable, Any, Any], Hashable]
"""(state, action, output) -> the state after it; IMPOSSIBLE if the action cannot give that output in that state."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Why a history is not linearizable. placed: the longest order that works; stuck: what then fits nowhere."""

    placed: tuple[Operation, ...]
    stuck: Operation

    def __str__(self) -> str:
        lines = ["no order explains this history; the longest that works:", *(f"  {one}" for one in self.placed)]
        return "\n".join([*lines, "and then this one cannot be placed:", f"  {self.stuck}"])


class TooHard(Exception):
    """The search has taken more steps than it was given."""


def check(
    history: Iterable[Operation], initial: Hashable, step: Step, *, steps_max: int = 10_000_000
) -> Contradiction | None:
    """Return None if the history of every key is linearizable from the state `initial`. Raises TooHard."""
    keys: dict[Hashable, list[Operation]] = defaultdict(list)
    for operation in history:
        keys[operation.key].append(operation)
    for operations in keys.values():
        found = _Search(operations, step).run(initial, steps_max)
        if found is not None:
            return found
    return None


@dataclass(eq=False, slots=True)
class _Event:
    """A call or a return, in a list that operations are taken out of and put back into."""

    number: int
    before: _Event | None = None
    after: _Event | None = None
    returns: _Event | None = None  # of a call: its return, if it has one
    is_call: bool = True

    def unlink(self) -> None:
        assert self.before is not None
        self.before.after = self.after
        if self.after is not None:
            self.after.before = self.before

    def relink(self) -> None:
        assert self.before is not None
        self.before.after = self
        if self.after is not None:
            self.after.before = self


class _Search:
    """The history of one key."""

    def __init__(self, operations: Sequence[Operation], step: Step) -> None:
        self._operations = operations
        self._step = step
        self._head = self._events()

    def _events(self) -> _Event:
        """Calls and returns in the order of time. At one time calls come first: then the operations overlap."""
        events = []
        for number, operation in enumerate(self._operations):
            call = _Event(number)
            events.append((operation.called, 0, number, call))
            if operation.returned is not None:
                assert operation.returned >= operation.called
                call.returns = _Event(number, is_call=False)
                events.append((operation.returned, 1, number, call.returns))
        events.sort(key=lambda one: one[:3])
        head = last = _Event(-1)
        for _time, _kind, _number, event in events:
            last.after, event.before = event, last
            last = event
        return head

    def _next(self) -> tuple[Iterator[_Event], int]:
        """The calls that can be placed now: those before the first return, whose own call must come first."""
        calls, event = [], self._head.after
        while event is not None and event.is_call:
            calls.append(event)
            event = event.after
        calls.sort(key=lambda call: self._operations[call.number].hint)
        return iter(calls), -1 if event is None else event.number

    def run(self, initial: Hashable, steps_max: int) -> Contradiction | None:
        """Place one operation after another in front; go back where none fits."""
        waiting = sum(operation.returned is not None for operation in self._operations)
        state, placed, steps = initial, 0, 0  # placed: a bit for each operation
        tried: set[tuple[int, Hashable]] = set()
        stack: list[
            tuple[_Event, Hashable, Iterator[_Event]]
        ] = []  # placed; the state before; what else could be there
        longest: list[int] = []
        choices, due = self._next()
        stuck = due
        while waiting:
            steps += 1
            if steps > steps_max:
                raise TooHard(f"{steps_max} steps were not enough for {len(self._operations)} operations")
            for call in choices:
                operation, now = self._operations[call.number], placed | 1 << call.number
                after = self._step(state, operation.action, operation.output)
                if after is not IMPOSSIBLE and (now, after) not in tried:
                    break
            else:
                if len(stack) >= len(longest):
                    longest, stuck = [call.number for call, _state, _choices in stack], due
                if not stack:
                    return Contradiction(tuple(self._operations[one] for one in longest), self._operations[stuck])
                call, state, choices = stack.pop()
                self._put_back(call)
                placed &= ~(1 << call.number)
                waiting += call.returns is not None
                continue
            tried.add((now, after))
            stack.append((call, state, choices))
            self._take_out(call)
            waiting -= call.returns is not None
            state, placed = after, now
            choices, due = self._next()
        return None

    @staticmethod
    def _take_out(call: _Event) -> None:
        call.unlink()
        if call.returns is not None:
            call.returns.unlink()

    @staticmethod
    def _put_back(call: _Event) -> None:
        if call.returns is not None:
            call.returns.relink()
        call.relink()

"""Carries a plan out: begins each fault when it is due, undoes it when it is over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tests.e2e.chaos.lan import Lan
from tests.e2e.chaos.plan import Fault, Step
from tests.e2e.chaos.site import Site
from tests.postgresql import Server

Say = Callable[[str], None]
_MAY_END_IT: Final = frozenset({Fault.KILL, Fault.POWER, Fault.PAUSE, Fault.DISK})


class Nemesis:
    """What is done to these agents. begun: the faults so far. odd_ends: of agents, and nobody knows why.

    hung: engines that were stopped.
    """

    def __init__(self, sites: Sequence[Site], lan: Lan, database: Server | None, say: Say) -> None:
        self._sites, self._lan, self._database, self._say = sites, lan, database, say
        self.begun: list[Step] = []
        self.odd_ends: list[str] = []
        self.hung = 0

    def carry_out(self, plan: Iterable[Step], seconds: float) -> None:
        """Return when so many seconds are over; every fault is undone then."""
        due = [(step.at_s, True, step) for step in plan]
        due += [(step.at_s + step.lasts_s, False, step) for _at_s, _begins, step in due]
        start_s = time.monotonic()
        for at_s, begins, step in sorted(due, key=lambda one: one[0]):
            time.sleep(max(0.0, start_s + at_s - time.monotonic()))
            if begins:
                self._say(str(step))
                self.begun.append(step)
                self._begin(step)
            else:
                self._undo(step)
        time.sleep(max(0.0, start_s + seconds - time.monotonic()))

    def heal(self) -> None:
        """Have every agent run: one may have ended after its faults were undone."""
        for site in self._sites:
            self._start(site)

    def _begin(self, step: Step) -> None:
        site = self._sites[step.agent]
        match step.fault:
            case Fault.KILL:
                site.kill()
            case Fault.POWER:
                site.lose_power()
            case Fault.PAUSE:
                site.freeze()
            case Fault.ENGINE:
                self.hung += site.hang_engine()
            case Fault.DISK:
                site.fill_disk()
            case Fault.CLOCK:
                site.set_clock(step.off_s)
            case Fault.DATABASE:
                assert self._database is not None
                self._database.kill()
            case _:
                self._lan.cut(step, step.links)

    def _undo(self, step: Step) -> None:
        site = self._sites[step.agent]
        match step.fault:
            case Fault.PAUSE:
                site.thaw()
            case Fault.ENGINE:
                site.wake_engine()
            case Fault.DISK:
                site.free_disk()
            case Fault.CLOCK:
                site.set_clock(0)
            case Fault.DATABASE:
                assert self._database is not None
                self._database.start()
            case Fault.KILL | Fault.POWER:
                pass
            case _:
                self._lan.mend(step)
        if step.fault in _MAY_END_IT:
            self._start(site)

    def _start(self, site: Site) -> None:
        """Start it if it does not run: it was killed, by us or by its watchdog, or its disk was full (P9)."""
        if site.runs:
            return
        if site.exit_code not in (-signal.SIGKILL, None) and not site.was_full:
            self.odd_ends.append(f"{site.name} has ended by itself with exit code {site.exit_code}")
            self._say(self.odd_ends[-1])
        site.start(wait=False)

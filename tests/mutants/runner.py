"""Tries mutants on all benches at once."""

from __future__ import annotations

import queue
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.mutants import operators
from tests.mutants.bench import HANG_CORE_S, TESTS, Bench, Verdict, copy_packages
from tests.mutants.listed import LISTED
from tests.mutants.mutant import Mutant, source_of
from tests.mutants.stem import Trial

MODULES: Final = tuple(TESTS)


class BaselineError(Exception):
    """A test or a seed fails without any mutant: nothing can be said of one that it catches."""


class Field:
    """The benches, all with the same sources. Made by `field`."""

    def __init__(self, root: Path, benches: Sequence[Bench]) -> None:
        self.root = root
        self._count = len(benches)
        self._free: queue.SimpleQueue[Bench] = queue.SimpleQueue()
        for bench in benches:
            self._free.put(bench)

    def listed(self, names: Iterable[str] | None = None) -> list[Mutant]:
        """Mutants of the patches, all or those with these names. Raises PatchError."""
        wanted = None if names is None else set(names)
        patches = [patch for patch in LISTED if wanted is None or patch.name in wanted]
        return [patch.mutant(source_of(patch.module, self.root)) for patch in patches]

    def mechanical(self, modules: Sequence[str]) -> list[Mutant]:
        """All that `operators` make of these modules."""
        return [one for module in modules for one in operators.mutants(module, source_of(module, self.root))]

    def check_original(self, modules: Iterable[str], seeds: tuple[int, ...]) -> None:
        """Run the tests of these modules and the seeds on the original. Raises BaselineError where one fails."""
        names = dict.fromkeys(name for module in sorted(set(modules)) for name in TESTS[module])
        tests = tuple(f"tests/consensus/{name}.py" for name in names)
        bench = self._free.get()
        try:
            for trial in (Trial(tests, keep=True), Trial((), seeds, hang_s=HANG_CORE_S)):
                result = bench.run(trial)
                if result.how or result.undecided:
                    raise BaselineError(f"{', '.join(result.caught)}: {result.problem}")
        finally:
            self._free.put(bench)

    def judge(
        self,
        mutants: Sequence[Mutant],
        seeds: tuple[int, ...],
        said: Callable[[int, Verdict], None] = lambda _done, _verdict: None,
        *,
        tested: bool = True,
    ) -> list[Verdict]:
        """Try them all. said: called with each verdict and how many there are by then. Returns them in order.

        tested: by the tests first; else by the simulator alone.
        """
        done = 0

        def one(mutant: Mutant) -> Verdict:
            bench = self._free.get()
            try:
                return bench.judge(mutant, seeds, tested=tested)
            finally:
                self._free.put(bench)

        verdicts = []
        with ThreadPoolExecutor(self._count) as pool:
            for verdict in pool.map(one, mutants):
                done += 1
                said(done, verdict)
                verdicts.append(verdict)
        return verdicts


@contextmanager
def field(jobs: int) -> Iterator[Field]:
    """Benches in a temporary folder."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-")))
        copy_packages(folder / "original")
        benches = []
        for number in range(jobs):
            shutil.copytree(folder / "original", folder / str(number))
            benches.append(stack.enter_context(Bench(folder / str(number))))
        yield Field(folder / "original", benches)


def sample(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` of them, in their order; each module has its share by chance."""
    if count >= len(mutants):
        return list(mutants)
    chosen = set(random.Random(seed).sample(range(len(mutants)), count))
    return [one for at, one in enumerate(mutants) if at in chosen]

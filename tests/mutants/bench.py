"""Where mutants are tried: a copy of the packages for each worker, and a process that runs tests in it."""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from tests.mutants.mutant import ROOT, Mutant, path_of
from tests.mutants.stem import Result, Trial

COPIED: Final = ("consensus", "tests/consensus", "tests/simulator", "tests/mutants")
COPIED_FILES: Final = ("tests/__init__.py", "tests/linearizability.py")
# Which tests look at a module: the fastest first.
CORE: Final = (
    *("test_configuration", "test_progress", "test_log", "test_raft_paper_safety", "test_raft_paper"),
    *("test_node_rules", "test_election_rules", "test_replication_rules", "test_scenarios"),
    *("test_configuration_at_apply", "test_refused_votes"),
)
DISK: Final = (
    *("test_durable_rules", "test_hard_state", "test_durable_snapshots"),
    *("test_durable_damage", "test_durable"),
)
WAL: Final = ("test_wal_verify", "test_wal")
CORE_MODULES: Final = (
    *("node", "raft", "leader", "follower", "log"),
    *("progress", "quorum", "configuration", "read_index", "chunks"),
)
TESTS: Final = {
    **dict.fromkeys(CORE_MODULES, CORE),
    "chunks": ("test_chunk_pace", "test_chunks"),
    "storage": (*CORE, *DISK),
    **dict.fromkeys(("hard_state", "durable", "wal_entries", "wal_replay", "wal_recovery", "wal_snapshot"), DISK),
    **dict.fromkeys(("wal", "wal_survey", "wal_verify", "wal_format", "disk"), (*WAL, *DISK)),
}
SIMULATED: Final = frozenset({*CORE_MODULES, "storage"} - {"chunks"})
HANG_CORE_S: Final = 5  # of CPU; a test of the core takes 0.1, a seed 0.03 in the mean
HANG_DISK_S: Final = 60  # the longest takes 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    result: Result

    @property
    def survived(self) -> bool:
        """Whether nothing has noticed."""
        return not self.result.how and not self.result.undecided

    @property
    def what(self) -> str:
        """What caught it, in words; nothing where it has survived."""
        result = self.result
        if result.undecided:
            return f"UNDECIDED: {result.problem}"
        return f"{f'{result.how} in ' if result.how in ('hang', 'crash') else ''}{', '.join(result.caught)}"


def copy_packages(folder: Path, root: Path = ROOT) -> None:
    """Copy what trials need, compiled so that only content decides whether a file is compiled again."""
    for name in COPIED:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in COPIED_FILES:
        shutil.copy(root / name, folder / name)
    compileall.compile_dir(folder, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def trial_of(module: str, seeds: tuple[int, ...], *, tested: bool = True) -> Trial:
    """What is to look at a mutant of a module: its tests unless they are left out, and then the simulator."""
    tests = tuple(f"tests/consensus/{name}.py" for name in TESTS[module]) if tested else ()
    simulated = module in SIMULATED
    return Trial(tests, seeds if simulated else (), hang_s=HANG_CORE_S if simulated else HANG_DISK_S)


class Bench:
    """One worker's copy and process."""

    def __init__(self, folder: Path) -> None:
        """folder: a copy (`copy_packages`) of its own."""
        self._folder = folder
        hidden = ("COVERAGE", "COV_", "PYTEST")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.stem"],
            cwd=folder,
            env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, trial: Trial) -> Result:
        """Run a trial on what the copy holds now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(trial) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Result)

    def judge(self, mutant: Mutant, seeds: tuple[int, ...], *, tested: bool = True) -> Verdict:
        """Try one mutant, and put the original back. tested: by the tests first."""
        path = self._folder / path_of(mutant.module)
        original = path.read_text()
        path.write_text(mutant.applied(original))
        try:
            return Verdict(mutant, self.run(trial_of(mutant.module, seeds, tested=tested)))
        finally:
            path.write_text(original)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

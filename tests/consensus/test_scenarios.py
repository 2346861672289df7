"""Our own scenarios, in the format of etcd's transcripts: `scenarios/*.txt`, to be read as stories of the protocol.

`python -m tests.consensus.transcripts tests/consensus/scenarios/*.txt` writes them again after a change that is meant.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.consensus.datadriven import parse
from tests.consensus.interaction import COMMANDS, Interaction
from tests.consensus.transcripts import mismatches, run

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_cluster_does_what_the_scenario_says(path: Path) -> None:
    found = mismatches(path, "interaction")
    assert not found, "\n" + "\n".join(map(str, found))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_is_as_it_would_be_written(path: Path) -> None:
    transcript = parse(path.read_text(), path.name)
    assert transcript.rewritten(run(transcript, Interaction().handle)) == path.read_text()


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_begins_by_saying_what_it_shows(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_every_command_is_used_by_a_scenario() -> None:
    directives = [one for path in SCENARIOS for one in parse(path.read_text(), path.name).directives]
    assert {one.command for one in directives} == COMMANDS.keys() - {"_breakpoint"}

"""What `cluster leave` says of the output on the agent that leaves, and when it does not let it go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from agent.cli import outputs
from agent.cli.outputs import wait_until_archived
from agent.client import Client, Refused


class Told:
    """A client whose agent gives these answers, one after another, the last again and again."""

    def __init__(self, *answers: Mapping[str, Any] | Refused) -> None:
        self.answers = list(answers)

    def get(self, path: str) -> Mapping[str, Any]:
        assert path == "/api/v1/cluster/agents/a1/archive"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Refused):
            raise answer
        return answer


def state(outputs: int, backlog: int = 0, *, configured: bool = True, error: str | None = None) -> dict[str, Any]:
    return {"outputs": outputs, "backlog": backlog, "configured": configured, "error": error}


def wait(*answers: Mapping[str, Any] | Refused, limit_s: float = 60, lose: bool = False) -> str:
    return wait_until_archived(cast("Client", Told(*answers)), "a1", limit_s, lose=lose)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (state(0), "a1 has no output of runs"),
        (state(3, configured=False), "3 outputs of attempts go with a1: it has no archive (--log-archive)"),
        (state(1), "1 output of attempts on a1 are archived, and are read from there"),
        (Refused(409, "agent_away", "x"), "a1 does not say what output it has: what is not archived is lost with it"),
    ],
)
def test_it_is_said_what_becomes_of_the_output(answer: Mapping[str, Any] | Refused, said: str) -> None:
    assert wait(answer) == said


def test_the_archive_is_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(outputs, "AGAIN_S", 0)
    assert "are archived" in wait(state(9, 2), state(9, 2), state(9, 1), state(9))
    assert capsys.readouterr().err.splitlines() == ["2 outputs to be archived yet", "1 output to be archived yet"]


def test_p11_an_agent_whose_output_would_be_lost_stays_and_it_is_said_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        wait(state(9, 2, error="no bucket"), limit_s=0)
    assert caught.value.code == 4
    assert "a1 has 2 outputs not archived yet: no bucket." in capsys.readouterr().err


def test_output_is_lost_where_that_is_wanted() -> None:
    assert wait(state(9, 2), limit_s=0, lose=True) == "2 outputs of attempts on a1 are lost with it: not archived yet"


def test_an_agent_that_there_is_not_is_refused_as_ever() -> None:
    with pytest.raises(Refused, match="unknown"):
        wait(Refused(404, "unknown_agent", "unknown"))

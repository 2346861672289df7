"""What a run is accepted with to tell of: thresholds that are given, and thresholds that are learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.runtable.model import Attempt, Instance, InstanceKind, InstancePlan, Origin, Run
from agent.service import RunRequest
from agent.service.notices import LEARN_MIN_MS, threshold_ms
from tests.api.harness import Prime, in_loop, prime
from tests.test_service import CALLER, file, refused

JOB = """version: 2
name: told
owner: someone
behavior:
  notify: [{on: sla_miss, config: {duration: 90m}, channels: ['pagerduty://#x']}]
task:
  name: container
  executor: mock
  config: {IMAGE: none}
  alert: {sla_miss: [{auto_threshold: true}, {duration_threshold: 2s}]}
"""


def took(*durations_ms: int) -> list[Run]:
    """Runs whose task took so long; 0 = it never started."""
    return [_run(ms) for ms in durations_ms]


def _run(ms: int) -> Run:
    attempt = Attempt(1, "a", 1, 0, started_at_ms=1000 if ms else None, finished_at_ms=1000 + ms)
    instance = Instance(InstancePlan("t", InstanceKind.TASK, "t"), attempts=[attempt])
    return Run("r", "p", "n", "j", 0, Origin.MANUAL, "me", "a", "b", 0, 1, 1, 1, [instance])


@pytest.mark.parametrize(
    ("durations_ms", "threshold"),
    [
        ((), None),
        ((100_000,) * 4, None),
        ((100_000,) * 4 + (0,), None),
        ((100_000,) * 5, 200_000),
        ((1_000,) * 20, LEARN_MIN_MS),
        ((60_000, 70_000, 80_000, 90_000, 9_000_000), 160_000),  # one that hung teaches nothing
    ],
)
def test_a_threshold_is_learned_from_what_it_took(durations_ms: tuple[int, ...], threshold: int | None) -> None:
    assert threshold_ms(took(*durations_ms), "t") == threshold
    assert threshold_ms(took(*durations_ms), "other") is None


async def thresholds(agent: Prime) -> list[tuple[str, int | None, bool]]:
    accepted = await agent.service.runs.submit_file("p", "n", file(text=JOB), RunRequest(), CALLER)
    assert accepted.run is not None
    await agent.ended(accepted.run.id)
    await agent.until(lambda: not agent.replica.leaving)  # it is in the history
    run = await agent.service.queries.run(accepted.run.id)
    return [(one.instance, one.within_ms, one.resolves) for one in run.wants]


@in_loop
async def test_what_is_learned_is_frozen_with_the_run(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        given = [("", 5_400_000, True), ("container", 2_000, True)]
        for _ in range(5):
            assert sorted(await thresholds(agent), key=str) == given
        learned = ("container", LEARN_MIN_MS, True)
        assert sorted(await thresholds(agent), key=str) == sorted([*given, learned], key=str)


@in_loop
async def test_a_job_with_too_many_wishes_is_refused_p12(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        channels = ", ".join(f"'slack://#c{number}'" for number in range(101))
        text = JOB.replace("channels: ['pagerduty://#x']", f"channels: [{channels}]")
        found = await refused(agent.service.runs.submit_file("p", "n", file(text=text), RunRequest(), CALLER))
        assert found.code == "spec_invalid"
        assert "at most 100" in found.message

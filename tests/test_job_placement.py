"""What a job says of agents reaches the plan of every instance of its runs."""

from __future__ import annotations

from pathlib import Path

from agent.runtable.model import OnAgentLost
from agent.service import Caller, JobFile, RunRequest
from tests.api.harness import in_loop, job_yaml, prime

HOOK = "hooks:\n  - {name: container, executor: mock, hooktype: pre, config: {IMAGE: none}}\n"
AGENTS = "behavior: {on_agent_lost: wait}\nmetadata: {scheduler: {constraints: {zone: a, gpu: 'yes'}}}\n"


@in_loop
async def test_labels_and_what_a_loss_leads_to_are_those_of_the_job(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        for text, choice, labels in (
            (job_yaml(hooks=HOOK + AGENTS), OnAgentLost.WAIT, (("gpu", "yes"), ("zone", "a"))),
            (job_yaml(hooks=HOOK), OnAgentLost.RERUN, ()),
        ):
            file = JobFile("hello/job.yaml", text)
            accepted = await agent.service.runs.submit_file("p", "n", file, RunRequest(), Caller())
            assert accepted.run is not None
            plans = [instance.plan for instance in accepted.run.instances]
            assert len(plans) == 2
            assert {(plan.on_agent_lost, plan.constraints) for plan in plans} == {(choice, labels)}

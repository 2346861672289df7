"""`prime event`: what could not be told, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cli.project import Prime
from tests.e2e.cluster import until

TOLD = """
version: 2
name: told
owner: me
behavior:
  notify: [{on: success, channels: ['slack://#team']}]
  webhook: [{on: job_success, endpoints: [{url: 'http://127.0.0.1:1/T0K3N'}]}]
task: {name: shell, config: {SCRIPT: 'true'}}
"""


def test_what_is_not_delivered_is_listed_with_its_reason_and_its_next_try(ask: Prime, folder: Path) -> None:
    path = folder / "jobs/told/job.yaml"
    path.parent.mkdir()
    path.write_text(TOLD)
    run = ask("job", "run", "-f", "jobs/told/job.yaml", "--wait", "-o", "json").json()["run"]

    def tried() -> dict[str, Any] | None:
        events = ask("event", "list", "--run", run["id"][:8], "-o", "json").json()["events"]
        return {one["endpoint"]: one for one in events if one["tries"]} if all(one["tries"] for one in events) else None

    slack, webhook = sorted(until(tried, "both were tried").values(), key=lambda one: str(one["endpoint"]))
    assert "there is no secret NOTIFY_SLACK (nor NOTIFY_SLACK_TEAM)" in slack["error"]
    assert (slack["next"], webhook["given_up_at"]) == (None, None)
    assert webhook["error"] == "cannot be reached: ClientConnectorError"
    shown = ask("event", "list").out
    assert "slack://#team" in shown
    assert "webhook 127.0.0.1" in shown
    assert "T0K3N" not in shown
    assert ask("event", "list", "--run", "0000").code == 4

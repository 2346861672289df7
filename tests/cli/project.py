"""A small project folder, and an agent that it is applied to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import Answer, prime
from tests.e2e.agents import AgentProcess

PROJECT = """
project:
  name: {name}
  variables: {{greeting: hello}}
namespaces:
  - name: sales
    job: {{path: jobs}}
    variables: {{who: sales}}
"""
PLUGIN = """
name: say
plugintype: task
executor: process
command: cat "$JOB_DIR/in/words.txt"; echo; echo "to $WHO" >&2; exit ${EXIT:-0}
"""
HOOK = "name: bye\nplugintype: hook\nhooktype: post\nexecutor: process\ncommand: echo bye\n"
JOB = """
version: 2
name: greet
owner: me
schedule: {start_date: "2026-01-01", interval: "@daily"}
task:
  name: say
  config: {WHO: "{{ .GLOBAL__who }}", TOKEN: "{{ .secret.TOKEN }}"}
  window: {size: 24h, offset: "0", truncate_to: d}
hooks:
  - name: bye
"""
SHELL = "version: 2\nname: {name}\nowner: me\ntask: {{name: shell, config: {{SCRIPT: '{script}'}}}}\n"
Prime = Callable[..., Answer]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    one = AgentProcess(tmp_path_factory.mktemp("agent") / "data", "--executors", "process")
    one.start()
    yield one
    one.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project folder; its project has a name of its own, so that tests do not see each other's runs."""
    root = tmp_path / "project"
    for path, text in {
        "optimus.yaml": PROJECT.format(name=tmp_path.name),
        "plugins/say.yaml": PLUGIN,
        "plugins/bye.yaml": HOOK,
        "jobs/greet/job.yaml": JOB,
        "jobs/greet/assets/words.txt": "{{ .GLOBAL__greeting }} on {{ .DSTART | Date }}\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.fixture
def ask(agent: AgentProcess, folder: Path) -> Prime:
    """`prime` in the project folder, with the agent's address."""

    def asked(*words: str | Path, **how: Any) -> Answer:
        return prime("--host", agent.url, *words, folder=folder, **how)

    return asked


@pytest.fixture
def applied(ask: Prime) -> Prime:
    assert ask("plugin", "apply").code == 0
    assert ask("secret", "set", "TOKEN", stdin="open sesame\n").code == 0
    assert ask("job", "apply").code == 0
    return ask


def shell_job(folder: Path, name: str, script: str, extra: str = "") -> None:
    path = folder / "jobs" / name / "job.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(SHELL.format(name=name, script=script) + extra)

"""What helps on who does not know prime yet: remedies in what is refused, notes, and nothing that is not meant."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from agent.cli.run import ORIGINS, STATES
from agent.client import Client
from agent.runtable.model import Origin, RunState
from tests.cli.project import SHELL, Prime, shell_job
from tests.cli.terminal import NOBODY, SHOP, prime
from tests.e2e.agents import PROGRAM, AgentProcess
from tests.e2e.cluster import until

pytestmark = pytest.mark.slow  # it starts real agents

# -- without an agent --------------------------------------------------------------------------------------------------


def test_the_words_of_a_choice_are_those_of_the_table() -> None:
    assert tuple(RunState) == STATES
    assert tuple(Origin) == ORIGINS
    done = prime("run", "list", "--state", "sucess", folder=SHOP)
    assert (done.code, "'upstream_failed'" in done.err) == (2, True)


def test_every_command_that_takes_a_run_says_that_its_id_may_be_shortened() -> None:
    for word in ("show", "logs", "cancel", "retry", "clear", "mark", "diff", "assets", "explain", "wait"):
        assert "shortened to its first 4 characters" in prime("run", word, "--help").out, word


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("localhost", "http://localhost:9100:"),
        ("[::1]", "http://[::1]:9100:"),
        ("localhost:1/", "http://localhost:1:"),
        ("http://localhost:1/", "http://localhost:1:"),
    ],
)
def test_a_host_without_a_scheme_is_an_agent_at_its_usual_port(host: str, shown: str) -> None:
    from agent.cli.common import agent_url

    assert f"{agent_url(host)}:" == shown
    assert agent_url("http://prime.example") == "http://prime.example"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--database", "nonsense"], "--database takes a URL, such as sqlite:////var/lib/prime/runs.db"),
        (["--database", "mysql://u:geheim@h/d"], "--database: database mysql://h/d: the mirror writes to SQLite and"),
        (["--database", "sqlite://"], "--database: database sqlite://: a SQLite database is a file"),
        (["--executors", "dokcer"], "--executors dokcer: there is none of that name; did you mean 'docker'?"),
        (["--executors", ","], "--executors: at least one engine is needed"),
        (["--bootstrap-token", "/nothing"], "--bootstrap-token: /nothing cannot be read: No such file"),
    ],
)
def test_settings_that_cannot_be_used_are_told_before_anything_is_made(
    flags: list[str], words: str, tmp_path: Path
) -> None:
    done = prime("agent", "start", "--data-dir", tmp_path / "data", *flags)
    assert (done.code, words in done.err) == (2, True), done.err
    assert not (tmp_path / "data").exists()
    assert "geheim" not in done.err
    assert "P8" not in done.err


def test_an_address_that_is_in_use_is_told_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        flags = ["--data-dir", str(tmp_path / "data"), "--executors", "process", "--http", address]
        done = subprocess.run([*PROGRAM, "agent", "start", *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"--http {address}: cannot listen there" in done.stderr
    assert done.stderr.count("is another agent running here? Give another port") == 1


def test_a_value_typed_behind_a_secrets_name_is_refused_and_not_told_again() -> None:
    done = prime("secret", "set", "TOKEN", "sesame", "--host", NOBODY, folder=SHOP)
    assert done.code == 2
    assert "pipe it in: `prime secret set TOKEN < FILE`" in done.err
    assert "sesame" not in done.err


# -- applying ----------------------------------------------------------------------------------------------------------


def test_a_plugin_that_only_the_folder_has_is_told_with_the_command_to_apply_it(ask: Prime, folder: Path) -> None:
    done = ask("job", "apply")
    assert done.code == 4
    assert done.err.count("; it is in plugins/: run `prime plugin apply` first\n") == 2  # of the task and of the hook
    (folder / "plugins" / "say.yaml").unlink()
    assert ask("job", "apply").err.count("run `prime plugin apply` first\n") == 1


def test_jobs_that_the_folder_has_no_more_are_told_when_all_of_it_is_applied(applied: Prime, folder: Path) -> None:
    for name in ("one", "two"):
        shell_job(folder, name, "true")
    assert "no more" not in applied("job", "apply").err
    for name in ("one", "two"):
        (folder / "jobs" / name / "job.yaml").unlink()
    note = "the namespace sales has 2 jobs no more that the project still has: one, two; `prime job delete NAME`"
    assert note in applied("job", "apply").err
    assert note in applied("job", "apply", "jobs").err
    assert "no more" not in applied("job", "apply", "jobs/greet").err
    assert applied("job", "delete", "one").code == 0
    assert "has 1 job no more" in applied("job", "apply").err


def test_of_many_applied_jobs_the_first_few_are_named(ask: Prime, folder: Path) -> None:
    (folder / "jobs/greet/job.yaml").unlink()
    for number in range(12):
        shell_job(folder, f"j{number:02}", "true")
    assert ask("job", "apply").out.endswith(f": {', '.join(f'j{n:02}' for n in range(10))}, ...\n")


def test_the_nearest_secret_is_told_where_there_is_none_to_delete(ask: Prime) -> None:
    assert ask("secret", "set", "TOKEN", stdin="x").code == 0
    assert ask("secret", "set", "KEY", "--namespace", "sales", stdin="x").code == 0
    near, elsewhere = ask("secret", "delete", "TOKNE"), ask("secret", "delete", "KEY")
    assert (near.code, "did you mean 'TOKEN'? Known: TOKEN" in near.err) == (4, True)
    assert (elsewhere.code, "there is one with --namespace sales" in elsewhere.err) == (4, True)
    other = ask("secret", "delete", "TOKEN", "--namespace", "sales")
    assert (other.code, "there is one without --namespace" in other.err) == (4, True)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_spec_is_run_from_stdin(ask: Prime, agent: AgentProcess, tmp_path: Path) -> None:
    spec = SHELL.format(name="piped", script="echo through the pipe")
    run = ask("job", "run", "-f", "-", "--wait", "-o", "json", stdin=spec).json()["run"]
    assert (run["state"], run["project"], run["namespace"]) == ("success", tmp_path.name, "adhoc")
    outside = prime("job", "run", "-f", "-", "--host", agent.url, "--wait", "-o", "json", stdin=spec, folder=Path("/"))
    assert outside.json()["run"]["project"] == "adhoc"
    wrong = ask("job", "run", "-f", "-", stdin="name: x\n")
    assert (wrong.code, "<stdin>:1:1: error: version" in wrong.err) == (4, True)
    assert ask("job", "run", "-f", "-", stdin=b"\xff").code == 2


def test_a_list_of_runs_tells_a_mistyped_name_from_an_empty_list(applied: Prime) -> None:
    project = applied("job", "run", "greet", "-o", "json").json()["run"]["project"]
    done = applied("run", "list", "-p", "nowhere")
    assert (done.code, "there is no project 'nowhere'" in done.err) == (4, True)
    done = applied("run", "list", "-p", project, "--job", "greeet", "-o", "json")
    assert (done.code, "greeet" in done.err) == (4, True), done.err
    done = applied("run", "list", "-p", project, "--state", "skipped")
    assert (done.code, "no run is like that" in done.err) == (0, True)


def test_a_diff_shows_what_is_another_once_and_not_what_always_is(applied: Prime) -> None:
    for at in ("2026-03-02", "2026-03-03"):
        assert applied("job", "run", "greet", "--at", at, "--wait").code == 0
    (last, *_others) = applied("run", "list", "--job", "greet", "-o", "json").json()["runs"]
    done = applied("run", "diff", last["id"])
    rows = [line.split() for line in done.out.split("\n\n")[0].splitlines()[2:]]
    assert ["env.DSTART", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", "bye,", "say"] in rows
    assert {row[0] for row in rows}.isdisjoint({"pid", "env.EXECUTION_TIME"})
    told = [row[0] for row in rows if row[0] != "took"]  # which may be another for each instance
    assert len(set(told)) == len(told)
    assert done.out.count("+hello on 2026-03-02") == 2  # the asset, and what was written
    assert "\n--- say/log\n" in done.out
    assert "\n--- bye/words.txt, say/words.txt\n" in done.out
    changed = applied("run", "diff", last["id"], "-o", "json").json()["changes"]
    assert "say.pid" in {one["what"] for one in changed}


def test_a_file_that_several_instances_were_given_is_shown_once(applied: Prime) -> None:
    run_id = applied("job", "run", "greet", "--at", "2026-03-02", "--wait", "-o", "json").json()["run"]["id"]
    shown = applied("run", "assets", run_id).out
    assert shown.count("hello on 2026-03-01") == 1
    assert "--- words.txt: the same as say's\n" in shown


def test_who_stops_reading_ends_the_command_and_not_the_run(applied: Prime, folder: Path, tmp_path: Path) -> None:
    """As `prime ... | head -1` does."""
    gate = tmp_path / "gate"
    shell_job(folder, "long", f"echo begun; while [ ! -e {gate}.go ]; do sleep 0.02; done; echo on; {_waits(gate)}")
    assert applied("job", "apply").code == 0
    host = ["--host", str(applied("cluster", "status", "-o", "json").json()["agents"][0]["http"])]
    command = [*PROGRAM, *host, "job", "run", "long", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        while "begun" not in follower.stdout.readline():
            pass
        follower.stdout.close()
        Path(f"{gate}.go").touch()
        err = follower.stderr.read()
        assert follower.wait(30) == 141
    assert "the run goes on" in err
    assert "Traceback" not in err
    (run,) = applied("run", "list", "--job", "long", "-o", "json").json()["runs"]
    assert run["state"] == "running"
    gate.touch()
    assert applied("run", "wait", run["id"]).code == 0
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody:
        done = subprocess.run([*PROGRAM, *host, "run", "list"], stdout=nobody, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def _waits(gate: Path) -> str:
    return f"while [ ! -e {gate} ]; do sleep 0.02; done"


def test_completion_asks_the_agent_for_jobs_and_runs(applied: Prime, agent: AgentProcess, folder: Path) -> None:
    run_id = applied("job", "run", "greet", "--wait", "-o", "json").json()["run"]["id"]

    def offered(*words: str) -> list[str]:
        env = {"_PRIME_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        return prime(folder=folder, env={**env, "PRIME_HOST": agent.url}).out.split()

    assert offered("prime", "job", "run", "gr") == ["plain,greet"]
    assert f"plain,{run_id}" in offered("prime", "run", "show", run_id[:2])


# -- agents ------------------------------------------------------------------------------------------------------------


def test_dev_names_a_job_that_works_and_needs_no_more_words(folder: Path) -> None:
    """Not the first of the alphabet; and no --host where a command in that folder asks this agent anyway."""
    for name in ("aaa", "zzz"):
        shell_job(folder, name, "true")
    scheduled = folder / "jobs" / "hourly" / "job.yaml"
    scheduled.parent.mkdir()
    scheduled.write_text(
        SHELL.format(name="hourly", script="true") + 'schedule: {interval: "@hourly", start_date: "2026-01-01"}\n'
    )
    (folder / "jobs" / "greet" / "job.yaml").unlink()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert _hint(folder, address) == f"try: prime --host http://{address} job run hourly --follow\n"
    with (folder / "optimus.yaml").open("a") as project:
        project.write(f"host: {address}\n")
    assert _hint(folder, address) == "try: prime job run hourly --follow\n"


def _hint(folder: Path, address: str) -> str:
    with subprocess.Popen(
        [*PROGRAM, "dev", "--agents", "1", "--http", address],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as agent:
        try:
            assert agent.stdout is not None
            lines = [agent.stdout.readline()]
            while lines[-1] and not lines[-1].startswith("try: "):
                lines.append(agent.stdout.readline())
        finally:
            agent.send_signal(signal.SIGINT)
            _out, err = agent.communicate(timeout=30)
    assert agent.returncode == 0, err
    return lines[-1]


def test_a_new_agent_without_its_engine_warns_of_no_strays(tmp_path: Path) -> None:
    one = AgentProcess(tmp_path / "data", environment={"DOCKER_HOST": "tcp://127.0.0.1:1"})
    one.start()
    try:
        client = Client([one.url])
        assert client.get("/api/v1/cluster")["agents"][0]["executors"] == ["process"]
        body = {"spec": {"path": "job.yaml", "yaml": SHELL.format(name="once", script="true")}}
        client.post("/api/v1/projects/p/namespaces/n/runs", body)
        one.stop()
        assert "strays" not in one.log.read_text()
        one.start()  # and now something may have been left
        until(lambda: 'strays may be left executor="docker"' in one.log.read_text(), "it has looked for strays")
    finally:
        one.stop()

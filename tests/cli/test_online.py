"""Commands against a real agent: from an applied folder to a run's record, and every exit code on the way."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.cli.follow import wait_for_run
from agent.client import Client
from tests.cli.project import SHELL, Prime, shell_job
from tests.cli.terminal import NOBODY, SHOP, Answer, prime
from tests.e2e.agents import PROGRAM, AgentProcess

pytestmark = pytest.mark.e2e

WAITS = "while [ ! -e {gate} ]; do sleep 0.02; done; echo through"

# -- applying ----------------------------------------------------------------------------------------------------------


ESTABLISHED = "01"  # in /proc/net/tcp


def test_a_folder_is_applied_and_its_schedule_is_said_not_to_run_yet(ask: Prime) -> None:
    done = ask("plugin", "apply", "-o", "json")
    assert done.json()["plugins"] == ["bye", "say"]
    assert ask("secret", "set", "TOKEN", stdin="x").code == 0
    done = ask("job", "apply")
    assert done.code == 0
    assert done.out.startswith("applied 1 job to project test_a_folder")
    assert "note: greet: its schedule (@daily) does not run yet" in done.err
    assert [one["name"] for one in ask("job", "list", "-o", "json").json()["jobs"]] == ["greet"]
    assert "greet" in ask("job", "list", "--namespace", "sales").out
    assert "name: greet" in ask("job", "show", "greet").out
    assert ask("job", "show", "greet", "-o", "json").json()["spec"]["name"] == "greet"
    (say,) = (line.split() for line in ask("plugin", "list").out.splitlines() if line.startswith("say "))
    assert say[:4] == ["say", "task", "-", "process"]  # when a hook runs is nothing that a task has
    assert {one["name"] for one in ask("plugin", "list", "-o", "json").json()["plugins"]} >= {"bye", "say", "shell"}
    assert "greeting" in ask("project", "show").out
    assert ask("project", "show", "-o", "json").json()["namespaces"]["sales"]["variables"] == {"who": "sales"}
    assert ask("project", "apply").code == 0
    assert ask("job", "delete", "greet").out == "deleted greet\n"
    assert ask("job", "list", "-o", "json").json() == {"jobs": []}


def test_the_same_folder_gives_the_same_job_wherever_one_stands(
    applied: Prime, agent: AgentProcess, folder: Path
) -> None:
    before = applied("job", "show", "greet", "-o", "json").json()
    assert prime("job", "--host", agent.url, "apply", folder, folder=Path("/")).code == 0
    after = applied("job", "show", "greet", "-o", "json").json()
    assert before["spec"] == after["spec"]
    done = prime("job", "apply", "jobs/greet/job.yaml", "--host", agent.url, folder=folder)
    assert done.out.startswith("applied 1 job")


def test_nothing_is_sent_where_one_job_has_errors(applied: Prime, folder: Path) -> None:
    shell_job(folder, "good", "true")
    (folder / "jobs" / "bad.d").mkdir()
    (folder / "jobs" / "bad.d" / "job.yaml").write_text("name: bad\nwidnow: 1\n")
    done = applied("job", "apply")
    assert done.code == 4
    assert "jobs/bad.d/job.yaml:2:1: error: widnow: unknown key" in done.err
    assert "widnow: 1\n    ^\n" in done.err
    assert [one["name"] for one in applied("job", "list", "-o", "json").json()["jobs"]] == ["greet"]


def test_what_only_the_agent_can_see_is_shown_with_its_place(ask: Prime, folder: Path) -> None:
    done = ask("job", "apply", "jobs")
    assert done.code == 4
    assert "jobs/greet/job.yaml:7:9: error: task.name: there is no plugin 'say'" in done.err
    assert "      name: say" in done.err
    assert "refused it: 2 errors (spec_invalid)" in done.err


def test_a_path_without_jobs_or_plugins_is_a_usage_error(ask: Prime, folder: Path) -> None:
    assert ask("job", "apply", "plugins").code == 2
    assert ask("plugin", "apply", "jobs/greet/job.yaml").code == 2
    (folder / "stray.yaml").write_text(SHELL.format(name="stray", script="true"))
    done = ask("job", "apply", "stray.yaml")
    assert (done.code, "lies in no namespace" in done.err) == (2, True)
    (folder / "plugins" / "say.yaml").write_text("name: [\n")
    done = ask("plugin", "apply")
    assert (done.code, "the project folder has errors" in done.err) == (2, True)


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_secret_comes_from_stdin_or_a_file_and_is_never_shown(ask: Prime, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"one\r\ntwo\n")
    assert ask("secret", "set", "KEY", "--file", tmp_path / "key.pem", "--namespace", "sales").code == 0
    assert ask("secret", "set", "TOKEN", "--file", "-", stdin="open sesame").code == 0
    listed = ask("secret", "list", "-o", "json")
    assert [(one["name"], one["namespace"]) for one in listed.json()["secrets"]] == [("TOKEN", ""), ("KEY", "sales")]
    assert "sesame" not in listed.out + ask("secret", "list").out
    assert ask("secret", "delete", "KEY").code == 4  # it is the namespace's, not the project's
    assert ask("secret", "delete", "KEY", "--namespace", "sales").code == 0
    for value, words in ((b"", "is empty"), (b"\xff", "is a UTF-8 text")):
        done = ask("secret", "set", "BAD", stdin=value)
        assert (done.code, words in done.err) == (2, True)


# -- running -----------------------------------------------------------------------------------------------------------


def test_a_secret_of_a_project_that_is_not_there_says_that_it_makes_it(ask: Prime) -> None:
    assert ask("secret", "set", "TOKEN", "-p", "shopping", stdin="x").code == 0
    made = ask("secret", "set", "TOKEN", "-p", "shoping", stdin="x")
    assert (made.code, made.out) == (0, "set TOKEN in shoping\n")
    assert "there was no project 'shoping', it is made by this; did you mean 'shopping'?" in made.err
    assert "no project" not in ask("secret", "set", "OTHER", "-p", "shoping", stdin="x").err


def test_a_run_from_asking_for_it_to_its_record(applied: Prime) -> None:
    done = applied("job", "run", "greet", "--at", "2026-03-02T02:00:00Z", "--wait", "-o", "json")
    assert done.code == 0, done.err
    run = done.json()["run"]
    assert (run["state"], run["job"], run["origin"]) == ("success", "greet", "manual")
    short = run["id"][:8]
    shown = applied("run", "show", short, "-o", "json").json()
    assert shown["run"]["id"] == run["id"]
    assert applied("run", "show", run["id"][:4].upper(), "-o", "json").json()["run"]["id"] == run["id"]
    assert shown["run"]["scheduled_at"] == "2026-03-02T02:00:00Z"
    text = applied("run", "show", short).out
    assert "greet  success" in text
    assert "bye" in text
    assert applied("run", "logs", short, "--instance", "say", "--stream", "stdout").out == "hello on 2026-03-01\n"
    whole = applied("run", "logs", short).out.splitlines()
    assert sorted(whole) == ["bye | bye", "say | hello on 2026-03-01", "say | to sales"]
    assert applied("run", "logs", short, "--attempt", "1", "--tail", "1", "--timestamps").out.count("Z std") == 1
    (say, _bye) = applied("run", "assets", short, "-o", "json").json()["assets"]
    assert say["assets"] == {"words.txt": "hello on 2026-03-01"}
    assert say["secrets"] == {"TOKEN": "***"}
    assert "TOKEN=***" in applied("run", "assets", short, "--instance", "say").out
    assert "success" in applied("run", "explain", short).out
    assert len(applied("run", "explain", short, "-o", "json").json()["explanations"]) == 2
    project = run["project"]
    table = applied("run", "list", "--project", project, "--state", "success", "--since", "1h").out
    assert table.splitlines()[0].split()[4:7] == ["ORIGIN", "SCHEDULED", "CREATED"]
    assert f"{short}" in table
    assert " 2026-03-02T02:00:00Z " in table
    listed = applied("run", "list", "-p", project, "--limit", "1", "-o", "json").json()
    assert [one["id"] for one in listed["runs"]] == [run["id"]]
    assert applied("run", "wait", short).code == 0


def test_two_runs_of_a_job_are_told_apart(applied: Prime) -> None:
    first = applied("job", "run", "greet", "--at", "2026-03-02", "--wait", "-o", "json").json()["run"]["id"]
    config = "WHO=you, and me,EXTRA=1"
    second = applied("job", "run", "greet", "--at", "2026-03-03", "--config", config, "--wait", "-o", "json")
    second_id = second.json()["run"]["id"]
    diff = applied("run", "diff", second_id, "-o", "json").json()
    assert diff["against"] == first
    changes = {one["what"]: (one["before"], one["after"]) for one in diff["changes"]}
    assert changes["say.env.WHO"] == ("sales", "you, and me")
    assert changes["say.env.EXTRA"] == (None, "1")
    text = applied("run", "diff", second_id, first)
    assert (text.code, "+hello on 2026-03-02" in text.out) == (0, True)
    assert applied("run", "diff", first).code == 4


def test_job_run_alone_prints_the_id_and_the_same_request_id_gets_the_same_run(applied: Prime) -> None:
    words = ("job", "run", "greet", "--request-id", "monday", "--at", "2026-03-02")
    first, again = applied(*words), applied(*words)
    assert first.out == again.out
    assert len(first.out) == 17
    assert "prime run logs" in first.err
    assert "was asked for before" in again.err
    conflict = applied(*words, "--config", "WHO=x")
    assert (conflict.code, "idempotency_conflict" in conflict.err) == (4, True)
    assert applied("job", "run", "greet", "--request-id", "").code == 2
    assert applied("job", "run", "greet", "--config", "WHO").code == 2
    assert applied("job", "run").code == 2


def test_a_failed_run_ends_with_exit_code_1_and_can_be_run_again(applied: Prime) -> None:
    done = applied("job", "run", "greet", "--config", "EXIT=3", "--wait")
    assert done.code == 1
    assert "exit_code" in done.out
    (run,) = applied("run", "list", "--job", "greet", "--state", "failed", "--limit", "1", "-o", "json").json()["runs"]
    assert "runs again" in applied("run", "retry", run["id"]).out
    assert applied("run", "wait", run["id"], "-o", "json").code == 1
    assert applied("run", "clear", run["id"], "--instance", "say", "--downstream", "-o", "json").code == 0
    final = applied("run", "wait", run["id"], "-o", "json")
    assert len(final.json()["run"]["instances"][0]["attempts"]) == 3
    assert applied("run", "clear", run["id"], "--instance", "nope").code == 4


def test_follow_shows_states_and_output_by_instance(applied: Prime) -> None:
    done = applied("job", "run", "greet", "--at", "2026-03-02", "--follow")
    assert done.code == 0
    lines = done.out.splitlines()
    assert "say | hello on 2026-03-01" in lines
    assert "say ! to sales" in lines
    assert "bye | bye" in lines
    assert lines.index("say | hello on 2026-03-01") < lines.index("say = success") < lines.index("bye = success")
    assert lines[-1] == "run = success"
    assert "\x1b" not in done.out
    failed = applied("job", "run", "greet", "--config", "EXIT=3", "--follow", "-o", "json")
    assert (failed.code, failed.json()["run"]["state"]) == (1, "failed")
    assert "say = failed (exit_code)" in failed.err
    run_id = failed.json()["run"]["id"]
    again = applied("run", "logs", run_id, "-f", "--stream", "stderr", "--timestamps")
    assert [line.split()[-2:] for line in again.out.splitlines() if "!" in line] == [["to", "sales"]]


def test_logs_follow_one_instance_byte_for_byte(applied: Prime, folder: Path) -> None:
    shell_job(folder, "binary", "true")
    (folder / "jobs/binary/job.yaml").write_text(
        "version: 2\nname: binary\nowner: me\ntask:\n  name: shell\n  config:\n    SCRIPT: printf 'a\\377b\\nno end'\n"
    )
    assert applied("job", "apply").code == 0
    run_id = applied("job", "run", "binary").out.strip()
    done = subprocess.run(
        [*PROGRAM, "run", "logs", run_id, "-f", "--host", _url(applied)], capture_output=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [b"a\xffb", b"no end"]
    assert applied("run", "logs", run_id, "-f", "--tail", "1").code == 2


def _url(asked: Prime) -> str:
    url: str = asked("cluster", "status", "-o", "json").json()["agents"][0]["http"]
    return url


def test_a_run_that_waits_is_explained_marked_and_cancelled(applied: Prime, folder: Path, tmp_path: Path) -> None:
    shell_job(folder, "gated", WAITS.format(gate=tmp_path / "gate"))
    assert applied("job", "apply").code == 0
    run_id = applied("job", "run", "gated").out.strip()
    assert applied("run", "retry", run_id).code == 4  # it has not ended
    assert "shell" in applied("run", "explain", run_id).out
    assert "is being cancelled" in applied("run", "cancel", run_id).out
    assert applied("run", "wait", run_id, "-o", "json").json()["run"]["state"] == "cancelled"
    assert applied("run", "cancel", run_id).code == 4
    other = applied("job", "run", "gated").out.strip()
    assert applied("run", "mark", other, "success", "--instance", "shell", "-o", "json").code == 0
    assert applied("run", "wait", other).code == 0


def test_interrupting_who_follows_leaves_the_run_alone(applied: Prime, folder: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shell_job(folder, "long", f"echo begun; {WAITS.format(gate=gate)}")
    assert applied("job", "apply").code == 0
    run_id = applied("job", "run", "long").out.strip()
    for words in (["run", "logs", run_id, "-f"], ["run", "wait", run_id]):
        program = ["env", "--default-signal=INT", *PROGRAM]  # whoever runs the tests in the background ignores it
        with subprocess.Popen(
            [*program, *words, "--host", _url(applied)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watcher:
            assert watcher.stdout is not None
            if words[1] == "logs":
                assert watcher.stdout.readline() == "begun\n"
            else:
                _wait_until(lambda: _is_waiting(watcher.pid))
            watcher.send_signal(signal.SIGINT)
            _out, err = watcher.communicate(timeout=30)
        assert watcher.returncode == 130, err
        assert "the run goes on" in err
        assert "Traceback" not in err
    gate.touch()
    assert applied("run", "wait", run_id).code == 0


def _is_waiting(pid: int) -> bool:
    """Whether the process is connected: it asks, and waits for the answer. (urllib3 opens a socket when imported.)"""
    try:
        links = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    except FileNotFoundError:
        return False
    return any(f"socket:[{row[9]}]" in links and row[3] == ESTABLISHED for row in rows)


def _wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_spec_that_was_never_applied_is_run_from_its_file(
    ask: Prime, agent: AgentProcess, folder: Path, tmp_path: Path
) -> None:
    shell_job(folder, "once", "cat $JOB_DIR/in/a.txt")
    (folder / "jobs/once/assets").mkdir()
    (folder / "jobs/once/assets/a.txt").write_text("an asset")
    run = ask("job", "run", "-f", "jobs/once/job.yaml", "--wait", "-o", "json").json()["run"]
    assert (run["state"], run["namespace"]) == ("success", "sales")
    assert ask("run", "logs", run["id"]).out == "an asset"
    assert "once" not in ask("job", "list").out
    elsewhere = ask("job", "run", "-f", "jobs/once/job.yaml", "--namespace", "mine", "--wait", "-o", "json")
    assert elsewhere.json()["run"]["namespace"] == "mine"
    (tmp_path / "lone.yaml").write_text(SHELL.format(name="lone", script="true"))
    lone = prime("job", "run", "-f", "lone.yaml", "--wait", "-o", "json", "--host", agent.url, folder=tmp_path)
    assert (lone.json()["run"]["project"], lone.json()["run"]["namespace"]) == ("adhoc", "adhoc")
    (tmp_path / "wrong.yaml").write_text("name: wrong\n")
    wrong = prime("job", "run", "-f", "wrong.yaml", "--host", agent.url, folder=tmp_path)
    assert (wrong.code, "wrong.yaml:1:1: error: version" in wrong.err) == (4, True)
    (tmp_path / "wrong.yaml").write_bytes(b"\xff")
    assert prime("job", "run", "-f", "wrong.yaml", "--host", agent.url, folder=tmp_path).code == 2


def test_params_are_given_one_by_one_and_a_run_with_nothing_to_do_went_well(
    agent: AgentProcess, tmp_path: Path
) -> None:
    script = "echo {{ .params.word }}; exit {{ .params.code }}"
    task = SHELL.format(name="asked", script=script).replace("task: {", "task: {skip_exit_code: 99, ")
    spec = task + "params: {word: {}, code: {type: integer}}\n"
    (tmp_path / "asked.yaml").write_text(spec)

    def ask(*words: str) -> Answer:
        return prime("job", "run", "-f", "asked.yaml", "--host", agent.url, *words, folder=tmp_path)

    done = ask("--param", "word=a,b=c", "--param", "code=0", "--wait", "-o", "json")
    run_id = done.json()["run"]["id"]
    assert prime("run", "logs", run_id, "--host", agent.url).out == "a,b=c\n"
    (shown,) = prime("run", "assets", run_id, "-o", "json", "--host", agent.url).json()["assets"]
    assert shown["params"] == {"word": "a,b=c", "code": 0}
    skipped = ask("--param", "word=x", "--param", "code=99", "--wait", "-o", "json")
    assert (skipped.code, skipped.json()["run"]["state"]) == (0, "skipped")
    refused = ask("--param", "wrod=x", "--param", "code=no")
    assert refused.code == 4
    for words in ("did you mean 'word'?", "a whole number is expected, not 'no'", "params.word: a text is required"):
        assert words in refused.err
    for wrong, words in (
        (("--param", "word"), "NAME=VALUE is expected"),
        (("--param", "word=a", "--param", "word=b"), "--param word is given twice"),
    ):
        assert (ask(*wrong).code, words in ask(*wrong).err) == (2, True)


# -- the way to an agent -----------------------------------------------------------------------------------------------


def test_no_agent_is_exit_code_3_with_the_address_and_how_to_start_one() -> None:
    done = prime("run", "list", folder=SHOP)  # its optimus.yaml names a host where nobody is
    assert done.code == 3
    assert "http://127.0.0.1:1: [Errno 111] Connection refused" in done.err
    assert "prime dev" in done.err
    asked = prime("job", "run", "sales.daily", folder=SHOP)
    assert (asked.code, "add --request-id" in asked.err) == (3, True)
    again = prime("job", "run", "sales.daily", "--request-id", "x", folder=SHOP)
    assert (again.code, "add --request-id" in again.err) == (3, False)


def test_the_host_is_an_option_anywhere_else_a_variable_else_the_projects(agent: AgentProcess, tmp_path: Path) -> None:
    for words in (
        ["--host", agent.url, "project", "list"],
        ["project", "--host", agent.url, "list"],
        ["project", "list", "--host", agent.url],
        ["--host", NOBODY, "project", "list", "--host", f"{NOBODY},{agent.url}"],
        ["project", "list", "--host", agent.url.removeprefix("http://")],
    ):
        assert prime(*words, "-o", "json", folder=tmp_path).code == 0, words
    assert prime("project", "list", folder=SHOP, env={"PRIME_HOST": agent.url}).code == 0
    assert prime("--host", NOBODY, "project", "list", env={"PRIME_HOST": agent.url}).code == 3
    (tmp_path / "optimus.yaml").write_text(f"host: {agent.url}\nproject: {{name: p}}\n")
    assert prime("project", "list", folder=tmp_path).code == 0
    assert prime("project", "list", "--host", ",").code == 2


def test_a_refusal_is_exit_code_4_with_the_nearest_name(applied: Prime) -> None:
    done = applied("job", "run", "gret")
    assert done.code == 4
    assert "there is no job" in done.err
    assert "did you mean 'greet'?" in done.err
    assert applied("run", "show", "zzzzzzzz").code == 4


def test_a_command_that_needs_a_project_takes_its_name_where_there_is_no_folder(
    agent: AgentProcess, tmp_path: Path
) -> None:
    done = prime("job", "list", "--host", agent.url, folder=tmp_path)
    assert (done.code, "--project" in done.err) == (2, True)
    assert prime("job", "list", "--host", agent.url, "--project", "nope", folder=tmp_path).code == 4


def test_the_cluster_is_shown(ask: Prime) -> None:
    answer = ask("cluster", "status", "-o", "json").json()
    assert [one["role"] for one in answer["agents"]] == ["leader"]
    assert "process" in ask("cluster", "status").out


# -- starting agents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "why"),
    [
        (["--join", "a:1"], 2, "--join needs --cluster-key FILE"),
        (["--bootstrap-expect", "3"], 2, "--bootstrap-expect 3: goes with --join"),
        (["--cluster-key", "f"], 1, "f: there is no key file; make one with `prime cluster key new --out f`"),
        (["--join", "a:1,b", "--cluster-key", "f"], 2, "--join 'b': HOST:PORT is expected"),
        (["--bind", "0.0.0.0:1"], 2, "--bind 0.0.0.0:1: an address that others can reach needs the cluster's key"),
        (["--labels", "gpu"], 2, "--labels 'gpu': NAME=VALUE is expected"),
        (["--labels", "a=1,a=2"], 2, "--labels a: is given twice"),
    ],
)
def test_flags_of_clusters_are_refused_with_a_word_why(flags: list[str], code: int, why: str, tmp_path: Path) -> None:
    done = prime("agent", "start", "--data-dir", tmp_path / "d", "--http", "127.0.0.1:0", *flags)
    assert (done.code, why in done.err) == (code, True), done.err


def test_settings_of_an_agent_are_variables_too(tmp_path: Path) -> None:
    done = prime("agent", "start", env={"PRIME_DATA_DIR": str(tmp_path / "d"), "PRIME_HTTP": "nowhere"})
    assert (done.code, "--http 'nowhere'" in done.err) == (2, True)
    assert prime("dev", "--http", "nonsense", "--data-dir", tmp_path / "d").code == 2


def test_dev_applies_the_project_one_stands_in_and_keeps_its_data_out_of_git(folder: Path) -> None:
    shell_job(folder, "hello", "echo hello from dev")
    (folder / "jobs" / "bad").mkdir()
    (folder / "jobs" / "bad" / "job.yaml").write_text("name: bad\n")
    with subprocess.Popen(
        [*PROGRAM, "dev", "--agents", "1", "--http", "127.0.0.1:0"],
        cwd=folder / "jobs", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as agent:  # fmt: skip
        try:
            assert agent.stdout is not None
            lines: list[str] = []
            while not lines or not lines[-1].startswith("try: "):
                lines.append(agent.stdout.readline())
                assert lines[-1], lines
            url = lines[0].split("answers at ")[1].split(";")[0]
            done = prime("job", "run", "hello", "--wait", "--host", url, folder=folder)
            assert done.code == 0, done.err
        finally:
            agent.send_signal(signal.SIGINT)
            _out, err = agent.communicate(timeout=30)
    assert agent.returncode == 0
    assert "bad/job.yaml:1:1: error: version" in err
    assert "bad/job.yaml was not applied" in err
    assert (folder / ".prime" / "runs.db").exists()
    assert (folder / ".prime" / ".gitignore").read_text() == "*\n"


class Told(Client):
    """A client that tells when it has begun to wait for a run."""

    def __init__(self, hosts: list[str]) -> None:
        super().__init__(hosts)
        self.waits = threading.Event()

    def poll(self, path: str, timeout_s: int) -> Any:
        self.waits.set()
        return super().poll(path, timeout_s)


def test_who_waits_or_follows_sees_the_end_although_the_agent_was_killed_meanwhile(
    folder: Path, tmp_path: Path
) -> None:
    """P1: the run goes on without its agent, and so does who watches it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    one = AgentProcess(tmp_path / "own", "--executors", "process", "--http", address)
    one.start()
    try:
        gate = tmp_path / "gate"
        shell_job(folder, "long", f"echo begun; {WAITS.format(gate=gate)}")
        assert prime("--host", address, "job", "apply", "jobs/long", folder=folder).code == 0
        run_id = prime("--host", address, "job", "run", "long", folder=folder).out.strip()
        client = Told([f"http://{address}"])
        follow = [*PROGRAM, "--host", address, "run", "logs", run_id, "-f"]
        with ThreadPoolExecutor(1) as pool, subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as follower:
            waiter = pool.submit(wait_for_run, client, run_id)
            assert follower.stdout is not None
            assert follower.stdout.readline() == "begun\n"
            assert client.waits.wait(30)
            one.kill()
            one.start()
            gate.touch()
            assert follower.communicate(timeout=60)[0] == "through\n"
            assert waiter.result(timeout=60)["state"] == "success"
        assert follower.returncode == 0
    finally:
        one.stop()

"""The project in `examples/` on a real agent, its containers run as local processes: the tour that a new user makes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import Answer, prime
from tests.cli.test_examples import EXAMPLES
from tests.e2e.agents import PROGRAM, AgentProcess

pytestmark = pytest.mark.e2e

Prime = Callable[..., Answer]
AT = "2026-03-02T02:00:00Z"
DAILY, BROKEN = "sales.daily-orders", "sales.broken-import"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prime]:
    """`prime` in a copy of the examples that is applied to an agent which mirrors its runs to SQLite."""
    base = tmp_path_factory.mktemp("shop")
    folder = shutil.copytree(EXAMPLES, base / "examples", ignore=shutil.ignore_patterns(".prime"))
    file = folder / "optimus.yaml"
    text = file.read_text()
    assert "    executor: docker\n" in text
    file.write_text(text.replace("    executor: docker\n", "    executor: process\n"))
    agent = AgentProcess(base / "data", "--executors", "process", "--database", f"sqlite:///{base / 'runs.db'}")
    agent.start()

    def ask(*words: str | Path, **how: Any) -> Answer:
        return prime("--host", agent.url, *words, folder=folder, **how)

    try:
        for words, out in (
            (("project", "apply"), "applied project shop\n"),
            (("plugin", "apply"), "applied 5 plugins to project shop: "),
            (("job", "apply"), "applied 3 jobs to project shop: "),
        ):
            done = ask(*words)
            assert (done.code, done.out.startswith(out)) == (0, True), done
        done = ask("secret", "set", "WAREHOUSE_PASSWORD", stdin="open sesame\n")
        assert (done.code, done.out) == (0, "set WAREHOUSE_PASSWORD in shop\n")
        yield ask
    finally:
        agent.stop()


def ran(shop: Prime, *words: str, code: int = 0) -> dict[str, Any]:
    """A run, once it has ended."""
    done = shop("job", "run", *words, "--wait", "-o", "json")
    assert done.code == code, done
    run: dict[str, Any] = done.json()["run"]
    return run


def test_a_run_of_the_daily_job_goes_through_its_hooks_in_order(shop: Prime) -> None:
    done = shop("job", "run", DAILY, "--at", AT, "--follow")
    assert done.code == 0, done
    lines = [line.strip() for line in done.out.splitlines()]
    order = ["freshness = success", "sql = success", "profile = success", "publish = success", "run = success"]
    assert [line for line in lines if line in order] == order
    assert "sql | logged in to warehouse as loader" in lines
    assert "sql | where created_at >= '2026-03-01' and created_at < '2026-03-02'" in lines
    assert "publish | published sales.orders for 2026-03-01T00:00:00Z, 42 rows" in lines
    assert not any(line.startswith("page |") for line in lines)
    assert "sesame" not in done.out + done.err


def test_what_was_rendered_is_what_compile_tells_beforehand(shop: Prime) -> None:
    told = shop("job", "compile", DAILY, "--at", AT, "-o", "json").json()
    run = ran(shop, DAILY, "--at", AT)
    (sql,) = shop("run", "assets", run["id"], "--instance", "sql", "-o", "json").json()["assets"]
    assert sql["window"] == told["window"]
    assert sql["assets"] == told["assets"]
    assert sql["secrets"] == told["secrets"] == {"WAREHOUSE_PASSWORD": "***"}
    same = told["envs"].keys() - {"EXECUTION_TIME"}  # it is when the run began
    assert {key: sql["envs"][key] for key in same} == {key: told["envs"][key] for key in same}
    shown = shop("run", "assets", run["id"], "--attempt", "1", "--instance", "sql").out
    assert "WAREHOUSE_PASSWORD=***\n" in shown
    assert "--- query.sql\ninsert into toy://warehouse/sales.orders\n" in shown


def test_a_job_that_fails_runs_its_fail_hook_and_not_its_post_hook(shop: Prime) -> None:
    run = ran(shop, BROKEN, "--at", AT, code=1)
    assert run["state"] == "failed"
    states = {one["name"]: one["state"] for one in run["instances"]}
    assert states == {"sql": "failed", "publish": "upstream_failed", "page": "success"}
    (attempt,) = next(one for one in run["instances"] if one["name"] == "sql")["attempts"]
    assert attempt["exit_code"] == 3
    stderr = shop("run", "logs", run["id"], "--instance", "sql", "--stream", "stderr")
    assert stderr.out == "the warehouse said no\n"
    assert shop("run", "logs", run["id"], "--instance", "page").out == f"paging sales: {BROKEN} of {AT} failed\n"
    assert shop("run", "wait", run["id"]).code == 1


def test_a_config_override_mends_a_run_and_is_seen_in_the_diff(shop: Prime) -> None:
    failed = ran(shop, BROKEN, "--at", AT, code=1)
    mended = ran(shop, BROKEN, "--at", AT, "--config", "FAIL_WITH=0")
    changes = shop("run", "diff", mended["id"], failed["id"], "-o", "json").json()["changes"]
    assert {"what": "sql.env.FAIL_WITH", "before": "3", "after": "0"} in changes


def test_the_weekly_job_shows_its_window_from_a_preset(shop: Prime) -> None:
    run = ran(shop, "sales.weekly-report", "--at", AT)
    logs = shop("run", "logs", run["id"], "--instance", "sql", "--tail", "100").out
    assert "where day between '2026-02-23' and '2026-03-02'\n" in logs


def test_the_last_lines_come_with_times_and_streams(shop: Prime) -> None:
    run = ran(shop, DAILY, "--at", AT)
    (line,) = shop("run", "logs", run["id"], "--instance", "sql", "--tail", "1", "--timestamps").out.splitlines()
    time, stream, words = line.split(" ", 2)
    assert time.endswith("Z")
    assert (stream, words) == ("stdout", "rows loaded into toy://warehouse/sales.orders")
    followed = shop("run", "logs", run["id"], "--instance", "sql", "-f", "--timestamps").out
    assert followed.splitlines()[-1] == line
    assert shop("run", "logs", run["id"], "--instance", "sql", "-f").out.endswith(
        "\nrows loaded into toy://warehouse/sales.orders\n"
    )


def test_what_a_task_has_put_out_is_shown(shop: Prime) -> None:
    run = ran(shop, DAILY, "--at", AT)
    lines = shop("run", "outputs", run["id"], "--instance", "sql").out.splitlines()
    assert [line.split() for line in lines] == [
        ["INSTANCE", "ATTEMPT", "KEY", "VALUE"],
        ["sql", "1", "destination", '"toy://warehouse/sales.orders"'],
        ["sql", "1", "rows", "42"],
    ]
    shown = shop("run", "outputs", run["id"], "-o", "json").json()["outputs"]
    assert [one["instance"] for one in shown] == ["freshness", "sql", "profile", "publish"]


def test_what_succeeded_is_run_again_only_when_all_is_asked_for(shop: Prime) -> None:
    run = ran(shop, DAILY, "--at", AT)
    refused = shop("run", "retry", run["id"])
    assert refused.code == 4, refused
    assert shop("run", "retry", run["id"], "--all").code == 0
    again = shop("run", "wait", run["id"], "-o", "json").json()["run"]
    attempts = {one["name"]: len(one["attempts"]) for one in again["instances"]}
    assert attempts == {"freshness": 2, "sql": 2, "profile": 2, "publish": 2, "page": 0}


def test_lists_go_on_where_they_ended(shop: Prime) -> None:
    asked = [shop("job", "run", DAILY, "--request-id", f"page {n}").out.strip() for n in range(3)]
    for run_id in asked:
        assert shop("run", "wait", run_id).code == 0
    found: list[str] = []
    words: list[str] = []
    while len(found) < 3:
        page = shop("run", "list", "-p", "shop", "--job", DAILY, "--limit", "1", *words, "-o", "json").json()
        found += [one["id"] for one in page["runs"]]
        words = ["--cursor", page["next_cursor"]]
    assert found == asked[::-1]
    text = shop("run", "list", "--limit", "1")
    assert text.out.splitlines()[0].split() == [
        "RUN",
        "JOB",
        "STATE",
        "REASON",
        "ORIGIN",
        "SCHEDULED",
        "CREATED",
        "TOOK",
        "BY",
    ]
    assert "there are more: --cursor " in text.err


def test_what_is_applied_is_listed_as_tables(shop: Prime) -> None:
    assert shop("project", "list").out.splitlines()[1].split() == ["shop", "sales", "2"]
    assert shop("project", "apply", "-o", "json").json() == {"project": "shop"}
    jobs = shop("job", "list").out.splitlines()
    assert [line.split()[0] for line in jobs] == ["NAME", BROKEN, DAILY, "sales.weekly-report"]
    assert shop("job", "apply", "-o", "json").json() == {
        "project": "shop", "jobs": [BROKEN, DAILY, "sales.weekly-report"],
    }  # fmt: skip
    shown = shop("job", "show", DAILY).out
    assert shown.startswith("# shop/sales, applied ")
    assert "# asset query.sql " in shown


def test_a_job_whose_name_another_namespace_has_keeps_all_jobs_of_the_folder_out(shop: Prime, tmp_path: Path) -> None:
    job = "version: 2\nname: {}\nowner: me\ntask: {{name: shell, config: {{SCRIPT: echo}}}}\n"
    for path, name in (("a/one", "twin"), ("a/two", "other"), ("b/three", "twin")):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "job.yaml").write_text(job.format(name))
    names = "[{name: a, job: {path: a}}, {name: b, job: {path: b}}]"
    (tmp_path / "optimus.yaml").write_text(f"project: {{name: twins}}\nnamespaces: {names}\n")
    done = shop("job", "apply", tmp_path)
    assert done.code == 4
    assert "b/three/job.yaml:2:7: error: name: the name twin is taken by a/one/job.yaml" in done.err
    assert "nothing was applied: 1 error" in done.err
    assert "twins" not in shop("project", "list").out


def test_a_folder_is_applied_in_requests_of_a_bounded_size(shop: Prime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.apply.APPLY_BATCH_BYTES", 1000)  # less than two jobs
    done = shop("job", "apply", "-o", "json")
    assert done.json()["jobs"] == [BROKEN, DAILY, "sales.weekly-report"]


def test_the_cluster_says_how_far_its_database_is(shop: Prime) -> None:
    answer = shop("cluster", "status", "-o", "json").json()
    assert answer["mirror"]["error"] in (None, "")
    assert "finished runs behind" in shop("cluster", "status").out


def test_the_cluster_is_watched_until_it_is_interrupted(shop: Prime) -> None:
    url = shop("cluster", "status", "-o", "json").json()["agents"][0]["http"]
    watch = ["env", "--default-signal=INT", *PROGRAM, "cluster", "status", "--watch", "--host", url]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        heads = [line for line in (watcher.stdout.readline() for _ in range(5)) if line.startswith("cluster ")]
        watcher.send_signal(signal.SIGINT)
        _out, err = watcher.communicate(timeout=30)
    assert len(heads) == 2  # each time: the cluster, two lines of a table, the database
    assert (watcher.returncode, err) == (130, "")

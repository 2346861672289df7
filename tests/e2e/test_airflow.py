"""The example DAG's own functions against a real agent. Tiny modules stand for Airflow."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agent.client import Client, path
from tests.e2e.agents import JOB, AgentProcess
from tests.e2e.cluster import free_ports, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DAG_FILE = Path(__file__).parents[2] / "examples" / "airflow" / "prime_dag.py"
AT = datetime(2026, 3, 2, tzinfo=UTC)


class Airflow:
    """What the file finds of Airflow when it is read: tasks are kept, and nothing is scheduled."""

    class AirflowException(Exception):
        """As Airflow's."""

    class AirflowSkipException(AirflowException):
        """As Airflow's."""

    class DAG:
        """As Airflow's, as far as the file goes."""

        def __init__(self, dag_id: str, **_options: Any) -> None:
            self.dag_id = dag_id

        def __enter__(self) -> Airflow.DAG:
            return self

        def __exit__(self, *_error: object) -> None:
            return None

    class PythonOperator:
        """As Airflow's, as far as the file goes."""

        def __init__(self, *, task_id: str, python_callable: Any, op_kwargs: Any = None, **callbacks: Any) -> None:
            self.task_id, self.python_callable, self.op_kwargs = task_id, python_callable, op_kwargs or {}
            self.callbacks = callbacks
            self.after: list[Any] = []

        def __rshift__(self, other: Any) -> Any:
            other.after.append(self)
            return other


@pytest.fixture(scope="module")
def dag() -> Iterator[ModuleType]:
    parts: dict[str, dict[str, Any]] = {
        "airflow": {"DAG": Airflow.DAG},
        "airflow.exceptions": {
            "AirflowException": Airflow.AirflowException,
            "AirflowSkipException": Airflow.AirflowSkipException,
        },
        "airflow.operators": {},
        "airflow.operators.python": {"PythonOperator": Airflow.PythonOperator},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, names in parts.items():
            module = ModuleType(name)
            vars(module).update(names)
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("prime_dag", DAG_FILE)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        patch.setattr(loaded, "PAUSE_S", 0.05)
        yield loaded


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    one = AgentProcess(tmp_path_factory.mktemp("airflow") / "data", "--executors", "process")
    one.start()
    yield one
    one.stop()


@pytest.fixture
def client(agent: AgentProcess, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Of the agent; the DAG asks one that is not there first."""
    (nobody,) = free_ports(1)
    monkeypatch.setenv("PRIME_HOST", f"http://127.0.0.1:{nobody}, {agent.url}/")
    found = Client([agent.url])
    found.put(path("projects", "shop"), {})
    return found


def apply(client: Client, name: str, script: str) -> None:
    body = {"specs": [{"path": f"{name}/job.yaml", "yaml": JOB.format(name=name, script=f"      {script}")}]}
    client.post(path("projects", "shop", "namespaces", "n", "jobs"), body)


def context(dag: ModuleType, task: str, try_number: int = 1, run_id: str = "scheduled__1") -> dict[str, Any]:
    """What Airflow gives a task."""
    return {
        "dag": dag.dag,
        "run_id": run_id,
        "data_interval_end": AT,
        "ti": SimpleNamespace(task_id=task, try_number=try_number),
    }


def runs(client: Client, **wanted: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(path("runs"), **wanted)["runs"]
    return found


def test_the_file_is_a_dag_that_reports_its_own_work_and_runs_jobs_behind_it(dag: ModuleType) -> None:
    assert dag.after.task_id == dag.JOBS[-1]
    assert [one.task_id for one in dag.after.after] == [dag.REPORTED]
    assert dag.after.op_kwargs == {"job": dag.JOBS[-1]}


def test_a_task_runs_a_job_once_however_often_it_is_tried(dag: ModuleType, client: Client) -> None:
    apply(client, "daily_sales", "true")
    run_id = dag.prime_task("daily_sales", **context(dag, "daily_sales"))
    again = dag.prime_task("daily_sales", **context(dag, "daily_sales", try_number=2))
    (run,) = runs(client, job="daily_sales")
    assert {run_id, again} == {run["id"]}
    assert (run["scheduled_at"], run["requested_by"]) == ("2026-03-02T00:00:00Z", "airflow")
    other = dag.prime_task("daily_sales", **context(dag, "daily_sales", run_id="scheduled__2"))
    assert other != run_id


def test_a_failure_fails_the_task_and_its_next_try_runs_again_what_failed(
    dag: ModuleType, client: Client, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    apply(client, "breaks", f"test -e {mended}")
    with pytest.raises(dag.PrimeError, match=r"failed \(exit_code\)"):
        dag.prime_task("breaks", **context(dag, "breaks"))
    mended.touch()
    run_id = dag.prime_task("breaks", **context(dag, "breaks", try_number=2))
    (run,) = runs(client, job="breaks")
    assert (run["id"], len(run["instances"][0]["attempts"])) == (run_id, 2)
    dag.retry(apply_and_start(dag, client, tmp_path))  # it goes on: nothing is wrong with that


def apply_and_start(dag: ModuleType, client: Client, tmp_path: Path) -> str:
    apply(client, "goes_on", f"while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done")
    run_id: str = dag.submit("shop", "goes_on", AT, "k")["id"]
    return run_id


def test_a_task_that_is_killed_takes_its_run_with_it(
    dag: ModuleType, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(client, "long", f"while [ ! -e {tmp_path}/never ]; do sleep 0.05; done")
    waits = threading.Event()

    def killed(run_id: str) -> None:
        until(lambda: client.get(path("runs", run_id))["run"]["state"] == "running", "it runs")
        waits.set()
        raise SystemExit(143)  # as Airflow's SIGTERM handler raises in the task

    monkeypatch.setattr(dag, "wait", killed)
    with pytest.raises(SystemExit):
        dag.prime_task("long", **context(dag, "long"))
    assert waits.is_set()
    until(lambda: runs(client, job="long")[0]["state"] == "cancelled", "it is cancelled")
    dag.cancel(runs(client, job="long")[0]["id"])  # once more is no error


def test_a_run_with_nothing_to_do_skips_the_task(dag: ModuleType, client: Client) -> None:
    text = JOB.format(name="nothing", script="      exit 99").replace(
        "name: shell", "name: shell\n  skip_exit_code: 99"
    )
    body = {"specs": [{"path": "nothing/job.yaml", "yaml": text}]}
    client.post(path("projects", "shop", "namespaces", "n", "jobs"), body)
    with pytest.raises(Airflow.AirflowSkipException):
        dag.prime_task("nothing", **context(dag, "nothing"))


def test_what_airflow_did_itself_is_reported_and_a_later_success_takes_its_place(
    dag: ModuleType, client: Client
) -> None:
    dag.report_failure(context(dag, dag.REPORTED))
    dag.report_failure(context(dag, dag.REPORTED))
    dag.report_success(context(dag, dag.REPORTED))
    found = runs(client, job=dag.REPORTED, origin="external")
    assert [one["state"] for one in found] == ["success", "failed"]


def test_a_refusal_is_told_with_its_reason_and_agents_that_are_away_with_theirs(
    dag: ModuleType, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(dag.PrimeError, match="unknown_job"):
        dag.submit("shop", "nowhere", AT, "key")
    (nobody,) = free_ports(1)
    monkeypatch.setenv("PRIME_HOST", f"http://127.0.0.1:{nobody}")
    with pytest.raises(dag.PrimeError, match="no agent of prime answers"):
        dag.ask("GET", "/readyz", patience_s=0)
    assert client.hosts

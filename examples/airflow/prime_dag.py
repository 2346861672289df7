"""An Airflow DAG that runs prime jobs, and tells prime what Airflow itself has run.

Copy this file to Airflow's dags/ and change what stands under "What to change". It needs Airflow 2.4 or later and
nothing else: prime is asked over HTTP with the standard library.

Where to ask stands in the environment of Airflow's workers:

    PRIME_HOST    http://agent-1:9100,http://agent-2:9100     the first that answers is asked
    PRIME_TOKEN   a token of the role user, where the agents want one

A task of this DAG may be tried again, by Airflow or by hand, whenever it likes: the request carries the id of the DAG
run as its Idempotency-Key, so prime starts one run of it and every later try waits for that one. A run that has failed
is not run again by asking again: its next try tells prime to retry what failed in it.
"""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from airflow import DAG
from airflow.exceptions import AirflowException, AirflowSkipException
from airflow.operators.python import PythonOperator

# -- What to change ----------------------------------------------------------------------------------------------------

PROJECT = "shop"
JOBS = ["daily_sales"]  # jobs of prime that this DAG runs, one after another
REPORTED = "warehouse_load"  # the name under which prime jobs depend on what this DAG does itself

# -- How prime is asked ------------------------------------------------------------------------------------------------

ASK_S = 60  # longer than an answer is held back
WAIT_S = 30  # how long prime holds back an answer while the run goes on
PATIENCE_S = 300  # how long no agent need answer before the task gives up waiting
PAUSE_S = 2
AGAIN = {429, 502, 503, 504}  # "not now": nothing is wrong with what was asked


class PrimeError(AirflowException):
    """prime has refused something, or no agent answers."""


def hosts() -> list[str]:
    """The agents to ask, in order."""
    given = os.environ.get("PRIME_HOST", "http://127.0.0.1:9100")
    return [one.strip().rstrip("/") for one in given.split(",") if one.strip()]


def ask(method: str, path: str, body: Any = None, *, key: str = "", patience_s: float = PATIENCE_S) -> Any:
    """One request to whichever agent answers, again until patience_s is over. Returns the JSON of the answer.

    key: an Idempotency-Key. Everything that is asked here may be asked twice: reads, requests with a key, and cancels,
    retries and reports, of which the second changes nothing or is refused. Raises PrimeError.
    """
    until_s = time.monotonic() + patience_s
    while True:
        failures = []
        for host in hosts():
            try:
                return _ask_one(host + path, method, body, key)
            except HTTPError as error:
                detail = _detail(error)
                if error.code not in AGAIN:
                    raise PrimeError(f"prime refused {method} {path}: {detail}") from error
                failures.append(f"{host}: {detail}")
            except (URLError, OSError, ValueError) as error:
                failures.append(f"{host}: {error}")
        if time.monotonic() >= until_s:
            raise PrimeError(f"no agent of prime answers {method} {path}: {'; '.join(failures)}")
        time.sleep(PAUSE_S)


def _ask_one(url: str, method: str, body: Any, key: str) -> Any:
    headers = {"Content-Type": "application/json", "Prime-User": "airflow"}
    if key:
        headers["Idempotency-Key"] = key
    if os.environ.get("PRIME_TOKEN"):
        headers["Authorization"] = f"Bearer {os.environ['PRIME_TOKEN']}"
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, headers, method=method), timeout=ASK_S) as answer:  # noqa: S310  http(s) of our own
        return json.load(answer)


def _detail(error: HTTPError) -> str:
    try:
        problem = json.load(error)
        return f"{problem['detail']} ({problem['code']})"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"


def submit(project: str, job: str, at: datetime, key: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask for a run; the same key gets the same run. Returns it."""
    path = f"/api/v1/projects/{quote(project, safe='')}/jobs/{quote(job, safe='')}/runs"
    answer = ask("POST", path, {"scheduled_at": at.isoformat(), "params": params or {}}, key=key)
    run: dict[str, Any] = answer["run"]
    return run


def wait(run_id: str) -> dict[str, Any]:
    """The run, once it has ended. Agents that start anew or are exchanged meanwhile are waited for."""
    while True:
        run: dict[str, Any] = ask("GET", f"/api/v1/runs/{run_id}/wait?timeout={WAIT_S}")["run"]
        if run["finished_at"] is not None:
            return run


def run_job(project: str, job: str, at: datetime, key: str, *, try_number: int = 1, **params: Any) -> str:
    """Run a job of prime to its end. Returns the run's id, which is the task's XCom.

    key: one for each DAG run and task.  try_number: Airflow's; from the second on what has failed is retried in prime.
    Raises AirflowSkipException where the run had nothing to do, PrimeError where it did not succeed.
    """
    run = submit(project, job, at, key, params)
    print(f"prime run {run['id']} of {project}/{job}: {run['state']}")  # noqa: T201  Airflow keeps it as the task's log
    if try_number > 1 and run["state"] in {"failed", "cancelled", "upstream_failed"}:
        retry(run["id"])
    try:
        run = wait(run["id"])
    except BaseException:  # killed, timed out, marked by hand: nobody waits for it any more
        cancel(run["id"])
        raise
    if run["state"] == "skipped":
        raise AirflowSkipException(f"prime run {run['id']} had nothing to do")
    if run["state"] != "success":
        raise PrimeError(f"prime run {run['id']} {run['state']} ({run['reason']}): prime run show {run['id']}")
    run_id: str = run["id"]
    return run_id


def retry(run_id: str) -> None:
    """Run again what did not succeed. That it runs already is no error: an answer got lost."""
    try:
        ask("POST", f"/api/v1/runs/{run_id}/retry", {})
    except PrimeError:
        if ask("GET", f"/api/v1/runs/{run_id}")["run"]["finished_at"] is not None:
            raise


def cancel(run_id: str) -> None:
    """End a run. One that has ended already, or agents that do not answer, are no error: this is done while leaving."""
    try:
        ask("POST", f"/api/v1/runs/{run_id}/cancel", {}, patience_s=5)
    except PrimeError as error:
        print(f"prime run {run_id} was not cancelled: {error}")  # noqa: T201


def report(project: str, job: str, at: datetime, state: str) -> str:
    """Tell prime how Airflow's own work for a tick has ended: "success", "failed" or "skipped". Returns the id."""
    path = f"/api/v1/projects/{quote(project, safe='')}/jobs/{quote(job, safe='')}/imported"
    run_id: str = ask("POST", path, {"scheduled_at": at.isoformat(), "state": state})["run"]["id"]
    return run_id


# -- The tasks of the DAG ----------------------------------------------------------------------------------------------


def tick(context: dict[str, Any]) -> datetime:
    """The tick as prime counts it: Optimus' is the end of Airflow's data interval."""
    at: datetime = context["data_interval_end"]
    return at


def prime_task(job: str, **context: Any) -> str:
    """What a task that runs a job of prime calls."""
    instance = context["ti"]
    key = f"{context['dag'].dag_id}/{context['run_id']}/{instance.task_id}"
    return run_job(PROJECT, job, tick(context), key, try_number=instance.try_number)


def airflow_work(**context: Any) -> None:
    """Something that Airflow does itself."""
    print(f"loads the warehouse for {tick(context)}")  # noqa: T201


def report_success(context: dict[str, Any]) -> None:
    """Airflow's callback of a task that has succeeded."""
    report(PROJECT, REPORTED, tick(context), "success")


def report_failure(context: dict[str, Any]) -> None:
    """Airflow's callback of a task that has failed for good."""
    report(PROJECT, REPORTED, tick(context), "failed")


with DAG(
    dag_id="prime_example",
    schedule="@daily",
    start_date=datetime.fromisoformat("2026-01-01T00:00:00+00:00"),
    catchup=False,
    default_args={"retries": 1},
) as dag:
    before = PythonOperator(
        task_id=REPORTED,
        python_callable=airflow_work,
        on_success_callback=report_success,
        on_failure_callback=report_failure,
    )
    for name in JOBS:
        after = PythonOperator(task_id=name, python_callable=prime_task, op_kwargs={"job": name})
        before >> after
        before = after

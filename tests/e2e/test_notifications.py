"""Events and the death of who delivers them: every key comes, at least once, whoever leads (R23)."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.client import path
from tests.e2e.cluster import Cluster, cluster, submit, until, wait_final

pytestmark = pytest.mark.timeout(240)

JOB = """version: 2
name: told
owner: me
behavior:
  webhook:
    - on: success
      endpoints: [{{url: '{url}/one'}}, {{url: '{url}/two'}}]
task:
  name: shell
  executor: process
  config: {{SCRIPT: 'true'}}
"""


class Endpoint(ThreadingHTTPServer):
    """Takes what it is sent, and answers only while it is open: before, whoever asks waits."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.opened = threading.Event()
        self.asked = threading.Semaphore(0)
        self.taken: Counter[tuple[str, str]] = Counter()
        self.runs: dict[tuple[str, str], str] = {}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, _request: Any, _client: Any) -> None:
        """Who asked is dead."""


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = (self.path, self.headers["Idempotency-Key"])
        self.server.asked.release()
        self.server.opened.wait()
        with self.server.lock:
            self.server.taken[key] += 1
            self.server.runs[key] = body["run"]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        """Nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    one = Endpoint()
    thread = threading.Thread(target=one.serve_forever)
    thread.start()
    yield one
    one.opened.set()
    one.shutdown()
    thread.join()
    one.server_close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as one:
        yield one


def waiting(three: Cluster) -> list[Any]:
    events: list[Any] = three.client(three.up).get("/api/v1/events")["events"]
    return events


def test_a_leader_that_dies_between_an_event_and_its_delivery_loses_none_r23(
    three: Cluster, endpoint: Endpoint
) -> None:
    spec = {"path": "told/job.yaml", "yaml": JOB.format(url=endpoint.url)}
    client = three.client()
    client.post(path("projects", "p", "namespaces", "n", "jobs"), {"specs": [spec]})
    runs = {submit(client, "told", f"k{number}") for number in range(5)}
    for run_id in runs:
        wait_final(client, run_id)
    leader = three.leader()
    for _path in ("/one", "/two"):
        assert endpoint.asked.acquire(timeout=60)  # it has been sent, and is not known to have come
    before = {one["id"] for one in waiting(three)}
    assert len(before) == 10
    leader.kill()
    three.leader(among=three.up, but=leader.id)
    endpoint.opened.set()
    until(lambda: not waiting(three), "everything is delivered")
    assert {key for _path, key in endpoint.taken} == before
    for at in ("/one", "/two"):
        assert {run for (where, _key), run in endpoint.runs.items() if where == at} == runs
    assert three.client(three.up).get("/api/v1/events")["given_up"] == 0

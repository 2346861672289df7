"""The pipeline in `examples/pipeline` on three agents: a diamond over two projects, an http dependency, a branch that
fails, the leader killed in the middle, and what failed picked up without running again what had succeeded.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import Answer, prime
from tests.cli.test_examples import EXAMPLES
from tests.e2e.cluster import Cluster, cluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

AT = "2026-03-02T02:00:00Z"
OUT = "/tmp/prime-pipeline"
RATES = "http://127.0.0.1:8899/rates"


class Rates(ThreadingHTTPServer):
    """Says 503 until it is ready, and keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ready = threading.Event()
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_address[1]}/rates"


class _Handler(BaseHTTPRequestHandler):
    server: Rates

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200 if self.server.ready.is_set() else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing on stderr."""


@contextmanager
def serving() -> Iterator[Rates]:
    """A server of rates in a thread of its own."""
    server = Rates()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def copied(root: Path, url: str) -> Path:
    """The examples, with a place and a server of the test's own."""
    folder = shutil.copytree(EXAMPLES / "pipeline", root / "pipeline")
    for name in ("shop", "reports"):
        file = folder / name / "optimus.yaml"
        text = file.read_text()
        assert OUT in text
        file.write_text(text.replace(OUT, str(root / "out")).replace(RATES, url))
    return folder


def test_a_pipeline_over_two_projects_outlives_its_leader_and_is_picked_up_where_it_failed(tmp_path: Path) -> None:
    with serving() as rates, cluster(tmp_path) as three:
        shop = Asked(three, copied(tmp_path, rates.url))
        for name, jobs in (("shop", 5), ("reports", 3)):
            shop.ok("project", "apply", at=name)
            assert f"applied {jobs} jobs" in shop.ok("job", "apply", at=name).out
        drawn = shop.ok("job", "graph", "revenue", at="shop").out
        assert "`- shop-pipeline/revenue\n" in drawn
        assert "http rates of shop-pipeline/rates" in drawn

        started = shop.json("job", "run", "revenue", "--pipeline", "--at", AT, "-o", "json", at="shop")["pipeline"]
        pipeline, ids = started["id"], {run["job"]: run["id"] for run in started["runs"]}
        assert len(ids) == 8
        done = tmp_path / "out" / "2026-03-01" / "done"
        first = {"orders", "order-items", "refunds"}
        until(lambda: first == shop.succeeded(pipeline), "all has succeeded but what waits for http")
        assert done_jobs(done) == Counter(first)
        assert set(rates.asked) == {"/rates?day=2026-03-01"}
        told = shop.json("run", "explain", ids["revenue"], "-o", "json")
        assert [(gate["state"], gate["awaited"][0]["state"]) for gate in told["gates"]] == [
            ("open", "success"),
            ("open", "success"),
            ("waiting", "queued"),
        ]
        assert "503" in shop.json("run", "explain", ids["rates"], "-o", "json")["gates"][0]["why"]

        three.leader().kill()
        three.leader(among=three.up)
        asked = len(rates.asked)
        until(lambda: len(rates.asked) > asked, "the next leader asks")
        rates.ready.set()
        assert shop.ask("run", "wait", pipeline, at="shop").code == 1
        states = shop.states(pipeline)
        assert states == {**dict.fromkeys(ids, "success"), "forecast": "failed", "digest": "upstream_failed"}
        assert shop.ok("run", "list", "--pipeline", pipeline).out.count("shop-pipeline/") == 5

        (tmp_path / "out" / "model").touch()
        assert pipeline in shop.ok("run", "retry", pipeline).out
        assert "success" in shop.ok("run", "wait", pipeline).out
        assert set(shop.states(pipeline).values()) == {"success"}
        assert done_jobs(done) == Counter(dict.fromkeys(ids, 1))  # what had succeeded was not run again
        assert shop.ask("run", "retry", pipeline).code == 4


class Asked:
    """`prime` in the folders of the examples, asking whoever of the cluster answers."""

    def __init__(self, three: Cluster, folder: Path) -> None:
        self._three, self._folder = three, folder

    def ask(self, *words: str, at: str = "shop") -> Answer:
        """What a command says, whatever its exit code."""
        hosts = ",".join(one.url for one in self._three.up)
        return prime("--host", hosts, *words, folder=self._folder / at)

    def ok(self, *words: str, at: str = "shop") -> Answer:
        """What a command says that went well."""
        done = self.ask(*words, at=at)
        assert done.code == 0, done
        return done

    def json(self, *words: str, at: str = "shop") -> Any:
        """The JSON of a command that went well."""
        return self.ok(*words, at=at).json()

    def states(self, pipeline: str) -> dict[str, str]:
        """The state of each job's run."""
        found = self.json("run", "show", pipeline, "-o", "json")["pipeline"]["runs"]
        return {run["job"]: run["state"] for run in found}

    def succeeded(self, pipeline: str) -> set[str]:
        """The jobs whose runs have."""
        return {job for job, state in self.states(pipeline).items() if state == "success"}


def done_jobs(file: Path) -> Counter[str]:
    """How often each job has said that it was done."""
    return Counter(line.split()[0] for line in file.read_text().splitlines())

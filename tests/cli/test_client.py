"""The HTTP client: several hosts, safe repetition, problems, streams that are gone on with."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.client import Client, Event, Refused, Unreachable, parse_events, path
from tests.cli.terminal import NOBODY

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request to a `Server`, with short ways to answer it."""

    server: Server
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.asked.append(self)
        self.server.answers.pop(0)(self)

    do_GET = do_POST = handle_any  # noqa: N815  the names that the base class looks for

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def send(self, data: bytes, status: int = 200) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_chunks(self, *chunks: bytes, whole: bool) -> None:
        """Send an answer piece by piece; one that is not whole breaks off after the last."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if whole:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def drop(self) -> None:
        """Break the connection off."""
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """A stand-in for an agent: gives the answers it was told to give, one after another."""

    daemon_threads = True

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answers = list(answers)
        self.asked: list[Request] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    with Server(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def says(value: object, status: int = 200) -> Answer:
    return lambda request: request.send(json.dumps(value).encode(), status)


def drops(request: Request) -> None:
    request.drop()


def breaks_off(data: bytes) -> Answer:
    return lambda request: request.send_chunks(data, whole=False)


def problem(status: int, code: str, **more: Any) -> Answer:
    return says({"code": code, "detail": f"because of {code}", "status": status, **more}, status)


def test_a_host_that_is_away_is_passed_over_and_the_one_that_answered_is_asked_first_from_then_on() -> None:
    with serving(says({"n": 1}), says({"n": 2})) as server:
        client = Client([NOBODY, server.url])
        assert client.get("/x") == {"n": 1}
        assert client.hosts == [server.url, NOBODY]
        assert client.post("/x", {}) == {"n": 2}  # safe without a key: it was never sent to the one that is away


def test_no_host_answers_is_said_with_each_address_and_what_to_do() -> None:
    with pytest.raises(Unreachable) as error:
        Client([NOBODY, "http://127.0.0.1:2"]).get("/x")
    assert "127.0.0.1:1: " in str(error.value)
    assert "127.0.0.1:2: " in str(error.value)
    assert "prime agent start" in str(error.value)


def test_a_write_that_may_have_been_done_is_not_sent_to_another_agent() -> None:
    with serving(drops) as one, serving(says({})) as other:
        with pytest.raises(Unreachable, match="Whether it was done is not known"):
            Client([one.url, other.url]).post("/x", {})
        assert not other.asked


def test_a_write_with_a_key_is_sent_again_with_the_same_key() -> None:
    with serving(drops) as one, serving(says({"run": 1})) as other:
        assert Client([one.url, other.url]).post("/x", {"a": 1}, key="k") == {"run": 1}
        assert [request.headers["Idempotency-Key"] for request in (*one.asked, *other.asked)] == ["k", "k"]
        assert [request.body for request in (*one.asked, *other.asked)] == [b'{"a": 1}'] * 2


def test_an_answer_that_breaks_off_is_asked_for_again_at_another_agent() -> None:
    with serving(breaks_off(b"{")) as one, serving(says([])) as other:
        assert Client([one.url, other.url]).get("/x") == []


def test_what_breaks_off_at_the_only_host_is_asked_again_where_that_is_safe() -> None:
    """As a balancer closes, whose own connection to an agent died under the request."""
    told: list[str] = []
    with serving(drops, says({"n": 1})) as server:
        client = Client([server.url], tell=told.append)
        assert client.post("/x", {}, key="k") == {"n": 1}
        assert told == [f"asking again: {server.url}: Remote end closed connection without response"]
    with serving(drops) as server:  # not by who has a limit
        with pytest.raises(Unreachable, match="no agent answers"):
            Client([server.url], limit_s=3).get("/x")
        assert len(server.asked) == 1


def test_what_breaks_off_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.client.AGAIN_S", 0.001)
    with serving(*[drops] * 3) as server:
        with pytest.raises(Unreachable, match="no agent answers"):
            Client([server.url]).get("/x")
        assert len(server.asked) == 3


def test_an_agent_that_is_not_ready_is_passed_over_where_that_is_safe() -> None:
    with serving(problem(503, "agent_stopped"), problem(503, "agent_stopped")) as one, serving(says({})) as other:
        assert Client([one.url, other.url]).get("/x") == {}
        with pytest.raises(Refused, match="because of agent_stopped"):
            Client([one.url, other.url]).post("/x", {})


def test_a_problem_becomes_an_exception_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [{"file": "a", "line": 1, "column": 1, "key": "", "message": "m", "severity": "error"}]
    monkeypatch.setattr("agent.client.PATIENCE_S", 0.0)
    with serving(problem(422, "spec_invalid", problems=wrong), lambda request: request.send(b"<h1>", 502)) as server:
        client = Client([server.url])
        with pytest.raises(Refused) as refused:
            client.get("/x")
        assert (refused.value.status, refused.value.code) == (422, "spec_invalid")
        assert list(refused.value.problems) == wrong
        with pytest.raises(Refused, match="HTTP 502") as refused:
            client.get("/x")
        assert refused.value.code == "http_error"


def test_who_has_no_time_is_told_so_by_an_agent_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unreachable, match="timed out"):
            Client([host], limit_s=0.05).get("/x")


def test_what_is_no_agent_is_called_so() -> None:
    with serving(lambda request: request.send(b"<html>")) as server, pytest.raises(Unreachable, match="is no agent"):
        Client([server.url]).get("/x")


def test_names_are_quoted_and_a_user_name_that_no_header_can_carry_is_masked() -> None:
    with serving(says({})) as server:
        Client([server.url], "søren\n").get(path("projects", "a/b c"), state=None, follow=True)
        (asked,) = server.asked
        assert asked.path == "/api/v1/projects/a%2Fb%20c?follow=true"
        assert asked.headers["Prime-User"] == "s?ren?"


def test_a_text_that_breaks_off_is_an_error_and_not_its_end() -> None:
    with serving(breaks_off(b"half")) as server:
        pieces = Client([server.url]).text("/x")
        assert next(pieces) == b"half"
        with pytest.raises(Unreachable, match="broke off"):
            next(pieces)


def later(request: Request) -> None:
    """Not ready, and when to come again."""
    request.send_response(503)
    request.send_header("Retry-After", "1")
    request.send_header("Content-Length", "0")
    request.end_headers()


def stale(value: object, age_ms: int = 12_300) -> Answer:
    """What an agent tells that hears no leader."""

    def send(request: Request) -> None:
        data = json.dumps(value).encode()
        request.send_response(200)
        request.send_header("Prime-Stale", str(age_ms))
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return send


def test_agents_that_are_not_ready_are_asked_again_when_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("agent.client.time.sleep", slept.append)
    told: list[str] = []
    with serving(later, problem(503, "joining"), says({"n": 1})) as server:
        assert Client([server.url], tell=told.append).get("/x") == {"n": 1}
    assert slept == [1.0, 0.5]
    assert [one.rpartition(": ")[2] for one in told] == ["it is not ready", "joining"]


def test_who_is_not_ready_for_long_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.client.PATIENCE_S", 0.01)
    with serving(*[problem(503, "no_leader")] * 2) as one, serving(*[problem(503, "no_leader")] * 2) as other:
        with pytest.raises(Refused, match="because of no_leader"):
            Client([one.url, other.url]).get("/x")
        with pytest.raises(Refused, match="because of no_leader"):
            Client([one.url, other.url]).post("/x", {})
        assert len(one.asked) == len(other.asked) == 2


def test_a_write_without_a_key_goes_elsewhere_where_nothing_can_have_happened() -> None:
    with serving(problem(503, "no_leader"), problem(504, "outcome_unknown")) as one, serving(says({"n": 1})) as other:
        assert Client([one.url, other.url]).post("/x", {}) == {"n": 1}
        with pytest.raises(Refused, match="outcome_unknown"):
            Client([one.url, other.url]).post("/x", {})


def test_a_write_with_a_key_whose_outcome_is_unknown_is_sent_again() -> None:
    gateway: Answer = lambda request: request.send(b"<h1>", 502)  # noqa: E731
    with serving(problem(504, "outcome_unknown")) as one, serving(gateway) as other, serving(says({"n": 1})) as third:
        assert Client([one.url, other.url, third.url]).post("/x", {}, key="k") == {"n": 1}
        assert [server.asked[0].headers["Idempotency-Key"] for server in (one, other, third)] == ["k"] * 3


def test_p6_an_agent_that_hears_a_leader_is_believed_before_one_that_hears_none() -> None:
    told: list[str] = []
    with (
        serving(stale({"n": 1}), stale({"n": 3}), stale({"n": 5})) as one,
        serving(says({"n": 2}), drops, drops) as other,
    ):
        client = Client([one.url, other.url], tell=told.append)
        assert client.get("/x") == {"n": 2}
        assert client.hosts == [other.url, one.url]
        assert not told
        assert client.get("/x") == {"n": 3}  # better than nothing, with a word of warning
        assert told == [f"{one.url} hears no leader; what is shown may be 12 s old"]
        assert client.get("/x") == {"n": 5}
        assert len(told) == 1


def test_an_agent_that_is_silent_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.client.PASS_OVER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, serving(says({"n": 1}), says({"n": 2})) as other:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert Client([host, other.url]).get("/x") == {"n": 1}
        assert Client([other.url, host]).poll("/x", 30) == {"n": 2}
        assert other.asked[1].path == "/x?timeout=30"


def test_a_token_goes_with_every_request_and_is_not_shown() -> None:
    with serving(says({}), says({})) as server:
        client = Client([server.url], token="geheim")
        client.get("/x")
        client.twin().post("/x", {})
        assert [one.headers["Authorization"] for one in server.asked] == ["Bearer geheim"] * 2
        assert "geheim" not in repr(client)


# -- events ------------------------------------------------------------------------------------------------------------


def stream(*blocks: str, whole: bool = True) -> Answer:
    chunks = [f"{block}\n\n".encode() for block in blocks]
    return lambda request: request.send_chunks(*chunks, whole=whole)


def test_a_stream_that_drops_is_gone_on_with_after_the_last_event() -> None:
    line = 'id: {}\nevent: line\ndata: "{}"'
    first = stream(line.format(1, "a"), line.format(2, "b"), whole=False)
    with serving(first, problem(503, "agent_stopped"), stream(line.format(3, "c"), "event: end\ndata: {}")) as server:
        events = list(Client([server.url]).events("/logs", follow=True))
        assert [event.data for event in events] == ["a", "b", "c", {}]
        assert [request.headers.get("Last-Event-ID") for request in server.asked] == [None, "2", "2"]


def test_a_stream_that_breaks_is_gone_on_with_at_another_agent_from_its_mark() -> None:
    line = 'id: {}\nevent: line\ndata: "{}"'
    first, rest = stream(line.format("1:7", "a"), whole=False), stream(line.format("1:9", "b"), "event: end\ndata: {}")
    with serving(first, first) as one, serving(rest) as other:
        events = list(Client([one.url, other.url]).events("/logs", follow=True))
        assert [event.data for event in events] == ["a", "b", {}]
        assert [request.headers.get("Last-Event-ID") for request in (*one.asked, *other.asked)] == [None, "1:7"]


def test_a_stream_that_was_never_there_is_refused_at_once() -> None:
    with serving(problem(404, "unknown_run")) as server, pytest.raises(Refused, match="unknown_run"):
        list(Client([server.url]).events("/x"))
    with pytest.raises(Unreachable):
        list(Client([NOBODY]).events("/x"))


def test_a_stream_that_never_comes_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.client.RESUME_S", (0.001, 0.001))
    monkeypatch.setattr("agent.client.AGAIN_S", 0.001)
    with serving(*[stream("event: run\ndata: 1", whole=False), *[drops] * 9]) as server:
        events = Client([server.url]).events("/x")
        assert next(events).data == 1
        with pytest.raises(Unreachable, match="did not come back"):
            next(events)
    with serving(*[stream()] * 3) as server, pytest.raises(Unreachable, match="again and again"):
        list(Client([server.url]).events("/x"))


def test_who_waits_is_patient_with_an_agent_that_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.client.RESUME_S", (0.001, 0.001))
    with serving(drops, problem(503, "agent_stopped"), says({"n": 1}), problem(404, "unknown_run")) as server:
        client = Client([server.url])
        assert client.patient(lambda: client.get("/x")) == {"n": 1}
        with pytest.raises(Refused, match="unknown_run"):
            client.patient(lambda: client.get("/x"))


@given(st.lists(st.integers(1, 40), max_size=8))
def test_events_are_the_same_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    data = b': hello\n\nid: 7\nevent: line\ndata: {"a":\ndata:  1}\n\ndata: "\xc3\xa4"\n\nretry: 5\n\n'
    data += b"event: end\ndata: 2\n\n"
    pieces, rest = [], data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    wanted = [Event("line", {"a": 1}, "7"), Event("message", "ä", ""), Event("end", 2, "")]
    assert list(parse_events(iter([*pieces, rest]))) == wanted

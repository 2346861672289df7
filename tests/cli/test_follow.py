"""What is shown of a run while it goes, of the streams that are hard to make with a real agent: gaps, endless lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli.follow import LINE_MAX, follow_instance, follow_run
from agent.client import Client
from tests.cli.test_client import problem, serving, stream

TIME = "2026-03-08T07:30:00Z"


def a_run(state: str, *, finished: bool = False) -> str:
    attempts = [{"number": 1, "started_at": TIME}]
    instance = {"name": "sql", "state": state, "reason": None, "attempts": attempts}
    run = {"id": "r", "state": state, "reason": None, "instances": [instance]}
    return f"event: run\ndata: {json.dumps({**run, 'finished_at': TIME if finished else None})}"


def a_line(text: str, **more: Any) -> str:
    return (
        f"event: line\ndata: {json.dumps({'time': TIME, 'stream': 'stdout', 'partial': False, 'text': text, **more})}"
    )


GAP = "event: gap\ndata: {}"
END = "event: end\ndata: {}"
RUN = stream(a_run("running"), a_run("success", finished=True), END)


def followed(capsys: pytest.CaptureFixture[str], *log: str, times: bool = False) -> list[str]:
    """The lines that are shown of a run whose one instance has this log."""
    with serving(RUN, stream(*log, END)) as server:
        assert follow_run(Client([server.url]), "r", times=times)["state"] == "success"
    return capsys.readouterr().out.splitlines()


def test_lines_are_shown_whole_and_before_the_state_they_led_to(capsys: pytest.CaptureFixture[str]) -> None:
    log = [a_line("be", partial=True), a_line("no", stream="stderr"), a_line("gun"), a_line("rest", partial=True)]
    assert followed(capsys, *log) == [
        "sql = running", "sql ! no", "sql | begun", "sql | rest", "sql = success", "run = success",
    ]  # fmt: skip


def test_a_line_without_an_end_is_shown_in_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    text = "x" * (LINE_MAX - 1)
    log = [a_line(text, partial=True), a_line("xyz", partial=True), a_line("end")]
    assert followed(capsys, *log)[1:3] == [f"sql | {text}xyz", "sql | end"]


def test_missing_output_is_shown_as_a_gap(capsys: pytest.CaptureFixture[str]) -> None:
    shown = followed(capsys, a_line("a"), GAP, a_line("b"), times=True)
    assert shown[1:4] == [f"sql | {TIME} a", "sql = --- output is missing here ---", f"sql | {TIME} b"]


def test_output_that_cannot_be_had_does_not_end_the_watch(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(RUN, problem(404, "no_logs")) as server:
        assert follow_run(Client([server.url]), "r", err=True)["state"] == "success"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "sql = --- no more output can be shown: because of no_logs ---" in captured.err.splitlines()


def test_the_output_of_one_instance_is_shown_byte_for_byte(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    log = [a_line("�", base64="/w=="), GAP, a_line("no e", partial=True), a_line("nd", partial=True)]
    with serving(stream(*log, END)) as server:
        follow_instance(Client([server.url]), "r", "sql", {}, times=False)
    captured = capfdbinary.readouterr()
    assert captured.out == b"\xff\nno end"
    assert captured.err == b"--- output is missing here ---\n"

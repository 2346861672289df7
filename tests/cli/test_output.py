"""How answers look: tables, durations, colours, and problems with a caret under their place."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from agent.cli import output

AT = "2026-03-08T07:30:00Z"
Captured = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


# -- tables ------------------------------------------------------------------------------------------------------------


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks(capsys: Captured) -> None:
    output.table(["NAME", "N"], [("a", 1), ("longer", None)])
    assert capsys.readouterr().out == "NAME    N\na       1\nlonger  -\n"


def test_a_table_without_rows_is_its_head(capsys: Captured) -> None:
    output.table(["NAME", "N"], [])
    assert capsys.readouterr().out == "NAME  N\n"


def test_an_empty_text_is_an_empty_cell_and_nothing_is_a_dash(capsys: Captured) -> None:
    output.table(["A", "B", "C"], [("", None, 0)])
    assert capsys.readouterr().out == "A  B  C\n   -  0\n"


def test_a_row_is_one_line_whatever_is_in_it(capsys: Captured) -> None:
    output.table(["A"], [("two\r\nlines",)])
    assert capsys.readouterr().out.splitlines()[1] == "two\\r\\nlines"


def test_times_are_shown_to_the_second_and_other_texts_as_they_are(capsys: Captured) -> None:
    output.table(["AT", "TEXT"], [("2026-03-08T07:30:00.123456Z", "at 2026-03-08T07:30:00.123Z")])
    assert capsys.readouterr().out.splitlines()[1] == "2026-03-08T07:30:00Z  at 2026-03-08T07:30:00.123Z"


def test_json_keeps_letters_as_they_are(capsys: Captured) -> None:
    output.show_json({"name": "ä"})
    out = capsys.readouterr().out
    assert "ä" in out
    assert json.loads(out) == {"name": "ä"}


# -- durations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        ("2026-03-08T07:30:00Z", "0.0s"),
        ("2026-03-08T07:30:01.249Z", "1.2s"),
        ("2026-03-08T07:30:59.94Z", "59.9s"),
        ("2026-03-08T07:30:59.96Z", "1m00s"),
        ("2026-03-08T07:33:05Z", "3m05s"),
        ("2026-03-08T08:29:59.6Z", "1h00m00s"),
        ("2026-03-09T09:31:01Z", "26h01m01s"),
    ],
)
def test_durations_are_as_exact_as_anybody_needs(end: str, shown: str) -> None:
    assert output.duration(AT, end) == shown


def test_what_has_not_begun_or_ended_took_no_time() -> None:
    assert output.duration(None, AT) == ""
    assert output.duration(AT, None) == ""


# -- colours -----------------------------------------------------------------------------------------------------------


def test_states_are_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    with redirect_stdout(Terminal()) as terminal:
        output.table(["STATE", "NAME"], [("failed", "x")])
    assert terminal.getvalue().splitlines() == ["STATE   NAME", "\x1b[31mfailed\x1b[0m  x"]


def test_no_color_is_obeyed_unless_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert output.coloured("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.coloured("x", "red", Terminal()) == "x"


def test_what_is_no_terminal_gets_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.coloured("x", "red", io.StringIO()) == "x"
    assert output.coloured("x", None, Terminal()) == "x"


# -- problems ----------------------------------------------------------------------------------------------------------


def a_problem(file: Path | str, line: int, column: int, **more: Any) -> dict[str, Any]:
    return {"file": str(file), "line": line, "column": column, "key": "", "message": "wrong", **more}


def shown(capsys: Captured, problem: dict[str, Any]) -> list[str]:
    """What is shown below the head of a problem."""
    output.problems([problem])
    captured = capsys.readouterr()
    assert captured.out == ""  # it is no result
    return captured.err.splitlines()[1:]


def test_a_problem_has_its_place_its_key_and_its_weight(capsys: Captured) -> None:
    output.problems([a_problem("gone.yaml", 3, 7, key="task.name"), a_problem("gone.yaml", 1, 1, severity="warning")])
    assert capsys.readouterr().err == "gone.yaml:3:7: error: task.name: wrong\ngone.yaml:1:1: warning: wrong\n"


def test_the_caret_stands_below_the_column(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("one: 1\n  two: 2\n")
    assert shown(capsys, a_problem(file, 2, 3)) == ["      two: 2", "      ^"]


def test_the_caret_stands_below_the_column_of_a_line_with_tabs(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "query.sql"
    file.write_text("\tx\ty\n")
    assert shown(capsys, a_problem(file, 1, 4)) == ["    \tx\ty", "    \t \t^"]


def test_the_caret_may_stand_behind_the_end_of_the_line(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: [")
    assert shown(capsys, a_problem(file, 1, 8)) == ["    name: [", "           ^"]


def test_what_a_terminal_might_act_on_is_not_quoted(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("a: \x1b]0;title\x07\x9b2J b\n")
    assert shown(capsys, a_problem(file, 1, 4)) == ["    a: \ufffd]0;title\ufffd\ufffd2J b", "       ^"]


def test_lines_are_counted_as_the_parsers_count_them(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "query.sql"
    file.write_bytes(b"select 1\x0c\r\nfrom x\r\n")
    assert shown(capsys, a_problem(file, 2, 6)) == ["    from x", "         ^"]


@pytest.mark.parametrize("line", [2, 9])
def test_a_line_that_is_blank_or_not_there_is_not_shown(tmp_path: Path, capsys: Captured, line: int) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: x\n  \n")
    assert shown(capsys, a_problem(file, line, 1)) == []


# -- runs --------------------------------------------------------------------------------------------------------------


def an_attempt(number: int, state: str, **more: Any) -> dict[str, Any]:
    times = {"started_at": AT, "finished_at": "2026-03-08T07:30:02Z"}
    told = {"exit_code": 3, "reason": "exit_code", "message": "no route to host", "facts": {}}
    return {"number": number, "state": state, "agent": "a1", **told, **times, **more}


RUN: dict[str, Any] = {
    "id": "0123", "project": "shop", "namespace": "sales", "job": "daily", "state": "running", "reason": None,
    "scheduled_at": AT, "origin": "manual", "requested_by": "ann", "via": "a1", "created_at": AT,
    "started_at": AT, "finished_at": None,
    "instances": [
        {"name": "sql", "hook_type": "", "state": "up_for_retry", "reason": "oom", "message": "no route to host",
         "attempts": [an_attempt(1, "failed", message="other", facts={"image": "sql:1", "image_digest": "sha256:ab"}),
                      an_attempt(2, "failed", finished_at=None, exit_code=None, facts={"image": "sql:1"})]},
        {"name": "tell", "hook_type": "post", "state": "pending", "reason": None, "message": "", "attempts": []},
    ],
    "audit": [{"at": "2026-03-08T07:30:00.5Z", "who": "ann", "via": "a2", "what": "retry sql", "address": "10.0.0.7"}],
}  # fmt: skip


def test_a_run_is_shown_with_a_row_for_each_instance_and_one_for_each_attempt(capsys: Captured) -> None:
    output.show_run(RUN, {"day": "mon", "size": 3})
    head, when, params, columns, own, first, last, hook, *remarks = capsys.readouterr().out.splitlines()
    assert head == "run 0123  shop/sales/daily  running"
    assert when == "scheduled at 2026-03-08T07:30:00Z, manual by ann via a1 at 2026-03-08T07:30:00Z"
    assert params == 'params: day="mon", size=3'
    assert columns.split() == ["INSTANCE", "TYPE", "STATE", "ATTEMPT", "AGENT", "EXIT", "STARTED", "TOOK", "REASON"]
    assert own.split() == ["sql", "task", "up_for_retry", "-", "-", "-", "-", "-", "oom"]
    assert first.split() == ["failed", "1", "a1", "3", "2026-03-08T07:30:00Z", "2.0s", "exit_code"]
    assert last.split() == ["failed", "2", "a1", "-", "2026-03-08T07:30:00Z", "-", "exit_code"]
    assert hook.split() == ["tell", "post", "pending", "-", "-", "-", "-", "-", "-"]
    assert remarks == [
        "sql: no route to host",
        "sql, attempt 1: other",
        "sql: image sql:1 sha256:ab",
        "sql: image sql:1",
        "2026-03-08T07:30:00Z ann via a2 from 10.0.0.7: retry sql",
    ]


def test_a_run_that_was_only_reported_has_no_instances_to_show(capsys: Captured) -> None:
    output.show_run({**RUN, "origin": "external", "namespace": "", "instances": [], "audit": []})
    head, when = capsys.readouterr().out.splitlines()
    assert (head, "external by ann" in when) == ("run 0123  shop/-/daily  running", True)


def test_a_run_that_has_ended_says_why_and_how_long_it_took(capsys: Captured) -> None:
    ended = {
        "state": "failed",
        "reason": "timeout",
        "finished_at": "2026-03-08T07:33:05Z",
        "instances": [],
        "audit": [],
    }
    output.show_run({**RUN, **ended})
    head, when = capsys.readouterr().out.splitlines()
    assert head.endswith("failed (timeout)")
    assert when.endswith(", took 3m05s")

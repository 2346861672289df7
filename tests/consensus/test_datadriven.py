"""The format of transcripts, and that a runner passes nothing by in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.consensus.datadriven import Argument, Directive, TranscriptError, parse, parse_line
from tests.consensus.interaction import Interaction
from tests.consensus.transcripts import exactly, mismatches, without_log_lines


def only(text: str) -> Directive:
    (directive,) = parse(text, "a.txt").directives
    return directive


def interact(text: str) -> list[str]:
    cluster = Interaction()
    return [cluster.handle(directive) for directive in parse(text, "a.txt").directives]


def test_arguments_are_keys_with_no_value_one_or_many() -> None:
    assert parse_line('do 1 "x" a= b=c d=(e, f ,g) h=()') == (
        "do",
        (
            Argument("1"),
            Argument('"x"'),
            Argument("a", ("",)),
            Argument("b", ("c",)),
            Argument("d", ("e", "f", "g")),
            Argument("h", ("",)),
        ),
    )


def test_a_value_may_hold_parentheses_of_its_own() -> None:
    assert parse_line("do a=(b(c,d), (e))")[1] == (Argument("a", ("b(c,d)", "(e)")),)


@pytest.mark.parametrize("line", ["do =a", "do a=(b", "do a=(b(c)"])
def test_a_line_that_makes_no_sense_is_refused(line: str) -> None:
    with pytest.raises(TranscriptError):
        parse_line(line)


def test_a_directive_has_a_command_input_and_what_it_prints_up_to_a_blank_line() -> None:
    directive = only("\n# comment\n  do this\ngive\n\nmore\n----\nfirst\n  second\n\n# other comment\n")
    assert (directive.command, directive.line, directive.number) == ("do", 3, 1)
    assert directive.input == "give\n\nmore"
    assert directive.expected == "first\n  second\n"


def test_a_command_line_goes_on_after_a_backslash() -> None:
    assert only("do \\\n  a \\\n  b=c\n----\n").arguments == (Argument("a"), Argument("b", ("c",)))


def test_output_with_blank_lines_stands_between_double_separators() -> None:
    first, second = parse("do\n----\n----\na\n\n----\nb\n----\n----\n\nnext\n----\nc\n", "a.txt").directives
    assert first.expected == "a\n\n----\nb\n"
    assert (second.command, second.expected) == ("next", "c\n")


@pytest.mark.parametrize("text", ["do\n", "do\n---\nok\n", "do\n----\n----\na\n----\n"])
def test_a_directive_without_its_end_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(TranscriptError, match=r"a\.txt:3: "):
        parse(f"# 1\n# 2\n{text}", "a.txt")


@pytest.mark.parametrize("output", ["one\ntwo\n", "one\n\ntwo\n", "no line end", ""])
def test_what_is_rewritten_reads_as_what_was_printed(output: str) -> None:
    text = "# keep\ndo\ninput\n----\nold\n\n# and this\nnext\n----\n----\nold\n\nolder\n----\n----\n\n# end\n"
    transcript = parse(text, "a.txt")
    again = parse(transcript.rewritten([output, output]), "a.txt")
    assert [exactly(directive.expected) for directive in again.directives] == [exactly(output)] * 2
    assert [line for line in again.lines if line.startswith("#")] == ["# keep", "# and this", "# end"]
    assert again.rewritten([output, output]).split("\n")[:-1] == list(again.lines)


@pytest.mark.parametrize(
    "command",
    [
        "no-such-command",
        "campaign",
        "campaign 9",
        "campaign x",
        "campaign 1 2",
        "campaign 1 hard=true",
        "campaign 1\nwith input",
        "tick-heartbeat 1 times=2",
        "status 1 2",
        "raft-state 1",
        "propose 1",
        "propose 1 a b",
        "propose-conf-change 1\nx2",
        "propose-conf-change 1\nu2",
        "propose-conf-change 1 transition=sideways\nv2",
        "propose-conf-change 1 v1=true\nv2 v3",
        "propose-conf-change 1 v1=perhaps\nv2",
        "deliver-msgs 1 drop=(1)",
        "deliver-msgs 1 type=MsgNone",
        "stabilize log-level=loud",
        "log-level",
        "set-randomized-election-timeout 1",
        "transfer-leadership from=1",
        "add-nodes 1 voters=(1) index=1",
        "add-nodes 1 voters=(1) index=2 colour=red",
        "add-nodes 1 voters=(1) index=2 index=3",
        "add-nodes 1 async-storage-writes=true",
        "add-nodes 1 disable-conf-change-validation=true",
        "add-nodes 1 checkquorum=true read-only=lease-based",
        "forget-leader 1",
        "process-append-thread 1",
    ],
)
def test_what_is_not_known_is_an_error_and_not_passed_by(command: str) -> None:
    with pytest.raises(TranscriptError):
        interact(f"add-nodes 1 voters=(1) index=2\n----\n\n{command}\n----\n")


def test_log_lines_are_for_people() -> None:
    assert without_log_lines("INFO 1 became leader\n  DEBUG x\nReady:\n  INFO y\n") == "Ready:"
    assert without_log_lines("WARN only this\n") == without_log_lines("ok") == "ok"
    assert without_log_lines("INFORMATION\n") == "INFORMATION"


@pytest.mark.parametrize(
    ("kind", "text", "wrong"),
    [
        ("quorum", "vote cfg=(1,2) votes=(y,_)\n----\nVotePending\n", "VoteWon"),
        ("quorum", "committed cfg=(1) idx=(5)\n----\n     idx\n>      5    (id=1)\n5\n", "4"),
        ("confchange", "simple\nv1\n----\nvoters=(1)\n1: StateProbe match=0 next=1\n", "voters=(2)"),
        ("interaction", "add-nodes 1 voters=(1) index=2\n----\nok\n", "no"),
    ],
)
def test_a_difference_is_found(tmp_path: Path, kind: str, text: str, wrong: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert mismatches(path, kind) == []
    head, _, _expected = text.partition("----\n")
    path.write_text(f"{head}----\n{wrong}\n")
    (found,) = mismatches(path, kind)
    assert found.directive.number == 1
    assert f"- {wrong}" in str(found)
    assert "a.txt:1" in str(found)


def test_two_leaders_in_a_term_are_noticed() -> None:
    cluster = Interaction()
    for directive in parse("add-nodes 1 voters=(1) index=2\n----\n\ncampaign 1\n----\n", "a.txt").directives:
        cluster.handle(directive)
    cluster.promises.saw_leader(1, 2)  # as if another node had led the term already
    with pytest.raises(AssertionError, match="two leaders in term 1"):
        cluster.handle(only("stabilize\n----\n"))

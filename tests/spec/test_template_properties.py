"""Whatever the text, a template gives a string or a TemplateError; and no template eats the agent (P12)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.spec.template import TemplateError, executor, render
from agent.spec.template.executor import DEPTH_MAX
from agent.spec.template.functions import FUNCTIONS
from agent.spec.template.literals import WHITE_SPACE
from agent.spec.template.parser import NESTING_MAX, PARENTHESES_MAX

CONTEXT = json.loads((Path(__file__).parents[1] / "vectors" / "go_templates.json").read_text())["context"]
CONTEXT |= {"null": None, "mixed": [1, "a", None, True, 2.5, {"k": 1}]}


def gives_text_or_template_error(source: str) -> None:
    try:
        text = render(source, CONTEXT, {"part": "{{define `p`}}{{.}}{{end}}"})
    except TemplateError as error:
        text = str(error)
        refused = error
    else:
        text.encode()  # no byte of it is lone
        return
    assert text.startswith("template: ")
    assert refused.line >= 1
    assert refused.column >= 0


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_actions_renders_to_itself_trimmed(text: str) -> None:
    assert render(text, {}) == text.strip(WHITE_SPACE)


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_gives_text_or_an_error(source: str) -> None:
    gives_text_or_template_error(source)


PIECES = [
    *(
        "{{",
        "}}",
        "{{-",
        "-}}",
        " ",
        "\n",
        "(",
        ")",
        "|",
        ",",
        ".",
        "$",
        "$x",
        ":=",
        "=",
        "'a'",
        '"s"',
        "`r`",
        "1",
        "-2",
    ),
    *("0x1F", "2.5", "nil", "true", "if ", "else ", "else if ", "end", "range ", "with ", "define ", "template "),
    *("block ", "break", "continue", "{{end}}", "{{else}}", "{{if .one}}", "{{range .items}}", "{{/*", "*/}}"),
    *(".one", ".items", ".m", ".missing", ".null", "$i, $e := ", "é", "\ud800", "\\", "text"),
    *(f"{name} " for name in FUNCTIONS),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@settings(max_examples=200, deadline=None)
def test_any_mix_of_the_languages_pieces_gives_text_or_an_error(source: str) -> None:
    gives_text_or_template_error(source)


OPERANDS = st.sampled_from(
    [
        *(
            ".",
            "$",
            ".one",
            ".items",
            ".m",
            ".n",
            ".f",
            ".flag",
            ".null",
            ".nested.x.y",
            ".DSTART",
            ".mixed",
            ".missing",
        ),
        *("nil", "true", "1", "-1", "0", "2.5", "'a'", '"2006-01-02"', "`%v %d`", '"\\xff"', "``", "`-1h`"),
        *("(toDate `2006` `2021`)", "(list `a` `b`)"),
    ]
)


def commands(operands: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    call = st.tuples(st.sampled_from(sorted(FUNCTIONS)), st.lists(operands, max_size=4))
    return st.one_of(operands, call.map(lambda parts: " ".join([parts[0], *parts[1]])))


PIPELINES = st.recursive(
    commands(OPERANDS),
    lambda inner: st.one_of(
        st.lists(commands(st.one_of(OPERANDS, inner.map(lambda text: f"({text})"))), min_size=1, max_size=3).map(
            " | ".join
        ),
        inner.map(lambda text: f"({text}).k"),
    ),
    max_leaves=6,
)
BODIES = st.recursive(
    st.one_of(
        st.text("ab \n", max_size=4), PIPELINES.map(lambda text: f"{{{{{text}}}}}"), st.just("{{$v := 1}}{{$v}}")
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        st.tuples(st.sampled_from(["if", "with", "range"]), PIPELINES, inner, inner).map(
            lambda parts: f"{{{{{parts[0]} {parts[1]}}}}}{parts[2]}{{{{else}}}}{parts[3]}{{{{end}}}}"
        ),
        st.tuples(PIPELINES, inner).map(
            lambda parts: f"{{{{- range $i, $e := {parts[0]} -}}}}{{{{$e}}}}{parts[1]}{{{{continue}}}}{{{{end}}}}"
        ),
        st.tuples(PIPELINES, inner).map(lambda parts: f'{{{{block "b" {parts[0]}}}}}{parts[1]}{{{{end}}}}'),
    ),
    max_leaves=8,
)


@given(BODIES)
@settings(max_examples=200, deadline=None)
def test_any_well_formed_template_gives_text_or_an_error(source: str) -> None:
    gives_text_or_template_error(source)


@given(
    st.text("0123456789-+_.: TZPMAJanMoUTCGST", max_size=30), st.text("0123456789-+_.: TZPMAJanMoUTCGST", max_size=30)
)
def test_any_layout_and_time_give_text_or_an_error(layout: str, text: str) -> None:
    gives_text_or_template_error(f"{{{{toDate `{layout}` `{text}` | date `{layout}`}}}}")
    gives_text_or_template_error(f"{{{{toDate `2006` `2021` | date_modify `{text}h` | date `{layout}`}}}}")


@given(st.text("%+-# 0123456789.*[]vsdqxXeEfgGbcUToOtpwé", max_size=12), st.lists(OPERANDS, max_size=3))
def test_any_format_gives_text_or_an_error(layout: str, values: list[str]) -> None:
    gives_text_or_template_error(f"{{{{printf `{layout}` {' '.join(values)}}}}}")


def message_of(source: str) -> str:
    with pytest.raises(TemplateError) as caught:
        render(source, CONTEXT)
    return caught.value.message


@pytest.fixture
def steps_max(monkeypatch: pytest.MonkeyPatch) -> int:
    """A low limit, so that reaching it takes no time."""
    monkeypatch.setattr(executor, "STEPS_MAX", 20_000)
    return 20_000


def test_p12_a_template_that_calls_itself_for_ever_is_stopped() -> None:
    source = "{{define `t`}}{{template `t` .}}{{end}}{{template `t` 1}}"
    assert message_of(source) == f"exceeded maximum template depth ({DEPTH_MAX})"
    assert message_of(
        "{{define `t`}}{{if .}}{{range 9}}{{template `t` 1}}{{end}}{{end}}{{end}}{{template `t` 1}}"
    ).startswith("exceeded")


def test_p12_templates_may_call_each_other_deeply() -> None:
    source = "{{define `t`}}{{if .}}.{{template `t` (slice . 1)}}{{end}}{{end}}{{template `t` .}}"
    assert message_of(source.replace("`t` .}}", "`t` 1}}")).startswith("error calling slice")
    assert len(render(source.replace("{{template `t` .}}", "{{template `t` .v}}"), {"v": "x" * 900})) == 900


@pytest.mark.parametrize("source", ["{{range 9223372036854775807}}{{end}}", "{{range 9999999}}{{.}}x{{end}}"])
def test_p12_a_loop_without_end_is_stopped(source: str, steps_max: int) -> None:
    assert message_of(source) == f"more than {steps_max} steps"


@pytest.mark.parametrize(
    "source",
    [
        "{{range 1000000}}{{printf `%1000000d` 1}}{{end}}",
        "{{$x := printf `%9000000d` 1}}{{$x}}{{$x}}",
        "{{$x := printf `%9000000d` 1}}{{print $x $x}}",
        "{{$x := printf `%9000000d` 1}}{{printf `%s%s` $x $x}}",
        "{{$x := printf `%9000000d` 1}}{{join `` (list $x $x)}}",
        "{{$x := printf `%9000000d` 1}}{{replace ` ` `xx` $x}}",
        "{{$x := printf `%9000000d` 1}}{{replace `` `x` $x}}",
    ],
)
def test_p12_text_without_end_is_stopped(source: str) -> None:
    assert "text longer than 16 MiB" in message_of(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{$x := printf `%9000000d` 1}}{{range 100000}}{{if html $x}}{{end}}{{end}}",
        "{{range 1000}}{{$x := printf `%900000d` 1}}{{end}}",
        "{{$x := `é`}}{{range 40}}{{$x = print $x $x}}{{end}}",
        "{{range $i := 99}}" + "{{$x := 1}}" * 999 + "{{$}}{{end}}",
    ],
)
def test_p12_work_without_end_is_stopped(source: str, steps_max: int) -> None:
    assert message_of(source).endswith(f"more than {steps_max} steps")


@pytest.mark.parametrize(
    "call",
    ["toDate $x ``", "toDate `` $x", "date $x 1", "Date $x", "dateFromStr `` `` $x", "date_modify $x (toDate `` ``)"],
)
def test_p12_times_layouts_and_durations_are_short(call: str) -> None:
    assert message_of(f"{{{{$x := printf `%5000d` 1}}}}{{{{{call}}}}}").endswith("longer than 4096 characters")


def test_p12_deep_nesting_is_refused_or_rendered_but_never_too_deep_for_python() -> None:
    inner = PARENTHESES_MAX
    assert render("{{" + "(" * inner + "1" + ")" * inner + "}}", {}) == "1"
    assert render("{{" + "(print " * inner + "1" + ")" * inner + "}}", {}) == "1"
    assert "max expression depth exceeded" in message_of("{{" + "(" * (inner + 1) + "1" + ")" * (inner + 1) + "}}")
    assert message_of("{{" + "(print " * inner + ".missing" + ")" * inner + "}}").startswith("map has no entry")
    assert message_of("{{len 1 2 " + "(print " * inner + "1" + ")" * inner + "}}").startswith("wrong number of args")
    depth = NESTING_MAX - 1
    assert render("{{if 1}}" * depth + "x" + "{{end}}" * depth, {}) == "x"
    assert render("{{range 1}}" * depth + "x" + "{{break}}{{end}}" * depth, {}) == "x"
    assert render("{{if 0}}" + "{{else if 0}}" * (depth - 1) + "{{else}}x{{end}}", {}) == "x"
    assert message_of("{{if 1}}" * (depth + 1) + "{{end}}" * (depth + 1)) == f"nested deeper than {NESTING_MAX} levels"

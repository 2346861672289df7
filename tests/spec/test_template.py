"""Templates: Go's text/template as Optimus uses it (agent/spec/template)."""

# ruff: noqa: E501  # the rows of a table read better in one line

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import pytest

from agent.spec.template import Template, TemplateError, parse, render

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "go_templates.json").read_text())
CONTEXT: dict[str, Any] = {
    **VECTORS["context"],
    "null": None,
    "mixed": [1, "a", None, True, 2.5, {"k": 1}],
    "nested_list": [["a"], ["b", "c"]],
    "accents": "héé",
}


def _name(case: Mapping[str, str]) -> str:
    return case["name"]


def error_of(source: str, **partials: str) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        render(source, CONTEXT, partials)
    return caught.value


@pytest.mark.parametrize("case", VECTORS["cases"], ids=_name)
def test_what_go_renders_is_rendered_to_the_byte(case: dict[str, str | None]) -> None:
    source = str(case["main"])
    if case["output"] is not None:
        assert render(source, VECTORS["context"]) == case["output"]
        return
    with pytest.raises(TemplateError) as caught:
        render(source, VECTORS["context"])
    assert str(caught.value) == case["go_error"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        # text, trimming and comments
        ("", ""),
        ("  a b \n", "a b"),
        ("\x1fa\x1f", "\x1fa\x1f"),  # no space to Go
        ("\u2003a\x85", "a"),
        ("a {{- .one }} b", "a1 b"),
        ("a\n\t{{-\n.one\n-}}\r\n b", "a1b"),
        ("{{- .one -}}", "1"),
        (" {{- .one -}} {{- .one}}", "11"),
        ("a{{/* x */}}b", "ab"),
        ("a {{- /* x */ -}} {{/* y\n */}} b", "a b"),
        ("a {{/* x */ -}}  b", "a b"),
        ("{{3}}{{-3}}{{- 3 -}} x", "3-33x"),
        ("{ { } } }}", "{ { } } }}"),
        ("{{\n.one\n}}", "1"),
        # literals
        ("{{1}} {{-1}} {{+7}} {{0x_1F}} {{0b101}} {{0o17}} {{017}} {{1_000}} {{0}}", "1 -1 7 31 5 15 15 1000 0"),
        ("{{1.5}} {{.5}} {{5.}} {{1e3}} {{1_0.2_5}} {{1E-7}} {{0x1p4}} {{0x1.8p1}} {{-2.5}}", "1.5 0.5 5 1000 10.25 1e-07 16 3 -2.5"),
        ("{{1e6}} {{123456.0}} {{1234567.0}} {{0.0001}} {{0.00001}} {{1e21}} {{-0.0}}", "1e+06 123456 1.234567e+06 0.0001 1e-05 1e+21 -0"),
        ("{{9223372036854775807}} {{-9223372036854775808}}", "9223372036854775807 -9223372036854775808"),
        (r"""{{'a'}} {{'\n'}} {{'\''}} {{'\x41'}} {{'\u00e9'}} {{'\101'}} {{'é'}} {{'\xff'}}""", "97 10 39 65 233 65 233 255"),
        (r'{{"a\tb\"\\\x41\101\u00e9\U0001F600\a"}}', 'a\tb"\\AAé😀\a'),
        (r'{{"\xc3\xa9"}}', "é"),
        (r'{{"\xff"}}|', "\ufffd|"),
        ("{{`a\r\nb\\n`}}", "a\nb\\n"),
        ("{{true}} {{false}}", "true false"),
        # fields and variables
        ("{{.nested.x.y}} {{$.one}} {{$.nested.x.y}} {{(.nested).x.y}}", "deep 1 deep deep"),
        ("{{with .nested}}{{.x.y}}{{$.one}}{{end}}", "deep1"),
        ("{{$x := .nested}}{{$x.x.y}}", "deep"),
        ("{{$x := 1}}{{$y:=2}}{{$x}}{{$y}}", "12"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{$x := 1}}{{$x := 2}}{{$x}}", "2"),
        ("{{if $x := .one}}{{$x}}{{else}}{{$x}}{{end}}", "1"),
        ("{{if $x := .empty}}{{$x}}{{else}}[{{$x}}]{{end}}", "[]"),
        ("{{$ := 1}}{{$}}", "1"),
        ("{{.null}} {{print .null nil}} {{index .m `no`}}", "<no value> <nil> <nil> <no value>"),
        ("{{.mixed}} {{.nested_list}} {{.flag}} {{.n}} {{.f}}", "[1 a <nil> true 2.5 map[k:1]] [[a] [b c]] true 3 2.5"),
        ("{{.nested}} {{.none}}", "map[x:map[y:deep]] []"),
        # pipelines
        ("{{.one | print}} {{.one | printf `%s-%s` `a`}} {{1 | print 2 | print 3}}", "1 a-1 32 1"),
        ("{{(print 1 | print)}} {{print (print (print 1))}}", "1 1"),
        ("{{.one | }}", "1"),
        ("{{print .one (index .items 0)}}", "1a"),
        # conditions
        ("{{if .empty}}a{{else if .off}}b{{else if .one}}c{{else}}d{{end}}", "c"),
        ("{{if false}}a{{else if false}}b{{else}}d{{end}}!", "d!"),
        ("{{if false}}a{{end}}!", "!"),
        ("{{if 0}}a{{else}}b{{end}}{{if 0.0}}a{{else}}b{{end}}{{if ``}}a{{else}}b{{end}}{{if .null}}a{{else}}b{{end}}", "bbbb"),
        ("{{if .none}}a{{else}}b{{end}}{{if .m}}a{{end}}{{if 1}}a{{end}}{{if toDate `` ``}}t{{end}}", "baat"),
        ("{{with .empty}}a{{else with .off}}b{{else with .nested.x}}{{.y}}{{end}}", "deep"),
        ("{{with .empty}}a{{else}}{{.one}}{{end}}", "1"),
        ("{{with $x := .one}}{{$x}}{{.}}{{end}}", "11"),
        # loops
        ("{{range $i, $e := .items}}{{$i}}{{$e}}{{end}}", "0a1b2c"),
        ("{{range $e := .items}}{{$e}}{{end}}", "abc"),
        ("{{range .m}}{{.}},{{end}}", "1,11,26,"),
        ("{{range $i := 3}}{{$i}}{{end}}{{range 0}}x{{else}}none{{end}}", "012none"),
        ("{{range $x := .none}}{{else}}{{$x}}{{end}}", "[]"),
        ("{{range .null}}x{{else}}none{{end}}", "none"),
        ("{{range .items}}{{if eq . `b`}}{{break}}{{end}}{{.}}{{else}}none{{end}}!", "a!"),
        ("{{range $i := 5}}{{with $i}}{{if eq . 2}}{{continue}}{{end}}{{.}}{{end}}{{end}}", "134"),
        ("{{range .nested_list}}{{range .}}{{if eq . `b`}}{{break}}{{end}}{{.}}{{end}};{{end}}", "a;;"),
        ("{{$i := 0}}{{$e := 0}}{{range $i, $e = .items}}{{end}}{{$i}}{{$e}}", "2c"),
        ("{{$e := 0}}{{range $e = .items}}{{$e}}{{end}}{{$e}}", "abcc"),
        ("{{range $i, $x := list `a` `b`}}{{$i}}{{$x}}{{end}}", "0a1b"),
        ("{{range .items}}{{$x := .}}{{$x}}{{end}}", "abc"),
        ("{{range (index `a` 0)}}{{end}}ok", "ok"),
        # definitions
        ("{{define `x`}}[{{.}}]{{end}}{{template `x` .one}}{{template `x` 2}}", "[1][2]"),
        ("{{define `x`}}{{$}}{{end}}{{with .one}}{{template `x` .}}{{end}}", "1"),
        ("{{define `x`}}{{template `y` .}}{{end}}{{define `y`}}{{.one}}{{end}}{{template `x` .}}", "1"),
        ("{{define `x`}}{{if gt (len .) 1}}{{slice . 0 1}}{{template `x` (slice . 1)}}{{end}}{{end}}{{template `x` `abc`}}", "ab"),
        ("{{template `x`}}{{define `x`}}x{{end}}", "x"),
        ("{{block `b` .one}}<{{.}}>{{end}}{{template `b` 2}}", "<1><2>"),
        ("{{define `b`}}{{end}}{{define `b`}}x{{end}}{{define `b`}} {{end}}{{template `b`}}", "x"),
        ("a{{define `x`}}x{{end}}b", "ab"),
        ("{{define `main`}}self{{end}}", "self"),
        ("{{template `x` $y := .one}}{{$y}}{{define `x`}}{{.}}{{end}}", "11"),
    ],
)  # fmt: skip
def test_the_language(source: str, text: str) -> None:
    assert render(source, CONTEXT) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{and 1 0}} {{and 0 .missing}} {{and 1 2}} {{or 0 ``}}| {{or 0 `x` .missing}} {{0 | or 0}} {{1 | and 2}}", "0 0 2 | x 0 1"),
        ("{{not 0}} {{not .items}} {{not nil}} {{.off | not}}", "true false true true"),
        ("{{eq 1 1}} {{eq 1 2 1}} {{eq `a` `b` `c`}} {{eq .f 2.5}} {{eq true .flag}} {{eq 'a' 97}}", "true true false true true true"),
        ("{{eq nil .null}} {{eq .null 1}} {{eq .items nil}} {{eq (index `a` 0) 97}} {{eq 97 (index `a` 0)}}", "true false false true true"),
        ("{{eq (toDate `2006` `2021`) (toDate `2006` `2021`)}} {{ne 1 2}} {{ne `a` `a`}}", "true true false"),
        ("{{lt 1 2}} {{lt 2 1}} {{lt `a` `b`}} {{lt 1.5 2.5}} {{le 1 1}} {{le 2 1}} {{gt 2 1}} {{gt 1 1}} {{ge 1 1}} {{ge 0 1}}", "true false true true true false true false true false"),
        ("{{len `héé`}} {{len .items}} {{len .m}} {{len .none}} {{len (list `a`)}}", "5 3 3 0 1"),
        ("{{index .items 0}} {{index .nested `x` `y`}} {{index .nested_list 1 0}} {{index `abc` 1}} {{index .accents 1}} {{index 1}}", "a deep b 98 195 1"),
        ("{{slice `abcdef` 2}} {{slice `abcdef` 1 3}} {{slice .items 1 2}} {{slice .items 0 1 2}} {{slice `abc`}} {{slice (list `a` `b`) 1}}", "cdef bc [b] [a] abc [b]"),
        ("{{slice .accents 0 3}} {{print (slice .accents 0 2) (slice .accents 2)}}", "hé héé"),
        ("{{print}}{{print 1 2}} {{print `a` `b`}} {{print 1 `a` 2}} {{print true false}} {{println 1 `a`}}", "1 2 ab 1a2 true false 1 a"),
        ("{{html `<a b='c'>&\"` }} {{html 1 2}} {{html nil}}", "&lt;a b=&#39;c&#39;&gt;&amp;&#34; 1 2 &lt;no value&gt;"),
        ("{{js `it's <b>&= \\ \"`}} {{js .accents}} {{js `\u2028\x01`}} {{`\xe9\x00` | js}}", "it\\'s \\u003Cb\\u003E\\u0026\\u003D \\\\ \\\" héé \\u2028\\u0001 é\\u0000"),
        ("{{js (slice .accents 0 2)}}", "h\\uFFFD"),
        ("{{urlquery `a b&c/é~_-.` 1}}", "a+b%26c%2F%C3%A9~_-.1"),
        # Optimus' own
        ("{{Date .DSTART}} {{.DEND | Date}} {{Date `2021-02-10T10:00:00+00:00`}}", "2021-02-10 2021-02-11 2021-02-10"),
        ("{{replace `-` `` `a-b-c`}} {{replace `` `.` `ab`}} {{`aXb` | replace `X` `Y`}}", "abc .a.b. aYb"),
        ("{{trunc 3 `abcdef`}} {{trunc 9 `abc`}} {{trunc -3 `abcdef`}} {{trunc 3.0 `abcdef`}} {{.DSTART | trunc 10}} {{trunc 2 .accents}}", "abc abc abcdef abc 2021-02-10 h\ufffd"),
        ("{{date `2006-01-02` 86400}} {{0 | date `15:04:05`}} {{date `2006` -1}}", "1970-01-02 00:00:00 1969"),
        ("{{`2021-02-10T23:00:00-05:00` | toDate `2006-01-02T15:04:05Z07:00` | date `2006-01-02 15:04 MST`}}", "2021-02-11 04:00 UTC"),
        ("{{toDate `2006-01-02` `junk`}} {{toDate `2006-01-02` `junk` | unixEpoch}}", "0001-01-01 00:00:00 +0000 UTC -62135596800"),
        ("{{toDate `2006-01-02` `2021-02-10` | date_modify `-1.5h` | date `2006-01-02 15:04`}}", "2021-02-09 22:30"),
        ("{{toDate `2006-01-02` `2021-02-10` | date_modify `a day` | date `2006-01-02`}}", "2021-02-10"),
        ("{{toDate `2006-01-02` `2021-02-10` | unixEpoch}}", "1612915200"),
        ("{{list}} {{list `a` `b`}} {{list .one | join `-`}} {{join `,` nil}}| {{join `,` (index .m `no`)}}|", "[] [a b] 1 | |"),
        ("{{toDate `2006-01-02` `2021-01-31` | dateFrom `` `+1` | date `2006-01-02`}}", "2021-03-03"),
        ("{{toDate `2006-01-02` `2021-02-10` | dateFrom `-12` `` | date `2006-01-02`}}", "2021-01-29"),
        ("{{.DSTART | dateFromStr `+1` `+12`}} {{.DSTART | dateFromStr `1` `1`}} {{dateFromStr `+-1` `` .DSTART}}", "2022-02-11 2021-01-01 2021-02-09"),
    ],
)  # fmt: skip
def test_functions(source: str, text: str) -> None:
    assert render(source, CONTEXT) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "{{$t.Year}} {{$t.Month}} {{$t.Day}} {{$t.Hour}} {{$t.Minute}} {{$t.Second}} {{$t.Nanosecond}} {{$t.YearDay}} {{$t.Weekday}}",
            "2021 January 31 10 5 6 7000000 31 Sunday",
        ),
        (
            "{{$t.AddDate 0 1 0}} {{($t.AddDate -1 0 1).Format `2006-01-02`}} {{(($t.UTC).AddDate 0 0 -31).Year}}",
            "2021-03-03 10:05:06.007 +0000 UTC 2020-02-01 2020",
        ),
        (
            "{{`2006` | $t.Format}} {{$t.UTC.Year}} {{$t.UTC.UTC.Format `06`}} {{$t.String}} {{$t.Unix}} {{date `2006` $t.Unix}}",
            "2021 2021 21 2021-01-31 10:05:06.007 +0000 UTC 1612087506 2021",
        ),
        (
            "{{$t.IsZero}} {{(toDate `` `x`).IsZero}} {{$t.Before ($t.AddDate 0 0 1)}} {{$t.After $t}} {{$t.Equal $t}}",
            "false true true false true",
        ),
        (
            "{{printf `%d %02d %s %v %q %T %#v` $t.Month $t.Month $t.Month $t.Weekday $t.Weekday $t.Month $t.Month}} {{eq $t.Month 1}} {{printf `%T %d` $t.Unix $t.Unix}} {{printf `%T` $t.Weekday}}",
            '1 01 January Sunday "Sunday" time.Month 1 true int64 1612087506 time.Weekday',
        ),
        ("{{with $t}}{{.Year}}{{.Format `-01`}}{{end}} {{len (print $t.Day)}}", "2021-01 2"),
    ],
)
def test_a_time_has_methods(source: str, text: str) -> None:
    assert render("{{$t := toDate `2006-01-02T15:04:05Z07:00` `2021-01-31T10:05:06.007Z`}}" + source, CONTEXT) == text


PARSE_ERRORS = [
    ("{{.one", "unclosed action"),
    ("a\n{{\n.one", "unclosed action started at main:2"),
    ("a\n{{.one\n`", "unterminated raw quoted string in action started at main:2"),
    ("{{/* x", "unclosed comment"),
    ("{{/* x */ }}", "comment ends before closing delimiter"),
    ("{{(.one}}", "unclosed left paren"),
    ("{{.one)}}", "unexpected right paren"),
    ("{{`x}}", "unterminated raw quoted string"),
    ('{{"x}}', "unterminated quoted string"),
    ('{{"x\\', "unterminated quoted string"),
    ('{{"x\n"}}', "unterminated quoted string"),
    ("{{'x}}", "unterminated character constant"),
    ("{{.one!}}", "bad character U+0021 '!'"),
    ("{{$x\u2028}}", "bad character U+2028"),
    ("{{one-two}}", "bad character U+002D '-'"),
    ("{{\u20ac}}", "unrecognized character in action: U+20AC '\u20ac'"),
    ("{{1 : 2}}", "expected :="),
    ("{{1a}}", 'bad number syntax: "1a"'),
    ("{{1+2}}", 'bad number syntax: "1+2"'),
    ("{{0b12}}", 'bad number syntax: "0b12"'),
    ("{{1i}}", 'complex numbers are not supported: "1i"'),
    ("{{1+2i}}", 'complex numbers are not supported: "1+2i"'),
    ("{{089}}", 'integer overflow: "089"'),
    ("{{18446744073709551616}}", 'integer overflow: "18446744073709551616"'),
    ("{{-9223372036854775809}}", 'integer overflow: "-9223372036854775809"'),
    ("{{1__0}}", 'illegal number syntax: "1__0"'),
    ("{{1e400}}", 'illegal number syntax: "1e400"'),
    ("{{0x1p9999}}", 'illegal number syntax: "0x1p9999"'),
    ("{{0x}}", 'illegal number syntax: "0x"'),
    ("{{0x.p1}}", 'illegal number syntax: "0x.p1"'),
    ("{{0x1.8}}", 'illegal number syntax: "0x1.8"'),
    ("{{1e}}", 'illegal number syntax: "1e"'),
    ("{{+}}", 'illegal number syntax: "+"'),
    ("{{''}}", "invalid syntax"),
    ("{{'ab'}}", "malformed character constant: 'ab'"),
    (r"{{'\q'}}", "invalid syntax"),
    (r"{{'\"'}}", "invalid syntax"),
    (r"{{'\777'}}", "invalid syntax"),
    (r'{{"\q"}}', "invalid syntax"),
    (r'{{"\ud800"}}', "invalid syntax"),
    (r'{{"\U00110000"}}', "invalid syntax"),
    (r'{{template "\q"}}', "invalid syntax"),
    ("{{}}", "missing value for command"),
    ("{{if}}{{end}}", "missing value for if"),
    ("{{print ()}}", "missing value for parenthesized pipeline"),
    ("{{| .one}}", 'unexpected "|" in command'),
    ("{{.one | 1}}", "non executable command in pipeline stage 2"),
    ("{{.one | .two | nil}}", "non executable command in pipeline stage 3"),
    ("{{print .one,}}", 'unexpected "," in operand'),
    ("{{print 1`a`}}", 'unexpected "`a`" in operand'),
    ("{{print `abcdefghijk` (1}}", "unclosed left paren"),
    ("{{1.x}}", 'bad number syntax: "1.x"'),
    ("{{`a`.x}}", 'unexpected . after term "`a`"'),
    ("{{nil.x}}", 'unexpected . after term "nil"'),
    ("{{nosuch}}", 'function "nosuch" not defined'),
    ("{{$x}}", 'undefined variable "$x"'),
    ("{{if true}}{{$x := 1}}{{end}}{{$x}}", 'undefined variable "$x"'),
    ("{{define `a`}}{{$x}}{{end}}", 'undefined variable "$x"'),
    ("{{$x, $y := .m}}", "too many declarations in command"),
    ("{{range $x, $y, $z := .m}}{{end}}", "too many declarations in range"),
    ("{{range $x, 1}}{{end}}", "range can only initialize variables"),
    ("{{range $x, }}{{end}}", "missing value for range"),
    ("{{range $i, $x .items}}{{end}}", 'undefined variable "$x"'),
    ("{{end}}", "unexpected {{end}}"),
    ("{{else}}", "unexpected {{else}}"),
    ("{{if true}}", "unexpected EOF"),
    ("{{if true}}{{else}}{{else}}{{end}}", "expected end; found {{else}}"),
    ("{{if true}}{{else with 1}}{{end}}", "unexpected <with> in input"),
    ("{{range .items}}{{else if 1}}{{end}}", "unexpected <if> in input"),
    ("{{define `a`}}{{else}}{{end}}", "unexpected {{else}} in define clause"),
    ("{{block `a` .}}{{else}}{{end}}", "unexpected {{else}} in block clause"),
    ("{{if true}}{{define `a`}}{{end}}{{end}}", "unexpected <define> in command"),
    ("{{define a}}{{end}}", 'unexpected "a" in define clause'),
    ("{{define `a` 1}}{{end}}", 'unexpected "1" in define clause'),
    ("{{define `a`}}x{{end}}{{define `a`}}y{{end}}", 'template: multiple definition of template "a"'),
    ("{{template a}}", 'unexpected "a" in template clause'),
    ("{{template abcdefghijk}}", 'unexpected "abcdefghij"... in template clause'),
    ("{{template .one}}", 'unexpected ".one" in template clause'),
    ("{{end 1}}", 'unexpected "1" in end'),
    ("{{if true}}{{else 1}}{{end}}", 'unexpected "1" in else'),
    ("{{break}}", "{{break}} outside {{range}}"),
    ("{{continue}}", "{{continue}} outside {{range}}"),
    ("{{range .items}}{{else}}{{break}}{{end}}", "{{break}} outside {{range}}"),
    ("{{range .items}}{{break 1}}{{end}}", 'unexpected "1" in {{break}}'),
    ("{{range .items}}{{block `a` .}}{{break}}{{end}}{{end}}", "{{break}} outside {{range}}"),
    ("{{nested.x}}", 'function "nested" not defined'),
    ("{{. .}}{{.. }}", "unexpected <.> in operand"),
    ("{{$x=1}}", "bad character U+003D '='"),
]


@pytest.mark.parametrize(("source", "message"), PARSE_ERRORS)
def test_a_text_that_is_no_template_is_refused_with_gos_words(source: str, message: str) -> None:
    error = error_of(source)
    assert error.message == message
    assert str(error) == f"template: main:{error.line}: {message}"


EXECUTION_ERRORS = [
    ("{{.missing}}", 'map has no entry for key "missing"', "missing"),
    ("{{.nested.x.z}}", 'map has no entry for key "z"', "z"),
    ("{{.one.x}}", "can't evaluate field x in type interface {}", "x"),
    ("{{(print 1).x}}", "can't evaluate field x in type string", "x"),
    ("{{.null.x}}", "nil pointer evaluating interface {}.x", "x"),
    ("{{$x := .null}}{{$x.x}}", 'nil data; no entry for key "x"', "x"),
    ("{{(nil).x}}", "nil is not a command", None),
    ("{{template `t`}}{{define `t`}}{{.x}}{{end}}", 'nil data; no entry for key "x"', "x"),
    ("{{.one 1}}", "one is not a method but has arguments", "one"),
    ("{{1 | .nested.x}}", "x is not a method but has arguments", "x"),
    ("{{$x := 1}}{{$x 2}}", "can't give argument to non-function $x", None),
    ("{{1 | $}}", "can't give argument to non-function $", None),
    ("{{1 2}}", "can't give argument to non-function 1", None),
    ("{{(.one) 2}}", "can't give argument to non-function .one", None),
    ("{{nil}}", "nil is not a command", None),
    ("{{9223372036854775808}}", "9223372036854775808 overflows int", None),
    ("{{print 9223372036854775808}}", "9223372036854775808 overflows int", None),
    ("{{if false}}{{$x := 1}}{{else}}{{$x}}{{end}}", "undefined variable: $x", "$x"),
    ("{{$x = 1}}", "undefined variable: $x", "$x"),
    ("{{template `no`}}", 'template "no" not defined', "no"),
    ("{{range .one}}{{end}}", "range can't iterate over 1", None),
    ("{{range .n}}{{end}}", "range can't iterate over 3", None),
    ("{{range $i, $x := 3}}{{end}}", "can't use 3 to iterate over more than one variable", None),
    ("{{len}}", "wrong number of args for len: want 1 got 0", "len"),
    ("{{1 | len 1}}", "wrong number of args for len: want 1 got 2", "len"),
    ("{{and}}", "wrong number of args for and: want at least 1 got 0", "and"),
    ("{{printf 1}}", "expected string; found 1", None),
    ("{{printf nil}}", "cannot assign nil to string", None),
    ("{{printf .n}}", "wrong type for value; expected string; got float64", None),
    ("{{printf .null}}", "wrong type for value; expected string; got interface {}", None),
    ("{{.null | printf}}", "invalid value; expected string", None),
    ("{{trunc `a` `b`}}", 'expected integer; found `a`', None),
    ("{{trunc 1.5 `b`}}", "expected integer; found 1.5", None),
    ("{{trunc .n `b`}}", "wrong type for value; expected int; got float64", None),
    ("{{unixEpoch 1}}", "can't handle 1 for arg of type time.Time", None),
    ("{{unixEpoch nil}}", "cannot assign nil to time.Time", None),
    ("{{unixEpoch .one}}", "wrong type for value; expected time.Time; got string", None),
    ("{{join `,` .items}}", "wrong type for value; expected []string; got []interface {}", None),
    ("{{join `,` .null}}", "wrong type for value; expected []string; got interface {}", None),
    ("{{join `,` `a`}}", "can't handle `a` for arg of type []string", None),
    ("{{list 1}}", "expected string; found 1", None),
    ("{{eq 1}}", "error calling eq: missing argument for comparison", "eq"),
    ("{{eq .n 3}}", "error calling eq: incompatible types for comparison: float64 and int", "eq"),
    ("{{eq `a` 1}}", "error calling eq: incompatible types for comparison: string and int", "eq"),
    ("{{eq .items .items}}", "error calling eq: non-comparable types []interface {} and []interface {}", "eq"),
    ("{{lt .n 3}}", "error calling lt: incompatible types for comparison: float64 and int", "lt"),
    ("{{lt true false}}", "error calling lt: invalid type for comparison", "lt"),
    ("{{lt nil 1}}", "error calling lt: invalid type for comparison", "lt"),
    ("{{len 3}}", "error calling len: len of type int", "len"),
    ("{{len nil}}", "error calling len: len of nil pointer", "len"),
    ("{{index nil 1}}", "error calling index: index of untyped nil", "index"),
    ("{{index .mixed 2 1}}", "error calling index: index of nil pointer", "index"),
    ("{{index 1 1}}", "error calling index: can't index item of type int", "index"),
    ("{{index .items 3}}", "error calling index: index out of range: 3", "index"),
    ("{{index .items -1}}", "error calling index: index out of range: -1", "index"),
    ("{{index .items .n}}", "error calling index: cannot index slice/array with type float64", "index"),
    ("{{index .items true}}", "error calling index: cannot index slice/array with type bool", "index"),
    ("{{index `abc` nil}}", "error calling index: cannot index slice/array with nil", "index"),
    ("{{index .m 1}}", "error calling index: value has type int; should be string", "index"),
    ("{{index .m nil}}", "error calling index: value is nil; should be of type string", "index"),
    ("{{slice nil}}", "error calling slice: slice of untyped nil", "slice"),
    ("{{slice .items 1 2 3 4}}", "error calling slice: too many slice indexes: 4", "slice"),
    ("{{slice .m}}", "error calling slice: can't slice item of type map[string]interface {}", "slice"),
    ("{{slice `abc` 0 1 2}}", "error calling slice: cannot 3-index slice a string", "slice"),
    ("{{slice .items 2 1}}", "error calling slice: invalid slice index: 2 > 1", "slice"),
    ("{{slice .items 0 2 1}}", "error calling slice: invalid slice index: 2 > 1", "slice"),
    ("{{slice .items 9}}", "error calling slice: index out of range: 9", "slice"),
    ("{{call nil}}", "error calling call: call of nil", "call"),
    ("{{call .one 1}}", "error calling call: non-function of type string", "call"),
    ("{{date `2006` `2021`}}", "error calling date: a date needs a time (see toDate) or seconds since 1970; got string", "date"),
    ("{{date `2006` .n}}", "error calling date: a date needs a time (see toDate) or seconds since 1970; got float64", "date"),
    ("{{dateFromStr `one` `` .DSTART}}", 'error calling dateFromStr: strconv.Atoi: parsing "one": invalid syntax', "dateFromStr"),
    ("{{dateFromStr `` `99999999999999999999` .DSTART}}", 'error calling dateFromStr: strconv.Atoi: parsing "99999999999999999999": value out of range', "dateFromStr"),
    ("{{(toDate `` ``).Years}}", "can't evaluate field Years in type time.Time", "Years"),
    ("{{(toDate `` ``).Format}}", "wrong number of args for Format: want 1 got 0", "Format"),
    ("{{(toDate `` ``).Year 1}}", "wrong number of args for Year: want 0 got 1", "Year"),
    ("{{(toDate `` ``).AddDate 1 2 `x`}}", "expected integer; found `x`", None),
    ("{{(toDate `` ``).Year.x}}", "can't evaluate field x in type interface {}", "x"),
    ("{{date `2006` (toDate `` ``).Month}}", "error calling date: a date needs a time (see toDate) or seconds since 1970; got time.Month", "date"),
    ("{{printf `%p` .items}}", "error calling printf: %p prints an address, which differs from run to run", "printf"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "message", "key"), EXECUTION_ERRORS)
def test_what_cannot_be_rendered_is_refused_with_gos_words(source: str, message: str, key: str | None) -> None:
    error = error_of(source)
    assert error.message == message
    assert error.key == key


def test_an_error_names_template_line_byte_and_key() -> None:
    error = error_of("first\n  é {{ .nested.gone }}")
    assert (error.name, error.line, error.column, error.key) == ("main", 2, 15, "gone")
    assert str(error) == ('template: main:2:15: executing "main" at <.nested.gone>: map has no entry for key "gone"')
    error = error_of("\n\n{{ nosuch }}")
    assert (error.name, error.line, error.column, error.key) == ("main", 3, 3, "nosuch")


def test_an_error_in_a_definition_names_the_definition_and_its_file() -> None:
    error = error_of('{{template "part" .}}', **{"parts.gtpl": '\n{{define "part"}}{{.gone}}{{end}}'})
    assert str(error) == 'template: parts.gtpl:2:19: executing "part" at <.gone>: map has no entry for key "gone"'
    error = error_of("x", **{"broken.gtpl": "{{"})
    assert (error.name, str(error)) == ("broken.gtpl", "template: broken.gtpl:1: unclosed action")


def test_the_name_of_a_template_can_be_given() -> None:
    with pytest.raises(TemplateError, match=r"template: query.sql:1:2: executing \"query.sql\""):
        render("{{.gone}}", {}, name="query.sql")
    assert parse("{{.a}}", "query.sql").name == "query.sql"


def test_how_nodes_are_shown_in_errors() -> None:
    shown = [
        ("{{$x, $y := 1}}", None),
        ("{{len ($a := 1)}}", "<len ($a := 1)>"),
        (
            "{{len (.n | print true nil 'a' . $ $.m (.m).a (and 1 .m).a | len)}}",
            "at <len (.n | print true nil 'a' . $ $.m (.m).a (and 1 .m).a | len)>",
        ),
        ("{{template `t` .null}}", 'at <{{template "t" .null}}>'),
        ("{{len and.x}}", "at <and>"),
    ]
    for source, part in shown:
        assert part is None or part in str(error_of(source)), source


def test_partials_are_called_by_name_and_may_define_more() -> None:
    partials = {"a.gtpl": "A{{.}}{{define `inner`}}I{{.}}{{end}}", "b.gtpl": "{{template `a.gtpl` .}}B"}
    assert render("{{template `b.gtpl` 1}}{{template `inner` 2}}", {}, partials) == "A1BI2"
    assert render("{{template `p`}}", {}, {"p": parse("parsed", "p")}) == "parsed"


def test_a_templates_own_definition_wins_over_a_partials_unless_it_is_empty() -> None:
    partials = {"base": "<{{block `body` .}}default{{end}}>", "late": "{{define `body`}} {{end}}"}
    assert render("{{template `base`}}", {}, partials) == "<default>"
    assert render("{{define `body`}}mine{{end}}{{template `base`}}", {}, partials) == "<mine>"
    assert render("{{define `body`}}{{end}}{{template `base`}}", {}, partials) == "<default>"
    assert render("{{template `main`}}", {}, {"main": "x", "other": "y"}, name="other2") == "x"
    assert render("own", {}, {"main": "other"}) == "own"
    assert render(" ", {}, {"main": "other"}) == ""


def test_a_parsed_template_renders_again_and_again() -> None:
    template = parse("{{.a}}{{define `x`}}{{end}}")
    assert isinstance(template, Template)
    assert [template.render({"a": n}) for n in (1, 2)] == ["1", "2"]


class Spy(Mapping[str, object]):
    """A mapping that remembers what was read."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values_of = values
        self.read: list[str] = []

    def __getitem__(self, key: str) -> object:
        self.read.append(key)
        return self.values_of[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)

    def __contains__(self, key: object) -> bool:
        return key in self.values_of


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("{{.secret.A}}", ["A"]),
        ("{{index .secret `A`}}", ["A"]),
        ("{{with .secret}}{{.B}}{{end}}", ["B"]),
        ("{{if .secret}}{{len .secret}}{{end}}", []),
        ("{{$s := .secret}}{{$s.A}}{{$s.A}}", ["A", "A"]),
        ("{{range $k, $v := .secret}}{{$k}}{{break}}{{end}}", ["A"]),
        ("{{.secret}}", ["A", "B"]),
        ("{{if false}}{{.secret.A}}{{end}}", []),
    ],
)
def test_a_callers_mapping_sees_what_is_read_and_nothing_else(source: str, read: list[str]) -> None:
    secret = Spy({"B": "2", "A": "1"})
    render(source, {"secret": secret})
    assert secret.read == read


class Text(str):
    """A str of another class, as enums are."""


class Nowhere(tzinfo):
    """A zone that does not know its offset."""

    def utcoffset(self, _: datetime | None) -> timedelta | None:
        return None

    def tzname(self, _: datetime | None) -> str | None:
        return None

    def dst(self, _: datetime | None) -> timedelta | None:
        return None


def test_values_of_python_become_gos() -> None:
    context = {
        "time": datetime(2021, 2, 10, 10, 0, 0, 5000, tzinfo=UTC),
        "naive": datetime(2021, 2, 10),  # noqa: DTZ001  # taken as UTC
        "nowhere": datetime(2021, 2, 10, tzinfo=Nowhere()),
        "east": datetime(2021, 2, 10, tzinfo=timezone(timedelta(hours=2), "EET")),
        "tuple": (1, 2),
        "text": Text("t"),
        "surrogate": "a\ud800b\udcffc",
        "big": 10**20,
    }
    source = "{{.time}}|{{.naive}}|{{.nowhere}}|{{.east}}|{{.tuple}}|{{.text}}|{{.surrogate}}|{{.big}}"
    assert render(source, context) == (
        "2021-02-10 10:00:00.005 +0000 UTC|2021-02-10 00:00:00 +0000 UTC|2021-02-10 00:00:00 +0000 UTC|2021-02-10 00:00:00 +0200 EET"
        "|[1 2]|t|a\ufffdb\ufffdc|1e+20"
    )
    assert render("a\ud800b", {}) == "a\ufffdb"


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"v": {1, 2}}, "a value of type set cannot be used in a template"),
        ({"v": [date(2021, 2, 10)]}, "a value of type date cannot be used in a template"),
        ({"v": {1: 2}}, "a map key of type int cannot be used in a template"),
        ({"v": 10**400}, "number of the context is too large for float64"),
    ],
)
def test_values_go_has_nothing_like_are_refused(context: dict[str, object], message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{.v}}", context)
    assert caught.value.message == message
    with pytest.raises(TemplateError):
        render("{{range .v}}{{.}}{{end}}", context)

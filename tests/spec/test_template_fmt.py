"""printf and friends print as Go's package fmt does."""

# ruff: noqa: E501  # the rows of a table read better in one line

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spec.template import TemplateError, render

CONTEXT = {
    "items": ["a", "b"],
    "mixed": [1, "a", None, True, {"k": [1]}],
    "m": {"b": 2, "a": "x"},
    "f": 3.0,
    "inf": math.inf,
    "minus_inf": -math.inf,
    "nan": math.nan,
    "t": "2021-02-10T10:00:00Z",
}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        # plain
        ("`%v %s %d %t` 1 `a` 2 true", "1 a 2 true"),
        ("`100%%` ", "100%"),
        ("`é%5sé` `é`", "é    éé"),
        # integers
        ("`%5d|%-5d|%05d|%+d|% d|%-05d` 42 42 42 42 42 42", "   42|42   |00042|+42| 42|42   "),
        ("`%5d|%-5d|%05d|%+d|% d` -42 -42 -42 -42 -42", "  -42|-42  |-0042|-42|-42"),
        ("`%.5d|%8.5d|%-8.5d|%08.5d|%.0d|%3.0d` 42 42 42 42 0 0", "00042|   00042|00042   |   00042||   "),
        ("`%x|%X|%#x|%#X|%o|%#o|%O|%b|%#b` 255 255 255 255 8 8 8 5 5", "ff|FF|0xff|0XFF|10|010|0o10|101|0b101"),
        ("`%x|%#x|%08x|%#08x` -255 -255 255 255", "-ff|-0xff|000000ff|0x000000ff"),
        ("`%c|%q|%U|%#U|%+q|%5c` 65 65 8364 8364 8364 65", "A|'A'|U+20AC|U+20AC '€'|'\\u20ac'|    A"),
        ("`%c|%q|%U|%#U` -1 1114112 1 10", "\ufffd|'\ufffd'|U+0001|U+000A"),
        ("`%U|%.6U` -1 65", "U+FFFFFFFFFFFFFFFF|U+000041"),
        ("`%q` 39", "'\\''"),
        ("`%v %d %#v %T %x` (index `a` 0) (index `a` 0) (index `a` 0) (index `a` 0) (index `a` 0)", "97 97 0x61 uint8 61"),
        # floats
        ("`%f|%.2f|%8.2f|%-8.2f|%08.2f|%+.1f|% .1f|%F` 3.14159 3.14159 3.14159 3.14159 3.14159 3.1 3.1 1.5", "3.141590|3.14|    3.14|3.14    |00003.14|+3.1| 3.1|1.500000"),
        ("`%+08.2f|% 08.2f|%08.2f|%-08.2f|%+8.2f` 3.14159 3.14159 -3.14159 3.14159 3.14159", "+0003.14| 0003.14|-0003.14|3.14    |   +3.14"),
        ("`%e|%E|%.2e` 123456.789 123456.789 123456.789", "1.234568e+05|1.234568E+05|1.23e+05"),
        ("`%g|%G|%.3g|%.3g|%g|%g` 1e20 1e20 1234.5678 0.00001234 100000.0 0.1", "1e+20|1E+20|1.23e+03|1.23e-05|100000|0.1"),
        ("`%v|%v|%v|%v|%v|%v` 1e6 999999.0 1e-4 1e-5 1e21 123456789.0", "1e+06|999999|0.0001|1e-05|1e+21|1.23456789e+08"),
        ("`%v %6v|%-6v|%06v` 2.5 2.5 2.5 2.5", "2.5    2.5|2.5   |0002.5"),
        ("`%#v %#v %#g %#.3g %#f %#.0f` 1.0 1e6 1.0 1.0 1.0 1.0", "1 1e+06 1.00000 1.00 1.000000 1."),
        ("`%#g %#e` 1e20 1.5", "1.00000e+20 1.500000e+00"),
        ("`%x|%X|%.1x|%.0x|%.1x|%x|%x` 3.5 3.5 3.5 1.96875 1.96875 0.0 -0.1", "0x1.cp+01|0X1.CP+01|0x1.cp+01|0x1p+01|0x1.0p+01|0x0p+00|-0x1.999999999999ap-04"),
        ("`%b|%b` 1.0 -2.5", "4503599627370496p-52|-5629499534213120p-51"),
        ("`%v|%5v|%05f|%+v|% v|%x|%b` .inf .inf .inf .inf .inf .inf .inf", "+Inf| +Inf| +Inf|+Inf| Inf|+Inf|+Inf"),
        ("`%v|%6v|%v|%+v|% v` .minus_inf .minus_inf .nan .nan .nan", "-Inf|  -Inf|NaN|NaN| NaN"),
        ("`%d` .f", "%!d(float64=3)"),
        # strings
        ("`%s|%5s|%-5s|%05s|%.1s|%5.1s|%q|%v` `ab` `ab` `ab` `ab` `ab` `ab` `ab` `ab`", 'ab|   ab|ab   |000ab|a|    a|"ab"|ab'),
        ("`%.2s|%5.2q` `héé` `héé`", 'hé| "hé"'),
        ("`%x|%X|%# x|% X|%#x|%.1x|%6x|%x|%#x` `hi` `hi` `hi` `hi` `hi` `hi` `hi` `` ``", "6869|6869|0x68 0x69|68 69|0x6869|68|  6869||"),
        ('`%q|%+q|%#q|%#q|%#q` "a\\"b\\n\\x01\\x7f" `é😀` `raw` "ba`ck" "tab\\t"', '"a\\"b\\n\\x01\\x7f"|"\\u00e9\\U0001f600"|`raw`|"ba`ck"|`tab\t`'),
        ('`%q %#q` "\\xff" "\\xff"', '"\\xff" "\\xff"'),
        ("`%#v|%+v` `a` `a`", '"a"|a'),
        # booleans and nil
        ("`%t|%v|%6t|%-6t|%q|%d` true false true true true true", "true|false|  true|true  |%!q(bool=true)|%!d(bool=true)"),
        ("`%v|%5v|%T|%s|%d|%#v` nil nil nil nil nil nil", "<nil>|<nil>|<nil>|%!s(<nil>)|%!d(<nil>)|<nil>"),
        # lists, maps and times
        ("`%v|%s|%q|%d` .items .items .items .items", '[a b]|[a b]|["a" "b"]|[%!d(string=a) %!d(string=b)]'),
        ("`%3s|%x|%T|%#v` .items .items .items .items", '[  a   b]|[61 62]|[]interface {}|[]interface {}{"a", "b"}'),
        ("`%v|%#v|%d` .mixed .mixed .mixed", '[1 a <nil> true map[k:[1]]]|[]interface {}{1, "a", interface {}(nil), true, map[string]interface {}{"k":[]interface {}{1}}}|[%!d(float64=1) %!d(string=a) <nil> %!d(bool=true) map[%!d(string=k):[%!d(float64=1)]]]'),
        ("`%v|%+v|%#v|%T|%s` .m .m .m .m .m", 'map[a:x b:2]|map[a:x b:2]|map[string]interface {}{"a":"x", "b":2}|map[string]interface {}|map[a:x b:%!s(float64=2)]'),
        ("`%v|%T|%#v` (list `a`) (list `a`) (list `a`)", '[a]|[]string|[]string{"a"}'),
        ("`%v|%s|%q|%T|%d|%30v|%.4s` $t $t $t $t $t $t $t", '2021-02-10 10:00:00 +0000 UTC|2021-02-10 10:00:00 +0000 UTC|"2021-02-10 10:00:00 +0000 UTC"|time.Time|%!d(time.Time=2021-02-10 10:00:00 +0000 UTC)| 2021-02-10 10:00:00 +0000 UTC|2021'),
        ("`%#v` $t", "time.Date(2021, time.February, 10, 10, 0, 0, 0, time.UTC)"),
        ("`%#v` (toDate `2006 -07` `2021 +02`)", 'time.Date(2021, time.January, 1, 0, 0, 0, 0, time.Location(""))'),
        # what does not fit
        ("`%d` `x`", "%!d(string=x)"),
        ("`%5d` `x`", "%!d(string=    x)"),
        ("`%s` 5", "%!s(int=5)"),
        ("`%f` 5", "%!f(int=5)"),
        ("`%z %p %w` `a` 1 `a`", "%!z(string=a) %!p(int=1) %!w(string=a)"),
        ("`%v %s` 1", "1 %!s(MISSING)"),
        ("`%d` 1 2 `a` nil", "1%!(EXTRA int=2, string=a, <nil>)"),
        ("`x` .items", "x%!(EXTRA []interface {}=[a b])"),
        ("`%`", "%!(NOVERB)"),
        ("`%5.`", "%!.(MISSING)" ),
        ("`%!` 1", "%!!(int=1)"),
        ("`%é` 1", "%!é(int=1)"),
        # indexes and stars
        ("`%[2]d %[1]d` 1 2", "2 1"),
        ("`%[2]d %d` 1 2 3", "2 3"),
        ("`%[3]d` 1 2", "%!d(BADINDEX)"),
        ("`%[0]d` 1", "%!d(BADINDEX)"),
        ("`%[x]d` 1", "%!d(BADINDEX)"),
        ("`%[1` 1", "%!(NOVERB)"),
        ("`%+f|%f` .nan .nan", "+NaN|NaN"),
        ("`%[1z` 1", "%!z(BADINDEX)"),
        ("`%[1]3d` 1", "%!d(BADINDEX)"),
        ("`%[1].2d` 1", "%!d(BADINDEX)"),
        ("`%[2]*[1]d|%-[1]*d` 7 3", "  7|3      "),
        ("`%.[2]*[1]f` 3.14159 2", "3.14"),
        ("`%*d|%-*d|%*d` 5 42 5 42 -5 42", "   42|42   |42   "),
        ("`%.*f|%.*f` 2 3.14159 -1 2.5", "3.14|%!(BADPREC)2.500000"),
        ("`%*d` `x` 1", "%!(BADWIDTH)1"),
        ("`%*d` true 1", "%!(BADWIDTH)1"),
        ("`%*d` 9999999 1", "%!(BADWIDTH)1"),
        ("`%*d`", "%!(BADWIDTH)%!d(MISSING)"),
        ("`%.f|%.d` 2.5 3", "2|3"),
        ("`%99999999d` 1", "%!(NOVERB)%!(EXTRA int=1)"),
    ],
)  # fmt: skip
def test_printf(call: str, text: str) -> None:
    source = "{{$t := toDate `2006-01-02T15:04:05Z07:00` .t}}|{{printf " + call + "}}|"
    assert render(source, CONTEXT) == f"|{text}|"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_printed_with_the_fewest_digits_that_read_back(value: float) -> None:
    text = render("{{.v}}", {"v": value})
    assert struct.pack("d", float(text)) == struct.pack("d", value)
    exponent = math.floor(math.log10(abs(value))) if value else 0
    if exponent not in (-5, -4, 5, 6):  # log10 rounds at the borders
        assert ("e" in text) == (exponent < -4 or exponent >= 6)


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.sampled_from("dxXob"), st.integers(1, 80), st.sampled_from("+->0"))
def test_integers_are_padded_as_python_pads_them(value: int, verb: str, width: int, flag: str) -> None:
    ours = render(f"|{{{{printf `%{flag.strip('>')}{width}{verb}` {value}}}}}|", {})
    spec = {"+": f">+{width}", "-": f"<{width}", ">": f">{width}", "0": f"0{width}"}[flag]
    assert ours == f"|{value:{spec}{verb}}|"


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(TemplateError, match="value nested deeper than 50 levels"):
        render("{{.loop}}", {"loop": loop})

"""What a template reads is found in its actions, and nowhere else."""

from __future__ import annotations

import pytest

from agent.spec.template.reads import paths_read


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ("", []),
        ("cat $JOB_DIR/in/.secret .secret.A", []),
        ("{{ .secret.A }}", [("secret", "A")]),
        ("{{.a.b|replace `x` .c}}", [("a", "b"), ("c",), ("x",)]),
        ("x{{- $.secret.A -}}y", [("secret", "A")]),
        ("{{ $s := .secret }}{{ $s.A }}", [("secret",), ("A",)]),
        ('{{ index . "secret" "A" }}', [("secret",), ("A",)]),
        ('{{ index . "\\x73ecret" }}', [("secret",)]),
        ('{{ printf "}}%s" .secret.A }}', [("}}%s",), ("secret", "A")]),
        ("{{ (.a).b }}", [("a",), ("b",)]),
        ("{{/* .secret.A */}}", []),
        ("{{ .a }} {{ .b", [("a",), ("b",)]),
        ('{{ "\\q" }}', [('"\\q"',)]),
    ],
)
def test_the_paths_that_a_template_reads(source: str, paths: list[tuple[str, ...]]) -> None:
    assert paths_read(source) == frozenset(paths)

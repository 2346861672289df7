"""The documents name everything there is, and what they show is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.spec.job import parse_job
from agent.spec.template import render
from agent.spec.template.functions import FUNCTIONS

ROOT = Path(__file__).parent.parent
SPEC = (ROOT / "docs" / "spec.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "consensus" / "DESIGN.md"])
CONTEXT = {"DSTART": "2026-03-01T00:00:00Z"}

_FUNCTIONS = SPEC[SPEC.index("### Functions") :]
_ROW = re.compile(r"^\| `(?P<name>\w+)[^`]*` \|[^|]*\| `(?P<source>\{\{.*?\}\})` \| `(?P<text>.*)` \|$", re.MULTILINE)
_METRIC = re.compile(r"\bprime_[a-z_]+[a-z]\b")


def test_every_function_of_templates_is_documented() -> None:
    rows = {row["name"] for row in _ROW.finditer(_FUNCTIONS)}
    go_line = next(line for line in _FUNCTIONS.splitlines() if line.startswith("Go's: "))
    assert rows | set(re.findall(r"`(\w+)`", go_line)) == set(FUNCTIONS)


@pytest.mark.parametrize("row", list(_ROW.finditer(_FUNCTIONS)), ids=lambda row: row["name"])
def test_the_examples_of_functions_give_what_is_said(row: re.Match[str]) -> None:
    assert render(row["source"], CONTEXT) == row["text"]


def test_the_smallest_job_is_one() -> None:
    source = SPEC[SPEC.index("```yaml\n") + 8 :]
    parsed = parse_job(source[: source.index("```")], "job.yaml", ())
    assert parsed.problems == ()
    assert parsed.job is not None


def test_every_metric_is_documented() -> None:
    source = (ROOT / "agent" / "metrics.py").read_text()
    counters = set(re.findall(r'(?:Count|CounterMetricFamily)\(\s*"(prime_\w+)"', source))
    names = {f"{name}_total" if name in counters else name for name in re.findall(r'"(prime_\w+)"', source)}
    operations = (ROOT / "docs" / "operations.md").read_text()
    told = set(_METRIC.findall(operations))
    assert told == names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (document.parent / link).exists()] == []

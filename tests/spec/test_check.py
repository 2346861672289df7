"""A problem of compiling is shown where its author finds it."""

from __future__ import annotations

import pytest

from agent.spec.check import relocate
from agent.spec.errors import Position, Problem

POSITIONS = {"task.config.A": Position("n/j/job.yaml", 7, 5), "task.config.B": Position("n/this.yaml", 2, 3)}


@pytest.mark.parametrize(
    ("problem", "file", "place"),
    [
        (Problem("j/job.yaml", 1, 1, "task.config.A", "m"), "n/j/job.yaml", ("n/j/job.yaml", 7, 5)),
        (Problem("j/job.yaml", 1, 1, "task.config.B", "m"), "n/j/job.yaml", ("n/this.yaml", 2, 3)),
        (Problem("j/job.yaml", 1, 1, "task.window", "m"), "n/j/job.yaml", ("n/j/job.yaml", 1, 1)),
        (Problem("query.sql", 4, 2, "KEY", "m"), "n/j/job.yaml", ("n/j/assets/query.sql", 4, 2)),
        (Problem("query.sql", 4, 2, "KEY", "m"), "job.yaml", ("assets/query.sql", 4, 2)),
    ],
)
def test_a_problem_is_placed_in_the_file_that_holds_the_text(
    problem: Problem, file: str, place: tuple[str, int, int]
) -> None:
    found = relocate(problem, file, POSITIONS, ("query.sql",))
    assert (found.file, found.line, found.column) == place
    assert (found.key, found.message) == (problem.key, problem.message)

"""The graph of applied jobs: circles in it, and the jobs before and after one. Pure; no loop calls itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from agent.runtable.model import DependencyKind, Job

JobKey = tuple[str, str]  # project, job
Jobs = Mapping[str, Mapping[str, Job]]  # as `TableImage.jobs`
Edges = Callable[[JobKey], Sequence[JobKey]]


def awaited_jobs(job: Job) -> list[JobKey]:
    """The jobs of this cluster that a job depends on, applied or not, each once, in the order of its spec."""
    named = [(one.project, one.name) for one in job.dependencies if one.kind is DependencyKind.JOB]
    return list(dict.fromkeys(named))


def edges_of(jobs: Jobs, new: Mapping[JobKey, Job] | None = None) -> Edges:
    """From a job to those it depends on. new: jobs that are about to be applied. One that is not there has none."""

    def edges(key: JobKey) -> Sequence[JobKey]:
        job = (new or {}).get(key) or jobs.get(key[0], {}).get(key[1])
        return awaited_jobs(job) if job is not None else ()

    return edges


def circle(edges: Edges, starts: Iterable[JobKey]) -> list[JobKey] | None:
    """A circle that can be reached from `starts`, beginning and ending with the same job; None = there is none."""
    done: set[JobKey] = set()
    for start in starts:
        path: dict[JobKey, None] = {}
        open_: list[tuple[JobKey, list[JobKey]]] = [(start, list(edges(start)))] if start not in done else []
        path[start] = None
        while open_:
            key, left = open_[-1]
            if not left:
                open_.pop()
                del path[key]
                done.add(key)
                continue
            following = left.pop(0)
            if following in path:
                way = list(path)
                return [*way[way.index(following) :], following]
            if following not in done:
                path[following] = None
                open_.append((following, list(edges(following))))
    return None


def reached(edges: Edges, start: JobKey, at_most: int) -> list[JobKey]:
    """All that can be reached from a job, itself first, nearest first; no more than `at_most`, and one."""
    found = {start: None}
    for key in (line := [start]):  # grows meanwhile
        for following in edges(key):
            if following not in found and len(found) <= at_most:
                found[following] = None
                line.append(following)
    return line


def reversed_edges(jobs: Jobs) -> Edges:
    """From a job to those that depend on it."""
    below: dict[JobKey, list[JobKey]] = {}
    for project, rows in sorted(jobs.items()):
        for name, job in sorted(rows.items()):
            for upstream in awaited_jobs(job):
                below.setdefault(upstream, []).append((project, name))
    return lambda key: below.get(key, ())


def in_order(edges: Edges, keys: Iterable[JobKey]) -> list[JobKey]:
    """These jobs, each after all of them that it depends on; else in the given order. There must be no circle."""
    wanted = dict.fromkeys(keys)
    placed: dict[JobKey, None] = {}
    for key in wanted:
        open_ = [key]
        while open_:
            first = [one for one in edges(open_[-1]) if one in wanted and one not in placed]
            if first:
                open_ += reversed(first)
            else:
                placed.setdefault(open_.pop())
    return list(placed)

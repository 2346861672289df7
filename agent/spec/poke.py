"""The request of an http dependency, rendered: url, headers and params are templates as the task's config is."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agent.spec.bundle import Bundle
from agent.spec.compile import interval_of, missing_secret, spec_file
from agent.spec.context import fixed_context, system_variables
from agent.spec.errors import Problem, SpecError
from agent.spec.jobspec import HttpDependencySpec
from agent.spec.lookups import MASK
from agent.spec.template import TemplateError, render
from agent.spec.template.reads import paths_read


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A GET. It may be made with secrets: never to be stored or shown."""

    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    params: dict[str, str] = field(repr=False)


def http_request(
    bundle: Bundle, name: str, *, scheduled_at: datetime, started_at: datetime, secrets: Mapping[str, str]
) -> HttpRequest:
    """The request of the http dependency of that name. Raises SpecError.

    scheduled_at, started_at: of the run, aware.  secrets: by name, or `Masked`.
    """
    number, http = next((number, one) for number, one in _https(bundle) if one.name == name)
    context = _context(bundle, scheduled_at, started_at, secrets)
    made, problems = _rendered(bundle, number, http, context)
    if problems:
        raise SpecError(problems)
    return made


def http_problems(
    bundle: Bundle, at: datetime, secrets: Mapping[str, str]
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """What is wrong with the http dependencies of a job, and the places that read a secret which does not exist.

    What reads a parameter that has no value yet is not judged. secrets: as `Masked`.
    """
    problems: list[Problem] = []
    missing: list[Problem] = []
    open_params = bundle.job.params.keys() - bundle.params.keys()
    for number, http in _https(bundle):
        texts = _texts(number, http)
        reads = [(key, path) for key, text in texts.items() for path in paths_read(text)]
        absent = {key: path[1] for key, path in reads if path[0] == "secret" and path[1:] and path[1] not in secrets}
        missing += [Problem(spec_file(bundle.job), 1, 1, key, missing_secret(one)) for key, one in absent.items()]
        params = [path[1:2] for _key, path in reads if path[0] == "params"]
        if open_params and any(not name or name[0] in open_params for name in params):
            continue
        assumed: Mapping[str, str] = ChainMap(dict.fromkeys(absent.values(), MASK), dict(secrets))
        try:
            context = _context(bundle, at, at, assumed if absent else secrets)
        except SpecError:
            return (), ()  # the window: the trial of the task has told
        problems += _rendered(bundle, number, http, context)[1]
    return tuple(problems), tuple(missing)


def _https(bundle: Bundle) -> Iterator[tuple[int, HttpDependencySpec]]:
    return ((number, one.http) for number, one in enumerate(bundle.job.dependencies) if one.http is not None)


def _context(
    bundle: Bundle, scheduled_at: datetime, started_at: datetime, secrets: Mapping[str, str]
) -> dict[str, object]:
    at = scheduled_at.astimezone(UTC)
    try:
        interval = interval_of(bundle, at)
    except ValueError as error:
        raise SpecError([Problem(spec_file(bundle.job), 1, 1, "task.window", str(error))]) from error
    system = system_variables(bundle.job.version, interval, scheduled_at=at, started_at=started_at.astimezone(UTC))
    return {**fixed_context(bundle, secrets), **system, "inst": system}


def _texts(number: int, http: HttpDependencySpec) -> dict[str, str]:
    """The texts of a request by their keys in the spec."""
    path = f"dependencies[{number}].http"
    return {
        f"{path}.url": http.url,
        **{f"{path}.headers.{key}": text for key, text in http.headers.items()},
        **{f"{path}.params.{key}": text for key, text in http.params.items()},
    }


def _rendered(
    bundle: Bundle, number: int, http: HttpDependencySpec, context: Mapping[str, object]
) -> tuple[HttpRequest, list[Problem]]:
    made: dict[str, str] = {}
    problems: list[Problem] = []
    for key, text in _texts(number, http).items():
        try:
            made[key] = render(text, dict(context), {}, name=key)
        except TemplateError as error:
            problems.append(Problem(spec_file(bundle.job), 1, 1, key, str(error)))
    path = f"dependencies[{number}].http"
    headers = {key: made.get(f"{path}.headers.{key}", "") for key in http.headers}
    params = {key: made.get(f"{path}.params.{key}", "") for key in http.params}
    return HttpRequest(made.get(f"{path}.url", ""), headers, params), problems

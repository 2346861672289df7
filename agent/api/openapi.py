"""The OpenAPI 3.1 document, made from the table of routes and the types of `schema.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from agent.api import schema as s
from agent.api.routing import Route

REF: Final = "#/components/schemas/{name}"
EVERY_ROUTE: Final = (400, 401, 403, 404, 429, 500, 503)  # what any of them may answer
_PARAMETER = re.compile(r"\{(\w+)\}")


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The whole document."""
    routes = tuple(routes)
    kinds: list[type] = [s.ProblemDetails]
    for route in routes:
        kinds += [kind for _name, kind in route.events]
        kinds += [kind for kind in (route.answer, route.body) if kind not in (None, dict)]
    _schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    for query in {route.query for route in routes}:  # a query's own fields are parameters; what they refer to is not
        _schemas, found = msgspec.json.schema_components([query], ref_template=REF)
        components |= {name: schema for name, schema in found.items() if name != query.__name__}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "prime", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],  # without one where an agent answers its own host alone
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {str(route.status): _success(route), **_problems(route)},
    }
    if route.name.startswith("submit"):
        operation["parameters"].append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "the same key and body get the same run",  # P2
                "schema": {"type": "string", "maxLength": 256},
            }
        )
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": {"$ref": REF.format(name=route.body.__name__)}}},
        }
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    schema = msgspec.json.schema(route.query, ref_template=REF)
    properties = schema["$defs"][route.query.__name__]["properties"] if "$defs" in schema else {}
    if not properties:
        _out, components = msgspec.json.schema_components([route.query], ref_template=REF)
        properties = components[route.query.__name__]["properties"]
    return [{"name": name, "in": "query", "schema": _plain(one)} for name, one in properties.items()]


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is there or not; null cannot be said in a query."""
    if "anyOf" not in schema:
        return schema
    kinds = [one for one in schema["anyOf"] if one.get("type") != "null"]
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _success(route: Route) -> dict[str, Any]:
    if route.answer is dict:
        content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    elif route.answer is not None:
        content = {"application/json": {"schema": {"$ref": REF.format(name=route.answer.__name__)}}}
    else:
        content = {route.media: {"schema": {"type": "string"}}} if route.media else {}
    if route.events:
        content["text/event-stream"] = {"schema": {"oneOf": [_event(name, kind) for name, kind in route.events]}}
    return {"description": route.summary, "content": content}


def _event(name: str, kind: type) -> dict[str, Any]:
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": REF.format(name=kind.__name__)},
    }
    return {"type": "object", "required": ["event", "data"], "properties": {"event": {"const": name}, "data": data}}


def _problems(route: Route) -> dict[str, Any]:
    statuses = {*EVERY_ROUTE, *route.refusals}
    if route.body is not None:
        statuses |= {408, 413, 415}
    if route.method != "GET":
        statuses |= {507}
    if issubclass(route.query, s.ReadQuery):
        statuses |= {504}
    problem = {
        "description": "a problem (RFC 9457)",
        "content": {"application/problem+json": {"schema": {"$ref": REF.format(name="ProblemDetails")}}},
    }
    found: dict[str, Any] = {str(status): problem for status in sorted(statuses)}
    if route.name == "ready":
        found["503"] = _success(route)
    return found

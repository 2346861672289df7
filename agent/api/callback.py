"""The listener on the container network: images of the older generation ask it for what they shall work with.

It answers two paths only, and only to an attempt that runs here: by the capability in the path (OPTIMUS_HOST ends with
it), as a bearer token, or in the header `Prime-Capability`. Secrets are real here; that is its purpose.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from datetime import datetime
from typing import Annotated, Final

import msgspec
from aiohttp import web

from agent.api import problems
from agent.api import schema as s
from agent.api.face import Face
from agent.api.routing import FACE, answer, decode, receive
from agent.errors import Refusal
from agent.keyring import SecretError
from agent.spec.errors import SpecError
from agent.worker import Materials

log = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 64 * 1024
COMPILING_MAX: Final = 4  # at a time (P12)
COMPILING: Final = web.AppKey("compiling", asyncio.Semaphore)
TYPES: Final = {"TASK": "task", "TYPE_TASK": "task", "HOOK": "hook", "TYPE_HOOK": "hook"}


class InputBody(msgspec.Struct, frozen=True):
    """What an entrypoint of the older generation sends; keys of other generations are passed over."""

    scheduled_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    instance_name: str = ""
    instance_type: str = ""


class InputAnswer(s.View, frozen=True, omit_defaults=True):
    """What it gets. files: texts by path; files_base64: those that are no text."""

    envs: dict[str, str]
    files: dict[str, str]
    secrets: dict[str, str]
    files_base64: dict[str, str] = msgspec.field(default_factory=dict)


class ContextView(s.View, frozen=True, omit_defaults=True):
    """All of an attempt's environment, secrets included, and its files."""

    envs: dict[str, str]
    files: dict[str, str]
    files_base64: dict[str, str] = msgspec.field(default_factory=dict)


class InstanceAnswer(s.View, frozen=True):
    """What the oldest images read."""

    context: ContextView


def build_callback_app(face: Face) -> web.Application:
    """The application of the callback listener."""
    app = web.Application(middlewares=[_only_these, problems.middleware])
    app[FACE] = face
    app[COMPILING] = asyncio.Semaphore(COMPILING_MAX)
    for version in ("v1beta1", "v1"):
        base = f"/api/{version}/project/{{project}}/job/{{job}}"
        for prefix in ("", "/{capability}"):
            app.router.add_post(f"{prefix}{base}/run_input", _run_input)
            app.router.add_post(f"{prefix}{base}/instance", _instance)
    return app


@web.middleware
async def _only_these(request: web.Request, handler: problems.Handler) -> web.StreamResponse:
    """Say nothing at all of what is not served here."""
    if request.match_info.http_exception is not None:
        return web.Response(status=404)
    return await handler(request)


async def _run_input(request: web.Request) -> web.Response:
    found = await _materials(request)
    texts, others = _files(found)
    return answer(InputAnswer(envs=found.environment, files=texts, secrets=found.secrets, files_base64=others))


async def _instance(request: web.Request) -> web.Response:
    found = await _materials(request)
    texts, others = _files(found)
    envs = {**found.environment, **found.secrets}  # the context has no other place for secrets
    return answer(InstanceAnswer(context=ContextView(envs=envs, files=texts, files_base64=others)))


def _files(found: Materials) -> tuple[dict[str, str], dict[str, str]]:
    texts, others = {}, {}
    for path, data in found.files.items():
        try:
            texts[path] = data.decode()
        except UnicodeDecodeError:
            others[path] = base64.b64encode(data).decode()
    return texts, others


async def _materials(request: web.Request) -> Materials:
    """What the attempt with this capability works with, if the request speaks of that attempt. Raises Refusal."""
    data = await receive(request, BODY_BYTES_MAX)  # whatever type it says: curl -d calls JSON a form
    sent = decode(data, InputBody)
    async with request.app[COMPILING]:
        try:
            found = await request.app[FACE].worker.materials(_capability(request))
        except (SpecError, SecretError) as error:  # what they say may quote a secret: it goes no further
            log.warning("a callback cannot be compiled", extra={"error": type(error).__name__})
            raise Refusal("not_compilable", "the instance does not compile any more; see its run", 409) from None
    if found is None:
        raise Refusal("forbidden", "no attempt that runs here has this capability", 403)
    wrong = _differences(request, sent, found)
    if wrong:
        raise Refusal("forbidden", f"the capability belongs to another attempt: {', '.join(wrong)} differ", 403)
    log.info("callback answered", extra={"run": found.run_id, "instance": found.instance})
    return found


def _differences(request: web.Request, sent: InputBody, found: Materials) -> list[str]:
    type_ = TYPES.get(sent.instance_type.upper(), sent.instance_type)
    at = sent.scheduled_at or found.scheduled_at
    matches = {
        "project": request.match_info["project"] == found.project,
        "job": request.match_info["job"] == found.job,
        "instance_name": sent.instance_name in ("", found.plugin, found.instance),
        "instance_type": type_ in ("", found.type),
        "scheduled_at": int(at.timestamp()) == int(found.scheduled_at.timestamp()),
    }
    return [key for key, same in matches.items() if not same]


def _capability(request: web.Request) -> str:
    scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
    bearer = token if scheme.lower() == "bearer" else ""
    return request.match_info.get("capability") or bearer or request.headers.get("Prime-Capability") or ""

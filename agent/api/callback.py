"""The listener on the container network: images of the older generation ask it for what they shall work with.

It answers two paths only, and only to an attempt that runs here: by the capability in the path (OPTIMUS_HOST ends with
it), or as a bearer token. Secrets are real here; that is its purpose.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from aiohttp import web

from agent.api import problems
from agent.api import schema as s
from agent.api.face import Face
from agent.api.routing import FACE, answer, body
from agent.errors import Refusal
from agent.spec.compile import rfc3339
from agent.worker import Materials

log = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 64 * 1024
TYPES: Final = {"TASK": "task", "TYPE_TASK": "task", "HOOK": "hook", "TYPE_HOOK": "hook"}


class InputBody(s.Request, frozen=True):
    """What an entrypoint of the older generation sends."""

    scheduled_at: str = ""
    instance_name: str = ""
    instance_type: str = ""


class InputAnswer(s.View, frozen=True):
    """What it gets."""

    envs: dict[str, str]
    files: dict[str, str]
    secrets: dict[str, str]


def build_callback_app(face: Face) -> web.Application:
    """The application of the callback listener."""
    app = web.Application(middlewares=[problems.middleware], client_max_size=BODY_BYTES_MAX)
    app[FACE] = face
    for version in ("v1beta1", "v1"):
        base = f"/api/{version}/project/{{project}}/job/{{job}}"
        for prefix in ("", "/{capability}"):
            app.router.add_post(f"{prefix}{base}/run_input", _run_input)
            app.router.add_post(f"{prefix}{base}/instance", _instance)
    return app


async def _run_input(request: web.Request) -> web.Response:
    found = await _materials(request)
    return answer(InputAnswer(envs=found.environment, files=_texts(found), secrets=found.secrets))


async def _instance(request: web.Request) -> web.Response:
    found = await _materials(request)
    return answer({"context": {"envs": {**found.environment, **found.secrets}, "files": _texts(found)}})


def _texts(found: Materials) -> dict[str, str]:
    return {path: data.decode(errors="replace") for path, data in found.files.items()}


async def _materials(request: web.Request) -> Materials:
    """What the attempt with this capability works with, if the request speaks of that attempt. Raises Refusal."""
    sent = await body(request, InputBody, BODY_BYTES_MAX)
    found = await request.app[FACE].worker.materials(_capability(request))
    if found is None:
        await asyncio.sleep(0)
        raise Refusal("forbidden", "no attempt that runs here has this capability", 403)
    said: dict[str, Any] = {
        "project": (request.match_info["project"], found.project),
        "job": (request.match_info["job"], found.job),
    }
    if sent.instance_name:
        said["instance_name"] = (sent.instance_name, found.plugin)
    if sent.instance_type:
        said["instance_type"] = (TYPES.get(sent.instance_type.upper(), sent.instance_type), found.type)
    if sent.scheduled_at:
        said["scheduled_at"] = (sent.scheduled_at.replace("+00:00", "Z"), rfc3339(found.scheduled_at))
    wrong = [key for key, (given, true) in said.items() if given != true]
    if wrong:
        raise Refusal("forbidden", f"the capability belongs to another attempt: {', '.join(wrong)} differ", 403)
    log.info("callback answered", extra={"run": found.run_id, "instance": found.instance})
    return found


def _capability(request: web.Request) -> str:
    scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
    return request.match_info.get("capability") or (token if scheme.lower() == "bearer" else "")

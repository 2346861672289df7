"""Projects, plugins, jobs and secrets over HTTP."""

from __future__ import annotations

import msgspec
from aiohttp import web

from agent.api import schema as s
from agent.api import views
from agent.api.routing import JOBS_BODY_BYTES_MAX, Route, answer, body, face, query, read
from agent.runtable.model import Namespace
from agent.service import JobFile
from agent.spec.job import dump_job
from agent.spec.plugin import BUILTIN, Plugin, PluginKind


def job_file(sent: s.JobSpecFile) -> JobFile:
    """A job as it was sent."""
    return JobFile(sent.path, sent.yaml, sent.assets, [(one.path, one.yaml) for one in sent.parents])


async def _list_projects(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    rows = face(request).service.catalog.projects()
    return answer(s.ProjectsView(projects=[views.project(name, row) for name, row in sorted(rows.items())]))


async def _show_project(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    name = request.match_info["project"]
    return answer(views.project(name, face(request).service.catalog.project(name)))


async def _put_project(request: web.Request) -> web.Response:
    sent = await body(request, s.ProjectBody)
    namespaces = None
    if sent.namespaces is not None:
        namespaces = {name: Namespace(one.config, one.variables) for name, one in sent.namespaces.items()}
    presets = None
    if sent.presets is not None:
        presets = {name: msgspec.to_builtins(one) for name, one in sent.presets.items()}
    done = await face(request).service.catalog.put_project(
        request.match_info["project"],
        config=sent.config,
        variables=sent.variables,
        presets=presets,
        namespaces=namespaces,
    )
    return answer(views.applied(done))


async def _list_plugins(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    catalog = face(request).service.catalog
    name = request.match_info["project"]
    catalog.project(name)
    return answer(s.PluginsView(plugins=[_plugin(one) for _name, one in sorted(catalog.plugins(name).items())]))


def _plugin(plugin: Plugin) -> s.PluginView:
    version = plugin.versions.get(plugin.default_version)
    return s.PluginView(
        name=plugin.name,
        kind=plugin.kind,
        hook_type=None if plugin.kind is PluginKind.TASK else plugin.hook_type,
        description=plugin.description,
        executor=plugin.executor,
        image=f"{version.image}:{version.tag}".rstrip(":") if version is not None else "",
        built_in=plugin.name in BUILTIN,
    )


async def _put_plugins(request: web.Request) -> web.Response:
    sent = await body(request, s.PluginsBody)
    files = [(one.path, one.yaml) for one in sent.plugins]
    return answer(views.applied(await face(request).service.catalog.put_plugins(request.match_info["project"], files)))


async def _list_jobs(request: web.Request) -> web.Response:
    project = request.match_info["project"]
    if "namespace" in request.match_info:
        await read(request, s.ReadQuery)
        namespace: str | None = request.match_info["namespace"]
    else:
        namespace = (await read(request, s.JobsQuery)).namespace
    rows = face(request).service.catalog.jobs(project, namespace)
    return answer(s.JobsView(jobs=[views.job(project, name, row) for name, row in rows.items()]))


async def _show_job(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    catalog = face(request).service.catalog
    project, name = request.match_info["project"], request.match_info["job"]
    row = catalog.job(project, name)
    blob = await catalog.job_blob(row)
    return answer(
        s.JobDetailView(
            job=views.job(project, name, row),
            spec=msgspec.to_builtins(blob.job),
            assets=blob.assets,
            yaml=dump_job(blob.job),
        )
    )


async def _put_jobs(request: web.Request) -> web.Response:
    sent = await body(request, s.JobsBody, JOBS_BODY_BYTES_MAX)
    files = [job_file(one) for one in sent.specs]
    done = await face(request).service.catalog.put_jobs(
        request.match_info["project"], request.match_info["namespace"], files
    )
    return answer(views.jobs_applied(done))


async def _delete_job(request: web.Request) -> web.Response:
    info = request.match_info
    done = await face(request).service.catalog.delete_job(info["project"], info["namespace"], info["job"])
    return answer(views.applied(done))


async def _list_secrets(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    found = face(request).service.catalog.secrets(request.match_info["project"])
    return answer(
        s.SecretsView(
            secrets=[
                s.SecretView(name=name, namespace=namespace, updated_at=views.moment(at_ms))
                for namespace, name, at_ms in found
            ]
        )
    )


async def _put_secret(request: web.Request) -> web.Response:
    sent = await body(request, s.SecretBody)
    info = request.match_info
    catalog = face(request).service.catalog
    return answer(views.applied(await catalog.put_secret(info["project"], sent.namespace, info["name"], sent.value)))


async def _delete_secret(request: web.Request) -> web.Response:
    info = request.match_info
    namespace = query(request, s.SecretQuery).namespace
    catalog = face(request).service.catalog
    return answer(views.applied(await catalog.delete_secret(info["project"], namespace, info["name"])))


_P = "/api/v1/projects/{project}"
ROUTES = (
    Route(
        method="GET",
        path="/api/v1/projects",
        name="listProjects",
        summary="All projects",
        handler=_list_projects,
        query=s.ReadQuery,
        answer=s.ProjectsView,
    ),
    Route(
        method="GET",
        path=_P,
        name="showProject",
        summary="A project",
        handler=_show_project,
        query=s.ReadQuery,
        answer=s.ProjectView,
        refusals=(404,),
    ),
    Route(
        method="PUT",
        path=_P,
        name="putProject",
        summary="Create or change a project",
        handler=_put_project,
        body=s.ProjectBody,
        answer=s.AppliedView,
        refusals=(422,),
    ),
    Route(
        method="GET",
        path=f"{_P}/plugins",
        name="listPlugins",
        summary="Plugins that jobs of the project can name",
        handler=_list_plugins,
        query=s.ReadQuery,
        answer=s.PluginsView,
        refusals=(404,),
    ),
    Route(
        method="POST",
        path=f"{_P}/plugins",
        name="applyPlugins",
        summary="Apply plugins, all or none",
        handler=_put_plugins,
        body=s.PluginsBody,
        answer=s.AppliedView,
        refusals=(422,),
    ),
    Route(
        method="GET",
        path=f"{_P}/jobs",
        name="listProjectJobs",
        summary="Jobs of a project",
        handler=_list_jobs,
        query=s.JobsQuery,
        answer=s.JobsView,
        refusals=(404,),
    ),
    Route(
        method="GET",
        path=f"{_P}/jobs/{{job}}",
        name="showJob",
        summary="The whole of an applied job",
        handler=_show_job,
        query=s.ReadQuery,
        answer=s.JobDetailView,
        refusals=(404,),
    ),
    Route(
        method="GET",
        path=f"{_P}/namespaces/{{namespace}}/jobs",
        name="listJobs",
        summary="Jobs of a namespace",
        handler=_list_jobs,
        query=s.ReadQuery,
        answer=s.JobsView,
        refusals=(404,),
    ),
    Route(
        method="POST",
        path=f"{_P}/namespaces/{{namespace}}/jobs",
        name="applyJobs",
        summary="Apply jobs, all or none",
        handler=_put_jobs,
        body=s.JobsBody,
        answer=s.JobsAppliedView,
        refusals=(409, 422),
        body_bytes_max=JOBS_BODY_BYTES_MAX,
    ),
    Route(
        method="DELETE",
        path=f"{_P}/namespaces/{{namespace}}/jobs/{{job}}",
        name="deleteJob",
        summary="Delete a job; its runs stay",
        handler=_delete_job,
        answer=s.AppliedView,
        refusals=(404,),
    ),
    Route(
        method="GET",
        path=f"{_P}/secrets",
        name="listSecrets",
        summary="Names of secrets",
        handler=_list_secrets,
        query=s.ReadQuery,
        answer=s.SecretsView,
        refusals=(404,),
    ),
    Route(
        method="PUT",
        path=f"{_P}/secrets/{{name}}",
        name="putSecret",
        summary="Create or replace a secret",
        handler=_put_secret,
        body=s.SecretBody,
        answer=s.AppliedView,
        refusals=(404, 422),
    ),
    Route(
        method="DELETE",
        path=f"{_P}/secrets/{{name}}",
        name="deleteSecret",
        summary="Delete a secret",
        handler=_delete_secret,
        query=s.SecretQuery,
        answer=s.AppliedView,
        refusals=(404,),
    ),
)

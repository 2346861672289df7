"""Projects, plugins, jobs and secrets over HTTP."""

from __future__ import annotations

from pathlib import Path

from tests.api.harness import in_loop, job_yaml, prime

P = "/api/v1/projects/p"
JOBS = f"{P}/namespaces/n/jobs"
PLUGIN = "name: sql2sql\nplugintype: task\npluginversion: v1\nimage: example/sql\n"


@in_loop
async def test_jobs_are_applied_listed_shown_and_deleted(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        spec = {"path": "a/job.yaml", "yaml": job_yaml("a-job"), "assets": {"query.sql": "c2VsZWN0IDE="}}
        parent = {"path": "this.yaml", "yaml": "description: from the folder\n"}
        done = await agent.ok("POST", JOBS, {"specs": [{**spec, "parents": [parent]}]})
        assert (done["jobs"], done["index"]) == (["a-job"], agent.replica.applied_index)
        for path in (JOBS, f"{P}/jobs", f"{P}/jobs?namespace=n"):
            listed = (await agent.ok("GET", path))["jobs"]
            assert [(one["name"], one["namespace"], one["owner"]) for one in listed] == [("a-job", "n", "someone")]
        assert (await agent.ok("GET", f"{P}/jobs?namespace=other"))["jobs"] == []
        whole = await agent.ok("GET", f"{P}/jobs/a-job")
        assert whole["spec"]["description"] == "from the folder"
        assert whole["assets"].keys() == {"query.sql"}
        assert "name: a-job" in whole["yaml"]
        assert await agent.refused("DELETE", f"{P}/namespaces/other/jobs/a-job") == (404, "unknown_job")
        await agent.ok("DELETE", f"{JOBS}/a-job")
        assert await agent.refused("GET", f"{P}/jobs/a-job") == (404, "unknown_job")


@in_loop
async def test_p11_every_problem_of_every_file_is_told_and_nothing_is_applied(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        bad = {"path": "b/job.yaml", "yaml": job_yaml("bad").replace("owner:", "ownr:") + "nonsense: 1\n"}
        good = {"path": "a/job.yaml", "yaml": job_yaml("good")}
        status, answer = await agent.call("POST", JOBS, {"specs": [good, bad]})
        assert (status, answer["code"]) == (422, "spec_invalid")
        places = {(one["file"], one["key"]): one for one in answer["problems"]}
        assert {"owner", "ownr", "nonsense"} <= {key for _file, key in places}
        assert places["b/job.yaml", "nonsense"]["severity"] == "error"
        assert places["b/job.yaml", "nonsense"]["line"] > 1
        assert await agent.refused("GET", f"{P}/jobs") == (404, "unknown_project")
        leaving = {**good, "assets": {"../x": ""}}
        assert await agent.refused("POST", JOBS, {"specs": [leaving]}) == (422, "invalid_path")
        assert await agent.refused("POST", JOBS, {"specs": [{**good, "assets": {"x": "*"}}]}) == (400, "invalid")
        assert await agent.refused("POST", JOBS, {"specs": [good, good]}) == (422, "spec_invalid")
        assert await agent.refused("POST", "/api/v1/projects/-/namespaces/n/jobs", {"specs": []}) == (
            422,
            "invalid_name",
        )
        await agent.ok("POST", JOBS, {"specs": [good]})
        elsewhere = f"{P}/namespaces/other/jobs"
        assert await agent.refused("POST", elsewhere, {"specs": [good]}) == (409, "job_elsewhere")


@in_loop
async def test_a_project_keeps_what_a_change_leaves_out(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        namespaces = {"n": {"config": {"a": "1"}, "variables": {}}}
        await agent.ok("PUT", P, {"variables": {"X": "1"}, "namespaces": namespaces})
        await agent.ok("PUT", P, {"config": {"c": "2"}, "presets": {"daily": {"size": "1d"}}})
        shown = await agent.ok("GET", P)
        assert (shown["name"], shown["variables"], shown["config"]) == ("p", {"X": "1"}, {"c": "2"})
        assert (shown["presets"], shown["namespaces"]) == ({"daily": {"size": "1d"}}, namespaces)
        assert (await agent.ok("GET", "/api/v1/projects"))["projects"] == [shown]
        assert await agent.refused("PUT", P, {"presets": {"daily": {"sise": "1d"}}}) == (400, "invalid")
        assert await agent.refused("GET", "/api/v1/projects/q") == (404, "unknown_project")


@in_loop
async def test_plugins_are_applied_and_listed_with_the_built_in_ones(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        done = await agent.ok("POST", f"{P}/plugins", {"plugins": [{"path": "plugins/a.yaml", "yaml": PLUGIN}]})
        assert done["names"] == ["sql2sql"]
        listed = {one["name"]: one["built_in"] for one in (await agent.ok("GET", f"{P}/plugins"))["plugins"]}
        assert listed == {"sql2sql": False, "shell": True, "container": True}
        bad = {"plugins": [{"path": "plugins/b.yaml", "yaml": "name: [\n"}]}
        assert await agent.refused("POST", f"{P}/plugins", bad) == (422, "spec_invalid")


@in_loop
async def test_p8_a_secret_is_used_and_never_shown(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.ok("PUT", P, {})
        await agent.ok("PUT", f"{P}/secrets/TOKEN", {"value": "s3cr3t-value"})
        await agent.ok("PUT", f"{P}/secrets/TOKEN", {"value": "s3cr3t-value", "namespace": "n"})
        listed = (await agent.ok("GET", f"{P}/secrets"))["secrets"]
        assert [(one["name"], one["namespace"]) for one in listed] == [("TOKEN", ""), ("TOKEN", "n")]
        await agent.apply(PASSWORD="{{ .secret.TOKEN }}")
        run = await agent.ended((await agent.submit())["id"])
        assert run["state"] == "success"
        for path in ("", "/assets", "/explain"):
            async with agent.client.get(f"/api/v1/runs/{run['id']}{path}") as response:
                text = await response.text()
            assert "s3cr3t" not in text
            assert path != "/assets" or '"PASSWORD":"***"' in text
        assert await agent.refused("PUT", f"{P}/secrets/1x", {"value": ""}) == (422, "invalid_name")
        assert await agent.refused("PUT", f"{P}/secrets/BIG", {"value": "x" * 65537}) == (413, "too_large")
        await agent.ok("DELETE", f"{P}/secrets/TOKEN?namespace=n")
        assert await agent.refused("DELETE", f"{P}/secrets/TOKEN?namespace=n") == (404, "unknown_secret")

"""From a run to what an attempt finds: secrets where they belong, and nowhere else (P8)."""

from __future__ import annotations

import base64
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.provision import OpenedSecrets, Workspace, safe_path, sealed_secrets, shell_lines
from agent.spec.compile import Compiled
from agent.spec.errors import SpecError
from agent.spec.window import Interval
from agent.store.errors import BlobMissing
from tests.api.harness import Prime, in_loop, job_yaml, prime

SECRET = "hunter2 and a half"
AT = datetime(2022, 7, 5, tzinfo=UTC)


async def with_secrets(agent: Prime) -> None:
    """A project p whose secret A is overridden in the namespace n, and a neighbour of nearly the same name."""
    for project in ("p", "p.n"):
        await agent.ok("PUT", f"/api/v1/projects/{project}", {})
    for project, namespace, name, value in (
        ("p", "", "A", "of the project"),
        ("p", "n", "A", SECRET),
        ("p", "", "B", "the project's alone"),
        ("p", "other", "B", "of another namespace"),
        ("p.n", "", "C", "of another project"),
    ):
        await agent.service.catalog.put_secret(project, namespace, name, value)


@in_loop
async def test_a_namespaces_secret_takes_the_place_of_the_projects(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await with_secrets(agent)
        keyring = agent.service.context.keyring
        table = agent.replica.table
        opened = OpenedSecrets(keyring, sealed_secrets(table, "p", "n"))
        assert dict(opened) == {"A": SECRET, "B": "the project's alone"}
        assert len(opened) == 2
        assert dict(OpenedSecrets(keyring, sealed_secrets(table, "p", "x")))["A"] == "of the project"


@in_loop
async def test_p8_no_stored_copy_has_ever_held_a_secret(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await with_secrets(agent)
        spec = {
            "path": "job.yaml",
            "yaml": job_yaml(
                PASSWORD="x{{ .secret.A }}", SQUEEZED='{{ .secret.A | replace " " "" }}', MOCK_OUTPUT="hi"
            ),
            "assets": {"login.txt": "dXNlcjp7eyAuc2VjcmV0LkEgfX0=", "raw.bin": "/wA="},  # user:{{ .secret.A }}
        }
        await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})
        run = await agent.ended((await agent.submit())["id"])
        assert run["state"] == "success"
        (manifest,) = await agent.service.queries.assets(run["id"])
        assert manifest["secrets"] == {"PASSWORD": "***", "SQUEEZED": "***"}
        assert manifest["assets"] == {"login.txt": "user:***", "raw.bin": None}
        blobs = [path.read_bytes() for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        assert len(blobs) >= 4
        for value in (SECRET.encode(), SECRET.replace(" ", "").encode()):
            assert not any(value in data for data in blobs)


@in_loop
async def test_what_was_compiled_is_given_with_the_real_secret_to_the_attempt_alone(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await with_secrets(agent)
        await agent.apply(PASSWORD="x{{ .secret.A }}", MOCK_DURATION_MS="gate")
        run = await agent.submit()
        await agent.running(run["id"])
        row = agent.replica.run(run["id"])
        assert row is not None
        provisioner = agent.service.context.provisioner
        sealed = sealed_secrets(agent.replica.table, "p", "n")
        assert provisioner.compile(row, "container", sealed).secrets == {"PASSWORD": f"x{SECRET}"}
        masked = provisioner.compile(row, "container", sealed, masked=True)
        assert masked.secrets == {"PASSWORD": "x***"}
        assert provisioner.keep(masked) == provisioner.keep(masked) == (row.instances[0].attempts[0].compiled,)
        assert SECRET not in repr(provisioner.compile(row, "container", sealed))
        with pytest.raises(BlobMissing):
            provisioner.bundle("0" * 64)


ONLY_REAL = '{{ if ne .secret.A "***" }}{{ dateFromStr "" "" .secret.A }}{{ end }}'


@in_loop
async def test_p8_what_only_a_secrets_value_makes_wrong_is_told_without_it(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await with_secrets(agent)
        asset = base64.b64encode(ONLY_REAL.encode()).decode()
        spec = {"path": "job.yaml", "yaml": job_yaml(WHEN=ONLY_REAL), "assets": {"q.sql": asset}}
        await agent.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})
        run = await agent.ended((await agent.submit())["id"])
        (attempt,) = run["instances"][0]["attempts"]
        assert attempt["reason"] == "executor_error"
        assert attempt["message"].startswith("task.config.WHEN: cannot be compiled with the secrets as they are")
        assert "q.sql:1:31: dateFromStr: cannot be compiled" in attempt["message"]
        assert "hunter2" not in str(run)


@in_loop
async def test_what_is_wrong_without_the_secrets_as_well_is_told_in_full(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await with_secrets(agent)
        await agent.apply(USED="{{ .secret.B }}", MOCK_DURATION_MS="gate")
        run = await agent.submit()
        await agent.running(run["id"])
        row = agent.replica.run(run["id"])
        assert row is not None
        await agent.service.catalog.delete_secret("p", "", "B")
        for masked in (False, True):
            with pytest.raises(SpecError, match="there is no secret B; set it with: prime secret set B"):
                agent.service.context.provisioner.compile(
                    row, "container", sealed_secrets(agent.replica.table, "p", "x"), masked=masked
                )


def compiled(files: dict[str, bytes]) -> Compiled:
    return Compiled(
        instance="task",
        window=Interval(AT, AT),
        environment={"PLAIN": "it's"},
        secrets={"PASSWORD": SECRET},
        files=files,
    )


def test_a_workspace_holds_what_the_attempt_finds(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "run" / "task" / "1")
    for _ in range(2):  # the second time as after a crash
        workspace.fill(compiled({"a/b.sql": b"select", "c": b"\xff"}))
    into = workspace.directory / "in"
    assert (into / "a" / "b.sql").read_bytes() == b"select"
    assert (into / ".env").read_text() == "PLAIN='it'\\''s'\n"
    assert (into / ".secret").read_text() == f"PASSWORD='{SECRET}'\n"
    assert (into / ".secret").stat().st_mode & 0o777 == 0o600
    assert (workspace.directory / "out").stat().st_mode & 0o777 == 0o777


def test_p8_a_file_that_is_there_already_does_not_lend_its_mode_to_the_secrets(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "run" / "task" / "1")
    into = workspace.directory / "in"
    into.mkdir(parents=True)
    for name in (".env", ".secret"):
        (into / name).write_text("old and long" * 100)
        (into / name).chmod(0o666)
    workspace.fill(compiled({}))
    assert (into / ".secret").stat().st_mode & 0o777 == 0o600
    assert (into / ".secret").read_text() == f"PASSWORD='{SECRET}'\n"
    elsewhere = tmp_path / "elsewhere"
    (into / ".secret").unlink()
    (into / ".secret").symlink_to(elsewhere)
    workspace.fill(compiled({}))
    assert not elsewhere.exists()
    assert not (into / ".secret").is_symlink()


def test_p8_scrubbing_removes_all_that_may_hold_secrets_and_leaves_the_output(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "run" / "task" / "1")
    workspace.fill(compiled({"login": SECRET.encode()}))
    (workspace.directory / "out" / "result").touch()
    for _ in range(2):
        workspace.scrub()
    assert [path.name for path in workspace.directory.rglob("*")] == ["out", "result"]


def test_removing_an_attempt_leaves_other_attempts_and_the_root(tmp_path: Path) -> None:
    root = tmp_path / "attempts"
    first, second = (Workspace(root / "run" / "task" / number) for number in "12")
    for workspace in (first, second):
        workspace.fill(compiled({}))
    first.remove(root)
    assert second.directory.is_dir()
    second.remove(root)
    assert root.is_dir()
    assert list(root.iterdir()) == []
    second.remove(root)
    assert root.is_dir()


@pytest.mark.parametrize("replaced", ["run/task/1", "run/task", "run"])
@pytest.mark.parametrize("by", ["link", "link to nothing", "file", "pipe"])
def test_what_stands_in_the_place_of_an_attempts_directory_is_removed_and_not_followed(
    tmp_path: Path, by: str, replaced: str
) -> None:
    root, elsewhere = tmp_path / "attempts", tmp_path / "elsewhere"
    Workspace(elsewhere / "task" / "1").fill(compiled({"a": b"kept"}))
    Workspace(elsewhere).fill(compiled({"a": b"kept"}))
    before = sorted(elsewhere.rglob("*"))
    place = root / replaced
    place.parent.mkdir(parents=True)
    if by == "link":
        place.symlink_to(elsewhere)
    elif by == "link to nothing":
        place.symlink_to(tmp_path / "nothing")
    elif by == "file":
        place.touch()
    else:
        os.mkfifo(place)
    workspace = Workspace(root / "run" / "task" / "1")
    if replaced == "run/task/1":
        workspace.scrub()
    workspace.remove(root)
    assert list(root.iterdir()) == []
    assert sorted(elsewhere.rglob("*")) == before


def test_what_stands_in_the_place_of_what_an_attempt_was_given_is_removed_and_not_followed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "run" / "task" / "1")
    workspace.directory.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (workspace.directory / "in").symlink_to(tmp_path / "elsewhere")
    workspace.scrub()
    assert list(workspace.directory.iterdir()) == []
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("path", ["../x", "a/../../x", "..", "/etc/passwd", "", ".", "a\0b"])
def test_p8_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="leaves its folder; use a relative path"):
        safe_path(path)
    workspace = Workspace(tmp_path / "1")
    with pytest.raises(ValueError, match="leaves its folder"):
        workspace.fill(compiled({path: b"x"}))


@pytest.mark.parametrize("path", ["a", "a/b.sql", "...", "a..b/c", "./a"])
def test_a_path_below_its_folder_is_taken(path: str) -> None:
    assert str(safe_path(path)) == path.removeprefix("./")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_quoting_leaves_no_way_out_of_the_quotes(value: str) -> None:
    line = shell_lines({"KEY": value}).removesuffix("\n")
    inner = line.removeprefix("KEY='").removesuffix("'")
    pieces = inner.split("'\\''")
    assert "'".join(pieces) == value
    assert not any("'" in piece for piece in pieces)


def test_a_shell_reads_back_what_was_quoted() -> None:
    values = {"A": "it's", "B": '$HOME `id` \\ "x"', "C": "two\nlines\n", "D": "", "E": "'';rm -rf x;'"}
    script = shell_lines(values) + 'printf "%s\\0" "$A" "$B" "$C" "$D" "$E"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == list(values.values())

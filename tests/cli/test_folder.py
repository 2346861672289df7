"""Project folders on disk: which files are jobs, of which namespace, with which assets and parents."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.folder import Folder, find_folder, load_folder
from agent.offline import NoSuchJob, find_job
from tests.cli.terminal import SHOP

PROJECT = """
project: {{name: p}}
namespaces:
{namespaces}
"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def project(root: Path, *namespaces: str, **files: str) -> Folder:
    lines = "\n".join(f"  - {{name: n{n}, job: {{path: {path}}}}}" for n, path in enumerate(namespaces))
    write(root, {"optimus.yaml": PROJECT.format(namespaces=lines)})
    return load_folder(root)


def found(folder: Folder, below: Path | None = None) -> list[tuple[str, str]]:
    return [(job.namespace, job.file.path) for job in folder.jobs(below)]


def test_only_files_called_exactly_job_yaml_are_jobs(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["j/a/job.yaml", "j/b/myjob.yaml", "j/c/job.yml", "j/.git/job.yaml"], "x"))
    assert found(project(tmp_path, "j")) == [("n0", "j/a/job.yaml")]


def test_a_jobs_assets_hold_no_jobs_but_a_team_may_be_called_assets(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["j/a/job.yaml", "j/a/assets/job.yaml", "j/assets/load/job.yaml"], "x"))
    assert found(project(tmp_path, "j")) == [("n0", "j/a/job.yaml"), ("n0", "j/assets/load/job.yaml")]


def test_a_job_belongs_to_the_innermost_namespace(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["j/a/job.yaml", "j/in/b/job.yaml"], "x"))
    folder = project(tmp_path, "j", "j/in")
    assert found(folder) == [("n0", "j/a/job.yaml"), ("n1", "j/in/b/job.yaml")]
    assert folder.job(tmp_path / "j/in/b/job.yaml").namespace == "n1"
    assert found(folder, tmp_path / "j/in") == [("n1", "j/in/b/job.yaml")]


def test_namespaces_whose_folder_is_missing_or_taken_are_problems(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    folder = project(tmp_path, "j", "nowhere", "j")
    assert found(folder) == []
    assert [(one.key, one.message.split("of the namespace ")[1]) for one in folder.problems] == [
        ("namespaces[1].job.path", "n1 is not there"),
        ("namespaces[2].job.path", "n2 belongs to another namespace"),
    ]


def test_parents_go_up_to_the_project_nearest_first(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["this.yaml", "p/this.yaml", "p/j/a/this.yaml", "p/j/a/job.yaml"], "x: 1"))
    (job,) = project(tmp_path / "p", "j").jobs()
    assert [name for name, _text in job.file.parents] == ["j/a/this.yaml", "this.yaml"]


def test_assets_are_named_by_their_path_below_assets() -> None:
    daily = next(job for job in load_folder(SHOP).jobs() if job.file.path == "jobs/sales/daily/job.yaml")
    assert sorted(daily.file.assets) == ["job.yaml", "parts/more.tmpl", "query.sql"]


def test_names_do_not_depend_on_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"j/a/job.yaml": "x"})
    project(tmp_path, "j")
    monkeypatch.chdir(tmp_path / "j" / "a")
    folder = load_folder(Path())
    assert found(folder) == [("n0", "j/a/job.yaml")]
    assert folder.shown("j/a/job.yaml") == "job.yaml"
    monkeypatch.chdir("/")
    assert Path(folder.shown("j/a/job.yaml")).resolve() == (tmp_path / "j/a/job.yaml").resolve()


def test_the_nearest_project_counts(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["optimus.yaml", "in/optimus.yaml", "in/a/job.yaml", "out/x"], ""))
    assert find_folder(tmp_path / "in" / "a" / "job.yaml") == (tmp_path / "in").resolve()
    assert find_folder(tmp_path / "out") == tmp_path.resolve()


def test_what_cannot_be_read_is_a_problem_with_its_place(tmp_path: Path) -> None:
    write(tmp_path, {"j/a/job.yaml": "x"})
    (tmp_path / "j/a/job.yaml").write_bytes(b"name: a\nowner: \xff\n")
    (tmp_path / "j/a/assets").mkdir()
    (tmp_path / "j/a/assets/gone.sql").symlink_to(tmp_path / "nowhere")
    folder = project(tmp_path, "j")
    assert found(folder) == [("n0", "j/a/job.yaml")]
    places = [(one.file, one.line, one.column) for one in folder.problems]
    assert places == [("j/a/job.yaml", 2, 8), ("j/a/assets/gone.sql", 1, 1)]


def test_presets_and_plugins_that_are_missing_or_doubled_are_problems(tmp_path: Path) -> None:
    plugin = "name: sql\nplugintype: task\nimage: x\n"
    write(tmp_path, {"plugins/a.yaml": plugin, "plugins/b.yaml": plugin})
    write(tmp_path, {"optimus.yaml": "project: {name: p, preset_path: nowhere.yaml}\n"})
    keys = [(one.file, one.key) for one in load_folder(tmp_path).problems]
    assert keys == [("optimus.yaml", "project.preset_path"), ("plugins/b.yaml", "name")]


def test_a_project_that_cannot_be_read_has_no_jobs(tmp_path: Path) -> None:
    write(tmp_path, {"optimus.yaml": "project: 1\n", "a/job.yaml": "x"})
    folder = load_folder(tmp_path)
    assert (folder.is_project, folder.project, found(folder)) == (True, None, [])
    (tmp_path / "optimus.yaml").write_bytes(b"\xff")
    assert load_folder(tmp_path).problems[0].message.startswith("this is not UTF-8")


def test_a_job_is_found_although_its_name_is_written_with_escapes_or_it_has_errors(tmp_path: Path) -> None:
    text = "version: 2\nowner: me\ntask: {name: shell}\n"
    write(tmp_path, {"j/a/job.yaml": text + 'name: "a\\x62c"\n', "j/b/job.yaml": "name: other\n"})
    folder = project(tmp_path, "j")
    assert find_job(folder, "abc")[0].file.path == "j/a/job.yaml"
    with pytest.raises(NoSuchJob, match="did you mean 'other'"):
        find_job(folder, "othr")

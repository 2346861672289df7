"""`.tasks.NAME.outputs.KEY` in config values and assets: who finds what, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agent.spec import bundle as bundles
from agent.spec.bundle import Bundle, before, plan
from agent.spec.compile import Compiled, compile_instance
from agent.spec.errors import Problem, SpecError
from agent.spec.lookups import Masked, TaskOutputs
from agent.spec.trial import try_bundle
from tests.spec.test_compile import AT, STARTED, job, plugin

HOOKS = {"make": "setup", "check": "pre", "tell": "post", "alarm": "fail", "drop": "teardown"}
JOB = """
version: 2
name: sample
owner: me
task:
  name: load
  config: {{LOAD: '{task}'}}
hooks:
{hooks}
"""


def bundle(task: str = "x", urn: str = "", depends_on: str = "[]", **hooks: str) -> Bundle:
    """A job with a hook of each kind; each instance has one config value, called as itself."""
    told = "".join(
        f"  - name: {name}\n    hooktype: {kind}\n    config: {{{name.upper()}: '{hooks.get(name, 'x')}'}}\n"
        for name, kind in HOOKS.items()
    )
    spec = job(JOB.format(task=task, hooks=told))
    load = f"name: load\nplugintype: task\nimage: i\ndestination_urn_template: '{urn}'\n"
    known = [plugin(load)]
    known += [plugin(f"name: {name}\nplugintype: hook\nimage: i\ndependson: {depends_on}\n") for name in HOOKS]
    return Bundle(
        job=spec,
        project="p",
        namespace="n",
        plugins=bundles.used_plugins(spec, {one.name: one for one in known}),
        variables={},
    )


def found(
    of: Bundle, name: str, outputs: Mapping[str, TaskOutputs] | None = None, assets: Mapping[str, bytes] | None = None
) -> Compiled:
    return compile_instance(
        of, name, scheduled_at=AT, started_at=STARTED, secrets={}, assets=assets or {}, outputs=outputs
    )


def run(**values: object) -> dict[str, TaskOutputs]:
    """A run in which each instance has put out what is named here, and no other anything."""
    known = {name: TaskOutputs({}, "it has put out nothing") for name in ("load", *HOOKS)}
    return {**known, **{name: TaskOutputs({"k": value}) for name, value in values.items()}}


def problems(of: Bundle, assets: Mapping[str, bytes] | None = None) -> tuple[Problem, ...]:
    return try_bundle(of, at=AT, secrets=Masked(), assets=assets or {}, executor=lambda one: one.executor).problems


def wrong(of: Bundle, name: str, outputs: Mapping[str, TaskOutputs], **assets: bytes) -> list[str]:
    with pytest.raises(SpecError) as caught:
        found(of, name, outputs, assets)
    return [str(one) for one in caught.value.problems]


def test_what_comes_before_an_instance() -> None:
    planned = plan(bundle())
    core = {"make", "check", "load", "tell"}
    assert {one.name: set(before(planned, one.name)) for one in planned} == {
        "make": set(),
        "check": {"make"},
        "load": {"make", "check"},
        "tell": {"make", "check", "load"},
        "alarm": core,
        "drop": core | {"alarm"},
    }


def test_config_values_find_the_outputs_of_what_came_before() -> None:
    of = bundle(task="{{ .tasks.check.outputs.k }}", tell="{{ .tasks.load.outputs.k }} {{ .TASK__LOAD }}")
    assert problems(of) == ()
    outputs = run(check="2022-07-05", load=[1, 1e7])
    assert found(of, "load", outputs).environment["LOAD"] == "2022-07-05"
    assert found(of, "tell", outputs).environment["TELL"] == "[1 1e+07] 2022-07-05"


def test_a_missing_output_is_an_error_that_names_what_there_is() -> None:
    of = bundle(tell="{{ .tasks.load.outputs.row }}")
    (told,) = wrong(of, "tell", {**run(), "load": TaskOutputs({"rows": 1})})
    assert told.startswith("sample/job.yaml:1:1: hooks[2].config.TELL: ")
    assert told.endswith("; load has no output 'row'; did you mean 'rows'? Known: rows")
    (told,) = wrong(of, "tell", run())
    assert told.endswith("; load has no output 'row'; known: none (it has put out nothing)")
    (told,) = wrong(bundle(), "tell", run(), a=b"one\n{{ .tasks.load.outputs.row }}")
    assert told.startswith("a:2:")
    assert "has no output 'row'" in told


@pytest.mark.parametrize(
    ("hooks", "key", "why"),
    [
        ({"check": "{{ .tasks.load.outputs.k }}"}, "hooks[1].config.CHECK", "load, whose outputs it reads, does not"),
        ({"task": "{{ .tasks.load.outputs.k }}"}, "task.config.LOAD", "load, whose outputs it reads, does not come"),
        ({"tell": '{{ (index .tasks "drop").outputs.k }}'}, "hooks[2].config.TELL", "before it: check, load, make"),
        ({"tell": "{{ .tasks.lode.outputs.k }}"}, "hooks[2].config.TELL", "no instance 'lode'; did you mean 'load'"),
    ],
)
def test_outputs_of_what_comes_later_or_is_not_there_are_refused_before_anything_runs(
    hooks: dict[str, str], key: str, why: str
) -> None:
    (problem,) = problems(bundle(**hooks))
    assert problem.key == key
    assert why in problem.message


def test_what_only_a_value_decides_is_not_judged_before_there_is_one() -> None:
    text = "{{ range .tasks.check.outputs.k }}{{ . }},{{ end }}"
    of = bundle(task=text)
    assert problems(of) == ()
    assert found(of, "load").environment["LOAD"] == text  # as `job compile` shows it
    assert found(of, "load", run(check=[1, 2])).environment["LOAD"] == "1,2,"
    (told,) = wrong(of, "load", run(check="text"))
    assert "range can't iterate over text" in told
    of = bundle(task="{{ .tasks.check.outputs.k }}")
    assert found(of, "load").environment["LOAD"] == "{{ .tasks.check.outputs.k }}"


def test_another_error_is_an_error_whatever_outputs_it_reads_before_and_after() -> None:
    (problem,) = problems(bundle(task="{{ .nope }}{{ .tasks.check.outputs.k }}"))
    assert "nope" in problem.message
    (problem,) = problems(bundle(task="{{ .tasks.check.outputs.k }}{{ .tasks.tell.outputs.k }}"))
    assert "tell, whose outputs it reads" in problem.message


def test_an_asset_is_left_out_for_instances_before_what_it_reads() -> None:
    assets = {"query": b"{{ .tasks.check.outputs.k }}", "plain": b"p"}
    of = bundle()
    assert problems(of, assets) == ()
    early = found(of, "check", run(), assets)
    assert early.files == {"plain": b"p"}
    assert early.left_out == {"query": "check, whose outputs it reads, does not come before it; before it: make"}
    late = found(of, "load", run(check=0.25), assets)
    assert (late.files["query"], late.left_out) == (b"0.25", {})


def test_an_asset_that_includes_one_that_reads_outputs_is_left_out_as_well() -> None:
    assets = {"a.sql": b'{{ template "b.gtpl" . }}', "b.gtpl": b"{{ .tasks.check.outputs.k }}"}
    of = bundle()
    assert problems(of, assets) == ()
    assert found(of, "check", run(), assets).files == {"b.gtpl": assets["b.gtpl"]}
    assert found(of, "load", run(check="v"), assets).files["a.sql"] == b"v"


def test_an_asset_that_nobody_would_find_is_refused() -> None:
    (problem,) = problems(bundle(), {"a": b"\n{{ .tasks.drop.outputs.k }}"})
    assert (problem.file, problem.line) == ("a", 2)
    assert problem.message.endswith("no instance comes late enough to read this asset")
    (problem,) = problems(bundle(), {"a": b"{{ .tasks.nope.outputs.k }}"})
    assert "the run has no instance 'nope'" in problem.message


def test_the_tasks_config_is_not_there_for_hooks_before_what_it_reads() -> None:
    of = bundle(task="{{ .tasks.check.outputs.k }}", urn="u://{{ .LOAD }}", tell="{{ .TASK__LOAD }}")
    assets = {"a": b"{{ .task.LOAD }}", "b": b"{{ .TASK__LOAD }}", "c": b"{{ .JOB_DESTINATION }}"}
    assert problems(of, assets) == ()
    early = found(of, "check", run(), assets)
    assert early.environment["JOB_DESTINATION"] == ""
    assert (early.files, set(early.left_out)) == ({"c": b""}, {"a", "b"})
    late = found(of, "tell", run(check="v"), assets)
    assert late.environment["JOB_DESTINATION"] == "u://v"
    assert late.environment["TELL"] == "v"
    assert late.files == {"a": b"v", "b": b"v", "c": b"u://v"}
    (problem,) = problems(bundle(task="{{ .tasks.check.outputs.k }}", check="{{ .TASK__LOAD }}"))
    assert problem.key == "hooks[1].config.CHECK"
    assert problem.message.endswith("; check, whose outputs it reads, does not come before it; before it: make")


def test_hooks_in_a_circle_are_told_where_their_order_is_asked_for() -> None:
    of = bundle(task="{{ .tasks.check.outputs.k }}", depends_on="[make, check, tell, alarm, drop]")
    with pytest.raises(SpecError, match="wait for each other in a circle"):
        found(of, "load", run())


def test_a_config_value_called_as_a_part_of_the_context_hides_it_from_the_urn_alone() -> None:
    text = JOB.format(task="{{ .tasks.check.outputs.k }}", hooks="  - {name: check, hooktype: pre}\n")
    spec = job(text.replace("config: {LOAD", "config: {tasks: t, LOAD"))
    known = [
        plugin("name: load\nplugintype: task\nimage: i\ndestination_urn_template: 'u://{{ .tasks }}'\n"),
        plugin("name: check\nplugintype: hook\nimage: i\n"),
    ]
    of = Bundle(
        job=spec,
        project="p",
        namespace="n",
        plugins=bundles.used_plugins(spec, {one.name: one for one in known}),
        variables={},
    )
    made = found(of, "load", run(check="v"), {"a": b"{{ .tasks.check.outputs.k }}"})
    assert (made.environment["JOB_DESTINATION"], made.environment["LOAD"]) == ("u://t", "v")
    assert made.files == {"a": b"v"}

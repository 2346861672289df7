"""Whom a job wants to be told: which wishes it has, what is wrong with them, where they are sent."""

from __future__ import annotations

import pytest

from agent.spec import notices
from agent.spec.bundle import Bundle
from agent.spec.check import check_job
from agent.spec.errors import Severity
from agent.spec.job import parse_job
from agent.spec.jobspec import JobSpec
from agent.spec.lookups import Masked
from agent.spec.notices import NoticeError, Target, Wish

HEAD = "version: 2\nname: job\nowner: me\ntask: {name: shell, config: {SCRIPT: x}%s}\n"
CALM = ", alert: {sla_miss: [{duration_threshold: 5m, severity: HIGH, team: a}, {auto_threshold: true}]}"


def job(text: str = "", task: str = "") -> JobSpec:
    parsed = parse_job(HEAD % task + text, "job.yaml")
    assert parsed.job is not None, parsed.problems
    return parsed.job


def bundle(text: str) -> Bundle:
    return Bundle(job=job(text), project="p", namespace="n", plugins={}, variables={"REGION": "eu"})


def notify(*items: str) -> str:
    return f"behavior: {{notify: [{', '.join(items)}]}}\n"


def webhook(url: str, headers: str = "{}", on: str = "failure") -> str:
    return f"behavior: {{webhook: [{{on: {on}, endpoints: [{{url: '{url}', headers: {headers}}}]}}]}}\n"


def wishes(text: str = "", task: str = "") -> list[Wish]:
    return list(notices.wishes(job(text, task)))


def problems(text: str = "", task: str = "") -> list[tuple[str, str]]:
    return [(key, message) for key, message, _severity in notices.problems(job(text, task))]


# -- wishes ------------------------------------------------------------------------------------------------------------


def test_every_channel_and_every_endpoint_is_a_wish_found_again_by_its_place() -> None:
    text = (
        "behavior:\n  notify:\n"
        "    - {on: job_failure, channels: ['slack://#a', 'pagerduty://#b'], severity: LOW, team: t}\n"
        "  webhook:\n    - {on: job_success, endpoints: [{url: 'http://h/x'}, {url: '{{.secret.U}}'}]}\n"
    )
    found = wishes(text)
    assert [(one.on, one.place, one.shown) for one in found] == [
        ("failure", "behavior.notify[0].channels[0]", "slack://#a"),
        ("failure", "behavior.notify[0].channels[1]", "pagerduty://#b"),
        ("success", "behavior.webhook[0].endpoints[0]", found[2].shown),
        ("success", "behavior.webhook[0].endpoints[1]", found[3].shown),
    ]
    assert (found[0].scheme, found[0].name, found[0].severity, found[0].team) == ("slack", "a", "LOW", "t")
    assert all(notices.find(job(text), one.place) == one for one in found)
    assert notices.find(job(text), "behavior.notify[7].channels[0]") is None


def test_an_endpoint_shows_its_host_and_nothing_else_of_its_address() -> None:
    (plain,) = wishes(webhook("https://user:pass@h.example:8443/T0K3N?key=s"))
    (other,) = wishes(webhook("https://user:pass@h.example:8443/OTHER"))
    (made,) = wishes(webhook("https://h/{{.secret.PATH}}"))
    (broken,) = wishes(webhook("http://[x"))
    assert plain.shown.startswith("webhook h.example ")
    assert not any(hidden in plain.shown for hidden in ("user", "pass", "T0K3N", "key"))
    assert plain.shown != other.shown
    (long,) = wishes(notify(f"{{on: failure, channels: ['slack://#{'x' * 900}']}}"))
    assert len(long.shown) < 120
    assert len(made.shown.split()) == len(broken.shown.split()) == 2


def test_times_are_told_to_who_asks_for_them_and_alerts_to_all_of_their_team() -> None:
    text = (
        "behavior:\n  notify:\n"
        "    - {on: sla_miss, config: {duration: 2h}, channels: ['slack://#a'], team: a, severity: INFO}\n"
        "    - {on: sla_miss, channels: ['slack://#b'], team: b}\n"
        "    - {on: failure, config: {duration: 9h}, channels: []}\n"
        "  webhook: [{on: sla_miss, endpoints: [{url: 'http://h'}]}]\n"
        "hooks: [{name: container, config: {IMAGE: i}, alert: {sla_miss: [{duration_threshold: 1m, team: b}]}}]\n"
    )
    found = [
        (one.place.replace("behavior.", ""), one.instance, one.within_s, one.auto, one.severity, one.team)
        for one in wishes(text, CALM)
    ]
    a, b, web = "notify[0].channels[0]", "notify[1].channels[0]", "webhook[0].endpoints[0]"
    assert found == [
        (f"{a} for notify[0]", "", 7200.0, False, "INFO", "a"),
        (f"{a} for task.alert.sla_miss[0]", "shell", 300.0, False, "HIGH", "a"),
        (f"{a} for task.alert.sla_miss[1]", "shell", None, True, "INFO", "a"),
        (f"{b} for task.alert.sla_miss[1]", "shell", None, True, "", "b"),
        (f"{b} for hooks[0].alert.sla_miss[0]", "container", 60.0, False, "", "b"),
        (f"{web} for notify[0]", "", 7200.0, False, "", ""),
        (f"{web} for task.alert.sla_miss[0]", "shell", 300.0, False, "HIGH", "a"),
        (f"{web} for task.alert.sla_miss[1]", "shell", None, True, "", ""),
        (f"{web} for hooks[0].alert.sla_miss[0]", "container", 60.0, False, "", "b"),
    ]
    assert len({one[0] for one in found}) == len(found)


# -- problems ----------------------------------------------------------------------------------------------------------


def test_a_job_whose_wishes_can_be_fulfilled_has_no_problem() -> None:
    text = notify("{on: sla_miss, channels: ['slack://#a']}", "{on: failure, channels: ['pagerduty://#a']}")
    assert problems(text, CALM) == []
    assert problems() == []


@pytest.mark.parametrize(
    ("text", "task", "key", "part"),
    [
        (notify("{on: failur, channels: ['slack://#a']}"), "", "behavior.notify[0].on", "there is no event 'failur'"),
        (webhook("http://h", on="ended"), "", "behavior.webhook[0].on", "nothing is sent"),
        (notify("{on: failure, channels: ['mail://x']}"), "", "behavior.notify[0].channels[0]", "slack:// and"),
        (notify("{on: failure}"), "", "behavior.notify[0]", "has no channels"),
        (notify("{on: sla_miss, channels: ['slack://#a']}"), "", "behavior.notify[0]", "is never missed"),
        ("", ", alert: {sla_miss: [{auto_threshold: true}]}", "task.alert.sla_miss[0]", "tells nobody"),
    ],
)
def test_what_nobody_would_be_told_of_is_a_warning_p11(text: str, task: str, key: str, part: str) -> None:
    ((found_key, message, severity),) = notices.problems(job(text, task))
    assert (found_key, severity) == (key, Severity.WARNING)
    assert part in message


def test_checking_a_job_places_them() -> None:
    parsed = parse_job(HEAD % "" + notify("{on: failur, channels: ['slack://#a']}"), "job.yaml")
    assert parsed.job is not None
    (found,) = check_job(parsed.job, {}, "job.yaml", positions=parsed.positions)
    assert str(found).startswith("job.yaml:5:26: behavior.notify[0].on: there is no event 'failur'")


def test_an_alert_for_a_team_that_nobody_belongs_to_is_a_warning() -> None:
    found = problems(notify("{on: sla_miss, channels: ['slack://#b'], team: b}"), CALM)
    assert [key for key, _message in found] == ["task.alert.sla_miss[0]"]


def test_more_wishes_than_a_run_may_have_are_an_error_p12() -> None:
    channels = ", ".join(f"'slack://#c{n}'" for n in range(notices.WISHES_MAX + 1))
    ((key, message, severity),) = notices.problems(job(notify(f"{{on: failure, channels: [{channels}]}}")))
    assert (key, severity) == ("behavior", Severity.ERROR)
    assert "at most 100" in message


def test_what_lacks_a_secret_is_told_once_at_its_place() -> None:
    text = notify("{on: sla_miss, channels: ['slack://#a', 'pagerduty://#b'], config: {duration: 1h}}")
    made = Bundle(job=job(text, CALM), project="p", namespace="n", plugins={})
    found = notices.unresolved(made, Masked(frozenset({"NOTIFY_PAGERDUTY_B"})), "a/job.yaml")
    assert [(one.file, one.key, one.severity) for one in found] == [
        ("a/job.yaml", "behavior.notify[0].channels[0]", Severity.WARNING)
    ]


# -- targets -----------------------------------------------------------------------------------------------------------


def resolved(text: str, **secrets: str) -> Target:
    made = bundle(text)
    (wish,) = notices.wishes(made.job)
    return notices.resolve(made, wish, secrets)


def test_a_channels_own_secret_comes_before_that_of_all() -> None:
    text = notify("{on: failure, channels: ['slack://#data-team']}")
    assert resolved(text, NOTIFY_SLACK=" http://all ") == Target("http://all", {})
    assert resolved(text, NOTIFY_SLACK="http://all", NOTIFY_SLACK_DATA_TEAM="http://own") == Target("http://own", {})
    text = notify("{on: failure, channels: ['pagerduty://#svc']}")
    assert resolved(text, NOTIFY_PAGERDUTY="key") == Target("", {}, "key")


def test_addresses_and_headers_are_rendered_as_configs_are() -> None:
    text = webhook("http://{{.proj.REGION}}.example/{{.secret.P}}", "{A: '{{.GLOBAL__REGION}}', B: plain}")
    assert resolved(text, P="x") == Target("http://eu.example/x", {"A": "eu", "B": "plain"}, "")
    assert resolved(text, P="x", WEBHOOK_SECRET="k").key == "k"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (webhook("http://{{.secret.NONE}}"), "the url cannot be rendered: there is no NONE"),
        (webhook("http://{{.secret"), "the url cannot be rendered"),
        (webhook("http://h", "{X: '{{.secret.P.x}}'}"), "the header X cannot be rendered"),
        (webhook("http://h", "{Host: x}"), "the header Host is not for a job to set"),
        (webhook("http://h", "{'A B': x}"), "the header A B is not for a job to set"),
        (webhook("http://h", "{X: '{{.secret.LINES}}'}"), "the value of the header X has a line break"),
        (notify("{on: failure, channels: ['slack://#a']}"), "there is no secret NOTIFY_SLACK (nor NOTIFY_SLACK_A)"),
    ],
)
def test_what_cannot_be_resolved_says_why_and_quotes_no_secret_p8(text: str, message: str) -> None:
    with pytest.raises(NoticeError) as found:
        resolved(text, P="hidden", LINES="hidden\nX: y")
    assert message in str(found.value)
    assert "hidden" not in str(found.value)

"""Whom a job wants to be told of what: `behavior.notify`, `behavior.webhook`, and the `alert`s of task and hooks.

A *wish* is one event for one endpoint. It is named by its `place`, its key in the job, and found again by that in a
bundle: what an endpoint's address is made of, secrets above all, stands nowhere else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from agent.spec.bundle import Bundle, instance_name
from agent.spec.document import nearest
from agent.spec.duration import parse as parse_duration
from agent.spec.errors import Problem, Severity
from agent.spec.jobspec import EndpointSpec, JobSpec, NotifySpec, SlaMissAlert
from agent.spec.template import TemplateError, render

EVENTS: Final = {
    "failure": "failure",
    "job_failure": "failure",
    "success": "success",
    "job_success": "success",
    "retry": "retry",
    "task_retry": "retry",
    "sla_miss": "sla_miss",
    "replay": "replay",
}
"""What may stand at `on`, and what it means."""
SLA_MISS: Final = "sla_miss"
SLACK: Final = "slack"
PAGERDUTY: Final = "pagerduty"
SECRETS: Final = {SLACK: "NOTIFY_SLACK", PAGERDUTY: "NOTIFY_PAGERDUTY"}
WISHES_MAX: Final = 100  # of one job; the run table takes no more of a run
SHOWN_MAX: Final = 100  # characters of a channel or a host
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_OURS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})


class NoticeError(Exception):
    """An endpoint cannot be told, and another try would be no better. The message holds no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One event for one endpoint.

    on: a value of EVENTS.  place: its key in the job; unique in it.  channel: `scheme://name`, or else webhook.
    instance: "" = the run.  within_s: of sla_miss; None with `auto` = to be learned.
    """

    on: str
    place: str
    channel: str = ""
    webhook: EndpointSpec | None = None
    severity: str = ""
    team: str = ""
    instance: str = ""
    within_s: float | None = None
    auto: bool = False

    @property
    def scheme(self) -> str:
        """What kind of channel it is; "" for a webhook."""
        return self.channel.partition("://")[0]

    @property
    def name(self) -> str:
        """The channel's name, without a `#`."""
        return self.channel.partition("://")[2].removeprefix("#")

    @property
    def shown(self) -> str:
        """The endpoint, as it may be shown: of an address no more than the host and a hash."""
        text = self.channel if self.webhook is None else self.webhook.url
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
        if self.webhook is None:
            return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}... {digest}"
        return " ".join(filter(None, ("webhook", _host(text)[:SHOWN_MAX], digest)))


def _host(address: str) -> str:
    if "{{" in address:
        return ""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Target:
    """What is sent to. url: "" = the service's own.  key: of the service, or what a webhook's body is signed with."""

    url: str
    headers: dict[str, str]
    key: str = ""


def wishes(job: JobSpec) -> Iterator[Wish]:
    """All wishes of a job, in its order; what nobody can be told of is left out, and `problems` says so."""
    for wish in _endpoints(job):
        if wish.on != SLA_MISS:
            yield wish
    for wish in _endpoints(job):
        if wish.on == SLA_MISS:
            yield from _slas(job, wish)


def find(job: JobSpec, place: str) -> Wish | None:
    """The wish of that place."""
    return next((wish for wish in wishes(job) if wish.place == place), None)


def _endpoints(job: JobSpec) -> Iterator[Wish]:
    for number, notify in enumerate(job.behavior.notify):
        for at, channel in enumerate(notify.channels):
            wish = Wish(
                on=EVENTS.get(notify.on, ""),
                place=f"behavior.notify[{number}].channels[{at}]",
                channel=channel,
                severity=notify.severity,
                team=notify.team,
            )
            if wish.on and wish.scheme in SECRETS:
                yield wish
    for number, webhook in enumerate(job.behavior.webhook):
        for at, endpoint in enumerate(webhook.endpoints):
            if webhook.on in EVENTS:
                place = f"behavior.webhook[{number}].endpoints[{at}]"
                yield Wish(on=EVENTS[webhook.on], place=place, webhook=endpoint)


def _slas(job: JobSpec, wish: Wish) -> Iterator[Wish]:
    """What an endpoint is told of times: those of its own entry, all of the job for a webhook; and the alerts' ones."""
    for number, notify in enumerate(job.behavior.notify):
        own = wish.webhook is not None or wish.place.startswith(f"behavior.notify[{number}].")
        within_s = _duration(notify)
        if own and within_s is not None:
            yield replace(wish, place=f"{wish.place} for behavior.notify[{number}]", within_s=within_s)
    for key, instance, alert in _alerts(job):
        if not (alert.team and wish.team) or alert.team == wish.team:
            yield replace(
                wish,
                place=f"{wish.place} for {key}",
                instance=instance,
                within_s=alert.duration_threshold_s,
                auto=alert.auto_threshold,
                severity=alert.severity or wish.severity,
                team=alert.team or wish.team,
            )


def _duration(notify: NotifySpec) -> float | None:
    if notify.on != SLA_MISS or "duration" not in notify.config:
        return None
    return parse_duration(notify.config["duration"]).total_seconds()


def _alerts(job: JobSpec) -> Iterator[tuple[str, str, SlaMissAlert]]:
    """(key, instance, alert) of each."""
    for at, alert in enumerate(job.task.alert.sla_miss):
        yield f"task.alert.sla_miss[{at}]", job.task.name, alert
    for number, hook in enumerate(job.hooks):
        for at, alert in enumerate(hook.alert.sla_miss):
            yield f"hooks[{number}].alert.sla_miss[{at}]", instance_name(job, hook), alert


# -- what is wrong with them -------------------------------------------------------------------------------------------


def problems(job: JobSpec) -> Iterator[tuple[str, str, Severity]]:
    """(key, message, severity) of what nobody would be told of, although the job asks for it."""
    warning = Severity.WARNING
    for number, notify in enumerate(job.behavior.notify):
        key = f"behavior.notify[{number}]"
        yield from _unknown_event(key, notify.on)
        for at, channel in enumerate(notify.channels):
            if channel.partition("://")[0] not in SECRETS:
                yield f"{key}.channels[{at}]", "nothing is sent there: slack:// and pagerduty:// are known", warning
        if not notify.channels:
            yield key, "tells nobody: it has no channels", warning
        if notify.on == SLA_MISS and "duration" not in notify.config and not any(_alerts(job)):
            yield key, "is never missed: give config.duration, or an alert.sla_miss of the task or a hook", warning
    for number, webhook in enumerate(job.behavior.webhook):
        yield from _unknown_event(f"behavior.webhook[{number}]", webhook.on)
    told = {wish.place.partition(" for ")[2] for wish in wishes(job)}
    for key, _instance, _alert in _alerts(job):
        if key not in told:
            yield key, "tells nobody: there is no behavior.notify or behavior.webhook `on: sla_miss` for it", warning
    count = sum(1 for _wish in wishes(job))
    if count > WISHES_MAX:
        message = f"asks for {count} different messages; at most {WISHES_MAX} are kept for a run"
        yield "behavior", message, Severity.ERROR


def _unknown_event(key: str, on: str) -> Iterator[tuple[str, str, Severity]]:
    if on not in EVENTS:
        yield f"{key}.on", f"there is no event {on!r}, so nothing is sent{nearest(on, EVENTS)}", Severity.WARNING


def unresolved(bundle: Bundle, secrets: Mapping[str, str], file: str) -> list[Problem]:
    """What could not be delivered for want of a secret, or since a template does not render; as warnings."""
    found: dict[str, Problem] = {}
    for wish in wishes(bundle.job):
        key = wish.place.partition(" for ")[0]
        try:
            resolve(bundle, wish, secrets)
        except NoticeError as error:
            found.setdefault(key, Problem(file, 1, 1, key, str(error), Severity.WARNING))
    return list(found.values())


# -- where they are sent -----------------------------------------------------------------------------------------------


def resolve(bundle: Bundle, wish: Wish, secrets: Mapping[str, str]) -> Target:
    """Where to send, with what. secrets: by name, or `Masked`. Raises NoticeError."""
    if wish.webhook is None:
        secret = _secret_of(wish, secrets)
        return Target(secret, {}) if wish.scheme == SLACK else Target("", {}, secret)
    headers = {}
    for name, text in wish.webhook.headers.items():
        if name.lower() in _NOT_OURS or not _HEADER.fullmatch(name):
            raise NoticeError(f"the header {name} is not for a job to set")
        value = _rendered(bundle, text, secrets, f"the header {name}")
        if any(ord(one) < 32 or ord(one) == 127 for one in value):
            raise NoticeError(f"the value of the header {name} has a line break or another control character")
        headers[name] = value
    url = _rendered(bundle, wish.webhook.url, secrets, "the url")
    return Target(url, headers, secrets.get("WEBHOOK_SECRET", ""))


def _secret_of(wish: Wish, secrets: Mapping[str, str]) -> str:
    """The channel's own secret, else that of all channels of its kind."""
    general = SECRETS[wish.scheme]
    own = f"{general}_{re.sub('[^A-Za-z0-9]', '_', wish.name).upper()}"
    for name in (own, general):
        if name in secrets:
            return secrets[name].strip()
    raise NoticeError(
        f"{wish.channel} cannot be told: there is no secret {general} (nor {own}); set it with `prime secret set`"
    )


def _rendered(bundle: Bundle, text: str, secrets: Mapping[str, str], what: str) -> str:
    if "{{" not in text:
        return text.strip()
    context: dict[str, object] = {
        "params": bundle.params,
        "proj": bundle.variables,
        "secret": secrets,
        **{f"GLOBAL__{key}": value for key, value in bundle.variables.items()},
    }
    try:
        return render(text, context, {}, name=what)
    except TemplateError as error:
        # A key that is none of the text's may be made of a secret.
        named = f": there is no {error.key}" if error.key is not None and error.key in text else ""
        raise NoticeError(f"{what} cannot be rendered{named}") from None

"""What an endpoint is sent: (event, wish, target) -> one POST. Pure; docs/notifications.md has the formats."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from agent.config import PAGERDUTY_URL
from agent.runtable.notice_rows import Event, EventKind
from agent.spec.compile import rfc3339
from agent.spec.notices import SLACK, Target, Wish

SEVERITIES: Final = {
    "critical": "critical",
    "high": "critical",
    "error": "error",
    "warning": "warning",
    "low": "warning",
    "info": "info",
}
_TEXTS: Final = {
    EventKind.FAILURE: "has failed",
    EventKind.SUCCESS: "has succeeded",
    EventKind.RETRY: "will be tried again",
    EventKind.SLA_MISS: "takes too long",
    EventKind.REPLAY: "is replayed",
    EventKind.RESOLVED: "has succeeded after it had failed",
}


@dataclass(frozen=True, slots=True)
class Message:
    """A POST. headers and url may hold secrets."""

    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def message(event: Event, wish: Wish, target: Target, *, now_ms: int, pagerduty_url: str = PAGERDUTY_URL) -> Message:
    """What to send. now_ms: when it is sent, which is signed with it."""
    if wish.webhook is not None:
        return _webhook(event, wish, target, now_ms)
    if wish.scheme == SLACK:
        sent: dict[str, object] = {"channel": _slack_channel(wish), "text": _slack_text(event, wish)}
        return _json(target.url, sent, {"Idempotency-Key": event.id})
    return _json(pagerduty_url, _pagerduty(event, wish, target.key), {})


def described(event: Event, wish: Wish) -> dict[str, object]:
    """An event as JSON, for a webhook. Fields may be added to it; none is taken away or given another meaning."""
    return {
        "id": event.id,
        "event": str(event.kind),
        "at": _time(event.at_ms),
        "project": event.project,
        "namespace": event.namespace,
        "job": event.job,
        "run": event.run_id,
        "scheduled_at": _time(event.scheduled_at_ms),
        "state": event.state,
        "reason": event.reason or None,
        "instance": event.instance or None,
        "attempt": event.attempt or None,
        "message": event.message or None,
        "severity": wish.severity or None,
        "team": wish.team or None,
    }


def signature(key: str, timestamp: str, body: bytes) -> str:
    """What `X-Prime-Signature` says: HMAC-SHA256, in hexadecimal, of the timestamp, a dot and the body."""
    return "v1=" + hmac.new(key.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _webhook(event: Event, wish: Wish, target: Target, now_ms: int) -> Message:
    body = json.dumps(described(event, wish)).encode()
    timestamp = str(now_ms // 1000)
    ours = {
        "Content-Type": "application/json",
        "Idempotency-Key": event.id,
        "X-Prime-Timestamp": timestamp,
        **({"X-Prime-Signature": signature(target.key, timestamp, body)} if target.key else {}),
    }
    names = {name.lower() for name in ours} | {"x-prime-signature"}
    given = {name: value for name, value in target.headers.items() if name.lower() not in names}
    return Message(target.url, {**given, **ours}, body)


def _json(url: str, sent: dict[str, object], headers: dict[str, str]) -> Message:
    return Message(url, {"Content-Type": "application/json", **headers}, json.dumps(sent).encode())


def _summary(event: Event) -> str:
    what = f"{event.project}/{event.job}" + (f" ({event.instance})" if event.instance else "")
    return f"{what} {_TEXTS[event.kind]}" + (f": {event.message}" if event.message else "")


def _slack_channel(wish: Wish) -> str:
    return f"@{wish.name}" if "@" in wish.name else f"#{wish.name}"


def _slack_text(event: Event, wish: Wish) -> str:
    """`&`, `<` and `>` are markup there, and an event's words are not."""
    about = [f"run {event.run_id}", f"scheduled at {_time(event.scheduled_at_ms)}"]
    about += [f"severity {wish.severity}"] if wish.severity else []
    about += [f"team {wish.team}"] if wish.team else []
    text = f"{_summary(event)}\n{', '.join(about)}"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _pagerduty(event: Event, wish: Wish, key: str) -> dict[str, object]:
    """One incident for the failures of a run, which its success resolves; any other event has one of its own."""
    failing = event.kind in (EventKind.FAILURE, EventKind.RESOLVED)
    sent: dict[str, object] = {
        "routing_key": key,
        "event_action": "resolve" if event.kind is EventKind.RESOLVED else "trigger",
        "dedup_key": f"prime/{event.project}/{event.run_id}" if failing else f"prime/{event.id}",
    }
    if event.kind is not EventKind.RESOLVED:
        sent["payload"] = {
            "summary": _summary(event)[:1024],
            "source": f"prime/{event.project}/{event.job}",
            "severity": SEVERITIES.get(wish.severity.lower(), "error"),
            "timestamp": _time(event.at_ms),
            "component": event.job,
            "group": event.project,
            "class": str(event.kind),
            "custom_details": described(event, wish),
        }
    return sent


def _time(at_ms: int) -> str:
    return rfc3339(datetime.fromtimestamp(at_ms / 1000, UTC))

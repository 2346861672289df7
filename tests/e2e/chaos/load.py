"""Clients that ask for runs, cancel some and look at them, each of one agent, and write down what they were told."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from agent.client import Client, Refused, Unreachable, path
from tests.e2e.chaos.history import FINAL, Call, Kind, Seen, seen_of
from tests.e2e.chaos.site import Site

PROJECT: Final = "chaos"
CLIENTS_EACH: Final = 2  # to an agent
PAUSE_S: Final = (0.05, 0.6)  # from an answer to the next question
OPEN_MAX: Final = 40  # runs that go on at a time, as far as the clients know
AGAIN_S: Final = 0.5
SETTLE_S: Final = 120.0
UNSURE: Final = "outcome_unknown"  # every other refusal says that nothing was done

_EVIDENCE: Final = """
exec 9>>{evidence}/$PRIME_RUN_ID.{instance}
if flock -n 9; then begin=begin; else begin=held; fi
note() {{ read -r now _ < /proc/uptime; echo "$1 $PRIME_RUN_ID {instance} $PRIME_ATTEMPT $now" >> {evidence}/lines; }}
note $begin
{work}
note end
{end}
"""
_BEATS: Final = "for _ in $(seq {count}); do sleep 0.1; note beat; done"
_STUBBORN: Final = "trap '' TERM\n" + _BEATS
_FIRST_FAILS: Final = '[ "$PRIME_ATTEMPT" != 1 ] || exit 3'
_JOB: Final = """
version: 2
name: {name}
owner: chaos
behavior: {{retry: {{count: 3, delay: 1s}}, on_agent_lost: {lost}}}
task:
  name: shell
  window: {{size: 24h, offset: "0", truncate_to: d}}
  config:
    SCRIPT: |
{task}
hooks:
  - name: shell
    hooktype: post
    config:
      SCRIPT: |
{hook}
"""
# name: (what its task does, how it ends, what becomes of it when its agent is lost)
_JOBS: Final = {
    "short": (_BEATS.format(count=2), "", "rerun"),
    "long": (_BEATS.format(count=60), "", "rerun"),
    "stubborn": (_STUBBORN.format(count=40), "", "rerun"),
    "retried": (_BEATS.format(count=1), _FIRST_FAILS, "rerun"),
    "waits": (_BEATS.format(count=50), "", "wait"),
}
_CHANCES: Final = (10, 2, 2, 3, 1)  # of the jobs, in this order


def specs(evidence: Path) -> list[dict[str, Any]]:
    """All jobs, as they are applied. evidence: where their work writes what it does."""
    return [{"path": f"{name}/job.yaml", "yaml": _job(name, evidence), "assets": {}} for name in _JOBS]


def _job(name: str, evidence: Path) -> str:
    work, end, lost = _JOBS[name]
    task = _EVIDENCE.format(evidence=evidence, instance="shell", work=work, end=end)
    hook = _EVIDENCE.format(evidence=evidence, instance="shell-hook", work="", end="")
    return _JOB.format(name=name, lost=lost, task=_indented(task, 6), hook=_indented(hook, 8))


def _indented(text: str, by: int) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in text.strip().splitlines())


class Load:
    """What all clients have asked, and were told."""

    def __init__(self, sites: Sequence[Site], seed: int) -> None:
        self.calls: list[Call] = []
        self._sites, self._seed = sites, seed
        self._keys: dict[str, str] = {}  # of each request its job, answered or not
        self._open: dict[str, str] = {}  # runs that have not been seen to end, with their keys
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(site, number), daemon=True)
            for site in sites
            for number in range(CLIENTS_EACH)
        ]

    def start(self) -> None:
        """Begin to ask."""
        for one in self._threads:
            one.start()

    def stop(self) -> None:
        """Return when all that was asked is answered or given up."""
        self._stop.set()
        for one in self._threads:
            one.join()

    def ask_again(self) -> None:
        """Send every request once more: it gets the run it had, or one where nobody knew whether it had one (P2)."""
        clients = [site.client() for site in self._sites]
        waiting = list(self._keys)
        end_s = time.monotonic() + SETTLE_S
        while waiting:
            assert time.monotonic() < end_s, f"the healed cluster takes no requests: {self.calls[-1]}"
            left = []
            for at, key in enumerate(waiting):
                site = self._sites[at % len(self._sites)]
                if not self._submit(site, clients[site.number], key).done:
                    left.append(key)
            if left:
                time.sleep(AGAIN_S)
            waiting = left

    def _client(self, site: Site, number: int) -> None:
        chance = random.Random(f"{self._seed} {site.number} {number}")
        client = site.client()
        while not self._stop.wait(chance.uniform(*PAUSE_S)):
            self._one(site, client, chance)

    def _one(self, site: Site, client: Client, chance: random.Random) -> None:
        draw = chance.random()
        with self._lock:
            runs, keys, crowded = sorted(self._open), sorted(self._keys)[-50:], len(self._open) >= OPEN_MAX
        if (draw < 0.35 and not crowded) or not runs:
            self._submit(site, client, self._new_key(chance))
        elif draw < 0.42:
            self._submit(site, client, chance.choice(keys))
        elif draw < 0.47:
            self._about(Kind.CANCEL, site, client, chance.choice(runs))
        else:
            self._about(Kind.CONSISTENT if draw < 0.8 else Kind.READ, site, client, chance.choice(runs))

    def _new_key(self, chance: random.Random) -> str:
        (job,) = chance.choices(list(_JOBS), _CHANCES)
        with self._lock:
            key = f"key-{len(self._keys):06}"
            self._keys[key] = job
        return key

    def _submit(self, site: Site, client: Client, key: str) -> Call:
        called_ns = time.monotonic_ns()
        run, index, seen, code, sure = None, 0, None, "", True
        try:
            answer = client.post(path("projects", PROJECT, "jobs", self._keys[key], "runs"), {}, key=key)
        except (Unreachable, Refused) as error:
            code, sure = _refusal(error)
        else:
            run, index, seen = answer["run"]["id"], answer["index"], seen_of(answer["run"])
        call = _call(Kind.SUBMIT, site, called_ns, key, run, code, index, seen, sure=sure)
        self._note(call)
        return call

    def _about(self, kind: Kind, site: Site, client: Client, run: str) -> None:
        called_ns = time.monotonic_ns()
        index, seen, code, sure = 0, None, "", True
        at = path("runs", run)
        try:
            if kind is Kind.CANCEL:
                answer = client.post(f"{at}/cancel", {})
                index = answer["index"]
            else:
                answer = client.get(at, consistent=True if kind is Kind.CONSISTENT else None)
                index = answer["meta"]["applied_index"]
            seen = seen_of(answer["run"])
        except (Unreachable, Refused) as error:
            code, sure = _refusal(error)
        self._note(_call(kind, site, called_ns, "", run, code, index, seen, sure=sure))

    def _note(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)
            if call.run is None or call.seen is None:
                return
            if call.seen.state in FINAL:
                self._open.pop(call.run, None)
            elif call.kind is Kind.SUBMIT:
                self._open.setdefault(call.run, call.key)


def _call(
    kind: Kind,
    site: Site,
    called_ns: int,
    key: str,
    run: str | None,
    code: str,
    index: int,
    seen: Seen | None,
    *,
    sure: bool,
) -> Call:
    returned_ns = time.monotonic_ns() if sure else None
    return Call(kind, site.name, called_ns, returned_ns, key, run, code, index, seen)


def _refusal(error: Unreachable | Refused) -> tuple[str, bool]:
    """(code, whether it is an answer): one that may or may not have been done is none."""
    if isinstance(error, Unreachable):
        return "unreachable", False
    return error.code, error.code != UNSURE


def evidence_lines(evidence: Path) -> Iterable[str]:
    """What the work has written down."""
    file = evidence / "lines"
    return file.read_text().splitlines() if file.exists() else ()

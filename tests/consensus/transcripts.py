"""Runs transcripts: what a file says must be printed against what is printed. Three kinds, by the name of their folder.

`python -m tests.consensus.transcripts FILE ...` writes what is printed now into interaction transcripts. Read the
difference before you keep it: a transcript is a claim about the protocol, and not whatever the code does today.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import ndiff
from pathlib import Path
from typing import Final

from consensus import configuration
from consensus.errors import ConfigError
from consensus.messages import NO_LIMIT, Entry
from consensus.node import Config
from consensus.quorum import JointVoters, VoteResult, committed_index, vote_result
from consensus.raft import Raft
from consensus.storage import MemoryStorage
from tests.consensus import describe
from tests.consensus.datadriven import Directive, Transcript, TranscriptError, parse, to_number
from tests.consensus.interaction import Interaction

Handler = Callable[[Directive], str]
LOG_LINE: Final = re.compile(r"\s*(DEBUG|INFO|WARN|ERROR|FATAL) ")
VOTES: Final = {"y": True, "n": False}
RESULTS: Final = {
    VoteResult.PENDING: "VotePending",
    VoteResult.LOST: "VoteLost",
    VoteResult.WON: "VoteWon",
}


# -- running -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A directive that printed something else than the transcript says."""

    transcript: str
    directive: Directive
    expected: str
    actual: str

    def __str__(self) -> str:
        difference = "\n".join(ndiff(self.expected.splitlines(), self.actual.splitlines()))
        where = f"{self.transcript}:{self.directive.line}: directive {self.directive.number}, {self.directive.command}"
        return f"{where}\n{difference}\n"


def run(transcript: Transcript, handle: Handler) -> list[str]:
    """What each directive prints. Errors say where they came from."""
    outputs = []
    for directive in transcript.directives:
        try:
            outputs.append(handle(directive))
        except Exception as error:
            error.add_note(f"at {transcript.name}:{directive.line}, directive {directive.number}: {directive.command}")
            raise
    return outputs


def mismatches(path: Path, kind: str) -> list[Mismatch]:
    """Run a transcript and compare. kind: one of KINDS. Raises TranscriptError."""
    new, normal = KINDS[kind]
    transcript = parse(path.read_text(), path.name)
    outputs = run(transcript, new())
    return [
        Mismatch(path.name, directive, normal(directive.expected), normal(output))
        for directive, output in zip(transcript.directives, outputs, strict=True)
        if normal(directive.expected) != normal(output)
    ]


def rewrite(path: Path) -> bool:
    """Write what an interaction transcript prints now into it. Returns whether it changed."""
    before = path.read_text()
    transcript = parse(before, path.name)
    after = transcript.rewritten(run(transcript, Interaction().handle))
    if after != before:
        path.write_text(after)
    return after != before


def exactly(output: str) -> str:
    """Nothing may differ, except a line end at the end."""
    return output.removesuffix("\n")


def without_log_lines(output: str) -> str:
    """Log lines are for people. A directive that prints nothing else has printed `ok`."""
    lines = [line.rstrip() for line in output.splitlines() if not LOG_LINE.match(line)]
    return "\n".join(lines) or "ok"


# -- quorum/: the arithmetic of majorities -----------------------------------------------------------------------------


def quorum(directive: Directive) -> str:
    """`committed` and `vote` over cfg= and, joint with it, cfgj=; what is known of each voter in idx= or votes=."""
    args = directive.args()
    incoming, second = args.ids("cfg"), args.values("cfgj")
    outgoing = () if second in (None, ("zero",)) else tuple(map(to_number, second or ()))
    said = args.values("idx" if directive.command == "committed" else "votes") or ()
    args.end()
    voters = list(dict.fromkeys((*incoming, *outgoing)))
    if len(voters) != len(said):
        raise TranscriptError(f"{len(voters)} voters, and something is said of {len(said)}")
    known = {voter: what for voter, what in zip(voters, said, strict=True) if what != "_"}
    joint = JointVoters(frozenset(incoming), frozenset(outgoing))
    match directive.command:
        case "committed":
            return _committed(joint, {voter: to_number(index) for voter, index in known.items()})
        case "vote":
            return f"{RESULTS[_vote(joint, {voter: VOTES[vote] for voter, vote in known.items()})]}\n"
    raise TranscriptError(f"unknown command {directive.command}")


def _committed(voters: JointVoters, acked: Mapping[int, int]) -> str:
    """The picture, and the index. What must not change it is tried on the way."""
    index = voters.committed_index(acked)
    assert index == JointVoters(voters.outgoing, voters.incoming).committed_index(acked), "the halves are not alike"
    if not voters.outgoing:
        alone = voters.incoming
        assert index == committed_index(alone, acked) == _counted(alone, acked)
        assert index == JointVoters(alone, alone).committed_index(acked), "a half joined with itself"
        for node, other in acked.items():
            if other < index:  # what is below already may fall without changing anything
                assert all(index == committed_index(alone, {**acked, node: lower}) for lower in (other - 1, 0))
    return f"{_picture(frozenset(voters), acked)}{'∞' if index == NO_LIMIT else index}\n"


def _counted(voters: Collection[int], acked: Mapping[int, int]) -> int:
    """The same by trying every index and counting who has it: slow and hard to get wrong."""
    if not voters:
        return NO_LIMIT
    majority = len(voters) // 2 + 1
    agreed = (index for index in acked.values() if sum(acked.get(node, 0) >= index for node in voters) >= majority)
    return max(agreed, default=0)


def _vote(voters: JointVoters, votes: Mapping[int, bool]) -> VoteResult:
    result = voters.vote_result(votes)
    assert result == JointVoters(voters.outgoing, voters.incoming).vote_result(votes), "the halves are not alike"
    assert voters.outgoing or result == vote_result(voters.incoming, votes)
    return result


def _picture(voters: Collection[int], acked: Mapping[int, int]) -> str:
    """A bar for each voter: as long as there are voters that have acknowledged less."""
    if not voters:
        return "<empty majority quorum>"
    width = len(voters)
    text = " " * width + "    idx\n"
    for voter in sorted(voters):
        index = acked.get(voter, 0)
        less = sum(acked.get(other, 0) < index for other in voters)
        bar = "x" * less + ">" if voter in acked else "?"
        text += f"{bar.ljust(width + 1)} {index:5d}    (id={voter:x})\n"
    return text


# -- confchange/: the arithmetic of configurations ---------------------------------------------------------------------


class ConfChanges:
    """`simple`, `enter-joint` and `leave-joint` on one configuration; each command adds an entry to the log."""

    def __init__(self) -> None:
        """No members yet."""
        self._storage = MemoryStorage()
        self._raft = Raft(Config(id=1, storage=self._storage, jitter=lambda _ticks: 0))

    def handle(self, directive: Directive) -> str:
        """The members and what is known of them, or why the change is refused."""
        args = directive.args()
        # `u4` changes what an application keeps of node 4. Consensus keeps nothing: it has no such kind.
        given = " ".join(word for word in args.text().split() if not re.fullmatch(r"u\d+", word))
        changes, auto_leave = describe.changes_from(given), args.flag("autoleave", default=False)
        args.end()
        before = self._raft.config
        try:
            match directive.command:
                case "simple":
                    after = configuration.simple(before, changes)
                case "enter-joint":
                    after = configuration.enter_joint(before, changes, auto_leave=auto_leave)
                case "leave-joint" if not directive.input:
                    after = configuration.leave_joint(before)
                case _:
                    raise TranscriptError(f"unknown command {directive.command}, or one that takes no input")
            self._raft.use_config(after)
            return f"{describe.configuration(after)}\n{describe.progress(self._raft.progress)}"
        except ConfigError as error:
            return f"{error}\n"
        finally:
            self._storage.append([Entry(1, self._storage.last_index() + 1)])


KINDS: Final[dict[str, tuple[Callable[[], Handler], Callable[[str], str]]]] = {
    "quorum": (lambda: quorum, exactly),
    "confchange": (lambda: ConfChanges().handle, exactly),
    "interaction": (lambda: Interaction().handle, without_log_lines),
}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        sys.stdout.write(f"{name}: {'rewritten' if rewrite(Path(name)) else 'unchanged'}\n")

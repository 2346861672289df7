"""The second name `optimus`: ours where we know the words, else the next `optimus` on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent import __version__
from tests.cli.terminal import SHOP, prime

RUN = "import sys; from agent.cli.main import optimus; sys.argv[0] = {me!r}; optimus()"


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def optimus(me: Path, *words: str, search: list[Path], **env: str) -> subprocess.CompletedProcess[str]:
    """Run ours under the name `me`, with these folders on PATH."""
    path = os.pathsep.join([*map(str, search), "/usr/bin", "/bin"])
    return subprocess.run(
        [sys.executable, "-c", RUN.format(me=str(me)), *words],
        capture_output=True, text=True, check=False, cwd=SHOP, env={**os.environ, "PATH": path, **env},
    )  # fmt: skip


@pytest.fixture
def me(tmp_path: Path) -> Path:
    return program(tmp_path / "ours" / "optimus", "#!/bin/sh\necho never run\n")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return program(tmp_path / "theirs" / "optimus", '#!/bin/sh\necho "original: $*"\nexit 7\n')


@pytest.mark.parametrize("words", [["resource", "create", "x"], ["job", "refresh"], ["--host", "http://h", "backup"]])
def test_words_that_prime_does_not_know_go_to_the_original_with_all_arguments(
    me: Path, original: Path, words: list[str]
) -> None:
    done = optimus(me, *words, "--flag", search=[me.parent, original.parent])
    assert (done.stdout, done.returncode) == (f"original: {' '.join(words)} --flag\n", 7)


def test_words_that_prime_knows_are_its_own(me: Path, original: Path) -> None:
    search = [me.parent, original.parent]
    assert optimus(me, "version", search=search).stdout == f"prime {__version__}\n"
    assert optimus(me, "--host", "http://h", "job", "validate", search=search).stdout.startswith("3 jobs, 0 errors")
    assert "Usage: optimus" in optimus(me, "--help", search=search).stdout


def test_without_an_original_the_error_says_so(me: Path) -> None:
    done = optimus(me, "resource", "create", search=[me.parent])
    assert done.returncode == 2
    assert "`optimus resource create` is no command of prime, and there is no other `optimus` on PATH" in done.stderr


def test_two_primes_do_not_hand_over_to_each_other_for_ever(me: Path, tmp_path: Path) -> None:
    second = tmp_path / "second" / "optimus"
    program(second, f'#!/bin/sh\nexec {sys.executable} -c "{RUN.format(me=str(second))}" "$@"\n')
    done = optimus(me, "resource", search=[me.parent, second.parent])
    assert (done.returncode, "no other `optimus`" in done.stderr) == (2, True)


def test_an_original_that_cannot_be_run_is_an_error(me: Path, tmp_path: Path) -> None:
    bad = program(tmp_path / "theirs" / "optimus", "#!/nowhere/interpreter\n")
    done = optimus(me, "resource", search=[me.parent, bad.parent])
    assert (done.returncode, "cannot be run: No such file" in done.stderr) == (2, True)


def test_completion_is_for_the_name_it_was_asked_under(me: Path) -> None:
    assert "_OPTIMUS_COMPLETE" in optimus(me, "completion", "zsh", search=[]).stdout
    for shell in ("bash", "zsh", "fish"):
        done = prime("completion", shell)
        assert (done.code, "_PRIME_COMPLETE" in done.out) == (0, True)


def test_the_version_is_an_option_too() -> None:
    assert prime("--version").out == prime("version").out == f"prime {__version__}\n"


def test_completion_offers_the_jobs_of_the_folder_where_no_agent_answers(me: Path) -> None:
    for words in ("optimus job next sales.", "optimus job run sales.", "optimus run list --job sales."):
        count = len(words.split()) - 1
        env = {"_OPTIMUS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        assert optimus(me, search=[], **env).stdout == "plain,sales.daily\nplain,sales.hourly\n"
    env = {"_OPTIMUS_COMPLETE": "bash_complete", "COMP_WORDS": "optimus run show ", "COMP_CWORD": "3"}
    done = optimus(me, search=[], **env)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_completion_offers_verbs_and_options(me: Path) -> None:
    env = {"_OPTIMUS_COMPLETE": "bash_complete", "COMP_WORDS": "optimus job va", "COMP_CWORD": "2"}
    assert optimus(me, search=[], **env).stdout == "plain,validate\n"


# -- what holds for every command --------------------------------------------------------------------------------------


def test_help_lists_every_group_and_loads_none_of_them() -> None:
    code = (
        "import sys\nfrom agent.cli.main import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "print([m for m in sys.modules if m in ('asyncio', 'aiohttp', 'urllib3', 'yaml', 'agent.cli.job')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for group in ("job", "run", "secret", "project", "plugin", "cluster", "agent", "dev", "completion", "version"):
        assert f"\n  {group} " in done.stdout
    assert done.stdout.endswith("[]\n")


def test_asking_an_agent_loads_nothing_of_the_agent_itself() -> None:
    code = (
        "import sys\nfrom agent.cli.main import cli\n"
        "try:\n cli(['--host', 'http://127.0.0.1:1', 'job', 'run', 'x'], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m in ('asyncio', 'aiohttp', 'docker', 'agent.replica', 'cryptography')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SHOP)
    assert done.stdout == "[]\n"


def test_an_unknown_word_is_answered_with_the_nearest_one() -> None:
    for words, near in (("jbo",), "job"), (("run", "lst"), "list"), (("secret", "st"), "set"):
        done = prime(*words)
        assert (done.code, f"did you mean {near!r}" in done.err) == (2, True)

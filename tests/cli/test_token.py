"""`prime token`, and how commands come to have one."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminal import Answer, prime
from tests.cli.test_client import problem, says, serving
from tests.e2e.agents import AgentProcess


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bootstrap token's."""
    path = tmp_path_factory.mktemp("tokens") / "bootstrap"
    done = prime("token", "bootstrap", "--out", path)
    assert (done.code, f"--bootstrap-token {path}" in done.out) == (0, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path


@pytest.fixture(scope="module")
def guarded(file: Path) -> Iterator[AgentProcess]:
    """An agent that wants a token."""
    one = AgentProcess(file.parent / "data", "--executors", "process", "--bootstrap-token", str(file))
    one.start()
    yield one
    one.stop()


def ask(agent: AgentProcess, *words: str | Path, **variables: str) -> Answer:
    """`prime` of a user whose home is empty but for what the variables say."""
    home = {"XDG_CONFIG_HOME": "/nowhere", "PRIME_TOKEN": "", "PRIME_TOKEN_FILE": ""}
    return prime("--host", agent.url, *words, env={**home, **variables})


def test_the_first_admin_is_made_by_the_bootstrap_token_and_all_others_by_him(
    guarded: AgentProcess, file: Path, tmp_path: Path
) -> None:
    nobody = ask(guarded, "run", "list")
    assert nobody.code == 4
    assert "PRIME_TOKEN_FILE" in nobody.err
    boss = tmp_path / "boss"
    made = ask(guarded, "token", "new", "boss", "--role", "admin", "--out", boss, PRIME_TOKEN_FILE=str(file))
    assert (made.code, made.out, stat.S_IMODE(boss.stat().st_mode)) == (0, "", 0o600)
    over = ask(guarded, "run", "list", PRIME_TOKEN_FILE=str(file))
    assert (over.code, "bootstrap_over" in over.err) == (4, True)
    as_boss = {"PRIME_TOKEN_FILE": str(boss)}
    viewer = ask(guarded, "token", "new", "tv", "--role", "viewer", "--expires", "720h", **as_boss).out.strip()
    assert ask(guarded, "run", "list", PRIME_TOKEN=viewer).code == 0
    weak = ask(guarded, "cluster", "transfer", "x", PRIME_TOKEN=viewer)
    assert (weak.code, "takes the role admin, and tv has the role viewer" in weak.err) == (4, True)
    shown = ask(guarded, "token", "list", **as_boss).out
    assert f"...{viewer[-4:]}" in shown
    assert viewer not in shown
    listed = ask(guarded, "token", "list", "-o", "json", **as_boss).json()["tokens"]
    assert [(one["name"], one["expires_at"] is None) for one in listed] == [("boss", True), ("tv", False)]
    assert ask(guarded, "token", "delete", "tv", **as_boss).code == 0
    gone = ask(guarded, "run", "list", PRIME_TOKEN=viewer)
    assert (gone.code, "bad_token" in gone.err) == (4, True)
    assert "did you mean" in ask(guarded, "token", "delete", "bos", **as_boss).err
    assert ask(guarded, "token", "delete", "boss", **as_boss).code == 0


def test_a_user_keeps_his_token_in_his_own_folder(guarded: AgentProcess, file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "prime" / "token"
    kept.parent.mkdir()
    kept.write_text(file.read_text())
    kept.chmod(0o644)
    open_to_all = ask(guarded, "run", "list", XDG_CONFIG_HOME=str(tmp_path))
    assert (open_to_all.code, "chmod 600" in open_to_all.err) == (2, True)
    kept.chmod(0o600)
    assert ask(guarded, "run", "list", XDG_CONFIG_HOME=str(tmp_path)).code == 0
    wrong = ask(guarded, "run", "list", PRIME_TOKEN="two words")
    assert (wrong.code, "PRIME_TOKEN holds no token" in wrong.err, "two words" in wrong.err) == (2, True, False)


def test_what_cannot_be_made_is_told_before_anything_is_asked(guarded: AgentProcess, file: Path) -> None:
    mine = {"PRIME_TOKEN_FILE": str(file)}
    assert "is there already" in prime("token", "bootstrap", "--out", file).err
    assert ask(guarded, "token", "new", "a", "--role", "user", "--out", file, **mine).code == 2
    for text in ("soon", "0", "-1h"):
        done = ask(guarded, "token", "new", "a", "--role", "user", "--expires", text, **mine)
        assert (done.code, "a duration is expected" in done.err) == (2, True)
    answer = ask(guarded, "token", "new", "json", "--role", "user", "-o", "json", **mine).json()
    assert answer["token"].startswith("prime_")
    assert ask(guarded, "token", "delete", "json", **mine).code == 0


def test_p8_a_folder_cannot_have_a_users_token_sent_where_it_likes(tmp_path: Path) -> None:
    with serving(*[problem(401, "token_wanted")] * 2, says({"runs": [], "next_cursor": None})) as server:
        elsewhere = f"http://0.0.0.0:{server.server_port}"  # by its name no address of this machine's own
        (tmp_path / "optimus.yaml").write_text(f"project: {{name: p}}\nhost: {elsewhere}\n")
        mine = {"PRIME_TOKEN": "x" * 40}
        refused = prime("run", "list", folder=tmp_path, env=mine)
        assert (refused.code, "No token was sent" in refused.err) == (4, True)
        assert "No token was sent" not in prime("run", "list", "--host", elsewhere, folder=tmp_path, env=mine).err
        assert prime("run", "list", folder=tmp_path, env={**mine, "PRIME_HOST": elsewhere}).code == 0
        sent = [request.headers.get("Authorization") for request in server.asked]
        assert sent == [None, f"Bearer {'x' * 40}", f"Bearer {'x' * 40}"]

"""Settings that cannot be used are refused, and who an agent is stays the same."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from agent import identity, token_file
from agent.api.access import Access
from agent.config import AgentConfig, host_port, is_loopback
from agent.engines import load_executors
from agent.errors import ConfigError
from agent.identity import Identity, boot_id, boottime_s, load_identity, machine_id, save_identity
from agent.service.tokens import new_token

HERE = Path("data")


@pytest.mark.parametrize("http", ["0.0.0.0:9100", "10.0.0.1:9100", "[::]:9100", "example.com:80", "128.0.0.1:1"])
def test_p8_an_address_that_others_can_reach_wants_tokens(http: str) -> None:
    assert Access.of(AgentConfig(data_dir=HERE, http=http)).tokens_wanted


@pytest.mark.parametrize("http", ["127.0.0.1:9100", "127.3.4.5:0", "[::1]:65535", "localhost:1"])
def test_p8_a_loopback_address_wants_none_unless_there_is_a_bootstrap_token(http: str, tmp_path: Path) -> None:
    assert not Access.of(AgentConfig(data_dir=HERE, http=http)).tokens_wanted
    file = tmp_path / "token"
    token_file.create(file, new_token())
    assert Access.of(AgentConfig(data_dir=HERE, http=http, bootstrap_token=str(file))).tokens_wanted


def test_p8_a_token_that_others_can_read_or_guess_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    config = AgentConfig(data_dir=HERE, bootstrap_token=str(file))
    with pytest.raises(ConfigError, match=r"--bootstrap-token: .*No such file"):
        Access.of(config)
    token_file.create(file, "short")
    with pytest.raises(ConfigError, match="holds no token"):
        Access.of(config)
    with pytest.raises(ConfigError, match="is there already"):
        token_file.create(file, new_token())
    file.write_text(new_token())
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640, so others than its owner can use the token"):
        Access.of(config)
    with pytest.raises(ConfigError, match="is no file"):
        token_file.read(tmp_path, "--x")
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        token_file.create(file / "below", new_token())


@pytest.mark.parametrize(
    "address", ["", "9100", ":9100", "localhost", "localhost:", "localhost:x", "::1:70000", "h:-1"]
)
def test_an_address_without_host_and_port_is_refused_by_its_flag(address: str) -> None:
    for flag in ("http", "bind"):
        with pytest.raises(ConfigError, match=rf"--{flag} .*HOST:PORT is expected"):
            AgentConfig(data_dir=HERE, **{flag: address})  # type: ignore[arg-type]


def test_an_address_is_split_at_its_last_colon() -> None:
    assert host_port("[::1]:80", "--http") == ("::1", 80)
    assert host_port("h:0", "--http") == ("h", 0)
    assert not is_loopback("loopback.example")


def test_other_settings_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="--slots -1"):
        AgentConfig(data_dir=HERE, slots=-1)
    with pytest.raises(ConfigError, match="--pull sometimes: missing, always or never"):
        AgentConfig(data_dir=HERE, pull="sometimes")
    assert AgentConfig(data_dir=HERE, slots=3).slots_or_default == 3
    assert AgentConfig(data_dir=HERE).slots_or_default == 4 * (os.cpu_count() or 1)


def test_an_executor_of_an_unknown_name_is_refused_with_those_there_are() -> None:
    assert load_executors(["mock"], {})["mock"].kind == "mock"
    with pytest.raises(ConfigError, match=r"--executors nomad: .*docker, mock, process"):
        load_executors(["mock", "nomad"], {})


def test_an_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    made = load_identity(tmp_path)
    assert re.fullmatch(r"[a-z0-9-]+-[0-9a-z]{6}", made.agent)
    assert (made.cluster, made.generation) == ("", 0)
    assert load_identity(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]


def test_of_two_agents_that_start_at_once_one_makes_the_identity(tmp_path: Path) -> None:
    identity._write_durably(tmp_path / identity.FILE, b'{"agent": "first", "cluster": "c", "node": 1, "generation": 1}')
    identity._write_durably(
        tmp_path / identity.FILE, b'{"agent": "second", "cluster": "c", "node": 2, "generation": 1}'
    )
    assert load_identity(tmp_path) == Identity("first", 1, "c", 1)


def test_two_data_directories_are_two_agents(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found.append(load_identity(tmp_path / name))
    assert found[0].agent != found[1].agent
    assert found[0].node != found[1].node


def test_what_an_agent_belongs_to_is_noted_in_its_identity(tmp_path: Path) -> None:
    member = replace(load_identity(tmp_path), cluster="c1", generation=2)
    save_identity(tmp_path, member)
    assert load_identity(tmp_path) == member
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"agent": "a"}', b'{"agent": "a", "cluster": "c", "x": 1}', b"\xff"]
)
def test_p9_an_identity_that_cannot_be_read_is_refused_and_not_replaced(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "identity.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"identity\.json: is no identity of an agent .*restore it"):
        load_identity(tmp_path)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "wrong", [{"agent": 1, "node": 1}, {"agent": "a", "node": 0}, {"agent": "a", "node": 1, "cluster": "c"}]
)
def test_p9_an_identity_of_other_values_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    (tmp_path / "identity.json").write_text(json.dumps(wrong))
    with pytest.raises(ConfigError, match="is no identity of an agent"):
        load_identity(tmp_path)


def test_p9_a_missing_identity_beside_a_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "0000000000000001.wal").touch()
    with pytest.raises(ConfigError, match=r"identity\.json: is missing, but there is a log; restore it"):
        load_identity(tmp_path)
    assert not (tmp_path / "identity.json").exists()


def test_the_host_says_its_boot_and_its_name() -> None:
    assert re.fullmatch(r"[0-9a-f-]{36}", boot_id())
    assert boot_id() == boot_id()
    first_s = boottime_s()
    assert 0 < first_s <= boottime_s()
    assert machine_id()


def test_a_host_without_an_id_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert machine_id() == socket.gethostname()

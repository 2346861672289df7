"""Projects, plugins, jobs, secrets: what users apply."""

from __future__ import annotations

import pytest

from agent.runtable import commands as c
from agent.runtable.apply import REFUSALS, apply
from agent.runtable.catalog import TOKENS_MAX
from agent.runtable.model import Job, Limits, Namespace, Plugin, Role, Secret, Token
from agent.runtable.table import Table
from tests.runtable.builders import START_MS, Driver

JOB = Job("n", "hash", "me", "", "", "bq2bq", START_MS)


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def test_a_cluster_is_founded_once(driver: Driver) -> None:
    assert driver.say(c.Found(START_MS, "c2", 2)).code == "exists"
    assert driver.table.rows.cluster == "c1"


def test_a_project_keeps_what_was_not_named(driver: Driver) -> None:
    driver.say(c.PutProject(START_MS, "p", {"a": "1"}, {"v": "1"}, {}, {"n": Namespace({"x": "1"})}))
    driver.say(c.PutProject(START_MS, "p", None, {"v": "2"}, None, {"m": Namespace()}))
    project = driver.table.rows.projects["p"]
    assert (project.config, project.variables) == ({"a": "1"}, {"v": "2"})
    assert set(project.namespaces) == {"n", "m"}


def test_jobs_are_put_all_or_none_and_make_their_namespace(driver: Driver) -> None:
    assert driver.say(c.PutJobs(START_MS, "nowhere", {"j": JOB})).code == "unknown_project"
    assert driver.say(c.PutJobs(START_MS, "p", {"j": JOB, "k": JOB})).ok
    assert set(driver.table.rows.projects["p"].namespaces) == {"n"}
    moved = Job("m", "hash", "me", "", "", "bq2bq", START_MS)
    assert driver.say(c.PutJobs(START_MS, "p", {"l": JOB, "j": moved})).code == "exists"
    assert set(driver.table.rows.jobs["p"]) == {"j", "k"}
    assert driver.say(c.DeleteJob(START_MS, "p", "m", "j")).code == "unknown_job"
    assert driver.say(c.DeleteJob(START_MS, "p", "n", "j")).ok
    assert driver.say(c.DeleteJob(START_MS, "p", "n", "j")).code == "unknown_job"


def test_a_full_table_takes_no_jobs_p12(driver: Driver) -> None:
    driver.say(c.SetLimits(START_MS, Limits(bytes_max=1)))
    assert driver.say(c.PutJobs(START_MS, "p", {"j": JOB})).code == "table_full"
    assert driver.table.rows.jobs["p"] == {}


def test_plugins_and_secrets_belong_to_a_project(driver: Driver) -> None:
    assert driver.say(c.PutPlugins(START_MS, "q", {"x": Plugin("yaml", START_MS)})).code == "unknown_project"
    assert driver.say(c.PutPlugins(START_MS, "p", {"x": Plugin("yaml", START_MS)})).ok
    secret = Secret(b"cipher", START_MS)
    assert driver.say(c.PutSecret(START_MS, "q", "", "KEY", secret)).code == "unknown_project"
    assert driver.say(c.PutSecret(START_MS, "p", "", "KEY", secret)).ok
    copy = Table.load([driver.table.dump()])
    assert copy.bytes_used == driver.table.bytes_used
    assert driver.say(c.DeleteSecret(START_MS, "p", "n", "KEY")).code == "unknown_secret"
    assert driver.say(c.DeleteSecret(START_MS, "p", "", "KEY")).ok
    assert driver.table.rows.secrets == {}


def test_a_token_has_a_name_of_its_own_until_it_is_deleted_p8(driver: Driver) -> None:
    token, other = (Token(role, "digest", "last", START_MS, "me") for role in (Role.ADMIN, Role.VIEWER))
    assert driver.say(c.PutToken(START_MS, "ci", token)).ok
    assert driver.say(c.PutToken(START_MS, "ci", other)).code == "exists"
    assert driver.table.rows.tokens == {"ci": token}
    copy = Table.load([driver.table.dump()])
    assert (copy.rows.tokens, copy.bytes_used) == ({"ci": token}, driver.table.bytes_used)
    assert driver.say(c.DeleteToken(START_MS, "cd")).code == "unknown_token"
    assert driver.say(c.DeleteToken(START_MS, "ci")).ok
    assert driver.say(c.PutToken(START_MS, "ci", other)).ok


def test_there_are_so_many_tokens_and_no_more_also_in_a_full_table_p12(driver: Driver) -> None:
    driver.say(c.SetLimits(START_MS, Limits(bytes_max=1)))
    token = Token(Role.USER, "digest", "last", START_MS, "me", START_MS)
    for number in range(TOKENS_MAX):
        assert driver.say(c.PutToken(START_MS, f"t{number}", token)).ok
    assert driver.say(c.PutToken(START_MS, "one more", token)).code == "too_many_tokens"


def test_every_code_has_its_words() -> None:
    table = Table()
    assert apply(table, 1, b"\xc1").code in REFUSALS
    assert table.rows.index == 1

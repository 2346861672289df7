"""A cluster is saved, restored, recovered, founded by hand: what is kept, what is refused, what a crash costs."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import subprocess
import time
from contextlib import closing, nullcontext
from pathlib import Path

import msgspec
import pytest

from agent import intact
from agent.api.access import Access
from agent.attempt import EndNote, Intent, StartNote
from agent.cluster import recovery, survivor
from agent.cluster.promise import PromiseFile
from agent.cluster.recovery import RecoveryError, pieces_of
from agent.cluster.snapshot import read, stream
from agent.cluster.snapshot_file import SnapshotError
from agent.cluster.standing import Founder, FoundingSet, Record
from agent.errors import ConfigError
from agent.identity import load_identity
from agent.keyring import Keyring, KeyringError
from agent.leader import lead
from agent.runtable import commands as c
from agent.runtable import invariants
from agent.runtable.explain import explain
from agent.runtable.model import InstanceState, LeaseTerms, OnAgentLost
from agent.runtable.planner import plan
from agent.runtable.table import Table
from agent.service.tokens import digest_of, new_token
from agent.store.errors import StoreError
from agent.store.history import START, History
from agent.store.journal import Journal
from consensus.durable import DurableLog
from consensus.errors import LogError, LogLocked
from consensus.wal_identity import Identity as NodeIdentity
from tests.api.harness import in_loop, job_yaml
from tests.api.harness import prime as agent_in_loop
from tests.cluster.left_behind import NOW_MS, Left, left_behind
from tests.runtable.builders import START_MS, Driver, task

# -- a new generation --------------------------------------------------------------------------------------------------


def three_agents() -> Driver:
    """Agents a1 to a3 with an open attempt each: rerun, fail and wait."""
    driver = Driver().found(slots=1)
    driver.up("a2", 1)
    driver.up("a3", 1)
    for run_id, choice in (("r1", OnAgentLost.RERUN), ("r2", OnAgentLost.FAIL), ("r3", OnAgentLost.WAIT)):
        driver.submit(task(on_agent_lost=choice), run_id=run_id)
        driver.plan()
        driver.start("bq2bq", run_id)
    return driver


def test_a_new_generation_loses_and_removes_every_agent_and_each_job_decides_on_its_attempts_p3() -> None:
    driver = three_agents()
    index = driver.index
    ended = recovery.next_generation(driver.table, NOW_MS)
    rows = driver.table.rows
    assert (rows.generation, rows.agents, sorted(rows.removed)) == (2, {}, ["a1", "a2", "a3"])
    assert driver.instance("bq2bq", "r1").state is InstanceState.SCHEDULED
    assert driver.instance("bq2bq", "r3").state is InstanceState.UNKNOWN
    assert [(run.run_id, run.state, run.reason) for run in ended] == [("r2", "failed", "agent_lost")]
    assert all(index < run.index < rows.index for run in ended)
    assert rows.time_ms == NOW_MS
    invariants.check(driver.table)


def test_no_id_of_before_is_taken_again() -> None:
    driver = three_agents()
    driver.up("a4", 1, node=44)
    recovery.next_generation(driver.table, NOW_MS)
    driver.index = driver.table.rows.index
    assert [driver.up(f"a{number}").code for number in range(1, 5)] == ["removed_agent"] * 4
    assert driver.up("a5", node=44).code == "removed_agent"
    assert driver.up("a5", node=55).ok


def test_nothing_is_assigned_before_a_leader_has_led_for_ttl_and_margin_p3() -> None:
    driver = three_agents()
    driver.say(c.SetLeaseTerms(driver.now_ms, LeaseTerms(ttl_ms=60_000)))
    driver.say(c.SetLeaseTerms(driver.now_ms, LeaseTerms(ttl_ms=1_000)))
    recovery.next_generation(driver.table, NOW_MS)
    driver.index, driver.now_ms = driver.table.rows.index, NOW_MS
    driver.up("b1")
    hold_ms = driver.table.rows.hold_ms
    assert hold_ms == LeaseTerms(ttl_ms=60_000).loss_ms  # of the leases that may still be out
    assert plan(driver.table, NOW_MS, led_ms=hold_ms - 1) == []
    (assign,) = plan(driver.table, NOW_MS, led_ms=hold_ms)
    assert isinstance(assign, c.Assign)
    driver.say(assign)
    driver.submit(run_id="r9")
    assert len(plan(driver.table, NOW_MS, led_ms=0)) == 1  # later leaders need not wait any more


def test_why_nothing_is_assigned_is_explained_p11() -> None:
    driver = three_agents()
    recovery.next_generation(driver.table, NOW_MS)
    driver.index, driver.now_ms = driver.table.rows.index, NOW_MS
    driver.up("b1")
    (line,) = explain(driver.table, driver.run("r1"))
    assert "the cluster was recovered or restored" in line.why
    assert "15.3" in line.why


def test_a_hold_is_in_the_snapshot_that_others_get() -> None:
    driver = three_agents()
    recovery.next_generation(driver.table, NOW_MS)
    assert Table.load(driver.table.image()).rows.hold_ms == driver.table.rows.hold_ms > 0


@in_loop
async def test_a_leader_counts_from_when_it_came_to_lead(tmp_path: Path) -> None:
    async with agent_in_loop(tmp_path) as prime:
        await prime.apply(MOCK_DURATION_MS="gate")
        leading = next(one for one in prime.tasks if "lead" in repr(one.get_coro()))
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        prime.replica.table.rows.hold_ms = 300
        began_s = time.monotonic()
        prime.tasks[prime.tasks.index(leading)] = asyncio.create_task(lead(prime.replica))
        run = await prime.submit()
        await prime.running(run["id"])
        assert time.monotonic() - began_s >= 0.3
        assert prime.replica.table.rows.hold_ms == 0


# -- saved and restored ------------------------------------------------------------------------------------------------


SECRET = "hunter2-in-the-table"


async def saved(root: Path, file: Path, *, history: bool) -> tuple[str, str]:
    """A snapshot of an agent with a job, a secret, a finished run and one that runs; returns the two runs' ids."""
    async with agent_in_loop(root) as prime:
        spec = {
            "path": "hello/job.yaml",
            "yaml": job_yaml(MOCK_DURATION_MS="gate"),
            "assets": {"q.sql": "c2VsZWN0IDE="},
        }
        await prime.ok("POST", "/api/v1/projects/p/namespaces/n/jobs", {"specs": [spec]})
        await prime.ok("PUT", "/api/v1/projects/p/secrets/S", {"value": SECRET})
        first, second = await prime.submit(), await prime.submit()
        prime.engine.release(await prime.running(first["id"]))
        await prime.ended(first["id"])
        await prime.running(second["id"])
        async with prime.client.get(f"/api/v1/cluster/snapshot?history={str(history).lower()}") as answer:
            assert answer.status == 200
            file.write_bytes(await answer.read())
        return first["id"], second["id"]


@in_loop
async def test_a_snapshot_has_all_that_the_table_names_and_no_secret_p8(tmp_path: Path) -> None:
    file = tmp_path / "file"
    (tmp_path / "a").mkdir()
    _done, running = await saved(tmp_path / "a", file, history=False)
    contents = read(pieces_of(file))
    assert list(contents.table.rows.runs) == [running]
    assert (contents.lacking, contents.runs, contents.blobs > 1) == ([], 0, True)
    assert contents.header.secret_keys == Keyring.open(tmp_path / "a" / "secret.key", create=False).ids
    data = file.read_bytes()
    assert SECRET.encode() not in data
    (key,) = (line for line in (tmp_path / "a" / "secret.key").read_text().splitlines() if not line.startswith("#"))
    assert key.encode() not in data
    assert bytes.fromhex(key) not in data


@in_loop
async def test_only_an_admin_is_given_a_snapshot_p8(tmp_path: Path) -> None:
    bootstrap = new_token()
    access = Access(tokens_wanted=True, bootstrap=digest_of(bootstrap))
    at = "/api/v1/cluster/snapshot"
    async with agent_in_loop(tmp_path, access=access) as prime:
        admin = {"Authorization": f"Bearer {bootstrap}"}
        made = await prime.ok("POST", "/api/v1/tokens", {"name": "u", "role": "user"}, headers=admin)
        assert await prime.refused("GET", at) == (401, "token_wanted")
        user = {"Authorization": f"Bearer {made['token']}"}
        assert await prime.refused("GET", at, headers=user) == (403, "not_allowed")
        async with prime.client.get(at, headers=admin) as answer:
            assert answer.status == 200
            assert made["token"].encode() not in await answer.read()


@in_loop
async def test_a_restored_cluster_has_it_all_under_a_new_generation(tmp_path: Path) -> None:
    file, target = tmp_path / "file", tmp_path / "new"
    (tmp_path / "a").mkdir()
    done, running = await saved(tmp_path / "a", file, history=True)
    begun = recovery.restore(file, target, tmp_path / "a" / "secret.key", NOW_MS, assume_stopped=True)
    intact.prepare(target)  # what an agent looks at at its start
    rows = begun.table.rows
    assert (rows.generation, list(rows.removed), list(rows.runs)) == (2, ["agent-1"], [running])
    assert rows.runs[running].instances[0].state is InstanceState.SCHEDULED
    with DurableLog.open(target / "log", NodeIdentity("cluster1", begun.identity.node, 1)) as durable:
        table = Table.load(durable.read_snapshot())
        assert msgspec.msgpack.encode(table.rows) == msgspec.msgpack.encode(rows)
        assert durable.snapshot_meta().conf_state.voters == (begun.identity.node,)
        with closing(History.open(target / "history.db")) as history:
            history.check_covers(durable.snapshot_meta().index, durable.storage.last_index())
            found = history.get(done)
            assert found is not None
            assert (history.missing, found.state) == ((), "success")
    sealed = rows.secrets["p//S"].ciphertext
    assert Keyring.open(target / "secret.key", create=False).decrypt_text(sealed, context="p//S") == SECRET
    assert load_identity(target) == begun.identity
    for path in (tmp_path / "a" / "blobs").glob("??/*"):
        assert (target / "blobs" / path.relative_to(tmp_path / "a" / "blobs")).read_bytes() == path.read_bytes()


@in_loop
async def test_without_the_finished_runs_they_count_as_pruned(tmp_path: Path) -> None:
    file, target = tmp_path / "file", tmp_path / "new"
    (tmp_path / "a").mkdir()
    done, _running = await saved(tmp_path / "a", file, history=False)
    begun = recovery.restore(file, target, tmp_path / "a" / "secret.key", NOW_MS, assume_stopped=True)
    with closing(History.open(target / "history.db")) as history:
        assert (history.get(done), history.holes) == (None, ())
        history.check_covers(begun.table.rows.index, begun.table.rows.index)
    assert done in begun.table.rows.finished  # for deduplication (P2)


@in_loop
async def test_finished_runs_that_were_pruned_are_not_missed_and_later_ones_are_there(tmp_path: Path) -> None:
    file, target = tmp_path / "file", tmp_path / "new"
    (tmp_path / "a").mkdir()
    async with agent_in_loop(tmp_path / "a") as prime:
        await prime.apply()
        runs = [await prime.submit() for _ in range(3)]
        for run in runs[:2]:
            await prime.ended(run["id"])
        await prime.ended(runs[2]["id"])
        await prime.replica.history_settled()
        history = prime.replica.history
        first = history.after(*START, 1)[0]
        history.prune(first.finished_at_ms + 1, 0)
        left = [run.run_id for run in history.after(*START, 9)]
        pieces = [piece async for piece in stream(prime.service.context, "0", history=True)]
        file.write_bytes(b"".join(pieces))
    assert len(left) < 3
    recovery.restore(file, target, tmp_path / "a" / "secret.key", NOW_MS)
    with closing(History.open(target / "history.db")) as restored:
        assert [run.run_id for run in restored.after(*START, 9)] == left
        assert restored.missing == ()


@in_loop
async def test_a_restore_that_cannot_be_leaves_nothing_behind(tmp_path: Path) -> None:
    file, target = tmp_path / "file", tmp_path / "new"
    (tmp_path / "a").mkdir()
    await saved(tmp_path / "a", file, history=False)
    key = tmp_path / "a" / "secret.key"
    other = tmp_path / "other.key"
    Keyring.open(other, create=True)
    with pytest.raises(RecoveryError, match="has not got the key"):
        recovery.restore(file, target, other, NOW_MS)
    with pytest.raises(KeyringError):
        recovery.restore(file, target, tmp_path / "none", NOW_MS)
    cut = tmp_path / "cut"
    cut.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SnapshotError):
        recovery.restore(cut, target, key, NOW_MS)
    with pytest.raises(RecoveryError, match=r"may go on, and what has not ended .* --assume-stopped"):
        recovery.restore(file, target, key, NOW_MS)
    assert not target.exists()
    with pytest.raises(RecoveryError, match="is not empty"):
        recovery.restore(file, tmp_path / "a", key, NOW_MS)


@pytest.mark.parametrize(("agents", "runs", "refused"), [(1, 1, True), (1, 0, False), (2, 1, False)])
def test_only_work_without_a_lease_keeps_a_restore_from_going_on_by_itself_p3(
    agents: int, runs: int, refused: bool
) -> None:
    driver = Driver().found()
    for number in range(1, agents + 1):
        driver.up(f"a{number}")
    for number in range(runs):
        driver.submit(run_id=f"r{number}")
    with pytest.raises(RecoveryError, match="alone") if refused else nullcontext():
        recovery._check_leases(driver.table.rows)


@in_loop
async def test_a_blob_that_nobody_has_is_named_and_stops_no_snapshot(tmp_path: Path) -> None:
    async with agent_in_loop(tmp_path) as prime:
        await prime.apply()
        spec = prime.replica.table.rows.jobs["p"]["hello"].spec
        prime.service.context.blobs.path(spec).unlink()
        pieces = [piece async for piece in stream(prime.service.context, "0", history=False)]
        assert read(pieces).lacking == [spec]


# -- recovered ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def left(tmp_path: Path) -> Left:
    """See `left_behind`."""
    return left_behind(tmp_path / "d")


def test_a_look_says_what_is_there_and_changes_nothing(left: Left) -> None:
    before = {path: path.read_bytes() for path in left.directory.rglob("*") if path.is_file()}
    found = survivor.look(left.directory)
    assert (found.term, found.index, found.committed) == (3, left.driver.index, left.driver.index - 3)
    assert sorted(one.id for one in found.gone) == ["a2", "a3"]
    assert sum(found.open_attempts.values()) == 2
    assert {path: path.read_bytes() for path in left.directory.rglob("*") if path.is_file()} == before


def test_all_that_the_disk_has_is_kept_and_all_ids_are_new(left: Left) -> None:
    old = load_identity(left.directory)
    begun = survivor.recover(left.directory, NOW_MS)
    check_recovered(left, begun.identity.node)
    rows = begun.table.rows
    assert sorted(rows.removed) == sorted([old.agent, "a2", "a3"])
    assert (begun.identity.agent != old.agent, begun.identity.node != old.node) == (True, True)
    own = rows.agents[begun.identity.agent]
    assert (own.epoch, own.node, own.address, own.lost) == (2, begun.identity.node, "127.0.0.1:1", False)
    assert (left.directory / "before-generation-2" / "log").is_dir()


def test_what_ended_here_while_nobody_took_its_word_is_not_lost(left: Left) -> None:
    identity = load_identity(left.directory)
    with closing(Journal(left.directory / "journal.db")) as journal:
        for run_id, epoch in (("r1", 1), ("r2", 1), ("r4", 1)):
            name = f"prime-{left.cluster}-1-{run_id}-bq2bq-1"
            intent = Intent(run_id, "bq2bq", 1, epoch, "mock", "", "")
            journal.intend(name, msgspec.msgpack.encode(intent), 0.0, "boot")
            journal.started(name, msgspec.msgpack.encode(StartNote(START_MS, {})))
            note = EndNote(None, 0, "", START_MS, START_MS + 5, {}, None)
            journal.ended(name, msgspec.msgpack.encode(note))
    begun = survivor.recover(left.directory, NOW_MS)
    assert identity.agent in begun.table.rows.removed
    with closing(History.open(left.directory / "history.db")) as history:
        ends = {run.run_id: (run.state, run.finished_at_ms) for run in history.after(*START, 10)}
    assert ends["r2"] == ("success", NOW_MS)
    assert ends["r1"][0] == "success"
    assert ends["r3"][0] == "failed"
    assert list(begun.table.rows.runs) == ["r4"]  # of which nothing was ever given to this agent


def check_recovered(left: Left, node: int) -> None:
    """An agent can start here, and has all there was."""
    intact.prepare(left.directory)
    identity = load_identity(left.directory)
    assert (identity.cluster, identity.generation, identity.node) == (left.cluster, 2, node)
    PromiseFile.open(left.directory, identity.agent).close()
    with DurableLog.open(left.directory / "log", NodeIdentity(left.cluster, node, 1)) as durable:
        table = Table.load(durable.read_snapshot())
        meta = durable.snapshot_meta()
        assert (meta.term, meta.index > left.driver.index) == (5, True)
    invariants.check(table)
    assert (table.rows.generation, list(table.rows.runs), table.rows.hold_ms > 0) == (2, ["r4"], True)
    with closing(History.open(left.directory / "history.db")) as history:
        history.check_covers(meta.index, meta.index)
        ends = [(run.run_id, run.state, run.reason) for run in history.after(*START, 10)]
        assert sorted(ends) == [
            ("r1", "success", None),
            ("r2", "failed", "agent_lost"),
            ("r3", "failed", "agent_lost"),
        ]
    assert not (left.directory / "recovered").exists()
    assert not (left.directory / "recovering").exists()


def may_start(directory: Path) -> bool:
    """Whether an agent would go on with what is there, as far as it is looked at before its log is used."""
    try:
        intact.prepare(directory)
        identity = load_identity(directory)
        PromiseFile.open(directory, identity.agent).close()
        with (
            DurableLog.open(directory / "log", NodeIdentity(identity.cluster, identity.node, 1)) as durable,
            closing(History.open(directory / "history.db")) as history,
        ):
            history.check_covers(durable.snapshot_meta().index, durable.storage.last_index())
    except (ConfigError, LogError, StoreError):
        return False
    return True


def test_a_crash_at_any_step_leaves_the_old_agent_or_none_and_the_next_try_ends_it_p9(
    left: Left, tmp_path: Path
) -> None:
    whole = sum(1 for _step in survivor.steps(copied(left, tmp_path / "whole").directory, NOW_MS))
    assert whole > 8
    begun_at = []
    for count in range(1, whole + 1):
        one = copied(left, tmp_path / f"after-{count}")
        with closing(survivor.steps(one.directory, NOW_MS)) as steps:
            for _step in itertools.islice(steps, count):
                pass
        if not survivor.is_unfinished(one.directory):
            assert may_start(copied(one, tmp_path / f"try-{count}").directory)
            assert load_identity(one.directory).generation == 1
            assert survivor.look(one.directory).index == left.driver.index
        else:
            begun_at.append(count)
            tried = copied(one, tmp_path / f"try-{count}")
            if may_start(tried.directory):
                assert load_identity(tried.directory).generation == 2
            with pytest.raises(RecoveryError, match="cut short"):
                survivor.look(one.directory)
        begun = survivor.recover(one.directory, NOW_MS)
        check_recovered(one, begun.identity.node)
    assert begun_at == list(range(begun_at[0], whole + 1))


def copied(left: Left, target: Path) -> Left:
    subprocess.run(["cp", "-a", "--sparse=always", left.directory, target], check=True)  # segments are mostly zeros
    return dataclasses.replace(left, directory=target)


def test_no_recovery_beside_an_agent_that_runs(left: Left) -> None:
    identity = load_identity(left.directory)
    running = DurableLog.open(left.directory / "log", NodeIdentity(identity.cluster, identity.node, 1))
    with running, pytest.raises(LogLocked):
        survivor.recover(left.directory, NOW_MS)
    assert survivor.look(left.directory).index == left.driver.index


def test_a_damaged_log_is_not_recovered_from_p9(left: Left) -> None:
    segment = next((left.directory / "log").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    at = data.index(b"SubmitRun")
    data[at] ^= 1
    segment.write_bytes(data)
    with pytest.raises(RecoveryError, match="prime wal verify"):
        survivor.recover(left.directory, NOW_MS)
    assert load_identity(left.directory).generation == 1


def test_a_directory_without_a_table_says_that_there_is_nothing(left: Left, tmp_path: Path) -> None:
    with pytest.raises(RecoveryError, match="is no data directory"):
        survivor.look(tmp_path)
    waiting = tmp_path / "waiting"
    intact.prepare(waiting)
    load_identity(waiting)
    with pytest.raises(RecoveryError, match="is no data directory"):
        survivor.look(waiting)


# -- founded by hand ---------------------------------------------------------------------------------------------------


def test_a_cluster_is_founded_once_by_hand_and_again_is_refused(tmp_path: Path) -> None:
    identity = recovery.init(tmp_path / "d")
    intact.prepare(tmp_path / "d")
    assert (identity.generation, bool(identity.cluster)) == (1, True)
    with pytest.raises(RecoveryError, match=f"belongs to cluster {identity.cluster}"):
        recovery.init(tmp_path / "d")


def test_a_founding_by_hand_that_was_cut_short_goes_on_with_the_same_cluster(tmp_path: Path) -> None:
    intact.prepare(tmp_path)
    before = load_identity(tmp_path)
    founded = recovery.init(tmp_path)
    (tmp_path / "identity.json").write_text(
        msgspec.json.encode({"agent": before.agent, "node": before.node}).decode()
    )  # the last step did not come
    assert recovery.init(tmp_path) == founded


def test_who_has_promised_to_found_with_others_does_not_found_by_hand(tmp_path: Path) -> None:
    intact.prepare(tmp_path)
    identity = load_identity(tmp_path)
    founders = FoundingSet(1, (Founder(identity.agent, identity.node, "a:1"), Founder("other", 2, "b:1")))
    with closing(PromiseFile.open(tmp_path, identity.agent)) as promises:
        promises.store(Record(founders, 0, "x"))
    with pytest.raises(RecoveryError, match="has promised others"):
        recovery.init(tmp_path)
    assert load_identity(tmp_path).cluster == ""

"""Who may ask (P8): tokens and their roles, the bootstrap token, strangers, proxies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.access import ADDRESSES_MAX, TRIES, TRY_EVERY_S, Access, Tries
from agent.api.routing import READS
from agent.api.server import ROUTES
from agent.service.tokens import digest_of, new_token
from tests.api.harness import Prime, in_loop, prime, refusal
from tests.api.test_refusals import answered

TOKENS = "/api/v1/tokens"
RUNS = "/api/v1/runs"
BOOTSTRAP = new_token()
NOBODY = {"Authorization": f"Bearer {new_token()}"}


def wanted(bootstrap: str = BOOTSTRAP, *, metrics_open: bool = False) -> Access:
    """Of an agent that wants a token of everyone."""
    return Access(tokens_wanted=True, bootstrap=digest_of(bootstrap), metrics_open=metrics_open)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def make(agent: Prime, name: str, role: str, *, by: str = BOOTSTRAP, **more: Any) -> str:
    """A new token."""
    answer = await agent.ok("POST", TOKENS, {"name": name, "role": role, **more}, headers=bearer(by))
    token: str = answer["token"]
    return token


@in_loop
async def test_without_a_token_nothing_is_told_but_what_a_load_balancer_asks(tmp_path: Path) -> None:
    async with prime(tmp_path, access=wanted()) as agent:
        for path in (RUNS, TOKENS, "/metrics", "/nothing", "/api/v1/cluster", "/api/v1/runs/x/instances/y/logs"):
            assert await agent.refused("GET", path) == (401, "token_wanted"), path
        assert await agent.refused("POST", "/api/v1/projects/p/jobs/j/runs", {}) == (401, "token_wanted")
        for path in ("/healthz", "/readyz", "/openapi.json"):
            await agent.ok("GET", path, headers={"Host": "prime.example", "X-Forwarded-For": "192.0.2.1"})
        async with agent.client.get(RUNS) as response:
            assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic eDp5", "Bearer a b", "Token x", "Bearer \udcff", "Bearer " + "x" * 5000]
)
@in_loop
async def test_what_is_no_token_is_a_clear_no(tmp_path: Path, header: str) -> None:
    for access in (wanted(), Access()):
        async with prime(tmp_path / str(access.tokens_wanted), access=access) as agent:
            headers = {"Authorization": header.encode(errors="surrogateescape").decode("latin-1")}
            assert await agent.refused("GET", RUNS, headers=headers) == (401, "bad_token")


@in_loop
async def test_a_role_may_do_so_much_and_no_more(tmp_path: Path) -> None:
    async with prime(tmp_path, access=wanted()) as agent:
        tokens = {role: bearer(await make(agent, role, role)) for role in ("viewer", "user", "admin")}
        may: dict[str, set[str]] = {role: set() for role in tokens}
        for route in ROUTES:
            for role, headers in tokens.items():
                async with agent.client.request(
                    route.method, route.path.replace("{", "").replace("}", ""), json={}, headers=headers
                ) as response:
                    assert response.status != 401
                    code = (await refusal(response))[1] if response.status in (401, 403) else ""
                    assert code in ("", "not_allowed")
                    may[role] |= set() if code else {route.name}
        reads = {route.name for route in ROUTES if route.method in READS}
        cluster = {route.name for route in ROUTES if route.path.startswith("/api/v1/cluster")}
        assert may["viewer"] == reads - {"listTokens", "clusterSnapshot"}
        assert may["admin"] == {route.name for route in ROUTES}
        tokens_only = {"listTokens", "createToken", "deleteToken"}
        assert may["admin"] - may["user"] == (cluster - reads) | tokens_only | {"clusterSnapshot"}


@in_loop
async def test_a_path_that_is_written_in_another_way_takes_the_same_role(tmp_path: Path) -> None:
    async with prime(tmp_path, access=wanted()) as agent:
        user = await make(agent, "u", "user")
        sent = b'{"to": "x", "name": "n", "role": "admin"}'
        for path in ("/api/v1/%63luster/transfer", "/api/v1/%74okens", "//api/v1/tokens", "/api/v1/./tokens"):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {user}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
            assert (await answered(agent, head.encode() + sent))[0] in (403, 404), path
        assert list(agent.replica.table.rows.tokens) == ["u"]


@in_loop
async def test_the_bootstrap_token_counts_while_no_admins_token_does(tmp_path: Path) -> None:
    async with prime(tmp_path, access=wanted()) as agent:
        await make(agent, "someone", "user")
        await agent.ok("GET", "/api/v1/cluster", headers=bearer(BOOTSTRAP))
        admin = await make(agent, "boss", "admin")
        assert await agent.refused("GET", RUNS, headers=bearer(BOOTSTRAP)) == (401, "bootstrap_over")
        await agent.ok("DELETE", f"{TOKENS}/boss", headers=bearer(admin))  # the way back in, for who has the file
        await agent.ok("GET", RUNS, headers=bearer(BOOTSTRAP))


@in_loop
async def test_a_token_is_kept_as_a_hash_and_told_once(tmp_path: Path) -> None:
    async with prime(tmp_path, access=wanted()) as agent:
        sent = {"name": "ci", "role": "admin"}
        async with agent.client.post(TOKENS, json=sent, headers=bearer(BOOTSTRAP)) as response:
            assert (response.status, response.headers["Cache-Control"]) == (201, "no-store")
            token = (await response.json())["token"]
        await make(agent, "cd", "viewer", by=token, expires_in=3600)
        listed = (await agent.ok("GET", TOKENS, headers=bearer(token)))["tokens"]
        assert [(one["name"], one["role"], one["created_by"]) for one in listed] == [
            ("cd", "viewer", "ci"),
            ("ci", "admin", "bootstrap"),
        ]
        assert listed[1]["last"] == token[-4:]
        assert token.encode() not in agent.replica.table.dump()
        assert token[6:] not in str(listed)


@in_loop
async def test_a_deleted_token_is_good_for_nothing(tmp_path: Path) -> None:
    async with prime(tmp_path, access=wanted()) as agent:
        admin, other = await make(agent, "a", "admin"), ""
        other = await make(agent, "b", "user", by=admin)
        await agent.ok("GET", RUNS, headers=bearer(other))
        await agent.ok("DELETE", f"{TOKENS}/b", headers=bearer(admin))
        assert await agent.refused("GET", RUNS, headers=bearer(other)) == (401, "bad_token")
        assert await agent.refused("DELETE", f"{TOKENS}/b", headers=bearer(admin)) == (404, "unknown_token")


@in_loop
async def test_a_token_whose_time_is_over_is_good_for_nothing(tmp_path: Path) -> None:
    async with prime(tmp_path, access=wanted()) as agent:
        token = await make(agent, "a", "admin", expires_in=60)
        await agent.ok("GET", RUNS, headers=bearer(token))
        clock_ms = agent.replica.clock_ms
        agent.replica.clock_ms = lambda: clock_ms() + 60_001
        assert await agent.refused("GET", RUNS, headers=bearer(token)) == (401, "token_expired")
        (shown,) = (await agent.ok("GET", TOKENS, headers=bearer(BOOTSTRAP)))["tokens"]  # it counts again
        assert shown["expired"]


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a b", "x" * 64, "ä", "bootstrap", "local"])
@in_loop
async def test_a_name_that_would_mislead_is_refused(tmp_path: Path, name: str) -> None:
    async with prime(tmp_path) as agent:
        status, _code = await agent.refused("POST", TOKENS, {"name": name, "role": "user"})
        assert status in (400, 422)
        await agent.ok("POST", TOKENS, {"name": "a.b-c_9", "role": "user"})
        assert await agent.refused("POST", TOKENS, {"name": "a.b-c_9", "role": "user"}) == (409, "exists")


@in_loop
async def test_p2_who_asks_is_the_token_whatever_the_client_says_and_keys_are_its_own(tmp_path: Path) -> None:
    async with prime(tmp_path, access=wanted()) as agent:
        boss = await make(agent, "boss", "admin")
        one, other = (
            bearer(await make(agent, "one", "user", by=boss)),
            bearer(await make(agent, "two", "user", by=boss)),
        )
        agent.client.session.headers.update(bearer(boss))
        await agent.apply()
        path, named = "/api/v1/projects/p/jobs/hello/runs", {"Idempotency-Key": "k", "Prime-User": "root"}
        first = await agent.ok("POST", path, {}, headers={**one, **named})
        again = await agent.ok("POST", path, {}, headers={**one, **named})
        second = await agent.ok("POST", path, {}, headers={**other, **named})
        assert again["run"]["id"] == first["run"]["id"] != second["run"]["id"]
        assert (first["run"]["requested_by"], second["run"]["requested_by"]) == ("one", "two")


@in_loop
async def test_on_loopback_the_local_user_needs_no_token_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    async with prime(tmp_path) as agent:
        await agent.ok("GET", RUNS)
        token = (await agent.ok("POST", TOKENS, {"name": "v", "role": "viewer"}))["token"]
        await agent.ok("GET", RUNS, headers={**bearer(token), "Host": "prime.example", "Origin": "https://x.example"})
        assert await agent.refused("POST", TOKENS, {}, headers=bearer(token)) == (403, "not_allowed")
        assert await agent.refused("GET", RUNS, headers=NOBODY) == (401, "bad_token")


@pytest.mark.parametrize("header", ["X-Forwarded-For", "forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"])
@in_loop
async def test_nobody_is_the_local_user_through_a_proxy(tmp_path: Path, header: str) -> None:
    async with prime(tmp_path) as agent:
        assert await agent.refused("GET", RUNS, headers={header: "192.0.2.1"}) == (401, "token_wanted")


@in_loop
async def test_metrics_take_a_token_unless_they_are_open_and_count_who_was_turned_away(tmp_path: Path) -> None:
    async with prime(tmp_path / "a", access=wanted()) as agent:
        assert (await agent.refused("GET", "/metrics"))[0] == 401
        async with agent.client.get("/metrics", headers=bearer(BOOTSTRAP)) as response:
            assert 'prime_http_turned_away_total{code="token_wanted"} 1.0' in await response.text()
    async with (
        prime(tmp_path / "b", access=wanted(metrics_open=True)) as agent,
        agent.client.get("/metrics") as response,
    ):
        assert response.status == 200


@in_loop
async def test_p12_wrong_tokens_are_held_up_and_good_ones_are_not(tmp_path: Path) -> None:
    async with prime(tmp_path, access=wanted()) as agent:
        for _ in range(TRIES):
            assert await agent.refused("GET", RUNS, headers=NOBODY) == (401, "bad_token")
        assert await agent.refused("GET", RUNS, headers=NOBODY) == (429, "too_many_tries")
        await agent.ok("GET", RUNS, headers=bearer(BOOTSTRAP))  # from the same address


# -- tries, by themselves ----------------------------------------------------------------------------------------------


def test_tries_come_back_with_time_and_for_who_was_right() -> None:
    now = [0.0]
    tries = Tries(lambda: now[0])
    assert [tries.take("192.0.2.1") for _ in range(TRIES)] == [0.0] * TRIES
    assert tries.take("192.0.2.1") == pytest.approx(TRY_EVERY_S)
    assert tries.take("192.0.2.2") == 0.0
    now[0] += TRY_EVERY_S
    assert tries.take("192.0.2.1") == 0.0
    tries.give_back("192.0.2.1")
    assert tries.take("192.0.2.1") == 0.0
    assert tries.take("192.0.2.1") > 0


def test_all_addresses_of_one_ipv6_host_are_one() -> None:
    tries = Tries(lambda: 0.0)
    assert {tries.take(f"2001:db8::{number:x}") for number in range(TRIES)} == {0.0}
    assert tries.take("2001:db8::ffff%eth0") > 0
    assert tries.take("2001:db8:0:1::1") == 0.0
    assert tries.take("") == 0.0
    tries.give_back("2001:db8:7::")


@given(st.lists(st.integers(0, 3 * ADDRESSES_MAX), max_size=200))
def test_p12_so_many_addresses_are_remembered_and_no_more(numbers: list[int]) -> None:
    tries = Tries(lambda: 0.0)
    for number in [*range(ADDRESSES_MAX), *numbers]:
        tries.take(f"host-{number}")
    assert len(tries) == ADDRESSES_MAX

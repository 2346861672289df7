"""Where no request goes, whatever a user's spec says."""

from __future__ import annotations

import pytest
from yarl import URL

from agent.outward import ReservedAddress, check, reserved


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "0.0.0.0",
        "::",
        "224.0.0.1",
    ],
)
def test_reserved_addresses(address: str) -> None:
    assert reserved(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "8.8.8.8", "2001:db8::1", "::1", "::ffff:10.0.0.1"])
def test_addresses_that_an_endpoint_may_have(address: str) -> None:
    assert not reserved(address)


def test_what_is_no_address_is_a_name_that_is_looked_at_when_it_is_resolved() -> None:
    check(URL("http://169.254.169.254.example/"))
    check(URL("/no/host"))
    with pytest.raises(ReservedAddress):
        check(URL("http://[::ffff:169.254.169.254]:80/"))

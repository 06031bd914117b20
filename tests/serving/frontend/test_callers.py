"""The names by which callers are distinguished."""

import pytest

from serving.frontend.callers import LOCAL, Metadata, caller_of


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("ipv4:192.0.2.7:50012", "192.0.2.7"),
        ("ipv4:127.0.0.1:50012", LOCAL),
        ("ipv4:127.0.0.2:50012", LOCAL),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::1%5D:443", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:443", "fe80::/64"),
        ("ipv6:%5B::1%5D:443", LOCAL),
        ("ipv6:%5B::ffff:192.0.2.7%5D:443", "192.0.2.7"),
        ("ipv6:[::ffff:127.0.0.1]:443", LOCAL),
        ("unix:", LOCAL),
        ("unix:/tmp/socket", LOCAL),
        ("", LOCAL),
        ("ipv4:elsewhere", "ipv4:elsewhere"),
    ],
)
def test_a_caller_is_named_by_address_without_port(peer: str, caller: str) -> None:
    assert caller_of(peer, (), None) == caller


METADATA: Metadata = (("user-agent", "x"), ("x-team", "vision"), ("x-team", "other"), ("x-id-bin", b"\x00"))


@pytest.mark.parametrize(
    ("key", "metadata", "caller"),
    [
        ("x-team", METADATA, "x-team=other"),
        (None, METADATA, "192.0.2.7"),
        ("x-user", METADATA, "192.0.2.7"),
        ("x-team", (("x-team", ""),), "192.0.2.7"),
        ("x-team", (("x-team", "vision"), ("x-team", "")), "192.0.2.7"),
        ("x-team", (("x-team", b"bytes"),), "192.0.2.7"),
        ("x-team", (("x-team", "a\nb"),), r"x-team=a\nb"),
    ],
)
def test_a_configured_metadata_key_names_the_caller(key: str | None, metadata: Metadata, caller: str) -> None:
    assert caller_of("ipv4:192.0.2.7:50012", metadata, key) == caller


def test_a_proxy_that_appends_the_key_is_not_overridden_by_the_client() -> None:
    metadata = (("x-team", "claimed"), ("user-agent", "x"), ("x-team", "true"))

    assert caller_of("ipv4:192.0.2.7:50012", metadata, "x-team") == "x-team=true"


def test_the_length_of_a_callers_name_is_bounded() -> None:
    assert len(caller_of("ipv4:192.0.2.7:1", (("x-team", "a" * 10_000),), "x-team")) < 300

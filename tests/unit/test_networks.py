"""Where applications may come from."""

import pytest

from pwserver.errors import ConfigError
from pwserver.networks import NETWORKS_MAX, is_within, stored


@pytest.mark.parametrize(
    ("networks", "inside", "outside"),
    [
        (["10.0.0.0/8"], ["10.0.0.1", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0", "::1"]),
        (["192.0.2.7"], ["192.0.2.7"], ["192.0.2.8", "unix"]),
        (["::ffff:10.0.0.0/104"], ["10.9.9.9", "::ffff:10.9.9.9"], ["11.0.0.1"]),
        (["2001:db8::/32"], ["2001:db8::1", "2001:db8:ffff::"], ["2001:db9::", "32.1.13.184"]),
        (["fe80::/10"], ["fe80::1%eth0"], ["fec0::1%eth0"]),
        (["unix"], ["unix"], ["127.0.0.1", "::1"]),
        (["127.0.0.0/8", "unix", "::1"], ["127.0.0.1", "::1", "unix"], ["10.0.0.1", "gone", ""]),
        ([], ["10.0.0.1", "unix", "gone"], []),
    ],
)
def test_an_origin_is_in_a_network_or_not(
    networks: list[str], inside: list[str], outside: list[str]
) -> None:
    """IPv4 counts as itself however it is written, and the Unix socket is in no network of IP."""
    kept = stored(networks)
    assert [origin for origin in inside if not is_within(origin, kept)] == []
    assert [origin for origin in outside if is_within(origin, kept)] == []


def test_networks_are_stored_once_and_in_one_form() -> None:
    """What is stored is what `app list` shows and what is stored again."""
    kept = stored(["::ffff:10.0.0.0/104", "10.0.0.0/8", "2001:DB8:0::/32", "unix", "unix"])
    assert kept == "10.0.0.0/8 2001:db8::/32 unix"
    assert stored(kept.split()) == kept


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "host", "", "Unix", "::ffff:1.2.3"])
def test_what_is_no_network_is_refused(text: str) -> None:
    """The sentence says what one looks like."""
    with pytest.raises(ConfigError, match=r"is no network: .* A network is such as 10\.0\.0\.0/8"):
        stored(["unix", text])


def test_an_application_has_no_endless_list_of_networks() -> None:
    """Each one is looked at for each connection that shows a token."""
    networks = [f"10.0.{number}.0/24" for number in range(NETWORKS_MAX + 1)]
    assert stored(networks[:-1])
    with pytest.raises(ConfigError, match="there are 65 networks"):
        stored(networks)

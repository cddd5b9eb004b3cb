"""Who is at the other end of a connection: its address, and whether it is on this machine."""

import socket
import struct
from collections.abc import Iterator

import pytest

from pwserver.accepted import Accepted, shown_address
from pwserver.config import Settings
from pwserver.networks import is_within
from workers.auth.applications import GUEST, NO_GUEST, STRANGER
from workers.auth.peers import Peer, is_local
from workers.auth.throttle import GuessTable, Throttle


@pytest.fixture
def served() -> Iterator[socket.socket]:
    """Yield the service's end of a connection over loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        accepted, _ = listener.accept()
        with accepted:
            yield accepted


class UnixEnd(socket.socket):
    """The service's end of a connection whose client is some user."""

    uid = 0

    def getsockopt(self, *_: int) -> bytes:  # type: ignore[override]
        """Return the credentials as the kernel packs them (unix(7): pid_t, uid_t, gid_t)."""
        return struct.pack("iII", 4711, self.uid, self.uid)


def peer_of(client: Accepted, **settings: str) -> Peer:
    """Return what a worker knows of a client."""
    return Peer(client, Throttle(GuessTable(1), 1), Settings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("accepted", "shown"),
    [
        (("127.0.0.1", 5), "127.0.0.1:5"),
        (("::1", 5, 0, 0), "[::1]:5"),
        (("fe80::1%eth0", 5, 0, 2), "[fe80::1%eth0]:5"),
        ("", ""),
        (b"\0a name", ""),
    ],
)
def test_an_address_is_shown_as_in_a_url(accepted: object, shown: str) -> None:
    """A client of a Unix socket has none."""
    assert shown_address(accepted) == shown


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:5", True),
        ("127.200.0.7:5", True),
        ("[::1]:5", True),
        ("[::ffff:127.0.0.1]:5", True),
        ("10.9.0.2:5", False),
        ("[::ffff:10.9.0.2]:5", False),
        ("[fe80::1%eth0]:5", False),
        ("", False),
    ],
)
def test_both_ends_must_be_loopback(served: socket.socket, address: str, local: bool) -> None:
    """A kernel can be told to route packets of other machines to a loopback address."""
    client = Accepted(served, address)
    assert is_local(client) == local
    assert peer_of(client).caller is (GUEST if local else STRANGER)
    assert peer_of(client, guests="none").caller is NO_GUEST


@pytest.mark.parametrize("address", ["127.0.0.1:5", "[::1]:5", "10.9.0.2:5", "[2001:db8::7]:5"])
def test_whom_a_balancer_brings_is_never_local(served: socket.socket, address: str) -> None:
    """Whatever address it has: a loopback one is the balancer's, and no network of ours."""
    client = Accepted(served, address, proxied=True)
    assert not is_local(client)
    assert peer_of(client).caller is STRANGER
    direct = peer_of(Accepted(served, address))
    if direct.caller is GUEST:
        assert not is_within(peer_of(client).origin, "127.0.0.0/8 ::1/128")
        assert peer_of(client).share != direct.share
    else:
        assert (peer_of(client).origin, peer_of(client).share) == (direct.origin, direct.share)
    assert peer_of(client).address == address, "as the audit record has it"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("127.0.0.1:5", "127.9.9.9:6", True),
        ("127.0.0.1:5", "[::1]:6", True),
        ("[::ffff:127.0.0.1]:5", "[::1]:6", True),
        ("10.9.0.2:5", "10.9.0.2:6", True),
        ("10.9.0.2:5", "10.9.0.3:5", False),
        ("[2001:db8::1]:5", "[2001:db8::ffff:1]:5", True),
        ("[2001:db8::1]:5", "[2001:db8:0:1::1]:5", False),
        ("[fe80::1%eth0]:5", "[fe80::2%eth0]:5", True),
    ],
)
def test_a_machine_has_one_share(served: socket.socket, one: str, other: str, same: bool) -> None:
    """Whichever of its addresses it comes from: it has all loopback ones, and an IPv6 network."""
    shares = [peer_of(Accepted(served, address)).share for address in (one, other)]
    assert (shares[0] == shares[1]) == same


def test_each_user_of_the_unix_socket_has_a_share() -> None:
    """Whatever it may come from, and beside the clients over TCP."""
    shares = set()
    for uid in (0, 0, 1000):
        with UnixEnd(socket.AF_UNIX) as end:
            end.uid = uid
            shares.add(peer_of(Accepted(end, "")).share)
    assert len(shares) == 2


@pytest.mark.parametrize("uid", [2**31, 2**32 - 2])
def test_a_great_user_number_is_shown_as_it_is(uid: int) -> None:
    """Containers have them; they are no negative numbers."""
    with UnixEnd(socket.AF_UNIX) as end:
        end.uid = uid
        peer = peer_of(Accepted(end, ""))
        assert peer.address == f"unix:{uid}"
        assert peer.caller is GUEST


def test_the_address_outlives_the_connection(served: socket.socket) -> None:
    """The record of what is done after a reset says who asked for it."""
    peer = peer_of(Accepted(served, "127.0.0.1:5"))
    ours, theirs = socket.socketpair()
    unix = peer_of(Accepted(ours, ""))
    for end in (served, ours, theirs):
        end.close()
    assert peer.address == "127.0.0.1:5"
    assert unix.address.startswith("unix:")

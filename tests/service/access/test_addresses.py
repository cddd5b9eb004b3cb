"""Where a client comes from decides what it may do without a token: strangers may ping.

Which right each command needs is the matter of `test_rights`; here it is who is a stranger.
"""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support.books_wire import (
    ALIVE,
    COUNT,
    DENIED,
    EXAMPLES,
    PING,
    Request,
    ask_all,
    denied,
    generated_names,
    get,
    required,
    save,
    saved,
)
from tests.support.harness import SAVED, Peer, Service, own_address, unix_peer
from tests.support.tls import Authority, tls_flags, tls_peer, trusting

GUESTS = {"save_password", "number_of_users", "generate_password", "check_password", "ping"}
"""What guests may ask for with the least fields; with all fields, saves and generated passwords are
under a name."""

NAMED = {"save_password", "generate_password"}


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    """Return what a client has that trusts the authority."""
    return trusting(authority)


@pytest.fixture
def open_service(start: Start, authority: Authority) -> Service:
    """Return a service that listens on every IPv4 address, with TLS."""
    return start("--host", "0.0.0.0", *tls_flags(authority.issue("localhost")))


@pytest.fixture
def outside(open_service: Service, context: ssl.SSLContext) -> Iterator[Peer]:
    """Yield a connection to the machine's own address that other machines reach it by."""
    with tls_peer(open_service, context, own_address()) as peer:
        yield peer


def least(request: Request) -> Request:
    """Return a request with the fields only that its command needs."""
    needed = {"message", *required(request["message"])}
    return {field: value for field, value in request.items() if field in needed}


def test_from_outside_everything_but_ping_is_denied(
    open_service: Service, context: ssl.SSLContext, outside: Peer
) -> None:
    """The contract's commands as well, with all fields and with the least; and nothing is done."""
    with tls_peer(open_service, context) as owner:
        owner.authenticate(open_service.token)
        assert owner.ask(save("example", labels=["x"])) == saved("example", 1)
        before = owner.ask(EXAMPLES["list_users"])
        for name, request in EXAMPLES.items():
            expected = ALIVE if name == "ping" else DENIED
            with_id = {**ALIVE, "id": 7} if name == "ping" else denied(id=7)
            assert outside.ask(request) == expected, request
            assert outside.ask({**least(request), "id": 7}) == with_id, request
        assert owner.ask(EXAMPLES["list_users"]) == before
        assert owner.count() == 1
        assert owner.ask(get("example"))["version"] == 1


def test_from_outside_a_token_is_what_counts(open_service: Service, outside: Peer) -> None:
    """Who shows one may do there what it may do anywhere."""
    assert outside.ask(save("a")) == DENIED
    assert outside.authenticate(open_service.token)["message"] == "Authenticated!"
    assert outside.ask(save("a")) == saved("a", 1)
    assert outside.ask(get("a"))["password"] == "abc123"


def test_from_outside_bad_messages_are_answered(outside: Peer) -> None:
    """What is no message at all is said to be none, as it is to everybody."""
    assert outside.ask({"message": "other"}) == {"message": "Invalid message!"}
    assert outside.ask({"message": "get_password"})["error"] == '"username" is missing.'
    outside.send(b"hello\n")
    assert outside.reply()["message"] == "Invalid message!"


def test_denied_requests_keep_their_place(outside: Peer) -> None:
    """In a burst, what is denied and what is done are answered in their order."""
    burst = [save(), get("a"), PING, save("a"), {"message": "other"}, COUNT, PING] * 20
    replies = [reply["message"] for reply in ask_all(outside, burst)]
    denied = "Denied!"
    assert replies == [denied, denied, "Alive!", denied, "Invalid message!", denied, "Alive!"] * 20


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3"])
def test_who_is_on_this_machine_is_a_guest_all_the_same(
    open_service: Service, context: ssl.SSLContext, address: str
) -> None:
    """The same service, asked at any loopback address, does what guests may ask for."""
    with tls_peer(open_service, context, address) as local:
        assert_guest(local)


def assert_guest(peer: Peer) -> None:
    """Check that a client may do what guests may, with the basic contract's bytes, and no more."""
    peer.send(save(), COUNT)
    assert peer.line() == SAVED
    assert peer.line() == b'{"message": "return_number_of_users", "number_of_users": 1}\n'
    for name, request in EXAMPLES.items():
        for asked, may in ((request, GUESTS - NAMED), (least(request), GUESTS)):
            reply = peer.ask(asked)
            assert (reply != DENIED) == (name in may), asked
            assert reply["message"] != "Invalid message!"


def test_insecure_makes_everybody_a_guest(start: Start) -> None:
    """Told to do without TLS, the service takes others as if they were on its machine."""
    service = start("--host", "0.0.0.0", "--insecure")
    with Peer(service.port, own_address()) as outside:
        assert_guest(outside)
    with service.owner() as owner:
        assert (owner.count(), len(generated_names(owner))) == (2, 2)


@pytest.mark.parametrize("flags", [(), ("--host", "0.0.0.0", "--insecure")], ids=["", "insecure"])
def test_a_service_without_guests_asks_everybody_for_a_token(
    start: Start, flags: tuple[str, ...], tmp_path: Path
) -> None:
    """Also who is on this machine may ping and authenticate, and is told why it may not do more."""
    path = tmp_path / "socket"
    service = start("--guests", "none", "--unix", str(path), *flags)
    for peer in (service.peer(), unix_peer(path)):
        with peer:
            for name, request in EXAMPLES.items():
                reply = peer.ask(least(request))
                assert reply == (ALIVE if name == "ping" else DENIED), request
                if name not in ("ping", "authenticate"):
                    assert "has no guests" in reply["error"]
            assert peer.authenticate(service.token)["message"] == "Authenticated!"
            assert peer.ask(save("a"))["message"] == "Password saved!"


def test_ipv6_is_told_apart_as_well(
    start: Start, authority: Authority, context: ssl.SSLContext
) -> None:
    """Listening on `::`, the loopback addresses of both kinds are served, others are denied."""
    address = own_address(socket.AF_INET6)
    service = start("--host", "::", *tls_flags(authority.issue("localhost")))
    with tls_peer(service, context, "::1") as local:
        assert local.save() == {"message": "Password saved!"}
    with tls_peer(service, context, address) as outside:
        assert outside.save() == DENIED
        assert outside.ask(PING) == ALIVE
    try:
        mapped = tls_peer(service, context)
    except ConnectionRefusedError:
        return  # the system keeps the two kinds apart
    with mapped:
        assert mapped.count() == 1

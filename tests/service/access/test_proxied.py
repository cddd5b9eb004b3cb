"""Clients behind a balancer that speaks the PROXY protocol: the service treats each as itself.

The header's forms are the matter of `test_proxy_header`. The balancer of these tests is at another
loopback address than the tests' own clients; `test_haproxy` has a real one.
"""

import contextlib
import ssl
import time
from collections.abc import Iterator

import pytest

from pwserver.networks import stored
from pwserver.wire.messages import RIGHTS
from tests.conftest import Start
from tests.support.books_wire import ALIVE, DENIED, PING, ask_all, get, save, saved
from tests.support.harness import Peer, Service, eventually
from tests.support.proxy import (
    BALANCER,
    CLIENT,
    LOCAL,
    UNSPEC,
    connected_from,
    extension,
    header,
    header_of,
    proxied_peer,
)
from tests.support.tls import Authority, tls_flags, trusting
from workers.audit.reading import Record, Records, record_files
from workers.auth.throttle import DELAYS_S, TOKENS

BALANCERS = ("--proxy-protocol-networks", f"10.0.0.0/8,{BALANCER}")
NO_HEADER = {
    "message": "Unavailable!",
    "error": "A connection from this address must begin with a PROXY header (version 2).",
}


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return one service behind a balancer, for the tests that leave no data in it."""
    with Service(tmp_path_factory.mktemp("balanced"), *BALANCERS) as service:
        yield service.wait_until_listening()
        assert service.stop() == 0


def records(service: Service, action: str) -> list[Record]:
    """Return what the audit record has of an action."""
    return list(Records(record_files(service.folder / "user_data.audit").paths, action=action))


def refusal(service: Service, peer: Peer) -> Record:
    """Wait for the record of the refusal of a connection from the balancer."""
    host, port = peer.socket.getsockname()

    def found() -> Record | None:
        for each in records(service, "denied"):
            if each.address in (f"{host}:{port}", host) and "PROXY" in each.outcome:
                return each
        return None

    return eventually(found, "it is recorded")  # type: ignore[no-any-return]


# --- Who the client is. ---


@pytest.mark.parametrize("host", [CLIENT, "2001:db8::7"])
def test_the_record_has_the_clients_address(balanced: Service, host: str) -> None:
    """However the header comes, and with whatever after its addresses; its port as well."""
    token = balanced.token
    sent = header_of(host, 4711, extension(0x02, b"book.example"))
    with proxied_peer(balanced, sent[:5], sent[5:20], sent[20:]) as peer:
        assert peer.authenticate(token)["message"] == "Authenticated!"
        assert peer.ask(get("nobody"))["message"] == "Unknown user!"
    with proxied_peer(balanced) as peer:
        peer.send(sent + b'{"message": "ping"}\n', PING)
        assert [peer.reply(), peer.reply()] == [ALIVE, ALIVE], "it came with the first request"
    shown = f"[{host}]:4711" if ":" in host else f"{host}:4711"
    found = [*records(balanced, "authentication"), *records(balanced, "get")]
    assert [each.outcome for each in found if each.address == shown] == ["ok", "Unknown user!"]


@pytest.mark.parametrize("host", [CLIENT, "127.0.0.1", "::1", BALANCER])
def test_nobody_behind_a_balancer_is_on_this_machine(balanced: Service, host: str) -> None:
    """Whatever the header says: without a token it may ping, and no more."""
    with proxied_peer(balanced, header_of(host)) as peer:
        assert ask_all(peer, [PING, save(), save("a")]) == [ALIVE, DENIED, DENIED]
        assert peer.authenticate(balanced.token)["message"] == "Authenticated!"
        assert peer.count() == 0


def test_a_balancers_own_check_has_its_own_address(balanced: Service) -> None:
    """It may ping; one that only connects, or says nothing after its header, is not refused."""
    with proxied_peer(balanced, header(LOCAL, UNSPEC)) as peer:
        address, port = peer.socket.getsockname()
        assert ask_all(peer, [PING, save()]) == [ALIVE, DENIED]
        assert peer.authenticate(balanced.token)["message"] == "Authenticated!"
        assert records(balanced, "authentication")[-1].address == f"{address}:{port}"
    proxied_peer(balanced, header(LOCAL, UNSPEC)).close()
    with proxied_peer(balanced) as peer:
        _, port = peer.socket.getsockname()
        peer.no_more_to_send()
        assert peer.ended()
    assert f"{BALANCER}:{port} is refused" not in balanced.stderr


def test_who_comes_directly_is_served_as_itself(balanced: Service) -> None:
    """A program of this machine is a guest; a header from it is no message."""
    with balanced.peer() as guest:
        assert guest.ask({"message": "number_of_users"})["number_of_users"] == 0
    with balanced.peer() as guest:
        guest.send(header_of(), PING)
        assert guest.reply()["message"] == "Invalid message!"
        assert guest.ended()


# --- Without a header. ---


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b'{"message": "ping"}\n', "no PROXY header"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 12345\r\n", "PROXY header of version 1, not 2"),
        (header(0x2F, 0x11, bytes(12)), "unknown PROXY header"),
    ],
    ids=["a request", "version 1", "an unknown command"],
)
def test_a_balancers_connection_without_a_header_ends(
    balanced: Service, sent: bytes, reason: str
) -> None:
    """The client is told why, and so are the audit record and the log."""
    with proxied_peer(balanced, sent) as peer:
        assert peer.reply() == NO_HEADER
        assert peer.ended()
        assert refusal(balanced, peer).outcome == reason
    assert f"is refused: {reason}" in balanced.stderr


def test_a_header_must_come_in_time(start: Start) -> None:
    """Also the rest of one that has begun; meanwhile others are served."""
    service = start(*BALANCERS, "--handshake-timeout-s", "0.5")
    with proxied_peer(service) as silent, proxied_peer(service, header_of()[:20]) as slow:
        with service.peer() as guest:
            assert guest.save() == {"message": "Password saved!"}
        assert [silent.reply(), slow.reply()] == [NO_HEADER, NO_HEADER]
        assert silent.ended()
        assert slow.ended()
        outcomes = {refusal(service, silent).outcome, refusal(service, slow).outcome}
    assert outcomes <= {"no PROXY header", "PROXY header cut short"}


def test_who_shows_no_header_keeps_no_place(start: Start) -> None:
    """While all places are taken it has two seconds; whoever waits for one gets it then."""
    service = start(*BALANCERS, "--connections-max", "8", "--workers", "1")
    with contextlib.ExitStack() as opened:
        for _ in range(8):
            opened.enter_context(proxied_peer(service))
        for _ in range(8):
            guest = opened.enter_context(service.peer())
            assert guest.save() == {"message": "Password saved!"}


# --- TLS. ---


def test_the_header_comes_before_the_handshake(start: Start, authority: Authority) -> None:
    """The balancer passes on what is encrypted; without the header there is no handshake."""
    service = start(*BALANCERS, *tls_flags(authority.issue("localhost")))
    context = trusting(authority)
    connected = connected_from(service)
    connected.sendall(header_of())
    with Peer.over(context.wrap_socket(connected, server_hostname="localhost")) as peer:
        assert peer.ask(save()) == DENIED
        assert peer.authenticate(service.token)["message"] == "Authenticated!"
        assert peer.ask(save("a")) == saved("a", 1)
    (found,) = records(service, "authentication")
    assert (found.address, found.outcome) == (f"{CLIENT}:4711", "ok")
    without = connected_from(service)
    with without, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(without, server_hostname="localhost")
    eventually(lambda: "is refused: no PROXY header" in service.stderr, "it is said")


# --- What depends on the address. ---


def test_an_applications_networks_are_those_of_its_clients(balanced: Service) -> None:
    """Not of the balancer; and no loopback address that it says is one of this machine."""
    with balanced.administration() as files:
        inside = files.add("inside", RIGHTS, common=False, networks=stored(["203.0.113.0/24"]))
        local = files.add("local", RIGHTS, common=False, networks=stored(["127.0.0.0/8"]))
    expected = {
        CLIENT: {inside: True, local: False},
        "198.51.100.1": {inside: False, local: False},
        "127.0.0.1": {inside: False, local: False},
        None: {inside: False, local: True},
    }
    for host, good in expected.items():
        for token, accepted in good.items():
            with (
                balanced.peer() if host is None else proxied_peer(balanced, header_of(host)) as peer
            ):
                answer = peer.authenticate(token.reveal())
                assert (answer["message"] == "Authenticated!") == accepted, host


def test_who_guesses_behind_a_balancer_holds_up_nobody_else_there(balanced: Service) -> None:
    """Wrong tokens count for the client, over all its connections through the balancer."""

    def took_s(host: str) -> float:
        with proxied_peer(balanced, header_of(host)) as peer:
            began = time.monotonic()
            assert peer.authenticate("pwserver_" + "x" * 43) == DENIED
            return time.monotonic() - began

    first = [took_s("198.51.100.77") for _ in range(TOKENS.allowance)]
    assert min(first) < DELAYS_S[0]
    eventually(lambda: took_s("198.51.100.77") >= DELAYS_S[1], "guesses from there are delayed")
    assert min(took_s("198.51.100.78") for _ in range(3)) < DELAYS_S[0]

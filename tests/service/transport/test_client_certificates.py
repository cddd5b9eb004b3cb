"""Client certificates that stand for applications."""

import json

import pytest

from tests.conftest import Start
from tests.support.books_wire import ALIVE, DENIED, PING
from tests.support.harness import Peer, Service, eventually
from tests.support.tls import Authority, tls_flags, tls_peer, trusting

SAVE = {"message": "save_password", "username": "alice", "password": "abc123"}
GET = {"message": "get_password", "username": "alice"}


@pytest.fixture
def secure(start: Start, authority: Authority) -> Service:
    """Return a service that takes the certificates of the authority for applications."""
    flags = tls_flags(authority.issue("localhost"))
    return start(*flags, "--tls-client-ca", str(authority.path))


def peer_named(service: Service, authority: Authority, name: str) -> Peer:
    """Return a connection of who has a certificate of the authority for a name."""
    return tls_peer(service, trusting(authority, authority.issue(name)))


def test_a_certificate_stands_for_the_application_it_names(
    secure: Service, authority: Authority
) -> None:
    """It may do what the application may, in its book, without a token, and that is recorded."""
    token = secure.add_application("web", ["save", "get"])
    with peer_named(secure, authority, "web") as peer:
        assert peer.ask(SAVE)["version"] == 1
        assert peer.ask(GET)["password"] == "abc123"
        assert peer.ask({"message": "list_users"}) == DENIED
    with tls_peer(secure, trusting(authority)) as peer:
        assert peer.authenticate(token)["application"] == "web"
        assert peer.ask(GET)["password"] == "abc123"
    lines = (secure.folder / "user_data.audit").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    shown = [each for each in records if each["action"] == "authentication"]
    assert [(each["application"], each.get("certificate")) for each in shown] == [
        ("web", "web"),
        ("web", None),
    ]


def test_a_name_of_no_application_has_no_rights(secure: Service, authority: Authority) -> None:
    """Not even those of a guest: what it saves would be in a book that it cannot read."""
    with peer_named(secure, authority, "nobody") as peer:
        assert peer.ask(PING) == ALIVE
        assert peer.ask(SAVE) == DENIED
        assert peer.ask({"message": "number_of_users"}) == DENIED


def test_who_has_no_certificate_is_a_guest_as_before(secure: Service, authority: Authority) -> None:
    """A certificate is one way of two: without it a client on this machine saves and counts."""
    with tls_peer(secure, trusting(authority)) as peer:
        assert peer.save() == {"message": "Password saved!"}
        assert peer.count() == 1
        assert peer.ask(SAVE) == peer.ask(GET) == DENIED


def test_a_revoked_application_is_not_let_in_by_its_certificate(
    secure: Service, authority: Authority
) -> None:
    """Within a second an open connection has no rights any more; nor has a new one."""
    secure.add_application("web", ["save", "get"])
    with peer_named(secure, authority, "web") as peer:
        assert peer.ask(SAVE)["version"] == 1
        with secure.administration() as files:
            files.revoke("web")
        eventually(lambda: peer.ask(GET) == DENIED, "the right is lost", 1.0)

    def is_denied() -> bool:
        with peer_named(secure, authority, "web") as peer:
            return bool(peer.ask(GET) == DENIED)

    eventually(is_denied, "it is denied by the other worker as well", 1.0)
    assert is_denied()
    assert is_denied()


def test_of_two_names_none_counts(secure: Service, authority: Authority) -> None:
    """A certificate with two common names says not which application it is: it is a guest's."""
    secure.add_application("web")
    issued = authority.issue("web", also_named=["other"])
    with tls_peer(secure, trusting(authority, issued)) as peer:
        assert peer.ask(GET) == DENIED

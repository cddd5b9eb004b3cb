"""Client certificates: for which application each stands, and which are revoked."""

import json
import signal
import ssl
from pathlib import Path

import pytest

from pwserver.errors import AdministrationRefused
from tests.conftest import Start
from tests.support.books_wire import ALIVE, DENIED, PING
from tests.support.harness import Service, eventually
from tests.support.tls import Authority, Issued, tls_flags, tls_peer, trusting
from workers.tls.client_certificates import read_key_hash

SAVE = {"message": "save_password", "username": "alice", "password": "abc123"}
GET = {"message": "get_password", "username": "alice"}
RENEWED = "SIGHUP: new connections get the certificate"


@pytest.fixture
def clients_file(authority: Authority, tmp_path: Path) -> Path:
    """Return the file with the authority of clients' certificates."""
    path = tmp_path / "clients.pem"
    path.write_bytes(authority.pem)
    return path


@pytest.fixture
def secure(start: Start, authority: Authority, clients_file: Path) -> Service:
    """Return a service that takes the certificates of the authority for applications."""
    flags = tls_flags(authority.issue("localhost"))
    return start(*flags, "--tls-client-ca", str(clients_file))


def add(service: Service, name: str, issued: Issued) -> str:
    """Register an application for which a certificate stands; return its token."""
    with service.administration() as files:
        key_hash = read_key_hash(str(issued.cert))
        token = files.add(name, ["save", "get"], common=False, certificate=key_hash)
        return token.reveal()


def is_let_in(service: Service, authority: Authority, issued: Issued) -> bool:
    """Tell whether a client with a certificate gets through the handshake."""
    try:
        with tls_peer(service, trusting(authority, issued)) as peer:
            return bool(peer.ask(PING) == ALIVE)
    except (OSError, ssl.SSLError, AssertionError):
        return False


def test_a_certificate_stands_for_the_application_that_was_said(
    secure: Service, authority: Authority
) -> None:
    """It may do what the application may, in its book, without a token, and that is recorded."""
    mine = authority.issue("any name")
    token = add(secure, "web", mine)
    with tls_peer(secure, trusting(authority, mine)) as peer:
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
        ("web", read_key_hash(str(mine.cert)).hex()),
        ("web", None),
    ]
    with (
        secure.administration() as files,
        pytest.raises(AdministrationRefused, match="stands for the application 'web' already"),
    ):
        files.add("other", ["get"], common=False, certificate=read_key_hash(str(mine.cert)))


def test_the_name_in_a_certificate_gives_no_rights(secure: Service, authority: Authority) -> None:
    """Whoever gets the authority to sign an application's name is not the application."""
    add(secure, "web", authority.issue("web"))
    for also_named in ((), ("other",)):
        impostor = authority.issue("web", also_named=also_named)
        with tls_peer(secure, trusting(authority, impostor)) as peer:
            assert peer.ask(PING) == ALIVE
            assert [peer.ask(SAVE), peer.ask(GET)] == [DENIED] * 2, "not even a guest's"
            assert peer.ask({"message": "number_of_users"}) == DENIED


def test_who_has_no_certificate_is_a_guest_as_before(secure: Service, authority: Authority) -> None:
    """A certificate is one way of two: without it a client on this machine saves and counts."""
    with tls_peer(secure, trusting(authority)) as peer:
        assert peer.save() == {"message": "Password saved!"}
        assert peer.count() == 1
        assert [peer.ask(SAVE), peer.ask(GET)] == [DENIED] * 2


def test_rotating_and_revoking_count_for_certificates(
    secure: Service, authority: Authority
) -> None:
    """Within a second open connections have no rights any more; nor have new ones."""
    old, new = authority.issue("old"), authority.issue("new")
    add(secure, "web", old)

    def is_denied(issued: Issued) -> bool:
        with tls_peer(secure, trusting(authority, issued)) as peer:
            return bool(peer.ask(GET) == DENIED)

    with tls_peer(secure, trusting(authority, old)) as peer:
        assert peer.ask(SAVE)["version"] == 1
        with secure.administration() as files:
            files.rotate("web", 0, certificate=read_key_hash(str(new.cert)))
        eventually(lambda: peer.ask(GET) == DENIED, "the old one is lost", 1.0)
    eventually(lambda: not is_denied(new), "the new one is good")
    with tls_peer(secure, trusting(authority, new)) as peer:
        assert peer.ask(GET)["password"] == "abc123"
        with secure.administration() as files:
            files.rotate("web", 3600)
        assert not is_denied(new), "for the grace period"
        with secure.administration() as files:
            files.revoke("web")
        eventually(lambda: peer.ask(GET) == DENIED, "the right is lost", 1.0)
    eventually(lambda: is_denied(new), "it is denied by the other worker as well")
    assert is_denied(new)
    assert is_denied(old)


def test_a_revoked_certificate_does_not_pass(
    secure: Service, authority: Authority, clients_file: Path
) -> None:
    """From SIGHUP on, on open connections too; others pass, until the list expires."""
    good, stolen = authority.issue("good"), authority.issue("stolen")
    add(secure, "good", good)
    add(secure, "stolen", stolen)

    def install(content: bytes, words: str = RENEWED) -> None:
        clients_file.write_bytes(content)
        hang_ups = secure.stderr.count(words)
        secure.process.send_signal(signal.SIGHUP)
        eventually(lambda: secure.stderr.count(words) > hang_ups, words)

    with (
        tls_peer(secure, trusting(authority, stolen)) as peer,
        tls_peer(secure, trusting(authority)) as guest,
    ):
        assert peer.ask(SAVE)["version"] == 1
        install(authority.pem + authority.revocation_list(stolen))
        assert peer.ended(), "a connection that was verified before is no more"
        assert guest.save() == {"message": "Password saved!"}, "one without a certificate goes on"
    eventually(lambda: not is_let_in(secure, authority, stolen), "it is not let in")
    assert [is_let_in(secure, authority, stolen) for _ in range(4)] == [False] * 4
    with tls_peer(secure, trusting(authority, good)) as peer:
        assert peer.ask(SAVE)["version"] == 1
    install(authority.pem + authority.revocation_list(stolen, days=-1), "tls_client_ca")
    eventually(lambda: not is_let_in(secure, authority, good), "nobody knows who is revoked")
    assert "the revocation list of CN=test authority in tls_client_ca" in secure.stderr
    with tls_peer(secure, trusting(authority)) as guest:
        assert guest.ask(PING) == ALIVE, "who shows none is not concerned"

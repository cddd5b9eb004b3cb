"""The service's certificates: what is refused at the start, and new ones while it runs."""

import os
import shutil
import signal
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.conftest import Start
from tests.support.books_wire import ALIVE, PING
from tests.support.harness import Service, eventually
from tests.support.tls import Authority, Issued, serial_of, tls_flags, tls_peer, trusting

RENEWED = "SIGHUP: new connections get the certificate that is in the file now"


def install(issued: Issued, folder: Path) -> Issued:
    """Put a certificate and its key where a service has them, in place of what is there."""
    installed = Issued(folder / "cert.pem", folder / "key.pem", issued.serial)
    shutil.copy(issued.cert, installed.cert)
    shutil.copy(issued.key, installed.key)
    return installed


def hang_up(service: Service, words: str) -> None:
    """Send SIGHUP and wait until something is logged of it."""
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: words in service.stderr, words)


def serials(service: Service, context: ssl.SSLContext) -> set[int]:
    """Return whose certificates a few connections see, enough for all workers."""
    found = set()
    for _ in range(8):
        with tls_peer(service, context) as peer:
            assert peer.ask(PING) == ALIVE
            found.add(serial_of(peer))
    return found


# --- New ones while it runs. ---


def test_new_connections_see_the_new_certificate(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """After SIGHUP every worker shows what is in the files now; old connections go on."""
    old, new = authority.issue("localhost"), authority.issue("localhost")
    service = start(*tls_flags(install(old, tmp_path)))
    context = trusting(authority)
    with tls_peer(service, context) as peer:
        assert peer.save() == {"message": "Password saved!"}
        assert serials(service, context) == {old.serial}
        install(new, tmp_path)
        assert serials(service, context) == {old.serial}, "nobody has said so yet"
        hang_up(service, RENEWED)
        assert serials(service, context) == {new.serial}
        assert peer.count() == 1


def test_a_later_worker_has_the_newest_and_needs_no_file(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """A worker that takes the place of another has what was read last, wherever the files are."""
    old, new = authority.issue("localhost"), authority.issue("localhost")
    service = start(*tls_flags(install(old, tmp_path)), "--workers", "1")
    hang_up(service, RENEWED)
    installed = install(new, tmp_path)
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: service.stderr.count(RENEWED) == 2, "it is read again")
    installed.cert.unlink()
    installed.key.unlink()
    service.replace("worker 1")
    assert serials(service, trusting(authority)) == {new.serial}


def test_bad_files_change_nothing(start: Start, authority: Authority, tmp_path: Path) -> None:
    """If the new files are refused, that is logged and the old certificate is shown on."""
    old, new = authority.issue("localhost"), authority.issue("localhost")
    installed = install(old, tmp_path)
    service = start(*tls_flags(installed))
    shutil.copy(new.cert, installed.cert)  # without its key
    hang_up(service, "SIGHUP: everything stays as it was, because")
    assert f"tls_cert {installed.cert} and tls_key {installed.key} do not belong" in service.stderr
    assert serials(service, trusting(authority)) == {old.serial}
    shutil.copy(new.key, installed.key)
    hang_up(service, RENEWED)
    assert serials(service, trusting(authority)) == {new.serial}


def test_new_client_authorities_are_taken_as_well(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """SIGHUP also reads again whose client certificates are accepted."""
    clients, others = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    trusted = tmp_path / "clients.pem"
    shutil.copy(clients.path, trusted)
    flags = tls_flags(authority.issue("localhost"))
    service = start(*flags, "--tls-client-ca", str(trusted))
    context = trusting(authority, others.issue("shop"))
    with pytest.raises(ssl.SSLError), tls_peer(service, context) as peer:
        peer.ask(PING)
    shutil.copy(others.path, trusted)
    hang_up(service, RENEWED)
    with tls_peer(service, context) as peer:
        assert peer.ask(PING) == ALIVE


def test_without_tls_sighup_does_nothing(start: Start) -> None:
    """The signal, sent to all processes as a terminal does, is logged, and they go on."""
    service = start(start_new_session=True)
    children = service.all_children()
    with service.peer() as peer:
        assert peer.save() == {"message": "Password saved!"}
        os.killpg(service.process.pid, signal.SIGHUP)
        nothing = "SIGHUP: nothing has changed"
        eventually(lambda: nothing in service.stderr, nothing)
        assert peer.save() == {"message": "Password saved!"}
    assert service.children() == children


# --- At the start. ---


def refused(folder: Path, *flags: str) -> str:
    """Return what a service says that refuses its settings, and leaves nothing behind."""
    with Service(folder, *flags) as service:
        assert service.ended() == 2
    assert not list(folder.glob("user_data*"))
    return service.stderr


def test_files_that_are_not_there_are_refused(tmp_path: Path, authority: Authority) -> None:
    """Each of the three files is named by its setting where it cannot be read."""
    issued = authority.issue("localhost")
    cert, key, missing = str(issued.cert), str(issued.key), str(tmp_path / "none.pem")
    for flags, sentence in (
        (
            ("--tls-cert", missing, "--tls-key", key),
            f"tls_cert {missing} cannot be read: No such file or directory.",
        ),
        (
            ("--tls-cert", cert, "--tls-key", missing),
            f"tls_key {missing} cannot be read: No such file or directory.",
        ),
        (
            (*tls_flags(issued), "--tls-client-ca", str(tmp_path)),
            f"tls_client_ca {tmp_path} is a directory, and not a file.",
        ),
    ):
        assert refused(tmp_path, *flags).endswith(f"pwserver: {sentence}\n")


def test_files_of_another_kind_are_refused(tmp_path: Path, authority: Authority) -> None:
    """What is not PEM, or not the one thing it must be, is named; no content is repeated."""
    issued = authority.issue("localhost")
    cert, key, text = str(issued.cert), str(issued.key), tmp_path / "text.pem"
    text.write_text("correct horse battery staple")
    none = "holds no certificate in PEM form.\n"
    assert refused(tmp_path, "--tls-cert", str(text), "--tls-key", key).endswith(none)
    assert refused(tmp_path, "--tls-cert", key, "--tls-key", key).endswith(none)
    assert refused(tmp_path, *tls_flags(issued), "--tls-client-ca", key).endswith(none)
    said = refused(tmp_path, "--tls-cert", cert, "--tls-key", str(text))
    assert said.endswith(f"tls_key {text} holds no private key in PEM form.\n")
    assert "horse" not in said


def test_the_key_of_another_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    """A certificate and a key that do not belong together are found before anybody connects."""
    one, other = authority.issue("localhost"), authority.issue("localhost")
    said = refused(tmp_path, "--tls-cert", str(one.cert), "--tls-key", str(other.key))
    assert said.endswith(f"tls_cert {one.cert} and tls_key {other.key} do not belong together.\n")


def test_an_encrypted_key_is_refused(tmp_path: Path, authority: Authority) -> None:
    """Nobody is asked for a password, which a service that starts by itself would wait for."""
    issued = authority.issue("localhost")
    key = serialization.load_pem_private_key(issued.key.read_bytes(), None)
    issued.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert f"tls_key {issued.key} is encrypted" in refused(tmp_path, *tls_flags(issued))


def test_dates_and_permissions_are_warned_of(start: Start, authority: Authority) -> None:
    """An expired certificate and a key that everybody may read are logged, and are used."""
    expired = authority.issue("localhost", days=-1)
    expired.key.chmod(0o644)
    service = start(*tls_flags(expired))
    assert f"the certificate in tls_cert {expired.cert} expired on" in service.stderr
    assert f"everybody on this machine may read tls_key {expired.key}" in service.stderr
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        tls_peer(service, trusting(authority))

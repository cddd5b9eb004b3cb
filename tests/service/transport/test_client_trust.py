"""Who the client trusts over TLS, who trusts it, and what it says where one of them does not."""

import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pwserver import ConnectionFailed, FateUnknown, TlsFailed
from tests.support.clients import (
    Use,
    delete,
    get,
    ping,
    pings,
    resolve_to,
    save,
    with_both_clients,
)
from tests.support.fake_service import ALIVE, TOKEN, Conversation, FakeService, answer, silence
from tests.support.shell import Shell
from tests.support.tls import Authority, Issued, server_tls

pytestmark = pytest.mark.usefixtures("short_pauses")


@with_both_clients
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"days": -1}, r"its certificate has expired\.$"),
        ({"starts_days": 1, "days": 2}, r"its certificate is not valid yet; compare the clocks\.$"),
        ({"hosts": ["book.example"]}, r"its certificate is for other addresses\.$"),
        ({"hosts": ["127.0.0.2"]}, r"its certificate is for other addresses\.$"),
    ],
    ids=["expired", "early", "other host", "other address"],
)
def test_a_wrong_certificate_is_refused(
    use: Use, authority: Authority, options: dict[str, Any], words: str
) -> None:
    """Before anything is sent, the token above all; once, because once more would be of no use."""
    context = server_tls(authority.issue("wrong", **options))
    with (
        FakeService(silence, tls=context) as service,
        pytest.raises(TlsFailed, match=f"^{service.address} is not trusted: {words}") as failure,
    ):
        use(service.url_with_token, save, ca_file=authority.path)
    assert not isinstance(failure.value, FateUnknown)
    assert service.requests == []
    assert service.connections == 1


@with_both_clients
def test_a_certificate_for_another_name_is_refused(use: Use, authority: Authority) -> None:
    """The name of the URL is what counts, whatever address it leads to."""
    context = server_tls(authority.issue("book", hosts=["book.example"]))
    with FakeService(silence, tls=context) as service:
        url = service.url.replace("127.0.0.1", "localhost")
        with pytest.raises(TlsFailed, match=r"localhost:.* certificate is for other host names"):
            use(url, save, ca_file=authority.path)
    assert service.requests == []


@with_both_clients
def test_a_certificate_of_nobody_trusted_is_refused(
    use: Use, tls: ssl.SSLContext, tmp_path: Path
) -> None:
    """Of an authority other than that in `ca_file`, or in the system's store without one."""
    with FakeService(silence, tls=tls) as service:
        for options in ({"ca_file": Authority(tmp_path).path}, {}):
            with pytest.raises(TlsFailed, match="its certificate comes from no trusted authority"):
                use(service.url, save, **options)
        assert service.connections == 2
    assert service.requests == []


@with_both_clients
def test_the_name_and_the_address_of_a_service_are_both_good(
    use: Use, tls: ssl.SSLContext, authority: Authority
) -> None:
    """Where the certificate has both."""
    with FakeService(answer(ALIVE), tls=tls) as service:
        use(service.url, ping, ca_file=authority.path)
        use(service.url.replace("127.0.0.1", "localhost"), ping, ca_file=authority.path)


@with_both_clients
def test_the_dot_that_ends_a_full_name_is_in_no_certificate(
    use: Use, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is looked up with it, so that no domain is put behind it, and proven without."""
    context = server_tls(authority.issue("book", hosts=["book.example"]))
    with FakeService(answer(ALIVE), tls=context) as service:
        looked_up = resolve_to(monkeypatch, service.address)
        use(service.url.replace("127.0.0.1", "book.example."), ping, ca_file=authority.path)
    assert looked_up == ["book.example."]


@with_both_clients
def test_only_tls_1_3_is_spoken(use: Use, issued: Issued, authority: Authority) -> None:
    """A service that can do no more than 1.2 is told apart from one without TLS."""
    context = server_tls(issued)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        FakeService(silence, tls=context) as service,
        pytest.raises(TlsFailed, match=rf"^{service.address} does not speak TLS 1\.3\.$"),
    ):
        use(service.url, save, ca_file=authority.path)


# --- Client certificates. ---


@with_both_clients
def test_a_client_certificate_is_shown(use: Use, issued: Issued, authority: Authority) -> None:
    """To a service that asks for one."""
    mine = authority.issue("shop")
    with FakeService(answer(ALIVE), tls=server_tls(issued, authority)) as service:
        keys = {"client_cert": mine.cert, "client_key": mine.key}
        use(service.url, ping, ca_file=authority.path, **keys)


@with_both_clients
@pytest.mark.parametrize("work", [save, delete, get, pings(600)])
def test_a_missing_client_certificate_is_said_plainly(
    use: Use, issued: Issued, authority: Authority, work: Any
) -> None:
    """It shows after the first request was sent, which was not done: no outcome is open."""
    with (
        FakeService(silence, tls=server_tls(issued, authority)) as service,
        pytest.raises(TlsFailed, match="wants a client certificate; give one with client_cert"),
    ):
        use(service.url, work, ca_file=authority.path)
    assert service.connections == 1


@with_both_clients
@pytest.mark.parametrize("kind", ["expired", "of another authority"])
def test_a_client_certificate_that_is_not_accepted_is_said_plainly(
    use: Use, issued: Issued, authority: Authority, tmp_path: Path, kind: str
) -> None:
    """With what the service says is wrong with it, and once."""
    expired = kind == "expired"
    mine = authority.issue("shop", days=-1) if expired else Authority(tmp_path).issue("shop")
    words = "certificate expired" if expired else "unknown ca"
    keys = {"client_cert": mine.cert, "client_key": mine.key}
    with (
        FakeService(silence, tls=server_tls(issued, authority)) as service,
        pytest.raises(TlsFailed, match=rf"does not accept the client certificate: {words}\.$"),
    ):
        use(service.url_with_token, save, ca_file=authority.path, **keys)
    assert service.connections == 1


# --- Who speaks something else. ---


@with_both_clients
@pytest.mark.parametrize("greeting", [b'{"message": "Invalid message!"}\n', b"HTTP/1.1 400 Bad"])
def test_a_service_without_tls_is_found_out(
    use: Use, authority: Authority, greeting: bytes
) -> None:
    """It has seen nothing of the token or the request, and is asked once."""

    def plain(conversation: Conversation) -> None:
        assert conversation.connection.recv(1) == b"\x16"
        conversation.say(greeting)
        conversation.connection.recv(100_000)

    with (
        FakeService(plain) as service,
        pytest.raises(TlsFailed, match=f"^{service.address} does not speak TLS; if it should not"),
    ):
        use(f"pwservers://{TOKEN}@{service.address}", save, ca_file=authority.path)
    assert service.connections == 1


@with_both_clients
def test_a_handshake_that_breaks_off_is_tried_again(
    use: Use, tls: ssl.SSLContext, authority: Authority
) -> None:
    """As any connection that could not be made; nothing was asked on it."""
    with (
        FakeService(answer({"message": "User deleted!"}), tls=tls) as service,
        Interceptor(service, breaks=2) as between,
    ):
        use(between.url, delete, ca_file=authority.path)
    assert len(service.requests) == 1


@with_both_clients
def test_a_handshake_that_is_never_answered_costs_the_timeout(
    use: Use, authority: Authority
) -> None:
    """And no save is said to be open."""

    def mute(conversation: Conversation) -> None:
        conversation.connection.recv(100_000)
        conversation.connection.recv(1)

    began = time.monotonic()
    with FakeService(mute) as service:
        url = f"pwservers://{service.address}"
        with pytest.raises(ConnectionFailed, match="did not answer in time") as failure:
            use(url, save, ca_file=authority.path, timeout_s=0.2)
    assert 0.19 < time.monotonic() - began < 5
    assert not isinstance(failure.value, FateUnknown)


class Interceptor:
    """Stands between client and service; breaks off so many connections in the handshake."""

    def __init__(self, service: FakeService, breaks: int) -> None:
        self._to = service.address.split(":")
        self._breaks = breaks
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"pwservers://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> "Interceptor":
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        for _ in range(self._breaks):
            with self._server.accept()[0] as client:
                client.recv(100_000)
        with (
            self._server.accept()[0] as client,
            socket.create_connection((self._to[0], int(self._to[1]))) as service,
        ):
            back = threading.Thread(target=_pass_on, args=(service, client))
            back.start()
            _pass_on(client, service)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # one side has ended
        while data := source.recv(100_000):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


# --- The command line. ---


def test_commands_speak_tls(
    tls: ssl.SSLContext, issued: Issued, authority: Authority, tmp_path: Path
) -> None:
    """With the settings as flags; where the service is not trusted, one sentence says why."""
    mine = authority.issue("shop")
    with FakeService(answer(ALIVE), tls=server_tls(issued, authority)) as service:
        shell = Shell(tmp_path, {"PWSERVER_URL": service.url})
        flags = ["--ca-file", str(authority.path)]
        keys = ["--client-cert", str(mine.cert), "--client-key", str(mine.key)]
        assert shell.run("ping", *flags, *keys).out == "Alive!\n"
        refused = shell.run("ping", *flags)
        assert (refused.code, refused.out) == (3, "")
        assert "wants a client certificate" in refused.err
        assert refused.err.count("\n") == 1

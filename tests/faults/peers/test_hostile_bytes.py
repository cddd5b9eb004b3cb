"""Hostile bytes, at a real service: the contract's reply or a close, no crash, bounded memory."""

import json
import random
import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.faults.canary import WatchedService
from tests.faults.inject import memory_kib
from tests.support.books_wire import ALIVE, PING
from tests.support.harness import PATIENCE_S

SAVE = {"message": "save_password", "password": "hunter2"}


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedService]:
    """Return one service that all of this is sent to; at the end each process is the first one."""
    with WatchedService(tmp_path_factory.mktemp("hardened")) as service:
        children = service.wait_until_listening().all_children()
        with service.peer() as peer:
            peer.save()
        yield service
        assert service.children() == children, "nobody died"
        assert "ERROR" not in service.stderr, service.stderr


@pytest.mark.parametrize(
    "bad",
    [
        b"hello\n",
        b"[1, 2]\n",
        b'"text"\n',
        b"123\n",
        b"null\n",
        b"{}\n",
        b'{"message": \n',
        b'{"message": 5}\n',
        b'{"message": null}\n',
        b'{"message": ["save_password"]}\n',
        b'{"message": "save_password"}\n',
        b'{"message": "save_password", "password": ""}\n',
        b'{"message": "save_password", "password": 5}\n',
        b'{"message": "save_password", "password": null}\n',
        b'{"message": "save_password", "password": ["hunter2"]}\n',
        b'{"message": "save_password", "password": "hunter2", "id": 1.5}\n',
        b'{"message": "save_password", "password": "hunter2", "id": true}\n',
        b'{"message": "save_password", "password": "hunter2", "id": null}\n',
        b'{"message": "save_password", "password": "hunter2", "id": "' + b"x" * 129 + b'"}\n',
        b'{"message": "save_password", "password": "' + b"hunter2" * 600 + b'"}\n',
        b'{"message": "save_password", "password": "hunter2\\u0000"}\n',
        b'{"message": "save_password", "password": "hunter2\\ud800"}\n',
        b'{"message": "save_password", "password": "hunter2\xff"}\n',
        b'{"message": "save_password", "password": "hunter2\xed\xa0\x80"}\n',
        b'{"message": "save_password", "password": "hunter2", "x": NaN}\n',
        b'{"message": "save_password", "password": "hunter2", "x": 01}\n',
        b"{'message': 'save_password', 'password': 'hunter2'}\n",
        b'{"message": "number_of_users", "x": ' + b"[" * 20000 + b"]" * 20000 + b"}\n",
        b'{"message": "number_of_users", "x": ' + b'{"x":' * 9000 + b"1" + b"}" * 9001 + b"\n",
        json.dumps(SAVE).encode("utf-16") + b"\n",
        json.dumps(SAVE).encode("utf-16-le") + b"\n",
        json.dumps(SAVE).encode("utf-32") + b"\n",
        b"\xef\xbb\xbf" + json.dumps(SAVE).encode() + b"\n",  # UTF-8 with a byte order mark
        b'{"message": "number_of_users", "id": ' + b"9" * 5000 + b"}\n",
        b'{"message": "number_of_users", "id": 1e400}\n',
        b'{"message": "save_password", "password": "hunter2", "x": Infinity}\n',
        b'{"message": "save_password", "password": "hunter2", "x": -}\n',
        b'{"message": "save_password", "password": "hunter2", "x": "\x01"}\n',
        b'{"message": "save_password", "password": "hunter2", "x": "\\x"}\n',
        b'{"message": "save_password", "password": "hunter2"\x00}\n',
        b"\x00" * 1000 + b"\n",
        b"\x04\x01\x1f\x90\x7f\x00\x00\x01\n",  # SOCKS
        b"*1\r\n",  # Redis
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    ],
    ids=lambda bad: bad[:60].decode("latin-1").encode("unicode_escape").decode(),
)
def test_bad_input_is_answered_and_reading_resumes(hardened: WatchedService, bad: bytes) -> None:
    """Bad text gets the contract's reply with a plain sentence, and the next line is done."""
    with hardened.peer() as peer:
        peer.send(PING, bad, PING)
        assert peer.reply() == ALIVE
        line = peer.line()
        reply = json.loads(line)
        assert reply["message"] == "Invalid message!"
        assert reply["error"].endswith(".")
        assert "\n" not in reply["error"]
        assert b"hunter2" not in line
        assert peer.reply() == ALIVE


def test_text_without_end_is_answered_and_closed(hardened: WatchedService) -> None:
    """Where there is no telling where the next message starts, a reply is sent and that is all."""
    for endless in (b"hello", b'{"message": "save_password", "password": "' + b"x" * 100_000):
        with hardened.peer() as peer:
            peer.send(endless)
            assert peer.reply()["message"] == "Invalid message!"
            assert peer.ended()


def closed_by_service(data: bytes, service: WatchedService) -> bytes:
    """Send bytes and no more, and read to the end; return what came."""
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE_S) as client:
        client.sendall(data)
        received = b""
        try:
            while more := client.recv(65536):
                received += more
        except ConnectionResetError:
            pass
        return received


@pytest.mark.parametrize("first", ["GET / HTTP/1.1", "POST / HTTP/1.1", "Host: 127.0.0.1", ""])
@pytest.mark.parametrize("after", [b"", b'{"message": "ping"}\n', b'{"message": "ping"'])
def test_http_is_answered_in_our_words(hardened: WatchedService, first: str, after: bytes) -> None:
    """A browser, which any web page can have send this, does nothing here, and learns nothing.

    Neither does one whose page could send something before, and of which the beginning is missing.
    """
    lines = [first, "Content-Type: text/plain", "Content-Length: 60", ""]
    with hardened.peer() as other:
        users = other.count()
        with hardened.peer() as peer:
            peer.send(after + "\r\n".join([*lines, json.dumps(SAVE)]).encode() + b"\n")
            said = [json.loads(line) for line in iter(peer.line, b"")]
        assert said.pop()["message"] == "Invalid message!"
        assert said in ([], [ALIVE]) or said[0]["message"] == "Invalid message!"
        assert other.count() == users


@pytest.mark.parametrize(
    "text", [b"[1]", b'"x"', b"12", b"hello\n", b"\x16\x03\x01", b"\xef\xbb\xbf{"]
)
def test_what_begins_otherwise_is_closed_at_once(hardened: WatchedService, text: bytes) -> None:
    """A first byte that can begin no object is answered, and no newline is waited for."""
    with hardened.peer() as peer:
        peer.send(b" \n" + text, b"\n", SAVE)
        assert peer.reply()["message"] == "Invalid message!"
        assert peer.ended()


def test_a_tls_hello_is_answered_and_closed(hardened: WatchedService) -> None:
    """A client that speaks TLS fails at once, and does not wait for an answer that never comes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="book")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    received = closed_by_service(outgoing.read(), hardened)
    assert b'"Invalid message!"' in received.splitlines()[0]


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_survived(hardened: WatchedService, seed: int) -> None:
    """Random bytes, and good messages with bytes changed: replies or a close, and no harm done."""
    noise = random.Random(seed)
    data = bytearray((json.dumps(SAVE) + "\n").encode() * noise.choice([0, 1, 200]))
    for _ in range(len(data) // 20):
        data[noise.randrange(len(data))] = noise.randrange(256)
    data += noise.randbytes(noise.choice([1, 100, 5000])) + b"\n"
    with hardened.peer() as peer:
        peer.send(bytes(data))
        peer.no_more_to_send()
        while line := peer.line():
            assert json.loads(line)["message"] in ("Invalid message!", "Password saved!")
            assert b"hunter2" not in line
    with hardened.peer() as peer:
        assert peer.ask(PING) == ALIVE


@pytest.mark.parametrize(
    "opening",
    [b'{"x": ' + b"[" * 60_000, b'{"x":' * 12_000, b'{"x": "' + b"\\u0061" * 10_000],
    ids=["lists", "objects", "a text"],
)
def test_what_is_begun_and_never_ended_is_bounded(hardened: WatchedService, opening: bytes) -> None:
    """Clients that begin as much as a message may have cost what they sent, and no more."""
    workers = [hardened.child("worker 1"), hardened.child("worker 2")]
    before = sum(map(memory_kib, workers))
    peers = [hardened.peer() for _ in range(25)]
    for peer in peers:
        peer.send(opening)
    with hardened.peer() as other:
        for _ in range(20):
            assert other.ask(PING) == ALIVE
    assert sum(map(memory_kib, workers)) - before < 2 * 25 * 64 + 8 * 1024
    for peer in peers:
        peer.close()

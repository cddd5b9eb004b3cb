"""The client library: against a real service, and against peers that misbehave."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from pwserver import (
    Client,
    ConnectionFailed,
    FateUnknown,
    InvalidMessage,
    NotSaved,
    PwserverError,
)
from pwserver.errors import ProtocolViolation
from tests.conftest import Start
from tests.harness import Service, eventually


@pytest.fixture
def book(service: Service) -> Iterator[Client]:
    """Return a client of a running service."""
    with Client("127.0.0.1", service.port) as client:
        yield client


def test_saving_and_counting(book: Client) -> None:
    """The two lines of the README do what they say."""
    book.ping()
    assert book.number_of_users() == 0
    book.save_password("abc123")
    book.save_password('\N{SNOWMAN} "quoted" \\ {braces}')
    assert book.number_of_users() == 2


@pytest.mark.parametrize("password", ["", "x" * 4097, "nul\0", "half \ud800"])
def test_what_can_never_be_saved_is_invalid(book: Client, password: str) -> None:
    """A password that the service cannot take raises, with a reason, and is not saved."""
    with pytest.raises(InvalidMessage, match=r"\.$"):
        book.save_password(password)
    assert book.number_of_users() == 0


def test_a_pipeline_does_many_at_once(book: Client) -> None:
    """Results come in order, each as its method would have returned or raised it."""
    with book.pipeline() as many:
        for number in range(2000):
            many.save_password(f"password {number}")
        many.save_password("")
        many.number_of_users()
    assert many.results[:2000] == [None] * 2000
    assert isinstance(many.results[2000], InvalidMessage)
    assert many.results[2001] == 2000
    assert book.number_of_users() == 2000


def test_a_pipeline_of_great_messages_does_not_block(book: Client) -> None:
    """Neither side's buffers fill up while both wait for the other."""
    with book.pipeline() as many:
        for _ in range(600):
            many.save_password("\N{SNOWMAN}" * 4096)
    assert many.results == [None] * 600


def test_nobody_there_is_a_connection_failure() -> None:
    """The error says where nobody was found."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port} cannot be reached"):
        Client("127.0.0.1", port).number_of_users()


def test_a_client_survives_a_restart_of_the_service(start: Start) -> None:
    """After a restart the next call makes a new connection by itself, also for a save."""
    service = start()
    with Client("127.0.0.1", service.port) as book:
        book.save_password("one")
        assert service.stop() == 0
        start(port=service.port)
        book.save_password("two")
        assert book.number_of_users() == 2


def test_a_client_survives_the_death_of_its_worker(service: Service, book: Client) -> None:
    """A count is simply asked again; a save never happens twice."""
    saved = unknown = 0
    for number in range(20):
        if number % 4 == 0:
            service.replace(f"worker {1 + number // 4 % 2}")
        try:
            book.save_password("x")
            saved += 1
        except FateUnknown:
            unknown += 1
    assert saved <= book.number_of_users() <= saved + unknown
    assert saved >= 15


@contextmanager
def impostor(*behaviours: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve connections one by one, each with a behaviour of its own; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            for behave in behaviours:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(OSError):  # the client may close whenever it likes
                    behave(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def hang_up(connection: socket.socket) -> None:
    """Take the request and close without a word."""
    connection.recv(65536)


def say(reply: bytes) -> Callable[[socket.socket], None]:
    """Return a behaviour that answers one request."""

    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(reply)
        connection.recv(65536)

    return behave


def test_a_save_whose_answer_is_lost_is_not_sent_again() -> None:
    """A dropped connection never saves twice: the fate is unknown and the caller is told so."""
    with (
        impostor(hang_up, say(b'{"message": "Password saved!"}\n')) as port,
        Client("127.0.0.1", port) as book,
    ):
        with pytest.raises(FateUnknown, match="may or may not have been saved"):
            book.save_password("abc123")
        book.save_password("another")


def test_a_count_whose_answer_is_lost_is_asked_again() -> None:
    """What changes nothing may be repeated."""
    reply = b'{"message": "return_number_of_users", "number_of_users": 7}\n'
    with impostor(hang_up, say(reply)) as port, Client("127.0.0.1", port) as book:
        assert book.number_of_users() == 7


def test_a_pipeline_cut_off_says_what_is_known_of_each() -> None:
    """Answered requests have their results; of the others saves are unknown, counts failed."""
    with (
        impostor(say(b'{"message": "Password saved!"}\n')) as port,
        Client("127.0.0.1", port, timeout_s=1) as book,
        book.pipeline() as many,
    ):
        many.save_password("a")
        many.save_password("b")
        many.number_of_users()
    saved, unknown, failed = many.results
    assert saved is None
    assert isinstance(unknown, FateUnknown)
    assert isinstance(failed, ConnectionFailed)
    assert not isinstance(failed, FateUnknown)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b'{"message": "Not saved!", "error": "The disk is full."}\n', NotSaved),
        (b'{"message": "Unavailable!", "error": "The writer died."}\n', FateUnknown),
        (b'{"message": "Invalid message!", "error": "No."}\n', InvalidMessage),
        (b'{"message": "Invalid message!"}\n', InvalidMessage),
        (b'{"message": "return_number_of_users", "number_of_users": 1}\n', FateUnknown),
        (b"HTTP/1.1 400 Bad Request\r\n", FateUnknown),
        (b"\xff\n", FateUnknown),
    ],
)
def test_each_answer_to_a_save_raises_its_own_error(
    reply: bytes, error: type[PwserverError]
) -> None:
    """What the service says on the wire is what the caller can catch."""
    with impostor(say(reply)) as port, Client("127.0.0.1", port) as book, pytest.raises(error):
        book.save_password("abc123")


@pytest.mark.parametrize("reply", [b'{"message": "Password saved!"}\n', b"[1]\n", b"<html>\n"])
def test_an_answer_that_is_none_of_the_services_is_an_error(reply: bytes) -> None:
    """A peer that is no password book is found out, not believed, and not asked again."""
    with (
        impostor(say(reply)) as port,
        Client("127.0.0.1", port) as book,
        pytest.raises(ProtocolViolation),
    ):
        book.number_of_users()


def test_a_call_ends_at_its_timeout() -> None:
    """A service that never answers costs the caller the timeout and no more; the fate is open."""
    answered = threading.Event()

    def sulk(connection: socket.socket) -> None:
        connection.recv(65536)
        answered.wait(20)

    with impostor(sulk) as port:
        with Client("127.0.0.1", port, timeout_s=0.3) as book, pytest.raises(FateUnknown):
            book.save_password("abc123")
        answered.set()


def test_an_interrupted_call_does_not_answer_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C in the middle of a call, the late reply is not taken for that of the next."""
    late = b'{"message": "return_number_of_users", "number_of_users": 1}\n'
    right = b'{"message": "return_number_of_users", "number_of_users": 2}\n'

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with impostor(say(late), say(right)) as port, Client("127.0.0.1", port) as book:
        with monkeypatch.context() as patched:
            patched.setattr(Client, "_reply", interrupt)
            with pytest.raises(KeyboardInterrupt):
                book.number_of_users()
        assert book.number_of_users() == 2


def test_the_client_needs_neither_database_nor_workers() -> None:
    """Importing the client brings in the standard library and msgspec, and nothing else."""
    program = "import sys, pwserver\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "msgspec" in loaded
    unwanted = {"workers", "peewee", "apsw", "cryptography", "cyclopts", "rich", "multiprocessing"}
    assert not unwanted & set(loaded)


def test_a_listing_service_counts_for_a_client(service: Service, book: Client) -> None:
    """Several clients of one service see each other's saves."""
    with Client("127.0.0.1", service.port) as other:
        other.save_password("theirs")
    assert eventually(lambda: book.number_of_users() == 1, "the other's save is counted")

"""The clients over TLS: the same requests, results and rules as in the clear.

Who is trusted, and what is said where somebody is not, is tested in `test_client_trust`.
"""

import ssl
import threading
from contextlib import suppress
from typing import Any

import pytest

from pwserver import Client, InvalidMessage, Saved
from tests.support.clients import COMMANDS, Use, ping, save, with_both_clients
from tests.support.fake_service import (
    ALIVE,
    AUTHENTICATE,
    SAVED,
    Conversation,
    FakeService,
    answer,
    answer_all,
    answer_then_hang_up,
    authenticate,
    echo,
    hang_up,
)
from tests.support.harness import eventually
from tests.support.tls import Authority, Issued, server_tls

pytestmark = pytest.mark.usefixtures("short_pauses")


@with_both_clients
def test_every_command_goes_over_tls(use: Use, tls: ssl.SSLContext, authority: Authority) -> None:
    """What is sent and returned is what it is without."""
    works = [
        lambda book, command=command: getattr(book, command.name)(
            *command.arguments, **command.options
        )
        for command in COMMANDS
    ]
    replies = answer(*[command.reply for command in COMMANDS])
    with FakeService(replies, tls=tls) as service:
        results = use(service.url, *works, ca_file=authority.path)
        assert service.connections == 1
    assert results == [command.result for command in COMMANDS]
    for command, sent in zip(COMMANDS, service.requests, strict=True):
        command.check(sent)


@with_both_clients
def test_a_token_is_said_inside_of_tls(use: Use, tls: ssl.SSLContext, authority: Authority) -> None:
    """After the handshake and before all else."""
    with FakeService(authenticate(answer(ALIVE)), tls=tls) as service:
        use(service.url_with_token, ping, ca_file=authority.path)
    assert service.requests == [AUTHENTICATE, {"message": "ping"}]


@with_both_clients
def test_a_pipeline_of_thousands_goes_over_tls(
    use: Use, tls: ssl.SSLContext, authority: Authority
) -> None:
    """In order, over one connection, however its records are cut."""

    def work(book: Any) -> Any:
        many = book.pipeline()
        for number in range(10_000):
            many.get_password(str(number))
        return many.execute()

    with FakeService(answer_all(echo), tls=tls) as service:
        (results,) = use(service.url, work, ca_file=authority.path)
        assert service.connections == 1
    assert [result.username for result in results] == [str(n) for n in range(10_000)]


@with_both_clients
def test_a_pipeline_of_great_messages_does_not_block(
    use: Use, tls: ssl.SSLContext, authority: Authority
) -> None:
    """Neither side's buffers fill up while both wait for the other to read."""
    name = "x" * 100_000

    def work(book: Any) -> Any:
        many = book.pipeline()
        for _ in range(256):
            many.get_password(name)
        return many.execute()

    with FakeService(answer_all(echo), tls=tls) as service:
        (results,) = use(service.url, work, ca_file=authority.path)
    assert {result.username for result in results} == {name}


@with_both_clients
def test_replies_come_a_byte_at_a_time(use: Use, tls: ssl.SSLContext, authority: Authority) -> None:
    """A record of its own for each byte: what is not complete is waited for."""

    def slowly(conversation: Conversation) -> None:
        while conversation.read() is not None:
            for byte in b'{"message": "Alive!"':
                conversation.say(bytes([byte]))
            conversation.say(b"}\n")

    with FakeService(slowly, tls=tls) as service:
        use(service.url, ping, ping, ca_file=authority.path)
        assert service.connections == 1


@with_both_clients
def test_a_service_that_wants_other_keys_gets_them(
    use: Use, issued: Issued, authority: Authority
) -> None:
    """A handshake of two rounds, because the curve that was offered first is not accepted."""
    context = server_tls(issued)
    context.set_ecdh_curve("secp384r1")
    with FakeService(answer(ALIVE), tls=context) as service:
        use(service.url, ping, ca_file=authority.path)


# --- The rules of connections hold over TLS as well. ---


@with_both_clients
def test_lost_answers_are_asked_again(use: Use, tls: ssl.SSLContext, authority: Authority) -> None:
    """Over a new session, with the same request id."""
    with FakeService(hang_up, hang_up, answer(SAVED), tls=tls) as service:
        assert use(service.url, save, ca_file=authority.path) == [Saved()]
    assert service.requests[0] == service.requests[1] == service.requests[2]


@with_both_clients
def test_a_session_that_the_service_ended_is_noticed_before_it_is_used(
    use: Use, tls: ssl.SSLContext, authority: Authority
) -> None:
    """With or without a close_notify: even a deletion is just sent, once."""

    def notify(conversation: Conversation) -> None:
        conversation.read()
        conversation.say(ALIVE)
        assert isinstance(conversation.connection, ssl.SSLSocket)
        conversation.connection.settimeout(0.1)
        with suppress(TimeoutError):  # the client has nothing to say to that
            conversation.connection.unwrap()

    def wait_then_delete(book: Any) -> Any:
        eventually(lambda: service.open == 0, "the service closed the connection")
        return book.delete_user("alice")

    deleted = {"message": "User deleted!"}
    for first in (notify, answer_then_hang_up(ALIVE)):
        with FakeService(first, answer(deleted), tls=tls) as service:
            use(service.url, ping, wait_then_delete, ca_file=authority.path, attempts_max=1)
        assert len(service.requests) == 2


@with_both_clients
def test_what_arrives_unasked_is_not_taken_for_an_answer(
    use: Use, tls: ssl.SSLContext, authority: Authority
) -> None:
    """A session on which the service spoke out of turn is not used again."""
    number = {"message": "return_number_of_users", "number_of_users": 1}
    unasked, spoken = threading.Event(), threading.Event()

    def speak(conversation: Conversation) -> None:
        conversation.read()
        conversation.say(number)
        unasked.wait(60)
        conversation.say(number)
        spoken.set()
        conversation.read()

    def count(book: Any) -> Any:
        return book.number_of_users()

    def wait_and_count(book: Any) -> Any:
        unasked.set()
        assert spoken.wait(60)
        return book.number_of_users()

    second = answer({**number, "number_of_users": 2})
    with FakeService(speak, second, tls=tls) as service:
        assert use(service.url, count, wait_and_count, ca_file=authority.path) == [1, 2]


@with_both_clients
def test_a_connection_with_half_a_request_on_it_is_not_used_again(
    use: Use, tls: ssl.SSLContext, authority: Authority
) -> None:
    """A service that refuses a request before the end of it would take the next for the rest."""
    go_on = threading.Event()

    def refuse(conversation: Conversation) -> None:
        conversation.connection.recv(1000)
        conversation.say({"message": "Invalid message!"})
        go_on.wait(60)

    def save_too_much(book: Any) -> Any:
        return book.save_password("x" * 32 * 1024 * 1024)

    with FakeService(refuse, answer(ALIVE), tls=tls) as service:
        try:
            with pytest.raises(InvalidMessage):
                use(service.url, save_too_much, ca_file=authority.path)
        finally:
            go_on.set()


def test_threads_share_a_client_over_tls(tls: ssl.SSLContext, authority: Authority) -> None:
    """Each thread gets its own answers."""
    with (
        FakeService(answer_all(echo), tls=tls) as service,
        Client(service.url, ca_file=authority.path, connections_max=2) as book,
    ):
        wrong: list[str] = []

        def work(thread: int) -> None:
            for turn in range(100):
                name = f"{thread}/{turn}"
                if book.get_password(name).password != f"password of {name}":
                    wrong.append(name)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
    assert len(service.requests) == 800

"""When answers do not come: what the client sends again, and what it says in the end."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from pwserver import Client, ConnectionFailed, Denied, FateUnknown, NotSaved, Saved, Unavailable
from pwserver.client import retry
from pwserver.errors import ProtocolViolation
from tests.support.clients import BY_NAME
from tests.support.fake_service import (
    ALIVE,
    SAVED,
    SAVED_AS,
    Conversation,
    FakeService,
    answer,
    answer_all,
    answer_then_hang_up,
    echo,
    hang_up,
    silence,
)

NUMBER = {"message": "return_number_of_users", "number_of_users": 7}
DELETED = {"message": "User deleted!"}
UNAVAILABLE = {"message": "Unavailable!", "error": "The writer died."}
NOT_SAVED = {"message": "Not saved!", "error": "The disk is full."}


pytestmark = pytest.mark.usefixtures("short_pauses")


def delete_alice(book: Client) -> Any:
    return book.delete_user("alice")


def save_abc(book: Client) -> Any:
    return book.save_password("abc123")


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"delete_user"}))
def test_a_request_whose_answer_is_lost_is_sent_again(name: str) -> None:
    """A lost connection goes unnoticed; a save is sent again byte for byte, so it is done once."""
    command = BY_NAME[name]
    with (
        FakeService(hang_up, hang_up, answer(command.reply)) as service,
        Client(service.url) as book,
    ):
        assert getattr(book, name)(*command.arguments, **command.options) == command.result
    first, second, third = service.requests
    assert first == second == third
    assert ("request_id" in first) == command.saves


def test_a_generated_password_that_is_not_saved_needs_no_request_id() -> None:
    """It changes nothing, so the one that was lost may be replaced by another."""
    reply = {"message": "return_generated_password", "password": "Zq"}
    with FakeService(hang_up, answer(reply)) as service, Client(service.url) as book:
        assert book.generate_password(length=5).password == "Zq"
    assert service.requests == [{"message": "generate_password", "length": 5}] * 2


def test_two_saves_have_two_request_ids() -> None:
    """Saving one password twice is not taken for a repetition."""
    with FakeService(answer(SAVED, SAVED)) as service, Client(service.url) as book:
        book.save_password("abc123")
        book.save_password("abc123")
    assert len({request["request_id"] for request in service.requests}) == 2


def test_a_save_that_is_never_answered_has_an_unknown_fate() -> None:
    """After the last attempt the caller is told that nobody can tell."""
    with FakeService(hang_up) as service, Client(service.url, attempts_max=3) as book:
        with pytest.raises(FateUnknown, match=r"may or may not have been saved: .* closed"):
            book.save_password("abc123", username="alice")
        assert len(service.requests) == 3
        with pytest.raises(FateUnknown, match="may or may not have been restored"):
            book.restore_password("alice", 1)
        with pytest.raises(FateUnknown, match="labels may or may not have been set"):
            book.label_user("alice", [])


def test_a_question_that_is_never_answered_is_a_connection_failure() -> None:
    """It had no effect, and the error does not say that it may have had one."""
    with (
        FakeService(hang_up) as service,
        Client(service.url, attempts_max=2) as book,
        pytest.raises(ConnectionFailed, match="closed the connection") as failure,
    ):
        book.get_password("alice")
    assert not isinstance(failure.value, FateUnknown)
    assert len(service.requests) == 2


def test_a_deletion_is_not_sent_again() -> None:
    """By then the name may be that of a new user, so its fate is left open at once."""
    with FakeService(hang_up, answer(DELETED)) as service, Client(service.url) as book:
        with pytest.raises(FateUnknown, match="may or may not have been deleted"):
            book.delete_user("alice")
        book.delete_user("bob")
    assert [request["username"] for request in service.requests] == ["alice", "bob"]


@pytest.mark.parametrize("change", [delete_alice, save_abc])
def test_what_was_never_sent_had_no_effect(change: Callable[[Client], Any]) -> None:
    """Where nobody is there, nothing changed: the error says so, and where nobody was found."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        Client(f"pwserver://127.0.0.1:{port}", attempts_max=3) as book,
        pytest.raises(ConnectionFailed) as failure,
    ):
        change(book)
    assert str(failure.value) == f"127.0.0.1:{port} cannot be reached: Connection refused."
    assert not isinstance(failure.value, FateUnknown)


def test_a_deletion_waits_for_a_service_that_is_being_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attempts to connect are repeated for every call, since nothing was sent."""
    refused = iter([ConnectionRefusedError(111, "no"), ConnectionRefusedError(111, "no")])
    connect = socket.socket.connect

    def reluctant(self: socket.socket, address: Any) -> None:
        if error := next(refused, None):
            raise error
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", reluctant)
    with FakeService(answer(DELETED)) as service, Client(service.url) as book:
        book.delete_user("alice")
    assert len(service.requests) == 1


def test_an_open_outcome_is_asked_again() -> None:
    """After "Unavailable!" a save is repeated, as after a lost answer, and so made certain."""
    with (
        FakeService(answer(UNAVAILABLE), answer(SAVED_AS)) as service,
        Client(service.url, connections_max=1) as book,
    ):
        assert book.save_password("abc123", username="alice") == Saved("alice", 1)
    assert service.requests[0] == service.requests[1]


def test_an_outcome_that_stays_open_is_an_unknown_fate() -> None:
    """A save never fails with an error that could be taken for "not saved"."""
    with (
        FakeService(answer(UNAVAILABLE)) as service,
        Client(service.url, attempts_max=2) as book,
        pytest.raises(FateUnknown, match=r"may or may not have been saved: The writer died\."),
    ):
        book.save_password("abc123")
    assert len(service.requests) == 2


def test_an_open_deletion_is_not_asked_again() -> None:
    """ "Unavailable!" leaves it as open as a lost connection does."""
    with (
        FakeService(answer(UNAVAILABLE)) as service,
        Client(service.url) as book,
        pytest.raises(FateUnknown, match="may or may not have been deleted"),
    ):
        book.delete_user("alice")
    assert len(service.requests) == 1


def test_a_question_that_cannot_be_answered_now_is_not_repeated() -> None:
    """The service has more work than it can do; to ask again at once would add to it."""
    with (
        FakeService(answer(UNAVAILABLE)) as service,
        Client(service.url) as book,
        pytest.raises(Unavailable, match=r"^The writer died\.$"),
    ):
        book.check_password("abc123")
    assert len(service.requests) == 1


def test_a_definite_no_is_raised_at_once() -> None:
    """ "Not saved!" is believed and not asked again."""
    with (
        FakeService(answer(NOT_SAVED)) as service,
        Client(service.url) as book,
        pytest.raises(NotSaved, match=r"^The disk is full\.$"),
    ):
        book.save_password("abc123")
    assert len(service.requests) == 1


def test_a_no_to_the_second_attempt_says_nothing_of_the_first() -> None:
    """The first may be on its way to the disk yet: it is asked again, and not said to be lost."""
    with FakeService(hang_up, answer(NOT_SAVED), answer(SAVED)) as service:
        with Client(service.url) as book:
            assert book.save_password("abc123") == Saved()
        assert len(service.requests) == 3
    with (
        FakeService(hang_up, answer(NOT_SAVED)) as service,
        Client(service.url, attempts_max=2) as book,
        pytest.raises(FateUnknown, match="The disk is full"),
    ):
        book.save_password("abc123")


@pytest.mark.parametrize(("change", "error"), [(save_abc, FateUnknown), (Client.ping, None)])
def test_a_call_ends_at_its_timeout(change: Callable[[Client], Any], error: Any) -> None:
    """A service that never answers costs the caller the timeout and no more."""
    began = time.monotonic()
    with (
        FakeService(silence) as service,
        Client(service.url, timeout_s=0.2) as book,
        pytest.raises(error or ConnectionFailed, match="did not answer in time") as failure,
    ):
        change(book)
    assert isinstance(failure.value, FateUnknown) == (error is FateUnknown)
    assert 0.19 < time.monotonic() - began < 30
    assert len(service.requests) == 1


def test_a_late_answer_is_not_taken_for_that_of_the_next_call() -> None:
    """After a timeout the connection is given up, with whatever is still to come on it."""
    timed_out = threading.Event()

    def late(conversation: Conversation) -> None:
        conversation.read()
        timed_out.wait(60)
        conversation.say({**NUMBER, "number_of_users": 1})

    with FakeService(late, answer(NUMBER)) as service:
        with Client(service.url, timeout_s=2) as book:
            with pytest.raises(ConnectionFailed, match="in time"):
                book.number_of_users()
            timed_out.set()
            assert book.number_of_users() == 7
        assert service.connections == 2


# --- Pipelines. ---


def test_a_pipeline_keeps_its_order_over_many_windows() -> None:
    """Results stand where their requests were added, refusals among them."""

    def reply_to(request: dict[str, Any]) -> dict[str, Any]:
        return echo(request) if request.get("username") != "nobody" else {"message": "Denied!"}

    with FakeService(answer_all(reply_to)) as service, Client(service.url) as book:
        many = book.pipeline()
        for number in range(1000):
            many.get_password("nobody" if number == 300 else f"user {number}")
        many.ping()
        results = many.execute()
        assert many.results is results
        assert many.execute() == []
        assert service.connections == 1
    assert isinstance(results.pop(300), Denied)
    assert results.pop() is None
    assert [result.username for result in results] == [
        f"user {number}" for number in range(1000) if number != 300
    ]


def test_a_pipeline_of_great_messages_does_not_block() -> None:
    """Neither side's buffers fill up while both wait for the other to read."""
    name = "x" * 100_000
    with FakeService(answer_all(echo)) as service, Client(service.url) as book:
        with book.pipeline() as many:
            for _ in range(256):
                many.get_password(name)
        assert {result.username for result in many.results} == {name}


def test_a_pipeline_that_is_cut_off_goes_on_where_it_was() -> None:
    """The unanswered are sent again in order and byte for byte, the answered are not."""
    with (
        FakeService(
            answer_then_hang_up(SAVED, NUMBER, unanswered=3), answer(SAVED_AS, SAVED, NUMBER)
        ) as service,
        Client(service.url) as book,
    ):
        with book.pipeline() as many:
            many.save_password("a")
            many.number_of_users()
            many.save_password("b", username="alice")
            many.save_password("c")
            many.number_of_users()
        assert many.results == [Saved(), 7, Saved("alice", 1), Saved(), 7]
    assert service.requests[5:] == service.requests[2:5]


def test_a_pipeline_that_is_cut_off_does_not_repeat_a_deletion() -> None:
    """Its fate is unknown, and those around it are done."""
    with (
        FakeService(answer_then_hang_up(SAVED, unanswered=3), answer(SAVED, ALIVE)) as service,
        Client(service.url) as book,
    ):
        with book.pipeline() as many:
            many.save_password("a")
            many.save_password("b")
            many.delete_user("alice")
            many.ping()
        assert [many.results[0], many.results[1], many.results[3]] == [Saved(), Saved(), None]
        assert isinstance(many.results[2], FateUnknown)
    assert [request["message"] for request in service.requests[4:]] == ["save_password", "ping"]


def test_a_pipeline_that_stays_cut_off_says_what_is_known_of_each() -> None:
    """Answered requests have results; of those sent saves are unknown; the others just failed."""
    with (
        FakeService(answer_then_hang_up(SAVED), hang_up) as service,
        Client(service.url, attempts_max=2) as book,
    ):
        with book.pipeline() as many:
            many.save_password("a")
            many.ping()
            for _ in range(retry.WINDOW):
                many.save_password("b")
        assert many.results[0] == Saved()
        kinds = [type(result) for result in many.results[1:]]
        sent = retry.WINDOW - 2
        assert kinds == [ConnectionFailed, *[FateUnknown] * sent, *[ConnectionFailed] * 2]


def test_a_pipeline_of_which_nothing_was_answered_raises() -> None:
    """Where there is no result at all, that is not left to be found in a list."""
    with FakeService(hang_up) as service, Client(service.url, attempts_max=2) as book:
        many = book.pipeline()
        many.save_password("a")
        many.ping()
        with pytest.raises(FateUnknown):
            many.execute()
        many.ping()
        with pytest.raises(ConnectionFailed, match="closed the connection"):
            many.execute()


def test_a_pipeline_is_not_sent_when_its_block_fails() -> None:
    """An exception in the `with` is the caller's change of mind."""
    with Client() as book, suppress(ZeroDivisionError), book.pipeline() as many:
        many.save_password("a")
        raise ZeroDivisionError
    assert many.results == []


def test_an_open_save_is_not_repeated_behind_later_ones() -> None:
    """It could undo what came after it; only the last of a pipeline may be asked again."""
    with (
        FakeService(answer(UNAVAILABLE, SAVED, UNAVAILABLE), answer(SAVED)) as service,
        Client(service.url) as book,
    ):
        with book.pipeline() as many:
            for password in ("a", "b", "c"):
                many.save_password(password)
        assert isinstance(many.results[0], FateUnknown)
        assert many.results[1:] == [Saved(), Saved()]
    assert [request["password"] for request in service.requests] == ["a", "b", "c", "c"]


def test_an_alien_answer_ends_a_pipeline() -> None:
    """Behind what is no answer nothing is believed and nothing is sent again."""
    with (
        FakeService(answer(ALIVE, NUMBER, SAVED)) as service,
        Client(service.url) as book,
    ):
        with book.pipeline() as many:
            many.ping()
            many.ping()
            many.save_password("a")
        assert many.results[0] is None
        assert isinstance(many.results[1], ProtocolViolation)
        assert isinstance(many.results[2], FateUnknown)
    assert service.connections == 1

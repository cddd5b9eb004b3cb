"""The client library: what its methods send, return and raise.

How it repeats requests is tested in `test_client_retries`, its connections in `test_connections`,
and what it may be told of the way to the service in `test_client_access`.
"""

import asyncio
import inspect
import json
import os
import pprint
import subprocess
import sys
from typing import Any, assert_type, get_type_hints

import pytest

from pwserver import (
    AsyncClient,
    AsyncPipeline,
    Client,
    ConfigError,
    ConnectionFailed,
    Denied,
    FateUnknown,
    Generated,
    InvalidMessage,
    NotSaved,
    Password,
    Pending,
    Pipeline,
    ProtocolViolation,
    PwserverError,
    Saved,
    Unavailable,
    UnknownUser,
    UnknownVersion,
)
from pwserver.client import commands
from tests.support.clients import BY_NAME, COMMANDS, Command
from tests.support.fake_service import (
    ALIVE,
    DENIED,
    SAVED,
    TIME,
    FakeService,
    answer,
    answer_all,
    echo,
)

NUMBER = b'{"message": "return_number_of_users", "number_of_users": %d}\n'


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_method_sends_its_request_and_returns_its_reply(command: Command) -> None:
    """What is called, what goes over the wire and what comes back belong together."""
    with FakeService(answer(command.reply)) as service, Client(service.url) as book:
        result = getattr(book, command.name)(*command.arguments, **command.options)
    assert result == command.result
    command.check(service.requests[0])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_request_can_go_through_a_pipeline(command: Command) -> None:
    """The pipeline's methods take and bring the same as the client's."""
    with FakeService(answer(command.reply, ALIVE)) as service, Client(service.url) as book:
        with book.pipeline() as many:
            getattr(many, command.name)(*command.arguments, **command.options)
            many.ping()
        assert many.results == [command.result, None]
    command.check(service.requests[0])


def test_every_command_is_tested_here() -> None:
    """No command can be added to the client without an example above."""
    assert set(BY_NAME) == {
        name for name in vars(commands) if hasattr(Client, name) and not name.startswith("_")
    }


@pytest.mark.parametrize("kind", [Client, AsyncClient, Pipeline, AsyncPipeline])
@pytest.mark.parametrize("name", BY_NAME)
def test_each_method_looks_as_its_command(name: str, kind: type) -> None:
    """`help` and editors show its own name, parameters and docstring."""
    method, command = getattr(kind, name), getattr(commands, name)
    this, *parameters = inspect.signature(method).parameters.values()
    assert this.name == "self"
    assert parameters == [*inspect.signature(command).parameters.values()]
    assert method.__doc__ == command.__doc__
    owner = next(each for each in kind.__mro__ if name in vars(each))
    assert method.__module__ == owner.__module__
    assert method.__qualname__ == f"{owner.__name__}.{name}"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_method_says_what_it_returns(kind: Any) -> None:
    """The result itself, and not the call that brings it."""
    parameters = "(self, username: str, *, version: int | None = None)"
    shown = str(inspect.signature(kind.get_password))
    assert shown == f"{parameters} -> pwserver.client.results.Password"
    assert get_type_hints(kind.get_password)["return"] is Password
    assert str(inspect.signature(kind.ping)) == "(self) -> None"
    assert inspect.signature(Pipeline.get_password).return_annotation == Pending[Password]


def test_the_methods_are_typed() -> None:
    """Whoever checks types knows the results of both clients, and finds wrong arguments."""

    async def get(service: FakeService) -> str:
        async with AsyncClient(service.url) as book:
            with pytest.raises(TypeError):
                await book.get_password("a", 1)  # type: ignore[call-arg]
            return assert_type(await book.get_password("a"), Password).password

    with FakeService(answer_all(echo)) as service, Client(service.url) as book:
        with pytest.raises(TypeError):
            book.get_password()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            book.get_password(b"a")  # type: ignore[arg-type]
        assert assert_type(book.get_password("a"), Password).password == asyncio.run(get(service))


def test_all_users_are_got_page_by_page() -> None:
    """The iterator asks for the next page only when the last one is used up."""

    def page(*names: str, after: str | None) -> dict[str, Any]:
        users = [{"username": n, "labels": [], "version": 1, "time_saved": TIME} for n in names]
        return {"message": "return_users", "users": users, "after": after}

    replies = answer(page("a", "b", after="b"), page(after="c"), page("d", after=None))
    with FakeService(replies) as service, Client(service.url) as book:
        users = book.users(prefix="p", label="l")
        assert service.requests == []
        assert [next(users).username, next(users).username] == ["a", "b"]
        assert len(service.requests) == 1
        assert [user.username for user in users] == ["d"]
    assert [request["after"] for request in service.requests] == ["", "b", "c"]
    assert {request["prefix"] + request["label"] for request in service.requests} == {"pl"}


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("Invalid message!", InvalidMessage),
        ("Not saved!", NotSaved),
        ("Unknown user!", UnknownUser),
        ("Unknown version!", UnknownVersion),
        ("Unavailable!", Unavailable),
    ],
)
def test_each_refusal_raises_its_own_error(word: str, error: type[PwserverError]) -> None:
    """What the service says on the wire is what the caller can catch, and the connection stays."""
    replies = answer({"message": word, "error": "The reason."}, {"message": word}, ALIVE)
    with FakeService(replies) as service, Client(service.url) as book:
        with pytest.raises(error, match=r"^The reason\.$"):
            book.get_password("alice")
        with pytest.raises(error, match="'alice'" if word.startswith("Unknown") else word):
            book.get_password("alice")
        book.ping()
        assert service.connections == 1


def test_what_is_denied_says_what_it_needs() -> None:
    """The service gives no reason, which would be a hint at what there is; the client does."""
    with FakeService(answer(DENIED, ALIVE)) as service, Client(service.url) as book:
        with pytest.raises(Denied, match=r"^This needs the token of an application that may do it"):
            book.get_password("alice")
        book.ping()
        assert service.connections == 1


def test_a_version_that_is_not_told_is_none() -> None:
    """Without a token, a save under a name does not say whether the name was there before."""
    saved = {**SAVED, "username": "bob"}
    made = {"message": "return_generated_password", "password": "Zq", "username": "bob"}
    with FakeService(answer(saved, made)) as service, Client(service.url) as book:
        assert book.save_password("x", username="bob") == Saved("bob", None)
        assert book.generate_password(username="bob") == Generated("Zq", "bob", None)


@pytest.mark.parametrize(
    "reply",
    [
        SAVED,
        {"message": "return_password"},
        {"message": "return_password", "username": "a", "password": "SECRET", "version": 1},
        {"message": "return_password", "username": "a", "password": "SECRET", "version": "1"},
        {"message": "SECRET"},
        {"password": "SECRET"},
        b"[1]\n",
        b"<html>\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\xff\n",
    ],
)
def test_an_answer_that_is_none_of_the_services_is_an_error(reply: Any) -> None:
    """A peer that is no password book is found out, not believed, not repeated, not asked again."""
    with FakeService(answer(reply)) as service, Client(service.url) as book:
        with pytest.raises(ProtocolViolation, match=r"\.$") as violation:
            book.get_password("alice")
        assert "SECRET" not in str(violation.value)
    assert len(service.requests) == 1


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"ping", "delete_user"}))
def test_an_answer_without_its_fields_is_an_error(name: str) -> None:
    """A result is never made up: what the reply does not say is not returned."""
    command = BY_NAME[name]
    reply = {"message": command.reply["message"]}
    with (
        FakeService(answer(reply)) as service,
        Client(service.url) as book,
        pytest.raises((ProtocolViolation, FateUnknown)),
    ):
        getattr(book, name)(*command.arguments, **command.options)


def test_what_an_alien_makes_of_a_save_is_unknown() -> None:
    """A save that is answered by nonsense is not repeated, and not said to have had no effect."""
    with (
        FakeService(answer(b"<html>\n")) as service,
        Client(service.url) as book,
        pytest.raises(FateUnknown, match="may or may not have been saved"),
    ):
        book.save_password("abc123")
    assert len(service.requests) == 1


@pytest.mark.parametrize("more", [NUMBER % 2, NUMBER[:9]])
def test_more_than_was_asked_for_is_never_taken_for_a_later_answer(more: bytes) -> None:
    """A second reply, or a piece of one, leaves the result as it is, and costs the connection."""
    with (
        FakeService(answer(NUMBER % 1 + more), answer(NUMBER % 3)) as service,
        Client(service.url, timeout_s=2) as book,
    ):
        assert [book.number_of_users(), book.number_of_users()] == [1, 3]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("save_password", (b"SECRET",)),
        ("save_password", (None,)),
        ("save_password", (5,)),
        ("verify_password", ("alice", b"SECRET")),
        ("get_password", (b"SECRET",)),
        ("restore_password", ("alice", "SECRET")),
        ("label_user", ("alice", "SECRET")),
        ("label_user", ("alice", [b"SECRET"])),
        ("label_user", ("alice", None)),
    ],
)
def test_values_of_the_wrong_type_are_the_callers_mistake(
    method: str, arguments: tuple[Any, ...]
) -> None:
    """What JSON would turn into something else is a `TypeError` that repeats nothing."""
    with Client() as book, pytest.raises(TypeError) as mistake:
        getattr(book, method)(*arguments)
    assert "SECRET" not in str(mistake.value)


def test_half_a_character_is_invalid_and_not_kept_in_the_error() -> None:
    """Neither the error nor what it was raised from holds the password."""
    with Client() as book, pytest.raises(InvalidMessage, match=r"\.$") as refusal:
        book.save_password("SECRET \ud800")
    error: BaseException | None = refusal.value
    while error is not None:
        assert "SECRET" not in f"{error} {vars(error)}"
        error = error.__cause__ or error.__context__
    assert refusal.value.__context__ is None


def test_passwords_do_not_show() -> None:
    """Nothing that holds a password shows it when it is printed or logged."""
    password = BY_NAME["get_password"].result
    assert isinstance(password, Password)
    call = commands.save_password("SECRET", username="alice")
    assert b"SECRET" in call.request
    for shows in (repr, str, pprint.pformat):
        assert "'w'" not in shows(password)
        assert "alice" in shows(password)
        assert "abba" not in shows(Generated("abba", "alice", 1))
        assert "SECRET" not in shows(call)


def test_request_ids_are_unique_and_grow() -> None:
    """No two saves are taken for one, and the service's index is added to at its end."""
    ids = [json.loads(commands.save_password("x").request)["request_id"] for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [request_id[:16] for request_id in ids] == sorted(i[:16] for i in ids)
    assert {len(request_id) for request_id in ids} == {32}


@pytest.mark.parametrize(
    "limits",
    [
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"timeout_s": float("nan")},
        {"connections_max": 0},
        {"attempts_max": 0},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    """A limit with which nothing could be done is refused when the client is made."""
    with pytest.raises(ConfigError, match=f"^{next(iter(limits))} is "):
        Client(**limits)


def test_a_name_that_cannot_be_found_is_a_connection_failure() -> None:
    """So is one that cannot be a name at all."""
    for name in ("nowhere.invalid", f"{'x' * 64}.example"):
        with (
            Client(f"pwserver://{name}", attempts_max=1) as book,
            pytest.raises(ConnectionFailed, match=f"{name}:12345 cannot be reached: .*[^.]\\.$"),
        ):
            book.ping()


def test_the_client_needs_neither_database_nor_workers() -> None:
    """Importing the client brings in msgspec and a little of the standard library."""
    program = (
        "import sys\nfrom pwserver import Client\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    unmeasured = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    loaded = subprocess.run(
        [sys.executable, "-c", program], env=unmeasured, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "msgspec" in loaded
    unwanted = {"workers", "peewee", "apsw", "cryptography", "cyclopts", "rich", "multiprocessing"}
    assert not (unwanted | {"asyncio", "ssl"}) & set(loaded)

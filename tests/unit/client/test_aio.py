"""The client for asyncio: the twin of `Client`, and what is different where tasks wait."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pwserver import (
    AsyncClient,
    AsyncPipeline,
    Client,
    ConnectionFailed,
    FateUnknown,
    InvalidMessage,
    NotSaved,
    Pipeline,
    ProtocolViolation,
    Saved,
    UnknownUser,
)
from pwserver.client.access import access_to
from pwserver.client.aio import AioConnectionPool
from pwserver.client.retry import Limits, RetriedCalls
from tests.support.clients import COMMANDS, Command
from tests.support.fake_service import (
    ALIVE,
    SAVED,
    TIME,
    Behaviour,
    Conversation,
    FakeService,
    answer,
    answer_all,
    answer_then_hang_up,
    echo,
    hang_up,
    silence,
)
from tests.support.harness import PATIENCE_S, eventually

Work = Callable[[AsyncClient], Awaitable[Any]]
NUMBER = {"message": "return_number_of_users", "number_of_users": 7}


pytestmark = pytest.mark.usefixtures("short_pauses")


def use(service: FakeService, work: Work, **limits: Any) -> Any:
    """Return what comes of some work with a client, in an event loop of its own."""

    async def main() -> Any:
        async with AsyncClient(service.url, **limits) as book:
            return await work(book)

    return asyncio.run(main())


def public(kind: type) -> dict[str, inspect.Signature]:
    """Return the public methods of a class, and how they are called."""
    return {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(("kind", "twin"), [(Client, AsyncClient), (Pipeline, AsyncPipeline)])
def test_the_twins_have_the_same_methods(kind: type, twin: type) -> None:
    """Whoever knows one client knows the other: same names, parameters, defaults and results."""
    ours, theirs = public(kind), public(twin)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"users", "pipeline"}:
        assert ours[name] == theirs[name], name
    for name in ours:
        assert ours[name].parameters == theirs[name].parameters, name
    sync_init, async_init = inspect.signature(kind), inspect.signature(twin)
    assert [*sync_init.parameters] == [*async_init.parameters]


def test_what_the_twins_do_waits_only_in_one() -> None:
    """Everything that talks to the service is awaited; nothing else has to be."""
    for name, method in inspect.getmembers(AsyncClient, inspect.isfunction):
        if not name.startswith("_") and name not in ("users", "pipeline"):
            assert inspect.iscoroutinefunction(method), name


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_method_sends_its_request_and_returns_its_reply(command: Command) -> None:
    """What is called, what goes over the wire and what comes back belong together."""

    async def work(book: AsyncClient) -> Any:
        return await getattr(book, command.name)(*command.arguments, **command.options)

    with FakeService(answer(command.reply)) as service:
        assert use(service, work) == command.result
    command.check(service.requests[0])


def test_all_users_are_got_page_by_page() -> None:
    """The iterator goes on to the next page by itself."""

    def page(name: str, after: str | None) -> dict[str, Any]:
        user = {"username": name, "labels": [], "version": 1, "time_saved": TIME}
        return {"message": "return_users", "users": [user], "after": after}

    async def work(book: AsyncClient) -> list[str]:
        return [user.username async for user in book.users(prefix="p")]

    with FakeService(answer(page("a", "a"), page("b", None))) as service:
        assert use(service, work) == ["a", "b"]
    assert [request["after"] for request in service.requests] == ["", "a"]


async def save(book: AsyncClient) -> Any:
    return await book.save_password("abc123")


async def delete(book: AsyncClient) -> Any:
    return await book.delete_user("alice")


async def get(book: AsyncClient) -> Any:
    return await book.get_password("alice")


@pytest.mark.parametrize(
    ("work", "behaviour", "error", "words", "sent"),
    [
        (save, answer({"message": "Not saved!"}), NotSaved, "Not saved!", 1),
        (get, answer({"message": "Unknown user!", "error": "No."}), UnknownUser, "No.", 1),
        (get, answer(SAVED), ProtocolViolation, "another request", 1),
        (get, answer(b"<html>\n"), ProtocolViolation, "not one of this service", 1),
        (get, hang_up, ConnectionFailed, "closed the connection", 2),
        (save, hang_up, FateUnknown, "may or may not have been saved", 2),
        (delete, hang_up, FateUnknown, "may or may not have been deleted", 1),
        (save, answer({"message": "Unavailable!"}), FateUnknown, "have been saved", 2),
        (save, silence, FateUnknown, "did not answer in time", 1),
        (get, silence, ConnectionFailed, "did not answer in time", 1),
    ],
)
def test_errors_are_those_of_the_twin(
    work: Work, behaviour: Behaviour, error: type[Exception], words: str, sent: int
) -> None:
    """What is raised, and how often something was sent, is decided in one place for both."""
    timeout_s = 0.5 if behaviour is silence else PATIENCE_S
    with FakeService(behaviour) as service, pytest.raises(error, match=words) as failure:
        use(service, work, timeout_s=timeout_s, attempts_max=2)
    assert type(failure.value) is error
    assert len(service.requests) == sent


def test_a_save_whose_answer_is_lost_is_sent_again() -> None:
    """With the same request id, so that it is done once."""
    with FakeService(hang_up, answer(SAVED)) as service:
        assert use(service, save) == Saved()
    assert service.requests[0] == service.requests[1]
    assert service.requests[0]["request_id"]


def test_nobody_there_is_a_connection_failure() -> None:
    """The error says where nobody was found, as that of the twin does."""
    with FakeService(silence) as service:
        pass
    with pytest.raises(ConnectionFailed) as failure:
        use(service, delete, attempts_max=2)
    address = service.url.removeprefix("pwserver://")
    assert str(failure.value) == f"{address} cannot be reached: Connection refused."


def test_half_a_character_is_invalid() -> None:
    """Before anything is sent, as with the twin."""

    async def work(book: AsyncClient) -> None:
        await book.save_password("\ud800")

    with FakeService(silence) as service, pytest.raises(InvalidMessage):
        use(service, work)
    assert service.connections == 0


def test_tasks_share_a_client() -> None:
    """Each task gets its own answers, over no more connections than are allowed."""

    async def work(book: AsyncClient) -> None:
        async def one(name: str) -> None:
            assert (await book.get_password(name)).password == f"password of {name}"

        await asyncio.gather(*(one(str(number)) for number in range(1000)))

    with FakeService(answer_all(echo)) as service:
        use(service, work, connections_max=4)
        assert 1 <= service.open_most <= service.connections <= 4
    assert len(service.requests) == 1000


def test_waiting_for_a_connection_ends_at_the_timeout() -> None:
    """A task that gets none is told why, and that nothing was sent."""

    async def main() -> None:
        pool = AioConnectionPool(access_to(service.url), 1, asyncio.get_running_loop())
        async with pool.connection(RetriedCalls([], Limits(5, 1, 1))):
            with pytest.raises(ConnectionFailed, match="all 1 connections of the client were in"):
                await pool.connection(RetriedCalls([], Limits(0.05, 1, 1))).__aenter__()
        await pool.close()

    with FakeService(silence) as service:
        asyncio.run(main())


def test_a_connection_that_the_service_closed_is_noticed_before_it_is_used() -> None:
    """Even when the event loop had no time to look at it."""
    deleted = {"message": "User deleted!"}

    async def work(book: AsyncClient) -> None:
        await book.ping()
        eventually(lambda: service.open == 0, "the service closed the connection")
        await book.delete_user("alice")

    with FakeService(answer_then_hang_up(ALIVE), answer(deleted)) as service:
        use(service, work, attempts_max=1)
    assert len(service.requests) == 2


def test_what_arrives_unasked_is_not_taken_for_an_answer() -> None:
    """A connection on which the service spoke out of turn is not used again."""
    spoken = threading.Event()
    asked = threading.Event()

    def speak(conversation: Conversation) -> None:
        conversation.read()
        conversation.say(NUMBER)
        asked.wait(60)
        conversation.say({**NUMBER, "number_of_users": 1})
        spoken.set()
        conversation.read()

    async def work(book: AsyncClient) -> list[int]:
        first = await book.number_of_users()
        asked.set()
        await asyncio.to_thread(spoken.wait, 20)
        return [first, await book.number_of_users()]

    with FakeService(speak, answer({**NUMBER, "number_of_users": 8})) as service:
        assert use(service, work) == [7, 8]


def test_a_connection_with_half_a_request_on_it_is_not_used_again() -> None:
    """A service that refuses a request before the end of it would take the next for the rest."""
    go_on = threading.Event()

    def refuse(conversation: Conversation) -> None:
        conversation.connection.recv(1000)
        conversation.say({"message": "Invalid message!"})
        go_on.wait(60)

    async def work(book: AsyncClient) -> None:
        with pytest.raises(InvalidMessage):
            await book.save_password("x" * 32 * 1024 * 1024)
        await book.ping()
        go_on.set()

    with FakeService(refuse, answer(ALIVE)) as service:
        use(service, work, connections_max=1)
        assert service.connections == 2


def test_a_cancelled_call_does_not_answer_the_next() -> None:
    """Its connection is given up, with the reply that may be on its way."""
    asked = threading.Event()
    cancelled = threading.Event()

    def late(conversation: Conversation) -> None:
        conversation.read()
        asked.set()
        cancelled.wait(60)
        conversation.say({**NUMBER, "number_of_users": 1})

    async def work(book: AsyncClient) -> int:
        call = asyncio.create_task(book.number_of_users())
        await asyncio.to_thread(asked.wait, 20)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        cancelled.set()
        return await book.number_of_users()

    with FakeService(late, answer(NUMBER)) as service:
        assert use(service, work, connections_max=1) == 7
        assert service.connections == 2


def test_pipelines_keep_their_order_and_go_on_when_cut_off() -> None:
    """As those of the twin, with `async with` or `await execute()`."""

    async def work(book: AsyncClient) -> list[Any]:
        async with book.pipeline() as many:
            for number in range(600):
                many.get_password(f"user {number}")
            many.save_password("x", username="alice")
        again = book.pipeline()
        again.ping()
        return [*many.results, *await again.execute()]

    first = echo({"message": "get_password", "username": "user 0"})
    with FakeService(answer_then_hang_up(first, unanswered=255), answer_all(echo)) as service:
        *got, saved, alive = use(service, work)
    assert [result.username for result in got] == [f"user {number}" for number in range(600)]
    assert (saved, alive) == (Saved("alice", 1), None)
    assert service.requests[1] == service.requests[256]


def test_a_pipeline_of_great_messages_does_not_block() -> None:
    """Neither side's buffers fill up while both wait for the other to read."""
    name = "x" * 100_000

    async def work(book: AsyncClient) -> set[str]:
        async with book.pipeline() as many:
            for _ in range(256):
                many.get_password(name)
        return {result.username for result in many.results}

    with FakeService(answer_all(echo)) as service:
        assert use(service, work) == {name}


def test_a_client_can_be_made_outside_of_event_loops_and_used_in_several() -> None:
    """It belongs to a loop only while it has connections there."""
    with FakeService(answer_all(echo)) as service:
        book = AsyncClient(service.url)

        async def work() -> None:
            await book.ping()
            await book.close()
            await book.close()

        asyncio.run(work())
        asyncio.run(work())
        eventually(lambda: service.open == 0, "the connections were closed")
        assert service.connections == 2

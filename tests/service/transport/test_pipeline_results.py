"""What a pipeline's methods return: the result of that call, by its type, once it was sent."""

import asyncio
from typing import assert_type

import pytest

from pwserver import AsyncClient, Client, ConnectionFailed, Pending, Saved, UnknownUser, User
from tests.support.fake_service import ALIVE, FakeService, answer_then_hang_up
from tests.support.harness import Service


def test_each_call_has_its_own_typed_result(shared_service: Service) -> None:
    """An editor knows what it is, and a refusal is raised where its result is asked for."""
    with Client(shared_service.url) as book:
        with book.pipeline() as many:
            saved = many.save_password("one", username="typed")
            unknown = many.get_password("nobody here")
            valid = many.verify_password("typed", "one")
            page = many.list_users(prefix="typed")
        assert_type(saved, Pending[Saved])
        assert saved.result().version == 1
        assert assert_type(valid.result(), bool)
        assert [user.username for user in assert_type(page.result().users, list[User])] == ["typed"]
        with pytest.raises(UnknownUser, match=r"^There is no user 'nobody here'\.$"):
            unknown.result()
        assert many.results[0] is saved.result()
        assert isinstance(many.results[1], UnknownUser)


def test_both_pipelines_return_the_same(shared_service: Service) -> None:
    """That of an `AsyncClient` as well."""

    async def main() -> Saved:
        async with AsyncClient(shared_service.url) as book:
            async with book.pipeline() as many:
                saved = many.save_password("one", username="typed too")
            return saved.result()

    assert asyncio.run(main()) == Saved("typed too", 1)


def test_a_result_is_there_only_after_it_was_sent() -> None:
    """Before, asking for it is a mistake; where nothing was answered, it is why."""
    with (
        FakeService(answer_then_hang_up(ALIVE, unanswered=1)) as service,
        Client(service.url, attempts_max=1) as book,
    ):
        many = book.pipeline()
        alive = many.ping()
        with pytest.raises(RuntimeError, match="was not sent"):
            alive.result()
        many.execute()
        assert alive.result() is None
        lost = many.ping()
        with pytest.raises(ConnectionFailed):
            many.execute()
        with pytest.raises(ConnectionFailed):
            lost.result()


def test_the_url_is_taken_from_the_environment(
    shared_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none is given, `PWSERVER_URL` says where the service is, to both clients."""
    monkeypatch.setenv("PWSERVER_URL", shared_service.url)
    with Client() as book:
        book.ping()

    async def main() -> None:
        async with AsyncClient() as book:
            await book.ping()

    asyncio.run(main())
    monkeypatch.setenv("PWSERVER_URL", "pwserver://127.0.0.1:1")
    with Client(shared_service.url) as book:
        book.ping()

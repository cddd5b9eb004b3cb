"""The client library against the real service: what an application can rely on."""

import asyncio
import itertools
import string
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from pwserver import (
    AsyncClient,
    Client,
    FateUnknown,
    Generated,
    InvalidMessage,
    NotSaved,
    Page,
    Password,
    PwserverError,
    Saved,
    SavedVersion,
    Status,
    Strength,
    UnknownUser,
    UnknownVersion,
    User,
)
from tests.conftest import Start
from tests.support.harness import Service, eventually
from tests.support.shell import client_of


@pytest.fixture
def book(shared_service: Service) -> Iterator[Client]:
    """Return a client of a service that the tests of this file share."""
    with client_of(shared_service) as client:
        yield client


def is_now(time: datetime) -> bool:
    """Tell whether a time, in UTC, is that of this test."""
    return time.utcoffset() == timedelta(0) and abs(datetime.now(UTC) - time).seconds < 60


def test_a_password_goes_through_its_whole_life(book: Client) -> None:
    """Saved, read, verified, replaced, restored, labelled, listed, and deleted."""
    before = book.number_of_users()
    assert book.save_password("one", username="alice", labels=["work"]) == Saved("alice", 1)
    assert book.save_password("\N{SNOWMAN}\n", username="alice") == Saved("alice", 2)
    assert book.number_of_users() == before + 1
    newest, oldest = book.get_password("alice"), book.get_password("alice", version=1)
    assert newest == Password("alice", "\N{SNOWMAN}\n", 2, newest.time_saved)
    assert oldest == Password("alice", "one", 1, oldest.time_saved)
    assert is_now(newest.time_saved)
    assert oldest.time_saved <= newest.time_saved
    assert book.verify_password("alice", "\N{SNOWMAN}\n") is True
    assert book.verify_password("alice", "one") is False
    history = [SavedVersion(2, newest.time_saved), SavedVersion(1, oldest.time_saved)]
    assert book.password_history("alice") == history
    assert book.restore_password("alice", 1) == Saved("alice", 3)
    assert book.get_password("alice").password == "one"
    (listed,) = book.list_users(prefix="alice").users
    assert listed == User("alice", ["work"], 3, listed.time_saved)
    assert book.label_user("alice", ["b", "a", "b"]) == ["b", "a"]
    assert next(book.users(prefix="alice")).labels == ["b", "a"]
    book.delete_user("alice")
    assert book.verify_password("alice", "one") is False
    assert list(book.users(prefix="alice")) == []
    assert book.number_of_users() == before


def test_a_password_without_a_name_makes_a_user(book: Client) -> None:
    """Its name is generated, is not told, and is found in a listing."""
    known = {user.username for user in book.users()}
    assert book.save_password("abc123") == Saved(None, None)
    (new,) = {user.username for user in book.users()} - known
    assert book.get_password(new).password == "abc123"


def test_passwords_are_generated_and_judged(book: Client) -> None:
    """A generated password is returned, and saved where a name says under which."""
    made = book.generate_password()
    assert made == Generated(made.password)
    assert len(made.password) == 20
    assert set(made.password) <= set(string.ascii_letters + string.digits)
    saved = book.generate_password(length=12, alphabet="ab", username="gen", labels=["new"])
    assert saved == Generated(saved.password, "gen", 1)
    assert len(saved.password) == 12
    assert book.get_password("gen").password == saved.password
    assert next(book.users(prefix="gen")).labels == ["new"]
    weak = book.check_password("password")
    assert weak == Strength(0, weak.warning, weak.suggestions)
    assert weak.warning
    assert book.check_password(made.password).strength == 4


def test_the_service_says_how_it_is(book: Client) -> None:
    """It is alive, and tells its users, workers and parts."""
    book.ping()
    status = eventually(lambda: (now := book.status()).workers and now, "workers are counted")
    assert status == Status(book.number_of_users(), 2, status.uptime_s, status.parts)
    assert 0 < status.uptime_s < 600
    assert {"pwserver", "python", "sqlite"} <= status.parts.keys()


def test_users_are_listed_over_many_pages(book: Client) -> None:
    """All of them, each once, in the order of their names; or those that have a label."""
    names = [f"page {number:04}" for number in range(250)]
    with book.pipeline() as many:
        for name in reversed(names):
            many.save_password(
                "x", username=name, labels=["even"] if int(name[-1]) % 2 == 0 else []
            )
    assert set(many.results) == {Saved(name, 1) for name in names}
    assert [user.username for user in book.users(prefix="page ")] == names
    assert [user.username for user in book.users(prefix="page ", label="even")] == names[::2]
    first = book.list_users(prefix="page ", limit=3)
    assert [user.username for user in first.users] == names[:3]
    assert first.after is not None
    rest = book.list_users(prefix="page 000", after=first.after)
    assert rest == Page([*book.users(prefix="page 000")][3:], None)


UNKNOWN: list[Callable[[Client], object]] = [
    lambda book: book.get_password("nobody"),
    lambda book: book.get_password("nobody", version=1),
    lambda book: book.password_history("nobody"),
    lambda book: book.restore_password("nobody", 1),
    lambda book: book.label_user("nobody", []),
    lambda book: book.delete_user("nobody"),
]
INVALID: list[Callable[[Client], object]] = [
    lambda book: book.save_password("x", username="two\nlines"),
    lambda book: book.save_password("x", username=" blank"),
    lambda book: book.save_password("x", username="n" * 129),
    lambda book: book.save_password("", username="known"),
    lambda book: book.save_password("x" * 4097),
    lambda book: book.save_password("x", username="known", labels=["l"] * 17),
    lambda book: book.get_password(""),
    lambda book: book.restore_password("known", 0),
    lambda book: book.list_users(limit=1001),
    lambda book: book.generate_password(length=3),
]


def test_a_no_is_an_exception_that_says_which(book: Client) -> None:
    """The class says what is wrong, nothing has happened, and the client goes on."""
    book.save_password("x", username="known")
    for error, calls in [(UnknownUser, UNKNOWN), (InvalidMessage, INVALID)]:
        for call in calls:
            with pytest.raises(error) as raised:
                call(book)
            assert type(raised.value) is error
    with pytest.raises(UnknownVersion):
        book.get_password("known", version=2)
    with pytest.raises(UnknownVersion):
        book.restore_password("known", 2)
    assert [version.version for version in book.password_history("known")] == [1]


def test_in_a_pipeline_each_call_has_its_own_answer(book: Client) -> None:
    """One that is refused holds up none of those behind it, which see what was done before."""
    with book.pipeline() as many:
        many.save_password("one", username="piped")
        many.get_password("piped")
        many.get_password("piped", version=7)
        many.delete_user("piped")
        many.verify_password("piped", "one")
    saved, found, refused, deleted, valid = many.results
    assert (saved, found.password, deleted, valid) == (Saved("piped", 1), "one", None, False)
    assert isinstance(refused, UnknownVersion)


def test_the_twin_does_the_same(shared_service: Service) -> None:
    """The same methods with the same results, many at a time in one thread."""

    async def main() -> None:
        async with AsyncClient(shared_service.url) as book:
            saved = await asyncio.gather(
                *(book.save_password(f"{n}", username=f"async {n % 10}") for n in range(50))
            )
            assert sorted((each.username, each.version) for each in saved) == [
                (f"async {n}", version) for n in range(10) for version in range(1, 6)
            ]
            listed = [user async for user in book.users(prefix="async ")]
            assert [(user.username, user.version) for user in listed] == [
                (f"async {n}", 5) for n in range(10)
            ]
            found = await asyncio.gather(*(book.get_password(user.username) for user in listed))
            assert [int(each.password) % 10 for each in found] == list(range(10))
            assert await book.verify_password("async 0", found[0].password)
            await book.delete_user("async 0")
            with pytest.raises(UnknownUser):
                await book.get_password("async 0")
            async with book.pipeline() as many:
                many.save_password("a", username="async 0")
                many.generate_password()
            first, second = many.results
            assert first == Saved("async 0", 1)
            assert len(second.password) == 20
            assert (await book.status()).number_of_users == await book.number_of_users()

    asyncio.run(main())


def test_threads_share_a_client(shared_service: Service) -> None:
    """Each thread gets its own answers, over fewer connections than there are threads."""
    with Client(shared_service.url, connections_max=3) as book:

        def use(number: int) -> None:
            name = f"thread {number}"
            for version in range(1, 6):
                password = f"{number} {version}"
                assert book.save_password(password, username=name) == Saved(name, version)
                assert book.get_password(name).password == password
                assert book.verify_password(name, password)

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(use, range(16)))


def test_two_clients_that_save_one_name_lose_nothing(start: Start) -> None:
    """Each save makes a version of its own, and every version is what its saver was told."""
    service = start("--versions-kept", "1000")

    def save(client: str) -> list[tuple[int | None, str]]:
        with client_of(service) as book:
            passwords = [f"{client} {number}" for number in range(100)]
            return [(book.save_password(each, username="one").version, each) for each in passwords]

    with ThreadPoolExecutor(2) as threads:
        saved = dict(itertools.chain(*threads.map(save, ["first", "second"])))
    assert set(saved) == set(range(1, 201))
    with client_of(service) as book:
        assert [each.version for each in book.password_history("one")] == list(range(200, 0, -1))
        for version, password in saved.items():
            assert book.get_password("one", version=version).password == password


def test_a_restart_of_the_service_goes_unnoticed(start: Start) -> None:
    """Between two calls, even where the next must not be sent twice; what was saved is there."""
    service = start()
    with client_of(service) as book:
        book.save_password("one", username="alice")
        service.stop()
        service = start(port=service.port)
        assert book.save_password("two", username="alice") == Saved("alice", 2)
        service.stop()
        start(port=service.port)
        book.delete_user("alice")
        assert book.number_of_users() == 0


def test_a_save_waits_for_a_service_that_is_being_restarted(start: Start) -> None:
    """A call made while nobody listens goes on when the service is back."""
    service = start()
    with (
        Client(service.url, attempts_max=100, timeout_s=60) as book,
        ThreadPoolExecutor(1) as thread,
    ):
        book.ping()
        service.kill_everything()
        saved = thread.submit(book.save_password, "one", username="alice")
        start(port=service.port)
        assert saved.result() == Saved("alice", 1)


VICTIMS = ["worker 1", "worker 2", "worker 1", "worker 2"]


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
def test_every_save_is_done_once_whatever_is_killed(start: Start, named: bool) -> None:
    """While both workers are killed, users are as many as saves that returned.

    More only by those whose fate the client said nobody knows.
    """
    service = start()
    stop = threading.Event()
    saved: list[Saved] = []
    unknown: list[FateUnknown] = []
    failures: list[PwserverError] = []
    numbers = itertools.count()

    def save(book: Client) -> None:
        while not stop.is_set():
            try:
                name = f"user {next(numbers)}" if named else None
                saved.append(book.save_password("abc123", username=name))
            except NotSaved:
                pass
            except FateUnknown as error:
                unknown.append(error)
            except PwserverError as error:
                failures.append(error)
                return

    def more_saved_than(number: int) -> Callable[[], bool]:
        return lambda: len(saved) > number

    with client_of(service) as book:
        threads = [threading.Thread(target=save, args=(book,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for victim in VICTIMS:
                eventually(more_saved_than(len(saved) + 50), "saves go on")
                service.replace(victim)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert len(saved) <= book.number_of_users() <= len(saved) + len(unknown)
        assert {user.version for user in book.users()} == {1}, "none was saved a second time"
        assert len(list(book.users())) == book.number_of_users()

"""`if_version`: a password is saved only over the version that is known, or as a new user."""

import copy
import itertools
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pwserver import VersionConflict
from tests.support.books_wire import (
    DENIED,
    Request,
    ask_all,
    on_each_worker,
    password_of,
    save,
    saved,
    versions_of,
)
from tests.support.harness import Peer, Service
from tests.support.shell import client_of, shell_at

NEWEST_IS_1 = {"message": "Not saved!", "error": "The newest version is 1.", "version": 1}
THERE_IS_NONE = {"message": "Not saved!", "error": "There is no such user.", "version": 0}

_numbers = itertools.count()


def test_the_error_goes_from_process_to_process() -> None:
    """As a pool of processes hands it on; one that cannot be made again would hang or break it."""
    error = VersionConflict("The newest version is another.", 3)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), str(again), again.version) == (VersionConflict, str(error), 3)


@pytest.fixture
def owner(shared_service: Service) -> Iterator[Peer]:
    """Return a connection to the service of this file's tests."""
    with shared_service.owner() as connected:
        yield connected


@pytest.fixture
def name() -> str:
    """Return a username that nobody has."""
    return f"name {next(_numbers)}"


def generate(name: str, **more: object) -> Request:
    return {"message": "generate_password", "username": name, **more}


def test_a_password_is_saved_over_the_version_that_is_known(owner: Peer, name: str) -> None:
    """0 is for who is not there yet; another version is told, and nothing is saved."""
    assert owner.ask(save(name, "one", if_version=1)) == THERE_IS_NONE
    assert owner.ask(save(name, "one", if_version=0)) == saved(name, 1)
    assert owner.ask(save(name, "other", if_version=0)) == NEWEST_IS_1
    assert owner.ask(save(name, "other", if_version=2)) == NEWEST_IS_1
    assert owner.ask(save(name, "two", if_version=1)) == saved(name, 2)
    assert versions_of(owner, name) == [2, 1]
    assert password_of(owner, name) == "two"


def test_a_generated_password_is_saved_on_the_same_condition(owner: Peer, name: str) -> None:
    """What is not saved is not given out."""
    assert owner.ask(generate(name, if_version=1)) == THERE_IS_NONE
    made = owner.ask(generate(name, if_version=0))
    assert made["version"] == 1
    assert owner.ask(generate(name, if_version=0)) == NEWEST_IS_1
    assert password_of(owner, name) == made["password"]


def test_labels_are_not_set_where_nothing_is_saved(owner: Peer, name: str) -> None:
    """A refused save leaves all of the user as it was."""
    owner.ask(save(name, labels=["x"]))
    assert owner.ask(save(name, labels=["y"], if_version=0)) == NEWEST_IS_1
    listed = owner.ask({"message": "list_users", "prefix": name, "limit": 1})["users"]
    assert listed[0]["labels"] == ["x"]


def test_of_a_burst_the_first_is_saved(owner: Peer, name: str) -> None:
    """Each request sees those before it."""
    burst = [save(name, str(number), if_version=0) for number in range(20)]
    assert ask_all(owner, burst) == [saved(name, 1), *[NEWEST_IS_1] * 19]
    assert password_of(owner, name) == "0"


def test_of_many_at_once_one_is_saved(shared_service: Service, name: str) -> None:
    """Over connections to all workers, for each version: none is saved over another's."""
    with on_each_worker(shared_service) as (first, second):
        for version in range(30):
            for peer in (first, second):
                peer.send(save(name, f"{version}", if_version=version))
            replies = [first.reply(), second.reply()]
            assert saved(name, version + 1) in replies
            (refused,) = [reply for reply in replies if reply["message"] == "Not saved!"]
            assert refused["version"] == version + 1


def test_a_save_sent_again_is_answered_as_the_first_time(owner: Peer, name: str) -> None:
    """It was saved over the version that it knew, which is not the newest any more."""
    request = save(name, "one", if_version=0, request_id=f"first of {name}")
    assert ask_all(owner, [request] * 3) == [saved(name, 1)] * 3
    owner.ask(save(name, "two"))
    assert owner.ask(request) == saved(name, 1)
    made = generate(name, if_version=2, request_id=f"second of {name}")
    assert owner.ask(made) == owner.ask(made)
    assert versions_of(owner, name) == [3, 2, 1]


def test_a_refused_save_is_not_remembered(owner: Peer, name: str) -> None:
    """Sent again when the version is the one it knows, it is saved."""
    request = save(name, "two", if_version=1, request_id=f"id of {name}")
    assert owner.ask(request) == THERE_IS_NONE
    owner.ask(save(name, "one"))
    assert owner.ask(request) == saved(name, 2)


def test_guests_are_denied(shared_service: Service, owner: Peer, name: str) -> None:
    """They save under no name, and the answer is the same for all names."""
    with shared_service.peer() as guest:
        owner.ask(save(name))
        for each in (name, "nobody of the sort"):
            denied = guest.ask(save(each, if_version=0))
            assert denied == DENIED
            assert denied == guest.ask(generate(each, if_version=1))
    assert versions_of(owner, name) == [1]


@pytest.mark.parametrize(
    "request_",
    [save(if_version=0), {"message": "generate_password", "if_version": 0}],
    ids=["save", "generate"],
)
def test_a_version_is_of_a_user(owner: Peer, request_: Request) -> None:
    """Without a username there is none that could be known."""
    users = owner.count()
    refused = owner.ask(request_)
    assert refused["message"] == "Invalid message!"
    assert refused["error"].startswith('"username" is missing')
    assert owner.count() == users


def test_the_client_raises_which_version_there_is(shared_service: Service, name: str) -> None:
    """Two that read, change and save lose nothing of each other."""

    versions: list[tuple[int, int]] = []

    def add(letter: str) -> None:
        with client_of(shared_service) as book:
            while True:
                found = book.get_password(name)
                try:
                    book.save_password(
                        found.password + letter, username=name, if_version=found.version
                    )
                except VersionConflict as conflict:
                    versions.append((found.version, conflict.version))
                else:
                    return

    with client_of(shared_service) as book, ThreadPoolExecutor(8) as threads:
        book.save_password("a", username=name, if_version=0)
        with pytest.raises(VersionConflict, match=r"^The newest version is 1\.$"):
            book.generate_password(username=name, if_version=0)
        list(threads.map(add, "bcdefghi"))
        assert sorted(book.get_password(name).password) == list("abcdefghi")
    assert all(known < newest for known, newest in versions)


def test_an_import_overwrites_nothing(shared_service: Service, name: str) -> None:
    """In a pipeline, what is there already is refused and all the rest saved."""
    with client_of(shared_service) as book:
        book.save_password("mine", username=f"{name} 3")
        with book.pipeline() as many:
            for number in range(5):
                many.save_password("imported", username=f"{name} {number}", if_version=0)
        refused = [isinstance(each, VersionConflict) for each in many.results]
        assert refused == [False, False, False, True, False]
        assert book.get_password(f"{name} 3").password == "mine"


def test_the_commands_have_it(shared_service: Service, tmp_path: Path, name: str) -> None:
    """`save` and `generate` say which version there is, and exit as for any refusal."""
    shell = shell_at(shared_service, tmp_path)
    options = ("--username", name, "--if-version", "0")
    assert shell.run("save", *options, stdin="one\n").record["version"] == 1
    for command in ("save", "generate"):
        refused = shell.run(command, *options, stdin="two\n")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err == "pwserver: Not saved! The newest version is 1.\n"
    with client_of(shared_service) as book:
        assert book.get_password(name).password == "one"

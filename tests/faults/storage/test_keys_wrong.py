"""The key file is missing, wrong, open to others, or goes while the service runs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.canary import CANARY, WatchedService
from tests.faults.conftest import Start
from tests.faults.storage.books import USERS, assert_refused, password_of_user
from tests.support.books_wire import ask_all, password_of, save
from tests.support.harness import Service
from tests.support.shell import Shell
from workers.book.keyring import create_keyring, read_keyring, replace_keyring


def test_a_missing_key_is_refused(book: Path, start: Start) -> None:
    """A book without its key is not opened, and no new key is made; put back, it is."""
    key = book / "user_data.key"
    away = key.rename(book / "away.key")
    assert_refused(book, "put it back from your backup")
    assert not key.exists()
    away.rename(key)
    with start().peer() as peer:
        assert peer.count() == USERS


def test_a_wrong_key_is_refused(book: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The key of another book is found out before anything is sealed with it."""
    other = tmp_path_factory.mktemp("other") / "user_data.key"
    create_keyring(other)
    shutil.copy(other, book)
    assert_refused(book, r"not the one that user_data\.db was sealed with\. Put the right key")


@pytest.mark.parametrize("mode", [0o644, 0o620], ids=oct)
def test_a_key_that_others_may_use_is_refused(book: Path, mode: int) -> None:
    """The message says what to type."""
    (book / "user_data.key").chmod(mode)
    assert_refused(book, "chmod 600 user_data.key")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"pwserver"], ids=["empty", "NUL", "text"])
def test_what_is_no_key_is_refused(book: Path, content: bytes) -> None:
    """A key file that was emptied or overwritten is said to be none, and stays as it is."""
    (book / "user_data.key").write_bytes(content)
    assert_refused(book, "is not a key file of pwserver, .* Put it back from your backup")


def lose_one(path: Path) -> None:
    """Take the older key out of a key file."""
    replace_keyring(path, read_keyring(path).without(1))


def replace_one(path: Path) -> None:
    """Have another key stand under the number of the older one."""
    other = path.with_name("other.key")
    create_keyring(other)
    ours, others = path.read_text().splitlines(), other.read_text().splitlines()
    lines = [next(b for b in others if " 1 " in b) if " 1 " in a else a for a in ours]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("mishap", "words"),
    [
        (lose_one, "needs key 1, which the key file lacks"),
        (replace_one, "the key is not the one that user_data.db was sealed with"),
    ],
    ids=["lost", "wrong"],
)
def test_a_key_that_lacks_is_found_at_the_start(
    book: Path, start: Start, reader_token: str, mishap: Callable[[Path], None], words: str
) -> None:
    """Also one of several that nothing is sealed with now; nothing is served, nothing changed."""
    for command in ("add", "rotate", "add"):
        assert Shell(book).run("key", command).code == 0
    key = book / "user_data.key"
    good = key.read_bytes()
    mishap(key)
    assert_refused(book, words)
    key.write_bytes(good)
    with start().peer() as peer:
        peer.authenticate(reader_token)
        for number in range(USERS):
            assert password_of(peer, f"user {number:02}") == password_of_user(number, 2)


def test_a_key_file_of_another_service_is_not_taken(service: Service) -> None:
    """Put in place of ours while the service runs, it is used for nothing: that would be lost."""
    with service.owner() as peer:
        assert peer.ask(save("before", f"{CANARY} 1"))["message"] == "Password saved!"
    good = service.key_file.read_bytes()
    service.key_file.unlink()
    create_keyring(service.key_file)
    for name in ("worker 1", "worker 2"):
        service.replace(name)
    with service.owner() as peer:
        assert peer.ask(save("after", f"{CANARY} 2"))["message"] == "Password saved!"
    assert "was replaced by a key file of another service. Put it back." in service.stderr
    service.key_file.write_bytes(good)
    for name in ("worker 1", "worker 2"):
        service.replace(name)
    with service.owner() as peer:
        assert password_of(peer, "before") == f"{CANARY} 1"
        assert password_of(peer, "after") == f"{CANARY} 2"


def test_a_key_file_that_goes_stops_nobody(service: WatchedService) -> None:
    """Removed while the service runs, it is asked for in the log; all is served, and saved."""
    with service.owner() as peer:
        ask_all(peer, [save("before", f"{CANARY} 1")])
    service.key_file.unlink()
    for name in ("worker 1", "worker 2"):
        service.replace(name)
    with service.owner() as peer:
        ask_all(peer, [save("after", f"{CANARY} 2")])
        assert password_of(peer, "before") == f"{CANARY} 1"
        assert password_of(peer, "after") == f"{CANARY} 2"
    assert "The keys known so far are used." in service.stderr
    assert service.stop() == 0
    assert_refused(service.folder, "put it back from your backup")
    assert not service.key_file.exists(), "nobody makes another then, either"

"""The database is read-only, locked or damaged: that is said, and no wrong password given out."""

import contextlib
import random
import re
import subprocess
import threading
from pathlib import Path

import apsw
import pytest

from tests.faults.conftest import Start
from tests.faults.inject import mounted, obey_modes
from tests.faults.storage.books import USERS, assert_refused, password_of_user
from tests.support.books_wire import ask_all, get
from tests.support.harness import Peer

# --- It may not be written to. ---


@pytest.mark.root("to mount a disk")
def test_a_read_only_disk_is_refused(book: Path, start: Start) -> None:
    """A book on a disk that is mounted read-only is not opened; then it is, with all in it."""
    with mounted(book, "--bind", str(book)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(book)], check=True)
        assert_refused(book, "is on a file system that is mounted read-only")
    with start().peer() as peer:
        assert peer.count() == USERS


@pytest.mark.parametrize(
    ("what", "mode"),
    [
        ("user_data.db", 0o400),
        pytest.param("user_data.db", 0, marks=pytest.mark.root("to read what nobody may")),
        (".", 0o500),
    ],
)
def test_modes_that_forbid_writing_are_refused(
    book: Path, start: Start, what: str, mode: int
) -> None:
    """Whether of the file or of its folder; the book is as it was when the modes are."""
    (book / what).chmod(mode)
    assert_refused(book, r"user_data\.(db|lock) cannot be", preexec_fn=obey_modes)
    (book / what).chmod(0o700)
    with start().peer() as peer:
        assert peer.count() == USERS


def test_a_locked_database_is_said_and_survived(start: Start, tmp_path: Path) -> None:
    """Another program that locks the database makes saves wait, then fail, and counts go on."""
    service = start("--save-timeout-s", "1")
    with service.peer() as peer, service.peer() as other:
        peer.save()
        intruder = apsw.Connection(str(tmp_path / "user_data.db"))
        intruder.execute("BEGIN IMMEDIATE")
        replies: list[str] = []
        waiting = threading.Thread(target=lambda: replies.append(peer.save()["message"]))
        waiting.start()
        assert other.count() == 1
        waiting.join()
        assert replies == ["Not saved!"]
        intruder.execute("COMMIT")
        intruder.close()
        assert peer.save() == {"message": "Password saved!"}


# --- It is damaged. ---


def passwords(peer: Peer) -> dict[int, str | None]:
    """Return the password that is answered for each user of the book, None where there is none."""
    replies = ask_all(peer, [get(f"user {number:02}") for number in range(USERS)])
    return {number: reply.get("password") for number, reply in enumerate(replies)}


def flip_bytes(file: Path, seed: int, flips: int) -> None:
    """Change a bit in some bytes of a file, in places that the seed says."""
    rng = random.Random(seed)
    with file.open("r+b") as damaged:
        size = file.stat().st_size
        for _ in range(flips):
            position = rng.randrange(size)
            damaged.seek(position)
            byte = damaged.read(1)[0]
            damaged.seek(position)
            damaged.write(bytes([byte ^ 1 << rng.randrange(8)]))


@pytest.mark.parametrize("damage", ["header", "first page", "cut", "emptied"])
def test_a_book_that_cannot_be_read_is_refused(book: Path, damage: str) -> None:
    """It is said, with what to do, and nothing is made in its place."""
    database = book / "user_data.db"
    content = bytearray(database.read_bytes())
    if damage == "header":
        content[0:100] = bytes(100)
    elif damage == "first page":
        content[100:4096] = random.Random(1).randbytes(3996)
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[:] = bytes(len(content))
    database.write_bytes(content)
    assert_refused(book, "[Rr]estore it from a backup")


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_never_give_a_wrong_password(
    book: Path, start: Start, reader_token: str, seed: int
) -> None:
    """A book that was damaged at rest is refused, or answers each password right or not at all."""
    database = book / "user_data.db"
    flip_bytes(database, seed, 1 + 4 * seed)
    size = database.stat().st_size
    try:
        service = start()
    except AssertionError as refused:
        reason = str(refused)
    else:
        reason = ""
        with service.peer() as peer:
            peer.authenticate(reader_token)
            for number, password in passwords(peer).items():
                assert password in (None, password_of_user(number, 2))
    assert not reason or re.search("[Rr]estore it from a backup", reason), reason
    assert database.stat().st_size >= size, "nothing is made in its place"


@pytest.mark.parametrize("seed", range(3))
def test_bits_flipped_while_running_never_give_a_wrong_password(
    book: Path, start: Start, reader_token: str, seed: int
) -> None:
    """Damaged under a running service: right or not at all, saves are done, or refused plainly."""
    service = start()
    flip_bytes(book / "user_data.db", seed, 40)
    answered = 0
    with service.peer() as peer, contextlib.suppress(ConnectionError, AssertionError):
        peer.authenticate(reader_token)
        for _ in range(3):
            for number, password in passwords(peer).items():
                assert password in (None, password_of_user(number, 2))
                answered += 1
            reply = peer.save()
            assert reply["message"] in ("Password saved!", "Not saved!", "Unavailable!")
    assert answered >= USERS
    if service.process.poll() is not None:
        assert service.ended() == 6

"""What is in the database was put there by somebody else: another program, or a forger."""

import contextlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.faults.canary import CANARY
from tests.faults.storage.books import assert_refused
from tests.support.books_wire import ask_all, save
from tests.support.harness import Service


def text(path: Path) -> None:
    """Make a file that is no database."""
    path.write_text("my notes\n" * 100)


def of_another_program(path: Path) -> None:
    """Make a database with another program's table."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (text)")


def of_a_later_version(path: Path) -> None:
    """Make a database look as a later release might have it."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (text, "file is not a database"),
        (of_another_program, "is a database of another program"),
        (of_a_later_version, "has schema version 99"),
    ],
)
def test_what_is_no_book_of_ours_is_refused(
    book: Path, make: Callable[[Path], None], reason: str
) -> None:
    """It is said what it is, and not touched."""
    if make is not of_a_later_version:
        (book / "user_data.db").unlink()
    make(book / "user_data.db")
    assert_refused(book, reason)


TAMPERED = {
    "sealed = zeroblob(46)": "get_password",
    "sealed = 'a text'": "get_password",
    "sealed = 5": "verify_password",
    "id = -1": "get_password",
    "id = id + 1": "verify_password",
    "version = -1": "get_password",
    "version = 2": "get_password",
    "key_id = 2": "get_password",
    "older = x'00'": "get_password",
    "labels = '[]'": "get_password",
    "saved_at_ms = saved_at_ms + 1": "verify_password",
    "saved_at_ms = 1 << 62": "password_history",
    "labels = 'no JSON'": "list_users",
    "labels = x'ff'": "list_users",
}
"""What somebody did to a row, and what is asked for then."""
SECRETS = ("get_password", "verify_password")


def test_an_altered_row_costs_its_own_request_only(service: Service, tmp_path: Path) -> None:
    """What was tampered with is not given out, but answered; no process dies of it."""
    names = [f"user {number}" for number in range(len(TAMPERED))]
    with service.owner() as peer:
        ask_all(peer, [save(name, CANARY, labels=["a"]) for name in names])
    children = service.all_children()
    intruder = apsw.Connection(str(tmp_path / "user_data.db"))
    for name, change in zip(names, TAMPERED, strict=True):
        intruder.execute(f"UPDATE user SET {change} WHERE username = ?", (name,))
    intruder.close()
    answers = {}
    for name, (change, command) in zip(names, TAMPERED.items(), strict=True):
        asked: dict[str, str] = {"message": command, "username": name, "password": CANARY}
        if command == "list_users":
            asked = {"message": command, "prefix": name, "label": "a"}
        answers[change] = "(no reply)"
        with service.owner() as peer, contextlib.suppress(OSError, AssertionError, ValueError):
            answers[change] = peer.ask(asked)["message"]
    assert "(no reply)" not in answers.values(), answers
    assert service.children() == children
    secrets = [answers[change] for change, command in TAMPERED.items() if command in SECRETS]
    assert set(secrets) == {"Unavailable!"}
    assert len(secrets) == 11
    altered = re.findall("the password of user .* cannot be given out", service.stderr)
    assert len(altered) == len(secrets), service.stderr

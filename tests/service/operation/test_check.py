"""`pwserver check`: whatever is wrong with a book is found and said, and nothing is changed.

The book is one that a service made; the damage is what disks, other programs and people do.
"""

import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pwserver import Client
from tests.conftest import Start
from tests.support.books import contents
from tests.support.harness import Service
from tests.support.shell import Shell

NAMES = [f"user {number}" for number in range(300)]
PAGE_BYTES = 4096


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a service has made a book, most of it an application's."""
    folder = tmp_path_factory.mktemp("made")
    with Service(folder) as service:
        service.wait_until_listening()
        token = service.add_application("shop")
        with Client(f"pwserver://{token}@127.0.0.1:{service.port}") as shop:
            for name in NAMES:
                shop.save_password(f"the first of {name}", username=name)
            shop.save_password("the second", username=NAMES[0])
        with service.peer() as guest:
            guest.save()
        assert service.stop() == 0
    (folder / "stderr").unlink()
    return folder


@pytest.fixture
def shell(made: Path, tmp_path: Path) -> Shell:
    """Return a shell in a folder with a copy of the book."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Shell(tmp_path)


def test_a_good_book_is_in_order(shell: Shell) -> None:
    """It is said how much was looked at; not a byte is another afterwards."""
    before = contents(shell.folder)
    ran = shell.run("check")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{len(NAMES) + 1} users, 1 applications: all in order.\n"
    assert contents(shell.folder) == before


def test_a_book_in_use_is_checked(start: Start, tmp_path: Path) -> None:
    """Beside a running service, which goes on; what is only in the log is looked at as well."""
    service = start()
    with service.peer() as peer:
        for number in range(20):
            peer.save(f"password {number}")
        assert Shell(tmp_path).run("check").out.startswith("20 users, 0 applications")
        peer.save()
    service.kill_everything()
    assert Shell(tmp_path).run("check").out.startswith("21 users")


def altering(statement: str) -> Callable[[Path], None]:
    """Return what somebody does who can write to the database, and has no key."""

    def alter(folder: Path) -> None:
        with sqlite3.connect(folder / "user_data.db") as connection:
            connection.execute("PRAGMA writable_schema = 1")
            connection.execute(statement)
        connection.close()

    return alter


def without_index_entries(folder: Path) -> None:
    """Make of the index of names one that has none of them."""
    with sqlite3.connect(folder / "user_data.db") as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'user_name'"
        ).fetchone()
    connection.close()
    empty_leaf = b"\x0a\x00\x00\x00\x00\x10\x00\x00"
    overwrite(folder, root - 1, empty_leaf)


def zero_page(folder: Path) -> None:
    """Lose a page in the middle of the table, as a disk does."""
    pages = (folder / "user_data.db").stat().st_size // PAGE_BYTES
    content = (folder / "user_data.db").read_bytes()
    page = next(
        page
        for page in range(pages // 3, pages)
        if content[page * PAGE_BYTES] == 13  # a leaf of a table
    )
    overwrite(folder, page, bytes(PAGE_BYTES))


def overwrite(folder: Path, page: int, data: bytes) -> None:
    with open(folder / "user_data.db", "r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(data)


def open_to_all(name: str, mode: int) -> Callable[[Path], None]:
    """Return what gives others a right to a file."""
    return lambda folder: (folder / name).chmod(mode)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a sealed password": (
        altering("UPDATE user SET sealed = zeroblob(60) WHERE username = 'user 7'"),
        r"user 7: the password of user \d+ cannot be given out: .+",
    ),
    "an older version": (
        altering("UPDATE user SET older = zeroblob(99) WHERE older IS NOT NULL"),
        r"user 0: the password of user \d+ cannot be given out: .+",
    ),
    "rows exchanged": (
        altering("UPDATE user SET labels = '[\"admin\"]' WHERE username IS NULL"),
        r"the password of user \d+ cannot be given out: .+",
    ),
    "many passwords": (
        altering("UPDATE user SET saved_at_ms = 1"),
        r"301 users in all have a password that cannot be given out\.",
    ),
    "an application": (
        altering("UPDATE application SET may = 'get'"),
        r"the application 'shop' was altered by somebody without the key\.",
    ),
    "no application": (
        altering("DELETE FROM application"),
        r"300 users are in book 1, which nobody has\.",
    ),
    "an index": (without_index_entries, r"user_data\.db is damaged: .+ index .+\."),
    "a page": (zero_page, r"user_data\.db is damaged: .+\."),
    "what is behind a lost page": (zero_page, r"after \d+ users no more could be read: .+\."),
    "a readable database": (
        open_to_all("user_data.db", 0o644),
        r"user_data\.db may be used by others \(mode 644\)\. Run: chmod 600 user_data\.db",
    ),
    "a folder open to all": (
        lambda folder: folder.chmod(0o777),
        r"everybody may put other files in place of those in .+\. Run: chmod o-w .+",
    ),
    "a key left lying about": (
        lambda folder: (folder / "user_data.key.x1y2").touch(),
        r"user_data\.key\.x1y2 is left of a change of keys .+\. Run: rm user_data\.key\.x1y2",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found(shell: Shell, what: str) -> None:
    """One sentence for it, exit code 5, nothing changed, and the rest is looked at all the same."""
    damage, sentence = DAMAGE[what]
    damage(shell.folder)
    before = contents(shell.folder)
    ran = shell.run("check")
    assert (ran.code, ran.out) == (5, "")
    *findings, end = ran.err.splitlines()
    assert [finding for finding in findings if re.fullmatch(sentence, finding)], ran.err
    assert end == "pwserver: user_data.db is not in order, as said above. Nothing was changed."
    assert contents(shell.folder) == before


@pytest.mark.parametrize(
    ("name", "mode", "sentence"),
    [
        ("user_data.key", 0o644, "Run: chmod 600 user_data.key"),
        ("user_data.key", None, "put it back from your backup"),
        ("user_data.db", None, "there is no password book user_data.db yet"),
    ],
)
def test_what_cannot_be_looked_at_is_said(
    shell: Shell, name: str, mode: int | None, sentence: str
) -> None:
    """Without a key that is safe, or without a book, there is nothing to check."""
    path = shell.folder / name
    path.unlink() if mode is None else path.chmod(mode)
    ran = shell.run("check")
    assert (ran.code, ran.out) == (5, "")
    assert sentence in ran.err


@pytest.mark.parametrize("command", ["serve", "setup"])
def test_a_lost_page_is_found_at_the_start(shell: Shell, command: str) -> None:
    """A service does not begin with a damaged book; it says what to do, and changes nothing."""
    zero_page(shell.folder)
    before = contents(shell.folder)
    flags = ("--port", "0") if command == "serve" else ()
    ran = shell.run(command, *flags)
    assert ran.code == 5
    assert "is damaged: " in ran.err
    assert "Restore it from a backup; `pwserver check` says what can still be read." in ran.err
    assert contents(shell.folder) == before

"""A book at rest, for a test to damage; and starts that must be refused."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.faults.canary import CANARY
from tests.support.books_wire import Request, ask_all, save
from tests.support.harness import PATIENCE_S, Service
from tests.support.shell import ENVIRONMENT

USERS = 40


def password_of_user(number: int, version: int) -> str:
    """Return what a user of the book has, or had, as a password: a long one, for many pages."""
    return f"{CANARY} {number} {version} " + f"{number % 10}" * 1000


def saves() -> list[Request]:
    """Return the saves that make the book: every user is known by name, and has two versions."""
    return [
        save(f"user {number:02}", password_of_user(number, version), labels=["x"])
        for number in range(USERS)
        for version in (1, 2)
    ]


def make_book(folder: Path) -> str:
    """Have a service make a book, and stop; return the token of who may read it."""
    with Service(folder) as service:
        with service.wait_until_listening().owner() as peer:
            assert {reply["message"] for reply in ask_all(peer, saves())} == {"Password saved!"}
        assert service.stop() == 0
    return service.token


def contents(folder: Path) -> dict[str, bytes]:
    """Return what is in those files of a folder that a start must not change."""
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if re.fullmatch(r"user_data\.(db(-wal)?|key)", file.name) and file.stat().st_size
    }


def assert_refused(folder: Path, reason: str, *flags: str, **popen: Any) -> None:
    """Start a service that must refuse, in one sentence with the reason, and change nothing."""
    before = contents(folder)
    ran = subprocess.run(
        [sys.executable, "-m", "pwserver", "serve", "--port", "0", *flags],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        **popen,
    )
    assert (ran.returncode, ran.stdout) == (5, ""), ran
    assert ran.stderr.startswith("pwserver: ")
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert re.search(reason, ran.stderr), ran.stderr
    assert "canary" not in ran.stderr
    assert contents(folder) == before

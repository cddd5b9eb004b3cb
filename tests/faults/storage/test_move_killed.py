"""A move that is killed at any of its steps is gone on with, and never are there two books.

The move runs in a process of its own, which ends without a word at its first step, then it is run
again and ends at its second, and so on.
"""

import itertools
import os
from pathlib import Path

import pytest

from tests.support.moves import is_usable, rows_of, varied_book
from tests.support.postgres import Postgres
from workers.admin import move as moving
from workers.admin.move import move
from workers.storage.movable import Movable
from workers.storage.postgres.moving import PostgresMovable
from workers.storage.sqlite.moving import SqliteMovable

KILLED = 9


def moved_or_killed_at(step: int, source: Movable, destination: Movable) -> bool:
    """Move in another process, and end that when it tells of a step; tell if it has moved."""
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, KILLED)
        return code == 0
    try:  # in the child: whatever happens, it ends here
        steps = itertools.count()

        def told(what: str, done: int, total: int) -> None:
            if next(steps) == step:
                os._exit(KILLED)

        move(source, destination, told)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.postgres
def test_a_move_that_is_killed_goes_on(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file to a server and back: what could be used in between was one of the two."""
    monkeypatch.setattr(moving, "_ROWS_TOGETHER", 4)
    places: list[Movable] = [
        varied_book(tmp_path / "book.db"),
        PostgresMovable(postgres.new_url()),
        SqliteMovable(tmp_path / "new.db"),
    ]
    before = rows_of(places[0])
    for source, destination in itertools.pairwise(places):
        for step in itertools.count():
            if moved_or_killed_at(step, source, destination):
                break
            assert not (is_usable(source) and is_usable(destination))
        assert step > 10
        assert (is_usable(source), is_usable(destination)) == (False, True)
        assert rows_of(destination) == before

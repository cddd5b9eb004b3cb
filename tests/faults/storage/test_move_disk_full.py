"""The disk is full where a move brings a book."""

import subprocess
from pathlib import Path

import pytest

from pwserver.errors import StorageFailed
from tests.faults.inject import mounted
from tests.support.moves import change, is_usable, quietly, rows_of, varied_book
from workers.admin.move import move
from workers.storage.sqlite.moving import SqliteMovable

MORE = """INSERT INTO user (id, book, key_id, sealed, saved_at_ms, version)
    WITH RECURSIVE n (id) AS (SELECT 1000 UNION ALL SELECT id + 1 FROM n WHERE id < 2000)
    SELECT id, 0, 1, zeroblob(5000), 0, 1 FROM n"""
"""5 MB of users."""


@pytest.mark.root("to mount a file system")
def test_a_move_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """It says so in a sentence, and the book is used where it was until all of it is moved."""
    source = varied_book(tmp_path / "book.db")
    change(source, MORE)
    before = rows_of(source)
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        destination = SqliteMovable(disk / "new.db")
        with pytest.raises(StorageFailed, match=r"full.*\.$") as refusal:
            move(source, destination, quietly)
        assert len(str(refusal.value).splitlines()) == 1
        assert (is_usable(source), is_usable(destination)) == (True, False)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        move(source, destination, quietly)
        assert (is_usable(source), is_usable(destination)) == (False, True)
        assert rows_of(destination) == before

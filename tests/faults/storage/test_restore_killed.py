"""A restore that is killed at any of its steps leaves the old book or the new one, never neither.

A step is a system call that changes a name or makes something durable. The restore runs in a
process of its own, which ends without a word before its first step, then before its second, and so
on. It is run again after each.
"""

import functools
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.backups import Book, make_book
from workers.admin.setup import prepare

OLD, NEW = 20, 25
STEPS = ("rename", "link", "unlink", "fsync", "write")
KILLED = 9


def killed_before(step: int, action: Callable[[], object]) -> bool:
    """Run an action in another process, and end that before a step; tell if there was one."""
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, KILLED)
        return code == KILLED
    try:  # in the child: whatever happens, it ends here
        steps = itertools.count()

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **more: Any) -> Any:
                if next(steps) == step:
                    os._exit(KILLED)
                return call(*arguments, **more)

            return called

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        action()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("log", ["", "left by a kill", "foreign"])
def test_a_restore_that_is_killed_goes_on(tmp_path: Path, log: str) -> None:
    """Whatever the service finds in between is whole, and a second run ends as the first would."""
    made = tmp_path / "made"
    made.mkdir()
    book = make_book(made, OLD)
    copy = tmp_path / "copy.db"
    book.back_up(copy)
    store = book.open()
    store.begin_log()
    book.save(store, NEW - OLD)
    if not log:
        store.close()
    folder = tmp_path / "used"
    shutil.copytree(made, folder)
    if log:  # the copy has it, as a kill would have left it
        store.close()
    if log == "foreign":
        shutil.copy(copy, folder / "user_data.db")
    shutil.rmtree(made)
    shutil.copytree(folder, made)

    for step in itertools.count():
        shutil.rmtree(folder)
        shutil.copytree(made, folder)
        used = Book(type(book.settings)(database=str(folder / "user_data.db")), book.keyring)
        if not killed_before(step, functools.partial(used.restore, copy)):
            break
        if log != "foreign":  # with that, no service starts before the restore either
            prepare(used.settings, to_serve=True)
            assert used.count() in (OLD, NEW)
        used.restore(copy)
        prepare(used.settings, to_serve=True)
        assert used.count() == OLD
        kept = [path for path in folder.glob("*.before-*") if not path.name.endswith("-wal")]
        assert kept
        assert all(os.stat(path).st_nlink == 1 for path in kept)
        assert not list(folder.glob("*.restoring*"))
    assert step > 6

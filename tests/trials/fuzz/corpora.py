"""The kept inputs of each fuzzer, and running them again without one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.trials.fuzz import commands, framing
from tests.trials.fuzz.seeds import seeds

CORPUS = Path(__file__).parent / "corpus"
TARGETS = ("framing", "commands")


def inputs(target: str) -> list[Path]:
    """Return the files that are kept, each named by the SHA-1 of what is in it."""
    return sorted((CORPUS / target).glob("[0-9a-f]*"))


def replace(target: str, folder: Path) -> None:
    """Keep the inputs of a folder, and no others."""
    kept = CORPUS / target
    names = {path.name for path in folder.iterdir()}
    for name in names:
        shutil.copy(folder / name, kept / name)
    for path in inputs(target):
        if path.name not in names:
            path.unlink()


@contextmanager
def checking(target: str, folder: Path) -> Iterator[Callable[[bytes], commands.Reached | None]]:
    """Give what is done with each input of a fuzzer; `folder` is for files that it needs."""
    if target == "framing":
        yield framing.check
    else:
        with closing(commands.Checker(folder)) as checker:
            yield checker.check


def replay(target: str, folder: Path) -> commands.Reached:
    """Check what is kept and what is hostile; return which commands were reached by that."""
    reached: commands.Reached = set()
    known = [path.read_bytes() for path in inputs(target)]
    with checking(target, folder) as check:
        for data in (*known, *seeds()):
            reached |= check(data) or set()
    return reached

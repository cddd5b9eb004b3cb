"""What tests of faults share: services that are searched for the canary, and small disks."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.canary import WatchedService
from tests.faults.inject import mounted
from tests.faults.storage import books

Start = Callable[..., WatchedService]


@pytest.fixture
def service_class() -> type[WatchedService]:
    """Return what `start` starts."""
    return WatchedService


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 2 MiB. To be named before `start`: it is searched as well."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        yield folder


@pytest.fixture(scope="module")
def made_book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder with a book at rest, and the token of who may read it."""
    folder = tmp_path_factory.mktemp("made")
    return folder, books.make_book(folder)


@pytest.fixture
def book(made_book: tuple[Path, str], tmp_path: Path) -> Path:
    """Return a folder with a book at rest and its key, for one test."""
    for name in ("user_data.db", "user_data.key"):
        shutil.copy(made_book[0] / name, tmp_path)
    return tmp_path


@pytest.fixture
def reader_token(made_book: tuple[Path, str]) -> str:
    """Return the token of an application that may read the book at rest."""
    return made_book[1]

"""Choosing among what a disk may have, and writing that down as a folder.

An image is a choice: for every sector that is on its way, every size and every name, whether it has
arrived (`Fate`). All and nothing are tried, and then chance has it, in ways that find different
mistakes: all up to a moment, as a disk has it that does everything in order; few or most of them;
all but one; one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.trials.powerloss.disk import Disk, File
from tests.trials.powerloss.events import Write
from tests.trials.powerloss.record import SHARED_MEMORY, change_names

SECTORS_BYTES = (512, 4096)
SHARED_MEMORY_BYTES = 32768
WHOLE_SHARE = 0.25
"""Of the images, those in which no write is torn."""

Fate = Callable[[int, int], bool]
"""Tells whether a change has arrived, given its place among all of them and how many they are."""


def all_arrived(_at: int, _total: int) -> bool:
    """Tell that every change has arrived."""
    return True


def none_arrived(_at: int, _total: int) -> bool:
    """Tell that no change has."""
    return False


def chance(random: Random) -> Fate:
    """Return a way for changes to arrive or not."""
    share, likely = random.random(), random.choice((0.05, 0.5, 0.95))
    ways: tuple[Fate, ...] = (
        lambda at, total: at < share * total,
        lambda at, total: random.random() < likely,
        lambda at, total: at != int(share * total),
        lambda at, total: at == int(share * total),
    )
    return random.choice(ways)


def fates(random: Random) -> Iterator[Fate]:
    """Yield all, nothing and a chance, whichever first, and then chances without end."""
    yield from random.sample((all_arrived, none_arrived, chance(random)), 3)
    while True:
        yield chance(random)


# --- An image. ---


@dataclass(frozen=True)
class Content:
    """What is in a file: what was certain, and what else has arrived."""

    certain: bytes | bytearray
    state: int  # which of the contents that were certain once
    size: int
    arrived: Sequence[tuple[int, bytes]]  # places and data, in their order
    rubbish: bytes  # where the file has grown

    def whole(self) -> bytes:
        """Return all of it."""
        content = bytearray(self.certain)
        content += self.rubbish.ljust(max(0, self.size - len(content)), b"\0")
        for offset, data in self.arrived:
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
        return bytes(content[: self.size])


@dataclass(frozen=True)
class Image:
    """A folder as it may be found: files by their names, and what the shared memory is."""

    contents: dict[str, tuple[int, Content]]
    shared_memory: bytes

    def key(self) -> bytes:
        """Return what only images of this record have that are the same but for the memory."""
        state = blake2b(digest_size=16)
        for each, (file, content) in sorted(self.contents.items()):
            state.update(f"{each} {file} {content.state} {content.size}\n".encode())
            state.update(content.rubbish)
            for offset, data in content.arrived:
                state.update(b"%d %d\n" % (offset, len(data)))
                state.update(data)
        return state.digest()

    def write(self, folder: Path, database: str) -> None:
        """Have a folder be this image, and nothing else."""
        for path in folder.iterdir():
            path.unlink()
        files = {each: content.whole() for each, (_, content) in self.contents.items()}
        if self.shared_memory:
            files[database + SHARED_MEMORY] = self.shared_memory
        for each, data in files.items():
            path = folder / each
            path.touch(0o600)
            path.write_bytes(data)


# --- Choosing. ---


class Change(NamedTuple):
    """Something that arrives or not."""

    begin: float
    file: int  # or `_NAMES`
    at: int  # its event's place among those pending for the file, or for the names
    sector: int  # of the file, or `_SIZE`


_NAMES = -1
_SIZE = -1

_Arrived = dict[tuple[int, int], int]
"""By file and sector: the last event by which the sector has arrived."""


def choose(disk: Disk, fate: Fate, random: Random) -> Image:
    """Return what a disk may have, where changes arrive as fate has it."""
    sector_bytes = random.choice(SECTORS_BYTES)
    changes = sorted(_changes(disk, sector_bytes))
    together = [[change] for change in changes]
    if random.random() < WHOLE_SHARE:
        together = [list(same) for _, same in groupby(changes, key=lambda change: change[:3])]
    namings: list[int] = []
    arrived: _Arrived = {}
    for at, group in enumerate(together):
        if fate(at, len(together)):
            for change in group:
                if change.file == _NAMES:
                    namings.append(change.at)
                else:
                    arrived[change.file, change.sector] = change.at  # in order, so the last
    names = dict(disk.names)
    for at in range(len(namings)) if disk.in_order else namings:
        change_names(names, disk.namings[at])
    rubbish = random if random.random() < 0.5 else None
    contents = {
        each: (file, _content(file, disk.files[file], arrived, sector_bytes, rubbish))
        for each, file in names.items()
    }
    return Image(contents, random.randbytes(SHARED_MEMORY_BYTES) if random.random() < 0.5 else b"")


def _changes(disk: Disk, sector_bytes: int) -> Iterator[Change]:
    for at, naming in enumerate(disk.namings):
        yield Change(naming.begin, _NAMES, at, _SIZE)
    for number, file in disk.files.items():
        sizes = file.sizes()
        for at, event in enumerate(file.pending):
            if isinstance(event, Write):
                for sector in _sectors(event, sector_bytes):
                    yield Change(event.begin, number, at, sector)
            if sizes[at + 1] != sizes[at]:
                yield Change(event.begin, number, at, _SIZE)


def _sectors(write: Write, sector_bytes: int) -> range:
    last = (write.offset + len(write.data) - 1) // sector_bytes
    return range(write.offset // sector_bytes, last + 1)


def _content(
    number: int, file: File, arrived: _Arrived, sector_bytes: int, rubbish: Random | None
) -> Content:
    size = file.sizes()[arrived.get((number, _SIZE), -1) + 1]
    parts = []
    for at, event in enumerate(file.pending):
        if isinstance(event, Write):
            for sector in _sectors(event, sector_bytes):
                # A sector has what all writes to it up to one have left there.
                if arrived.get((number, sector), -1) >= at:
                    begin = max(event.offset, sector * sector_bytes)
                    end = min(event.offset + len(event.data), (sector + 1) * sector_bytes)
                    data = event.data[begin - event.offset : end - event.offset]
                    parts.append((begin, data))
    grown = max(0, size - len(file.certain))
    return Content(
        file.certain, file.state, size, parts, rubbish.randbytes(grown) if rubbish else b""
    )

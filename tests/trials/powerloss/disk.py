"""What a disk may have when the power goes: the model.

A write is on its way from the moment its call begins. Until a sync says that it has arrived,
nothing of it is certain:

- A file is written in sectors, of 512 or 4,096 bytes, in any order. Each is on the disk as it was
  after some of the writes to it: the last one, an earlier one, or as the last sync left it. A
  sector is never half written and never damages its neighbours, which is what disks promise and
  what SQLite builds on ("powersafe overwrite").
- The size of a file is written apart from what is in it. A file may have grown and lack what was
  written there: then there are zeros, or rubbish. Or its end is missing, though it was written.
- `fsync` and `fdatasync` of a file, once they have returned, hold all of it that was written before
  they were called: content and size. They hold no name.
- A name that was made, removed or changed is a change to the folder, and certain once the folder
  was synced. Before that each change may be on the disk without the others (`Names.POSIX`). A
  rename is done or not.

That is stricter than what file systems do. Those with a journal (ext4, xfs, btrfs) have changes of
names on the disk in the order in which they were made, and a sync of any file brings along all that
were made before it (`Names.JOURNALLED`). Whatever such a disk may have, the strict one may have
too, so that is the one to try. The other one tells, where something is found, whether it can happen
on these. What neither does is to lose what it has, or to lie about a sync.

Shared memory (`-shm`) is no file of the book: it may be gone, or be any rubbish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tests.trials.powerloss.events import (
    Event,
    Link,
    Naming,
    Rename,
    Sync,
    SyncFolder,
    Truncate,
    Unlink,
    Write,
)
from tests.trials.powerloss.record import change_content, change_names


class Names(StrEnum):
    """When the change of a name is certain."""

    POSIX = "posix"
    JOURNALLED = "journalled"


@dataclass
class File:
    """A file: what is certain of it, and what came after that."""

    certain: bytearray
    pending: list[Write | Truncate] = field(default_factory=list)
    state: int = 0
    """Another number for each content that was certain once."""

    def sizes(self) -> list[int]:
        """Return the size that is certain, and that after each pending change."""
        sizes = [len(self.certain)]
        for event in self.pending:
            sizes.append(
                max(sizes[-1], event.offset + len(event.data))
                if isinstance(event, Write)
                else event.size
            )
        return sizes

    def sync(self, begin: float) -> None:
        """Make certain what had been written when a sync began."""
        done = 0
        while done < len(self.pending) and self.pending[done].end < begin:
            change_content(self.certain, self.pending[done])
            done += 1
        del self.pending[:done]
        self.state += bool(done)


class Disk:
    """The files of a book as a run goes on: what is certain, and what is pending."""

    def __init__(self, initial: Mapping[str, bytes], rule: Names = Names.POSIX) -> None:
        self._rule = rule
        self.files = {file: File(bytearray(data)) for file, data in enumerate(initial.values())}
        self.names = {name: file for file, name in enumerate(initial)}
        self.namings: list[Naming] = []

    @property
    def in_order(self) -> bool:
        """Whether changes of names arrive in the order in which they were made."""
        return self._rule is Names.JOURNALLED

    @property
    def pending(self) -> int:
        """How many changes there are of which nothing is certain."""
        return len(self.namings) + sum(len(file.pending) for file in self.files.values())

    def take(self, event: Event) -> None:
        """Go on by an event."""
        match event:
            case Write() | Truncate():
                self.files[event.file].pending.append(event)
            case Sync():
                self.files[event.file].sync(event.begin)
                if self.in_order:
                    self._sync_names(event.begin)
            case SyncFolder():
                self._sync_names(event.begin)
            case Link() | Unlink() | Rename():
                if isinstance(event, Link):
                    self.files.setdefault(event.file, File(bytearray()))
                self.namings.append(event)

    def _sync_names(self, begin: float) -> None:
        done = [naming for naming in self.namings if naming.end < begin]
        self.namings = [naming for naming in self.namings if naming.end >= begin]
        for naming in done:
            change_names(self.names, naming)

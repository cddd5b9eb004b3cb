"""What happens to the files of a book, and what leaves the service: the events of a record.

Each has the lines of the trace at which its call begins and ends (`calls`). A file is told by a
number of its own from the moment it is made: it may lose its name, and another may get it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, somewhere between these two lines."""

    begin: float
    end: float

    @property
    def when(self) -> float:
        """When it counts: what is written from its beginning on, for the disk may have it then."""
        return self.begin


@dataclass(frozen=True, slots=True)
class Write(Event):
    """Data for a place in a file."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate(Event):
    """Another size for a file."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync(Event):
    """A file is on the disk: what was written to it before this began."""

    file: int

    @property
    def when(self) -> float:
        """When it counts: at its end, for until then nothing was promised."""
        return self.end


@dataclass(frozen=True, slots=True)
class SyncFolder(Event):
    """The names are on the disk: what they were before this began."""

    @property
    def when(self) -> float:
        """When it counts, as for a file."""
        return self.end


@dataclass(frozen=True, slots=True)
class Link(Event):
    """A name for a file, which may be a new one."""

    name: str
    file: int


@dataclass(frozen=True, slots=True)
class Unlink(Event):
    """A name is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class Rename(Event):
    """A file has another name, and the file that had it has none; both at once."""

    old: str
    new: str
    file: int


Naming = Link | Unlink | Rename


@dataclass(frozen=True, slots=True)
class Arrival(Event):
    """What came from a client, told by its port."""

    port: int
    data: bytes

    @property
    def when(self) -> float:
        """When it counts: at its end, for nobody knew of it before."""
        return self.end


@dataclass(frozen=True, slots=True)
class Reply(Event):
    """What left for a client, told by its port: from the beginning on, for it may have arrived."""

    port: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Mark(Event):
    """Something that the shell said."""

    text: str

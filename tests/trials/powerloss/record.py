"""A run of the service as a record: the files at its beginning, and what happened to them.

What is looked at are the files of the folder whose names begin as the database's, but for the
shared memory beside it, which is made again at every start and never synced.

That nothing was overlooked is proven and not assumed: with everything kept, the events of a record
lead to the files that are in the folder at its end (`Record.check`). So the reader may be plain: it
takes what is written without a place for an addition to the end, for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.trials.powerloss.calls import NEVER, Call, Unreadable, parsed
from tests.trials.powerloss.events import (
    Arrival,
    Event,
    Link,
    Mark,
    Naming,
    Rename,
    Reply,
    Sync,
    SyncFolder,
    Truncate,
    Unlink,
    Write,
)

SHARED_MEMORY = "-shm"


@dataclass
class Record:
    """The files that were on the disk when a run began, by their names, and its events."""

    folder: Path
    stem: str
    initial: dict[str, bytes]
    events: list[Event] = field(default_factory=list)

    @classmethod
    def begin(cls, folder: Path, stem: str) -> Record:
        """Take the files as they are now for what is on the disk."""
        return cls(folder, stem, files_of(folder, stem))

    def read(self, trace: Path) -> None:
        """Add what strace wrote; raise `Unreadable` where it cannot be made out."""
        with trace.open(encoding="ascii") as lines:
            calls = [call for call in parsed(lines) if call.result is None or call.result >= 0]
        reader = Reader(self.folder, self.stem, self.initial)
        calls.sort(key=lambda call: call.end if "sync" in call.name else call.begin)
        self.events = sorted(
            (event for call in calls for event in reader.events(call)), key=lambda event: event.when
        )

    def check(self) -> None:
        """Raise `Unreadable` unless the events lead to the files that are there now.

        Left out are those that a process was killed over: what became of that call, nobody knows.
        """
        names = {name: file for file, name in enumerate(self.initial)}
        contents = {file: bytearray(data) for file, data in enumerate(self.initial.values())}
        unsure = set()
        for event in self.events:
            if isinstance(event, Write | Truncate):
                change_content(contents[event.file], event)
                if event.end == NEVER:
                    unsure.add(event.file)
            elif isinstance(event, Naming):
                if isinstance(event, Link):
                    contents.setdefault(event.file, bytearray())
                change_names(names, event)
        led_to = {name: bytes(contents[file]) for name, file in names.items() if file not in unsure}
        there = files_of(self.folder, self.stem)
        known = [name for name in {*led_to, *there} if names.get(name) not in unsure]
        if wrong := sorted(name for name in known if led_to.get(name) != there.get(name)):
            raise Unreadable(f"the record does not lead to what is in {', '.join(wrong)} now")


def files_of(folder: Path, stem: str) -> dict[str, bytes]:
    """Return what is in the files that a record is about, by their names."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name.startswith(stem) and not path.name.endswith(SHARED_MEMORY)
    }


def change_content(content: bytearray, event: Write | Truncate) -> None:
    """Do to a file's content what an event did."""
    if isinstance(event, Truncate):
        del content[event.size :]
        content.extend(bytes(event.size - len(content)))
        return
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(event.data)] = event.data


def change_names(names: dict[str, int], event: Naming) -> None:
    """Do to the names of files what an event did."""
    match event:
        case Link():
            names[event.name] = event.file
        case Unlink():
            names.pop(event.name, None)
        case Rename():
            names.pop(event.old, None)
            names[event.new] = event.file


class Reader:
    """Makes events of calls, following which file has which name and how long it is."""

    def __init__(self, folder: Path, stem: str, initial: Mapping[str, bytes]) -> None:
        self._folder = str(folder)
        self._stem = stem
        self._names = {name: file for file, name in enumerate(initial)}
        self._sizes = [len(data) for data in initial.values()]
        self._readers: dict[str, Callable[[Call], Iterable[Event]]] = {
            **dict.fromkeys(("open", "openat", "creat"), self._open),
            **dict.fromkeys(("write", "pwrite64"), self._write),
            **dict.fromkeys(("fsync", "fdatasync"), self._sync),
            **dict.fromkeys(("unlink", "unlinkat"), self._unlink),
            **dict.fromkeys(("rename", "renameat", "renameat2"), self._rename),
            **dict.fromkeys(("link", "linkat"), self._link),
            "ftruncate": self._truncate,
            "sendto": self._send,
            "recvfrom": self._receive,
        }

    def events(self, call: Call) -> Iterable[Event]:
        """Return the events of a call that succeeded; raise `Unreadable` for one not known."""
        reader = self._readers.get(call.name)
        if reader is not None:
            return reader(call)
        if call.path is not None and self._is_ours(call.path):
            raise Unreadable(f"{call.name} changes {call.path}, and is not known here")
        return ()

    # --- Files and names. ---

    def _is_ours(self, path: str) -> bool:
        folder, _, last = path.rpartition("/")
        ours = folder in ("", self._folder) and last.startswith(self._stem)
        return ours and not last.endswith(SHARED_MEMORY)

    def _named(self, call: Call) -> list[str]:
        """Return the names in the arguments, or none where one is of another folder."""
        paths = [text.decode(errors="surrogateescape") for text in call.texts()]
        return [path.rpartition("/")[2] for path in paths] if all(map(self._is_ours, paths)) else []

    def _file(self, call: Call) -> int | None:
        """Return the file that the descriptor of a call is of, if it is one of ours."""
        path = call.path
        if path is None or not self._is_ours(path):
            return None
        if call.is_deleted:
            raise Unreadable(f"{call.name} changes {path}, which has no name any more")
        return self._names[path.rpartition("/")[2]]

    # --- What the calls do. ---

    def _open(self, call: Call) -> Iterable[Event]:
        creates = "O_CREAT" in call.arguments or call.name == "creat"
        for name in self._named(call):
            if name not in self._names and creates:
                self._names[name] = len(self._sizes)
                self._sizes.append(0)
                yield Link(call.begin, call.end, name, self._names[name])
            elif name in self._names and "O_TRUNC" in call.arguments:
                self._sizes[self._names[name]] = 0
                yield Truncate(call.begin, call.end, self._names[name], 0)

    def _write(self, call: Call) -> Iterable[Event]:
        file = self._file(call)
        if file is None:
            yield from self._said(call)
            return
        data = call.texts()[0][: call.result]
        offset = call.number(-1) if call.name == "pwrite64" else self._sizes[file]
        self._sizes[file] = max(self._sizes[file], offset + len(data))
        yield Write(call.begin, call.end, file, offset, data)

    def _truncate(self, call: Call) -> Iterable[Event]:
        file = self._file(call)
        if file is not None:
            self._sizes[file] = call.number(1)
            yield Truncate(call.begin, call.end, file, self._sizes[file])

    def _sync(self, call: Call) -> Iterable[Event]:
        if call.end == NEVER:
            return
        if call.path == self._folder:
            yield SyncFolder(call.begin, call.end)
        elif (file := self._file(call)) is not None:
            yield Sync(call.begin, call.end, file)

    def _unlink(self, call: Call) -> Iterable[Event]:
        for name in self._named(call):
            self._names.pop(name, None)
            yield Unlink(call.begin, call.end, name)

    def _rename(self, call: Call) -> Iterable[Event]:
        if names := self._named(call):
            old, new = names
            self._names[new] = self._names.pop(old)
            yield Rename(call.begin, call.end, old, new, self._names[new])

    def _link(self, call: Call) -> Iterable[Event]:
        if names := self._named(call):
            old, new = names
            self._names[new] = self._names[old]
            yield Link(call.begin, call.end, new, self._names[new])

    # --- What is said. ---

    def _send(self, call: Call) -> Iterable[Event]:
        if (port := call.client_port) is not None:
            yield Reply(call.begin, call.end, port, call.texts()[0][: call.result])

    def _receive(self, call: Call) -> Iterable[Event]:
        if (port := call.client_port) is not None and call.result:
            yield Arrival(call.begin, call.end, port, call.texts()[0])

    def _said(self, call: Call) -> Iterable[Event]:
        """Yield a mark for what the shell writes to its pipe."""
        text = call.texts()
        if call.name == "write" and text and text[0].startswith(MARK):
            said = text[0].removeprefix(MARK).decode(errors="replace").strip()
            yield Mark(call.begin, call.end, said)


MARK = b"powerloss: "
"""What a line of the shell begins with that is to be in the record."""

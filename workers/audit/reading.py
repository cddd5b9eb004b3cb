"""Reads the audit record: finds its files, and reads the records in them.

Reads line by line, so that files may be of any size. It takes no lock, so records that are written
meanwhile may be read or not. `verification` checks whether the records are genuine.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from workers.audit.chain import LINE_BYTES_MAX, ChainRecord, parse_record

_BUFFER_BYTES = 1024 * 1024

_LINES_MAX = 16
"""How many lines are looked at for the first record of a file."""


class RecordFiles(NamedTuple):
    """The files of the audit record."""

    paths: list[Path]  # the oldest first
    compressed: list[Path]  # cannot be read without decompressing them


class Record(msgspec.Struct, kw_only=True):
    """A record in the form in which it is shown."""

    n: int
    time: str  # UTC, to the millisecond, as 2026-11-22T20:34:17.123Z
    application: str | None
    address: str
    action: str
    user: str | None
    outcome: str
    times: int = 1
    more: dict[str, str | int] = {}


def record_files(path: Path) -> RecordFiles:
    """Return the audit record's files: the one at a path, and those that were renamed.

    The service appends the number of the last record, logrotate a number or a date. The files are
    in the order of their first records; if these are not readable, in that of their names. Raises
    OSError if the folder cannot be read.
    """
    rotated = re.compile(re.escape(path.name) + r"(?:\.(\d+)|-(\d{8}[\d-]*))(\.\w+)?")
    found = []
    for file in path.parent.iterdir():
        if match := rotated.fullmatch(file.name):
            number, date, compression = match.groups()
            found.append((date or "", -int(number or 0), file, compression))
    found.sort()
    paths = [file for _, _, file, compression in found if not compression]
    paths.sort(key=_first_number)
    compressed = [file for _, _, file, compression in found if compression]
    return RecordFiles([*paths, path] if path.exists() else paths, compressed)


def first_record(path: Path) -> ChainRecord | None:
    """Return the first record of a file, genuine or not, if one of its first lines is one."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        for line in itertools.islice(lines(file), _LINES_MAX):
            if (record := parse_record(line.removesuffix(b"\n"))) is not None:
                return record
    return None


def _first_number(path: Path) -> int:
    try:
        record = first_record(path)
    except OSError:
        return 0
    return 0 if record is None else record.n


def opened(paths: Sequence[Path]) -> Iterator[tuple[Path, BinaryIO]]:
    """Open files one by one and yield them; open the last one first.

    So the record may be rotated meanwhile: the file that was at its path is read all the same.
    """
    if not paths:
        return
    *older, newest = paths
    with newest.open("rb", _BUFFER_BYTES) as last:
        for path in older:
            with path.open("rb", _BUFFER_BYTES) as file:
                yield path, file
        yield newest, last


_decode_record = msgspec.json.Decoder(Record).decode
_MEMBERS = {*Record.__struct_fields__, "previous", "mac"}


class Records:
    """The records in some files; those of a user, an application, an action, or since a time.

    Iterating raises OSError for a file that cannot be read. It does not check whether the records
    are genuine. `skipped` counts the lines that were skipped because they are not records.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        user: str | None = None,
        application: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
    ) -> None:
        self._paths = paths
        self._wanted = {"user": user, "application": application, "action": action}
        self._since = "" if since is None else _as_text(since)
        self.skipped = 0

    def __iter__(self) -> Iterator[Record]:
        self.skipped = 0
        wanted = [(name, value) for name, value in self._wanted.items() if value is not None]
        for _, file in opened(self._paths):
            for line in lines(file):
                try:
                    record = _decode_record(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    self.skipped += 1
                    continue
                is_wanted = all(getattr(record, name) == value for name, value in wanted)
                if is_wanted and record.time >= self._since:
                    members = msgspec.json.decode(line)
                    record.more = {
                        name: value for name, value in members.items() if name not in _MEMBERS
                    }
                    yield record


def _as_text(moment: datetime) -> str:
    """Return a time in the form in which records have it; such texts sort by time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file with their newlines; of a line that is too long, its beginning.

    Stops after a line without a newline: it may be in the middle of being written.
    """
    while line := file.readline(LINE_BYTES_MAX):
        if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
            _skip_line(file)
            line += b"\n"
        yield line
        if not line.endswith(b"\n"):
            return


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(_BUFFER_BYTES)) and not rest.endswith(b"\n"):
        pass

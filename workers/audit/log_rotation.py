"""Which files the service makes of its audit record, and which old ones it deletes.

A file that is long enough is renamed: the number of its last record is appended to its name. So the
names sort as the records do. An old file is deleted only if it is certain that the next one
continues it: otherwise somebody could take files away, and wait for the service to forget them.

Changes no file.
"""

from pathlib import Path
from typing import NamedTuple

from workers.audit.chain import LINE_BYTES_MAX, Chain
from workers.audit.reading import first_record, record_files

END_BYTES = 8 * LINE_BYTES_MAX
"""How much of a file's end is searched for its last record."""


class Rotation(NamedTuple):
    """When a service rotates the record, and what it keeps."""

    bytes_max: int  # a file that has as many is moved away; 0: another program rotates the record
    files_kept: int = 0  # older files; 0: all of them


def suffix(n: int) -> str:
    """Return what is appended to the name of a file whose last record has this number.

    It is as long as a date, or longer, and sorts before one of logrotate's.
    """
    return f"{n:012d}"


def to_forget(path: Path, kept: int, oldest: int, chain: Chain) -> tuple[list[Path], int]:
    """Return the files to delete, and the number of the oldest record that must be there then.

    `oldest` is that number now. The file at `path` is the new, empty one. Raises ValueError if
    records are missing between the files, and OSError if a file cannot be read.
    """
    if not kept:
        return [], oldest
    files = [file for file in record_files(path).paths if file != path]
    forgotten: list[Path] = []
    while len(files) > kept:
        file = files.pop(0)
        first = first_record(file)
        if first is None or first.n >= oldest:
            oldest = _continued(file, files[0], oldest, chain)
        forgotten.append(file)
    return forgotten, oldest


def _continued(file: Path, following: Path, oldest: int, chain: Chain) -> int:
    """Return the number of the first record after a file; raise ValueError if that is uncertain."""
    first, after = first_record(file), first_record(following)
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - END_BYTES))
        last = chain.last_record(opened.read())
    begins = first is not None and first.n == oldest and chain.follows(first, first.previous)
    if not begins or last is None or after is None:
        raise ValueError(f"{file} does not begin with record {oldest}")
    if after.previous != last[1] or not chain.follows(after, after.previous):
        raise ValueError(f"{following} does not continue {file}")
    return after.n

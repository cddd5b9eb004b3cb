"""Writes the audit record: who did what to whose password, one record for each, in a keyed chain.

Workers and the command line append to one file. The head file describes the end of
the audit record. It is always beside the database, so that somebody who may only change the log
folder cannot change it. Its lock orders the writers: read the head, check which file is at the
path, write all noted records with one write(2), write the head. After a file was moved away or
emptied, the chain continues in a new or empty file, so logrotate needs no signal. `chain` knows the
format of records and head, `files` knows the files.

`rotation` says when the record is long enough to be moved away by its writer. If the
service itself decides so which old records are deleted, the head remembers the oldest that must be
there.

A record that cannot be written is lost. The number of those is kept, in the head if that can be
written, and becomes a record as soon as one can be written.

Nothing is synced. If a process is killed, no record for which `write` has returned True is lost. A
power failure may lose or tear the records of the last seconds. If that leaves a head newer than the
file, or broken lines, it is reported as an audit record that was cut or edited, which it was.

Damage is never repaired: the chain continues from the last certain record, so that `verification`
can report the position, and a record says what was found.
"""

import contextlib
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pwserver.secret import Secret
from workers.audit.actions import Action
from workers.audit.chain import (
    HEAD_BYTES,
    LINE_BYTES_MAX,
    NO_MAC,
    Chain,
    Head,
    format_record,
)
from workers.audit.files import HeadFile, RecordFile
from workers.audit.log_rotation import END_BYTES, Rotation, suffix, to_forget
from workers.audit.syslog import Syslog

PATIENCE_S = 0.2
"""How long to wait for the lock. Its holder needs microseconds, but on a busy machine it may wait
50 ms and more for the processor, and a stopped process holds it for ever."""

_PATIENCE_FAILING_S = 0.01
"""The same after a try that failed, so that a stopped process is not waited for twice."""

_BODY_BYTES_MAX = LINE_BYTES_MAX // 2
_TEXT_LENGTH_MAX = 128
"""The length to which each text in a record is cut if the record would be too long."""

CUT = "the record was cut or edited"
HEAD_MISSING = "the head of the record was missing"
HEAD_DAMAGED = "the head of the record was damaged"

NEVER = 1 << 62
"""A size that no file reaches."""

_encode = msgspec.json.Encoder().encode

log = logging.getLogger(__name__)


class _End(NamedTuple):
    """The end of the audit record, where the next record is appended."""

    n: int  # number of the last record
    mac: bytes  # of the last record
    size: int  # of the file
    is_known: bool = True  # matches the head; otherwise the next record needs `previous`
    is_whole: bool = True  # the last line has its newline
    finding: str | None = None


class AuditLog:
    """One process's writer of the audit record. Opens the files at the first write.

    Do not use it on both sides of a fork, because the two processes would share the lock.
    """

    def __init__(
        self,
        path: Path,
        head_path: Path,
        key: Secret[bytes],
        *,
        rotation: Rotation | None = None,
        syslog: str = "",
    ) -> None:
        self._rotation = rotation
        self._rotate_at = NEVER  # the size of the file, in bytes
        if rotation is not None and rotation.bytes_max:
            self._rotate_at = rotation.bytes_max
        self._syslog = Syslog(syslog) if syslog else None
        self._file = RecordFile(str(path))
        self._head_file = HeadFile(str(head_path))
        self._chain = Chain(key.reveal())
        self._notes: list[dict[str, Any]] = []
        self._stored = b""  # the head file's content when it was last read
        self._head: Head | None = None  # the same, parsed
        self._second, self._second_text = -1, ""
        self._failing = ""  # why records cannot be written
        self._lost = 0  # things that happened and are not recorded, which the head does not know

    @property
    def pending(self) -> bool:
        """Whether records are noted but not written yet."""
        return bool(self._notes)

    def note(  # noqa: PLR0913  (a record has as many parts)
        self,
        *,
        time_ms: int,
        application: str | None,
        address: str,
        action: Action,
        user: str | None,
        outcome: str,
        times: int = 1,
        **more: str | int,
    ) -> None:
        """Note a record for the next `write`. `times` says how often it happened."""
        record = {
            "n": 0,  # until it is written
            "time": time_ms,
            "application": application,
            "address": address,
            "action": action,
            "user": user,
            "outcome": outcome,
        }
        if times != 1:
            record["times"] = times
        if more:
            record |= more
        self._notes.append(record)

    def write(self) -> bool:
        """Write all noted records; return whether they are in the file.

        If it fails, no record is written, and the notes are counted as lost. The reason is logged
        once, until writing works again. Never raises. Waits at most twice `PATIENCE_S` for locks.
        """
        if not self._notes:
            return True
        notes, self._notes = self._notes, []
        return self._write(notes)

    def give_up(self) -> None:
        """Count all noted records as lost, because others of the same turn were."""
        self._lost += _things(self._notes)
        self._notes = []

    def tick(self) -> None:
        """Try again what failed: the number of lost records, and what the system's log lacks."""
        if self._failing:
            self._write([])
        if self._syslog is not None:
            self._syslog.send()

    def close(self) -> None:
        """Close the files. The next write opens them again."""
        self._file.close()
        self._head_file.close()
        if self._syslog is not None:
            self._syslog.close()

    def _write(self, notes: list[dict[str, Any]]) -> bool:
        try:
            self._head_file.lock(_PATIENCE_FAILING_S if self._failing else PATIENCE_S)
        except OSError as error:
            self._lost += _things(notes)
            self._note_failure(error)
            return False
        try:
            lines = self._append(notes)
        except (OSError, ValueError) as error:
            self._lost += _things(notes)
            if not isinstance(error, TimeoutError):  # the lock of a new head file was not taken
                self._remember_lost()
            self._note_failure(error)
            return False
        finally:
            self._head_file.unlock()
        if self._failing and lines:
            self._failing = ""
            log.info("the audit record is written again")
        if self._syslog is not None:
            self._syslog.send(lines)
        return True

    def _note_failure(self, error: OSError | ValueError) -> None:
        path, reason = self._file.path, str(error)
        if isinstance(error, OSError):
            path, reason = error.filename or path, error.strerror or reason or type(error).__name__
        if not self._failing:
            log.error("the audit record cannot be written: %s: %s", path, reason)
        self._failing = reason

    # --- Called with the lock held. ---

    def _append(self, notes: list[dict[str, Any]]) -> list[bytes]:
        """Write records, and before them what is wrong with the audit record; return the lines."""
        self._file.follow()
        end = self._known_end() or self._found_end()
        forgotten: list[Path] = []
        oldest = self._oldest(end.n)
        if end.size >= self._rotate_at and end.finding is None:
            end = self._rotated(end)
            if not end.size:
                forgotten, oldest = self._to_forget(oldest)
        lost = self._lost + (self._head.lost if self._head else 0)
        if end.finding is not None or lost:
            notes = [*self._about_itself(end.finding, lost), *notes]
        if not notes:
            return []
        n, mac = end.n, end.mac
        lines = []
        if not end.is_known:
            notes[0]["previous"] = mac.hex()
        for record in notes:
            n += 1
            record["n"] = n
            record["time"] = self._time(record["time"])
            body = _body(record)
            mac = self._chain.mac(mac, body)
            lines.append(format_record(body, mac))
        data = b"".join(lines) if end.is_whole else b"\n" + b"".join(lines)
        try:
            self._file.append(data)
            size = end.size + len(data)
            self._write_head(Head(n, mac, self._file.inode, size, oldest, lost=0))
        except OSError:
            self._file.cut(end.size)
            raise
        self._lost = 0
        if end.finding is not None:
            log.error("%s: %s. Run: pwserver audit verify", self._file.path, end.finding)
        for path in forgotten:  # now, because the head says that it need not be there
            with contextlib.suppress(OSError):
                path.unlink()
        return lines

    def _write_head(self, head: Head) -> None:
        stored = self._chain.pack_head(head)
        self._head_file.write(stored)
        self._stored, self._head = stored, head

    def _read_head(self) -> None:
        stored = self._head_file.read(HEAD_BYTES + 1)
        if stored != self._stored:
            self._stored, self._head = stored, self._chain.unpack_head(stored)

    def _remember_lost(self) -> None:
        """Add the number of lost records to the head, if there is one: it outlives this process."""
        with contextlib.suppress(OSError):
            if not self._head_file.is_in_place():
                return
            self._read_head()
            if self._head is not None and self._lost:
                self._write_head(self._head._replace(lost=self._head.lost + self._lost))
                self._lost = 0

    def _oldest(self, n: int) -> int:
        """Return the number of the oldest record that must be there, after `n` records."""
        if self._rotation is not None and not self._rotation.bytes_max:
            return 0
        known = self._head.oldest if self._head else 0
        begins = not n or self._rotation is not None
        return n + 1 if begins and not known else known

    def _rotated(self, end: _End) -> _End:
        """Go over to a new file, if that is possible; return the end."""
        assert self._rotation is not None
        self._file.follow(at_once=True)
        if self._head is None or self._head.inode != self._file.inode:
            return self._found_end()  # somebody else has just done it
        try:
            self._file.move_to(f"{self._file.path}-{suffix(end.n)}")
        except OSError as error:
            self._rotate_at = end.size + self._rotation.bytes_max
            log.warning("%s cannot be rotated: %s", self._file.path, error.strerror)
            return end
        self._rotate_at = self._rotation.bytes_max
        return _End(end.n, end.mac, 0, is_known=False)

    def _to_forget(self, oldest: int) -> tuple[list[Path], int]:
        """Return the files to delete, and the number of the oldest record after that."""
        assert self._rotation is not None
        path, kept = Path(self._file.path), self._rotation.files_kept
        try:
            return to_forget(path, kept, oldest, self._chain)
        except (OSError, ValueError) as error:
            log.error("old files of the audit record are not deleted: %s", error)
            return [], oldest

    def _about_itself(self, finding: str | None, lost: int) -> Iterable[dict[str, Any]]:
        """Yield records of what is wrong with the audit record itself."""
        about = {
            "n": 0,
            "time": time.time_ns() // 1_000_000,
            "application": None,
            "address": "service",
            "action": "audit",
            "user": None,
        }
        if finding is not None:
            yield about | {"outcome": finding}
        if lost:
            what = "1 record was lost" if lost == 1 else f"{lost} records were lost"
            yield about | {"outcome": what, "lost": lost, "reason": self._failing or "not known"}

    def _known_end(self) -> _End | None:
        """Return the end from the head, if the head describes this file as it is."""
        self._read_head()
        head, size = self._head, self._file.size()
        if head is None or head.inode != self._file.inode or head.size != size:
            return None
        return _End(head.n, head.mac, size)

    def _found_end(self) -> _End:
        """Search for the end, because the head describes another file or another length."""
        if not self._head_file.is_in_place():  # other processes use the new head file's lock
            self._head_file.close()
            self._head_file.lock(PATIENCE_S)
        self._file.follow(at_once=True)
        if (known := self._known_end()) is not None:
            return known
        size, window = self._file.size(), self._file.end(END_BYTES)
        n, mac, finding = self._compare(self._chain.last_record(window), size)
        is_whole = not size or window.endswith(b"\n")
        return _End(n, mac, size, is_known=False, is_whole=is_whole, finding=finding)

    def _compare(self, last: tuple[int, bytes] | None, size: int) -> tuple[int, bytes, str | None]:
        """Compare a file's last record with the head.

        Returns the number and MAC to continue from, and what is wrong or None.
        """
        head = self._head
        if head is None:
            n, mac = last or (0, NO_MAC)
            if self._stored:
                return n, mac, HEAD_DAMAGED
            return n, mac, HEAD_MISSING if size else None
        if not size or last == (head.n, head.mac):  # a new file, or a copy
            return head.n, head.mac, None
        if last is not None and last[0] > head.n:  # the writer was killed before writing the head
            return *last, None
        return head.n, head.mac, CUT

    def _time(self, time_ms: int) -> str:
        second, rest_ms = divmod(time_ms, 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{rest_ms:03d}Z"


def _things(notes: Iterable[dict[str, Any]]) -> int:
    """Return how many things happened of which these records tell."""
    return sum(int(note.get("times", 1)) for note in notes)


def _body(record: dict[str, Any]) -> bytes:
    """Return a record's line up to its MAC; shorten its texts if it would be too long."""
    try:
        body = _encode(record)[:-1]
        if len(body) <= _BODY_BYTES_MAX:
            return body
    except (ValueError, TypeError, OverflowError):  # for example a name that is not UTF-8
        pass
    return _encode({name: _short(value) for name, value in record.items()})[:-1]


def _short(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    return str(value)[:_TEXT_LENGTH_MAX].encode("utf-8", "backslashreplace").decode()

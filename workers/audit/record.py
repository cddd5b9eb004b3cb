"""The audit record: who did what to whose password, a line for each, in one keyed chain.

Workers, the listener and the command line append to one file. The head file (beside the database,
wherever the record is, so that who may change the log folder alone cannot change it) says what the
end of the record must be, and its lock orders who writes: read the head, see what file is at the
path, write everything noted with one write(2), write the head. A file that was moved away is
followed by a new one, and one that was emptied is begun again: logrotate needs to tell nobody.
`chain` has the form of lines and head, `files` the files.

Nothing is synced. A process that is killed loses nothing that `write` has returned True for. A
power cut may lose the last seconds or tear them, and where it leaves a head that is newer than the
file, or lines that are none, that is found as a record that was cut or edited, which it was.

What is found amiss is never repaired: the chain goes on from what is certain, so that
`reading` points at the place, and a record says what was found.
"""

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pwserver.secret import Secret
from workers.audit.actions import Action
from workers.audit.chain import HEAD_BYTES, LINE_BYTES_MAX, NO_MAC, Chain, Head, write_line
from workers.audit.files import HeadFile, RecordFile

PATIENCE_S = 0.2
"""How long to wait for the lock. Who holds it needs microseconds; where many processes want to run
it may have to wait for its own turn for 50 ms and more, and a stopped one never gets it."""

_PATIENCE_FAILING_S = 0.01
"""The same where the last try was in vain: a process that was stopped is not waited for twice."""

_WINDOW_BYTES = 8 * LINE_BYTES_MAX
"""Where the last record is looked for in a file that is not as the head says."""

_BODY_BYTES_MAX = LINE_BYTES_MAX // 2
_TEXT_LENGTH_MAX = 128
"""What is left of each text in a record that would be too long."""

CUT = "the record was cut or edited"
HEAD_MISSING = "the head of the record was missing"
HEAD_DAMAGED = "the head of the record was damaged"

_encode = msgspec.json.Encoder().encode

log = logging.getLogger(__name__)


class _End(NamedTuple):
    """Where the record goes on."""

    n: int  # of the last record
    mac: bytes  # of the last record
    size: int  # of the file
    is_known: bool = True  # the head says so; else the next record must stand by itself
    is_whole: bool = True  # the last line has its newline
    finding: str | None = None


class AuditLog:
    """The record as one process writes it. Opens its files when there is something to write.

    Not to be carried over a fork: the two processes would have the lock together.
    """

    def __init__(self, path: Path, head_path: Path, key: Secret[bytes]) -> None:
        self._file = RecordFile(str(path))
        self._head_file = HeadFile(str(head_path))
        self._chain = Chain(key.reveal())
        self._notes: list[dict[str, Any]] = []
        self._stored = b""  # what was in the head file when it was last seen
        self._head: Head | None = None  # and what it means
        self._second, self._second_text = -1, ""
        self._failing = False

    @property
    def pending(self) -> bool:
        """Whether something is noted that `write` was not called for."""
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
        """Note what is to be written: that it happened, or that it happened so many times."""
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
        """Write everything noted; return whether it is in the file.

        If it is not, nothing of it is, and the notes are dropped. Why is logged once, until it
        works again. Never raises. Takes no longer than `PATIENCE_S`, beside what the disk takes.
        """
        if not self._notes:
            return True
        notes, self._notes = self._notes, []
        try:
            self._head_file.lock(_PATIENCE_FAILING_S if self._failing else PATIENCE_S)
            try:
                self._append(notes)
            finally:
                self._head_file.unlock()
        except (OSError, ValueError) as error:
            self._note_failure(error)
            return False
        if self._failing:
            self._failing = False
            log.info("the audit record is written again")
        return True

    def close(self) -> None:
        """Close the files. What is written later opens them again."""
        self._file.close()
        self._head_file.close()

    def _note_failure(self, error: OSError | ValueError) -> None:
        if not self._failing:
            self._failing = True
            path, reason = self._file.path, str(error)
            if isinstance(error, OSError):
                path, reason = error.filename or path, error.strerror or reason
            log.error("the audit record cannot be written: %s: %s", path, reason)

    # --- What is done within the lock. ---

    def _append(self, notes: list[dict[str, Any]]) -> None:
        self._file.follow()
        end = self._known_end() or self._found_end()
        if end.finding is not None:
            notes.insert(0, _finding(end.finding, notes[0]["time"]))
        n, mac = end.n, end.mac
        lines = [] if end.is_whole else [b"\n"]
        if not end.is_known:
            notes[0]["previous"] = mac.hex()
        for record in notes:
            n += 1
            record["n"] = n
            record["time"] = self._time(record["time"])
            body = _body(record)
            mac = self._chain.mac(mac, body)
            lines.append(write_line(body, mac))
        self._write(b"".join(lines), end.size, n, mac)
        if end.finding is not None:
            log.error("%s: %s. Run: pwserver audit verify", self._file.path, end.finding)

    def _write(self, data: bytes, size: int, n: int, mac: bytes) -> None:
        """Write lines and head, or neither."""
        head = Head(n, mac, self._file.inode, size + len(data))
        stored = self._chain.pack_head(head)
        try:
            self._file.append(data)
            self._head_file.write(stored)
        except OSError:
            self._file.cut(size)
            raise
        self._stored, self._head = stored, head

    def _known_end(self) -> _End | None:
        """Return the end that the head tells, if the file is the one that it tells of."""
        stored = self._head_file.read(HEAD_BYTES + 1)
        if stored != self._stored:
            self._stored, self._head = stored, self._chain.unpack_head(stored)
        head, size = self._head, self._file.size()
        if head is None or head.inode != self._file.inode or head.size != size:
            return None
        return _End(head.n, head.mac, size)

    def _found_end(self) -> _End:
        """Return the end where the head tells of another file, or of another length."""
        if not self._head_file.is_in_place():  # others have the lock of the new one
            self._head_file.close()
            self._head_file.lock(PATIENCE_S)
        self._file.follow(at_once=True)
        if (known := self._known_end()) is not None:
            return known
        size, window = self._file.size(), self._file.end(_WINDOW_BYTES)
        n, mac, finding = self._compare(self._chain.last_record(window), size)
        is_whole = not size or window.endswith(b"\n")
        return _End(n, mac, size, is_known=False, is_whole=is_whole, finding=finding)

    def _compare(self, last: tuple[int, bytes] | None, size: int) -> tuple[int, bytes, str | None]:
        """Return number and mac to go on from, and what is amiss, given a file's last record."""
        head = self._head
        if head is None:
            n, mac = last or (0, NO_MAC)
            if self._stored:
                return n, mac, HEAD_DAMAGED
            return n, mac, HEAD_MISSING if size else None
        if not size or last == (head.n, head.mac):  # a new file, or a copy
            return head.n, head.mac, None
        if last is not None and last[0] > head.n:  # who wrote it was killed before the head
            return *last, None
        return head.n, head.mac, CUT

    def _time(self, time_ms: int) -> str:
        second, rest_ms = divmod(time_ms, 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{rest_ms:03d}Z"


def _finding(outcome: str, time_ms: int) -> dict[str, Any]:
    """Return a record of what is amiss with the record itself."""
    return {
        "n": 0,
        "time": time_ms,
        "application": None,
        "address": "service",
        "action": "audit",
        "user": None,
        "outcome": outcome,
    }


def _body(record: dict[str, Any]) -> bytes:
    """Return a record's line up to its mac, its texts shortened where it would be too long."""
    try:
        body = _encode(record)[:-1]
        if len(body) <= _BODY_BYTES_MAX:
            return body
    except (ValueError, TypeError, OverflowError):  # such as a name that is not UTF-8
        pass
    return _encode({name: _short(value) for name, value in record.items()})[:-1]


def _short(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    return str(value)[:_TEXT_LENGTH_MAX].encode("utf-8", "backslashreplace").decode()

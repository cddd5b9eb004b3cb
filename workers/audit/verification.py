"""Verifies the audit record: nothing may be cut, edited, left out, inserted or moved.

Follows the chain through the lines of all files, the oldest first, and compares the end with the
head, and the beginning too if the files are all that there are. Changes nothing and takes no lock.
It reports what it could not check, and where records say that others were lost before them.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pwserver.secret import Secret
from workers.audit.chain import HEAD_BYTES, NO_MAC, Chain, ChainRecord, Head, parse_record
from workers.audit.reading import lines, opened

FINDINGS_MAX = 20
"""Verification stops after so many findings: in a file of another key every record is one."""

_BRANCHES_MAX = 64
"""How many records the next genuine one may follow: the last proven one and unproven ones after."""


class Finding(NamedTuple):
    """A problem, and the line that has it."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.text}"


class Verdict(NamedTuple):
    """The result of a verification."""

    records: int  # how many were checked
    first: int | None  # the number of the first record
    last: int | None  # the greatest number
    findings: list[Finding]
    limits: list[str]  # sentences that say what could not be checked
    lost: int  # how many records could not be written
    losses: list[Finding]  # where the record says so; of very many, the first

    @property
    def is_genuine(self) -> bool:
        """Whether there are no findings, as far as the record could be checked."""
        return not self.findings


def verify(
    paths: Sequence[Path], head_path: Path | None, key: Secret[bytes], *, are_all: bool = False
) -> Verdict:
    """Verify the records in some files, given oldest first, and their end.

    Leave `head_path` out if the newest file is not among them; then the end is not checked. If the
    files are all that there are, the oldest record that the head remembers must be in them. Raises
    OSError for a file that cannot be read.
    """
    chain = Chain(key.reveal())
    check = _Check(chain, [*paths, head_path or Path()][0])
    head: Head | None = None
    if head_path is None:
        check.limits.append("Whether the end was cut was not checked.")
    else:  # read the head first, because the files may grow meanwhile
        head = _read_head(chain, head_path, check)
    for path, file in opened(paths):
        for number, line in enumerate(lines(file), 1):
            if path == paths[-1] and not line.endswith(b"\n"):
                check.limits.append(f"The last line of {path} is unfinished and was not checked.")
            else:
                check.add_line(path, number, line)
            if len(check.findings) >= FINDINGS_MAX:
                check.limits.append("What comes behind the last finding was not checked.")
                return check.verdict()
    if head is not None:
        if are_all and paths:
            check.beginning(head, paths[0])
        check.end(head)
    return check.verdict()


def _read_head(chain: Chain, path: Path, check: "_Check") -> Head | None:
    try:
        with path.open("rb") as file:
            head = chain.unpack_head(file.read(HEAD_BYTES + 1))
    except FileNotFoundError:
        check.limits.append(f"Whether the end was cut cannot be checked: there is no {path}.")
        return None
    if head is None:
        check.add_finding(path, 1, "this is no head of the record, or one of another key")
    return head


class _Check:
    """Follows the chain line by line.

    A genuine record follows the record before it. If lines were inserted, edited or left out, the
    next genuine record may follow an earlier one. So each problem is reported once, where it is,
    and not again for every record after it.
    """

    def __init__(self, chain: Chain, beginning: Path) -> None:
        self._chain = chain
        self._before = NO_MAC  # the MAC of the record before
        # The MACs of the records that the next one may follow.
        self._branches: deque[bytes] = deque(maxlen=_BRANCHES_MAX)
        self._is_proven = True  # whether the last record was genuine
        self._position = (beginning, 1)
        self._unfinished: Finding | None = None  # a line that begins as the next record would
        self._records = 0
        self._first: int | None = None
        self._greatest = 0  # number
        self.findings: list[Finding] = []
        self.limits: list[str] = []
        self._begins_later = ""  # what to say of older files
        self._lost = 0
        self._losses: list[Finding] = []

    def add_finding(self, path: Path, line: int, text: str) -> None:
        """Note a problem."""
        self.findings.append(Finding(path, line, text))

    def add_line(self, path: Path, number: int, line: bytes) -> None:
        """Check the next line."""
        self._position = (path, number)
        record = parse_record(line.removesuffix(b"\n"))
        if record is None:
            self._add_broken_line(line)
            return
        if self._unfinished is not None:
            self._explain(self._unfinished, record)
            self._unfinished = None
        if self._first is None:
            self._begin(record)
        elif self._chain.follows(record, self._before):
            if record.n > self._greatest:
                self._trust(record)
        else:
            self._explain_position(record)
        self._records += 1
        self._before = record.mac
        self._greatest = max(self._greatest, record.n)

    def _add_broken_line(self, line: bytes) -> None:
        finding = Finding(*self._position, "a line that is no record")
        begun = b'{"n":%d,"time":' % (self._greatest + 1)
        if self._unfinished is None and begun.startswith(line.rstrip(b"\n")[: len(begun)]):
            self._unfinished = finding
        else:
            self.findings.append(finding)

    def _explain(self, unfinished: Finding, after: ChainRecord) -> None:
        """Decide from the record after an unfinished line whether a killed process left that line.

        If a process was killed during a write, the next writer has noticed it and has written a
        record with `previous`, which follows the record before the unfinished line.
        """
        if after.previous == self._before and self._chain.follows(after, self._before):
            where = f"{unfinished.path}, line {unfinished.line}"
            self.limits.append(f"{where} is unfinished: who wrote it was killed.")
        else:
            self.findings.append(unfinished)

    def _trust(self, record: ChainRecord) -> None:
        """Let the next record follow only this one."""
        self._branches.clear()
        self._branches.append(record.mac)
        self._is_proven = True
        if record.lost:
            self._note_loss(record.lost, "before this one")

    def _note_loss(self, lost: int, where: str) -> None:
        self._lost += lost
        if len(self._losses) < FINDINGS_MAX:
            what = "1 record was" if lost == 1 else f"{lost} records were"
            text = f"{what} lost {where}, because they could not be written"
            self._losses.append(Finding(*self._position, text))

    def _begin(self, record: ChainRecord) -> None:
        self._first = record.n
        if not self._chain.follows(record, record.previous):
            edited = record.previous is not None
            what = "was edited" if edited else "was not the first of its file: the beginning is cut"
            self.add_finding(*self._position, f"record {record.n} {what}")
        elif record.previous != NO_MAC:
            self._begins_later = f"It begins at record {record.n}: older files were not given."
        self._trust(record)

    def _explain_position(self, record: ChainRecord) -> None:
        """Report what is wrong with a record that does not follow the record before it."""
        n, greatest = record.n, self._greatest
        by_itself = self._chain.follows(record, record.previous)
        proven = by_itself or any(self._chain.follows(record, mac) for mac in self._branches)
        if n <= greatest:
            what = "out of order, or a copy: it stands behind"
            self.add_finding(*self._position, f"record {n} is {what} record {greatest}")
            return
        if missing := self._missing(n):
            alone = "" if proven else f", and record {n} cannot be checked without"
            self.add_finding(*self._position, f"{missing} missing{alone}")
        elif by_itself:
            self.add_finding(*self._position, f"record {n} follows another record {greatest}")
        elif not proven:
            perhaps = ", or the one before it" if not self._is_proven else ""
            self.add_finding(*self._position, f"record {n} was edited{perhaps}")
        if proven:
            self._trust(record)
        else:
            self._branches.append(record.mac)
            self._is_proven = False

    def _missing(self, n: int) -> str:
        """Name the records that are missing before number `n`; return nothing if none is."""
        first, last = self._greatest + 1, n - 1
        return _range(first, last) if first <= last else ""

    def beginning(self, head: Head, path: Path) -> None:
        """Compare the first record with the oldest that must be there, according to the head."""
        if not head.oldest or self._first is None:
            return
        self._begins_later = ""
        if self._first > head.oldest:
            missing = _range(head.oldest, self._first - 1)
            self.add_finding(path, 1, f"{missing} missing, which should be in an older file")

    def end(self, head: Head) -> None:
        """Compare the end with the head."""
        if head.lost:
            self._note_loss(head.lost, "after this one")
        if self._greatest < head.n:
            text = f"the end was cut: the last record should be number {head.n}"
            self.add_finding(*self._position, text)
        elif self._greatest == head.n and self._before != head.mac and not self.findings:
            text = f"record {head.n} is not the one that was written last"
            self.add_finding(*self._position, text)

    def verdict(self) -> Verdict:
        """Return the result."""
        if self._unfinished is not None:
            self.findings.append(self._unfinished)
        if self._begins_later:
            self.limits.append(self._begins_later)
        last = self._greatest if self._records else None
        return Verdict(
            self._records,
            self._first,
            last,
            self.findings,
            self.limits,
            self._lost,
            self._losses,
        )


def _range(first: int, last: int) -> str:
    """Name the records from a number to a number, as the beginning of a sentence."""
    return f"record {first} is" if first == last else f"records {first} to {last} are"

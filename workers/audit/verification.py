"""Whether the audit record is genuine: nothing cut, edited, left out, put in or moved.

Follows the chain through the lines of all files, the oldest first, and compares the end with the
head. Changes nothing and takes no lock. What it cannot know, it says.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pwserver.secret import Secret
from workers.audit.chain import HEAD_BYTES, NO_MAC, Chain, Head, Line, read_line
from workers.audit.reading import lines

FINDINGS_MAX = 20
"""What is amiss after so many is not looked for: a file of another key would be nothing else."""

_BRANCHES_MAX = 64
"""Lines that the next genuine record may follow: the last one and what was put behind it."""


class Finding(NamedTuple):
    """Something amiss, and where."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.text}"


class Verdict(NamedTuple):
    """What came of a verification."""

    records: int  # that were looked at
    first: int | None  # the number of the first one
    last: int | None  # the greatest number
    findings: list[Finding]  # what is amiss
    limits: list[str]  # what could not be checked, in sentences

    @property
    def is_genuine(self) -> bool:
        """Whether nothing is amiss, as far as it could be checked."""
        return not self.findings


def verify(paths: Sequence[Path], head_path: Path | None, key: Secret[bytes]) -> Verdict:
    """Check the records in some files, given oldest first, and that the last of them is the last.

    Without `head_path`, which is to be left out where the newest file is not among those given,
    the end is not checked. Raises OSError for a file that cannot be read.
    """
    chain = Chain(key.reveal())
    check = _Check(chain, [*paths, head_path or Path()][0])
    head: Head | None = None
    if head_path is None:
        check.limits.append("Whether the end was cut was not checked.")
    else:  # before the files, which may grow meanwhile
        head = _read_head(chain, head_path, check)
    for path in paths:
        for number, line in enumerate(lines(path), 1):
            if path == paths[-1] and not line.endswith(b"\n"):
                check.limits.append(f"The last line of {path} is unfinished and was not checked.")
            else:
                check.take(path, number, line)
            if len(check.findings) >= FINDINGS_MAX:
                check.limits.append("What comes behind the last finding was not checked.")
                return check.verdict()
    if head is not None:
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
        check.find(path, 1, "this is no head of the record, or one of another key")
    return head


class _Check:
    """The chain, followed line by line.

    A genuine record follows the line before it. Where lines were put in between, edited or left
    out, it may follow an earlier one, so that one thing amiss is found once, where it is, and not
    again with every record behind it.
    """

    def __init__(self, chain: Chain, beginning: Path) -> None:
        self._chain = chain
        self._before = NO_MAC  # of the line before
        self._branches: deque[bytes] = deque(maxlen=_BRANCHES_MAX)  # macs of lines it may follow
        self._is_proven = True  # the last record that was in order
        self._place = (beginning, 1)
        self._unfinished: Finding | None = None  # a line that has begun as the next record would
        self._records = 0
        self._first: int | None = None
        self._greatest = 0  # number
        self.findings: list[Finding] = []
        self.limits: list[str] = []

    def find(self, path: Path, line: int, text: str) -> None:
        """Take note of something amiss."""
        self.findings.append(Finding(path, line, text))

    def take(self, path: Path, number: int, text: bytes) -> None:
        """Look at the next line."""
        self._place = (path, number)
        line = read_line(text.removesuffix(b"\n"))
        if line is None:
            self._take_no_record(text)
            return
        if self._unfinished is not None:
            self._explain(self._unfinished, line)
            self._unfinished = None
        if self._first is None:
            self._begin(line)
        elif self._chain.follows(line, self._before):
            if line.n > self._greatest:
                self._trust(line)
        else:
            self._find_place(line)
        self._records += 1
        self._before = line.mac
        self._greatest = max(self._greatest, line.n)

    def _take_no_record(self, text: bytes) -> None:
        finding = Finding(*self._place, "a line that is no record")
        begun = b'{"n":%d,"time":' % (self._greatest + 1)
        if self._unfinished is None and begun.startswith(text.rstrip(b"\n")[: len(begun)]):
            self._unfinished = finding
        else:
            self.findings.append(finding)

    def _explain(self, unfinished: Finding, line: Line) -> None:
        """Say of a line that is no record what the record behind it tells.

        Where somebody was killed within a write, whoever wrote next has found that, and has begun
        with a record that stands by itself, though it follows the one before the unfinished line.
        """
        if line.previous == self._before and self._chain.follows(line, self._before):
            where = f"{unfinished.path}, line {unfinished.line}"
            self.limits.append(f"{where} is unfinished: who wrote it was killed.")
        else:
            self.findings.append(unfinished)

    def _trust(self, line: Line) -> None:
        """Have what comes follow this line and no other."""
        self._branches.clear()
        self._branches.append(line.mac)
        self._is_proven = True

    def _begin(self, line: Line) -> None:
        self._first = line.n
        if not self._chain.follows(line, line.previous):
            edited = line.previous is not None
            what = "was edited" if edited else "was not the first of its file: the beginning is cut"
            self.find(*self._place, f"record {line.n} {what}")
        elif line.previous != NO_MAC:
            self.limits.append(f"It begins at record {line.n}: older files were not given.")
        self._trust(line)

    def _find_place(self, line: Line) -> None:
        """Say what is amiss with a record that does not follow the line before it."""
        n, greatest = line.n, self._greatest
        by_itself = self._chain.follows(line, line.previous)
        proven = by_itself or any(self._chain.follows(line, mac) for mac in self._branches)
        if n <= greatest:
            what = "out of order, or a copy: it stands behind"
            self.find(*self._place, f"record {n} is {what} record {greatest}")
            return
        if missing := self._missing(n):
            alone = "" if proven else f", and record {n} cannot be checked without"
            self.find(*self._place, f"{missing} missing{alone}")
        elif by_itself:
            self.find(*self._place, f"record {n} follows another record {greatest}")
        elif not proven:
            perhaps = ", or the one before it" if not self._is_proven else ""
            self.find(*self._place, f"record {n} was edited{perhaps}")
        if proven:
            self._trust(line)
        else:
            self._branches.append(line.mac)
            self._is_proven = False

    def _missing(self, n: int) -> str:
        """Return which records are missing before number `n`, or nothing."""
        first, last = self._greatest + 1, n - 1
        if first > last:
            return ""
        return f"record {first} is" if first == last else f"records {first} to {last} are"

    def end(self, head: Head) -> None:
        """Compare the end with what the head says of it."""
        if self._greatest < head.n:
            text = f"the end was cut: the last record should be number {head.n}"
            self.find(*self._place, text)
        elif self._greatest == head.n and self._before != head.mac and not self.findings:
            self.find(*self._place, f"record {head.n} is not the one that was written last")

    def verdict(self) -> Verdict:
        """Return what came of it."""
        if self._unfinished is not None:
            self.findings.append(self._unfinished)
        last = self._greatest if self._records else None
        return Verdict(self._records, self._first, last, self.findings, self.limits)

"""strace's lines as system calls. Knows the form of its output, and nothing of what calls mean.

All text is printed in hexadecimal, and descriptors with what they are of (`OPTIONS`):

    4711 pwrite64(8</tmp/book/user_data.db-wal>, "\\x37\\x7f...", 24, 32 <unfinished ...>
    4711 <... pwrite64 resumed>) = 24

A call begins at the line that strace wrote before the kernel did it, and ends at the one that it
wrote after. A process goes on only when strace has written, so what a process did because another
had done something stands further down, whichever processes they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tests.trials.report import TrialFailed

OPTIONS = ("-f", "--seccomp-bpf", "-qq", "-yy", "-xx", "-s", "1048576", "-e", "signal=none")
NEVER = math.inf
"""The end of a call that a process was killed in."""

_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)")
_RESULT = re.compile(r"\) += (\?|-?\d+)[^=]*$")
_NO_CALL = ("+++", "---", "???", "<... ??? resumed>")
"""The end of a process, a signal, and what one that was killed was about to do, and never did."""

_UNFINISHED = " <unfinished ...>"
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_FILE = re.compile(r"(?:\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})+)>(\(deleted\))?")
_CLIENT = re.compile(r"\d+<TCP(?:v6)?:\[.*->.*:(\d+)\]>")


class Unreadable(TrialFailed):
    """What strace wrote is not what this program knows."""


@dataclass(frozen=True, slots=True)
class Call:
    """A system call: where it begins and ends in the record, and its arguments as they stand."""

    process: int
    name: str
    begin: int
    end: float
    arguments: str
    result: int | None
    """What it returned; None where the process was killed in it."""

    @property
    def path(self) -> str | None:
        """What the descriptor is of that stands first, or None: a path."""
        found = _FILE.match(self.arguments)
        return None if found is None else _unhexed(found[1]).decode(errors="surrogateescape")

    @property
    def is_deleted(self) -> bool:
        """Whether that file has no name any more."""
        found = _FILE.match(self.arguments)
        return found is not None and found[2] is not None

    @property
    def client_port(self) -> int | None:
        """The other end's port, where the first argument is a TCP connection."""
        found = _CLIENT.match(self.arguments)
        return None if found is None else int(found[1])

    def texts(self) -> list[bytes]:
        """Return the arguments that are text or data; raise `Unreadable` for one that is cut."""
        found = []
        for digits, cut in _TEXT.findall(self.arguments):
            if cut:
                raise Unreadable(f"{self.name} was printed in part")
            found.append(_unhexed(digits))
        return found

    def number(self, at: int) -> int:
        """Return an argument that is a number, by its place among all arguments."""
        plain = _TEXT.sub("", self.arguments)
        return int(plain.split(", ")[at])


def _unhexed(digits: str) -> bytes:
    return bytes.fromhex(digits.replace("\\x", ""))


def parsed(lines: Iterable[str]) -> Iterator[Call]:
    """Yield the calls in the order in which they ended; those that never did come last."""
    open_calls: dict[int, Call] = {}
    for at, line in enumerate(lines):
        found = _LINE.match(line)
        if found is None:
            raise Unreadable(f"line {at + 1} is not strace's: {line[:60]!r}")
        process, text = int(found[1]), found[2].rstrip("\n")
        if text.startswith(_NO_CALL):
            continue
        if resumed := _RESUMED.match(text):
            begun = open_calls.pop(process, None)
            if begun is None or begun.name != resumed[1]:
                raise Unreadable(f"line {at + 1} resumes what did not begin: {line[:60]!r}")
            yield _ended(begun, begun.arguments + resumed[2], at)
            continue
        called = _CALL.match(text)
        if called is None:
            raise Unreadable(f"line {at + 1} is not strace's: {line[:60]!r}")
        call = Call(process, called[1], at, NEVER, called[2], None)
        if call.arguments.endswith(_UNFINISHED):
            call = replace(call, arguments=call.arguments.removesuffix(_UNFINISHED))
            open_calls[process] = call
        else:
            yield _ended(call, call.arguments, at)
    yield from open_calls.values()


def _ended(call: Call, text: str, at: int) -> Call:
    """Return a call with all its arguments and what it returned."""
    found = _RESULT.search(text)
    if found is None:
        raise Unreadable(f"line {at + 1} has no result: {text[-60:]!r}")
    arguments = text[: found.start()]
    if found[1] == "?":
        return replace(call, arguments=arguments)
    return replace(call, arguments=arguments, end=at, result=int(found[1]))

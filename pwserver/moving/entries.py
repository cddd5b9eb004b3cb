"""What is read of a file that is to be imported: entries, and what is said of its lines.

Nothing that is said shows a password. It may show names, which are stored in clear text anyway.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["broken", "conflict", "duplicate", "note"]
"""Why something is said of a line: it cannot be saved; the name is there with another password;
it is in the file twice; it is saved, but not quite as it stands in the file."""


class Finding(NamedTuple):
    """What is said of a line."""

    line: int
    kind: Kind
    what: str  # the end of a sentence


@dataclass(frozen=True, slots=True)
class Entry:
    """A login as the file has it; texts that it does not have are empty.

    `line` is where it begins in the file, or its number in a file that has no lines.
    """

    line: int
    title: str
    login: str
    password: str = field(repr=False)
    url: str = ""
    labels: tuple[str, ...] = ()


@dataclass(slots=True)
class Export:
    """What was read of a file.

    `unit` is what `line` counts; `template` makes the names of this format if no other is given.
    """

    format: str
    unit: str
    template: str
    entries: list[Entry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # how many of each kind of thing

    def broken(self, line: int, what: str) -> None:
        """Note that a line cannot be read."""
        self.findings.append(Finding(line, "broken", what))

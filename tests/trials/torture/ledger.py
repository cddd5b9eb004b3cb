"""What the service has promised: a model of the book, made of its replies and of nothing else.

A save is one of four things: acknowledged, and then it must be there; refused, and then it must
not; under way or left without an answer, and then it is *open* and may be either; or, once the book
was looked at while nothing was under way, whatever was found. So nothing stays open for longer than
to the next look, and what was once found must be found for ever after.

Passwords say of themselves which save they are of: `CANARY/SOURCE/NUMBER` of a user without a name,
where the model needs one byte a save, and `CANARY/NAME/NUMBER` of a version of a name. Knows
neither sockets nor files.

It is no state machine, as `tests/support/book_model.py` is: what an unanswered request has done is
not known until somebody looks, and the versions of a name that two save are given by the service.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tests.support.book_model import VERSIONS_KEPT, User

GONE, OPEN, SAVED = range(3)
SEEN = 4
"""Found in the book as well; added to `SAVED`."""

GENERATED = "a generated password"
"""Stands among the open saves of a name for one whose password the service made, and never told."""

GENERATED_FROM = "BCDFGHJKLMNPQRSTVWXZ"
"""What generated passwords are made of, so that they can be told from all others."""

Labels = tuple[str, ...]

_changing = threading.Lock()
"""Held while a name's versions change: two threads may save the same name."""


def password_of(canary: str, whose: str, number: int) -> str:
    """Return the password of one save: nothing else makes it."""
    return f"{canary}/{whose}/{number}"


def save_of(password: str) -> tuple[str, int] | None:
    """Return whose save a password is of, and which; None for one that was never sent."""
    _, _, rest = password.partition("/")
    whose, _, number = rest.rpartition("/")
    return (whose, int(number)) if whose and number.isdecimal() else None


class Numbers:
    """The saves without a name of one source, by their numbers."""

    def __init__(self, fates: bytes | bytearray = b"") -> None:
        self._fates = bytearray(fates)

    def __len__(self) -> int:
        return len(self._fates)

    def begin(self, count: int) -> range:
        """Return the numbers of so many new saves, which are open from here on."""
        first = len(self._fates)
        self._fates += bytes([OPEN]) * count
        return range(first, first + count)

    def saved(self, number: int) -> None:
        """Note that a save was acknowledged."""
        self._fates[number] = SAVED

    def refused(self, number: int) -> None:
        """Note that a save was said not to have happened."""
        self._fates[number] = GONE

    def found(self, number: int) -> str:
        """Note that a save is in the book; return what is wrong with that, if anything is."""
        fate = self._fates[number] if number < len(self._fates) else GONE
        if fate == GONE:
            return "was not to be there"
        if fate & SEEN:
            return "is there twice"
        self._fates[number] = SAVED | SEEN
        return ""

    def settle(self) -> int:
        """Take what was not found for gone; return how many of it had been acknowledged."""
        lost = self._fates.count(SAVED)
        self._fates = self._fates.translate(_SETTLED)
        return lost

    def unsee(self) -> None:
        """Expect everything to be found once more."""
        self._fates = self._fates.translate(_UNSEEN)

    @property
    def sure(self) -> int:
        """How many must be there."""
        return len(self._fates) - self.open - self._fates.count(GONE)

    @property
    def open(self) -> int:
        """How many may be there or not."""
        return self._fates.count(OPEN)

    def open_alone(self) -> Numbers:
        """Return these numbers for a book without any that were answered."""
        return Numbers(self._fates.translate(_OPEN_ALONE))

    def as_long_as(self, other: Numbers) -> Numbers:
        """Return these numbers for a time at which others had been given away, which are gone."""
        return Numbers(self._fates.ljust(len(other), bytes([GONE])))


def _table(**changed: tuple[int, int]) -> bytes:
    pairs = dict(changed.values())
    return bytes(pairs.get(value, value) for value in range(256))


_SETTLED = _table(open=(OPEN, GONE), lost=(SAVED, GONE))
_UNSEEN = _table(seen=(SAVED | SEEN, SAVED))
_OPEN_ALONE = _table(saved=(SAVED, GONE), seen=(SAVED | SEEN, GONE))


@dataclass
class Name:
    """What is known of one name in an application's book.

    versions  passwords of the newest versions that were acknowledged; not all need be known
    open      passwords of saves that are open
    deleting  whether a delete is open
    labels    what they are; more than one where a change of them is open
    """

    owner: str
    versions: dict[int, str] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    deleting: bool = False
    labels: set[Labels] = field(default_factory=lambda: {()})

    @property
    def sure(self) -> bool:
        """Whether there must be such a user."""
        return bool(self.versions) and not self.deleting

    @property
    def clouded(self) -> bool:
        """Whether anything about it is open."""
        return bool(self.open) or self.deleting or len(self.labels) > 1

    @property
    def newest(self) -> int:
        """The greatest version that is known, or 0."""
        return max(self.versions, default=0)

    def saved(self, version: int, password: str) -> str:
        """Note an acknowledged save; return what is wrong with it, if anything is."""
        with _changing:
            other = self.versions.setdefault(version, password)
            self.open.discard(password)
            for old in [old for old in self.versions if old < self.newest - VERSIONS_KEPT]:
                del self.versions[old]
        return "" if other == password else f"version {version} was given to two saves"

    def deleted(self) -> None:
        """Note an acknowledged delete."""
        self.versions, self.open, self.deleting, self.labels = {}, set(), False, {()}

    def problem(self, user: User | None) -> tuple[str, str] | None:
        """Return what is wrong with what the book has, if anything is, and what kind of wrong."""
        if user is None:
            return ("lost", "is not there") if self.sure else None
        found = user.versions
        if not (self.versions or self.open):
            return "mismatch", "was not to be there"
        newest, kept = max(found), min(max(found), VERSIONS_KEPT + 1)
        if newest < self.newest:
            return "lost", f"has version {newest}, and {self.newest} was acknowledged"
        if sorted(found) != list(range(newest - kept + 1, newest + 1)):
            return "lost", "lacks older versions"
        if user.labels not in self.labels:
            return "mismatch", "has other labels"
        wrong = [number for number, password in found.items() if not self._may(number, password)]
        return ("mismatch", f"has another password as version {wrong[0]}") if wrong else None

    def _may(self, version: int, password: str) -> bool:
        """Tell whether a version may have a password.

        One that is too old to be known may have any that this name ever had.
        """
        known = self.versions.get(version)
        if known is not None:
            return password == known
        if GENERATED in self.open and set(password) <= set(GENERATED_FROM):
            return True
        return password in self.open or version < self.newest - VERSIONS_KEPT

    def settled(self, user: User) -> Name:
        """Return what is known once the name was looked at."""
        return Name(self.owner, dict(user.versions), labels={user.labels})


class Ledger:
    """What one book is to hold. `horizon` is the greatest id that was looked at in it."""

    def __init__(self) -> None:
        self.numbers: dict[str, Numbers] = {}
        self.names: dict[str, Name] = {}
        self.horizon = -1

    def source(self, name: str) -> Numbers:
        """Return the saves without a name of a source."""
        return self.numbers.setdefault(name, Numbers())

    def name(self, owner: str, name: str) -> Name:
        """Return what is known of a name."""
        return self.names.setdefault(name, Name(owner))

    @property
    def sure(self) -> int:
        """How many users there must be."""
        named = sum(name.sure for name in self.names.values())
        return named + sum(numbers.sure for numbers in self.numbers.values())

    @property
    def open(self) -> int:
        """How many users there may be besides."""
        named = sum(
            not name.sure and bool(name.versions or name.open) for name in self.names.values()
        )
        return named + sum(numbers.open for numbers in self.numbers.values())

    def copy(self) -> Ledger:
        """Return the ledger of a backup made now, when nothing is open."""
        other = Ledger()
        other.numbers = {source: each.as_long_as(each) for source, each in self.numbers.items()}
        other.names = {
            name: each.settled(User(each.versions, *each.labels))
            for name, each in self.names.items()
        }
        other.horizon = self.horizon
        return other

    def restored(self, current: Ledger) -> Ledger:
        """Return the ledger of this backup in the place of the current one."""
        other = self.copy()
        for source, numbers in current.numbers.items():
            other.numbers[source] = other.source(source).as_long_as(numbers)
        return other

    def after_removal(self) -> Ledger:
        """Return the ledger of the fresh book: what is under way may go into that."""
        fresh = Ledger()
        fresh.numbers = {source: each.open_alone() for source, each in self.numbers.items()}
        for name, known in self.names.items():
            if known.clouded:
                labels = {(), *known.labels}
                fresh.names[name] = Name(known.owner, open=set(known.open), labels=labels)
        return fresh

    def unsee(self) -> None:
        """Have the whole book looked at once more."""
        self.horizon = -1
        for numbers in self.numbers.values():
            numbers.unsee()

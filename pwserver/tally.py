"""What a worker counts: numbers that only grow, times, sizes, and what is open or waits now.

A worker counts in its own memory, which costs the least, and publishes the numbers once a tick on
its block of the scoreboard. A worker that is started in place of another goes on from what that one
has published. `Counts` is what others read from a block. This file knows the layout of a block and
nothing of what is counted.

Times and sizes go into buckets, each twice as wide as the one before, because then the number of
bits of a value tells its bucket.
"""

import time
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

COMMANDS = (
    "save_password",
    "number_of_users",
    "get_password",
    "verify_password",
    "password_history",
    "restore_password",
    "label_user",
    "list_users",
    "delete_user",
    "generate_password",
    "check_password",
    "authenticate",
    "ping",
    "status",
    "invalid",
)
"""What requests are counted by: their message; the last one stands for all that are invalid."""

OK = 0
OUTCOMES = {
    "ok": "",
    "invalid": "Invalid message!",
    "not_saved": "Not saved!",
    "unknown_user": "Unknown user!",
    "unknown_version": "Unknown version!",
    "denied": "Denied!",
    "unavailable": "Unavailable!",
}
"""How a request may end, with the word of the reply; any other word is a success."""

_OUTCOME_OF = {word.encode(): place for place, word in enumerate(OUTCOMES.values())}

SAVES, READS, COUNTS, OTHERS = range(4)
KINDS = ("save", "read", "count", "other")
"""What times are told apart by."""

DENIED = len(KINDS)
"""Stands behind the kinds in what is counted of an application."""

TIME_BUCKETS = 20
TIME_FIRST_US = 32
"""The first bucket of times has those below 32 microseconds, the last but one those below 8.4 s."""

SIZE_BUCKETS = 14
"""Sizes of 1, 2, up to 4, up to 8 and so on, the last but one up to 4,096."""

APPLICATIONS_TOLD_APART = 64
"""Applications that a worker counts by themselves; what any more of them do has the row 0."""

_TIME_WORDS = TIME_BUCKETS + 1  # the last word is the sum, in microseconds
_TIMES_AT = len(COMMANDS) * len(OUTCOMES)
_COMMITS_AT = _TIMES_AT + len(KINDS) * _TIME_WORDS
_SIZES_AT = _COMMITS_AT + _TIME_WORDS
_SINGLES_AT = _SIZES_AT + SIZE_BUCKETS + 1
_SINGLES = ("failed_commits", "connections", "queued", "named", "checks")
_ROWS_AT = _SINGLES_AT + len(_SINGLES)
_ROW_WORDS = DENIED + 2  # an application's number, the kinds, denied requests
WORDS = _ROWS_AT + APPLICATIONS_TOLD_APART * _ROW_WORDS
"""The length of a block."""

_BITS = range(65)  # of any number that is counted
_FIRST_BITS = TIME_FIRST_US.bit_length() - 1
_TIME_BUCKET = [min(max(bits - _FIRST_BITS, 0), TIME_BUCKETS - 1) for bits in _BITS]
"""The bucket of a time in microseconds that has so many bits."""

_SIZE_AT = [_SIZES_AT + min(bits, SIZE_BUCKETS - 1) for bits in _BITS]
"""Where a size is counted which, less one, has so many bits."""

_OUTCOMES = len(OUTCOMES)


def outcome_of(reply: bytes) -> int:
    """Return which of the outcomes a reply tells of."""
    return _OUTCOME_OF.get(reply.split(b'"', 4)[3], OK)


class Tally:
    """What one worker counts. Without a block it is for a test, and nobody sees it.

    All that is alike in a turn is counted at once. Times and sizes are only noted in the turn, and
    sorted into their buckets at the tick: a loop over many takes a fraction of as many calls, each
    of which finds the processor's caches full of other things.
    """

    def __init__(self, block: "memoryview[Any] | None" = None) -> None:
        self._block = block
        self._numbers = [0] * WORDS if block is None else block.tolist()
        self._answered = [0] * len(KINDS)  # requests of this turn whose replies are not sent
        self._any_answered = False
        self._later: list[tuple[int, float, int]] = []  # of earlier turns: kind, since, number
        self._sent: list[tuple[float, list[tuple[int, float, int]]]] = []  # the same, and when
        self._commits: list[tuple[int, int]] = []  # changes, and microseconds
        self._rows = {0: _ROWS_AT}
        for at in range(_ROWS_AT + _ROW_WORDS, WORDS, _ROW_WORDS):
            if number := self._numbers[at]:
                self._rows[number] = at

    # --- Requests. ---

    def answer(self, command: int, kind: int, outcome: int, number: int = 1) -> None:
        """Count requests that were answered in the turn in which they arrived, all alike."""
        self._numbers[command * _OUTCOMES + outcome] += number
        self._answered[kind] += number
        self._any_answered = True

    def answer_later(
        self, command: int, kind: int, outcome: int, since: float, number: int = 1
    ) -> None:
        """Count requests, alike, that arrived in a turn that began at `since`."""
        self._numbers[command * _OUTCOMES + outcome] += number
        self._later.append((kind, since, number))

    def sent_replies(self, since: float) -> None:
        """Count the times of all that was answered, because the replies have been sent now.

        `since` is when the turn began.
        """
        later = self._later
        if self._any_answered:
            answered = self._answered
            later += [(kind, since, number) for kind, number in enumerate(answered) if number]
            answered[:] = [0] * len(KINDS)
            self._any_answered = False
        if later:
            self._sent.append((time.monotonic(), later))
            self._later = []

    def did(self, application: int, kind: int, number: int) -> None:
        """Count requests of an application; 0 stands for clients without a token."""
        at = self._rows.get(application)
        if at is None:
            at = self._new_row(application)
        self._numbers[at + 1 + kind] += number

    def _new_row(self, application: int) -> int:
        at = _ROWS_AT
        if len(self._rows) < APPLICATIONS_TOLD_APART:
            at += len(self._rows) * _ROW_WORDS
            self._numbers[at] = application
            self._rows[application] = at
        return at

    # --- Commits. ---

    def commit(self, changes: int, took_us: int) -> None:
        """Count a commit of so many changes."""
        self._commits.append((changes, took_us))

    def failed_commit(self) -> None:
        """Count a commit that failed."""
        self._numbers[_SINGLES_AT] += 1

    # --- Publishing. ---

    def publish(self, connections: int, queued: int, named: int, checks: int) -> None:
        """Show the others all numbers, and what is open or waits now.

        That is the open connections, the bytes of rows and of operations on names that wait to be
        committed, and the passwords that wait to be checked.
        """
        self._sort()
        self._numbers[_SINGLES_AT + 1 : _ROWS_AT] = connections, queued, named, checks
        if self._block is not None:
            self._block[:] = memoryview(array("Q", self._numbers))

    def _sort(self) -> None:
        """Count the times and sizes that were noted since the last call."""
        numbers = self._numbers
        for sent_at, answered in self._sent:
            for kind, since, number in answered:
                at = _TIMES_AT + kind * _TIME_WORDS
                took_us = int((sent_at - since) * 1e6)
                numbers[at + _TIME_BUCKET[took_us.bit_length()]] += number
                numbers[at + TIME_BUCKETS] += took_us * number
        for changes, took_us in self._commits:
            numbers[_SIZE_AT[(changes - 1).bit_length()]] += 1
            numbers[_SIZES_AT + SIZE_BUCKETS] += changes
            numbers[_COMMITS_AT + _TIME_BUCKET[took_us.bit_length()]] += 1
            numbers[_COMMITS_AT + TIME_BUCKETS] += took_us
        self._sent.clear()
        self._commits.clear()


class Counts:
    """What one worker has published, or several of them together."""

    def __init__(self, blocks: "Iterable[memoryview[Any]]") -> None:
        totals = [0] * _ROWS_AT
        self.applications: dict[int, list[int]] = {}
        """Requests by the application's number: of each kind, and those that were denied."""
        for block in blocks:
            numbers = block.tolist()
            totals = [total + number for total, number in zip(totals, numbers, strict=False)]
            for at in range(_ROWS_AT, WORDS, _ROW_WORDS):
                self._add_application(numbers[at], numbers[at + 1 : at + _ROW_WORDS])
        self._numbers = totals

    def _add_application(self, number: int, did: list[int]) -> None:
        if any(did):
            earlier = self.applications.get(number, [0] * len(did))
            together = [one + other for one, other in zip(earlier, did, strict=True)]
            self.applications[number] = together

    def requests(self, command: int, outcome: int) -> int:
        """Return how many requests had an outcome."""
        return self._numbers[command * len(OUTCOMES) + outcome]

    def times(self, kind: int) -> list[int]:
        """Return how many requests of a kind each bucket of times has, and the sum in us."""
        at = _TIMES_AT + kind * _TIME_WORDS
        return self._numbers[at : at + _TIME_WORDS]

    @property
    def commit_times(self) -> list[int]:
        """How many commits each bucket of times has, and the sum in microseconds."""
        return self._numbers[_COMMITS_AT : _COMMITS_AT + _TIME_WORDS]

    @property
    def commit_sizes(self) -> list[int]:
        """How many commits each bucket of sizes has, and the sum of the sizes."""
        return self._numbers[_SIZES_AT : _SIZES_AT + SIZE_BUCKETS + 1]

    def single(self, name: str) -> int:
        """Return one of the numbers that stand alone."""
        return self._numbers[_SINGLES_AT + _SINGLES.index(name)]


def time_bounds_s() -> list[float]:
    """Return the upper bounds of the buckets of times but the last, in seconds."""
    return [(TIME_FIRST_US << place) / 1e6 for place in range(TIME_BUCKETS - 1)]


def size_bounds() -> list[int]:
    """Return the upper bounds of the buckets of sizes but the last."""
    return [1 << place for place in range(SIZE_BUCKETS - 1)]


def percentile_s(buckets: Sequence[int], share: float) -> float | None:
    """Return the time below which a share of what is in the buckets lies; None if they are empty.

    Within a bucket the times are taken to be spread evenly.
    """
    total = sum(buckets)
    if not total:
        return None
    left = share * total
    for place, number in enumerate(buckets):
        if number and left <= number:
            low = 0 if place == 0 else TIME_FIRST_US << (place - 1)
            return (low + ((TIME_FIRST_US << place) - low) * left / number) / 1e6
        left -= number
    return (TIME_FIRST_US << (len(buckets) - 1)) / 1e6

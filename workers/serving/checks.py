"""A worker's questions to the checker about how strong passwords are.

A check takes milliseconds, and a tenth of a second for a text that is made to take long, so another
process does it (`workers.checker`) and a worker's other clients do not wait. This file knows which
connection waits for which answer, and for how long.

Callers take turns. What may wait is shared fairly between them (`shares`). Of each caller only a
few questions are at the checker, which does one of each caller in turn, and the others wait here:
so a caller that asks without end is not in the way of one that asks once.
"""

import itertools
import marshal
import socket
from collections import deque

from pwserver.errors import Unavailable
from pwserver.limits import CHECKS_MAX
from pwserver.wire import messages
from pwserver.wire.messages import Id
from workers.serving.awaited import Later, Waiter
from workers.serving.shares import Shares, Who, named

FAILED = -1  # in place of a strength
TOO_SLOW = -2

_AT_CHECKER_MAX = 2
"""Questions of a caller that a worker has at the checker: one that is done, and the next one."""

PACKET_BYTES_MAX = 4096
"""The longest question or answer, marshalled."""


_REASONS = {
    FAILED: "The password could not be checked.",
    TOO_SLOW: "This password takes too long to check.",
}


class Check(Later):
    """One question, and the connection that waits for its answer."""

    def __init__(self, waiter: Waiter, password: str, id: Id, deadline: float) -> None:
        super().__init__()
        self.waiter = waiter
        self.who = waiter.peer.caller.application
        self.password = password
        self.deadline = deadline
        self.number: int | None = None  # None: it is not at the checker
        self._id = id

    def answer(self, strength: int, warning: str, suggestions: list[str]) -> None:
        """Set the reply from the checker's answer: a strength from 0 to 4, and sentences."""
        if strength in _REASONS:
            self.give_up(_REASONS[strength])
            return
        self.reply = messages.encode(
            "return_check_password",
            self._id,
            strength=strength,
            warning=warning,
            suggestions=suggestions,
        )

    def give_up(self, reason: str) -> None:
        """Set a refusal as the reply."""
        self.reply = messages.refusal(Unavailable(reason), self._id)


class Checks:
    """The unanswered questions of one worker."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        self._shares = Shares(CHECKS_MAX)
        self._unanswered: dict[Check, None] = {}  # in the order of their deadlines
        self._waiting: dict[Who, deque[Check]] = {}  # those that are not at the checker
        self._at_checker: dict[int, Check] = {}
        self._sent: dict[Who, int] = {}  # how many of a caller are at the checker
        self._channel: socket.socket | None = None  # each packet is one question or answer

    @property
    def unanswered(self) -> int:
        """How many questions have no answer yet."""
        return len(self._unanswered)

    def ask(self, waiter: Waiter, password: str, id: Id, now: float) -> Check:
        """Have the checker asked about a password, of at most `CHECK_LENGTH_MAX`."""
        check = Check(waiter, password, id, now + self._timeout_s)
        if self._channel is None:
            check.give_up("The checker of passwords cannot take more at this moment.")
        elif self._shares.full(check.who):
            check.give_up(
                f"The service is overloaded: too many passwords of {named(check.who)} wait to be "
                "checked."
            )
        else:
            self._shares.add(check.who, 1)
            self._unanswered[check] = None
            self._waiting.setdefault(check.who, deque()).append(check)
            self._send()
        return check

    def _send(self) -> None:
        """Send what may be at the checker, as far as its channel has room."""
        for who, checks in list(self._waiting.items()):
            while checks and self._sent.get(who, 0) < _AT_CHECKER_MAX:
                if not self._send_one(checks[0]):
                    return
                checks.popleft()
            if not checks:
                del self._waiting[who]

    def _send_one(self, check: Check) -> bool:
        assert self._channel is not None
        number = next(self._numbers)
        question = (number, check.deadline, check.who, check.password)
        try:
            self._channel.send(marshal.dumps(question))
        except OSError:  # its channel is full, or it has died, which `receive` notices
            return False
        check.number = number
        self._at_checker[number] = check
        self._sent[check.who] = self._sent.get(check.who, 0) + 1
        return True

    def _forget(self, check: Check) -> None:
        """Forget a question that is answered or given up."""
        del self._unanswered[check]
        who = check.who
        self._shares.remove(who, 1)
        if check.number is None:
            self._waiting[who].remove(check)
            if not self._waiting[who]:
                del self._waiting[who]
            return
        del self._at_checker[check.number]
        self._sent[who] -= 1
        if not self._sent[who]:
            del self._sent[who]

    def attach(self, channel: socket.socket) -> list[Waiter]:
        """Use the channel to a new checker; return the connections that waited for the old one."""
        lost = self.detach()
        self._channel = channel
        return lost

    def detach(self) -> list[Waiter]:
        """Give up the checker; return the connections that waited for it: they are refused."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        return self._give_up(list(self._unanswered), "The checker of passwords died.")

    def receive(self) -> tuple[list[Waiter], bool]:
        """Return the connections that have an answer, and whether the checker is gone."""
        answered: list[Waiter] = []
        while packet := self._received():
            number, *result = marshal.loads(packet)
            check = self._at_checker.get(number)
            if check is not None:  # otherwise it was given up
                self._forget(check)
                check.answer(*result)
                answered.append(check.waiter)
        gone = packet is not None
        if not gone:
            self._send()
        return answered, gone

    def _received(self) -> bytes | None:
        """Return an answer; None if there is none, and no bytes if the checker is gone."""
        assert self._channel is not None
        try:
            return self._channel.recv(PACKET_BYTES_MAX)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def expire(self, now: float) -> list[Waiter]:
        """Give up the questions that are too old; return their connections."""
        late = [check for check in self._unanswered if check.deadline < now]
        waiters = self._give_up(late, "The service is overloaded: the check took too long.")
        if self._channel is not None:
            self._send()
        return waiters

    def _give_up(self, checks: list[Check], reason: str) -> list[Waiter]:
        for check in checks:
            self._forget(check)
            check.give_up(reason)
        return [check.waiter for check in checks]

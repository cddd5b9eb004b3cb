"""A worker's questions to the checker about how strong passwords are.

A check takes milliseconds, and up to seconds for a text that is made to take long, so another
process does it (`workers.checker`) and a worker's other clients do not wait. This file knows which
connection waits for which answer, and for how long.
"""

import itertools
import marshal
import socket

from pwserver.errors import Unavailable
from pwserver.limits import CHECKS_MAX
from pwserver.wire import messages
from pwserver.wire.messages import Id
from workers.serving.awaited import Awaited, Waiter

FAILED = -1  # in place of a strength
PACKET_BYTES_MAX = 4096
"""The longest question or answer, marshalled."""


class Check(Awaited):
    """One question, and the connection that waits for its answer."""

    def __init__(self, waiter: Waiter, id: Id, deadline: float) -> None:
        super().__init__()
        self.waiter = waiter
        self.deadline = deadline
        self._id = id

    def answer(self, strength: int, warning: str, suggestions: list[str]) -> None:
        """Set the reply from the checker's answer: a strength from 0 to 4, and sentences."""
        if strength == FAILED:
            self.give_up("The password could not be checked.")
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
        self._waiting: dict[int, Check] = {}  # in the order of their deadlines
        self._channel: socket.socket | None = None  # each packet is one question or answer

    def ask(self, waiter: Waiter, password: str, id: Id, now: float) -> Check:
        """Send a password, of at most `CHECK_LENGTH_MAX`, to the checker."""
        check = Check(waiter, id, now + self._timeout_s)
        if len(self._waiting) >= CHECKS_MAX:
            check.give_up("The service is overloaded: too many passwords wait to be checked.")
            return check
        number = next(self._numbers)
        try:
            if self._channel is None:
                raise BrokenPipeError
            self._channel.send(marshal.dumps((number, check.deadline, password)))
        except OSError:  # the checker has died, or its channel is full
            check.give_up("The checker of passwords cannot take more at this moment.")
        else:
            self._waiting[number] = check
        return check

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
        return self._give_up(list(self._waiting), "The checker of passwords died.")

    def receive(self) -> tuple[list[Waiter], bool]:
        """Return the connections that have an answer, and whether the checker is gone."""
        assert self._channel is not None
        answered: list[Waiter] = []
        while True:
            try:
                packet = self._channel.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                return answered, False
            except OSError:
                packet = b""
            if not packet:
                return answered, True
            number, *result = marshal.loads(packet)
            check = self._waiting.pop(number, None)
            if check is not None:  # otherwise it was given up
                check.answer(*result)
                answered.append(check.waiter)

    def expire(self, now: float) -> list[Waiter]:
        """Give up the questions that are too old; return their connections."""
        late = [number for number, check in self._waiting.items() if check.deadline < now]
        return self._give_up(late, "The service is overloaded: the check took too long.")

    def _give_up(self, numbers: list[int], reason: str) -> list[Waiter]:
        checks = [self._waiting.pop(number) for number in numbers]
        for check in checks:
            check.give_up(reason)
        return [check.waiter for check in checks]

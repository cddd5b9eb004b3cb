"""What was found in an image, held against what had been promised by then.

A save that was acknowledged is there, with the password that was saved; one that was not is whole
or absent; a user who was deleted stays so; and nothing is there that nobody sent.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from tests.support.book_model import User
from tests.trials.powerloss.events import Arrival, Event, Mark, Reply
from tests.trials.powerloss.ledger import Became, Command, Ledger, Saved
from tests.trials.powerloss.opening import Found
from tests.trials.report import TrialFailed

NEVER = math.inf


class Kind(StrEnum):
    """How a promise can be broken."""

    LOST = "lost"
    UNOPENED = "not opening"
    WRONG = "wrong"


class Broken(NamedTuple):
    """A promise that was broken, in a sentence."""

    kind: Kind
    text: str


class _Step(NamedTuple):
    """A change of a named user: when it was asked for, and when it was acknowledged."""

    asked: float
    acknowledged: float
    after: User | None


_NOT_YET = (NEVER, "")


class Promises:
    """What the service had promised at each moment: after so many events."""

    def __init__(self, ledger: Ledger, events: Sequence[Event]) -> None:
        self._saves: list[tuple[float, str]] = []
        self._steps: defaultdict[str, list[_Step]] = defaultdict(list)
        self._applications = ledger.applications
        asked, answered = _messages(events, Arrival), _messages(events, Reply)
        for port, requests in ledger.requests.items():
            for at, request in enumerate(requests):
                arrived, _ = asked[port][at] if at < len(asked[port]) else _NOT_YET
                left, reply = answered[port][at] if at < len(answered[port]) else _NOT_YET
                if reply not in ("", request.reply):
                    raise TrialFailed(f"a request was answered {reply} in the record")
                if isinstance(request.effect, Saved):
                    self._saves.append((left, request.effect.password))
                elif isinstance(request.effect, Became):
                    step = _Step(arrived, left, request.effect.user)
                    self._steps[request.effect.name].append(step)
        self._saves.sort()
        self._sent = {password for _, password in self._saves}
        done = _done(events)
        self._commands: list[tuple[float, Command]] = [
            (done.get(at, NEVER), command) for at, command in enumerate(ledger.commands)
        ]

    @property
    def acknowledged(self) -> int:
        """How many changes were acknowledged in the end."""
        steps = sum(step.acknowledged < NEVER for each in self._steps.values() for step in each)
        return sum(when < NEVER for when, _ in self._saves) + steps

    def broken(self, found: Found, events: int) -> Iterator[Broken]:
        """Yield what is broken if this is found when so many events had happened."""
        for text in found.wrong:
            yield Broken(Kind.WRONG, text)
        yield from self._broken_unnamed(found.unnamed, events)
        for name, steps in self._steps.items():
            yield from _broken_name(name, steps, found.named.get(name), events)
        for name in found.named.keys() - self._steps.keys():
            yield Broken(Kind.WRONG, f"{name} is there, and nobody saved it")
        for name in self._applications.difference(found.applications):
            yield Broken(Kind.LOST, f"the application {name} was registered, and is gone")
        for when, command in self._commands:
            if when < events and not command.holds(found.keys):
                yield Broken(
                    Kind.LOST, f"{' '.join(command.words)} was done, and is not: {found.keys}"
                )

    def _broken_unnamed(self, found: list[str], events: int) -> Iterator[Broken]:
        there = set(found)
        if len(there) < len(found):
            yield Broken(Kind.WRONG, "a save is there twice")
        for password in there - self._sent:
            yield Broken(Kind.WRONG, f"{password[:20]} is there, and nobody saved it")
        for when, password in self._saves:
            if when >= events:
                return
            if password not in there:
                yield Broken(
                    Kind.LOST, f"the save of {password[:20]} was acknowledged, and is gone"
                )


def _broken_name(
    name: str, steps: list[_Step], found: User | None, events: int
) -> Iterator[Broken]:
    asked = sum(step.asked < events for step in steps)
    acknowledged = sum(step.acknowledged < events for step in steps)
    states = [None, *(step.after for step in steps)]
    if found in states[acknowledged : asked + 1]:
        return
    if found in states[:acknowledged]:
        yield Broken(Kind.LOST, f"{name} is as it was before a change that was acknowledged")
    else:
        yield Broken(Kind.WRONG, f"{name} is as it never was: {found}")


def _messages(
    events: Sequence[Event], kind: type[Arrival | Reply]
) -> defaultdict[int, list[tuple[float, str]]]:
    """Return what came or left on each connection: at which event, and its `message`."""
    streams: defaultdict[int, bytes] = defaultdict(bytes)
    messages: defaultdict[int, list[tuple[float, str]]] = defaultdict(list)
    for at, event in enumerate(events):
        if isinstance(event, kind):
            *lines, streams[event.port] = (streams[event.port] + event.data).split(b"\n")
            messages[event.port] += [(at, str(json.loads(line)["message"])) for line in lines]
    return messages


def _done(events: Sequence[Event]) -> dict[int, float]:
    """Return at which event each command of the administrator was done."""
    marks = [(at, event.text.split()) for at, event in enumerate(events) if isinstance(event, Mark)]
    return {int(words[1]): at for at, words in marks if words[0] == "command" and words[-1] == "0"}

"""How strong passwords are: the questions of a worker, and the answers of the checker."""

import contextlib
import json
import logging
import marshal
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zxcvbn
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from pwserver.ipc import control_channel
from pwserver.limits import CHECK_LENGTH_MAX, CHECKS_MAX
from pwserver.wire.messages import Id
from tests.support.books import Client
from workers import checker
from workers.serving.checks import FAILED, PACKET_BYTES_MAX, Check, Checks

TIMEOUT_S = 5.0
DIED = "The checker of passwords died."
CANNOT = "The checker of passwords cannot take more at this moment."
TOO_MANY = "The service is overloaded: too many passwords wait to be checked."
TOO_LATE = "The service is overloaded: the check took too long."


class Desk:
    """A worker's questions, and the checker's end of the channel."""

    def __init__(self) -> None:
        self.checks = Checks(TIMEOUT_S)
        ours, self.theirs = control_channel()
        assert self.checks.attach(ours) == []

    def ask(self, password: str, id: Id = UNSET, now: float = 0.0) -> Check:
        """Ask as a client of its own."""
        return self.checks.ask(Client(), password, id, now)

    def questions(self) -> list[list[Any]]:
        """Return what has reached the checker: number, deadline and password of each."""
        arrived = []
        with contextlib.suppress(BlockingIOError):
            while packet := self.theirs.recv(PACKET_BYTES_MAX):
                arrived.append(list(marshal.loads(packet)))
        return arrived

    def answer(self, number: int, strength: int, warning: str = "") -> None:
        """Answer a question as the checker does."""
        self.theirs.send(marshal.dumps((number, strength, warning, [])))


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Return a worker's questions with a checker that the test plays."""
    opened = Desk()
    yield opened
    opened.checks.detach()
    opened.theirs.close()


def reply(check: Check) -> dict[str, Any] | None:
    """Return the one reply to a check, or None as long as there is none."""
    line = check.reply
    if line is None:
        return None
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    decoded: dict[str, Any] = json.loads(line)
    return decoded


def unavailable(reason: str) -> dict[str, str]:
    """Return the reply to what was given up."""
    return {"message": "Unavailable!", "error": reason}


# --- The questions. ---


def test_an_answer_reaches_who_asked(desk: Desk) -> None:
    """In whatever order the checker answers, each client has the answer to its own question."""
    checks = [desk.ask(password, id) for password, id in (("a", 1), ("b", "two"), ("c", UNSET))]
    (first, *_), (second, *_), (third, *_) = desk.questions()
    assert [reply(check) for check in checks] == [None] * 3
    desk.answer(third, 3, "c is weak")
    desk.answer(first, 1)
    assert desk.checks.receive() == ([checks[2].waiter, checks[0].waiter], False)
    assert desk.checks.receive() == ([], False)
    found = {"message": "return_check_password", "strength": 3, "warning": "c is weak"}
    assert reply(checks[2]) == {**found, "suggestions": []}
    assert reply(checks[0]) == {**found, "strength": 1, "warning": "", "suggestions": [], "id": 1}
    assert reply(checks[1]) is None
    desk.answer(second, 4)
    assert desk.checks.receive() == ([checks[1].waiter], False)
    assert (reply(checks[1]) or {})["id"] == "two"


def test_a_question_says_how_long_it_is_worth_answering(desk: Desk) -> None:
    """The checker is told until when somebody waits, so that it can pass the question over."""
    desk.ask("abc123", now=100.0)
    assert [question[1:] for question in desk.questions()] == [[100.0 + TIMEOUT_S, "abc123"]]


def test_what_takes_too_long_is_given_up(desk: Desk) -> None:
    """A client waits no longer than the timeout, and an answer that comes later is for nobody."""
    late, in_time = desk.ask("a", now=0.0), desk.ask("b", now=1.0)
    assert desk.checks.expire(TIMEOUT_S) == []
    assert desk.checks.expire(TIMEOUT_S + 0.5) == [late.waiter]
    assert (reply(late), reply(in_time)) == (unavailable(TOO_LATE), None)
    assert desk.checks.expire(TIMEOUT_S + 0.6) == []
    for number, *_ in desk.questions():
        desk.answer(number, 4)
    assert desk.checks.receive() == ([in_time.waiter], False)
    assert reply(late) == unavailable(TOO_LATE)


def test_too_many_questions_are_refused(desk: Desk) -> None:
    """So many wait and no more, whoever asks; each that is answered makes room for another."""
    waiting = [desk.ask("a") for _ in range(CHECKS_MAX)]
    assert reply(desk.ask("a")) == unavailable(TOO_MANY)
    assert [reply(check) for check in waiting] == [None] * CHECKS_MAX
    questions = desk.questions()
    assert len(questions) == CHECKS_MAX
    desk.answer(questions[0][0], 0)
    assert desk.checks.receive() == ([waiting[0].waiter], False)
    assert reply(desk.ask("a")) is None
    assert reply(desk.ask("a")) == unavailable(TOO_MANY)


def test_a_checker_that_reads_nothing_costs_no_memory(desk: Desk) -> None:
    """Where its channel is full questions are refused at once; what was given up is forgotten."""
    longest = "\U0001f600" * CHECK_LENGTH_MAX
    refused = None
    for turn in range(100):
        now = turn * (TIMEOUT_S + 1)
        given_up = len(desk.checks.expire(now))
        assert given_up == (CHECKS_MAX if turn else 0)
        checks = [desk.ask(longest, now=now) for _ in range(CHECKS_MAX)]
        refused = next((check for check in checks if check.reply), None)
        if refused is not None:
            break
    assert refused is not None
    assert reply(refused) == unavailable(CANNOT)


def test_without_a_checker_questions_are_refused() -> None:
    """Before the first checker is there, and between two, a question is answered at once."""
    checks = Checks(TIMEOUT_S)
    assert reply(checks.ask(Client(), "a", UNSET, 0.0)) == unavailable(CANNOT)
    ours, theirs = control_channel()
    with theirs:
        checks.attach(ours)
        checks.detach()
        assert reply(checks.ask(Client(), "a", UNSET, 0.0)) == unavailable(CANNOT)


def test_a_dead_checker_is_noticed(desk: Desk) -> None:
    """Its last answers count; who waited for another is told, and later ones go to the next."""
    answered, lost = desk.ask("a"), desk.ask("b")
    desk.questions()
    desk.answer(0, 2)
    desk.theirs.close()
    assert desk.checks.receive() == ([answered.waiter], True)
    assert reply(desk.ask("c")) == unavailable(CANNOT)
    assert desk.checks.detach() == [lost.waiter]
    assert (reply(answered) or {})["strength"] == 2
    assert reply(lost) == unavailable(DIED)
    ours, desk.theirs = control_channel()
    assert desk.checks.attach(ours) == []
    again = desk.ask("d")
    ((number, _, password),) = desk.questions()
    assert password == "d"
    desk.answer(number, 1)
    assert desk.checks.receive() == ([again.waiter], False)


def test_a_checker_that_died_over_questions_is_noticed(desk: Desk) -> None:
    """Where it had not read what it was asked its end is a reset, and all who waited are told."""
    lost = [desk.ask("a"), desk.ask("b")]
    desk.theirs.close()
    assert desk.checks.receive() == ([], True)
    assert desk.checks.detach() == [check.waiter for check in lost]
    assert [reply(check) for check in lost] == [unavailable(DIED)] * 2


def test_a_new_checker_takes_over_before_the_old_ones_end_is_noticed(desk: Desk) -> None:
    """Who waited for the old checker is told so, and its answers are never taken for others."""
    lost = desk.ask("a")
    ours, theirs = control_channel()
    with desk.theirs:
        assert desk.checks.attach(ours) == [lost.waiter]
        desk.theirs = theirs
    assert reply(lost) == unavailable(DIED)
    check = desk.ask("b")
    desk.answer(0, 4)  # the number of the question that was lost
    assert desk.checks.receive() == ([], False)
    assert reply(check) is None


def test_a_password_that_cannot_be_checked_is_said_so(desk: Desk) -> None:
    """Where the checker failed over a password, its client is not told a strength."""
    check = desk.ask("a", 7)
    desk.answer(0, FAILED)
    assert desk.checks.receive() == ([check.waiter], False)
    assert reply(check) == {**unavailable("The password could not be checked."), "id": 7}


# --- The answers. ---


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return a worker's end of a channel and the checker's."""
    ours, theirs = control_channel()
    with ours, theirs:
        yield ours, theirs


def test_a_question_is_answered(ends: tuple[socket.socket, socket.socket]) -> None:
    """The checker answers under the question's number what it has found."""
    ours, theirs = ends
    ours.send(marshal.dumps((7, time.monotonic() + 60, "abc123")))
    assert checker._answer(theirs)
    number, *found = marshal.loads(ours.recv(PACKET_BYTES_MAX))
    assert (number, tuple(found)) == (7, checker.check("abc123"))


def test_a_question_that_nobody_waits_for_is_passed_over(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """What could not be begun in time costs no time, and those behind it are answered."""
    ours, theirs = ends
    ours.send(marshal.dumps((1, time.monotonic() - 0.001, "abc123")))
    ours.send(marshal.dumps((2, time.monotonic() + 60, "abc123")))
    assert checker._answer(theirs)
    with pytest.raises(BlockingIOError):
        ours.recv(PACKET_BYTES_MAX)
    assert checker._answer(theirs)
    assert marshal.loads(ours.recv(PACKET_BYTES_MAX))[0] == 2


@pytest.mark.parametrize("question", [False, True])
def test_a_worker_that_is_gone_is_noticed(
    ends: tuple[socket.socket, socket.socket], question: bool
) -> None:
    """Where a worker has died, also over its question, the checker goes on without it."""
    ours, theirs = ends
    if question:
        ours.send(marshal.dumps((1, time.monotonic() + 60, "abc123")))
    ours.close()
    assert not checker._answer(theirs)


@pytest.mark.parametrize("password", ["123456", "password", "qwerty", "aaaaaaaa", "P@ssw0rd"])
def test_a_weak_password_is_said_to_be_weak(password: str) -> None:
    """What is guessed among the first has no strength, with a sentence that says why."""
    strength, warning, suggestions = checker.check(password)
    assert strength == 0
    assert warning
    assert suggestions


@pytest.mark.parametrize("password", ["coRrecth0rseba++ery9.23.2007staple$", "kX9#vQ2$mZ7!pL4@"])
def test_a_strong_password_is_said_to_be_strong(password: str) -> None:
    """What cannot be guessed has the greatest strength, and nothing is warned of."""
    assert checker.check(password) == (4, "", [])


PATTERNS = st.sampled_from(["²", "³¹", "٣", "1/1/2011", "20", "a@4$", "qaz", "é", "\U0001f600"])


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1, max_size=20) | st.lists(PATTERNS, min_size=1, max_size=8).map("".join))
def test_any_password_is_checked(password: str) -> None:
    """No text fails, and each answer is a number and sentences that fit into one packet."""
    strength, warning, suggestions = checker.check(password[:CHECK_LENGTH_MAX])
    assert 0 <= strength <= 4
    assert all(isinstance(sentence, str) for sentence in [warning, *suggestions])
    assert len(marshal.dumps((2**62, strength, warning, suggestions))) < PACKET_BYTES_MAX


def test_the_longest_question_fits_into_a_packet() -> None:
    """What is looked at of a password is short enough in any language."""
    question = (2**62, 1e9, "\U0001f600" * CHECK_LENGTH_MAX)
    assert len(marshal.dumps(question)) < PACKET_BYTES_MAX


def test_a_check_that_fails_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error over a password ends no process, and the log does not repeat what it was over."""

    def fail(password: str) -> None:
        raise ValueError(f"cannot take {password}")

    monkeypatch.setattr(zxcvbn, "zxcvbn", fail)
    with caplog.at_level(logging.DEBUG):
        assert checker.check("canary-3f9a") == (FAILED, "", [])
    assert "ValueError" in caplog.text
    assert "canary" not in caplog.text


def test_no_descriptor_is_left_open() -> None:
    """Channels of checkers that are gone are closed."""
    before = len(os.listdir("/proc/self/fd"))
    checks = Checks(TIMEOUT_S)
    for _ in range(5):
        ours, theirs = control_channel()
        checks.attach(ours)
        theirs.close()
    checks.detach()
    assert len(os.listdir("/proc/self/fd")) == before

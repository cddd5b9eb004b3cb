"""How strong a password is: answered by a process of its own, for whose slowness nobody waits."""

import os
import signal
import socket
import string
import threading
import time

import pytest
from zxcvbn import zxcvbn

from pwserver.limits import CHECK_LENGTH_MAX, CHECKS_MAX
from tests.conftest import Start
from tests.support.books_wire import ALIVE, COUNT, PING, Request, ask_all, save
from tests.support.harness import PATIENCE_S, Peer, Service, eventually

SLOW = ('@4({[<3691!|1!|0$5+7%2"*' * 200)[:4096]
"""A text that zxcvbn takes as long for as for any that is known: every character stands for a
letter, in several ways."""


TOO_SLOW = {"message": "Unavailable!", "error": "This password takes too long to check."}


def check(password: str) -> Request:
    """Return the question how strong a password is."""
    return {"message": "check_password", "password": password}


def is_answer(reply: Request) -> bool:
    """Tell whether a reply is an answer, rather than that there is none."""
    if reply["message"] == "Unavailable!":
        assert reply["error"].endswith(".")
        return False
    assert set(reply) == {"message", "strength", "warning", "suggestions"}
    assert reply["message"] == "return_check_password"
    assert reply["strength"] in range(5)
    assert isinstance(reply["warning"], str)
    assert all(isinstance(each, str) and each for each in reply["suggestions"])
    return True


def works(peer: Peer) -> bool:
    """Tell whether checks are answered."""
    return is_answer(peer.ask(check("abc123")))


@pytest.mark.parametrize(
    ("password", "strength"),
    [
        ("password", 0),
        ("abc123", 0),
        ("zxcvbnm2", 1),
        ("sunshine moon", 2),
        ("blue tractor", 3),
        ("correct horse battery staple", 4),
        ("", None),
    ],
)
def test_a_password_is_weak_or_strong(
    shared_service: Service, password: str, strength: int | None
) -> None:
    """From 0 to 4; what is weak is said in sentences, about which nothing is said of the strong."""
    with shared_service.peer() as peer:
        reply = peer.ask(check(password))
        if strength is None:
            assert reply["error"] == '"password" is empty.'
            return
        assert is_answer(reply)
        assert reply["strength"] == strength
        assert bool(reply["suggestions"]) == (strength < 3)
        if strength == 0:
            assert reply["warning"]


def test_answers_are_those_of_zxcvbn_and_repeat_nothing(shared_service: Service) -> None:
    """Offline, by the library itself; texts of every script and sign have an answer."""
    texts = [
        *("qwertyuiop", "aaaaaaaaaa", "1991-12-24", "24/12/91", "j4nu4ry 2nd", "\N{SNOWMAN}" * 5),
        *("\u0130\u0131\u017f\u212a", "\xdf\u1e9e\ufb03", "\u0663\u0664\u0665", "\xb2\xbd\u2167"),
        *("\U0001d7d8\U0001d7d9", "a\u0301" * 9, "\x01\x7f\x80", " ", "\n\n", "\ufeff", '"\\'),
        *("1" * 64, "19" * 32, "abcdef" * 10, string.printable[:64]),
    ]
    with shared_service.peer() as peer:
        for text, reply in zip(texts, ask_all(peer, [check(text) for text in texts]), strict=True):
            assert is_answer(reply), text
            expected = zxcvbn(text)
            assert reply["strength"] == expected["score"]
            assert reply["warning"] == expected["feedback"]["warning"]
            assert reply["suggestions"] == expected["feedback"]["suggestions"]
            assert len(text) < 5 or text not in str(reply)
    assert "checker died" not in shared_service.stderr


def test_the_longest_password_is_answered_quickly(shared_service: Service) -> None:
    """The beginning is looked at: 4,096 characters take what the first 64 take."""
    longest = "".join(f"word{n}" for n in range(1000))[:4096]
    with shared_service.peer() as peer:
        began = time.monotonic()
        replies = ask_all(peer, [check(longest), check(longest[:CHECK_LENGTH_MAX])])
        assert time.monotonic() - began < 5
        assert is_answer(replies[0])
        assert replies[0] == replies[1]
        assert replies[0]["strength"] == 4


def test_the_checker_makes_room_for_everybody(service: Service) -> None:
    """It has the policy of what runs while nobody else needs the processor."""
    assert os.sched_getscheduler(service.child("checker")) == os.SCHED_IDLE


def test_nobody_waits_for_others_checks(start: Start) -> None:
    """While one worker's client has slow texts checked, its others are served as ever."""
    service = start("--workers", "1", "--save-timeout-s", "30")
    pause = threading.Event()
    with service.peer() as checking, service.peer() as other:
        assert works(checking)
        checking.send(*[check(SLOW)] * 5)
        checking.socket.setblocking(False)
        longest, rounds = 0.0, 0
        while _arrived(checking) < 5:
            began = time.monotonic()
            assert ask_all(other, [PING, save()])[0] == ALIVE
            longest = max(longest, time.monotonic() - began)
            rounds += 1
            pause.wait(0.005)  # the checker has the lowest priority, and few cores may be free
        checking.socket.settimeout(PATIENCE_S)
        for _ in range(5):
            reply = checking.reply()
            assert reply == TOO_SLOW or is_answer(reply), "all or the beginning took too long"
    assert rounds > 10, "the checks are slow enough to be in the way"
    assert longest < 0.5


def _arrived(peer: Peer) -> int:
    """Return how many replies have arrived and are not read."""
    try:
        return peer.socket.recv(65536, socket.MSG_PEEK).count(b"\n")
    except BlockingIOError:
        return 0


def test_who_asks_without_end_has_nobody_elses_checks_refused(start: Start) -> None:
    """Beside guests who have slow texts checked, an application's checks are done in their turn."""
    service = start("--save-timeout-s", "30")
    token = service.add_application("web")
    with service.peer() as web, service.peer() as one, service.peer() as other:
        web.authenticate(token)
        assert works(web)
        for guest in (one, other):
            guest.send(*[check(SLOW)] * CHECKS_MAX)
        for _ in range(5):
            assert works(web)


def test_a_connection_gets_its_answers_in_order(shared_service: Service) -> None:
    """A quick request behind a slow check waits for it, and a check behind it too."""
    with shared_service.peer() as peer:
        burst = [
            check(SLOW[:32]),
            PING,
            check("abc123"),
            save(),
            COUNT,
            PING,
        ]
        numbered = [{**request, "id": n} for n, request in enumerate(burst)]
        assert [reply["id"] for reply in ask_all(peer, numbered)] == list(range(6))


def test_too_many_checks_are_said_and_survived(start: Start) -> None:
    """Past the limit, or too slow, a check is "Unavailable!"; none is lost, and it works again."""
    service = start("--workers", "1", "--save-timeout-s", "1")
    with service.peer() as peer, service.peer() as other:
        assert works(peer)
        peer.send(*[check(SLOW)] * (CHECKS_MAX + 20))
        began = time.monotonic()
        assert other.ask(save())["message"] == "Password saved!"
        assert time.monotonic() - began < 0.5
        replies = [peer.reply() for _ in range(CHECKS_MAX + 20)]
        assert {is_answer(reply) for reply in replies} >= {False}
        reasons = {reply["error"] for reply in replies if "error" in reply}
        whose = "too many passwords of clients without a token wait"
        assert any(whose in reason for reason in reasons)
        eventually(lambda: works(other), "what was given up is not worked on, and others are")


def test_a_killed_checker_is_said_and_replaced(start: Start) -> None:
    """Who waits for it is told, everything else goes on, and the next one answers again."""
    service = start("--save-timeout-s", "3")
    with service.peer() as peer, service.peer() as other:
        assert works(peer)
        for _ in range(3):
            checker = service.child("checker")
            os.kill(checker, signal.SIGSTOP)
            peer.send({**check("abc123"), "id": 5}, PING)
            assert ask_all(other, [PING, save()])[1] == {"message": "Password saved!"}
            os.kill(checker, signal.SIGKILL)
            reply = peer.reply()
            assert (reply["message"], reply["id"]) == ("Unavailable!", 5)
            assert "died" in reply["error"]
            assert peer.reply() == ALIVE
            eventually(lambda: works(peer), "a new checker answers")
            assert works(other)
    assert "checker died" in service.stderr


def test_a_hanging_checker_is_given_up(start: Start) -> None:
    """A check that is not answered in time is "Unavailable!", and later ones are not mixed up."""
    service = start("--save-timeout-s", "0.5")
    with service.peer() as peer:
        eventually(lambda: works(peer), "the checker has loaded its dictionaries")
        checker = service.child("checker")
        os.kill(checker, signal.SIGSTOP)
        replies = ask_all(peer, [check("password"), check("password"), PING])
        assert [reply["message"] for reply in replies] == ["Unavailable!", "Unavailable!", "Alive!"]
        os.kill(checker, signal.SIGCONT)
        eventually(lambda: works(peer), "it goes on")
        assert peer.ask(check("correct horse battery staple"))["strength"] == 4


def test_a_stop_does_not_wait_for_the_checks(start: Start) -> None:
    """A clean stop answers a check under way, with or without a result, and ends in time."""
    service = start()
    with service.peer() as peer:
        assert works(peer)
        peer.send(*[check(SLOW[:32])] * 20, save())
        assert service.stop() == 0
        for _ in range(20):
            is_answer(peer.reply())
        assert peer.reply() == {"message": "Password saved!"}
        assert peer.ended()

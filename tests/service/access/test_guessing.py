"""Guessing at a service: slow for who guesses, over however many connections, and for nobody else.

`test_throttle` has how levels and delays are counted. All clients here are on loopback, where each
address counts as a machine of its own for wrong tokens.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from tests.conftest import Start
from tests.support.books_wire import (
    ALIVE,
    DELETED,
    DENIED,
    PING,
    Request,
    ask_all,
    at_once,
    delete,
    on_each_worker,
    peer_from,
    peers_at,
    save,
    saved,
    verify,
)
from tests.support.harness import Peer, Service, eventually
from workers.auth.throttle import DELAYS_S, NAME, TOKENS, Kind
from workers.serving.authentication import WRONG_TOKENS_MAX

CONNECTIONS = 16
GUESSES = WRONG_TOKENS_MAX * CONNECTIONS
AT_ONCE_S = DELAYS_S[0]
"""What takes less was not delayed."""

NOT_HELD_UP_S = 1.0
"""What takes less did not wait for those that are delayed the longest, however busy the machine."""

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.77"
RIGHT = verify("alice", "the right one")
DELETE_ALICE = delete("alice")
VALID = {"message": "return_verify_password", "valid": True}
INVALID = {"message": "return_verify_password", "valid": False}
REFUSED = {"message": "Unavailable!", "error": "Too many passwords were wrong; wait some seconds."}

Answers = list[tuple[float, Request]]


def authenticate(token: str) -> Request:
    """Return the message that shows a token."""
    return {"message": "authenticate", "token": token}


WRONG_TOKENS = [authenticate(f"pwserver_{number:043}") for number in range(GUESSES)]
WRONG_PASSWORDS = [verify("alice", f"wrong {number}") for number in range(GUESSES)]


class Town:
    """A service and two applications on it, each with a user `alice`."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.tokens = {name: service.add_application(name) for name in ("web", "mail")}
        for name in self.tokens:
            with self.peer(name) as peer:
                assert peer.ask(save("alice", RIGHT["password"])) == saved("alice", 1)

    def peer(self, application: str | None = "web", address: str = HERE) -> Peer:
        """Return a connection of an application, or of a guest, from an address."""
        peer = peer_from(self.service, address)
        if application is not None:
            assert peer.authenticate(self.tokens[application])["application"] == application
        return peer

    @contextlib.contextmanager
    def peers(self, application: str | None) -> Iterator[list[Peer]]:
        """Give many connections from one address, to both workers."""
        with contextlib.ExitStack() as stack:
            found = [
                peer
                for worker in ("worker 1", "worker 2")
                for peer in stack.enter_context(peers_at(self.service, worker, CONNECTIONS // 2))
            ]
            if application is not None:
                for peer in found:
                    peer.authenticate(self.tokens[application])
            yield found

    @contextlib.contextmanager
    def peer_on_each_worker(self) -> Iterator[list[Peer]]:
        """Give a connection of an application to each worker."""
        with on_each_worker(self.service) as found:
            for peer in found:
                peer.authenticate(self.tokens["web"])
            yield list(found)

    def exhaust(self) -> None:
        """Guess the password of an application's `alice`, until guesses are refused."""
        with self.peers("web") as peers:
            replies = [reply for _, reply in burst(peers, WRONG_PASSWORDS, 0.5)]
            assert REFUSED in replies


@pytest.fixture
def town(service: Service) -> Town:
    """Return a service with two workers and two applications."""
    return Town(service)


def timed(peer: Peer, request: Request) -> tuple[Request, float]:
    """Send a request; return the reply and the seconds it took."""
    began = time.monotonic()
    return peer.ask(request), time.monotonic() - began


def burst(peers: Sequence[Peer], guesses: Sequence[Request], seconds: float) -> Answers:
    """Send guesses at once, each connection its share; return what is answered within a time.

    Each answer is with the seconds after which it came.
    """
    began = time.monotonic()
    answers: Answers = []

    def guess(peer: Peer, share: Sequence[Request]) -> None:
        peer.send(*share)
        with contextlib.suppress(TimeoutError):
            for _ in share:
                peer.socket.settimeout(max(began + seconds - time.monotonic(), 0.001))
                reply = peer.reply()
                answers.append((time.monotonic() - began, reply))

    count = len(peers)
    at_once([partial(guess, peer, guesses[n::count]) for n, peer in enumerate(peers)])
    return answers


def most(kind: Kind, seconds: float) -> float:
    """Return how many guesses may be answered in a time: those that are forgotten meanwhile too."""
    return kind.allowance + len(DELAYS_S) + kind.forgotten_per_s * seconds


# --- One after the other. ---


@pytest.mark.parametrize("what", ["tokens", "passwords"])
def test_wrong_guesses_get_slower(town: Town, what: str) -> None:
    """A few are answered at once, over both workers together; then each makes the next wait."""
    guesses, wrong, application, kind = {
        "tokens": (WRONG_TOKENS, DENIED, None, TOKENS),
        "passwords": (WRONG_PASSWORDS, INVALID, "web", NAME),
    }[what]
    allowance = kind.allowance
    with town.peers(application) as peers:
        took = []
        for number, guess in enumerate(guesses[: allowance + 5]):
            reply, seconds = timed(peers[number % 2 * (CONNECTIONS // 2) + number // 2], guess)
            assert reply == wrong
            took.append(seconds)
    assert sum(took[:allowance]) < allowance * AT_ONCE_S / 2
    assert min(took[allowance + 1 :]) >= DELAYS_S[0]  # one more, as some of the first is forgotten
    assert max(took) >= DELAYS_S[1]


def test_a_guess_at_a_name_counts_whether_it_is_anybodys(town: Town) -> None:
    """Who guesses at a name that nobody has is slowed down as for one that somebody has."""
    with town.peer() as peer:
        for _ in range(NAME.allowance + 1):  # some of the first is forgotten by then
            assert timed(peer, verify("nobody", "abc123"))[1] < AT_ONCE_S
        assert timed(peer, verify("nobody", "abc123"))[1] >= DELAYS_S[0]


def test_wrong_passwords_lock_nobody_else_out(town: Town) -> None:
    """The users of an application sign in at its address: wrong ones for others delay no right one.

    Neither many for one name do, nor a few for each of many names that nobody has.
    """
    with town.peer() as web, town.peers("web") as strangers:
        assert web.ask(save("bob", "the right one")) == saved("bob", 1)
        others = [verify(f"other {number}", "guess") for number in range(GUESSES)]
        answers = burst(strangers, WRONG_PASSWORDS + others, 3.0)
        assert len(answers) >= NAME.allowance
        reply, seconds = timed(web, WRONG_PASSWORDS[0])
        assert reply == REFUSED or seconds >= DELAYS_S[0], "alice is guessed at"
        for _ in range(10):
            reply, seconds = timed(web, verify("bob", "the right one"))
            assert (reply, seconds < NOT_HELD_UP_S) == (VALID, True)


def test_who_is_right_is_never_slow(town: Town) -> None:
    """Who knows the password, and has the token, may ask as often and as fast as they like."""
    with town.peer() as peer:
        began = time.monotonic()
        replies = ask_all(peer, [RIGHT, authenticate(town.tokens["web"])] * 500)
        assert time.monotonic() - began < 50 * AT_ONCE_S
        assert replies[::2] == [VALID] * 500
        assert {reply["message"] for reply in replies[1::2]} == {"Authenticated!"}


# --- Many at once. ---


def test_a_burst_of_passwords_gets_no_more_answers(town: Town) -> None:
    """Over sixteen connections and both workers as many are compared as over one, and no more."""
    with town.peers("web") as peers:
        answers = burst(peers, WRONG_PASSWORDS, 3.0)
    compared = [seconds for seconds, reply in answers if reply == INVALID]
    assert NAME.allowance <= len(compared) <= most(NAME, 3.0)
    assert all(reply in (INVALID, REFUSED) for _, reply in answers)
    undelayed = [seconds for seconds in compared if seconds < AT_ONCE_S]
    assert len(undelayed) <= NAME.allowance + 2, "two workers may compare one each at a time"


def test_a_burst_of_tokens_gets_no_more_answers(town: Town) -> None:
    """Those past the limit are told that they are wrong when they have waited the longest."""
    with town.peers(None) as peers:
        answers = burst(peers, WRONG_TOKENS, 3.0)
    assert TOKENS.allowance <= len(answers) <= most(TOKENS, 3.0)
    assert all(reply == DENIED for _, reply in answers)


def test_a_burst_from_many_addresses_gets_no_more_answers(town: Town) -> None:
    """Who has many machines is limited by the name, which alone is out of breath then."""
    with contextlib.ExitStack() as stack:
        addresses = [f"127.0.4.{number}" for number in range(2 * NAME.allowance)]
        peers = [stack.enter_context(town.peer("web", address)) for address in addresses]
        answers = burst(peers, WRONG_PASSWORDS * 2, 2.0)
        compared = [reply for _, reply in answers if reply == INVALID]
        assert NAME.allowance <= len(compared) <= most(NAME, 2.0)
        with town.peer("mail", addresses[0]) as other:
            assert timed(other, WRONG_PASSWORDS[0])[1] < NOT_HELD_UP_S
            assert other.ask(RIGHT) == VALID


def test_the_right_password_is_no_quicker_where_wrong_ones_wait(town: Town) -> None:
    """It is not compared before its time, so that an early answer tells nothing."""
    with town.peer_on_each_worker() as peers:
        town.exhaust()
        for peer in peers:
            reply, seconds = timed(peer, RIGHT)
            assert reply == REFUSED or (reply == VALID and seconds >= DELAYS_S[2])


def test_what_is_told_later_is_what_was_true_in_its_turn(town: Town) -> None:
    """A verification that is delayed sees the requests before it, and none of those behind it."""
    with town.peer() as peer:
        ask_all(peer, WRONG_PASSWORDS[: NAME.allowance + 1])
        began = time.monotonic()
        replies = ask_all(peer, [save("alice", "second"), verify("alice", "second"), DELETE_ALICE])
        assert replies == [saved("alice", 2), VALID, DELETED]
        assert time.monotonic() - began > AT_ONCE_S


def test_after_some_wrong_tokens_a_connection_is_closed(town: Town) -> None:
    """The last of them is still answered; a right one that was sent behind it is not taken."""
    with town.peer(None, "127.0.0.78") as peer:
        right = authenticate(town.tokens["web"])
        replies = ask_all(peer, [*WRONG_TOKENS[: WRONG_TOKENS_MAX - 1], right, RIGHT])
        assert [reply["message"] for reply in replies[-2:]] == ["Authenticated!", VALID["message"]]
        replies = ask_all(peer, [WRONG_TOKENS[0], right, RIGHT, PING])
        assert replies == [DENIED, DENIED, DENIED, ALIVE]
        assert "the connection is closed" in replies[1]["error"]
        assert peer.ended()


def test_hanging_up_is_no_way_around(town: Town) -> None:
    """A guess counts although nobody waits for the answer, over a new connection each."""
    with on_each_worker(town.service) as peers:
        for guess in WRONG_TOKENS:
            with town.peer(None) as hasty:
                hasty.send(guess)
        with town.peer(None) as last:
            for peer in (last, *peers):
                assert peer.ask(PING) == ALIVE, "each worker has come to what was sent before"
        for peer in peers:
            assert timed(peer, WRONG_TOKENS[0])[1] >= DELAYS_S[1]


def test_a_new_worker_knows_what_was_guessed(town: Town) -> None:
    """The death of the workers makes nothing forgotten."""
    town.exhaust()
    for worker in ("worker 1", "worker 2"):
        town.service.replace(worker)
    with town.peer() as peer:
        reply, seconds = timed(peer, WRONG_PASSWORDS[0])
        assert reply == REFUSED or seconds >= DELAYS_S[0]


# --- Everybody else. ---


def test_nobody_else_is_held_up(start: Start) -> None:
    """While one guesses, the others of the same worker, and of the same address, are served."""
    town = Town(start("--workers", "1"))
    with (
        contextlib.ExitStack() as stack,
        town.peer() as passwords,
        town.peer(None) as guest,
        town.peer("mail") as mail,
        town.peer("web", ELSEWHERE) as elsewhere,
    ):
        assert elsewhere.ask(save("bob", "the right one")) == saved("bob", 1)
        bob = verify("bob", "the right one")
        tokens = [stack.enter_context(town.peer(None)) for _ in range(CONNECTIONS)]
        for number, peer in enumerate(tokens):
            peer.send(*WRONG_TOKENS[number::CONNECTIONS])
        passwords.send(*WRONG_PASSWORDS)
        for number in range(NAME.allowance + 2):  # from here on they wait
            assert passwords.reply() == INVALID
            if number < TOKENS.allowance // WRONG_TOKENS_MAX:
                assert tokens[number].reply() == DENIED
        for _ in range(20):
            for peer, request, expected in (
                (guest, PING, ALIVE),
                (guest, save(), {"message": "Password saved!"}),
                (mail, RIGHT, VALID),
                (elsewhere, bob, VALID),
                (elsewhere, PING, ALIVE),
            ):
                reply, seconds = timed(peer, request)
                assert reply == expected
                assert seconds < NOT_HELD_UP_S
        for peer, guess in ((mail, WRONG_PASSWORDS[0]), (elsewhere, verify("bob", "wrong"))):
            reply, seconds = timed(peer, guess)  # may be wrong themselves as often as anybody
            assert (reply, seconds < NOT_HELD_UP_S) == (INVALID, True)


def test_a_right_token_is_answered_at_once(town: Town) -> None:
    """Also for who shares an address with somebody that guesses."""
    with town.peers(None) as peers:
        burst(peers, WRONG_TOKENS, 0.5)
        for peer in (town.peer("web"), town.peer("mail", ELSEWHERE)):
            with peer:
                for name, token in town.tokens.items():
                    reply, seconds = timed(peer, authenticate(token))
                    assert reply["application"] == name
                    assert seconds < NOT_HELD_UP_S


def test_the_allowance_comes_back(town: Town) -> None:
    """Who stops guessing is answered at once again, within seconds."""
    town.exhaust()
    with town.peer() as peer:

        def is_quick() -> bool:
            reply, seconds = timed(peer, RIGHT)
            return reply == VALID and seconds < AT_ONCE_S

        assert not is_quick()
        eventually(is_quick, "the right password is answered at once")
        reply, seconds = timed(peer, WRONG_PASSWORDS[0])
        assert (reply, seconds < AT_ONCE_S) == (INVALID, True)


def test_a_stop_does_not_wait_for_who_guesses(town: Town) -> None:
    """What is delayed is given up, and what is behind it done: all are answered, and in time."""
    with town.peers(None) as peers:
        guesses = [each for guess in WRONG_TOKENS[:WRONG_TOKENS_MAX] for each in (guess, PING)]
        for peer in peers:
            peer.send(*guesses)
        assert [peer.reply() for peer in peers[:2]] == [DENIED] * 2
        began = time.monotonic()
        assert town.service.stop() == 0
        assert time.monotonic() - began < DELAYS_S[-1] - NOT_HELD_UP_S
        replies = [peer.reply() for peer in peers[:2] for _ in range(2 * WRONG_TOKENS_MAX - 1)]
        replies += [peer.reply() for peer in peers[2:] for _ in range(2 * WRONG_TOKENS_MAX)]
        given_up = {"message": "Unavailable!", "error": "The service is stopping."}
        assert replies.count(ALIVE) == GUESSES
        assert replies.count(given_up) > 10
        assert all(reply in (ALIVE, DENIED, given_up) for reply in replies)
        assert all(peer.ended() for peer in peers)

"""At the limit of connections: those that are not used make room for those who wait.

With so few places that none is kept for clients with a token, all wait until one is free. Otherwise
the last eighth is theirs, and who has no token gives way (`unit/serving/test_places.py`).
"""

import contextlib
import json
import socket
import struct
import threading
import time
from pathlib import Path

from tests.conftest import Start
from tests.support.books_wire import ALIVE, PING, UNKNOWN_TOKEN, verify
from tests.support.harness import PATIENCE_S, Peer, Service, eventually, unix_peer
from workers.serving.places import NO_PLACE

FLAGS = ("--workers", "1", "--connections-max", "3", "--idle-timeout-s", "1")


def test_who_says_nothing_makes_room(start: Start) -> None:
    """A client that waits at the limit is served once the deadline of a silent one has passed.

    Who asks something now and then keeps its connection; so does everybody while nobody waits.
    """
    service = start(*FLAGS)
    with service.peer() as silent, service.peer() as half, service.peer() as busy:
        for peer in (silent, half, busy):
            assert peer.save()["message"] == "Password saved!"
        half.send(b'{"message": "number_of')  # has begun to say something, and stopped
        threading.Event().wait(2.0)
        assert busy.count() == silent.count() == 3, "there was room for all who came"
        with service.peer() as late:
            late.send({"message": "number_of_users"})

            def busy_until_served() -> bool:
                assert busy.count() == 3
                late.socket.settimeout(0.05)
                try:
                    return bool(late.socket.recv(1))
                except TimeoutError:
                    return False

            eventually(busy_until_served, "the client that waits is served")
            assert silent.ended() or half.ended()
            assert busy.count() == 3


def test_who_only_pings_makes_room(start: Start) -> None:
    """A ping keeps nobody's place; who asks for something beside them keeps its own."""
    service = start(*FLAGS)
    with service.peer() as one, service.peer() as other, service.peer() as busy:
        for peer in (one, other, busy):
            assert peer.save()["message"] == "Password saved!"
        with service.peer() as late:
            late.send(PING)
            late.socket.settimeout(0.05)

            def served_beside_pings() -> bool:
                assert busy.count() == 3
                for peer in (one, other):
                    peer.socket.send(b'{"message": "ping"}\n')
                try:
                    return bool(late.socket.recv(1))
                except TimeoutError:
                    return False

            eventually(served_beside_pings, "the client that waits is served")
            assert busy.count() == 3


MANY_FLAGS = ("--workers", "1", "--connections-max", "16")
TURNED_OUT = {"message": "Unavailable!", "error": NO_PLACE}


def is_turned_out(peer: Peer) -> bool:
    """Tell whether a client hears now that others need its place, and that is all it hears."""
    try:
        peer.socket.settimeout(0.01)
        said = peer.socket.recv(1000)
    except TimeoutError:
        return False
    peer.socket.settimeout(PATIENCE_S)
    assert json.loads(said) == TURNED_OUT
    assert peer.ended()
    return True


def crowd(stack: contextlib.ExitStack, service: Service, number: int) -> list[Peer]:
    """Return clients without a token that have saved once."""
    peers = [stack.enter_context(service.peer()) for _ in range(number)]
    for peer in peers:
        assert peer.save() == {"message": "Password saved!"}
    return peers


def test_who_has_a_token_finds_a_place(start: Start) -> None:
    """However many clients without one there are, and whatever they ask for. Those that came last
    are told to go while the others ask; when the others are silent, they go."""
    service = start(*MANY_FLAGS)
    with contextlib.ExitStack() as stack:
        silent = crowd(stack, service, 13)
        (busy,) = crowd(stack, service, 1)
        late = crowd(stack, service, 2)
        for _ in range(3):
            owner = stack.enter_context(service.owner())
            assert owner.count() == 16
        assert all(is_turned_out(peer) for peer in late[:1]), "all places were taken"

        def a_silent_one_goes() -> bool:
            assert busy.count() == 16
            guest = stack.enter_context(service.peer())
            with contextlib.suppress(ConnectionError, AssertionError):
                guest.count()
            return any(map(is_turned_out, silent))

        eventually(a_silent_one_goes, "who is silent makes room for who is not")
        assert owner.count() == 16


def test_a_peer_has_its_share(start: Start, tmp_path: Path) -> None:
    """Busy clients of this machine over TCP do not keep a user of the Unix socket out."""
    path = tmp_path / "socket"
    service = start(*MANY_FLAGS, "--unix", str(path))
    with contextlib.ExitStack() as stack:
        greedy = crowd(stack, service, 14)
        user = stack.enter_context(unix_peer(path))
        assert user.count() == 14
        eventually(lambda: any(map(is_turned_out, greedy)), "the greatest peer gives way")
        assert user.count() == 14


def reset(peer: Peer) -> None:
    """Close a connection with a reset."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_who_is_gone_keeps_no_place(start: Start) -> None:
    """What was delayed or held for clients that were reset is dropped; their saves are done.

    A guess that is delayed the longest waits for four seconds, and here are two of them for each.
    """
    service = start(*FLAGS[:-2])
    token = service.add_application("guesser")
    wrong = {"message": "authenticate", "token": UNKNOWN_TOKEN}
    guesses = ([verify("alice", "wrong"), PING] * 100, [wrong, PING] * 100)
    for asked in (*guesses, *guesses):
        peers = [service.peer() for _ in range(3)]
        for peer in peers:
            peer.save()
            if asked[0] != wrong:
                peer.authenticate(token)
            peer.send(*asked)
            assert peer.reply()["message"] != "Alive!"
        for peer in peers:
            reset(peer)
        began = time.monotonic()
        with service.peer() as late:
            assert late.ask(PING) == ALIVE
            assert time.monotonic() - began < 4.0
    with service.peer() as late:
        assert late.count() == 4 * 3

"""At the limit of connections: those that are not used make room for those who wait."""

import threading

from tests.conftest import Start
from tests.support.harness import eventually

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

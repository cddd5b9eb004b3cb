"""A child of the listener, without a process: its messages and its restarts."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from pwserver.ipc import Scoreboard, control_channel, receive_control
from pwserver.limits import RESTART_PAUSE_S_MAX
from pwserver.server.children import Child, Pool


@pytest.fixture
def ends() -> Iterator[tuple[Child, socket.socket]]:
    """Return a child that seems to run, and its end of the control channel."""
    child = Child("worker 1", 1, print, tuple)
    child.control, theirs = control_channel()
    child.ready = True
    with theirs:
        yield child, theirs
        child.exited(0.0)


def test_messages_wait_for_room_and_keep_their_order(ends: tuple[Child, socket.socket]) -> None:
    """However full the channel is, no message is lost, and none overtakes another."""
    child, theirs = ends
    posted = 0
    while child.responsive:
        child.post(b"%d" % posted)
        posted += 1
    for _ in range(3):
        child.post(b"%d" % posted)
        posted += 1
    received: list[int] = []
    while len(received) < posted:
        while (message := receive_control(theirs)) is not None:
            received.append(int(message[0]))
        child.flush()
    assert received == list(range(posted))
    assert child.responsive


def test_sockets_of_unsent_messages_are_closed_with_the_child(
    ends: tuple[Child, socket.socket],
) -> None:
    """A client on its way to a child that dies sees a close, and no descriptor is left open."""
    child, _ = ends
    client, served = socket.socketpair()
    while child.responsive:
        child.post(b"full")
    child.post(b"C", [served])
    child.exited(0.0)
    with client:
        assert client.recv(1) == b""
    assert served.fileno() == -1


def test_a_child_that_is_not_running_gets_no_messages() -> None:
    """What was meant for a former life is not delivered to the next."""
    child = Child("worker 1", 1, print, tuple)
    client, served = socket.socketpair()
    child.post(b"W", [served])
    child.control, theirs = control_channel()
    child.flush()
    with client, theirs:
        assert receive_control(theirs) is None
        assert client.recv(1) == b""
    child.exited(0.0)


def test_the_pause_before_a_restart_grows_and_stays_bounded() -> None:
    """However often a child dies at once, the pause grows to its limit and no further."""
    child = Child("worker 1", 1, print, tuple)
    pauses = [child.exited(0.0) for _ in range(5000)]
    assert pauses[0] < pauses[1] < pauses[2]
    assert pauses[-1] == max(pauses) == RESTART_PAUSE_S_MAX


def test_a_child_that_lived_is_started_again_at_once() -> None:
    """A single death after a life is met without a pause."""
    child = Child("worker 1", 1, print, tuple)
    assert child.exited(1000.0) == 0.0


def test_the_pause_counts_from_the_start() -> None:
    """A child that lived for a while waits no longer than is left: killed in turn, all live on."""
    child = Child("worker 1", 1, print, tuple)
    for _ in range(20):
        child.exited(0.0)
    assert child.exited(RESTART_PAUSE_S_MAX / 2) == pytest.approx(RESTART_PAUSE_S_MAX / 2)
    assert child.exited(RESTART_PAUSE_S_MAX) == 0.0


def test_a_child_that_is_due_is_not_kept_waiting() -> None:
    """The listener sleeps until the first child is to be started, and no longer than it likes."""
    children = [Child(name, 1, print, tuple) for name in ("runs", "soon", "later")]
    for child, restart_at in zip(children, (None, 10.05, 10.4), strict=True):
        child.restart_at = restart_at
    with contextlib.closing(Pool([], Scoreboard(3))) as pool:
        pool.children = children
        assert pool.until_start_s(10.0, 0.25) == pytest.approx(0.05)
        assert pool.until_start_s(10.1, 0.25) == 0
        children[1].restart_at = None
        assert pool.until_start_s(10.0, 0.25) == 0.25


def silent_ticks(child: Child, ticks_max: int) -> int:
    """Return how many ticks without a sign of life it takes until a child is said to hang."""
    for tick in range(100):
        if child.hangs(7, ticks_max):
            return tick
    return 100


def test_a_silent_child_hangs_after_its_time() -> None:
    """A child that showed no sign of life for too many ticks hangs; one that does in time, not."""
    child = Child("worker 1", 1, print, tuple)
    child.ready = True
    assert not any(child.hangs(beats, 0) for beats in range(50))
    assert silent_ticks(child, 4) == 5
    assert not child.hangs(8, 4)
    assert silent_ticks(child, 4) == 5


def test_a_child_that_starts_gets_more_time() -> None:
    """A writer with a great book to open is not killed over it, but not waited for for ever."""
    child = Child("worker 1", 1, print, tuple)
    assert 20 < silent_ticks(child, 4) < 100


def test_a_child_that_does_not_beat_never_hangs() -> None:
    """The checker may be busy for as long as a check takes: nobody takes that for a hang."""
    child = Child("checker", 1, print, tuple, watched=False)
    child.ready = True
    assert silent_ticks(child, 0) == 100

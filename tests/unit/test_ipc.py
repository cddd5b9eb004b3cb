"""What passes between processes: frames, control messages with sockets, and the scoreboard."""

import contextlib
import os
import resource
import socket
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwserver.ipc import (
    SOCKETS_MAX,
    FrameReader,
    Scoreboard,
    control_channel,
    frame,
    frame_channel,
    receive_control,
    send_control,
)
from tests.support.processes import CONTEXT

CONTENTS = st.recursive(
    st.none() | st.integers() | st.text() | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)
ROWS = [(2**62 + n, 1, os.urandom(46), 1_770_000_000_000) for n in range(4000)]  # a large batch

# --- Frames. ---


@settings(deadline=None)
@given(st.lists(CONTENTS, max_size=6), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_frames_come_through_in_any_pieces(contents: list[Any], cuts: list[int]) -> None:
    """However the bytes of frames are split, each content comes once, as it was, and in order."""
    ours, theirs = frame_channel()
    with ours, theirs:
        reader = FrameReader(theirs)
        data = b"".join(map(frame, contents))
        ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
        came: list[Any] = []
        for begin, end in pairwise(ends):
            assert ours.send(data[begin:end]) == end - begin
            came += reader.read()
        assert came == contents
        assert list(map(type, came)) == list(map(type, contents))
        assert not reader.ended


def test_a_frame_comes_with_its_last_byte() -> None:
    """A frame that comes a byte at a time is returned when it is whole, and not before."""
    ours, theirs = frame_channel()
    with ours, theirs:
        reader = FrameReader(theirs)
        data = frame([1, "a"]) + frame(None)
        came = []
        for at in range(len(data)):
            ours.send(data[at : at + 1])
            came.append(list(reader.read()))
        first = len(frame([1, "a"])) - 1
        assert came == [[]] * first + [[[1, "a"]]] + [[]] * (len(data) - first - 2) + [[None]]


def test_a_frame_larger_than_the_channel_comes_through() -> None:
    """A batch that does not fit into the kernel's buffer comes whole, after some turns."""
    ours, theirs = frame_channel()
    with ours, theirs:
        reader = FrameReader(theirs)
        data = frame(ROWS)
        came: list[Any] = []
        turns = 0
        while data or not came:
            turns += 1
            with contextlib.suppress(BlockingIOError):
                data = data[ours.send(data) :]
            came += reader.read()
        assert turns > 1
        assert came == [ROWS]


def test_a_frame_cut_short_is_never_returned() -> None:
    """Where the other side dies within a frame, at any byte, only the frames before it count."""
    whole = frame("whole")
    cut_short = frame([b"cut", "short"])
    for length in range(len(cut_short)):
        ours, theirs = frame_channel()
        with theirs:
            ours.send(whole + cut_short[:length])
            ours.close()
            reader = FrameReader(theirs)
            assert list(reader.read()) == ["whole"]
            assert not reader.ended
            for _ in range(2):
                assert list(reader.read()) == []
                assert reader.ended


def test_nothing_to_read_is_not_the_end() -> None:
    """A reader neither waits nor gives the other side up while there is nothing to read."""
    ours, theirs = frame_channel()
    with ours, theirs:
        reader = FrameReader(theirs)
        assert list(reader.read()) == []
        assert not reader.ended


def test_a_reset_is_the_end() -> None:
    """Where the other side died with something unread, its frames end without an error."""
    ours, theirs = frame_channel()
    with theirs:
        theirs.send(b"never read")
        ours.close()
        reader = FrameReader(theirs)
        assert list(reader.read()) == []
        assert reader.ended


# --- Control messages. ---


def test_sockets_are_handed_over() -> None:
    """A control message brings its text and the sockets themselves, open and in order."""
    ours, theirs = control_channel()
    pairs = [socket.socketpair() for _ in range(SOCKETS_MAX)]
    with ours, theirs:
        send_control(ours, b"serve", [near.fileno() for near, _ in pairs])
        for near, _ in pairs:
            near.close()
        received = receive_control(theirs)
        assert received is not None
        text, descriptors = received
        assert (text, len(descriptors)) == (b"serve", SOCKETS_MAX)
        for number, (descriptor, (_, far)) in enumerate(zip(descriptors, pairs, strict=True)):
            with socket.socket(fileno=descriptor) as near, far:
                near.send(b"%d" % number)
                assert far.recv(8) == b"%d" % number


def test_control_messages_stay_apart() -> None:
    """Messages that wait together are received one by one, each with what came with it."""
    ours, theirs = control_channel()
    near, far = socket.socketpair()
    with ours, theirs, near, far:
        send_control(ours, b"first")
        send_control(ours, b"second", [near.fileno()])
        send_control(ours, b"x" * 4096)
        assert receive_control(theirs) == (b"first", [])
        second = receive_control(theirs)
        assert second is not None
        assert (second[0], len(second[1])) == (b"second", 1)
        os.close(second[1][0])
        assert receive_control(theirs) == (b"x" * 4096, [])
        assert receive_control(theirs) is None


def test_the_other_side_is_gone() -> None:
    """An end that was closed, with something unread or not, is an empty text and no error."""
    for unread in (False, True):
        ours, theirs = control_channel()
        with theirs:
            if unread:
                send_control(theirs, b"never read")
            ours.close()
            assert receive_control(theirs) == (b"", [])
            with pytest.raises(OSError, match="Broken pipe"):
                send_control(theirs, b"too late")


def test_a_message_waits_or_is_refused_whole() -> None:
    """Where too much waits already sending fails at once, and all that was sent comes whole."""
    ours, theirs = control_channel()
    with ours, theirs:
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 100_000:
                send_control(ours, b"%08d" % sent * 100)
                sent += 1
        assert 0 < sent < 100_000
        for number in range(sent):
            assert receive_control(theirs) == (b"%08d" % number * 100, [])
        assert receive_control(theirs) is None


def test_lost_sockets_are_noticed() -> None:
    """Where this process may open no more files the text comes all the same, and says so."""
    ours, theirs = control_channel()
    near, far = socket.socketpair()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs, near, far:
        send_control(ours, b"serve", [near.fileno()] * 3)
        lowest_free = os.dup(near.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, limits[1]))
        try:
            received = receive_control(theirs)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert received is not None
        text, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        assert (text, descriptors) == (b"serve", [lowest_free])


def test_last_words_are_heard() -> None:
    """What a process said before it ended is heard, also where it had not read all it was sent."""
    listener, child = control_channel()
    with listener:
        send_control(listener, b"unread")
        send_control(child, b"the disk failed")
        child.close()
        assert receive_control(listener) == (b"the disk failed", [])
        assert receive_control(listener) == (b"", [])


# --- The scoreboard. ---


def test_every_number_has_its_own_place() -> None:
    """What is written for one child, or for all, changes nothing else."""
    board = Scoreboard(3)

    def numbers() -> list[int]:
        children = range(1, 4)
        return [
            board.users,
            board.listing_wanted,
            board.openings,
            board.workers,
            board.commit_us,
            board.commit_since_us,
            board.writer_load,
            *(board.beats(child) for child in children),
            *(board.closed(child) for child in children),
        ]

    started_s = board.started_s
    assert numbers() == [0] * 13
    board.users = 2**63
    board.listing_wanted = True
    assert numbers() == [2**63, True, *[0] * 11]
    board.opened()
    board.opened()
    board.workers = 5
    board.commit_us, board.commit_since_us, board.writer_load = 6, 7, 8
    assert numbers() == [2**63, True, 2, 5, 6, 7, 8, *[0] * 6]
    for child in range(1, 4):
        for _ in range(child):
            board.beat(child)
        board.add_closed(child, 10 + child)
        board.add_closed(child)
    assert numbers() == [2**63, True, 2, 5, 6, 7, 8, 1, 2, 3, 12, 13, 14]
    board.reset(2)
    board.listing_wanted = False
    board.workers = 1
    assert numbers() == [2**63, False, 2, 1, 6, 7, 8, 1, 2, 3, 12, 0, 14]
    assert board.started_s == started_s


def test_the_start_is_told_by_the_monotonic_clock() -> None:
    """A scoreboard knows when it was made, so that everybody can tell how long the service runs."""
    before = time.monotonic()
    board = Scoreboard(1)
    assert before <= board.started_s + 1e-6
    assert board.started_s <= time.monotonic()


def write_numbers(board: Scoreboard) -> None:
    """Write to a scoreboard as a child process does."""
    board.users = 10_000_000
    board.listing_wanted = True
    board.opened()
    board.beat(2)
    board.add_closed(2, 5)


def test_other_processes_see_the_numbers() -> None:
    """What a child process writes is seen by the one that started it, without asking."""
    board = Scoreboard(2)
    child = CONTEXT.Process(target=write_numbers, args=(board,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert (board.users, board.listing_wanted, board.openings) == (10_000_000, True, 1)
    assert (board.beats(1), board.beats(2)) == (0, 1)
    assert (board.closed(1), board.closed(2)) == (0, 5)

"""Interrupted clients: whatever is raised, and wherever, no place is lost, no reply mixed up."""

import contextlib
import ctypes
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from pwserver import Client
from pwserver.client.fair_semaphore import FairSemaphore
from tests.support.fake_service import FakeService, answer_all, echo

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A socket that Python closes, because an interrupt came before anybody could, makes a warning."""

CONNECTIONS = 3
CALLS = 1_000
EVERY_S = 0.0005


@pytest.fixture(autouse=True)
def only_print_what_nobody_catches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep interrupts out of pytest's own hook for such exceptions, where they fail the test."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)


class Interrupted(BaseException):
    """What is raised in the middle of something."""


@pytest.fixture
def book() -> Iterator[Client]:
    """Return a client of few connections to a service that answers with what was asked for."""
    with (
        FakeService(answer_all(echo)) as service,
        Client(service.url, connections_max=CONNECTIONS, timeout_s=30) as made,
    ):
        yield made


def ask_for(book: Client, name: str) -> None:
    """Ask for a password; it must be the one of that name."""
    assert book.get_password(name).password == f"password of {name}"


def check_all_work(book: Client) -> None:
    """Check that as many can be in turn at once as there are places, and that calls are right."""
    together = threading.Barrier(CONNECTIONS)

    def meet() -> None:
        together.wait(60)

    turns = book._pool._turns
    assert not turns._line
    threads = [threading.Thread(target=turns.take, args=(meet, 60)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together.broken
    for number in range(2 * CONNECTIONS):
        ask_for(book, f"at last {number}")


@contextlib.contextmanager
def a_storm_of_signals() -> Iterator[None]:
    """Have the main thread interrupted again and again, wherever it is while it asks."""

    def interrupt(_: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is ask_for.__code__:
                raise Interrupted
            frame = frame.f_back

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, EVERY_S, EVERY_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_storm_of_signals_loses_nothing(book: Client) -> None:
    """Handlers that raise, thousands of times: all places are there, and replies are one's own."""
    asked, interrupted, until = 0, 0, time.monotonic() + 10
    with a_storm_of_signals():
        while asked < CALLS and (time.monotonic() < until or interrupted <= 10):
            asked += 1
            try:
                ask_for(book, f"in a storm {asked}")
            except Interrupted:
                interrupted += 1
    assert interrupted > 10
    check_all_work(book)


def test_threads_that_are_interrupted_lose_nothing(book: Client) -> None:
    """What one thread raises in others does no more harm: those that wait for a turn included."""
    raised, stop = [0], threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                ask_for(book, f"{threading.get_ident()} {number}")
            except Interrupted:
                raised[0] += 1

    def work_on() -> None:
        for _ in iter(stop.is_set, True):
            with contextlib.suppress(Interrupted):
                work()

    threads = [threading.Thread(target=work_on, daemon=True) for _ in range(2 * CONNECTIONS)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 3
    while raised[0] < 300 and (time.monotonic() < until or not raised[0]):
        for thread in filter(threading.Thread.is_alive, threads):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupted)
            )
        stop.wait(10 * EVERY_S)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert raised[0]
    check_all_work(book)


def was_interrupted(step: int, do: Callable[[], Any], *files: str) -> bool:
    """Do something, and raise at one of Python's steps in some files; return whether it came."""
    left = [step]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(files):
            return None
        frame.f_trace_opcodes = True
        left[0] -= event == "opcode"
        if left[0] == 0:
            sys.settrace(None)
            raise Interrupted
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # from Python 3.12 on, one must have it at this moment
    sys.settrace(trace)
    try:
        do()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_between_any_two_steps_loses_nothing(book: Client) -> None:
    """Each step of a call's way through the pool, one after the other, is where a call ends."""
    step, interrupted = 0, True
    while interrupted:
        step += 1
        name = f"step {step}"
        interrupted = was_interrupted(
            step, functools.partial(ask_for, book, name), "fair_semaphore.py", "connections.py"
        )
        assert not book._pool._turns._line, step
        ask_for(book, f"after {step}")
    assert step > 100
    check_all_work(book)


def test_an_interrupt_in_line_leaves_the_line_to_others() -> None:
    """Who is interrupted while others have all turns is as if it had never come."""
    turns = FairSemaphore(1)

    def in_vain() -> None:
        assert not turns.take(lambda: None, 0.001)

    def try_step(at: int) -> None:
        came.append(was_interrupted(at, in_vain, "fair_semaphore.py"))

    step, came = 0, [True]
    while came[-1]:
        step += 1
        assert turns.take(functools.partial(try_step, step), 60)
        assert not turns._line, step
    assert step > 50

"""The connections of a client: bounded, shared by threads, left alone by forks and interrupts."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from pwserver import Client, ConnectionFailed, InvalidMessage
from pwserver.client import commands
from pwserver.client.access import access_to
from pwserver.client.connections import ConnectionPool
from pwserver.client.retry import Limits, RetriedCalls
from tests.support.clients import Use, ping, resolve_to, with_both_clients
from tests.support.fake_service import (
    ALIVE,
    Conversation,
    FakeService,
    answer,
    answer_all,
    answer_then_hang_up,
    echo,
)
from tests.support.harness import PATIENCE_S, eventually
from tests.support.processes import launched
from tests.support.tls import Authority, server_tls

DELETED = {"message": "User deleted!"}


def number(value: int) -> dict[str, object]:
    return {"message": "return_number_of_users", "number_of_users": value}


def test_threads_share_a_client() -> None:
    """Each thread gets its own answers, over no more connections than are allowed."""
    threads, rounds = 16, 100
    with FakeService(answer_all(echo)) as service, Client(service.url, connections_max=4) as book:

        def work(thread: int) -> None:
            for turn in range(rounds):
                name = f"{thread}/{turn}"
                assert book.get_password(name).password == f"password of {name}"

        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(work, range(threads)))
        assert 1 <= service.open_most <= service.connections <= 4
    assert len(service.requests) == threads * rounds


def test_connections_are_made_when_needed_and_kept() -> None:
    """A client that is not used has none, and calls one after the other share one."""
    with FakeService(answer_all(echo)) as service, Client(service.url) as book:
        assert service.connections == 0
        for _ in range(10):
            book.ping()
        assert service.connections == 1


def test_the_connection_used_last_is_used_next() -> None:
    """So that what a burst left over stays unused, and can be closed for it."""

    def numbered(mine: int) -> Callable[[Conversation], None]:
        def behave(conversation: Conversation) -> None:
            while conversation.read() is not None:
                conversation.say(number(mine))

        return behave

    def asked_over(nested: int) -> list[int]:
        """Count, and meanwhile again, so often; return which connections it was over."""
        found: list[int] = []

        class Nested(RetriedCalls):
            def request(self) -> bytes:
                if nested:
                    found.extend(asked_over(nested - 1))
                return super().request()

        counting = Nested([commands.number_of_users()], Limits(5, 2, 1))
        pool.ask(counting)
        return [*counting.results(), *found]

    with FakeService(numbered(1), numbered(2)) as service:
        pool = ConnectionPool(access_to(service.url), 2)
        outer, inner = asked_over(1)
        assert outer != inner
        assert asked_over(0) == [outer]
        assert asked_over(1) == [outer, inner]
        pool.close()


def test_waiting_for_a_connection_ends_at_the_timeout() -> None:
    """A thread that gets none is told why, and that nothing was sent."""
    with FakeService(answer_all(echo)) as service:
        pool = ConnectionPool(access_to(service.url), 1)

        class Nested(RetriedCalls):
            def request(self) -> bytes:
                with pytest.raises(ConnectionFailed, match="all 1 connections of the client were"):
                    pool.ask(RetriedCalls([commands.ping()], Limits(0.05, 1, 1)))
                return super().request()

        pool.ask(Nested([commands.ping()], Limits(PATIENCE_S, 1, 1)))
        pool.close()


def test_a_waiting_thread_goes_on_when_a_connection_is_free() -> None:
    """Also when it is free because the call that had it failed."""
    begun, go_on = threading.Event(), threading.Event()

    def held(conversation: Conversation) -> None:
        conversation.read()
        begun.set()
        go_on.wait(60)

    with (
        FakeService(held, answer(ALIVE)) as service,
        Client(service.url, connections_max=1, attempts_max=1) as book,
        ThreadPoolExecutor(2) as executor,
    ):
        failing = executor.submit(book.ping)
        assert begun.wait(60)
        waiting = executor.submit(book.ping)
        go_on.set()
        assert isinstance(failing.exception(20), ConnectionFailed)
        assert waiting.result(20) is None


def test_a_connection_that_the_service_closed_is_noticed_before_it_is_used() -> None:
    """A restart of the service is no lost answer: even a deletion is just sent, once."""
    with (
        FakeService(answer_then_hang_up(ALIVE), answer(DELETED)) as service,
        Client(service.url, attempts_max=1) as book,
    ):
        book.ping()
        eventually(lambda: service.open == 0, "the service closed the connection")
        book.delete_user("alice")
        assert len(service.requests) == 2


def test_what_arrives_unasked_is_not_taken_for_an_answer() -> None:
    """A connection on which the service spoke out of turn is not used again."""
    unasked = threading.Event()

    def speak(conversation: Conversation) -> None:
        conversation.read()
        conversation.say(number(1))
        unasked.wait(60)
        conversation.say(number(2))
        spoken.set()
        conversation.read()

    spoken = threading.Event()
    with FakeService(speak, answer(number(3))) as service, Client(service.url) as book:
        assert book.number_of_users() == 1
        unasked.set()
        assert spoken.wait(60)
        assert book.number_of_users() == 3


def test_a_connection_with_half_a_request_on_it_is_not_used_again() -> None:
    """A service that refuses a request before the end of it would take the next for the rest."""

    def refuse(conversation: Conversation) -> None:
        conversation.connection.recv(1000)
        conversation.say({"message": "Invalid message!", "error": "The message is too long."})
        go_on.wait(60)

    go_on = threading.Event()
    with FakeService(refuse, answer(ALIVE)) as service:
        with Client(service.url, connections_max=1) as book:
            with pytest.raises(InvalidMessage, match="too long"):
                book.save_password("x" * 32 * 1024 * 1024)
            book.ping()
        go_on.set()


@contextmanager
def full_backlog() -> Iterator[str]:
    """Give an address at which a connection is neither made nor refused."""
    with ExitStack() as opened:
        listening = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listening.getsockname()
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield f"{address[0]}:{address[1]}"


@with_both_clients
def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many names have an address of IPv6 first, and many networks lose what goes there."""
    with FakeService(answer(ALIVE)) as service, full_backlog() as lost:
        resolve_to(monkeypatch, lost, service.address)
        use("pwserver://book.example", ping, timeout_s=8, attempts_max=1)


def test_close_closes_and_the_next_call_connects_again() -> None:
    """A client can be used again after it was closed, and closed twice."""
    with FakeService(answer_all(echo)) as service, Client(service.url) as book:
        book.ping()
        book.close()
        book.close()
        eventually(lambda: service.open == 0, "the connection was closed")
        book.ping()
        assert service.connections == 2


def test_close_reaches_connections_in_use() -> None:
    """What another thread is using when the client is closed is closed after its call."""
    begun, go_on = threading.Event(), threading.Event()

    def held(conversation: Conversation) -> None:
        conversation.read()
        begun.set()
        go_on.wait(60)
        conversation.say(ALIVE)
        conversation.read()

    with (
        FakeService(held) as service,
        Client(service.url) as book,
        ThreadPoolExecutor(1) as executor,
    ):
        under_way = executor.submit(book.ping)
        assert begun.wait(60)
        book.close()
        go_on.set()
        assert under_way.result(20) is None
        eventually(lambda: service.open == 0, "the connection was closed")


def test_an_interrupted_call_does_not_answer_the_next() -> None:
    """After Ctrl-C in the middle of a call, the late reply is not taken for that of the next."""
    main = threading.main_thread().ident
    assert main is not None
    interrupted = threading.Event()

    def interrupt(conversation: Conversation) -> None:
        conversation.read()
        signal.pthread_kill(main, signal.SIGINT)
        interrupted.wait(60)
        conversation.say(number(1))

    with FakeService(interrupt, answer(number(2))) as service, Client(service.url) as book:
        with pytest.raises(KeyboardInterrupt):
            book.number_of_users()
        interrupted.set()
        assert book.number_of_users() == 2
        assert service.connections == 2


FORK = """
import os, sys, threading
from pwserver import Client

def use(book, who):
    for turn in range(50):
        name = f"{who} {turn}"
        assert book.get_password(name).password == f"password of {name}"

def end(child):
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

url, ca_file = sys.argv[1:]
book = Client(url, ca_file=ca_file, connections_max=1)
"""

BOTH_GO_ON = """
use(book, "before")
child = os.fork()
use(book, "parent" if child else "child")
book.close()
if child:
    end(child)
"""

CHILD_OF_A_BUSY_PARENT = """
busy = threading.Thread(target=use, args=(book, "busy"))
busy.start()
sys.stdin.readline()  # the only connection is in use
child = os.fork()
if not child:
    use(book, "child")
    os._exit(0)
print("forked", flush=True)
busy.join()
end(child)
"""

CHILD_LIVES_ON = """
use(book, "before")
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
book.close()
end(child)
"""


@pytest.fixture
def forking() -> "Forking":
    """Return a function that runs a program that forks, with a client of a service."""

    def run(
        program: str, service: FakeService, ca_file: str = ""
    ) -> AbstractContextManager["subprocess.Popen[str]"]:
        return launched(
            [sys.executable, "-c", FORK + program, service.url, ca_file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


Forking = Callable[..., AbstractContextManager["subprocess.Popen[str]"]]


def test_a_client_survives_a_fork(forking: Forking) -> None:
    """Parent and child go on with a client each, the parent on the connection that it had."""
    with FakeService(answer_all(echo)) as service, forking(BOTH_GO_ON, service) as process:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert service.connections == 2
        assert len(service.requests) == 150


@pytest.mark.parametrize("program", [BOTH_GO_ON, CHILD_LIVES_ON], ids=["both", "one"])
def test_a_fork_leaves_tls_to_the_parent(forking: Forking, tmp_path: Path, program: str) -> None:
    """The child closes its copy without a word, which would end the parent's session as well."""
    authority = Authority(tmp_path)
    with (
        FakeService(answer_all(echo), tls=server_tls(authority.issue("book"))) as service,
        forking(program, service, str(authority.path)) as process,
    ):
        if program is CHILD_LIVES_ON:
            eventually(lambda: service.connections == 1 and service.open == 0, "the end is seen")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert service.connections == (2 if program is BOTH_GO_ON else 1)
        assert len(service.requests) == (150 if program is BOTH_GO_ON else 50)


def test_a_child_is_not_held_up_by_what_its_parent_was_doing(forking: Forking) -> None:
    """All connections being in use by the parent's threads is nothing to the child."""
    go_on = threading.Event()

    def held(conversation: Conversation) -> None:
        for _ in range(50):
            request = conversation.read()
            assert request is not None
            begun.set()
            go_on.wait(60)
            conversation.say(echo(request))

    begun = threading.Event()
    with FakeService(held, answer_all(echo)) as service:
        with forking(CHILD_OF_A_BUSY_PARENT, service) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert begun.wait(60)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "forked\n"
            eventually(lambda: len(service.requests) == 51, "the child did all it had to do")
            go_on.set()
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        assert len(service.requests) == 100


def test_a_child_keeps_no_connection_of_its_parent_open(forking: Forking) -> None:
    """What the parent closes is closed, although a child that does nothing lives on."""
    with FakeService(answer_all(echo)) as service, forking(CHILD_LIVES_ON, service) as process:
        eventually(lambda: service.connections == 1 and service.open == 0, "the end is seen")
        assert process.poll() is None
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors

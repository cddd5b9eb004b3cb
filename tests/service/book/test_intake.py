"""Lines of many connections, taken together: each is answered as if it were alone."""

import contextlib
import json
import os
import random
import select
import signal
import socket
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pwserver.accepted import Accepted
from pwserver.config import Settings
from pwserver.limits import LINE_BYTES, QUEUE_PART, RECEIVE_BYTES
from tests.conftest import Start
from tests.support.books import Client
from tests.support.books_wire import ask_all
from tests.support.harness import eventually
from tests.support.planning import Planner
from workers.serving.commit_queue import DONE
from workers.serving.connection import Connection
from workers.serving.intake import Intake

SAVED = b'{"message": "Password saved!"}\n'
SAVE = b'{"message": "save_password", "password": "abc123"}\n'

PING = b'{"message": "ping"}\n'
ALIVE = b'{"message": "Alive!"}\n'

LINES: dict[bytes, bytes] = {
    SAVE: SAVED,
    b'{"message": "save_password", "password": "\xc3\xa9", "id": 7}\n': (
        b'{"message":"Password saved!","id":7}\n'
    ),
    b'{"message": "number_of_users", "id": 1}\n': (
        b'{"message":"return_number_of_users","id":1,"number_of_users":0}\n'
    ),
    PING: ALIVE,
    b'{"message": "get_password", "username": "alice"}\n': (
        b'{"message":"Denied!","error":"This needs the token of an application that may '
        b'\\"get\\"."}\n'
    ),
}
BAD: dict[bytes, bytes] = {
    b'{"message": "save_password"}\n': (
        b'{"message":"Invalid message!","error":"\\"password\\" is missing."}\n'
    ),
    b'{"message": "unheard_of"}\n': b'{"message": "Invalid message!"}\n',
}


class Table:
    """A worker's connections, without its loop and without a writer."""

    def __init__(self, path: Path, clients: int, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self._planner = Planner(path)
        self.context = self._planner.context
        self.intake = Intake(self.context, settings)
        pairs = [socket.socketpair() for _ in range(clients)]
        self.clients = [client for client, _ in pairs]
        for client, served in pairs:
            client.setblocking(False)
            served.setblocking(False)
        self.touched: set[Connection] = set()
        self.connections = [
            Connection(Accepted(served, ""), self.context, settings, self.touched)
            for _, served in pairs
        ]

    def turn(self) -> None:
        """Receive from all and do it, have the writer save it all, and answer."""
        for connection in self._readable():
            self.intake.add(connection)
        self.intake.do_lines()
        self.intake.do_rest()
        for batch in self.context.commit_queue.take():
            for run in batch.runs:
                run.settle(DONE)
            if batch.operations:
                batch.answer((0, self._planner.store.commit([], batch.operations)))
                for waiter in self.context.name_queues.settle(batch, self.context.now):
                    waiter.settle()
        for connection in self.connections:
            connection.flush()
            if connection.more_to_do:
                self.intake.go_on(connection)

    def _readable(self) -> list[Connection]:
        """Return the connections on which there is something to receive."""
        unread = select.poll()
        for connection in self.connections:
            unread.register(connection.fd, select.POLLIN)
        readable = dict(unread.poll(0))
        return [connection for connection in self.connections if connection.fd in readable]

    def ask(self, requests: list[bytes]) -> list[bytes]:
        """Send a request on each connection; return what came back on each."""
        for client, request in zip(self.clients, requests, strict=True):
            client.send(request)
        assert all(connection.idle for connection in self.connections)
        self.turn()
        while not all(connection.idle for connection in self.connections):
            self.turn()  # the first one was late, and left something
        return [client.recv(65536) for client in self.clients]

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        for client in self.clients:
            client.close()
        self._planner.__exit__()


def give_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a turn do no more than it must, and not less, unless all have sent single requests."""
    for name in ("LONG_TEXTS_S", "PIECE_S"):
        monkeypatch.setattr(f"workers.serving.intake.{name}", 0.0)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    """Eight connections, and all the time in the world unless a test says otherwise."""
    for name in ("LONG_TEXTS_S", "PIECE_S", "SINGLE_LINES_S"):
        monkeypatch.setattr(f"workers.serving.intake.{name}", 60.0)
    monkeypatch.setattr("workers.serving.intake.QUEUE_PART", 1.0)
    made = Table(tmp_path / "book.db", 8)
    yield made
    made.close()


@pytest.mark.parametrize("known", [LINES, LINES | BAD], ids=["good", "with bad ones"])
def test_each_line_gets_its_own_reply(table: Table, known: dict[bytes, bytes]) -> None:
    """Whatever the others ask at the same moment, a connection is answered what it asked."""
    draw = random.Random(5)
    for _ in range(50):
        requests = draw.choices([*known], k=len(table.clients))
        replies = table.ask(requests)
        for request, reply in zip(requests, replies, strict=True):
            assert reply.startswith(known[request][:30]), (request, reply)
            if request in LINES and b"number_of_users" not in request:
                assert reply == known[request]


def test_saves_of_a_turn_are_sealed_together(table: Table) -> None:
    """Eight saves are one batch of eight rows with eight ids."""
    for client in table.clients:
        client.send(SAVE)
    for connection in table.connections:
        table.intake.add(connection)
    table.intake.do_lines()
    (batch,) = table.context.commit_queue.take()
    assert len({row[0] for row in batch.rows}) == len(batch.runs) == 8


def test_the_queue_has_a_quarter_of_the_time_while_single_lines_come(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a piece that took long it rests for three times as long, or until no line comes."""
    clock = types.SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("workers.serving.intake.time", clock)
    monkeypatch.setattr("workers.serving.intake.QUEUE_PART", QUEUE_PART)
    greedy, client = table.connections[0], table.clients[0]
    received: list[int] = []

    def receive(bytes_max: int) -> None:
        received.append(bytes_max)
        clock.now += 0.004

    monkeypatch.setattr(Connection, "receive", lambda _, bytes_max: receive(bytes_max))

    def turn(after_s: float, *, single: bool) -> None:
        clock.now += after_s
        table.context.now = clock.now
        if single:
            table.clients[1].send(PING)
            table.intake.add(table.connections[1])
        table.intake.do_lines()
        table.intake.do_rest()
        table.intake.go_on(greedy)  # it has always more

    client.send(PING * 3)
    table.intake.go_on(greedy)
    turn(0.0, single=True)
    assert received == [LINE_BYTES]
    assert table.intake.rests_s == pytest.approx(0.01), "no line is expected for longer"
    turn(0.003, single=True)
    turn(0.003, single=True)
    assert received == [LINE_BYTES]
    assert table.intake.rests_s == pytest.approx(0.006), "16 ms after it began"
    turn(0.006, single=True)
    assert received == [LINE_BYTES] * 2
    turn(0.007, single=False)
    assert received == [LINE_BYTES] * 2 + [RECEIVE_BYTES]
    assert not table.intake.rests_s


def test_a_connection_with_something_unfinished_is_left_alone(table: Table) -> None:
    """What waits for a reply, or for the rest of a message, goes its own way until it is done."""
    saving, cut, other = table.connections[:3]
    table.clients[0].send(SAVE)
    table.clients[1].send(SAVE[:20])
    for connection in (saving, cut):
        table.intake.add(connection)
    table.intake.do_lines()
    table.intake.do_rest()
    assert (saving.idle, cut.idle, other.idle) == (False, False, True)
    table.clients[1].send(SAVE[20:])
    cut.receive()
    for batch in table.context.commit_queue.take():
        for run in batch.runs:
            run.settle(DONE)
    assert saving.idle
    assert cut.idle


def test_who_asks_one_thing_does_not_wait_for_who_asks_many(tmp_path: Path) -> None:
    """Of many who send all they can, each has its turn; a line is done before all of them."""
    table = Table(tmp_path / "book.db", 40)
    *greedy, modest = table.clients
    for client in greedy:
        client.send(PING * (RECEIVE_BYTES // len(PING)))
    modest.send(PING)
    table.turn()
    assert table.intake.waiting, "there is more than a turn has time for"
    assert modest.recv(100) == ALIVE
    modest.send(PING)
    table.turn()
    assert modest.recv(100) == ALIVE
    while table.intake.waiting:
        table.turn()
    assert all(client.recv(100).startswith(ALIVE) for client in greedy)
    table.close()


def test_counts_in_a_pipeline_of_saves_are_answered_by_one_commit(table: Table) -> None:
    """In their order, each with the number of the saves before it."""
    count = b'{"message": "number_of_users"}\n'
    table.clients[0].send((SAVE * 2 + count) * 10 + PING)
    table.turn()
    (*lines, last) = table.clients[0].recv(65536).splitlines(keepends=True)
    assert last == ALIVE
    assert lines == [
        line
        for number in range(1, 11)
        for line in (
            SAVED,
            SAVED,
            b'{"message": "return_number_of_users", "number_of_users": %d}\n' % (2 * number),
        )
    ]


def test_saves_do_not_wait_for_many_long_requests(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there is no time for in a turn waits for the next one; saves are done in this one."""
    give_no_time(monkeypatch)
    for number, client in enumerate(table.clients):
        client.send(PING if number % 2 else SAVE)
    table.turn()
    assert [client.recv(100) for client in table.clients[::2]] == [SAVED] * 4
    assert table.intake.waiting
    while table.intake.waiting:
        table.turn()
    assert [client.recv(100) for client in table.clients[1::2]] == [ALIVE] * 4


def test_many_reads_are_answered_in_one_turn_if_nobody_saves(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take turns as it is, so a turn has more time for them than beside saves."""
    give_no_time(monkeypatch)
    for client in table.clients:
        client.send(PING)
    table.turn()
    assert not table.intake.waiting
    assert [client.recv(100) for client in table.clients] == [ALIVE] * 8


def test_many_reads_do_not_have_a_turn_for_ever(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there is no time for waits for the next turn, also if nobody saves."""
    give_no_time(monkeypatch)
    monkeypatch.setattr("workers.serving.intake.SINGLE_LINES_S", 0.0)
    for client in table.clients:
        client.send(PING)
    table.turn()
    assert table.intake.waiting
    while table.intake.waiting:
        table.turn()
    assert [client.recv(100) for client in table.clients] == [ALIVE] * 8


def test_many_requests_are_done_in_small_pieces_beside_single_ones(table: Table) -> None:
    """Who asks one thing at a time waits for a piece of what others have sent together."""
    connection, many, one = table.connections[0], table.clients[0], table.clients[1]
    table.intake.go_on(connection)
    many.send(PING * 500)
    one.send(PING)
    table.turn()
    assert one.recv(100) == ALIVE
    piece = many.recv(65536).count(ALIVE)
    assert piece == LINE_BYTES // len(PING)
    table.turn()
    table.turn()
    assert many.recv(65536).count(ALIVE) == 500 - piece
    table.context.now += 1.0  # the single request was long ago
    table.intake.go_on(connection)
    many.send(PING * 500)
    table.turn()
    assert many.recv(65536).count(ALIVE) == 500


# --- More in one buffer than there is time for. ---

LIST = {"message": "list_users"}


def become_application(connection: Connection) -> None:
    """Let a connection do everything."""
    connection.peer.become(Client(application="web").peer.caller)


def lines_of(*requests: dict[str, Any]) -> bytes:
    """Return requests as one packet, each with its number as `id`."""
    numbered = [{**request, "id": number} for number, request in enumerate(requests)]
    return b"".join(json.dumps(request).encode() + b"\n" for request in numbered)


def received(client: socket.socket) -> list[dict[str, Any]]:
    """Return the replies that have come."""
    found = b""
    with contextlib.suppress(BlockingIOError):
        while data := client.recv(65536):
            found += data
    return [json.loads(line) for line in found.splitlines()]


def test_a_long_group_waits_its_turn(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of requests in one packet those are done that there is time for, and others are not kept
    waiting; the rest is done in the next turns, without anything new from the client."""
    give_no_time(monkeypatch)
    become_application(table.connections[0])
    greedy, modest = table.clients[:2]
    greedy.send(lines_of(*[LIST] * 100))
    replies: list[dict[str, Any]] = []
    for turns in range(1, 150):
        modest.send(PING)
        table.turn()
        assert modest.recv(100) == ALIVE
        replies += received(greedy)
        assert len(replies) <= 2 * turns
        assert table.intake.waiting == (len(replies) < 100)
        if len(replies) == 100:
            break
    assert [reply["id"] for reply in replies] == [*range(100)]
    assert {reply["message"] for reply in replies} == {"return_users"}


def test_requests_see_what_was_asked_before_them_although_they_wait(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there was no time for keeps its place among all kinds of requests."""
    give_no_time(monkeypatch)
    become_application(table.connections[0])
    plain = {"message": "save_password", "password": "x"}
    named = {**plain, "username": "alice"}
    get = {"message": "get_password", "username": "alice"}
    history = {"message": "password_history", "username": "alice"}
    verify = {"message": "verify_password", "username": "alice", "password": "x"}
    kinds = [named, plain, get, get, plain, history, {"message": "ping"}, named, verify, LIST]
    table.clients[0].send(lines_of(*kinds * 10))
    replies: list[dict[str, Any]] = []
    for _ in range(400):
        table.turn()
        replies += received(table.clients[0])
    assert [reply["id"] for reply in replies] == [*range(100)]
    version = 0
    for reply in replies:
        if reply["message"] == "Password saved!":
            version += "version" in reply
            assert reply.get("version", version) == version
        elif reply["message"] == "return_password":
            assert reply["version"] == version
        elif reply["message"] == "return_password_history":
            assert reply["versions"][0]["version"] == version
        else:
            assert reply["message"] in ("Alive!", "return_verify_password", "return_users")
    assert version == 20


def test_who_reads_no_replies_is_answered_no_more(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replies to a group are bounded in bytes, and so is what is kept for who does not read."""
    give_no_time(monkeypatch)
    for module in ("commands", "connection"):
        monkeypatch.setattr(f"workers.serving.{module}.REPLIES_BYTES_MAX", 2000)
    connection, client = table.connections[0], table.clients[0]
    become_application(connection)
    served = socket.socket(fileno=os.dup(connection.fd))
    with served:
        served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel takes its least
    client.send(lines_of(*[LIST] * 350))
    for _ in range(100):
        table.turn()
        assert len(connection._unsent) <= 4200
    assert not table.intake.waiting, "nothing is done for who does not read"
    assert connection.unanswered > 0
    replies: list[dict[str, Any]] = []
    for _ in range(1000):
        replies += received(client)
        table.turn()
    assert [reply["id"] for reply in replies] == [*range(350)]


def test_a_stop_does_what_there_was_no_time_for(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was received before a stop, and what is found then, is done before the end."""
    give_no_time(monkeypatch)
    connection, client = table.connections[0], table.clients[0]
    become_application(connection)
    client.send(lines_of(*[LIST] * 20))
    table.intake.add(connection)
    table.intake.do_received()
    client.send(SAVE)
    connection.drain()
    client.send(SAVE)  # too late
    replies: list[dict[str, Any]] = []
    for _ in range(50):
        table.turn()
        replies += received(client)
    assert [reply["message"] for reply in replies] == ["return_users"] * 20 + ["Password saved!"]
    assert connection.lingering


def test_the_limit_on_requests_in_flight_holds(tmp_path: Path) -> None:
    """Where one may be in flight, the loop is told at once that nothing more is to be received."""
    table = Table(tmp_path / "book.db", 2, Settings(in_flight_max=1))
    for client, connection in zip(table.clients, table.connections, strict=True):
        client.send(SAVE)
        table.intake.add(connection)
    table.intake.do_lines()
    table.intake.do_rest()
    assert table.touched == {*table.connections}
    assert not any(connection.wants for connection in table.touched)
    table.close()


@pytest.mark.parametrize("clients", [1, 3])
def test_what_came_before_a_stop_is_done(start: Start, clients: int) -> None:
    """Lines that a worker finds together with the word to stop are done and answered first."""
    service = start("--workers", "1")
    peers = [service.peer() for _ in range(clients)]
    for peer in peers:
        assert peer.ask({"message": "ping"}) == {"message": "Alive!"}
    worker = service.child("worker 1")
    os.kill(worker, signal.SIGSTOP)
    for peer in peers:
        peer.send(SAVE, newline=b"")
    service.process.send_signal(signal.SIGTERM)
    eventually(lambda: "SIGTERM: stopping" in service.stderr, "told to stop")
    os.kill(worker, signal.SIGCONT)
    for peer in peers:
        assert peer.reply() == {"message": "Password saved!"}
        assert peer.ended()
        peer.close()
    assert service.ended() == 0


def test_a_packet_of_listings_holds_up_nobody(start: Start) -> None:
    """While a worker lists all users for one client, hundreds of times, it answers the others."""
    service = start("--workers", "1")
    token = service.add_application("web")
    with service.peer() as greedy, service.peer() as modest:
        greedy.authenticate(token)
        labels = [f"{number:02}" + "\U0001f600" * 62 for number in range(16)]
        saves = [
            {"message": "save_password", "password": "x", "username": str(n), "labels": labels}
            for n in range(200)
        ]
        for begin in range(0, len(saves), 20):
            assert {each["message"] for each in ask_all(greedy, saves[begin : begin + 20])} == {
                "Password saved!"
            }
        assert modest.ask({"message": "ping"}) == {"message": "Alive!"}
        greedy.socket.sendall(b'{"message":"list_users","label":"x"}' * 444)
        for _ in range(3):
            assert modest.ask({"message": "ping"}) == {"message": "Alive!"}
        greedy.socket.setblocking(False)
        answered = b""
        with contextlib.suppress(BlockingIOError):
            while len(answered) < 10**6:
                answered += greedy.socket.recv(65536)
        assert answered.count(b"\n") < 444, "the others did not wait for all of it"
        greedy.socket.setblocking(True)
        while answered.count(b"\n") < 444:
            answered += greedy.socket.recv(65536)
        assert answered.count(b"return_users") == 444

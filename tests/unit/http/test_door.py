"""The monitor's listening sockets bound what their clients can keep."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.harness import PATIENCE_S
from workers.http import door as doors
from workers.http.door import Door


@pytest.fixture
def door() -> Iterator[Door]:
    """Return a listening socket of the monitor."""
    with socket.create_server(("127.0.0.1", 0)) as made, Door(fileno=made.detach()) as door:
        yield door


def come(door: Door) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new connection: the client's, and the monitor's."""
    client = socket.create_connection(door.getsockname(), PATIENCE_S)
    return client, door.accept()[0]


def is_ended(client: socket.socket) -> bool:
    """Tell whether a client was sent away."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def test_the_oldest_gives_way(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has ended by itself does not count."""
    monkeypatch.setattr(doors, "CONNECTIONS_MAX", 2)
    first, second = come(door), come(door)
    second[1].close()
    third = come(door)
    assert [is_ended(each[0]) for each in (first, third)] == [False, False]
    fourth = come(door)
    assert [is_ended(each[0]) for each in (first, third, fourth)] == [True, False, False]
    for client, accepted in (first, second, third, fourth):
        client.close()
        accepted.close()


def test_no_connection_lasts(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its client does or does not."""
    client, accepted = come(door)
    with client, accepted:
        assert door.end_old() == 0
        assert not is_ended(client)
        monkeypatch.setattr(doors, "_CONNECTION_S", -1.0)
        assert door.end_old() == 1
        assert is_ended(client)
        assert door.end_old() == 0

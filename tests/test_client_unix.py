"""The clients over Unix sockets, and the demonstration over each way there is."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pwserver import ConnectionFailed, FateUnknown
from tests.both_clients import Use, get, ping, pings, save, with_both_clients
from tests.certificates import Authority
from tests.fake_service import (
    ALIVE,
    AUTHENTICATE,
    SAVED,
    TOKEN,
    Conversation,
    FakeService,
    answer_all,
    authenticate,
    echo,
    server_tls,
)
from tests.shell import Shell


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[FakeService]:
    """Yield a service on a Unix socket that takes a token."""
    with FakeService(authenticate(answer_all(echo)), unix=tmp_path / "pw.sock") as service:
        yield service


@with_both_clients
def test_a_unix_socket_is_as_good_as_any(use: Use, unix: FakeService) -> None:
    """Token, requests and pipelines over one connection."""
    _, found, many = use(unix.url_with_token, ping, get, pings(600))
    assert found.password == "password of alice"
    assert many == [None] * 600
    assert unix.requests[0] == AUTHENTICATE
    assert unix.connections == 1


@with_both_clients
def test_a_unix_socket_that_is_not_there_is_a_connection_failure(use: Use, tmp_path: Path) -> None:
    """With the path and the reason: no such file, nobody behind it, or no path for a socket."""
    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(left))
    reasons = {
        tmp_path / "none": "No such file or directory",
        left: "Connection refused",
        tmp_path / ("x" * 200): "AF_UNIX path too long",
    }
    for path, reason in reasons.items():
        with pytest.raises(ConnectionFailed, match=f"^{path} cannot be reached: {reason}") as error:
            use(f"pwserver+unix://{path}", save, attempts_max=1)
        assert not isinstance(error.value, FateUnknown)


def test_the_demonstration_goes_every_way(tmp_path: Path) -> None:
    """Its messages and replies are the same over TCP, TLS and a Unix socket, behind a token."""
    authority = Authority(tmp_path / "authority")
    ways: list[dict[str, Any]] = [
        {},
        {"tls": server_tls(authority.issue("book"))},
        {"unix": tmp_path / "pw.sock"},
    ]
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    shell = Shell(tmp_path, {"PWSERVER_TOKEN_FILE": "token"})
    sent: list[str] = []

    def take_bare_objects(conversation: Conversation) -> None:
        for reply in (ALIVE, SAVED, ALIVE):
            sent.append(json.loads(conversation.connection.recv(1000))["message"])
            conversation.say(reply)

    seen = set()
    for way in ways:
        flags = ["--ca-file", str(authority.path)] if "tls" in way else []
        with FakeService(authenticate(take_bare_objects), **way) as service:
            ran = shell.run("demo", "--url", service.url, *flags)
        assert (ran.code, ran.err) == (0, "")
        assert service.requests == [AUTHENTICATE]
        seen.add(ran.out)
    assert sent == ["number_of_users", "save_password", "another_message"] * 3
    (out,) = seen
    assert out.count("sent:") == out.count("received:") == 3

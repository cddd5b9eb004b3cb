"""The clients over Unix sockets, and a command over each way there is."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pwserver import ConnectionFailed, FateUnknown
from tests.support.clients import Use, get, ping, pings, save, with_both_clients
from tests.support.fake_service import (
    ALIVE,
    AUTHENTICATE,
    TOKEN,
    FakeService,
    answer,
    answer_all,
    authenticate,
    echo,
)
from tests.support.shell import Shell
from tests.support.tls import Authority, server_tls


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


def test_a_command_goes_every_way(tmp_path: Path) -> None:
    """It says the same over TCP, TLS and a Unix socket, after a token."""
    authority = Authority(tmp_path / "authority")
    ways: list[dict[str, Any]] = [
        {},
        {"tls": server_tls(authority.issue("book"))},
        {"unix": tmp_path / "pw.sock"},
    ]
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    shell = Shell(tmp_path, {"PWSERVER_TOKEN_FILE": "token"})
    for way in ways:
        flags = ["--ca-file", str(authority.path)] if "tls" in way else []
        with FakeService(authenticate(answer(ALIVE)), **way) as service:
            ran = shell.run("ping", "--url", service.url, *flags)
        assert (ran.code, ran.out, ran.err) == (0, "Alive!\n", "")
        assert service.requests == [AUTHENTICATE, {"message": "ping"}]

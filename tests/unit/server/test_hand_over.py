"""The old program's side of a take-over, without a new program."""

import os
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest

from pwserver.config import Settings
from pwserver.server.hand_over import HandOver, State, _without_passphrase
from pwserver.server.loop import Loop


def hand_over(path: Path) -> HandOver:
    """Return the side of a program that serves a book."""

    def never(*_: object) -> None:
        raise AssertionError

    return HandOver(Settings(database=str(path)), Mock(spec=Loop), never, never, never)


def test_process_1_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end would be that of its container."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    hand_over(tmp_path / "book.db").asked("", [])
    assert "process 1 cannot be replaced" in caplog.text


def test_a_service_that_stops_is_not_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No program is started, and it is said why."""
    side = hand_over(tmp_path / "book.db")
    side.asked("it is stopping", [])
    assert side.state is State.NONE
    assert "SIGUSR2: not now, it is stopping" in caplog.text


def test_a_file_that_is_no_socket_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not connected to, and stays."""
    (tmp_path / "book.take-over").write_text("mine")
    hand_over(tmp_path / "book.db").asked("it is stopping", [])
    assert "is not this user's socket" in caplog.text
    assert (tmp_path / "book.take-over").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["serve", "--port", "1"], ["serve", "--port", "1"]),
        (["serve", "--key-passphrase", "fd:3", "--port", "1"], ["serve", "--port", "1"]),
        (["serve", "--key-passphrase=fd:3"], ["serve"]),
        (["serve", "--key-passphrase"], ["serve"]),
    ],
)
def test_the_source_of_the_passphrase_is_replaced(arguments: list[str], left: list[str]) -> None:
    """However it was given, the other arguments stay."""
    assert _without_passphrase(arguments) == left


def test_a_signal_to_a_program_that_is_gone_is_no_mistake(tmp_path: Path) -> None:
    """It may end just then."""
    side = hand_over(tmp_path / "book.db")
    side.pid = 2**22 + 1  # greater than any process id
    side.pass_on(signal.SIGTERM)

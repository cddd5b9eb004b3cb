"""The record in the system's log: each line once, and nobody waits for it."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.audit.audited import Audited, write
from workers.audit import syslog
from workers.audit.syslog import QUEUED_MAX, Syslog


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    """Return where a record is to be."""
    return Audited(tmp_path)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return where the socket of the system's log is; it is looked for at every line."""
    monkeypatch.setattr(syslog, "_PAUSE_S", 0.0)
    return str(tmp_path / "log.socket")


def listening(path: str) -> socket.socket:
    """Return a socket as syslog or journald has it."""
    system = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    system.bind(path)
    system.setblocking(False)
    return system


@pytest.fixture
def system(path: str) -> Iterator[socket.socket]:
    """Return the system's log."""
    with listening(path) as opened:
        yield opened


def received(system: socket.socket) -> list[bytes]:
    """Return what the system's log has got."""
    found = []
    while True:
        try:
            found.append(system.recv(65536))
        except BlockingIOError:
            return found


def test_the_systems_log_gets_each_line_of_the_record(
    audited: Audited, path: str, system: socket.socket
) -> None:
    """With the facility for security, the program and its process, and the line as it is."""
    log = audited.log(syslog=path)
    write(log, "alice", "bob")
    write(log, "carol")
    log.close()
    begin = b"<86>pwserver[%d]: " % os.getpid()
    assert received(system) == [begin + line.rstrip(b"\n") for line in audited.lines()]


def test_what_is_not_in_the_file_is_not_in_the_systems_log(
    audited: Audited, path: str, system: socket.socket
) -> None:
    """A record that could not be written was of something that was not done."""
    log = audited.log(syslog=path)
    audited.path.mkdir()
    assert not write(log, "alice")
    assert received(system) == []


def test_a_systems_log_that_takes_no_more_stops_nobody(
    path: str, system: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """Some lines are kept, the others are dropped and counted, and that is said once."""
    caplog.set_level(logging.INFO)
    log = Syslog(path)
    lines = [b"line %d\n" % number for number in range(3 * QUEUED_MAX)]
    for line in lines:
        log.send([line])
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert f"{path} does not get the audit record: it takes no more" in caplog.text
    got: list[bytes] = []
    while more := received(system):
        got += more
        log.send()
    log.close()
    lacks = len(lines) - len(got)
    assert [line.partition(b": ")[2] + b"\n" for line in got] == lines[: len(got)]
    assert (
        caplog.records[-1].getMessage() == f"{path} gets the audit record again; it lacks {lacks}"
    )
    assert len(caplog.records) == 2


def test_a_systems_log_that_is_away_gets_what_was_kept(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Before it begins, and while it is started again, lines wait for it."""
    caplog.set_level(logging.INFO)
    log = Syslog(path)
    log.send([b"one\n"])
    log.send([b"two\n"])
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "No such file or directory" in caplog.text
    with listening(path) as system:
        log.send()
        assert len(received(system)) == 2
    log.send([b"three\n"])
    os.unlink(path)
    with listening(path) as system:
        log.send([b"four\n"])
        assert [line[-4:] for line in received(system)] == [b"hree", b"four"]
    log.close()

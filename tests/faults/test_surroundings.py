"""Where the service is started and what it is started with: folders, streams, terminals."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.faults.inject import mounted
from tests.harness import (
    PATIENCE_S,
    WITHOUT_PSYCOPG,
    Peer,
    Service,
    eventually,
    named_children,
)

SAVED = "Password saved!"
PLANTED = "import os\nos.makedirs('run-by-the-service', exist_ok=True)\nraise SystemExit(9)\n"


@pytest.mark.parametrize(
    "name", ["workers/__init__.py", "msgspec.py", "zxcvbn.py", "multiprocessing.py", "socket.py"]
)
def test_nothing_is_imported_from_the_current_folder(tmp_path: Path, name: str) -> None:
    """Whoever can write there does not get code into the processes that have the key."""
    planted = tmp_path / name
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(PLANTED)
    command = "from pwserver.__main__ import main; main()"
    service = Service(tmp_path, program=(sys.executable, "-P", "-c", command))
    try:
        with service.wait_until_listening().peer() as peer:
            assert peer.save()["message"] == SAVED
            check = peer.ask({"message": "check_password", "password": "abc123"})
            assert check["message"] == "return_check_password"
    finally:
        code = service.stop()
    assert code == 0
    assert not (tmp_path / "run-by-the-service").exists()


def test_no_folder_for_temporary_files_is_used(start: Start, tmp_path: Path) -> None:
    """It may have a name of any length, and be cleaned at any time: nothing is in it."""
    folder = tmp_path / ("t" * 200)
    folder.mkdir()
    service = start(env={**WITHOUT_PSYCOPG, "TMPDIR": str(folder)})
    assert list(folder.iterdir()) == []
    folder.rmdir()
    service.replace("fork server")
    for name in ("writer", "worker 1", "worker 2"):
        service.replace(name)
    with service.peer() as peer:
        assert peer.save()["message"] == SAVED


def test_shared_memory_needs_no_file_system(tmp_path: Path) -> None:
    """It serves where /dev/shm cannot be written to, as in some containers."""
    with mounted(Path("/dev/shm"), "-t", "tmpfs", "-o", "ro", "tmpfs"):
        service = Service(tmp_path).wait_until_listening()
        with service.peer() as peer:
            assert peer.save()["message"] == SAVED
        assert service.stop() == 0


@contextlib.contextmanager
def served_with(tmp_path: Path, port: int, redirections: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service whose standard streams are as a shell makes them."""
    serve = f'exec "$0" -m pwserver serve --port {port} {redirections}'
    with subprocess.Popen(
        ["sh", "-c", serve, sys.executable], cwd=tmp_path, env=WITHOUT_PSYCOPG
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def saves(port: int) -> bool:
    """Tell whether a client that comes now can save."""
    with contextlib.suppress(OSError), Peer(port) as peer:
        return bool(peer.save()["message"] == SAVED)
    return False


@pytest.mark.parametrize(
    "redirections",
    ["2>&-", ">&-", "<&- >&- 2>&-", "> /dev/full 2> /dev/full", "2> /dev/full", ">&- 2>&1"],
)
def test_it_goes_on_and_stops_without_standard_streams(
    tmp_path: Path, free_port: int, redirections: str
) -> None:
    """Closed, or on a full disk: a child that dies is replaced, and a stop is in order."""
    with served_with(tmp_path, free_port, redirections) as process:
        eventually(lambda: saves(free_port), "it serves")
        with Peer(free_port) as peer:  # its listing goes to standard output
            assert peer.count() > 0
        for name in ("worker 1", "worker 2", "console", "writer"):
            old = eventually(lambda: named_children(process.pid).get(name), f"{name} runs")  # noqa: B023
            os.kill(old, signal.SIGKILL)
        eventually(lambda: saves(free_port), "it serves again")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_a_terminal_that_is_closed_takes_the_service_with_it(tmp_path: Path) -> None:
    """What was started on a terminal stops in order when that is gone, and SIGHUP says so."""
    terminal, process = on_a_terminal(tmp_path, "")
    os.close(terminal)
    assert process.wait(PATIENCE_S) == 0
    log = (tmp_path / "log").read_text()
    assert "the terminal was closed: stopping" in log


def test_nohup_outlives_the_terminal(tmp_path: Path) -> None:
    """Who starts it with nohup wants it to stay, and SIGTERM still stops it."""
    terminal, process = on_a_terminal(tmp_path, "trap '' HUP; ")
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    eventually(lambda: "nothing to read anew" in (tmp_path / "log").read_text(), "it is heard")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


def on_a_terminal(tmp_path: Path, before: str) -> tuple[int, subprocess.Popen[bytes]]:
    """Start a service as the foreground of a terminal; return that and its process."""
    ours, its = pty.openpty()
    lead = "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    serve = f'{before}exec "{sys.executable}" -m pwserver serve --port 0 > out 2> log'
    process = subprocess.Popen(
        [sys.executable, "-c", lead + f"os.execvp('sh', ['sh', '-c', {serve!r}])"],
        cwd=tmp_path,
        env=WITHOUT_PSYCOPG,
        stdin=its,
        start_new_session=True,
    )
    os.close(its)
    out = tmp_path / "out"
    eventually(lambda: out.exists() and "listening" in out.read_text(), "it listens")
    return ours, process


@pytest.mark.parametrize("after_s", [0.15, 0.3, 1.0])
def test_process_1_stops_when_it_is_told_to(tmp_path: Path, after_s: float) -> None:
    """Also while it starts, when the kernel ignores what a process 1 has no handler for."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("needs the right to make a namespace of processes")
    with subprocess.Popen(
        [*command, sys.executable, "-m", "pwserver", "serve", "--port", "0"],
        cwd=tmp_path,
        env=WITHOUT_PSYCOPG,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as outer:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        inner = int(eventually(lambda: children.read_text().split(), "it runs")[0])
        title = Path(f"/proc/{inner}/cmdline")
        eventually(lambda: b"pwserver" in title.read_bytes(), "it is Python")
        with contextlib.suppress(subprocess.TimeoutExpired):
            outer.wait(after_s)
        os.kill(inner, signal.SIGTERM)
        try:
            assert outer.wait(PATIENCE_S) == 0
        finally:
            outer.kill()

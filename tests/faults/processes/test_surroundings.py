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
from tests.support import needs
from tests.support.harness import (
    PATIENCE_S,
    Peer,
    eventually,
    named_children,
)
from tests.support.processes import end_session, launch, launched

SAVED = "Password saved!"
PLANTED = "import os\nos.makedirs('run-by-the-service', exist_ok=True)\nraise SystemExit(9)\n"


@pytest.mark.parametrize(
    "name", ["workers/__init__.py", "msgspec.py", "zxcvbn.py", "multiprocessing.py", "socket.py"]
)
def test_nothing_is_imported_from_the_current_folder(
    start: Start, tmp_path: Path, name: str
) -> None:
    """Whoever can write there does not get code into the processes that have the key."""
    planted = tmp_path / name
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(PLANTED)
    command = "from pwserver.__main__ import main; main()"
    service = start(program=(sys.executable, "-P", "-c", command))
    with service.peer() as peer:
        assert peer.save()["message"] == SAVED
        check = peer.ask({"message": "check_password", "password": "abc123"})
        assert check["message"] == "return_check_password"
    assert service.stop() == 0
    assert not (tmp_path / "run-by-the-service").exists()


def test_no_folder_for_temporary_files_is_used(start: Start, tmp_path: Path) -> None:
    """It may have a name of any length, and be cleaned at any time: nothing is in it."""
    folder = tmp_path / ("t" * 200)
    folder.mkdir()
    service = start(env={**os.environ, "TMPDIR": str(folder)})
    assert list(folder.iterdir()) == []
    folder.rmdir()
    service.replace("fork server")
    for name in ("worker 1", "worker 2"):
        service.replace(name)
    with service.peer() as peer:
        assert peer.save()["message"] == SAVED


@pytest.mark.root("to mount a file system")
def test_shared_memory_needs_no_file_system(start: Start) -> None:
    """It serves where /dev/shm cannot be written to, as in some containers."""
    needs.tool("unshare", "mount")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        needs.lacks("the right to make a namespace of mounts")
    script = 'mount -t tmpfs -o ro tmpfs /dev/shm && exec "$@"'
    program = ("unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "pwserver")
    with start(program=program).peer() as peer:
        assert peer.save()["message"] == SAVED


@contextlib.contextmanager
def served_with(tmp_path: Path, port: int, redirections: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service whose standard streams are as a shell makes them."""
    serve = f'exec "$0" -m pwserver serve --port {port} {redirections}'
    process = launch(["sh", "-c", serve, sys.executable], cwd=tmp_path)
    try:
        yield process
    finally:
        end_session(process)


def saves(port: int) -> bool:
    """Tell whether a client that comes now can save."""
    with contextlib.suppress(OSError), Peer(port) as peer:
        return bool(peer.save()["message"] == SAVED)
    return False


@pytest.mark.parametrize(
    "redirections",
    ["2>&-", ">&-", "<&- >&- 2>&-", "> /dev/full 2> /dev/full", "2> /dev/full", ">&- 2>&-"],
)
def test_it_goes_on_and_stops_without_standard_streams(
    tmp_path: Path, free_port: int, redirections: str
) -> None:
    """Closed, or on a full disk: a child that dies is replaced, and a stop is in order."""
    with served_with(tmp_path, free_port, redirections) as process:
        eventually(lambda: saves(free_port), "it serves")
        with Peer(free_port) as peer:  # its listing goes to standard output
            assert peer.count() > 0
        for name in ("worker 1", "console"):
            old = eventually(lambda: named_children(process.pid).get(name), f"{name} runs")  # noqa: B023
            os.kill(old, signal.SIGKILL)
        eventually(lambda: saves(free_port), "it serves again")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_a_terminal_that_is_closed_takes_the_service_with_it(tmp_path: Path) -> None:
    """What was started on a terminal stops in order when that is gone, and SIGHUP says so."""
    with on_a_terminal(tmp_path, "") as (terminal, process):
        os.close(terminal)
        assert process.wait(PATIENCE_S) == 0
    assert "the terminal was closed: stopping" in (tmp_path / "log").read_text()


def test_nohup_outlives_the_terminal(tmp_path: Path) -> None:
    """Who starts it with nohup wants it to stay, and SIGTERM still stops it."""
    with on_a_terminal(tmp_path, "trap '' HUP; ") as (terminal, process):
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "nothing has changed" in (tmp_path / "log").read_text(), "it is heard")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@contextlib.contextmanager
def on_a_terminal(tmp_path: Path, before: str) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Start a service as the foreground of a terminal; give that and its process."""
    ours, its = pty.openpty()
    lead = "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    serve = f'{before}exec "{sys.executable}" -m pwserver serve --port 0 > out 2> log'
    process = launch(
        [sys.executable, "-c", lead + f"os.execvp('sh', ['sh', '-c', {serve!r}])"],
        cwd=tmp_path,
        stdin=its,
    )
    os.close(its)
    try:
        out = tmp_path / "out"
        eventually(lambda: out.exists() and "listening" in out.read_text(), "it listens")
        yield ours, process
    finally:
        end_session(process)


@pytest.mark.root("to make a namespace of processes")
@pytest.mark.parametrize("after_s", [0.15, 0.3, 1.0])
def test_process_1_stops_when_it_is_told_to(tmp_path: Path, after_s: float) -> None:
    """Also while it starts, when the kernel ignores what a process 1 has no handler for."""
    needs.tool("unshare")
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*command, "true"], check=False).returncode:
        needs.lacks("the right to make a namespace of processes")
    with launched(
        [*command, sys.executable, "-m", "pwserver", "serve", "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as outer:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        inner = int(eventually(lambda: children.read_text().split(), "it runs")[0])
        title, begins = Path(f"/proc/{inner}/cmdline"), (sys.executable.encode(), b"pwserver")
        eventually(lambda: title.read_bytes().startswith(begins), "it is Python")
        with contextlib.suppress(subprocess.TimeoutExpired):
            outer.wait(after_s)
        os.kill(inner, signal.SIGTERM)
        assert outer.wait(PATIENCE_S) == 0

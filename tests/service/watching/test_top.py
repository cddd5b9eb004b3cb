"""`pwserver top` on a terminal of its own: it moves, says what is wrong, and q leaves."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pwserver.cli.top import bars
from tests.conftest import Start
from tests.support.harness import PATIENCE_S, Service, eventually, meanwhile
from tests.support.processes import end_session, launch
from tests.support.shell import ENVIRONMENT, Shell

HTTP = ("--http", "127.0.0.1:0")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """A terminal on which `pwserver top` runs."""

    def __init__(self, folder: Path, columns: int, rows: int) -> None:
        self._ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(its)
        self._its = its
        environment = ENVIRONMENT | {"TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES"):  # the terminal has a size
            environment.pop(name, None)
        command = [sys.executable, "-m", "pwserver", "top"]
        self.process: subprocess.Popen[bytes] = launch(
            command, cwd=folder, stdin=its, stdout=its, stderr=its, env=environment
        )
        self._seen = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self._seen += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:
                return

    @property
    def shown(self) -> str:
        """The last screen, without colours and movements of the cursor."""
        return _ESCAPES.sub("", self._seen.rpartition("\x1b[H")[2])

    @property
    def left(self) -> bool:
        """Whether the terminal shows again what it showed before."""
        return "\x1b[?1049l" in self._seen

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    @property
    def restored(self) -> bool:
        """Whether the terminal is in the mode in which it was."""
        return termios.tcgetattr(self._its) == self.before

    def end(self) -> None:
        """End the command if it runs, and close the terminal."""
        end_session(self.process)
        os.close(self._its)
        os.close(self._ours)


@contextmanager
def top(folder: Path, columns: int = 110, rows: int = 40) -> Iterator[Screen]:
    """Run `pwserver top` for the service in a folder."""
    screen = Screen(folder, columns, rows)
    try:
        yield screen
    finally:
        screen.end()


def saver(service: Service) -> "object":
    """Return a task that saves one password after the other."""

    def save(over: threading.Event) -> None:
        with service.peer() as peer:
            while not over.is_set():
                peer.save()

    return save


def test_it_moves_and_q_leaves(start: Start, tmp_path: Path) -> None:
    """Saves are seen as they come; at the end the terminal is as it was."""
    service = start(*HTTP)
    with top(tmp_path) as screen:
        eventually(lambda: "all is well" in screen.shown, "it is drawn")
        with meanwhile(saver(service)):  # type: ignore[arg-type]
            rate = re.compile(r"saves/s +([1-9][0-9,.]*) ")
            eventually(lambda: rate.search(screen.shown), "saves are seen")
        eventually(lambda: "(without a token)" in screen.shown, "applications are seen")
        screen.press("x")
        screen.press("q")
        assert screen.process.wait(PATIENCE_S) == 0
        eventually(lambda: screen.left, "the screen is left")
        assert screen.restored


def test_a_restart_and_the_end_of_the_service_are_seen(start: Start, tmp_path: Path) -> None:
    """What happens is in the list; when the service ends, top says so and goes on."""
    service = start(*HTTP)
    with top(tmp_path) as screen:
        eventually(lambda: "all is well" in screen.shown, "it is drawn")
        service.replace("worker 2")
        eventually(lambda: "worker 2 was started again" in screen.shown, "the restart is seen")
        assert service.stop() == 0
        eventually(lambda: "no pwserver with --http runs" in screen.shown, "the end is seen")
        screen.process.send_signal(signal.SIGINT)  # as Ctrl-C does
        assert screen.process.wait(PATIENCE_S) == 130
        assert screen.restored


def test_a_small_terminal_is_enough(start: Start, tmp_path: Path) -> None:
    """On 60 columns nothing goes wrong."""
    start(*HTTP)
    with top(tmp_path, columns=60, rows=20) as screen:
        eventually(lambda: "all is well" in screen.shown, "it is drawn")
        screen.press("q")
        assert screen.process.wait(PATIENCE_S) == 0


def test_without_a_terminal_it_says_so(service: Service, tmp_path: Path) -> None:
    """A pipe gets a sentence, and no endless output."""
    ran = Shell(tmp_path).run("top")
    assert (ran.code, ran.out) == (2, "")
    assert "top needs a terminal" in ran.err
    del service


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([0, 0], "  "), ([0, 1, 8], " ▁█"), ([None, 5], " █"), ([0.001, 1], "▁█")],
)
def test_bars(values: list[float | None], drawn: str) -> None:
    """The greatest value has the highest bar, what is not zero is seen, and a gap is a gap."""
    assert bars(values) == drawn

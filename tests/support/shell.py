"""Runs the `pwserver` command as programs do, through pipes, and as people do, on a terminal."""

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwserver import Client
from tests.support.harness import PATIENCE_S, Service
from tests.support.processes import end_session, launch

ENVIRONMENT = {
    **{
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PWSERVER_") and key != "PYTHONUNBUFFERED"  # would hide what is late
    },
    "TERM": "dumb",  # has no bold text, so any escape sequence in the output is a fault
    "COLUMNS": "100",
}

_PROJECT = Path(__file__).parents[2]
TREE_ENVIRONMENT = {
    **ENVIRONMENT,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")])),
}
"""The same, but Python finds this tree's modules, also the tests', from any folder."""

_COMMAND = (sys.executable, "-m", "pwserver")
_ON_ITS_TERMINAL = (
    sys.executable,
    "-c",
    "import fcntl, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "from pwserver.__main__ import main\n"
    "main()",
)
"""The same command with standard input as its controlling terminal (for /dev/tty and Ctrl-C)."""


@dataclass(frozen=True)
class Ran:
    """The result of a command; on a terminal, `out` has standard output and standard error."""

    code: int
    out: str
    err: str = ""

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON lines that were printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def record(self) -> dict[str, Any]:
        """The one JSON line that was printed by a command that succeeded and printed no more."""
        assert (self.code, self.err) == (0, ""), self
        (only,) = self.records
        return only


@dataclass(frozen=True)
class Shell:
    """A shell in which commands run: a folder, and variables of the environment."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: str | bytes = b"") -> Ran:
        """Run a command to its end, with pipes for everything."""
        result = subprocess.run(
            [*_COMMAND, *arguments],
            cwd=self.folder,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            env=ENVIRONMENT | self.variables,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return Ran(result.returncode, result.stdout.decode(), result.stderr.decode())

    def type(self, *arguments: str, typed: str = "", stdin: bytes | None = None) -> Ran:
        """Run a command to its end on a terminal of its own; type a line when it asks for one.

        With `stdin`, only its output goes to the terminal. Fails if the output has any control
        character that a terminal would obey.
        """
        ours, its = pty.openpty()
        process = launch(
            [*(_ON_ITS_TERMINAL if stdin is None else _COMMAND), *arguments],
            cwd=self.folder,
            stdin=its if stdin is None else subprocess.PIPE,
            stdout=its,
            stderr=its,
            env=ENVIRONMENT | self.variables,
        )
        os.close(its)
        try:
            if process.stdin is not None and stdin is not None:
                process.stdin.write(stdin)
                process.stdin.close()
            shown = _shown(ours, typed)
            code = process.wait(PATIENCE_S)
        finally:
            end_session(process)
            os.close(ours)
        assert shown.replace("\n", "").isprintable(), repr(shown)
        return Ran(code, shown)


def shell_at(service: Service, folder: Path) -> Shell:
    """Return a shell with the URL of a service and a token with all rights."""
    token_file = write_token(folder, service.token)
    return Shell(folder, {"PWSERVER_URL": url_of(service), "PWSERVER_TOKEN_FILE": token_file})


def guest_shell_at(service: Service, folder: Path) -> Shell:
    """Return a shell with the URL of a service and no token."""
    return Shell(folder, {"PWSERVER_URL": url_of(service)})


def write_token(folder: Path, token: str) -> str:
    """Write a token into a file that only its owner may read; return the file's name."""
    file = folder / "token"
    file.touch(0o600)
    file.write_text(f"{token}\n")
    return str(file)


def url_of(service: Service) -> str:
    """Return the URL of a service without a token."""
    return f"pwserver://127.0.0.1:{service.port}"


def client_of(service: Service) -> Client:
    """Return a client with all rights in the common book.

    With it tests prepare the book for a command and check what the command has done.
    """
    return Client(service.url)


def _shown(terminal: int, typed: str) -> str:
    """Return the text that appears on a terminal until its program ends; type the answers."""
    shown, lines = b"", typed.splitlines(keepends=True)
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # on Linux: the other end has been closed
            return shown.decode().replace("\r\n", "\n")
        shown += data
        if lines and shown.endswith((b": ", b"] ")):  # it asks
            os.write(terminal, lines.pop(0).encode())

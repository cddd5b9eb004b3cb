"""Runs the `pwserver` command as programs do, through pipes, and as people do, on a terminal."""

import json
import os
import pty
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwserver import Client
from tests.support.forked import COMMAND
from tests.support.harness import PATIENCE_S, Service
from tests.support.processes import end_session, launch_pwserver

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
        process = self._start(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            given = stdin.encode() if isinstance(stdin, str) else stdin
            out, err = process.communicate(given, PATIENCE_S)
        finally:
            end_session(process)
        return Ran(process.returncode, out.decode(), err.decode())

    def type(self, *arguments: str, typed: str = "", stdin: bytes | None = None) -> Ran:
        """Run a command to its end on a terminal of its own; type a line when it asks for one.

        With `stdin`, only its output goes to the terminal. Fails if the output has any control
        character that a terminal would obey.
        """
        ours, its = pty.openpty()
        process = self._start(
            arguments,
            on_terminal=stdin is None,
            stdin=its if stdin is None else subprocess.PIPE,
            stdout=its,
            stderr=its,
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

    def _start(self, arguments: Sequence[str], **how: Any) -> "subprocess.Popen[Any]":
        environment = ENVIRONMENT | self.variables
        return launch_pwserver([*COMMAND, *arguments], cwd=self.folder, env=environment, **how)


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

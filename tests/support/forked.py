"""Starts the `pwserver` command as a copy of a process that has it loaded (`template.py`).

`Forked` is a `subprocess.Popen` in all else. What a copy cannot be like is started as any other
program: other arguments for `Popen` than those for files, folder, environment and umask, and
variables that Python reads when it begins. Tests of how the command begins start it themselves.
"""

import functools
import inspect
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.template import NUMBER

COMMAND = (sys.executable, "-m", "pwserver")

_PROGRAM = Path(__file__).with_name("template.py")
_COPIED = {"stdin", "stdout", "stderr", "cwd", "env", "umask", "start_new_session"}
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "COVERAGE_")
_starting = threading.Lock()


def can_be_forked(command: Sequence[str], popen: Mapping[str, Any]) -> bool:
    """Tell whether a copy of the template is what a new process would be."""
    wanted = {key for key, value in popen.items() if value is not None}
    return (
        tuple(command[:3]) == COMMAND
        and wanted <= _COPIED
        and _read_at_start(popen.get("env") or os.environ) == _read_at_start(_first_environment())
        and not any(key.startswith("COVERAGE_") for key in os.environ)
    )


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in environment.items()
        if key.startswith(_READ_AT_START) and key != "PYTHONUNBUFFERED"
    }


@functools.cache
def _first_environment() -> dict[str, str]:
    return dict(os.environ)


class Template:
    """The process that is copied."""

    def __init__(self) -> None:
        self._channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    str(Path(__file__).with_name("template.py")),
                    str(its.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=_first_environment(),
                pass_fds=[its.fileno()],
                start_new_session=True,
            )

    def fork(self, files: Sequence[int], **request: Any) -> tuple[int, socket.socket]:
        """Have a copy made; return its process id and the socket on which its exit code comes."""
        answers, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked = os.memfd_create("request")
        with its, os.fdopen(asked, "w+b") as file:
            pickle.dump(request, file)
            file.seek(0)
            socket.send_fds(self._channel, [b"F"], [asked, *files, its.fileno()])
        answer = answers.recv(NUMBER.size)
        if not answer:
            answers.close()
            raise OSError("the template has ended; its standard error says why")
        return int(NUMBER.unpack(answer)[0]), answers

    def end(self) -> None:
        """End it; copies that run go on."""
        self._channel.close()
        self._process.wait()


@functools.cache
def _template() -> Template:
    return Template()


def end_template() -> None:
    """End the template, if there is one."""
    if _template.cache_info().currsize:
        _template().end()


class Forked(subprocess.Popen[Any]):
    """The command in a copy of the template, in a session of its own.

    With `on_terminal`, its standard input becomes its controlling terminal. The three methods in
    which `Popen` starts a program and waits for it are replaced.
    """

    def __init__(self, command: Sequence[str], on_terminal: bool = False, **popen: Any) -> None:
        self._on_terminal = on_terminal
        self._answers: socket.socket | None = None
        self._hearing = threading.Lock()
        super().__init__(command, **popen)

    def _execute_child(self, *given: Any) -> None:
        names = inspect.signature(super()._execute_child).bind(*given).arguments  # type: ignore[misc]
        ends = [names[each] for each in ("p2cread", "p2cwrite", "c2pread", "c2pwrite")]
        ends += [names["errread"], names["errwrite"]]
        files = [ends[0], ends[3], ends[5]]
        mask = os.umask(0o022)
        os.umask(mask)
        try:
            with _starting:
                template = _template()
            self.pid, self._answers = template.fork(
                [file if file >= 0 else number for number, file in enumerate(files)],
                command=list(names["args"]),
                folder=os.path.abspath(names["cwd"] or os.curdir),
                environment=dict(os.environ if names["env"] is None else names["env"]),
                umask=mask if names["umask"] < 0 else names["umask"],
                on_terminal=self._on_terminal,
            )
            self._child_created = True
        finally:
            self._close_pipe_fds(*ends)  # type: ignore[attr-defined]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        return self._wait(0) if self._has_ended(0) else self.returncode

    def _wait(self, timeout: float | None) -> int:
        if not self._has_ended(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        with self._hearing:
            if self._answers is not None:
                answer = self._answers.recv(NUMBER.size)
                self._answers.close()
                self._answers = None
                self.returncode = NUMBER.unpack(answer)[0] if answer else -9
        return self.returncode

    def _has_ended(self, timeout: float | None) -> bool:
        answers = self._answers
        try:
            return answers is None or bool(select.select([answers], [], [], timeout)[0])
        except (OSError, ValueError):  # another thread has heard it, and closed the socket
            return True

"""Log lines on standard error: one line a record, from every process in the same form.

The form is plain text for people, or a JSON object for programs. A record is dropped rather than
waited for where standard error takes no more, so that a pipe that is blocked or closed, or a disk
that is full, never stops the service. Control characters are made visible: a line is always one
line.

The monitor, which shows the last lines, gets a copy of each through a socket for datagrams. It is
dropped likewise.
"""

import contextlib
import json
import logging
import os
import select
import time
from typing import NamedTuple

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

_STANDARD_ERROR = 2

_copy: int | None = None


COPY_BYTES_MAX = 2000
"""How much of a line the copy has."""


def copy_to(descriptor: int) -> None:
    """Send a copy of each line to a socket for datagrams, in this process and what it forks."""
    global _copy
    _copy = descriptor


class Style(NamedTuple):
    """How log lines look, and from which level on there are any."""

    format: str = "text"  # one of FORMATS
    level: str = "info"  # one of LEVELS


_style = Style()  # of this process; a child that is forked has its parent's


class _StandardError(logging.Handler):
    """Writes to standard error if that is possible at once, without a buffer that could keep it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or drop it."""
        try:
            text = self.format(record)
            line = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) + "\n"
            if _copy is not None:
                with contextlib.suppress(OSError):  # it is full: nobody has read for long
                    os.write(_copy, line.encode(errors="backslashreplace")[:COPY_BYTES_MAX])
            poll = select.poll()
            poll.register(_STANDARD_ERROR, select.POLLOUT)
            if any(event & select.POLLOUT for _, event in poll.poll(0)):
                os.write(_STANDARD_ERROR, line.encode(errors="backslashreplace"))
        except (OSError, ValueError):
            pass


class _Json(logging.Formatter):
    """A record as a JSON object."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the object. Whatever is not ASCII is escaped, so it has no control character."""
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        about = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "message": message,
        }
        return json.dumps(about)


def _text(process: str) -> logging.Formatter:
    form = f"%(asctime)sZ %(levelname)s {process}: %(message)s"
    formatter = logging.Formatter(form, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter


def configure(process: str, style: Style | None = None) -> None:
    """Send the log records of this process, which is called `process`, to standard error.

    The style is that of this process so far, or that of its parent, unless another one is given.
    """
    global _style
    _style = style or _style
    handler = _StandardError()
    handler.setFormatter(_Json(process) if _style.format == "json" else _text(process))
    logging.getLogger().handlers[:] = [handler]
    set_level(_style.level)


def set_level(level: str) -> None:
    """Log records of this level and above from now on."""
    global _style
    _style = _style._replace(level=level)
    logging.getLogger().setLevel(level.upper())

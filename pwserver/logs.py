"""Log lines on standard error: one plain line a record, from every process in the same form.

A record is dropped rather than waited for where standard error takes no more, so that a pipe that
is blocked or closed, or a disk that is full, never stops the service. Control characters are made
visible: a line is always one line.

The monitor, which shows the last lines, gets a copy of each through a socket for datagrams. It is
dropped likewise.
"""

import contextlib
import logging
import os
import select
import time

_STANDARD_ERROR = 2

_copy: int | None = None


COPY_BYTES_MAX = 2000
"""How much of a line the copy has."""


def copy_to(descriptor: int) -> None:
    """Send a copy of each line to a socket for datagrams, in this process and what it forks."""
    global _copy
    _copy = descriptor


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


def configure(process: str) -> None:
    """Send the log records of this process, which is called `process`, to standard error."""
    handler = _StandardError()
    form = f"%(asctime)sZ %(levelname)s {process}: %(message)s"
    formatter = logging.Formatter(form, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)

"""Whether the terminal that the service was started on is still there.

SIGHUP has two meanings: a service manager, or a person, asks for files to be read again; and a
terminal that is closed takes with it what was started on it. They are told apart by looking for the
terminal. What was started by nohup(1), which has SIGHUP ignored, is to outlive its terminal.
"""

import os
import signal


class Terminal:
    """The controlling terminal of this process, if it has one when this is made."""

    def __init__(self) -> None:
        self._was_there = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _is_there()

    @property
    def gone(self) -> bool:
        """Whether there was a terminal, and is none any more."""
        return self._was_there and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True

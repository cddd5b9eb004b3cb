"""What the commands may count on, wherever they are started: streams, encodings, a terminal's size.

Standard streams may be closed, terminals may know ASCII alone, and variables of the environment may
say anything. Here that is put right, once and before anything else, so that no command minds.
"""

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Iterable
from typing import TextIO

from pwserver.errors import ConfigError

_OURS = {"PWSERVER_BIN", "PWSERVER_CONFIG", "PWSERVER_TRACEBACK"}
"""Variables that are no settings: of scripts which program to run, and of the commands."""

_OF_KUBERNETES = re.compile(r"\w+_SERVICE_(HOST|PORT)(_\w+)?|\w+_PORT_\d+_[A-Z]+(_\w+)?")
"""What a pod finds about a service whose name begins with `pwserver`."""

_ADDRESS_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://\S*")
"""What a pod finds in a variable that ends with `_PORT`. It is called `PWSERVER_PORT` where the
service itself is called `pwserver`; but no port is written so."""


def put_right() -> None:
    """Open standard streams that are closed, and let nothing that is printed be unprintable."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            # Programs read UTF-8, as they write it. A terminal shows by number what it cannot show.
            encoding = None if stream.isatty() else "utf-8"
            reconfigure(encoding=encoding, errors="backslashreplace")
    for name in ("COLUMNS", "LINES"):  # too few, and the help is laid out for ever
        if not re.fullmatch("[2-9][0-9]|[1-9][0-9]{2,3}", os.environ.get(name, "80")):
            del os.environ[name]


def _open_closed_streams() -> None:
    """Take the numbers of streams that are closed: a database with number 1 would be printed to.

    What reads or writes there fails, so that a result that goes nowhere is no success; but nobody
    minds that nobody reads the errors.
    """
    with contextlib.suppress(OSError):  # there is no /dev/null
        for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, mode)
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")


def _stream(number: int, mode: str) -> TextIO:
    return open(number, mode, encoding="utf-8", closefd=False)  # type: ignore[return-value]


def give_up_output() -> bool:
    """Write out what was printed; where that cannot be, drop it, and return that it was so."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # so that nobody tries again
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        return True
    return False


def check_variables(settings: Iterable[str]) -> None:
    """Raise `ConfigError` for a `PWSERVER_...` variable that is none, given those of settings.

    What Kubernetes says of its services is taken out where it has the name of a setting.
    """
    known = {*settings, *_OURS}
    for name in sorted(os.environ):
        of_pwserver = name.startswith("PWSERVER_") and name.endswith("_PORT")
        if of_pwserver and _ADDRESS_OF_KUBERNETES.fullmatch(os.environ[name]):
            del os.environ[name]
            continue
        unknown = name.startswith("PWSERVER_") and name not in known
        if unknown and not _OF_KUBERNETES.fullmatch(name):
            raise ConfigError(
                f"the environment has {name}, which is not a setting; {nearest(name, known)}"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence on a name that is unknown: which one may have been meant."""
    names = sorted(known)
    (near,) = difflib.get_close_matches(name, names, n=1, cutoff=0) or names[:1]
    return f"did you mean {near}?"

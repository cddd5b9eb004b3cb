"""The environment of the commands: standard streams, encodings, the terminal's size, variables.

Standard streams may be closed, a terminal may show ASCII only, and environment variables may hold
anything. `prepare` corrects that once, before anything else, so that the commands need not.
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
"""Variables that are not settings; scripts use the first, and the commands the others."""

_OF_KUBERNETES = re.compile(r"\w+_SERVICE_(HOST|PORT)(_\w+)?|\w+_PORT_\d+_[A-Z]+(_\w+)?")
"""The variables of a pod about a service whose name begins with `pwserver`."""

_ADDRESS_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://\S*")
"""The value of a pod's variable that ends with `_PORT`. It is `PWSERVER_PORT` if the service is
called `pwserver`; a port of ours is a number."""


def prepare() -> None:
    """Open standard streams that are closed, and let them accept every character."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            # Programs get UTF-8. A terminal shows the number of a character that it does not have.
            encoding = None if stream.isatty() else "utf-8"
            reconfigure(encoding=encoding, errors="backslashreplace")
    for name in ("COLUMNS", "LINES"):  # with too few, formatting the help never ends
        if not re.fullmatch("[2-9][0-9]|[1-9][0-9]{2,3}", os.environ.get(name, "80")):
            del os.environ[name]


def _open_closed_streams() -> None:
    """Occupy the descriptors of closed streams: otherwise a database could get descriptor 1.

    Reading the new standard input and writing to the new standard output fail, so that a command
    whose result is lost does not succeed. Errors go to /dev/null.
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


def flush_or_drop_output() -> bool:
    """Flush standard output; if that fails, drop what was printed and return True."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # so that Python's own flush does not fail
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        return True
    return False


def check_variables(settings: Iterable[str]) -> None:
    """Raise `ConfigError` for a `PWSERVER_...` variable that is neither of `settings` nor ours.

    A variable of Kubernetes that has the name of a setting is removed from the environment.
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
    """Return the end of a sentence on an unknown name: the known name that is most like it."""
    names = sorted(known)
    (near,) = difflib.get_close_matches(name, names, n=1, cutoff=0) or names[:1]
    return f"did you mean {near}?"

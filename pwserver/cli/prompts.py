"""What the commands ask: for a password, or for a confirmation.

A password is read from a hidden prompt, or from standard input. Questions are never printed on
standard output, so that they are not part of the result.
"""

import getpass
import sys

from pwserver.errors import ConfigError, Declined
from pwserver.wire.messages import PASSWORD_LENGTH_MAX

_INPUT_BYTES_MAX = 4 * PASSWORD_LENGTH_MAX + len("\r\n")


def password(*, twice: bool = False, what: str = "password") -> str:
    """Return a password typed at a terminal, or all of standard input if that is no terminal.

    Use `twice` for a password that is to be saved: it is typed unseen, so it is asked for again.
    """
    try:
        given = _typed(twice, what) if sys.stdin.isatty() else _standard_input()
    except UnicodeDecodeError:
        raise ConfigError(f"the {what} is not valid UTF-8.") from None
    if not given:
        raise ConfigError(f"no {what} was given.")
    return given


def confirm(question: str) -> None:
    """Return if a person says yes; raise `Declined` if not, `ConfigError` without a terminal."""
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to confirm this: add --yes.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:  # Ctrl-D leaves the cursor on the line
        print(file=sys.stderr)
    if answer.strip().lower() not in ("y", "yes"):
        raise Declined("nothing was done.")


def _typed(twice: bool, what: str) -> str:
    given = _line(f"{what.capitalize()}: ")
    if twice and given and _line("Once more: ") != given:
        raise ConfigError(f"these were two different {what}s; nothing was done. Try again.")
    return given


def _line(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError:  # Ctrl-D leaves the cursor on the line
        print(file=sys.stderr)
        return ""


def _standard_input() -> str:
    """Return all of it, without the newline at its end; a password may contain other newlines."""
    try:
        data = sys.stdin.buffer.read(_INPUT_BYTES_MAX + 1)
    except OSError as error:  # it is closed, or a folder
        raise ConfigError(f"standard input cannot be read: {error.strerror}.") from None
    if len(data) > _INPUT_BYTES_MAX:
        raise ConfigError(f"a password has {PASSWORD_LENGTH_MAX:,} characters at the most.")
    text = data.decode()
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")

"""What the commands ask: for a password, or whether something is really meant.

A password is read from a prompt that does not show it, or from standard input. The questions stand
on the terminal whatever standard output is, so that they are not part of what is printed.
"""

import getpass
import sys

from pwserver.errors import ConfigError
from pwserver.protocol import PASSWORD_LENGTH_MAX

_INPUT_BYTES_MAX = 4 * PASSWORD_LENGTH_MAX + len("\r\n")


def password() -> str:
    """Return a password that was typed, or all of standard input where nobody types there."""
    try:
        given = _typed() if sys.stdin.isatty() else _standard_input()
    except UnicodeDecodeError:
        raise ConfigError("the password is not valid UTF-8.") from None
    if not given:
        raise ConfigError("no password was given.")
    return given


def confirm(question: str) -> None:
    """Return where a person says yes; raise `ConfigError` where none does."""
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to confirm this: add --yes.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:  # Ctrl-D leaves the cursor in the line
        print(file=sys.stderr)
    if answer.strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was done.")


def _typed() -> str:
    try:
        return getpass.getpass("Password: ")
    except EOFError:  # Ctrl-D leaves the cursor in the line
        print(file=sys.stderr)
        return ""


def _standard_input() -> str:
    """Return all there is, without the newline at its end; a password may have others in it."""
    data = sys.stdin.buffer.read(_INPUT_BYTES_MAX + 1)
    if len(data) > _INPUT_BYTES_MAX:
        raise ConfigError(f"a password has {PASSWORD_LENGTH_MAX:,} characters at the most.")
    text = data.decode()
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")

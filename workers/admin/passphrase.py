"""Opens the key file, and finds the passphrase of one that is sealed.

The passphrase comes from where the setting `key_passphrase` says, from the systemd credential
`pwserver.passphrase`, or from whoever starts the command, who is asked on the terminal. It is asked
for once a process, although a command may read the key file more than once.
"""

import functools
import getpass
import os
import sys

from pwserver import trust
from pwserver.config import StoreSettings
from pwserver.errors import KeyRefused
from pwserver.secret import Secret
from workers.book.keyring import Keyring, read_keyring

_BYTES_MAX = 4096
_DESCRIPTOR = "fd:"


def open_keyring(settings: StoreSettings) -> Keyring:
    """Return the keys in the key file; raise a `KeyRefused` that says what to do."""
    return read_keyring(settings.key_path, functools.partial(passphrase_of, settings))


@functools.cache
def passphrase_of(settings: StoreSettings) -> Secret[str]:
    """Return the passphrase; raise `KeyRefused` if there is none to be had."""
    source = settings.passphrase_source
    if source.startswith(_DESCRIPTOR):
        given = _from_descriptor(int(source.removeprefix(_DESCRIPTOR)))
    elif source:
        what = "the passphrase file"
        given = trust.read(source, what, KeyRefused, bytes_max=_BYTES_MAX, private=True)
    else:
        given = _from_terminal(settings)
    try:
        passphrase = given.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise KeyRefused("the passphrase is not valid UTF-8.") from None
    if not passphrase:
        raise KeyRefused("the passphrase of the key file is empty.")
    return Secret(passphrase)


def given_passphrase(settings: StoreSettings) -> Secret[str] | None:
    """Return the passphrase that this process was given, if nobody could give it once more.

    It was typed, or came from an open file.
    """
    source = settings.passphrase_source
    if source and not source.startswith(_DESCRIPTOR):
        return None
    return passphrase_of(settings) if passphrase_of.cache_info().currsize else None


def _from_descriptor(descriptor: int) -> bytes:
    """Return all that can be read from a file that whoever starts this process has opened."""
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_BYTES_MAX)
    except OSError as error:
        raise KeyRefused(
            f"the passphrase cannot be read from file descriptor {descriptor}: {error.strerror}."
        ) from None


def _from_terminal(settings: StoreSettings) -> bytes:
    if not sys.stdin.isatty():
        raise KeyRefused(
            f"the key file {settings.key_path} is sealed with a passphrase, and nobody is there to "
            "type it. Set key_passphrase."
        )
    try:
        return getpass.getpass(f"Passphrase of {settings.key_path}: ").encode()
    except EOFError:  # Ctrl-D leaves the cursor in the line
        print(file=sys.stderr)
        return b""

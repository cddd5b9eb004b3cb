"""Copies of the key file for a safe place, sealed with a passphrase, and the way back.

A copy has the form that `key protect` gives the key file itself (`book.keyring`). A key that is in
the key file is never replaced by another: an import only adds what is missing.
"""

import dataclasses
import os
from pathlib import Path

from pwserver import trust
from pwserver.config import StoreSettings
from pwserver.errors import AdministrationRefused, ConfigError, KeyRefused
from pwserver.secret import Secret
from workers.admin.passphrase import open_keyring
from workers.admin.recording import Recording
from workers.book.keyring import (
    Keyring,
    Passphrase,
    Wrapping,
    changing_keyring,
    create_keyring,
    read_keyring,
    replace_keyring,
)


def export_keys(settings: StoreSettings, file: Path, passphrase: Secret[str]) -> Keyring:
    """Write the keys to a new file, sealed with a passphrase; return what can be read from it.

    Raises `KeyRefused`, or `ConfigError` if the file cannot be made.
    """
    keyring = dataclasses.replace(open_keyring(settings), wrapping=Wrapping.of(passphrase))
    if os.path.lexists(file):
        raise ConfigError(f"{file} is there already; choose another file.")
    _recorded(settings, keyring, "key export")
    try:
        create_keyring(file, keyring)
    except FileExistsError:
        raise ConfigError(f"{file} is there already; choose another file.") from None
    if read_keyring(file, lambda: passphrase) != keyring:
        raise KeyRefused(f"{file} does not hold the keys; its disk has failed. Export them again.")
    return keyring


def import_keys(settings: StoreSettings, file: Path, passphrase: Passphrase) -> list[int]:
    """Put the keys of a copy into the key file; return the numbers of those that it lacked.

    The key file is made if there is none. Raises `KeyRefused` if the copy cannot be opened, and
    `AdministrationRefused` if the key file holds other keys.
    """
    copied = dataclasses.replace(read_keyring(file, passphrase), wrapping=None)
    path = settings.key_path
    if not trust.is_there(path):
        _recorded(settings, copied, "key import")
        try:
            create_keyring(path, copied)
        except FileExistsError:
            raise KeyRefused(f"{path} has just been made. Nothing was done.") from None
        return sorted(copied.keys)
    with changing_keyring(path, open_keyring(settings)) as keyring:
        if not copied.may_follow(keyring):
            raise AdministrationRefused(
                f"{path} holds other keys than {file}. Nothing was done. If no book needs them, "
                "move that file away and import again."
            )
        lacking = copied.keys.keys() - keyring.keys.keys()
        if lacking:
            _recorded(settings, keyring, "key import")
            replace_keyring(path, dataclasses.replace(keyring, keys=copied.keys | keyring.keys))
    return sorted(lacking)


def _recorded(settings: StoreSettings, keyring: Keyring, command: str) -> None:
    """Write to the audit record who takes or brings keys, before it is done."""
    recording = Recording(settings, keyring)
    try:
        recording.record("key change", command)
    finally:
        recording.close()

"""Seeing to the service's files before anything uses them: made, checked, brought up to date."""

from pwserver.config import StoreSettings
from workers import database, keys, upgrade, validation


def prepare(settings: StoreSettings) -> tuple[keys.Keyring, list[str]]:
    """Make the key file and the database where there are none; check and upgrade them.

    Returns the keys and what was done, in sentences. Raises a `StoreError` with what to do.
    """
    validation.check_sqlite()
    made: list[str] = []
    if not settings.key_path.exists() and not database.holds_a_book(settings.path):
        keys.create_keyring(settings.key_path)
        made.append(
            f"Made the key file {settings.key_path}. Keep a copy of it in a safe place: "
            "without it no saved password can be read."
        )
    keyring = keys.read_keyring(settings.key_path)
    fresh = not database.holds_a_book(settings.path)
    upgraded = upgrade.bring_up_to_date(settings.path, keyring)
    database.check_database(settings.path, keyring)
    if upgraded:
        made.append(f"Brought {settings.path} up to date; an older pwserver cannot use it now.")
    if fresh:
        made.append(f"Made the database {settings.path}.")
    return keyring, made

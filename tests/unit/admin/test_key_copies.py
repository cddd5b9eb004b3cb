"""Copies of the key file: sealed with a passphrase, and brought back without losing a key."""

import stat
from pathlib import Path

import pytest

from pwserver.config import StoreSettings
from pwserver.errors import AdministrationRefused, ConfigError, KeyRefused
from pwserver.secret import Secret
from tests.support.books import contents
from workers.admin.key_copies import export_keys, import_keys
from workers.book.keyring import Wrapping, create_keyring, read_keyring, replace_keyring

PASSPHRASE = Secret("correct horse battery staple")


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys in no time; files say which cost they were made with."""

    class Cheap:
        @staticmethod
        def of(passphrase: Secret[str]) -> Wrapping:
            return Wrapping.of(passphrase, cost=4)

    monkeypatch.setattr("workers.admin.key_copies.Wrapping", Cheap)


@pytest.fixture
def settings(tmp_path: Path) -> StoreSettings:
    """Return the settings of a key file."""
    settings = StoreSettings(database=str(tmp_path / "user_data.db"))
    create_keyring(settings.key_path)
    return settings


@pytest.fixture
def copy(settings: StoreSettings, tmp_path: Path) -> Path:
    """Return a copy of it."""
    export_keys(settings, tmp_path / "copy", PASSPHRASE)
    return tmp_path / "copy"


def right() -> Secret[str]:
    """Return the passphrase of the copy."""
    return PASSPHRASE


def wrong() -> Secret[str]:
    """Return another."""
    return Secret("wrong")


def test_a_lost_key_file_comes_back(settings: StoreSettings, copy: Path) -> None:
    """As it was, and for its owner only; the copy holds no key in the clear."""
    before = settings.key_path.read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert copy.read_bytes().startswith(b"pwserver-wrapped-v1 ")
    settings.key_path.unlink()
    assert import_keys(settings, copy, right) == [1]
    assert settings.key_path.read_bytes() == before
    assert stat.S_IMODE(settings.key_path.stat().st_mode) == 0o600
    assert import_keys(settings, copy, right) == [], "there is nothing to add"


def test_a_wrong_passphrase_brings_nothing(settings: StoreSettings, copy: Path) -> None:
    """One sentence, and no file is made."""
    settings.key_path.unlink()
    with pytest.raises(KeyRefused, match="does not open: the passphrase is not the right one"):
        import_keys(settings, copy, wrong)
    assert not settings.key_path.exists()


def test_a_damaged_copy_brings_nothing(settings: StoreSettings, copy: Path) -> None:
    """Whether it was cut short, or is something else."""
    settings.key_path.unlink()
    copy.write_bytes(copy.read_bytes()[:-20])
    with pytest.raises(KeyRefused, match=r"copy (is not a key file|does not open)"):
        import_keys(settings, copy, right)
    copy.write_text("some text\n")
    with pytest.raises(KeyRefused, match="is not a key file of pwserver"):
        import_keys(settings, copy, right)
    assert not settings.key_path.exists()


def test_an_older_key_that_was_retired_comes_back(settings: StoreSettings, copy: Path) -> None:
    """So that an old backup can be restored; the newer key stays."""
    newer = read_keyring(settings.key_path).with_new_key()
    replace_keyring(settings.key_path, newer.without(1))
    assert import_keys(settings, copy, right) == [1]
    assert read_keyring(settings.key_path) == newer


def test_other_keys_are_never_replaced(settings: StoreSettings, copy: Path) -> None:
    """The key file of another book stays as it is; the sentence says what to do."""
    settings.key_path.unlink()
    create_keyring(settings.key_path)
    before = contents(copy.parent)
    with pytest.raises(AdministrationRefused, match=r"holds other keys than .+ Nothing was done"):
        import_keys(settings, copy, right)
    assert contents(copy.parent) == before


def test_an_export_replaces_no_file(settings: StoreSettings, copy: Path) -> None:
    """Neither an earlier copy nor any other."""
    before = copy.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        export_keys(settings, copy, PASSPHRASE)
    assert copy.read_bytes() == before


def test_a_copy_that_is_not_sealed_can_be_imported(settings: StoreSettings, copy: Path) -> None:
    """A plain copy of the key file; nobody is asked for a passphrase."""
    content = settings.key_path.read_bytes()
    copy.write_bytes(content)
    settings.key_path.unlink()
    assert import_keys(settings, copy, pytest.fail) == [1]
    assert settings.key_path.read_bytes() == content

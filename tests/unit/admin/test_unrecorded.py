"""Administration while the audit record cannot be written: giving waits, taking away does not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pwserver.config import StoreSettings
from pwserver.errors import AuditRefused
from workers.admin.administration import Administration, administration
from workers.admin.rotation import add_key, retire, rotate
from workers.admin.setup import prepare
from workers.audit.reading import Records

SENTENCE = (
    "WARNING: the audit record {} cannot be written, so nothing in it says that `{}` was done."
)


@pytest.fixture
def settings(tmp_path: Path) -> StoreSettings:
    """Return a new book with the application web."""
    settings = StoreSettings(database=str(tmp_path / "user_data.db"))
    prepare(settings)
    with administration(settings) as files:
        files.add("web", ["save", "get"], common=False)
    return settings


def lose_the_record(settings: StoreSettings) -> None:
    """Have something that is no file stand where the record is."""
    settings.audit_path.rename(settings.audit_path.with_suffix(".away"))
    settings.audit_path.mkdir()


def find_the_record(settings: StoreSettings) -> None:
    """Put the record back."""
    settings.audit_path.rmdir()
    settings.audit_path.with_suffix(".away").rename(settings.audit_path)


TAKING: dict[str, Callable[[Administration], object]] = {
    "app revoke": lambda files: files.revoke("web"),
    "app rotate": lambda files: files.rotate("web", 0.0),
    "app set": lambda files: files.set_columns("web", may="save"),
    "key add": add_key,
}


@pytest.mark.parametrize("command", TAKING)
def test_what_takes_away_is_done_and_said_loudly(settings: StoreSettings, command: str) -> None:
    """Tokens, rights and keys that may be stolen do not wait for a disk; the loss is counted."""
    lose_the_record(settings)
    with administration(settings) as files:
        before = files.applications(), files.settings.key_path.read_bytes()
        TAKING[command](files)
        assert (files.applications(), files.settings.key_path.read_bytes()) != before
        assert files.unrecorded == [SENTENCE.format(settings.audit_path, command)]
    find_the_record(settings)
    with administration(settings) as files:
        files.revoke("web")
        assert files.unrecorded == []
    found = [(each.outcome, each.more) for each in Records([settings.audit_path])]
    assert [outcome for outcome, _ in found] == ["ok", "1 record was lost", "ok"]
    assert found[1][1]["lost"] == 1


def test_a_stolen_key_can_be_retired_without_a_record(settings: StoreSettings) -> None:
    """All three steps are done, and each says that it is not recorded."""
    lose_the_record(settings)
    with administration(settings) as files:
        add_key(files)
        assert len(files.unrecorded) == 1
    with administration(settings) as files:
        assert rotate(files, lambda done, total: None, beside_service=False) == []
        retire(files, 1)
        assert len(files.unrecorded) == 2
    with administration(settings) as files:
        assert list(files.keyring.keys) == [2]


GIVING: dict[str, Callable[[Administration], object]] = {
    "app add": lambda files: files.add("shop", ["get"], common=False),
    "app set": lambda files: files.set_columns("web", may="save list"),
    "app remove": lambda files: files.mark_removed("web"),
}


@pytest.mark.parametrize("command", GIVING)
def test_what_gives_or_deletes_is_not_done(settings: StoreSettings, command: str) -> None:
    """New rights and the end of a book wait until they can be recorded."""
    lose_the_record(settings)
    with administration(settings) as files:
        before = files.applications()
        with pytest.raises(AuditRefused, match=r"cannot be written\. Nothing was done\."):
            GIVING[command](files)
        assert files.applications() == before
        assert files.unrecorded == []

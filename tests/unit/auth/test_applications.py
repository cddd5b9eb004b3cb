"""What a worker makes of the applications' rows: who is admitted, from where, and until when."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from pwserver.errors import Unavailable
from tests.support.books import KEYRING
from workers.auth.applications import (
    ANYBODY,
    EXPIRED,
    MISPLACED,
    REVOKED,
    Caller,
    Registry,
    is_genuine,
    sealed,
    token_hash,
)
from workers.auth.expiry import WARNED_MS, ExpiryWarnings
from workers.book.models import ApplicationRow
from workers.storage.answers import at_once
from workers.storage.sqlite.reading import BookReader

KEY = KEYRING.for_purpose("application")
TOKEN, OLD_TOKEN = "pwserver_" + "A" * 43, "pwserver_" + "B" * 43
CERTIFICATE, OLD_CERTIFICATE = b"c" * 32, b"o" * 32
NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
HERE = "192.0.2.7"


@dataclass
class Book:
    """A database that has applications and nothing else, and may be unreadable for a while."""

    rows: list[ApplicationRow] = field(default_factory=list)
    readable: bool = True

    def applications(self) -> list[ApplicationRow]:
        """Return the applications, or raise `Unavailable`."""
        if not self.readable:
            raise Unavailable("it cannot be read.")
        return list(self.rows)

    def registry(self, warnings: ExpiryWarnings | None = None) -> Registry:
        """Return a registry that has read them."""
        nowhere = Path("/nowhere/user_data.revisions")
        registry = Registry(cast(BookReader, self), KEYRING, nowhere, None, warnings)
        at_once(registry.refresh(NOW_MS))
        return registry


def application(**columns: Any) -> ApplicationRow:
    """Return the row of an application that may save and get, and has a token for ever."""
    row = ApplicationRow(7, "web", 7, "save get", NOW_MS, token_hash(TOKEN))
    return sealed(row._replace(**columns), KEY)


def admitted(caller: Caller | None) -> Caller:
    """Return a caller that must have its rights."""
    assert caller is not None
    assert caller.is_admitted
    assert caller.rights > {"save", "get"}
    return caller


def refused(caller: Caller | None, why_not: str) -> None:
    """Check that a caller was recognised and may do nothing, for a reason."""
    assert caller is not None
    assert not caller.is_admitted
    assert caller.application == "web"
    assert caller.rights == {ANYBODY}
    assert caller.denial("get") == why_not


def test_a_token_is_good_until_it_expires() -> None:
    """To the millisecond when it is shown, and on open connections at the next tick."""
    expires_ms = NOW_MS + DAY_MS
    registry = Book([application(expires_ms=expires_ms, lifetime_ms=DAY_MS)]).registry()
    caller = admitted(at_once(registry.by_token(TOKEN, HERE, expires_ms - 1)))
    assert caller.until_ms == expires_ms
    refused(at_once(registry.by_token(TOKEN, HERE, expires_ms)), EXPIRED)
    at_once(registry.refresh(expires_ms - 1))
    admitted(caller)
    at_once(registry.refresh(expires_ms))
    refused(caller, EXPIRED)


def test_a_token_expires_while_the_database_cannot_be_read() -> None:
    """The time goes on; who revoked the token cannot be learned, but when it expires is known."""
    book = Book([application(expires_ms=NOW_MS + 1000)])
    registry = book.registry()
    caller = admitted(at_once(registry.by_token(TOKEN, HERE, NOW_MS)))
    book.readable = False
    with pytest.raises(Unavailable):
        at_once(registry.refresh(NOW_MS + 1000))
    refused(caller, EXPIRED)


def test_a_certificate_expires_with_the_token() -> None:
    """What an application is admitted by has one end, whichever of the two it shows."""
    registry = Book([application(certificate=CERTIFICATE, expires_ms=NOW_MS + 5)]).registry()
    caller = admitted(at_once(registry.by_certificate(CERTIFICATE, HERE, NOW_MS)))
    at_once(registry.refresh(NOW_MS + 5))
    refused(caller, EXPIRED)
    refused(at_once(registry.by_certificate(CERTIFICATE, HERE, NOW_MS + 5)), EXPIRED)


def test_what_was_replaced_is_good_for_the_grace_period() -> None:
    """The old token and the old certificate, and the new ones go on after it."""
    row = application(
        previous_hash=token_hash(OLD_TOKEN),
        certificate=CERTIFICATE,
        previous_certificate=OLD_CERTIFICATE,
        previous_until_ms=NOW_MS + 5,
    )
    registry = Book([row]).registry()
    old = [
        admitted(at_once(registry.by_token(OLD_TOKEN, HERE, NOW_MS))),
        admitted(at_once(registry.by_certificate(OLD_CERTIFICATE, HERE, NOW_MS))),
    ]
    new = [
        admitted(at_once(registry.by_token(TOKEN, HERE, NOW_MS))),
        admitted(at_once(registry.by_certificate(CERTIFICATE, HERE, NOW_MS))),
    ]
    at_once(registry.refresh(NOW_MS + 5))
    for caller in old:
        refused(caller, REVOKED)
    for caller in new:
        admitted(caller)
    refused(at_once(registry.by_token(OLD_TOKEN, HERE, NOW_MS + 5)), REVOKED)


def test_the_same_certificate_again_has_no_end() -> None:
    """Whoever gives a new token and keeps the certificate does not lose it with the old token."""
    row = application(
        certificate=CERTIFICATE, previous_certificate=CERTIFICATE, previous_until_ms=NOW_MS + 5
    )
    registry = Book([row]).registry()
    admitted(at_once(registry.by_certificate(CERTIFICATE, HERE, NOW_MS + 5)))


def test_a_token_is_good_in_its_networks_alone() -> None:
    """Elsewhere it is recognised, for the record, and gives no rights."""
    registry = Book([application(networks="192.0.2.0/24 unix")]).registry()
    for origin in ("192.0.2.7", "::ffff:192.0.2.8", "unix"):
        admitted(at_once(registry.by_token(TOKEN, origin, NOW_MS)))
    for origin in ("198.51.100.1", "127.0.0.1", "::1", "gone"):
        refused(at_once(registry.by_token(TOKEN, origin, NOW_MS)), MISPLACED)


def test_open_connections_from_elsewhere_lose_their_rights() -> None:
    """If networks are set, those outside of them are refused at the next tick; others go on."""
    book = Book([application()])
    registry = book.registry()
    here = admitted(at_once(registry.by_token(TOKEN, HERE, NOW_MS)))
    there = admitted(at_once(registry.by_token(TOKEN, "198.51.100.1", NOW_MS)))
    assert at_once(registry.by_token(TOKEN, HERE, NOW_MS)) is here, "connections share it"
    book.rows = [application(networks="192.0.2.0/24")]
    at_once(registry.refresh(NOW_MS))
    admitted(here)
    refused(there, MISPLACED)


def test_nobody_shows_a_public_key_as_a_token() -> None:
    """Keys of certificates are public; what is known of a token is its hash alone."""
    key = "a public key"
    registry = Book([application(certificate=token_hash(key))]).registry()
    admitted(at_once(registry.by_certificate(token_hash(key), HERE, NOW_MS)))
    assert at_once(registry.by_token(key, HERE, NOW_MS)) is None
    assert at_once(registry.by_certificate(token_hash(TOKEN), HERE, NOW_MS)) is None
    assert at_once(registry.by_certificate(b"", HERE, NOW_MS)) is None


def test_revoking_counts_for_the_certificate() -> None:
    """A row without credentials admits nobody, and open connections lose their rights."""
    book = Book([application(certificate=CERTIFICATE)])
    registry = book.registry()
    callers = [
        admitted(at_once(registry.by_token(TOKEN, HERE, NOW_MS))),
        admitted(at_once(registry.by_certificate(CERTIFICATE, HERE, NOW_MS))),
    ]
    book.rows = [application(token_hash=None)]
    at_once(registry.refresh(NOW_MS))
    for caller in callers:
        refused(caller, REVOKED)
    assert at_once(registry.by_token(TOKEN, HERE, NOW_MS)) is None
    assert at_once(registry.by_certificate(CERTIFICATE, HERE, NOW_MS)) is None


@pytest.mark.parametrize("column", [name for name in ApplicationRow._fields if name != "seal"])
def test_the_seal_covers_every_column(column: str) -> None:
    """Who can write to the database, but has no key, changes nothing of an application."""
    row = application(certificate=CERTIFICATE, networks="unix")
    assert is_genuine(row, KEY)
    value = getattr(row, column)
    altered = {int: lambda: value + 1, str: lambda: value + "x"}.get(type(value), lambda: b"x")()
    assert not is_genuine(row._replace(**{column: altered}), KEY)


# --- Warnings. ---


def test_the_log_says_a_week_before_that_a_token_expires(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not earlier, then once a day, and once when it has expired; a new token ends it."""
    expires_ms = NOW_MS + WARNED_MS + DAY_MS
    other = application(id=8, name="other", token_hash=token_hash(OLD_TOKEN))
    book = Book([application(expires_ms=expires_ms), other])
    registry = book.registry(ExpiryWarnings())

    def said_at(now_ms: int) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            at_once(registry.refresh(now_ms))
            at_once(registry.refresh(now_ms))
        return caplog.messages

    assert said_at(NOW_MS + DAY_MS) == []
    (first,) = said_at(NOW_MS + DAY_MS + 1)
    assert first.startswith("the token of application 'web' expires at 2027-01-23T08:00:00Z; ")
    assert said_at(NOW_MS + 2 * DAY_MS) == []
    assert said_at(NOW_MS + 2 * DAY_MS + 1) == [first]
    assert said_at(expires_ms) == ["the token of application 'web' expired at 2027-01-23T08:00:00Z"]
    assert said_at(expires_ms + 2 * DAY_MS) == []
    book.rows = [application(expires_ms=expires_ms + 30 * DAY_MS)]
    assert said_at(expires_ms + 2 * DAY_MS) == []

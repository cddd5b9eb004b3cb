"""Sealing and opening passwords."""

import base64
import hashlib
import os
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from pwserver.errors import DatabaseRefused
from pwserver.secret import Secret
from pwserver.wire.messages import VERSION_MAX
from tests.support.books import BOTH_KEYS, KEY, KEYRING, NEXT_KEY, keyring_of
from workers.book.history import OlderVersion
from workers.book.keyring import Keyring, MasterKey
from workers.book.models import UserRow
from workers.book.vault import Vault, derive_key, newest_associated_data, older_associated_data

USER_IDS = st.integers(0, 2**63 - 1)
PLACE = b"some place"


def plain_place(user_id: int, key_id: int, book: int, saved_at_ms: int) -> bytes:
    """Return the place of a user's first password, saved without a name or labels."""
    return newest_associated_data(
        UserRow(user_id, 1, key_id, b"", saved_at_ms, book, None, None, None)
    )


REFUSED = "^it does not open: it was altered, or moved from elsewhere\\.$"

# --- The construction. ---


def xaes(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Seal with XAES-256-GCM as its specification puts it together."""
    return AESGCM(derive_key(Secret(key), nonce[:12])).encrypt(nonce[12:], plaintext, aad)


@pytest.mark.parametrize(
    ("key", "aad", "expected"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (
            b"\x03" * 32,
            b"c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ],
)
def test_keys_are_derived_as_the_specification_has_it(
    key: bytes, aad: bytes, expected: str
) -> None:
    """The published vectors of XAES-256-GCM come out (https://c2sp.org/XAES-256-GCM)."""
    sealed = xaes(key, b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM", aad)
    assert sealed.hex() == expected


def test_ten_thousand_random_vectors_come_out() -> None:
    """The published accumulated vector comes out: no rare key or nonce is handled differently."""
    rounds = 10_000
    stream = iter(hashlib.shake_128().digest(rounds * (32 + 24 + 1 + 255 + 1 + 255)))
    all_sealed = hashlib.shake_128()

    def take(count: int) -> bytes:
        return bytes(next(stream) for _ in range(count))

    for _ in range(rounds):
        key, nonce = take(32), take(24)
        plaintext = take(take(1)[0])
        aad = take(take(1)[0])
        all_sealed.update(xaes(key, nonce, plaintext, aad))
    assert all_sealed.hexdigest(32) == (
        "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"
    )


# --- Sealing and opening. ---


@settings(deadline=None)
@given(st.text(max_size=4096), st.binary(max_size=300))
def test_what_is_sealed_opens_again(password: str, place: bytes) -> None:
    """Any password comes back, from another vault of its key as well, and is not in the clear."""
    sealed = Vault(KEYRING).seal(password, place)
    text = password.encode()
    assert len(sealed) == 24 + len(text) + 16
    assert len(text) < 8 or text not in sealed
    assert Vault(KEYRING).open(sealed, KEY.id, place) == password


def test_what_is_sealed_is_as_it_is_described() -> None:
    """A stored password is nonce, ciphertext and tag of XAES-256-GCM, as those stored before."""
    nonce = bytes(range(100, 124))
    by_hand = nonce + xaes(KEY.secret.reveal(), nonce, "pässwörd".encode(), PLACE)
    assert Vault(KEYRING).open(by_hand, KEY.id, PLACE) == "pässwörd"
    sealed = Vault(KEYRING).seal("pässwörd", PLACE)
    assert sealed[24:] == xaes(KEY.secret.reveal(), sealed[:24], "pässwörd".encode(), PLACE)


def test_an_altered_password_does_not_open() -> None:
    """Whichever byte of a sealed password is changed, and wherever it is cut, it is refused."""
    vault = Vault(KEYRING)
    sealed = vault.seal("abc123", PLACE)
    for at in range(len(sealed)):
        for bit in (0x01, 0x80):
            altered = sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :]
            with pytest.raises(DatabaseRefused, match=REFUSED):
                vault.open(altered, KEY.id, PLACE)
        with pytest.raises(DatabaseRefused):
            vault.open(sealed[:at], KEY.id, PLACE)
    with pytest.raises(DatabaseRefused):
        vault.open(sealed + b"\0", KEY.id, PLACE)
    assert vault.open(sealed, KEY.id, PLACE) == "abc123"


def test_what_belongs_to_nobody_opens_at_any_time() -> None:
    """Where there is no user something can be opened all the same, any number of times."""
    vault = Vault(KEYRING)
    assert vault.open_decoy() == vault.open_decoy() == Vault(KEYRING).open_decoy()
    assert len(vault.open_decoy()) > 8


# --- Keys. ---


@pytest.mark.parametrize(
    "other",
    [
        MasterKey(1, Secret(bytes(32))),
        MasterKey(2, KEY.secret),
        MasterKey(2, Secret(b"\xff" * 32)),
    ],
)
def test_another_key_does_not_open_it(other: MasterKey) -> None:
    """A password sealed with one key is refused by another, and by another key's number."""
    sealed = Vault(KEYRING).seal("abc123", plain_place(7, KEY.id, 0, 1000))
    with pytest.raises(DatabaseRefused, match=REFUSED):
        Vault(keyring_of(other)).open(sealed, other.id, plain_place(7, other.id, 0, 1000))
    if other.id != KEY.id:
        with pytest.raises(DatabaseRefused, match=REFUSED):
            Vault(keyring_of(other)).open(sealed, KEY.id, plain_place(7, KEY.id, 0, 1000))


def test_a_vault_seals_with_one_key_and_opens_with_all() -> None:
    """The newest key seals unless another is asked for; what any of them sealed opens."""
    vaults = [Vault(BOTH_KEYS, KEY.id), Vault(BOTH_KEYS)]
    assert [vault.key_id for vault in vaults] == [KEY.id, NEXT_KEY.id]
    sealed = [vault.seal("abc123", PLACE) for vault in vaults]
    for vault in vaults:
        assert vault.keyring.keys.keys() == {KEY.id, NEXT_KEY.id}
        for key, text in zip((KEY, NEXT_KEY), sealed, strict=True):
            assert vault.open(text, key.id, PLACE) == "abc123"
    for key, text in zip((NEXT_KEY, KEY), sealed, strict=True):
        with pytest.raises(DatabaseRefused):
            vaults[0].open(text, key.id, PLACE)


def test_no_nonce_is_used_twice() -> None:
    """Within a vault every nonce differs, and no two vaults begin theirs the same way."""
    vaults = [Vault(KEYRING) for _ in range(50)]
    sealed = [vault.seal("the same", PLACE) for vault in vaults for _ in range(300)]
    assert len({value[:24] for value in sealed}) == len(sealed)
    assert len({value[:12] for value in sealed}) == len(vaults)
    assert len(set(sealed)) == len(sealed)


def test_a_fingerprint_survives_a_rotation() -> None:
    """It is the same whichever key seals, and another one for who has another integrity key."""
    known = Vault(KEYRING).fingerprint(b"a request")
    assert known == Vault(BOTH_KEYS).fingerprint(b"a request") < 2**63
    assert known != Vault(KEYRING).fingerprint(b"another request")
    other = Keyring(KEYRING.keys, Secret(b"x" * 32))
    assert known != Vault(other).fingerprint(b"a request")


def forms(secret: bytes) -> list[str]:
    """Return the texts that a key could be shown as."""
    listed = ", ".join(map(str, secret))
    return [secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1], listed]


def test_a_key_is_never_shown() -> None:
    """Neither a key nor a keyring nor a vault shows the secret when it is printed or logged."""
    key = MasterKey(3, Secret(os.urandom(32)))
    keyring = keyring_of(key)
    things = (key, keyring, Vault(keyring))
    for shown in (*map(repr, things), *map(str, things), f"{key}", f"{[keyring]}"):
        for secret in (key.secret, keyring.integrity):
            assert not [form for form in forms(secret.reveal()) if form in shown]
    assert repr(key) == "MasterKey(id=3, secret=Secret(...))"


# --- Places. ---

ALICE = UserRow(7, 2, 1, b"", 1000, 0, b"older", "alice", '["a"]')
OLDER = OlderVersion(1, 1, 500, b"")
ROWS = {
    "alice": ALICE,
    **{f"id {id}": ALICE._replace(id=id) for id in (0, 8, 2**63 - 1)},
    **{f"version {n}": ALICE._replace(version=n) for n in (1, 3, VERSION_MAX)},
    "key": ALICE._replace(key_id=2),
    "time": ALICE._replace(saved_at_ms=1001),
    **{f"book {book}": ALICE._replace(book=book) for book in (1, 2, 2**31)},
    "no older": ALICE._replace(older=None),
    "other older": ALICE._replace(older=b"oldeR"),
    "no name": ALICE._replace(username=None),
    "name of another case": ALICE._replace(username="Alice"),
    "no labels": ALICE._replace(labels=None),
    "empty labels": ALICE._replace(labels="[]"),
    "name grown into the labels": ALICE._replace(username='alice["', labels='a"]'),
    "labels grown into the older": ALICE._replace(labels='["a"]o', older=b"lder"),
    "labels in the name": ALICE._replace(username='alice["a"]', labels=None),
    "all in the older": ALICE._replace(username=None, labels=None, older=b'alice["a"]older'),
    "nothing": ALICE._replace(username=None, labels=None, older=None),
}
PLACES = {
    **{name: newest_associated_data(row) for name, row in ROWS.items()},
    "as older": older_associated_data(ALICE, OLDER),
    **{
        f"as older of {name}": older_associated_data(ROWS[name], OLDER)
        for name in ("id 8", "book 1", "book 2")
    },
    "as older with the newest's numbers": older_associated_data(
        ALICE, OlderVersion(2, 1, 1000, b"")
    ),
    "as older version 2": older_associated_data(ALICE, OLDER._replace(version=2)),
    "as older of another key": older_associated_data(ALICE, OLDER._replace(key_id=2)),
    "as older of another time": older_associated_data(ALICE, OLDER._replace(saved_at_ms=501)),
    "nobody's": b"",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_password_opens_in_its_own_place_only(place: str) -> None:
    """It is bound to user, key, book, version, time, name, labels and older versions, each."""
    sealed = Vault(KEYRING).seal("abc123", PLACES[place])
    vault = Vault(KEYRING)
    for name, other in PLACES.items():
        if name == place:
            assert vault.open(sealed, KEY.id, other) == "abc123"
        else:
            with pytest.raises(DatabaseRefused, match=REFUSED):
                vault.open(sealed, KEY.id, other)


def test_nothing_and_an_empty_text_are_two_places() -> None:
    """No name is another place than an empty one; likewise for labels and older versions."""
    user = UserRow(7, 1, 1, b"", 1000, 0, None, None, None)
    places = {
        newest_associated_data(each)
        for name in (None, "")
        for labels in (None, "")
        for older in (None, b"")
        for each in [user._replace(username=name, labels=labels, older=older)]
    }
    assert len(places) == 8


@settings(deadline=None)
@given(USER_IDS, USER_IDS)
def test_a_password_moved_to_another_user_does_not_open(user_id: int, other_id: int) -> None:
    """A sealed password is bound to its user: copied into another row it is refused."""
    vault = Vault(KEYRING)
    sealed = vault.seal("abc123", plain_place(user_id, 1, 0, 1000))
    if other_id != user_id:
        with pytest.raises(DatabaseRefused):
            vault.open(sealed, KEY.id, plain_place(other_id, 1, 0, 1000))


@settings(deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5),
    st.integers(0, 2**62),
    st.integers(0, 2**31),
    st.integers(0, 2**62),
)
def test_plain_saves_are_sealed_for_the_rows_that_they_become(
    passwords: list[str], first: int, book: int, saved_at_ms: int
) -> None:
    """Sealed together, each opens as the newest of its own row, and no nonce comes twice."""
    vault = Vault(KEYRING)
    user_ids = range(first, first + 3 * len(passwords), 3)
    rows = vault.seal_rows(passwords, user_ids, book, saved_at_ms)
    assert [row[0] for row in rows] == [*user_ids]
    for row, password in zip(rows, passwords, strict=True):
        user_id, row_book, key_id, sealed, row_saved_at_ms = row
        assert (row_book, key_id, row_saved_at_ms) == (book, KEY.id, saved_at_ms)
        place = plain_place(user_id, key_id, book, saved_at_ms)
        assert vault.open(sealed, key_id, place) == password
    later = [vault.seal("later", PLACE), vault.seal_rows(["later"], range(1), 0, 0)[0][3]]
    nonces = {sealed[:24] for sealed in [*later, *(row[3] for row in rows)]}
    assert len(nonces) == len(rows) + 2


def test_a_password_that_cannot_be_sealed_uses_up_the_nonces() -> None:
    """Where sealing fails in the middle, no nonce of those before is used again."""
    vault = Vault(KEYRING)
    with pytest.raises(UnicodeEncodeError):
        vault.seal_rows(["sealed", "\ud800"], range(2), 0, 0)
    assert int.from_bytes(vault.seal("later", PLACE)[12:24], "big") > 2


def test_places_are_as_those_stored_before() -> None:
    """What passwords are bound to never changes: or no book of today would open."""
    user = UserRow(2**62 + 5, 3, 9, b"sealed", 1234, 4, b"\x00\xff", "Zoë", '["a"]')
    head = struct.pack(">BQIIQQII", 14, 2**62 + 5, 9, 4, 3, 1234, 4, 5)
    assert newest_associated_data(user) == head + "Zoë".encode() + b'["a"]' + b"\x00\xff"
    assert newest_associated_data(
        user._replace(username=None, labels=None, older=None)
    ) == struct.pack(">BQIIQQII", 0, 2**62 + 5, 9, 4, 3, 1234, 0, 0)
    older = OlderVersion(2, 8, 1000, b"sealed")
    assert older_associated_data(user, older) == struct.pack(
        ">BQIIQQII", 1, 2**62 + 5, 8, 4, 2, 1000, 0, 0
    )

"""Sealing and opening passwords, and the file that keeps the key."""

import base64
import hashlib
import os
import stat
import struct
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from pwserver.errors import DatabaseRefused, KeyRefused
from pwserver.protocol import VERSION_MAX
from workers.models import COMMON_BOOK
from workers.vault import MasterKey, Vault, create_key_file, derive_key, read_key_file

KEY = MasterKey(1, bytes(range(32)))
USER_IDS = st.integers(0, 2**63 - 1)

# --- Sealing. ---


def xaes(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Seal with XAES-256-GCM as its specification puts it together."""
    return AESGCM(derive_key(key, nonce[:12])).encrypt(nonce[12:], plaintext, aad)


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


@settings(deadline=None)
@given(st.text(max_size=4096), USER_IDS)
def test_what_is_sealed_opens_again(password: str, user_id: int) -> None:
    """Any password comes back, from another vault of its key as well, and is not in the clear."""
    sealed = Vault(KEY).seal(password, user_id)
    text = password.encode()
    assert len(sealed) == 24 + len(text) + 16
    assert len(text) < 8 or text not in sealed
    assert Vault(KEY).open(sealed, user_id) == password


def test_an_altered_password_does_not_open() -> None:
    """Whichever byte of a sealed password is changed, and wherever it is cut, it is refused."""
    vault = Vault(KEY)
    sealed = vault.seal("abc123", 7)
    for at in range(len(sealed)):
        for bit in (0x01, 0x80):
            altered = sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :]
            with pytest.raises(DatabaseRefused, match="password of user 7 was altered"):
                vault.open(altered, 7)
        with pytest.raises(DatabaseRefused):
            vault.open(sealed[:at], 7)
    with pytest.raises(DatabaseRefused):
        vault.open(sealed + b"\0", 7)
    assert vault.open(sealed, 7) == "abc123"


@settings(deadline=None)
@given(USER_IDS, USER_IDS)
def test_a_password_moved_to_another_user_does_not_open(user_id: int, other_id: int) -> None:
    """A sealed password is bound to its user: copied into another row it is refused."""
    vault = Vault(KEY)
    sealed = vault.seal("abc123", user_id)
    if other_id != user_id:
        with pytest.raises(DatabaseRefused):
            vault.open(sealed, other_id)


PLACES = [
    {"user_id": user_id, "version": version, "book": book}
    for user_id in (7, 8)
    for version in (1, 2, 3, VERSION_MAX)
    for book in (0, 1, 2, 2**31)
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: "-".join(map(str, place.values())))
def test_a_password_opens_in_its_own_place_only(place: dict[str, int]) -> None:
    """A sealed password is bound to its user, its version and its book, each of them."""
    sealed = Vault(KEY).seal("abc123", **place)
    vault = Vault(KEY)
    for other in PLACES:
        if other == place:
            assert vault.open(sealed, **other) == "abc123"
        else:
            with pytest.raises(DatabaseRefused, match="altered, or moved from elsewhere"):
                vault.open(sealed, **other)


@pytest.mark.parametrize("damage", [{"user_id": -1}, {"version": -1}])
def test_a_place_that_cannot_be_is_refused(damage: dict[str, int]) -> None:
    """Numbers that only tampering puts into a row are refused like any other alteration."""
    place = {"user_id": 7, "version": 2, "book": 3}
    vault = Vault(KEY)
    sealed = vault.seal("abc123", **place)
    with pytest.raises(DatabaseRefused):
        vault.open(sealed, **{**place, **damage})


@pytest.mark.parametrize("key", [KEY, MasterKey(2**31 - 1, b"\xfe" * 32)])
def test_schema_version_1_is_sealed_the_same_way(key: MasterKey) -> None:
    """A first version in the common book is what the first release made, and opens there."""
    nonce = bytes(range(100, 124))
    owner = struct.pack(">QI", 2**62 + 5, key.id)
    by_hand = nonce + xaes(key.secret, nonce, "pässwörd".encode(), owner)
    assert Vault(key).open(by_hand, 2**62 + 5) == "pässwörd"
    assert Vault(key).open(by_hand, 2**62 + 5, 1, COMMON_BOOK) == "pässwörd"
    sealed = Vault(key).seal("pässwörd", 2**62 + 5)
    assert sealed[24:] == xaes(key.secret, sealed[:24], "pässwörd".encode(), owner)


def test_what_belongs_to_nobody_opens_at_any_time() -> None:
    """Where there is no user something can be opened all the same, any number of times."""
    vault = Vault(KEY)
    assert vault.open_decoy() == vault.open_decoy() == Vault(KEY).open_decoy()
    assert len(vault.open_decoy()) > 8


@pytest.mark.parametrize(
    "other", [replace(KEY, secret=bytes(32)), replace(KEY, id=2), MasterKey(2, b"\xff" * 32)]
)
def test_another_key_does_not_open_it(other: MasterKey) -> None:
    """A password sealed with one key is refused by another, and by another key's number."""
    with pytest.raises(DatabaseRefused):
        Vault(other).open(Vault(KEY).seal("abc123", 7), 7)


def test_no_nonce_is_used_twice() -> None:
    """Within a vault every nonce differs, and no two vaults begin theirs the same way."""
    vaults = [Vault(KEY) for _ in range(50)]
    sealed = [vault.seal("the same", 7) for vault in vaults for _ in range(300)]
    assert len({value[:24] for value in sealed}) == len(sealed)
    assert len({value[:12] for value in sealed}) == len(vaults)
    assert len(set(sealed)) == len(sealed)


def forms(secret: bytes) -> list[str]:
    """Return the texts that a key could be shown as."""
    listed = ", ".join(map(str, secret))
    return [secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1], listed]


def test_a_key_is_never_shown() -> None:
    """Neither a key nor a vault shows the secret when it is printed or logged."""
    key = MasterKey(3, os.urandom(32))
    for shown in (repr(key), str(key), f"{key}", f"{[key]}", repr(Vault(key))):
        assert not [form for form in forms(key.secret) if form in shown]
    assert repr(key) == "MasterKey(id=3)"


def test_a_check_value_tells_keys_apart() -> None:
    """The value kept in the database is made by one key only, the same each time, and is not it."""
    other = MasterKey(1, bytes(32))
    assert KEY.matches(MasterKey(1, bytes(range(32))).check_value)
    assert not KEY.matches(other.check_value)
    assert not KEY.matches(KEY.check_value[:-1])
    assert len(KEY.check_value) == 16
    assert KEY.check_value not in KEY.secret


# --- The key file. ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a key file is to be made."""
    return tmp_path / "user_data.key"


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set what is taken off the permissions of new files."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_key_file_is_for_its_owner_only(path: Path) -> None:
    """Whatever the umask, only the owner may read or write a new key file, and no other is left."""
    create_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_nlink == 1


def test_a_key_file_is_read_back(tmp_path: Path) -> None:
    """A new file holds a key of 32 bytes, which is the same each time and new in each file."""
    paths = [tmp_path / name for name in ("a.key", "b.key")]
    for path in paths:
        create_key_file(path)
    first, second = map(read_key_file, paths)
    assert first == read_key_file(paths[0])
    assert (first.id, len(first.secret)) == (1, 32)
    assert first.secret != second.secret


@pytest.mark.parametrize("content", [b"", b"a key that is worth a lot\n"])
def test_a_key_file_is_never_overwritten(path: Path, content: bytes) -> None:
    """Where there is a file already, it stays as it is and nothing is left beside it."""
    path.write_bytes(content)
    with pytest.raises(FileExistsError):
        create_key_file(path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_key_file_is_refused(path: Path) -> None:
    """The refusal says which file is missing and what to do."""
    with pytest.raises(KeyRefused, match=r"no key file .*user_data\.key.* backup, or .*--key-file"):
        read_key_file(path)


@pytest.mark.parametrize("special", ["directory", "device"])
def test_what_is_no_file_is_refused(path: Path, special: str) -> None:
    """A directory, or a device that would give no end of bytes, is no key file."""
    if special == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(KeyRefused, match=r"directory|regular"):
        read_key_file(path)


@pytest.mark.parametrize("mode", [0o601, 0o602, 0o604, 0o610, 0o620, 0o640, 0o644, 0o660, 0o777])
def test_a_key_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    """A file that its group or anybody else may use is refused, with the command to repair it."""
    create_key_file(path)
    path.chmod(mode)
    with pytest.raises(KeyRefused, match=rf"mode {mode:o}\)\. Run: chmod 600 .*user_data\.key"):
        read_key_file(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_that_only_its_owner_may_use_is_taken(path: Path, mode: int) -> None:
    """A file that its owner made read-only is as good as a new one."""
    create_key_file(path)
    path.chmod(mode)
    assert len(read_key_file(path).secret) == 32


ENCODED = base64.b64encode(KEY.secret)
DAMAGED = {
    "empty": b"",
    "blank": b" \n",
    "no tag": b"1 " + ENCODED,
    "another tag": b"pwserver-key-v2 1 " + ENCODED,
    "a longer tag": b"pwserver-key-v11 1 " + ENCODED,
    "no number": b"pwserver-key-v1 " + ENCODED,
    "no such number": b"pwserver-key-v1 one " + ENCODED,
    "number zero": b"pwserver-key-v1 0 " + ENCODED,
    "negative number": b"pwserver-key-v1 -1 " + ENCODED,
    "number too large": b"pwserver-key-v1 2147483648 " + ENCODED,
    "not base64": b"pwserver-key-v1 1 " + b"?" * 44,
    "base64 with rubbish": b"pwserver-key-v1 1 " + ENCODED[:20] + b"!" + ENCODED[20:],
    "too short": b"pwserver-key-v1 1 " + base64.b64encode(KEY.secret[:31]),
    "too long": b"pwserver-key-v1 1 " + base64.b64encode(KEY.secret + b"x"),
    "a word more": b"pwserver-key-v1 1 " + ENCODED + b" more",
    "two lines": b"pwserver-key-v1 1 %b\npwserver-key-v1 1 %b\n" % (ENCODED, ENCODED),
    "not ASCII": b"pwserver-key-v1 1 " + ENCODED + b"\xff",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_key_file_is_refused(path: Path, damage: str) -> None:
    """A file that is not exactly a key file is refused, and the refusal shows no part of a key."""
    path.write_bytes(DAMAGED[damage])
    path.chmod(0o600)
    with pytest.raises(KeyRefused, match="not a key file of pwserver, or it is damaged") as refusal:
        read_key_file(path)
    shown = "".join(traceback.format_exception(refusal.value))
    assert ENCODED.decode()[:8] not in shown


def test_a_key_file_cut_short_is_refused_wherever_it_is_cut(path: Path) -> None:
    """Only the newline at its end may be missing: half a key is never taken for a whole one."""
    create_key_file(path)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(KeyRefused) as refusal:
            read_key_file(path)
        assert whole.split()[2][:8].decode() not in str(refusal.value)
    path.write_bytes(whole[:-1])
    assert len(read_key_file(path).secret) == 32

"""Keys, and the file that they are kept in."""

import base64
import contextlib
import fcntl
import os
import stat
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pwserver.errors import KeyRefused
from pwserver.secret import Secret
from tests.support.books import BOTH_KEYS, KEY, KEYRING, NEXT_KEY, OTHER_KEY, keyring_of
from workers.book import keyring
from workers.book.keyring import (
    Keyring,
    MasterKey,
    Wrapping,
    changing_keyring,
    create_keyring,
    read_keyring,
    read_keyring_again,
    replace_keyring,
)

# --- Keys. ---


def derived_by_hand(secret: bytes, purpose: str, length: int = 32) -> bytes:
    """Return what HKDF-SHA-256 makes of a key for some purpose."""
    return HKDF(hashes.SHA256(), length, None, purpose.encode()).derive(secret)


def test_a_check_value_tells_keys_apart() -> None:
    """The value kept in the database is made by one key only, the same each time, and is not it."""
    assert KEY.matches(MasterKey(1, Secret(b"k" * 32)).check_value)
    assert not KEY.matches(OTHER_KEY.check_value)
    assert not KEY.matches(KEY.check_value[:-1])
    assert KEY.check_value == derived_by_hand(b"k" * 32, "pwserver key check v1", 16)
    assert KEY.check_value not in KEY.secret.reveal()


def test_each_purpose_has_a_key_that_no_rotation_changes() -> None:
    """What vouches for the record and the applications is theirs alone, and stays the same."""
    audit = KEYRING.for_purpose("audit")
    assert audit.reveal() == derived_by_hand(b"i" * 32, "pwserver audit v1")
    assert audit != KEYRING.for_purpose("application")
    rotated = KEYRING.with_new_key().with_new_key().without(1)
    assert rotated.for_purpose("audit") == audit
    assert Keyring(KEYRING.keys, Secret(b"x" * 32)).for_purpose("audit") != audit


def test_a_new_key_is_the_newest() -> None:
    """It has the next number and a secret of its own, and the keys before it stay as they are."""
    more = KEYRING.with_new_key()
    assert more.keys == {1: KEY, 2: more.newest}
    assert more.newest.id == 2
    assert len(more.newest.secret.reveal()) == 32
    assert more.newest.secret not in (KEY.secret, KEYRING.with_new_key().newest.secret)
    assert KEYRING.keys == {1: KEY}
    assert more.without(1).keys == {2: more.newest}
    assert more.without(1).with_new_key().newest.id == 3


# --- A new file. ---


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
    """Whatever the umask, only the owner may read or write it, new or changed; no other is left."""
    create_keyring(path)
    for _ in range(2):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]
        assert path.stat().st_nlink == 1
        replace_keyring(path, BOTH_KEYS)


def test_a_key_file_is_read_back(tmp_path: Path) -> None:
    """A new file holds a key and an integrity key, the same each time and new in each file."""
    paths = [tmp_path / name for name in ("a.key", "b.key")]
    for path in paths:
        create_keyring(path)
    first, second = map(read_keyring, paths)
    assert first == read_keyring(paths[0])
    assert list(first.keys) == [first.newest.id] == [1]
    secrets = [
        each.reveal() for ring in (first, second) for each in (ring.newest.secret, ring.integrity)
    ]
    assert [len(secret) for secret in secrets] == [32] * 4
    assert len(set(secrets)) == 4


@pytest.mark.parametrize("content", [b"", b"a key that is worth a lot\n"])
def test_a_key_file_is_never_overwritten(path: Path, content: bytes) -> None:
    """Where there is a file already, it stays as it is and nothing is left beside it."""
    path.write_bytes(content)
    with pytest.raises(FileExistsError):
        create_keyring(path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_key_file_that_cannot_be_made_is_refused(path: Path) -> None:
    """Where there is no folder for it, it is said in a sentence."""
    missing = path.parent / "missing" / path.name
    with pytest.raises(KeyRefused, match=r"key file .* cannot be made: No such file or directory"):
        create_keyring(missing)


# --- A file that is no good. ---


def test_a_missing_key_file_is_refused(path: Path) -> None:
    """The refusal says which file is missing and what to do."""
    with pytest.raises(KeyRefused, match=r"no key file .*user_data\.key.* backup, or .*--key-file"):
        read_keyring(path)


@pytest.mark.parametrize("special", ["directory", "device", "pipe"])
def test_what_is_no_file_is_refused(path: Path, special: str) -> None:
    """A directory, a device that gives bytes without end, or a pipe without any, is no key file."""
    if special == "directory":
        path.mkdir()
    elif special == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(KeyRefused, match=r"directory|regular"):
        read_keyring(path)


@pytest.mark.parametrize("mode", [0o601, 0o602, 0o604, 0o610, 0o620, 0o640, 0o644, 0o660, 0o777])
def test_a_key_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    """A file that its group or anybody else may use is refused, with the command to repair it."""
    create_keyring(path)
    path.chmod(mode)
    with pytest.raises(KeyRefused, match=rf"mode {mode:o}\)\. Run: chmod 600 .*user_data\.key"):
        read_keyring(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_that_only_its_owner_may_use_is_taken(path: Path, mode: int) -> None:
    """A file that its owner made read-only is as good as a new one."""
    create_keyring(path)
    path.chmod(mode)
    assert len(read_keyring(path).newest.secret.reveal()) == 32


@pytest.mark.parametrize("credentials", ["here", "elsewhere", "below", ""])
def test_a_credential_of_systemd_may_have_its_own_mode(
    path: Path, credentials: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directly in the folder of credentials, which systemd guards, and nowhere else."""
    folders = {"here": path.parent, "elsewhere": path.parent / "other", "below": path.parent.parent}
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folders.get(credentials, "")))
    create_keyring(path)
    path.chmod(0o440)
    if credentials == "here":
        assert read_keyring(path).newest.id == 1
    else:
        with pytest.raises(KeyRefused, match="chmod 600"):
            read_keyring(path)


ENCODED = base64.b64encode(KEY.secret.reveal())
FIRST = b"pwserver-key-v1 1 " + ENCODED
SECOND = b"pwserver-key-v1 2 " + base64.b64encode(NEXT_KEY.secret.reveal())
INTEGRITY = b"pwserver-integrity-v1 0 " + base64.b64encode(KEYRING.integrity.reveal())
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
    "too short": b"pwserver-key-v1 1 " + base64.b64encode(b"k" * 31),
    "too long": b"pwserver-key-v1 1 " + base64.b64encode(b"k" * 33),
    "a word more": FIRST + b" more",
    "two of a number": FIRST + b"\n" + FIRST + b"\n",
    "not ASCII": FIRST + b"\xff",
    "two keys and no integrity key": FIRST + b"\n" + SECOND + b"\n",
    "two integrity keys": INTEGRITY + b"\n" + INTEGRITY + b"\n" + FIRST + b"\n",
    "an integrity key alone": INTEGRITY + b"\n",
    "an integrity key too short": INTEGRITY[:-4] + b"\n" + FIRST + b"\n",
    "a blank line": INTEGRITY + b"\n\n" + FIRST + b"\n",
    "a good line and a bad one": INTEGRITY + b"\n" + FIRST + b"\n" + SECOND[:-1] + b"\n",
    "a good line and text": INTEGRITY + b"\n" + FIRST + b"\nthe key of our book\n",
}


def write(path: Path, content: bytes) -> None:
    """Write a key file as somebody does by hand."""
    path.write_bytes(content)
    path.chmod(0o600)


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_key_file_is_refused(path: Path, damage: str) -> None:
    """A file that is not exactly a key file is refused, and the refusal shows no part of a key."""
    write(path, DAMAGED[damage])
    with pytest.raises(KeyRefused, match="not a key file of pwserver, or it is damaged") as refusal:
        read_keyring(path)
    shown = "".join(traceback.format_exception(refusal.value))
    for line in (FIRST, SECOND, INTEGRITY):
        assert line.split()[2][:8].decode() not in shown


def test_a_key_file_cut_short_is_refused_wherever_it_is_cut(path: Path) -> None:
    """Only the newline at its end may be missing: half a file is never taken for a whole one."""
    create_keyring(path)
    whole, keyring = path.read_bytes(), read_keyring(path)
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(KeyRefused) as refusal:
            read_keyring(path)
        for line in whole.splitlines():
            assert line.split()[2][:8].decode() not in str(refusal.value)
    path.write_bytes(whole[:-1])
    assert read_keyring(path) == keyring


# --- A file that changes. ---


def test_a_file_of_several_keys_is_read_back(path: Path) -> None:
    """All keys come back with their numbers, whichever way their lines are ordered."""
    create_keyring(path)
    replace_keyring(path, BOTH_KEYS)
    assert read_keyring(path) == BOTH_KEYS
    assert path.read_bytes() == b"\n".join([INTEGRITY, FIRST, SECOND, b""])
    write(path, b"\n".join([SECOND, INTEGRITY, FIRST]))
    assert read_keyring(path) == BOTH_KEYS


def test_a_file_of_the_first_release_keeps_its_integrity_key(path: Path) -> None:
    """It is derived from the one key, and stays when one is added and that one is taken away."""
    write(path, FIRST + b"\n")
    old = read_keyring(path)
    assert old.keys == {1: KEY}
    assert old.integrity.reveal() == derived_by_hand(b"k" * 32, "pwserver integrity v1")
    replace_keyring(path, old.with_new_key())
    more = read_keyring(path)
    replace_keyring(path, more.without(1))
    last = read_keyring(path)
    assert [list(each.keys) for each in (more, last)] == [[1, 2], [2]]
    assert last.newest == more.newest
    assert old.integrity == more.integrity == last.integrity
    assert old.for_purpose("audit") == last.for_purpose("audit")


@pytest.mark.parametrize(
    "step",
    [
        "fsync",
        pytest.param("fchown", marks=pytest.mark.root("which leaves it its owner")),
        "rename",
    ],
)
def test_a_change_that_fails_leaves_the_file_as_it_was(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step fails, the old file is whole and alone, and it is said that nothing was."""
    create_keyring(path)
    before = path.read_bytes()

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(KeyRefused, match=r"cannot be changed: No space left.* Nothing was done\.$"):
        replace_keyring(path, BOTH_KEYS)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_change_is_on_the_disk_before_it_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power lost at any moment leaves the old file or the new one: synced, renamed, synced."""
    create_keyring(path)
    done: list[str] = []

    def follow(name: str) -> None:
        real = getattr(os, name)

        def noted(*arguments: Any) -> Any:
            what = name
            if name == "fsync":
                mode = os.fstat(arguments[0]).st_mode
                what = "fsync folder" if stat.S_ISDIR(mode) else "fsync file"
            done.append(what)
            return real(*arguments)

        monkeypatch.setattr(os, name, noted)

    follow("fsync")
    follow("rename")
    replace_keyring(path, BOTH_KEYS)
    assert done == ["fsync file", "rename", "fsync folder"]


def test_a_file_is_whole_for_whoever_reads_it_meanwhile(path: Path) -> None:
    """However often it is replaced, each reader gets one keyring or the other, and no half."""
    rings = [BOTH_KEYS, keyring_of(NEXT_KEY)]
    create_keyring(path)
    replace_keyring(path, rings[0])
    done = threading.Event()

    def replace_often() -> None:
        for number in range(100):
            replace_keyring(path, rings[number % 2])
        done.set()

    replacing = threading.Thread(target=replace_often)
    replacing.start()
    while not done.is_set():
        assert read_keyring(path) in rings
    replacing.join()


def test_two_who_change_a_file_do_not_undo_each_other(path: Path) -> None:
    """Each waits for the one before and adds to what that one wrote: all keys are there."""
    create_keyring(path)

    def add_keys() -> None:
        for _ in range(5):
            with changing_keyring(path) as keyring:
                replace_keyring(path, keyring.with_new_key())

    adding = [threading.Thread(target=add_keys) for _ in range(4)]
    for each in adding:
        each.start()
    for each in adding:
        each.join()
    assert list(read_keyring(path).keys) == list(range(1, 22))


def test_nobody_else_can_lock_the_keys(path: Path) -> None:
    """A lock on the folder or on the key file, which a reader may take, keeps nobody waiting."""
    create_keyring(path)
    with contextlib.ExitStack() as opened:
        for each in (path.parent, path):
            descriptor = os.open(each, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with changing_keyring(path):
            (lock,) = (each for each in path.parent.iterdir() if each != path)
            assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_lock_is_not_waited_for_without_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits is told in a sentence which file another command has locked."""
    monkeypatch.setattr(keyring, "LOCK_WAIT_S", 0.1)
    create_keyring(path)
    with (
        changing_keyring(path),
        pytest.raises(KeyRefused, match=r"user_data\.key-lock is locked: .* Nothing was done\.$"),
        changing_keyring(path),
    ):
        pytest.fail("two have it")


def test_what_cannot_be_read_cannot_be_changed(path: Path) -> None:
    """Who wants to change a file that is missing or damaged is told so before anything is done."""
    for reason in ("there is no key file", "is not a key file"):
        with pytest.raises(KeyRefused, match=reason), changing_keyring(path):
            pytest.fail("it was given to be changed")
        write(path, b"")
    missing = path.parent / "missing" / path.name
    with pytest.raises(KeyRefused, match="cannot be opened"), changing_keyring(missing):
        pytest.fail("it was given to be changed")


@pytest.mark.root("to give files away")
def test_an_administrators_change_leaves_the_owner(path: Path) -> None:
    """Where root adds a key, the user that the service runs as can still read the file."""
    create_keyring(path)
    os.chown(path, 4321, 1234)
    replace_keyring(path, BOTH_KEYS)
    assert (path.stat().st_uid, path.stat().st_gid) == (4321, 1234)


# --- Files that are sealed with a passphrase. ---


@pytest.fixture
def wrapped(path: Path) -> Keyring:
    """Return the keys in a file that is sealed with the passphrase "right", at little cost."""
    create_keyring(path)
    replace_keyring(path, replace(BOTH_KEYS, wrapping=Wrapping.of(Secret("right"), cost=4)))
    return BOTH_KEYS


def test_a_wrapped_file_shows_no_key(path: Path, wrapped: Keyring) -> None:
    """Neither as bytes nor in base64, and it is as private as any."""
    content = path.read_bytes()
    for secret in (KEY.secret, NEXT_KEY.secret, wrapped.integrity):
        assert secret.reveal() not in content
        assert b64encode(secret.reveal()) not in content
    assert content.startswith(b"pwserver-wrapped-v1 4 ")
    assert content.endswith(b"\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_wrapped_file_opens_with_its_passphrase_alone(path: Path, wrapped: Keyring) -> None:
    """Any other is refused, and a caller that has none is told what to do."""
    assert read_keyring(path, lambda: Secret("right")) == wrapped
    for wrong in ("wrong", "Right", "right ", ""):
        with pytest.raises(KeyRefused, match="the passphrase is not the right one"):
            read_keyring(path, partial(Secret, wrong))


def test_who_has_read_a_wrapped_file_needs_no_passphrase_again(
    path: Path, wrapped: Keyring
) -> None:
    """Also after a key was added; but after the passphrase was changed."""
    before = read_keyring(path, lambda: Secret("right"))
    with changing_keyring(path, before) as now:
        replace_keyring(path, now.with_new_key())
    again = read_keyring_again(path, before)
    assert set(again.keys) == {*wrapped.keys, 3}
    assert read_keyring(path, lambda: Secret("right")) == again
    replace_keyring(path, replace(again, wrapping=Wrapping.of(Secret("another"), cost=4)))
    with pytest.raises(KeyRefused, match="start the service again"):
        read_keyring_again(path, before)
    replace_keyring(path, replace(again, wrapping=None))
    assert read_keyring_again(path, before) == again


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9] + bytes([content[-9] ^ 3]) + content[-8:],
        lambda content: content[:60],
        lambda content: content.replace(b"-v1 4 ", b"-v1 21 "),  # a GiB and more of memory
        lambda content: content.replace(b"-v1 4 ", b"-v1 0 "),
        lambda content: content.replace(b"-v1 4 ", b"-v1 5 "),
        lambda content: content.replace(b"-v1 4 ", b"-v1 x "),
        lambda content: content + b"more",
    ],
)
@pytest.mark.usefixtures("wrapped")
def test_a_damaged_wrapped_file_is_refused(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """With a sentence, and without taking all memory."""
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(KeyRefused, match="damaged"):
        read_keyring(path, lambda: Secret("right"))

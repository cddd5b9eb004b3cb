"""The audit record while it is rotated, when it cannot be written, and tampered with."""

import errno
import itertools
import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pwserver.secret import Secret
from tests.unit.audit.audited import Audited, note, write
from workers.audit import files
from workers.audit.files import HeadFile
from workers.audit.record import CUT, HEAD_DAMAGED, HEAD_MISSING, AuditLog

NOBODY = 65534


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    """Return where a record is to be."""
    return Audited(tmp_path)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Have the kernel refuse to make any file longer, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# --- Rotation. ---


def test_a_file_that_is_moved_away_is_followed_by_a_new_one(audited: Audited) -> None:
    """After a move every process goes over to a new file, and the chain goes on in it."""
    logs = [audited.log(), audited.log()]
    moved = []
    names = (f"user-{number}" for number in itertools.count())
    for number in range(3):
        for log in logs * 3:
            assert write(log, next(names))
        moved.append(audited.path.with_name(f"moved-{number}"))
        audited.path.rename(moved[-1])
        while not audited.path.exists():  # some go to the old file yet
            assert write(logs[number % 2], next(names))
    for log in logs * 3:
        assert write(log, next(names))
    count = int(next(names).removeprefix("user-"))
    assert audited.users(*moved) == [f"user-{number}" for number in range(count)]
    assert audited.amiss(*moved) == []
    assert len(audited.lines()) >= 6


def test_who_looks_first_takes_the_others_along(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once one process has gone over to a new file nothing is written to the old one."""
    monkeypatch.setattr(files, "_LOOK_S", 3600)
    log = audited.log()
    write(log, "alice")
    moved = audited.path.with_suffix(".1")
    audited.path.rename(moved)
    write(log, "bob")
    write(audited.log(), "carol")
    write(log, "dave")
    assert audited.users() == ["carol", "dave"]
    assert audited.users(moved) == ["alice", "bob", "carol", "dave"]
    assert audited.amiss(moved) == []


def test_a_process_that_starts_finds_the_file_at_the_path(audited: Audited) -> None:
    """A file that logrotate has made again, empty and with other permissions, is gone on with."""
    write(audited.log(), "alice")
    moved = audited.path.with_suffix(".1")
    audited.path.rename(moved)
    audited.path.touch(0o640)
    write(audited.log(), "bob")
    assert audited.path.stat().st_mode & 0o777 == 0o640
    assert audited.users(moved) == ["alice", "bob"]
    assert audited.amiss(moved) == []


def test_a_file_that_is_copied_and_emptied_is_begun_anew(audited: Audited) -> None:
    """What logrotate calls copytruncate: the chain goes on from the copy, with no hole of zeros."""
    log = audited.log()
    write(log, "alice", "bob")
    copy = audited.path.with_suffix(".1")
    copy.write_bytes(audited.path.read_bytes())
    os.truncate(audited.path, 0)
    assert write(log, "carol")
    assert audited.users(copy) == ["alice", "bob", "carol"]
    assert audited.amiss(copy) == []


def test_a_file_that_was_restored_is_gone_on_with(audited: Audited) -> None:
    """The same content in another file, such as one from a copy of the folder, is the record."""
    log = audited.log()
    write(log, "alice", "bob")
    content = audited.path.read_bytes()
    audited.path.unlink()
    audited.path.write_bytes(content)
    assert write(audited.log(), "carol")
    assert audited.users() == ["alice", "bob", "carol"]
    assert audited.amiss() == []


# --- It cannot be written. ---


def test_a_full_disk_leaves_nothing_half_written(
    audited: Audited, caplog: pytest.LogCaptureFixture
) -> None:
    """However much of it has room, a write is there as a whole or not at all, and is counted."""
    caplog.set_level(logging.INFO)
    log = audited.log()
    write(log, "alice")
    before = audited.path.read_bytes()
    for room in range(0, 300, 7):
        with no_file_longer_than(len(before) + room):
            assert not write(log, "bob", "carol")
        assert audited.path.read_bytes() == before
    assert not log.pending
    assert write(log, "dave")
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert f"{audited.path}: File too large" in caplog.text
    assert audited.users() == ["alice", "86 records were lost", "dave"]
    assert audited.amiss() == []
    assert audited.verify().lost == 86


def test_no_room_for_the_head_leaves_nothing(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the head cannot be written, the records it would tell of are taken back."""

    def fail(self: HeadFile, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = audited.log()
    write(log, "alice")
    with monkeypatch.context() as patched:
        patched.setattr(HeadFile, "write", fail)
        assert not write(log, "bob")
        assert audited.users() == ["alice"]
    assert write(log, "carol")
    assert audited.users() == ["alice", "1 record was lost", "carol"]
    assert audited.amiss() == []


def test_what_was_lost_is_said_as_soon_as_it_can_be(audited: Audited) -> None:
    """With its number and the reason, by whoever can write first; until then by the head."""
    log = audited.log()
    write(log, "alice")
    with no_file_longer_than(audited.path.stat().st_size):
        assert not write(log, "bob", "carol")
        note(log, "dave", times=7)
        assert not log.write()
        log.tick()
    verdict = audited.verify()
    assert (verdict.is_genuine, verdict.lost) == (True, 9)
    after = "9 records were lost after this one, because they could not be written"
    assert [str(loss) for loss in verdict.losses] == [f"{audited.path}, line 1: {after}"]
    log.close()  # whoever counted them may be killed

    log.tick()
    assert audited.users() == ["alice", "9 records were lost"]
    more = audited.records()[-1].more
    assert more == {"lost": 9, "reason": "File too large"}
    log.tick()
    write(log, "eve")
    assert audited.users() == ["alice", "9 records were lost", "eve"]
    verdict = audited.verify()
    assert (verdict.findings, verdict.lost) == ([], 9)
    assert [loss.line for loss in verdict.losses] == [2]


def test_what_one_process_lost_another_one_says(audited: Audited) -> None:
    """The number is in the head, so that no process must live until there is room again."""
    log = audited.log()
    write(log, "alice")
    with no_file_longer_than(audited.path.stat().st_size):
        assert not write(log, "bob")
    log.close()
    write(audited.log(), "carol")
    assert audited.users() == ["alice", "1 record was lost", "carol"]
    assert audited.verify().lost == 1


def test_what_was_given_up_is_counted(audited: Audited) -> None:
    """Records that nobody tried to write, because those before them failed, are lost as well."""
    log = audited.log()
    write(log, "alice")
    note(log, "bob", times=3)
    log.give_up()
    assert not log.pending
    write(log, "carol")
    assert audited.users() == ["alice", "3 records were lost", "carol"]


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    target = path.with_name("target")
    target.touch()
    path.symlink_to(target)


@pytest.mark.parametrize("which", ["path", "head_path"])
@pytest.mark.parametrize("make", [make_folder, make_pipe, make_link])
def test_what_is_no_file_is_not_written_to(
    audited: Audited,
    which: str,
    make: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A folder, a pipe or a link in the place of a file is said, and not used or waited for."""
    path: Path = getattr(audited, which)
    make(path)
    log = audited.log()
    assert not write(log, "alice")
    assert not write(log, "bob")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert str(path) in caplog.text
    if make is make_link:
        assert path.with_name("target").read_bytes() == b""
        path.unlink()
        assert write(log, "carol")
        assert audited.users() == ["2 records were lost", "carol"]


@pytest.mark.parametrize("which", ["path", "head_path"])
def test_a_missing_folder_is_waited_for(audited: Audited, which: str) -> None:
    """Nothing is written until the folder is there, and then without being told."""
    folder = getattr(audited, which).parent
    folder.rmdir()
    log = audited.log()
    assert not write(log, "alice")
    folder.mkdir()
    assert write(log, "bob")
    assert audited.users() == ["1 record was lost", "bob"]
    assert audited.amiss() == []


def test_a_head_that_others_may_open_is_not_used(
    audited: Audited, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may read it could lock it for ever: nothing is written until its mode is right."""
    assert write(audited.log(), "alice")
    audited.head_path.chmod(0o644)
    assert not write(audited.log(), "bob")
    assert (
        f"{audited.head_path}: it may be used by others (mode 644). Run: chmod 600" in caplog.text
    )
    audited.head_path.chmod(0o600)
    assert write(audited.log(), "carol")
    assert audited.users() == ["alice", "carol"]


@pytest.mark.root("to give files away")
@pytest.mark.parametrize("which", ["path", "head_path"])
def test_a_file_of_another_user_is_not_written_to(audited: Audited, which: str) -> None:
    """Nothing is recorded where somebody else may change it, until that is put right."""
    assert write(audited.log(), "alice")
    os.chown(getattr(audited, which), NOBODY, NOBODY)
    assert not write(audited.log(), "bob")
    os.chown(getattr(audited, which), 0, 0)
    assert write(audited.log(), "carol")
    lost = ["1 record was lost"] if which == "path" else []  # the head keeps the number
    assert audited.users() == ["alice", *lost, "carol"]


# --- It was tampered with. ---


def test_a_file_that_was_cut_says_so(audited: Audited, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever the file was cut, the next record says so, and a verification names what is gone."""
    log = audited.log()
    for user in ("alice", "bob", "carol"):
        write(log, user)
    whole, head = audited.path.read_bytes(), audited.head_path.read_bytes()
    lengths = list(itertools.accumulate(map(len, audited.lines())))
    for size in range(1, len(whole) - 1, 5):
        caplog.clear()
        audited.path.write_bytes(whole[:size])
        audited.head_path.write_bytes(head)
        assert write(audited.log(), "dave")
        kept = sum(length - 1 <= size for length in lengths)
        assert audited.users() == [*["alice", "bob", "carol"][:kept], CUT, "dave"]
        assert f"{CUT}. Run: pwserver audit verify" in caplog.text
        *_, last = audited.amiss()
        if kept:
            missing = "record 3 is missing" if kept == 2 else "records 2 to 3 are missing"
            assert last[1] == missing
        else:
            assert last[1] == "a line that is no record"
        assert audited.records()[kept].n == 4


def test_a_line_that_was_edited_is_found_at_once_if_it_was_the_last(audited: Audited) -> None:
    """An editor that leaves another last record behind is noticed by the next write."""
    log = audited.log()
    write(log, "alice", "bob")
    edited = audited.path.read_bytes().replace(b'"bob"', b'"mallory"')
    audited.path.write_bytes(edited)
    write(log, "carol")
    assert audited.users() == ["alice", "mallory", CUT, "carol"]
    assert audited.amiss() == [(2, "record 2 was edited")]


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (None, HEAD_MISSING),
        (b"", HEAD_MISSING),
        (b"garbage", HEAD_DAMAGED),
        (bytes(64), HEAD_DAMAGED),
    ],
)
def test_a_lost_head_is_said(audited: Audited, content: bytes | None, finding: str) -> None:
    """Without a head the record goes on from its last line, and says that the head was lost."""
    log = audited.log()
    write(log, "alice", "bob")
    if content is None:
        audited.head_path.unlink()
    else:
        audited.head_path.write_bytes(content)
    assert write(audited.log(), "carol")
    assert write(log, "dave")
    assert audited.users() == ["alice", "bob", finding, "carol", "dave"]
    assert [record.n for record in audited.records()] == [1, 2, 3, 4, 5]
    assert audited.amiss() == []


def test_a_head_that_is_replaced_is_followed(audited: Audited) -> None:
    """Processes that have an older head file open go over to the new one, and to its lock."""
    logs = [audited.log(), audited.log()]
    for log in logs:
        write(log, "before")
    audited.head_path.unlink()
    for _ in range(3):
        for log in [audited.log(), *logs]:
            assert write(log, "after")
    assert audited.users() == ["before", "before", HEAD_MISSING, *["after"] * 9]
    assert audited.amiss() == []


def test_an_older_head_is_not_gone_back_to(audited: Audited) -> None:
    """Numbers are not given twice where the head comes from a backup."""
    log = audited.log()
    write(log, "alice")
    head = audited.head_path.read_bytes()
    for number in range(1000):
        write(log, f"user-{number}")
    audited.head_path.write_bytes(head)
    write(log, "bob")
    assert [record.n for record in audited.records()] == list(range(1, 1003))
    assert audited.amiss() == []


@pytest.mark.parametrize("size", [1, 100, 20_000, 1_000_000])
def test_garbage_at_the_end_is_left_where_it_is(audited: Audited, size: int) -> None:
    """What others append stays as evidence, on a line of its own, and the chain goes on."""
    log = audited.log()
    write(log, "alice", "bob")
    with audited.path.open("ab") as file:
        file.write(b"x" * size)
    write(log, "carol")
    assert audited.users() == ["alice", "bob", *([CUT] if size == 1_000_000 else []), "carol"]
    assert audited.amiss() == [(3, "a line that is no record")]


def test_a_file_of_another_key_is_not_gone_on_with(audited: Audited) -> None:
    """A record that another key wrote counts as none, and the numbers begin again."""
    write(
        AuditLog(audited.path, audited.head_path, Secret(b"another key of 32 bytes, for sure")),
        "eve",
    )
    write(audited.log(), "alice")
    assert audited.users() == ["eve", HEAD_DAMAGED, "alice"]
    assert audited.amiss()[0] == (1, "record 1 was edited")

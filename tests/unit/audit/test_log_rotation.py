"""The record that the service rotates by itself: a chain through all files, and none too many."""

import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from tests.unit.audit.audited import Audited, write
from workers.audit.log_rotation import Rotation
from workers.audit.reading import record_files
from workers.audit.record import AuditLog

CONTEXT = multiprocessing.get_context("forkserver")
BYTES_MAX = 2000  # about eight records


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    """Return where a record is to be."""
    return Audited(tmp_path)


def older(audited: Audited) -> list[Path]:
    """Return the older files of a record, the oldest first."""
    return [path for path in record_files(audited.path).paths if path != audited.path]


def write_one_by_one(log: AuditLog, first: int, number: int) -> None:
    """Write so many records."""
    for n in range(first, first + number):
        assert write(log, f"user-{n}")


def write_in_a_process(audited: Audited, name: str) -> None:
    """Write records as another process."""
    log = audited.log(Rotation(BYTES_MAX))
    for number in range(100):
        while not write(log, f"{name}-{number}"):
            os.sched_yield()


def test_a_long_file_is_followed_by_a_new_one(audited: Audited) -> None:
    """Each has the number of its last record in its name; together they are the whole record."""
    write_one_by_one(audited.log(Rotation(BYTES_MAX)), 1, 50)
    files = older(audited)
    assert len(files) > 3
    for path in files:
        assert BYTES_MAX <= path.stat().st_size < BYTES_MAX + 400
        assert path.stat().st_mode & 0o777 == 0o600
        last = list(audited.records(path))[-2]
        assert last.n <= 50
    assert files[0].name.startswith("user_data.audit-0000000000")
    assert audited.users(*files) == [f"user-{n}" for n in range(1, 51)]
    assert audited.verify_all() == (50, 1, 50, [], [], 0, [])


def test_processes_rotate_one_record(audited: Audited) -> None:
    """Whichever rotates, the others go over to the new file, and nothing is lost or doubled."""
    children = [
        CONTEXT.Process(target=write_in_a_process, args=(audited, name), daemon=True)
        for name in ("a", "b", "c")
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(older(audited)) > 5
    verdict = audited.verify_all()
    assert (verdict.records, verdict.findings) == (300, [])
    assert len(set(audited.users(*older(audited)))) == 300


def test_old_files_are_deleted_and_the_head_knows(audited: Audited) -> None:
    """As many as are wanted stay, the verification asks for no more, and for no less."""
    write_one_by_one(audited.log(Rotation(BYTES_MAX, files_kept=2)), 1, 100)
    files = older(audited)
    assert len(files) == 2
    verdict = audited.verify_all()
    assert (verdict.findings, verdict.limits) == ([], [])
    assert verdict.first is not None
    assert verdict.first > 1
    files[0].unlink()
    (finding,) = audited.verify_all().findings
    assert "missing, which should be in an older file" in finding.text


def test_a_rotation_does_not_forget_what_somebody_took_away(
    audited: Audited, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a file is missing or altered nothing is deleted any more, so that it stays noticed."""
    log = audited.log(Rotation(BYTES_MAX, files_kept=2))
    write_one_by_one(log, 1, 40)
    older(audited)[0].unlink()
    assert not audited.verify_all().is_genuine
    write_one_by_one(log, 41, 100)
    assert len(older(audited)) > 3
    assert not audited.verify_all().is_genuine
    assert "old files of the audit record are not deleted" in caplog.text


def test_a_file_that_was_to_be_deleted_is_deleted_later(audited: Audited) -> None:
    """Who is killed after the head was written leaves an old file, which the next rotation ends."""
    log = audited.log(Rotation(BYTES_MAX, files_kept=1))
    write_one_by_one(log, 1, 15)
    (file,) = older(audited)
    content = file.read_bytes()
    write_one_by_one(log, 16, 15)
    assert not file.exists()
    file.write_bytes(content)
    assert audited.verify_all().is_genuine
    write_one_by_one(log, 31, 15)
    assert not file.exists()
    assert audited.verify_all().findings == []


def test_commands_leave_rotation_to_the_service(audited: Audited) -> None:
    """They write to a file of any length, and remember what must be there."""
    write_one_by_one(audited.log(Rotation(BYTES_MAX)), 1, 9)
    write_one_by_one(audited.log(), 10, 20)
    assert len(older(audited)) <= 1
    assert audited.verify_all() == (29, 1, 29, [], [], 0, [])


def test_logrotate_may_come_first(audited: Audited) -> None:
    """Files of both are read in the order of their records, whatever their names."""
    log = audited.log(Rotation(0))
    write_one_by_one(log, 1, 9)
    audited.path.rename(f"{audited.path}.1")
    log = audited.log(Rotation(BYTES_MAX))
    write_one_by_one(log, 10, 20)
    audited.path.rename(f"{audited.path}-20261122")
    write_one_by_one(audited.log(Rotation(0)), 30, 2)
    assert audited.users(*older(audited)) == [f"user-{n}" for n in range(1, 32)]
    assert audited.verify_all().findings == []


def test_a_file_that_cannot_be_moved_is_gone_on_with(
    audited: Audited, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is said, once for each further length, and no record is lost."""

    def fail(old: str, new: str) -> None:
        raise PermissionError(13, "Permission denied")

    caplog.set_level(logging.WARNING)
    log = audited.log(Rotation(BYTES_MAX))
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fail)
        write_one_by_one(log, 1, 28)
    assert older(audited) == []
    assert [each.getMessage() for each in caplog.records] == [
        f"{audited.path} cannot be rotated: Permission denied"
    ] * 2
    write_one_by_one(log, 29, 20)
    assert len(older(audited)) >= 1
    assert audited.verify_all() == (48, 1, 48, [], [], 0, [])

"""Reading the audit record: what was tampered with is found, what was not is genuine."""

import multiprocessing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pwserver.secret import Secret
from tests.unit.audit.audited import KEY, TIME_MS, Audited, write, write_from
from workers.audit.actions import Action
from workers.audit.log_rotation import Rotation
from workers.audit.reading import Records, record_files
from workers.audit.verification import FINDINGS_MAX, verify

CONTEXT = multiprocessing.get_context("forkserver")
NameQueues = list[bytes]


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    """Return a record of eight, of user-1 to user-8."""
    record = Audited(tmp_path)
    write(record.log(), *(f"user-{number}" for number in range(1, 9)))
    return record


def rotate(audited: Audited, *names: str) -> list[Path]:
    """Move the file away and write three more, for each name."""
    moved = []
    for name in names:
        moved.append(audited.path.with_name(name))
        audited.path.rename(moved[-1])
        write(audited.log(), "more", "and-more", "and-more")
    return moved


# --- Genuine. ---


def test_what_was_not_touched_is_genuine(audited: Audited) -> None:
    """A whole record has nothing amiss, in one file or in several; how far it goes is said."""
    assert audited.verify() == (8, 1, 8, [], [], 0, [])
    moved = rotate(audited, "a", "b")
    assert audited.verify(*moved) == (14, 1, 14, [], [], 0, [])
    assert audited.verify(moved[1]).findings == []


def test_what_cannot_be_known_is_said(audited: Audited) -> None:
    """Older files, the end or the head that are not there are named, and nothing is made up."""
    moved = rotate(audited, "a")
    verdict = audited.verify()
    assert (verdict.first, verdict.last, verdict.is_genuine) == (9, 11, True)
    assert verdict.limits == ["It begins at record 9: older files were not given."]
    assert verify(moved, None, KEY).limits == ["Whether the end was cut was not checked."]
    audited.head_path.unlink()
    verdict = audited.verify(*moved)
    assert verdict.is_genuine
    assert verdict.limits == [
        f"Whether the end was cut cannot be checked: there is no {audited.head_path}."
    ]


def test_a_record_that_is_being_written_is_genuine(audited: Audited) -> None:
    """However often it is read while processes write to it, nothing is found amiss."""
    children = [
        CONTEXT.Process(target=write_from, args=(audited, name, 1500), daemon=True) for name in "ab"
    ]
    for child in children:
        child.start()
    seen = set()
    while any(child.is_alive() for child in children):
        verdict = audited.verify()
        assert verdict.findings == []
        seen.add(verdict.records)
    for child in children:
        child.join()
    assert len(seen) > 1
    verdict = audited.verify()  # who waits too long for the lock writes again, and that it did
    assert verdict.records == 8 + 2 * 1500 * 2 + len(verdict.losses)


def test_a_missing_old_file_is_found(audited: Audited) -> None:
    """The head remembers the oldest record that must be there. A named file stands alone."""
    first, second = rotate(audited, "user_data.audit.2", "user_data.audit.1")
    assert audited.verify_all() == (14, 1, 14, [], [], 0, [])
    content = first.read_bytes()
    first.unlink()
    (finding,) = audited.verify_all().findings
    missing = "records 1 to 8 are missing, which should be in an older file"
    assert str(finding) == f"{second}, line 1: {missing}"
    assert audited.verify(second).is_genuine
    write(audited.log(Rotation(65536)), "more")
    assert len(audited.verify_all().findings) == 1
    first.write_bytes(content)
    assert audited.verify_all().findings == []


def test_what_others_rotate_may_be_deleted_by_them(audited: Audited) -> None:
    """Of a record that logrotate rotates nobody knows what must be there, and that is said."""
    (old,) = rotate(audited, "user_data.audit.1")
    write(audited.log(Rotation(0)), "more")
    old.unlink()
    verdict = audited.verify_all()
    assert verdict.findings == []
    assert verdict.limits == ["It begins at record 9: older files were not given."]


# --- Tampered with. ---


def test_every_byte_counts(audited: Audited) -> None:
    """Whichever byte of the record or of its head is changed, that is found, and where it is."""
    content = audited.path.read_bytes()
    for at in range(len(content)):
        audited.path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        line = content.count(b"\n", 0, at) + 1
        found = audited.amiss()
        assert found, at
        assert abs(found[0][0] - line) <= 1, (at, found)
    audited.path.write_bytes(content)
    head = audited.head_path.read_bytes()
    for at in range(len(head)):
        audited.head_path.write_bytes(head[:at] + bytes([head[at] ^ 1]) + head[at + 1 :])
        assert not audited.verify().is_genuine


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 7), max_size=12) | st.permutations(range(8)))
def test_any_other_choice_or_order_of_lines_is_found(audited: Audited, order: list[int]) -> None:
    """Lines may be left out, doubled and moved: only all of them in their order are genuine."""
    content = audited.path.read_bytes()
    lines = audited.lines()
    try:
        audited.path.write_bytes(b"".join(lines[number] for number in order))
        assert audited.verify().is_genuine == (order == list(range(8)))
    finally:
        audited.path.write_bytes(content)


def edit(lines: NameQueues) -> NameQueues:
    return [line.replace(b"user-4", b"user-5") for line in lines]


def edit_with_mac(lines: NameQueues) -> NameQueues:
    return [*lines[:3], lines[3][:-35] + b"0" * 32 + lines[3][-3:], *lines[4:]]


def capitals(lines: NameQueues) -> NameQueues:
    return [*lines[:3], lines[3][:-35] + lines[3][-35:].upper(), *lines[4:]]


BEHIND = "out of order, or a copy: it stands behind"
ALONE = "cannot be checked without"
TAMPERED: list[tuple[Callable[[NameQueues], NameQueues], list[tuple[int, str]]]] = [
    (edit, [(4, "record 4 was edited")]),
    (
        edit_with_mac,
        [(4, "record 4 was edited"), (5, "record 5 was edited, or the one before it")],
    ),
    (
        capitals,
        [(4, "a line that is no record"), (5, f"record 4 is missing, and record 5 {ALONE}")],
    ),
    (lambda lines: [*lines[:3], *lines[4:]], [(4, f"record 4 is missing, and record 5 {ALONE}")]),
    (
        lambda lines: [*lines[:2], *lines[5:]],
        [(3, f"records 3 to 5 are missing, and record 6 {ALONE}")],
    ),
    (
        lambda lines: lines[1:],
        [(1, "record 2 was not the first of its file: the beginning is cut")],
    ),
    (lambda lines: lines[:6], [(6, "the end was cut: the last record should be number 8")]),
    (lambda lines: [], [(1, "the end was cut: the last record should be number 8")]),
    (lambda lines: [*lines, lines[2]], [(9, f"record 3 is {BEHIND} record 8")]),
    (lambda lines: [*lines[:5], lines[0], *lines[5:]], [(6, f"record 1 is {BEHIND} record 5")]),
    (lambda lines: [*lines[:6], *lines[2:]], [(7, f"record 3 is {BEHIND} record 6")]),
    (
        lambda lines: [*lines[:6], *lines[2:5], *lines[6:]],
        [(7, f"record 3 is {BEHIND} record 6")],
    ),
    (
        lambda lines: [*lines[:3], lines[3][:50] + b"\n", lines[3][:60] + b"\n", *lines[3:]],
        [(5, "a line that is no record"), (4, "a line that is no record")],
    ),
    (
        lambda lines: [*lines[:3], lines[3][:50] + b"\n", *lines[4:]],
        [
            (4, "a line that is no record"),
            (5, f"record 4 is missing, and record 5 {ALONE}"),
        ],
    ),
    (
        lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
        [
            (4, f"record 4 is missing, and record 5 {ALONE}"),
            (5, f"record 4 is {BEHIND} record 5"),
        ],
    ),
    (
        lambda lines: [*lines[:3], b"# a remark\n", *lines[3:]],
        [(4, "a line that is no record")],
    ),
    (
        lambda lines: [*lines[:3], b"x" * 1_000_000 + b"\n", *lines[3:]],
        [(4, "a line that is no record")],
    ),
    (
        lambda lines: [*lines[:3], *edit(lines[3:4]), *lines[3:]],
        [(4, "record 4 was edited"), (5, f"record 4 is {BEHIND} record 4")],
    ),
    (
        lambda lines: [*lines[:-1], lines[-1][:-10]],
        [(7, "the end was cut: the last record should be number 8")],
    ),
]


@pytest.mark.parametrize(("tamper", "findings"), TAMPERED)
def test_what_is_amiss_is_found_where_it_is(
    audited: Audited, tamper: Callable[[NameQueues], NameQueues], findings: list[tuple[int, str]]
) -> None:
    """One thing amiss is said in a sentence, with its line, and not again for all that follows."""
    audited.path.write_bytes(b"".join(tamper(audited.lines())))
    assert audited.amiss() == findings


def test_what_is_amiss_is_found_in_its_file(audited: Audited) -> None:
    """Of several files the one that was changed is named, and one that is missing is missed."""
    first, second = rotate(audited, "a", "b")
    second.write_bytes(second.read_bytes().replace(b'"more"', b'"less"'))
    (finding,) = audited.verify(first, second).findings
    assert str(finding) == f"{second}, line 1: record 9 was edited"
    (finding,) = audited.verify(first).findings
    assert str(finding) == f"{audited.path}, line 1: records 9 to 11 are missing"
    (finding, *_) = audited.verify(second, first).findings
    assert finding.path in (first, second)


def test_an_end_that_was_written_over_is_found(audited: Audited) -> None:
    """The last record must be the one that was written last, not another genuine one."""
    content, head = audited.path.read_bytes(), audited.head_path.read_bytes()
    write(audited.log(), "alice")
    with_alice = audited.path.read_bytes()
    audited.path.write_bytes(content)
    audited.head_path.write_bytes(head)
    write(audited.log(), "bob")
    assert audited.amiss() == []
    audited.path.write_bytes(with_alice)
    assert audited.amiss() == [(9, "record 9 is not the one that was written last")]


def test_another_key_is_told_apart_and_does_not_go_on_for_ever(audited: Audited) -> None:
    """With the wrong key nothing is genuine, and after some findings no more are looked for."""
    write(audited.log(), *["many"] * 1000)
    verdict = verify([audited.path], audited.head_path, Secret(bytes(32)))
    assert len(verdict.findings) == FINDINGS_MAX
    assert verdict.limits == ["What comes behind the last finding was not checked."]
    assert verdict.records < 100


# --- Reading. ---


def test_records_are_chosen(audited: Audited) -> None:
    """Whose, by which application, which action and since when: each alone, and together."""
    log = audited.log()
    did: list[tuple[str | None, Action]] = [
        ("web", "verify"),
        ("shop", "get"),
        ("shop", "verify"),
        (None, "key change"),
    ]
    for minute, (application, action) in enumerate(did):
        log.note(
            time_ms=TIME_MS + 60_000 * minute,
            application=application,
            address="unix:root",
            action=action,
            user="zoe" if application else None,
            outcome="ok",
            minute=minute,
        )
    log.write()

    def chosen(**wanted: object) -> list[int]:
        return [record.n for record in Records([audited.path], **wanted)]  # type: ignore[arg-type]

    start = datetime.fromtimestamp(TIME_MS / 1000, UTC)
    assert chosen() == list(range(1, 13))
    assert chosen(user="zoe") == [9, 10, 11]
    assert chosen(application="shop") == [10, 11]
    assert chosen(action="verify") == [9, 11]
    assert chosen(user="zoe", application="shop", action="verify") == [11]
    assert chosen(since=start + timedelta(seconds=1)) == [10, 11, 12]
    assert chosen(since=start.astimezone(timezone(timedelta(hours=5)))) == list(range(1, 13))
    assert chosen(since=start + timedelta(minutes=3)) == [12]
    last = list(Records([audited.path]))[-1]
    assert (last.more, last.user, last.times) == ({"minute": 3}, None, 1)
    assert last.time == "2026-11-22T20:37:17.123Z"


def test_what_is_no_record_is_counted(audited: Audited) -> None:
    """Lines that are no records are passed over, and it is known how many they were."""
    with audited.path.open("ab") as file:
        file.write(b'{"n": 9}\n\xff\xfe\n[]\n' + b"x" * 100_000 + b"\nunfinished")
    records = Records([audited.path])
    for _ in range(2):
        assert len(list(records)) == 8
        assert records.skipped == 5


def test_rotated_files_are_found_in_their_order(tmp_path: Path) -> None:
    """Numbered and dated files come oldest first, compressed ones apart, and others not at all."""
    path = tmp_path / "user_data.audit"
    assert record_files(path) == ([], [])
    older = ["-20261120", "-20261121", "-20261121-1795379657", ".10", ".2", ".1"]
    compressed = ["-20261119.gz", ".11.xz"]
    others = ["-head", ".bak", ".1.tmp~", "2"]
    for end in ["", *older, *compressed, *others]:
        path.with_name(path.name + end).touch()
    files = record_files(path)
    numbered, dated = older[3:], older[:3]
    assert [file.name for file in files.paths] == [
        path.name + end for end in [*numbered, *dated, ""]
    ]
    assert {file.name for file in files.compressed} == {path.name + end for end in compressed}

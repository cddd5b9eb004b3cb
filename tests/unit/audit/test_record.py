"""Writing the audit record: what is in it, and how several processes write it."""

import json
import multiprocessing
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import launched
from tests.unit.audit.audited import KEY, TIME_MS, Audited, note, write, write_from
from workers.audit.record import PATIENCE_S

CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    """Return where a record is to be."""
    return Audited(tmp_path)


# --- A record. ---


def test_a_record_says_who_did_what_and_when(audited: Audited) -> None:
    """A line has all that is promised, in a fixed order, and nothing that nobody asked for."""
    log = audited.log()
    assert not log.pending
    assert log.write()
    assert not audited.path.exists()
    write(log, "alice")
    note(log, "bob", times=3)
    log.note(
        time_ms=TIME_MS + 60_000,
        application=None,
        address="unix:alice",
        action="key change",
        user=None,
        outcome="added",
        key=2,
    )
    assert log.pending
    assert log.write()
    assert not log.pending
    first, second, third = (list(json.loads(line).items()) for line in audited.lines())
    assert first[:-2] == [
        ("n", 1),
        ("time", "2026-11-22T20:34:17.123Z"),
        ("application", "web"),
        ("address", "127.0.0.1:51234"),
        ("action", "get"),
        ("user", "alice"),
        ("outcome", "ok"),
    ]
    assert first[-2] == ("previous", "0" * 32)
    assert [name for name, _ in second] == [*(name for name, _ in first[:-2]), "times", "mac"]
    assert second[-2] == ("times", 3)
    assert third[:3] == [("n", 3), ("time", "2026-11-22T20:35:17.123Z"), ("application", None)]
    assert third[-2] == ("key", 2)
    assert audited.verify().is_genuine


def test_nobody_else_may_read_it(audited: Audited) -> None:
    """The record and its head are made for their owner alone."""
    write(audited.log(), "alice")
    for path in (audited.path, audited.head_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_key_is_shown(audited: Audited) -> None:
    """The key is in neither file, and not in what a debugger prints of the object."""
    log = audited.log()
    write(log, "alice")
    written = audited.path.read_bytes() + audited.head_path.read_bytes()
    shown = repr(vars(log)).encode() + written
    assert KEY.reveal() not in shown
    assert KEY.reveal().hex().encode() not in shown
    assert repr(KEY.reveal()).encode() not in shown


@pytest.mark.parametrize("text", ["\n\r\0\x1b[31m", "\udcff\ud800", "ü€😀\u2028", "x" * 100_000])
def test_any_text_is_one_line(audited: Audited, text: str) -> None:
    """Whatever is in a name, a record is one line of bounded length, and a genuine one."""
    log = audited.log()
    assert write(log, "alice", text, "bob")
    log.note(
        time_ms=0, application=text, address=text, action="get", user=text, outcome=text, more=text
    )
    assert log.write()
    assert len(audited.lines()) == 4
    assert max(map(len, audited.lines())) < 6000
    assert audited.verify().records == 4
    assert audited.verify().is_genuine


# --- Several processes. ---


def test_processes_write_one_chain(audited: Audited) -> None:
    """Records of processes that write at once are whole, all there, and in each one's order."""
    names = ["one", "two", "three", "four"]
    children = [
        CONTEXT.Process(target=write_from, args=(audited, name, 500), daemon=True) for name in names
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    verdict = audited.verify()
    assert verdict.is_genuine
    assert verdict.records == 4 * 500 * 2
    written = audited.users()
    for name in names:
        expected = [f"{name}-{n}{too}" for n in range(500) for too in ("", "-too")]
        assert [user for user in written if user.split("-")[0] == name] == expected


def test_a_killed_process_breaks_nothing(audited: Audited) -> None:
    """Wherever a process is killed, the others go on, and the record stays genuine."""
    chance = random.Random(4)
    for life in range(12):
        children = [
            CONTEXT.Process(target=write_from, args=(audited, f"{life}-{n}", 10**9), daemon=True)
            for n in range(2)
        ]
        for child in children:
            child.start()
        try:
            before = audited.path.stat().st_size if audited.path.exists() else 0
            while not audited.path.exists() or audited.path.stat().st_size == before:
                assert all(child.is_alive() for child in children)
            time.sleep(chance.random() / 50)  # a moment of its own for each
        finally:
            for child in children:
                child.kill()
                child.join()
    assert write(audited.log(), "last")
    assert audited.amiss() == []
    assert audited.users()[-1] == "last"


def test_who_was_killed_before_the_head_is_counted(audited: Audited) -> None:
    """Records that are in the file though the head does not know them are part of the chain."""
    log = audited.log()
    write(log, "alice")
    head = audited.head_path.read_bytes()
    write(log, "bob", "carol")
    audited.head_path.write_bytes(head)
    assert write(log, "dave")
    assert write(audited.log(), "eve")
    assert audited.users() == ["alice", "bob", "carol", "dave", "eve"]
    assert audited.amiss() == []


def test_a_line_cut_short_stays_alone(audited: Audited) -> None:
    """Where a process was killed within a write, that is said of its line, and no other is lost."""
    log = audited.log()
    write(log, "alice")
    head = audited.head_path.read_bytes()
    write(log, "bob", "carol")
    whole = audited.path.read_bytes()
    for length in range(1, len(audited.lines()[-1])):
        audited.path.write_bytes(whole[:-length])
        audited.head_path.write_bytes(head)
        assert write(audited.log(), "dave")
        if length == 1:  # the newline alone was missing
            assert audited.users() == ["alice", "bob", "carol", "dave"]
            assert audited.amiss() == []
        else:
            assert audited.users() == ["alice", "bob", "dave"]
            verdict = audited.verify()
            assert verdict.findings == []
            assert verdict.limits == [
                f"{audited.path}, line 3 is unfinished: who wrote it was killed."
            ]


HOLD_THE_LOCK = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_stopped_process_stops_nobody(audited: Audited, caplog: pytest.LogCaptureFixture) -> None:
    """Who holds the lock and does not go on is not waited for, and what failed is said once."""
    log = audited.log()
    write(log, "alice")
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(audited.head_path)]
    with launched(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGSTOP)
        times = []
        for _ in range(10):
            began = time.monotonic()
            assert not write(log, "bob")
            times.append(time.monotonic() - began)
        holder.kill()
    assert min(times[1:]) < PATIENCE_S <= times[0] < 30
    assert audited.users() == ["alice"]
    assert write(log, "carol")
    assert audited.users() == ["alice", "10 records were lost", "carol"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "another process holds its lock" in caplog.text
    assert audited.amiss() == []

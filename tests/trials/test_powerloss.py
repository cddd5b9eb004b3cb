"""The trial of power losses: it reads strace, allows what a disk may do, and finds what is lost."""

import itertools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import pytest

from tests.support.book_model import User
from tests.trials.powerloss import __main__ as powerloss
from tests.trials.powerloss.calls import Unreadable, parsed
from tests.trials.powerloss.disk import Disk, Names
from tests.trials.powerloss.events import (
    Arrival,
    Event,
    Link,
    Rename,
    Reply,
    Sync,
    SyncFolder,
    Unlink,
    Write,
)
from tests.trials.powerloss.images import all_arrived, choose, fates, none_arrived
from tests.trials.powerloss.ledger import Keys, Ledger
from tests.trials.powerloss.opening import Audit, Found
from tests.trials.powerloss.promises import Kind, Promises
from tests.trials.powerloss.record import Reader, Record
from tests.trials.powerloss.trial import Tally
from tests.trials.report import TrialFailed

IMAGES = 300
"""Of each small case: so many that chance leaves out none of what there can be."""

OLD, NEW, NEWER = b"o", b"n", b"x"
SECTOR = 512


def hexed(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def line(text: str) -> str:
    """Return a line of strace's: what stands in braces in hexadecimal."""
    while "{" in text:
        before, _, rest = text.partition("{")
        inside, _, after = rest.partition("}")
        text = before + hexed(inside) + after
    return f"{text}\n"


def events_of(*lines: str, names: Iterable[str] = ()) -> list[Event]:
    """Return what a reader makes of some lines, about the files `book*` in /b."""
    reader = Reader(Path("/b"), "book", dict.fromkeys(names, b""))
    return [event for call in parsed(map(line, lines)) for event in reader.events(call)]


# --- strace's lines. ---


def test_a_call_that_was_interrupted_in_the_record_is_one_call() -> None:
    """It begins at its first line and ends at its second, and has the arguments of both."""
    lines = (
        '7 pwrite64(8<{/b/book-wal}>, "{data}", 4, 32 <unfinished ...>',
        '8 openat(AT_FDCWD</b>, "{book.key}", O_RDONLY) = -1 ENOENT (No such file or directory)',
        "7 <... pwrite64 resumed>)              = 4",
    )
    opened, written = parsed(map(line, lines))
    assert (opened.name, opened.begin, opened.end, opened.result) == ("openat", 1, 1, -1)
    assert (written.name, written.begin, written.end, written.result) == ("pwrite64", 0, 2, 4)
    assert (written.path, written.texts(), written.number(-1)) == ("/b/book-wal", [b"data"], 32)


def test_a_call_that_a_process_was_killed_in_has_no_end() -> None:
    """It may have been done or not; what it was about to do otherwise was not."""
    lines = ("7 fsync(3<{/b/book}> <unfinished ...>", "8 ???( <unfinished ...>", "7 +++ killed +++")
    (call,) = parsed(map(line, lines))
    assert (call.name, call.result, call.end) == ("fsync", None, float("inf"))


@pytest.mark.parametrize("text", ["no line", "7 <... write resumed>) = 1", "7 write(1 = 2"])
def test_what_is_not_straces_is_refused(text: str) -> None:
    """A record that cannot be read proves nothing, so it is never taken for a shorter one."""
    with pytest.raises(Unreadable):
        list(parsed([text]))


def test_data_that_was_printed_in_part_is_refused() -> None:
    """An image without it would be one of another run."""
    with pytest.raises(Unreadable, match="in part"):
        events_of('7 write(8<{/b/book}>, "{da}"..., 9) = 9', names=["book"])


# --- What happened. ---


def test_calls_become_events_of_the_files_whose_names_they_use() -> None:
    """A file is followed through its names; what is written without a place goes to its end."""
    assert events_of(
        '7 openat(AT_FDCWD<{/b}>, "{/b/book.tmp}", O_RDWR|O_CREAT|O_EXCL, 0600) = 5<{/b/book.tmp}>',
        '7 write(5<{/b/book.tmp}>, "{one}", 3) = 3',
        '7 write(5<{/b/book.tmp}>, "{two}", 3) = 2',
        "7 fsync(5<{/b/book.tmp}>) = 0",
        '7 rename("{/b/book.tmp}", "{/b/book.key}") = 0',
        "7 fsync(6<{/b}>) = 0",
        '7 openat(AT_FDCWD<{/b}>, "{/elsewhere}", O_RDWR|O_CREAT, 0600) = 5<{/elsewhere}>',
        '7 openat(AT_FDCWD<{/b}>, "{/b/book-shm}", O_RDWR|O_CREAT, 0600) = 5<{/b/book-shm}>',
        '8 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:4711]>, "{reply}", 5, 0, NULL, 0) = 5',
        '8 recvfrom(9<TCP:[127.0.0.1:1->127.0.0.1:4711]>, "{more}", 65536, 0, NULL, NULL) = 4',
        '7 unlink("{book.key}") = 0',
    ) == [
        Link(0, 0, "book.tmp", 0),
        Write(1, 1, 0, 0, b"one"),
        Write(2, 2, 0, 3, b"tw"),
        Sync(3, 3, 0),
        Rename(4, 4, "book.tmp", "book.key", 0),
        SyncFolder(5, 5),
        Reply(8, 8, 4711, b"reply"),
        Arrival(9, 9, 4711, b"more"),
        Unlink(10, 10, "book.key"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "7 fallocate(5<{/b/book}>, 0, 0, 4096) = 0",
        '7 write(5<{/b/book}>(deleted), "{data}", 4) = 4',
    ],
)
def test_a_change_that_is_not_understood_is_refused(text: str) -> None:
    """Nothing that happens to a file of the book is passed over."""
    with pytest.raises(Unreadable):
        events_of(text, names=["book"])


def test_a_record_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    """With everything kept, the files are those that are there: else something was overlooked."""
    (tmp_path / "book").write_bytes(b"old")
    record = Record.begin(tmp_path, "book")
    record.check()
    (tmp_path / "book").write_bytes(b"new")
    with pytest.raises(Unreadable, match="book now"):
        record.check()
    record.events.append(Write(0, 0, 0, 0, b"new"))
    record.check()


# --- What a disk may have. ---


def images(
    *events: Event, initial: dict[str, bytes] | None = None, rule: Names = Names.POSIX
) -> set[tuple[tuple[str, bytes], ...]]:
    """Return what is found after some events, as chance has it: names and contents."""
    random = Random(1)
    disk = Disk(initial or {}, rule)
    for event in events:
        disk.take(event)
    found = set()
    for fate in itertools.islice(fates(random), IMAGES):
        contents = choose(disk, fate, random).contents
        found.add(tuple(sorted((name, each.whole()) for name, (_, each) in contents.items())))
    return found


def contents(*events: Event, initial: bytes) -> set[bytes]:
    """Return what is found in a file that was there."""
    return {content for ((_, content),) in images(*events, initial={"book": initial})}


def test_what_is_not_synced_is_there_by_sectors_or_not() -> None:
    """Each sector is as it was or as it was written, in every combination, and none is half so."""
    before = OLD * SECTOR * 3
    found = contents(Write(0, 0, 0, 0, NEW * SECTOR * 3), initial=before)
    sectors = [OLD * SECTOR, NEW * SECTOR]
    assert found == {b"".join(three) for three in itertools.product(sectors, repeat=3)}


def test_what_is_synced_is_there() -> None:
    """A sync holds what was written before it began, and nothing that was written later."""
    first, second = Write(0, 0, 0, 0, NEW * SECTOR), Write(3, 3, 0, SECTOR, NEW * SECTOR)
    found = contents(first, Sync(1, 2, 0), second, initial=OLD * SECTOR * 2)
    assert found == {NEW * SECTOR + OLD * SECTOR, NEW * SECTOR * 2}


def test_a_sync_does_not_hold_what_was_written_while_it_went_on() -> None:
    """Whether the kernel had taken it by then, nobody knows."""
    found = contents(Write(1, 2, 0, 0, NEW * SECTOR), Sync(0, 3, 0), initial=OLD * SECTOR)
    assert found == {OLD * SECTOR, NEW * SECTOR}


def test_a_sector_is_what_it_was_at_some_moment() -> None:
    """It never has a later write without an earlier one: the kernel writes out what it holds."""
    writes = Write(0, 0, 0, 0, NEW * 10), Write(1, 1, 0, 10, NEWER * 10)
    old = OLD * SECTOR
    one, both = NEW * 10 + old[10:], NEW * 10 + NEWER * 10 + old[20:]
    assert contents(*writes, initial=old) == {old, one, both}


def test_a_file_may_have_grown_without_what_was_written() -> None:
    """There are zeros or rubbish then; or it has not grown, whatever was written."""
    found = contents(Write(0, 0, 0, 0, NEW * SECTOR), initial=b"")
    assert {b"", NEW * SECTOR, bytes(SECTOR)} < found
    assert all(len(content) in (0, SECTOR) for content in found)


def test_a_new_name_is_certain_once_the_folder_is_synced() -> None:
    """Before that the file may be missing, though all that is in it was synced."""
    made = Link(0, 0, "book", 0), Write(1, 1, 0, 0, NEW), Sync(2, 2, 0)
    there = (("book", NEW),)
    assert images(*made) == {(), there}
    assert images(*made, SyncFolder(3, 3)) == {there}
    assert images(*made, rule=Names.JOURNALLED) == {there}


def test_names_change_in_any_order_but_on_a_disk_with_a_journal() -> None:
    """Of two names that were made, the second may be there without the first."""
    made = Link(0, 0, "book-1", 0), Link(1, 1, "book-2", 1)
    first, second = ("book-1", b""), ("book-2", b"")
    assert images(*made) == {(), (first,), (second,), (first, second)}
    assert images(*made, rule=Names.JOURNALLED) == {(), (first,), (first, second)}


def test_a_rename_is_done_or_not() -> None:
    """There is never a moment at which neither file has the name."""
    initial = {"book.key": OLD, "book.tmp": NEW}
    found = images(Rename(0, 0, "book.tmp", "book.key", 1), initial=initial)
    assert found == {(("book.key", OLD), ("book.tmp", NEW)), (("book.key", NEW),)}


def test_all_and_nothing_are_all_and_nothing() -> None:
    """What has arrived by the time of every sync, and what has not."""
    disk = Disk({"book": OLD})
    disk.take(Write(0, 0, 0, 0, NEW))
    disk.take(Link(1, 1, "book-2", 1))
    kept, lost = (choose(disk, fate, Random(1)).contents for fate in (all_arrived, none_arrived))
    assert {name: content.whole() for name, (_, content) in kept.items()} == {
        "book": NEW,
        "book-2": b"",
    }
    assert {name: content.whole() for name, (_, content) in lost.items()} == {"book": OLD}


# --- Promises. ---


def found(
    *unnamed: str, named: dict[str, User] | None = None, wrong: Iterable[str] = (), key: int = 1
) -> Found:
    keys = Keys(frozenset({0, key}), frozenset({0, key}), key, frozenset())
    return Found(list(unnamed), named or {}, keys, [], list(wrong), Audit.GENUINE)


def exchange(*texts: str) -> list[Event]:
    """Return requests on connection 1 and their replies, in turn."""
    pairs = [
        (
            Arrival(2 * at, 2 * at, 1, b'{"message": "a request"}\n'),
            Reply(2 * at + 1, 2 * at + 1, 1, b'{"message": "%b"}\n' % text.encode()),
        )
        for at, text in enumerate(texts)
    ]
    return [event for pair in pairs for event in pair]


def test_a_save_that_was_acknowledged_must_be_there_from_then_on() -> None:
    """Before the reply has left it may be there or not; after that there is no excuse."""
    ledger = Ledger()
    ledger.begin(1, is_authenticated=False)
    for length in (5, 6):
        ledger.note(1, ledger.save(length))
    promises = Promises(ledger, exchange("Password saved!", "Password saved!"))
    first, second = "1-xxx", "2-xxxx"
    assert promises.acknowledged == 2
    assert not list(promises.broken(found(), 1))
    assert not list(promises.broken(found(first), 1))
    assert not list(promises.broken(found(first), 2))
    assert [each.kind for each in promises.broken(found(second), 2)] == [Kind.LOST]
    assert [each.kind for each in promises.broken(found(), 4)] == [Kind.LOST, Kind.LOST]
    assert not list(promises.broken(found(first, second), 4))


@pytest.mark.parametrize(
    "there", [found("a stranger's"), found("1-xxx", "1-xxx"), found(wrong=["torn"])]
)
def test_nothing_is_there_that_nobody_saved(there: Found) -> None:
    """Neither another's password, nor one twice, nor a row that does not open."""
    ledger = Ledger()
    ledger.begin(1, is_authenticated=False)
    ledger.note(1, ledger.save(5))
    assert [each.kind for each in Promises(ledger, []).broken(there, 0)] == [Kind.WRONG]


def test_a_named_user_is_as_some_request_made_it_that_came_and_none_undone() -> None:
    """Its versions and labels belong together, and who was deleted does not come back."""
    ledger = Ledger()
    ledger.begin(1, is_authenticated=True)
    once, twice = ledger.save_named("ann", 5), ledger.save_named("ann", 5)
    for request in (once, twice, ledger.label("ann", "x"), ledger.delete("ann")):
        ledger.note(1, request)
    texts = ("Authenticated!", "Password saved!", "Password saved!", "User labelled!")
    promises = Promises(ledger, exchange(*texts, "User deleted!"))
    one, two = User({1: "1-xxx"}), User({1: "1-xxx", 2: "2-xxx"})
    labelled, mixed = two._replace(labels=("x",)), one._replace(labels=("x",))
    for events, state, kinds in (
        (2, None, []),
        (2, one, [Kind.WRONG]),  # nobody had asked for it
        (3, one, []),
        (4, None, [Kind.LOST]),
        (4, one, []),
        (5, two, []),
        (6, one, [Kind.LOST]),
        (7, mixed, [Kind.WRONG]),
        (8, labelled, []),
        (9, None, []),
        (10, labelled, [Kind.LOST]),
        (10, None, []),
    ):
        there = found(named={} if state is None else {"ann": state})
        assert [each.kind for each in promises.broken(there, events)] == kinds, (events, state)


def test_a_run_fails_for_a_broken_promise_and_for_a_loss_that_was_not_found() -> None:
    """A trial that can find nothing must not pass for one that found nothing."""
    lost, unopened = Tally(), Tally()
    lost.broken[Kind.LOST] += 1
    unopened.broken[Kind.UNOPENED] += 1
    powerloss.verdict(Tally(), must_lose=False)
    powerloss.verdict(lost, must_lose=True)
    for tally, must_lose in ((lost, False), (unopened, False), (Tally(), True), (unopened, True)):
        with pytest.raises(TrialFailed):
            powerloss.verdict(tally, must_lose=must_lose)


# --- The real thing. ---

Play = Callable[..., Tally]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Return a function that records a real service and tries images; skip without strace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")

    def played(*options: str) -> Tally:
        always = ("--seed", "1", "--directory", str(tmp_path))
        return powerloss.try_all(powerloss.command_line().parse_args([*always, *options]))

    return played


@pytest.mark.service
@pytest.mark.root("to trace processes that nobody else may look into")
@pytest.mark.parametrize("scenario", ["first", "steady"])
def test_a_service_loses_nothing_and_always_opens(play: Play, scenario: str) -> None:
    """While its files are made and its first saves are, and on any other day."""
    tally = play("--scenarios", scenario, "--images", "120")
    assert not tally.broken, tally.shown
    assert tally.images >= 120


@pytest.mark.service
@pytest.mark.root("to trace processes that nobody else may look into")
def test_a_service_that_does_not_sync_is_found_out(play: Play) -> None:
    """With synchronous=OFF it acknowledges what a power loss takes away."""
    tally = play("--scenarios", "first", "--images", "60", "--synchronous-off")
    assert tally.broken[Kind.LOST]

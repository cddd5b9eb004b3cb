"""Operations on one name wait for each other: real batches, and a writer that the tests play."""

import socket
from collections.abc import Iterator
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwserver.errors import DatabaseRefused, Refused, Unavailable, UnknownUser
from pwserver.ipc import FrameReader, frame, frame_channel
from pwserver.limits import NAME_BYTES_MAX, QUEUE_BYTES_MAX
from pwserver.wire.messages import refusal
from tests.support.books import Client
from workers.serving.commit_queue import TOO_LATE, UNKNOWN, CommitQueue, Outcome, queue_full
from workers.serving.name_queues import NAME_FULL, UNRECORDED, Key, NameQueues, Write
from workers.storage.answers import Steps
from workers.storage.operations import DONE, STALE, Operation, Result

TIMEOUT_S = 5.0
UNKNOWN_USER = refusal(UnknownUser(), "x")

Answer = str | list[Any]
"""What the writer says of a batch: the operations' results, or why nothing was done."""


class Planned(Write):
    """A write that notes when it is planned, and fails where the test says so."""

    def __init__(
        self,
        name: str | None,
        text: str,
        *,
        book: int = 0,
        size: int = 1,
        application: str | None = "tests",
    ) -> None:
        key: Key | None = None if name is None else (book, name)
        super().__init__(Client(book, application), key, "x", size, 0.0)
        self.text = text
        self.plans = 0
        self.refuse_plan: Exception | None = None
        self.refuse_done: Exception | None = None
        self.refuse_refusal: Exception | None = None
        self.recorded: list[str] = []

    def plan(self) -> Steps[Operation]:
        yield from ()
        self.plans += 1
        if self.refuse_plan is not None:
            raise self.refuse_plan
        return (self.text, self.plans)

    def done(self, result: Result) -> Steps[bytes]:
        yield from ()
        if self.refuse_done is not None:
            raise self.refuse_done
        return f"{self.text} {result}".encode()

    def failed(self, outcome: Outcome) -> bytes:
        return f"{self.text} failed: {outcome.reason} {outcome.known}".encode()

    def refused(self, refusal: Refused) -> Steps[bytes]:
        if self.refuse_refusal is not None:
            raise self.refuse_refusal
        return (yield from super().refused(refusal))

    def record(self, outcome: str) -> None:
        self.recorded.append(outcome)


class Desk:
    """The lines of a worker, and the writer's end of its channel."""

    def __init__(self) -> None:
        self.commit_queue = CommitQueue()
        self.name_queues = NameQueues(self.commit_queue, TIMEOUT_S)
        self.now = 0.0
        self._theirs: socket.socket | None = None
        self.start_writer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.commit_queue.detach()
        if self._theirs is not None:
            self._theirs.close()

    def start_writer(self) -> list[Client]:
        """Put a new writer in the place of the last one; return who lost something with that."""
        if self._theirs is not None:
            self._theirs.close()
        ours, self._theirs = frame_channel()
        self.reader = FrameReader(self._theirs)
        lost = self.commit_queue.attach(ours)
        self._theirs.send(frame(0))
        self.commit_queue.receive()
        return self._settle(lost)

    def add(self, *writes: Planned) -> None:
        """Take requests."""
        for write in writes:
            write.since = self.now
            self.name_queues.add(write, self.now)

    def sent(self) -> list[str]:
        """Return what the writer is sent now, all batches together."""
        self.commit_queue.send()
        return [text for _, operations, _ in self.reader.read() for text, _ in operations]

    def answer(self, *answers: Answer) -> list[Client]:
        """Have the writer answer a batch each; return who has a reply then."""
        assert self._theirs is not None
        for answer in answers:
            self._theirs.send(frame(answer if isinstance(answer, str) else (0, answer)))
        return self._settle(self.commit_queue.receive()[0])

    def _settle(self, batches: list[Any]) -> list[Client]:
        waiters = [each for batch in batches for each in self.name_queues.settle(batch, self.now)]
        return [waiter for waiter in waiters if isinstance(waiter, Client)]

    def check_nothing_is_left(self) -> None:
        """Check that no memory of what was answered remains."""
        assert self.commit_queue.empty
        assert (self.name_queues._queues, self.name_queues._bytes) == ({}, {})
        for shares in (self.name_queues._shares, self.commit_queue._shares):
            assert (shares.total, shares._of) == (0, {})


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Return lines of a worker; at the end of each test nothing of what was answered is kept."""
    with Desk() as opened:
        yield opened
        opened.check_nothing_is_left()


def test_writes_on_one_name_go_one_after_the_other(desk: Desk) -> None:
    """A write is planned when the one before it is committed, and not before; in their order."""
    first, second, third = writes = [Planned("alice", text) for text in "abc"]
    desk.add(*writes)
    assert (desk.sent(), [write.plans for write in writes]) == (["a"], [1, 0, 0])
    assert desk.answer([DONE]) == [first.waiter]
    assert (first.reply, second.reply) == (b"a True", None)
    assert (desk.sent(), [write.plans for write in writes]) == (["b"], [1, 1, 0])
    assert desk.answer([(7, 2)]) == [second.waiter]
    assert second.reply == b"b (7, 2)"
    assert desk.sent() == ["c"]
    assert desk.answer([DONE]) == [third.waiter]


def test_writes_on_different_names_go_at_once(desk: Desk) -> None:
    """Those on other names, on the same name in another book, or on no name wait for nobody."""
    writes = [
        Planned("alice", "a"), Planned("bob", "b"), Planned("alice", "other book", book=1),
        Planned(None, "n"), Planned(None, "m"),
    ]  # fmt: skip
    behind = Planned("alice", "behind")
    desk.add(writes[0], behind, *writes[1:])
    assert desk.sent() == [write.text for write in writes]
    assert desk.answer([DONE] * 5) == [write.waiter for write in writes]
    assert desk.sent() == ["behind"]
    desk.answer([DONE])


def test_a_write_that_was_out_of_date_is_planned_again(desk: Desk) -> None:
    """Where the book moved on a write keeps its place, and is answered when it is done."""
    first, second = Planned("alice", "a"), Planned("alice", "b")
    other = Planned("bob", "o")
    desk.add(first, second, other)
    for plans in (1, 2, 3):
        assert (desk.sent()[0], first.plans, second.plans) == ("a", plans, 0)
        assert first.waiter not in desk.answer([STALE, DONE][: 2 if plans == 1 else 1])
        assert first.reply is None
    assert other.reply == b"o True"
    assert desk.sent() == ["a"]
    assert desk.answer([DONE]) == [first.waiter]
    assert desk.sent() == ["b"]
    desk.answer([DONE])
    assert (first.plans, second.plans) == (4, 1)


def test_what_is_recorded_first_goes_to_the_writer_after_that(desk: Desk) -> None:
    """The record says that it begins, and after the answer what became of it; once of each."""
    write, behind, other = Planned("alice", "a"), Planned("alice", "b"), Planned("bob", "o")
    write.recorded_first = True
    desk.add(write, behind, other)
    assert desk.sent() == ["o"]
    assert write.recorded == ["begun"]
    assert desk.name_queues.go_on(desk.now, recorded=True) == []
    assert desk.sent() == ["a"]
    assert desk.answer([DONE], [STALE]) == [other.waiter]
    assert desk.sent() == ["a"], "it is planned again, and its beginning is recorded already"
    assert desk.answer([DONE]) == [write.waiter]
    assert write.recorded == ["begun", "ok"]
    assert desk.sent() == ["b"]
    desk.answer([DONE])


def test_what_cannot_be_recorded_first_is_not_done(desk: Desk) -> None:
    """Neither it nor others of its kind that waited behind it; what need not be recorded is."""
    writes = [Planned("alice", text) for text in "abc"]
    writes[0].recorded_first = writes[1].recorded_first = True
    desk.add(*writes)
    assert desk.sent() == []
    answered = desk.name_queues.go_on(desk.now, recorded=False)
    assert answered == [write.waiter for write in writes[:2]]
    for write in writes[:2]:
        assert write.reply == f"{write.text} failed: {UNRECORDED.reason} True".encode()
    assert (writes[0].recorded, writes[1].recorded, writes[1].plans) == (["begun"], [], 0)
    assert desk.sent() == ["c"]
    desk.answer([DONE])
    again = Planned("alice", "d")
    again.recorded_first = True
    desk.add(again)
    desk.name_queues.go_on(desk.now, recorded=True)
    assert desk.sent() == ["d"]
    desk.answer([DONE])


def test_what_was_begun_and_came_too_late_is_recorded_as_not_done(desk: Desk) -> None:
    """Whoever reads that it began also reads how it ended."""
    write = Planned("alice", "a")
    write.recorded_first = True
    desk.add(write)
    desk.name_queues.go_on(desk.now, recorded=True)
    assert desk.sent() == ["a"]
    desk.now = TIMEOUT_S + 0.1
    assert desk.answer([STALE]) == [write.waiter]
    assert write.recorded == ["begun", "not done"]


def test_what_cannot_be_done_is_answered_at_once(desk: Desk) -> None:
    """A write that is refused when it is planned has its reply before the writer knows of it."""
    write = Planned("alice", "a")
    write.refuse_plan = UnknownUser()
    desk.add(write)
    assert write.reply == UNKNOWN_USER
    desk.check_nothing_is_left()
    desk.add(Planned("alice", "b"))
    assert desk.sent() == ["b"]
    desk.answer([DONE])


def test_an_altered_row_in_the_way_of_a_refusal_holds_up_nobody(desk: Desk) -> None:
    """Where not even the refusal can be made, the write is answered, and the next one goes."""
    write, next_one = Planned("alice", "a"), Planned("alice", "b")
    write.refuse_plan, write.refuse_refusal = UnknownUser(), DatabaseRefused("altered")
    desk.add(write, next_one)
    assert write.reply is not None
    assert b"altered; it is not given out" in write.reply
    assert desk.sent() == ["b"]
    desk.answer([DONE])


def test_what_cannot_be_read_is_a_failure_that_is_known(desk: Desk) -> None:
    """Where a write cannot be planned because nothing can be read, it certainly was not done."""
    write = Planned("alice", "a")
    write.refuse_plan = Unavailable("No disk.")
    desk.add(write)
    assert write.reply == b"a failed: No disk. True"


def test_a_refusal_lets_the_next_one_go(desk: Desk) -> None:
    """Whether refused when planned, planned again or done, those behind are not held up."""
    writes = [Planned("alice", text) for text in "abcde"]
    writes[1].refuse_plan = UnknownUser()
    writes[2].refuse_done = UnknownUser()
    desk.add(*writes)
    assert desk.sent() == ["a"]
    assert desk.answer([DONE]) == [writes[0].waiter, writes[1].waiter]
    assert desk.sent() == ["c"]
    assert desk.answer([DONE]) == [writes[2].waiter]
    assert desk.sent() == ["d"]
    writes[3].refuse_plan = UnknownUser()
    assert desk.answer([STALE]) == [writes[3].waiter]
    assert desk.sent() == ["e"]
    assert desk.answer([DONE]) == [writes[4].waiter]
    assert [write.reply for write in writes[1:4]] == [UNKNOWN_USER] * 3


def test_a_failed_batch_is_answered_and_the_next_goes(desk: Desk) -> None:
    """Where nothing of a batch was done each write in it says why, and those behind are tried."""
    writes = [Planned(name, name) for name in ("alice", "bob")]
    behind = Planned("alice", "behind")
    desk.add(*writes, behind)
    assert desk.sent() == ["alice", "bob"]
    assert desk.answer("The disk is full.") == [write.waiter for write in writes]
    assert writes[1].reply == b"bob failed: The disk is full. True"
    assert behind.reply is None
    assert desk.sent() == ["behind"]
    assert desk.answer([DONE]) == [behind.waiter]


def test_the_writers_death_is_answered_and_the_next_writer_goes_on(desk: Desk) -> None:
    """What was at the writer when it died may be done or not; those behind go to the next one."""
    first, second, third = (Planned("alice", text) for text in "abc")
    queued = Planned("bob", "q")
    desk.add(first, second, third)
    assert desk.sent() == ["a"]
    desk.add(queued)
    assert desk.start_writer() == [first.waiter]
    assert first.reply == f"a failed: {UNKNOWN.reason} False".encode()
    assert desk.sent() == ["q", "b"]
    assert desk.answer([DONE, DONE]) == [queued.waiter, second.waiter]
    assert desk.sent() == ["c"]
    desk.answer([DONE])


def test_what_became_of_a_write_is_recorded_once(desk: Desk) -> None:
    """Done, refused, failed or not known: there is one record of it, when that is known."""
    done, stale, unknown = (Planned(name, name) for name in ("done", "stale", "unknown"))
    unknown.refuse_plan = UnknownUser()
    desk.add(done, stale, unknown)
    desk.sent()
    assert (done.recorded, unknown.recorded) == ([], ["Unknown user!"])
    desk.answer([DONE, STALE])
    assert (done.recorded, stale.recorded) == (["ok"], [])
    desk.sent()
    desk.answer("The disk is full.")
    gone, lost = Planned("gone", "gone"), Planned("lost", "lost")
    gone.refuse_done = UnknownUser()
    desk.add(gone)
    desk.sent()
    desk.answer([DONE])
    desk.add(lost)
    desk.sent()
    desk.start_writer()
    assert [write.recorded for write in (done, stale, unknown, gone, lost)] == [
        ["ok"], ["not done"], ["Unknown user!"], ["Unknown user!"], ["done or not: nobody knows"]
    ]  # fmt: skip


@pytest.mark.parametrize("when", ["planned", "done"])
def test_what_was_tampered_with_is_said_and_logged(
    desk: Desk, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that does not open costs its own write: it is answered, and the log says which."""
    write, behind = Planned("alice", "a"), Planned("alice", "b")
    altered = DatabaseRefused("the password of user 7 cannot be given out.")
    if when == "planned":
        write.refuse_plan = altered
    else:
        write.refuse_done = altered
    desk.add(write, behind)
    if when == "done":
        assert desk.sent() == ["a"]
        desk.answer([DONE])
    reply = write.reply or b""
    assert b"altered" in reply
    assert b"user 7" not in reply
    assert write.recorded == ["Unavailable!"]
    assert [record.getMessage() for record in caplog.records] == [str(altered)]
    assert desk.sent() == ["b"]
    desk.answer([DONE])


def test_what_nobody_foresaw_is_logged_without_its_text(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """An error may have a secret in its text: the log has its kind and place, the reply nothing."""
    write = Planned("alice", "a")
    write.refuse_plan = ValueError("canary-3f9a")
    desk.add(write)
    assert write.reply is not None
    assert b"canary" not in write.reply
    assert "canary" not in caplog.text
    assert "ValueError in " in caplog.text


def failed(write: Planned, outcome: Outcome) -> bytes:
    """Return the reply to a write that was certainly not done."""
    return f"{write.text} failed: {outcome.reason} True".encode()


def test_too_much_that_waits_is_refused(desk: Desk) -> None:
    """Past its share a caller's writes are refused, whoever they wait for, and then taken again."""
    great = [Planned(name, name, size=QUEUE_BYTES_MAX // 4) for name in ("alice", "bob")]
    refused = [Planned("alice", "c"), Planned("carol", "d"), Planned(None, "e")]
    desk.add(*great)
    desk.add(*refused)
    for write in refused:
        assert write.reply == failed(write, queue_full("tests"))
        assert write.plans == 0
    assert desk.sent() == ["alice", "bob"]
    desk.answer([DONE], [DONE])  # they are so great that each has its batch
    taken = Planned("alice", "f")
    desk.add(taken)
    assert taken.reply is None
    assert desk.sent() == ["f"]
    desk.answer([DONE])


def test_a_greedy_caller_has_nobody_elses_saves_refused(desk: Desk) -> None:
    """Whatever some callers send, on one name or many, there is room for one more caller."""
    size = QUEUE_BYTES_MAX // 100
    for greedy in ("web", None):
        writes = [Planned(str(n), str(n), size=size, application=greedy) for n in range(100)]
        desk.add(*writes)
        assert writes[-1].reply == failed(writes[-1], queue_full(greedy))
    modest = [Planned("alice", "modest", book=7, application="shop") for _ in range(100)]
    desk.add(*modest)
    assert [write.reply for write in modest] == [None] * 100
    desk.now = TIMEOUT_S + 1
    desk.commit_queue.detach()
    expired = desk.commit_queue.expire(desk.now)
    for batch in expired:
        desk.name_queues.settle(batch, desk.now)


def test_a_hot_name_leaves_its_callers_other_names_alone(desk: Desk) -> None:
    """What waits for one name has a bound of its own, and the refusal says so."""
    hot = [Planned("hot", str(n), size=NAME_BYTES_MAX // 100) for n in range(200)]
    cold = Planned("cold", "cold")
    desk.add(*hot, cold)
    assert {write.reply for write in hot[:100]} == {None}
    assert hot[-1].reply == failed(hot[-1], NAME_FULL)
    assert cold.reply is None
    assert desk.sent() == ["0", "cold"]
    desk.answer([DONE, DONE])
    again = Planned("hot", "again")
    desk.add(again)
    assert again.reply != failed(again, NAME_FULL)
    while again.reply is None:
        assert len(desk.sent()) == 1
        desk.answer([DONE])
    assert again.reply == b"again True"


def test_a_full_queue_to_the_writer_refuses_as_well(desk: Desk) -> None:
    """Where plain saves have filled a caller's share, no write of it on a name is taken either."""
    desk.commit_queue.add("tests", [(Client(), [])], [], QUEUE_BYTES_MAX, 0.0)
    write = Planned("alice", "a")
    desk.add(write)
    assert write.reply == failed(write, queue_full("tests"))
    assert desk.sent() == []
    desk.answer([])


def test_what_waited_too_long_is_not_written(desk: Desk) -> None:
    """A write whose turn comes too late is answered instead, and so is one that stays stale."""
    first, late = Planned("alice", "a"), Planned("alice", "b")
    desk.add(first, late)
    assert desk.sent() == ["a"]
    desk.now = TIMEOUT_S
    in_time = Planned("alice", "c")
    desk.add(in_time)
    desk.now = TIMEOUT_S + 0.1
    assert desk.answer([DONE]) == [first.waiter, late.waiter]
    assert late.reply == f"b failed: {TOO_LATE.reason} True".encode()
    assert late.plans == 0
    assert desk.sent() == ["c"]
    assert desk.answer([STALE]) == []
    assert desk.sent() == ["c"]
    desk.now = 2 * TIMEOUT_S + 0.1
    assert desk.answer([STALE]) == [in_time.waiter]
    assert in_time.reply == f"c failed: {TOO_LATE.reason} True".encode()


def test_what_was_never_sent_expires_with_its_line(desk: Desk) -> None:
    """Without a writer each write is answered after its time, those in line behind it too."""
    desk.commit_queue.detach()
    writes = [Planned("alice", "a"), Planned("alice", "b"), Planned("bob", "c")]
    desk.add(*writes)
    assert desk.commit_queue.expire(desk.now) == []
    desk.now = TIMEOUT_S + 0.1
    expired = desk.commit_queue.expire(desk.now - TIMEOUT_S)
    answered = [each for batch in expired for each in desk.name_queues.settle(batch, desk.now)]
    assert {id(waiter) for waiter in answered} == {id(write.waiter) for write in writes}
    for write in writes:
        assert write.reply == f"{write.text} failed: {TOO_LATE.reason} True".encode()


def test_a_long_line_of_refusals_is_answered_in_one_go(desk: Desk) -> None:
    """However many wait behind a write that fails, all are answered, in their order."""
    first, *others = writes = [Planned("alice", str(number)) for number in range(5000)]
    for write in others:
        write.refuse_plan = UnknownUser()
    desk.add(*writes)
    desk.sent()
    assert desk.answer([DONE]) == [write.waiter for write in writes]
    assert {write.reply for write in others} == {UNKNOWN_USER}
    assert first.reply == b"0 True"


RESULTS: st.SearchStrategy[Any] = st.sampled_from([DONE, DONE, STALE, "No room."])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 2))), st.data())
def test_every_write_is_answered_once_and_in_order(
    wanted: list[tuple[str | None, int]], data: st.DataObject
) -> None:
    """Whatever the writer answers, each write has one reply, after those before it on its name."""
    order: list[Client] = []
    writes = [Planned(name, str(number)) for number, (name, _) in enumerate(wanted)]
    with Desk() as desk:
        for write, (_, turns) in zip(writes, wanted, strict=True):
            desk.add(write)
            for _ in range(turns):
                order += _turn(desk, data)
        while not desk.commit_queue.empty:
            order += _turn(desk, data)
        desk.check_nothing_is_left()
    assert None not in [write.reply for write in writes]
    assert sorted(map(id, order)) == sorted(id(write.waiter) for write in writes)
    for name in ("a", "b"):
        in_line = [write.waiter for write in writes if write.key == (0, name)]
        assert [waiter for waiter in order if waiter in in_line] == in_line


def _turn(desk: Desk, data: st.DataObject) -> list[Client]:
    """Send what waits and have the writer answer it in some way; return who has a reply."""
    desk.now += 1.0  # nothing is planned again for ever
    desk.commit_queue.send()
    answers: list[Answer] = []
    for _, operations, _ in desk.reader.read():
        results = [data.draw(RESULTS) for _ in operations]
        answers.append("No room." if "No room." in results else results)
    return desk.answer(*answers)

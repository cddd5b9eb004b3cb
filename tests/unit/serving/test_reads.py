"""Requests for which the store answers later, as a database server does."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pwserver.errors import Unavailable
from pwserver.ipc import Scoreboard
from pwserver.tally import COMMANDS, OK, OUTCOMES, Counts, Tally
from pwserver.wire.messages import encode
from tests.support.books import BOTH_KEYS
from tests.unit.serving.test_connection import GET, SAVE, WRONG_PASSWORD, WRONG_TOKEN, Served
from workers.auth.applications import Registry
from workers.auth.throttle import DELAYS_S, NAME
from workers.storage.answers import Pending
from workers.storage.sqlite.reading import BookReader
from workers.storage.store import Link

ALICE = {"username": "alice"}


class LateReader:
    """A reader that answers when it is told to, oldest question first."""

    def __init__(self, reader: BookReader) -> None:
        self.links: list[Link] = []
        self._reader = reader
        self._asked: deque[tuple[Pending, Callable[[], Any]]] = deque()

    def __getattr__(self, question: str) -> Callable[..., Pending]:
        return lambda *about: self._ask(lambda: getattr(self._reader, question)(*about))

    def _ask(self, answer: Callable[[], Any]) -> Pending:
        self._asked.append((Pending(), answer))
        return self._asked[-1][0]

    @property
    def asked(self) -> int:
        """How many questions are not answered."""
        return len(self._asked)

    def answer(self, error: Exception | None = None) -> None:
        """Answer what has been asked, and what is asked because of that; or fail."""
        while self._asked:
            pending, answer = self._asked.popleft()
            if error is None:
                pending.resolve(answer())
            else:
                pending.fail(error)


class Late(Served):
    """A connection whose worker gets the store's answers later."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reader = LateReader(self.planner.reader)
        self.send(*[encode("save_password", password=f"pw{n}", **ALICE) for n in (1, 2)])
        self.settle()
        self.context.reader = self.reader

    def settle(self) -> list[Any]:
        """Commit and answer until nothing is left to do; return the replies."""
        self.finish()
        return self.received()

    def finish(self) -> None:
        """Commit and answer until nothing is left to do."""
        self.reader.answer()
        while self.commit():
            self.reader.answer()
        self.connection.flush()


@pytest.fixture
def late(tmp_path: Path) -> Iterator[Late]:
    """Return a connection to a book in which alice has two versions."""
    served = Late(tmp_path / "late.db")
    yield served
    served.close()


REQUESTS = [
    GET,
    encode("get_password", version=1, **ALICE),
    encode("get_password", version=9, **ALICE),
    encode("get_password", username="nobody"),
    encode("verify_password", password="pw2", **ALICE),
    WRONG_PASSWORD,
    encode("verify_password", username="nobody", password="pw2"),
    encode("save_password", password="pw3", **ALICE),
    encode("save_password", password="pw3", if_version=1, **ALICE),
    encode("save_password", password="pw3", request_id="r"),
    encode("generate_password", length=9, alphabet="01", username="bob", request_id="g"),
    encode("delete_user", **ALICE),
    encode("delete_user", username="nobody"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.decode()[:60])
def test_a_later_answer_is_the_same(tmp_path: Path, late: Late, request_: bytes) -> None:
    """Of the request and of the same one sent again, as where the store answers at once."""
    soon = Served(tmp_path / "soon.db")
    soon.send(*[encode("save_password", password=f"pw{n}", **ALICE) for n in (1, 2)])
    while soon.commit():
        soon.received()
    for _ in range(2):
        soon.send(request_)
        while soon.commit():
            pass
        late.send(request_)
        assert _alike(late.settle()) == _alike(soon.received())
    soon.close()


def _alike(replies: list[Any]) -> list[Any]:
    """Return replies without what is random."""
    for reply in replies:
        if reply["message"] == "return_generated_password":
            reply["password"] = len(reply["password"])
    return replies


def test_requests_see_those_before_them_and_no_later_ones(late: Late) -> None:
    """A read sees the saves before it, and the saves after it wait for its answer."""
    numbered = [
        encode("save_password", password=f"pw{n}", **ALICE) if n % 2 else GET for n in range(3, 9)
    ]
    late.send(*numbered, SAVE, encode("number_of_users"), GET)
    replies = late.settle()
    assert [(reply["message"], reply.get("version")) for reply in replies] == [
        ("Password saved!", 3),
        ("return_password", 3),
        ("Password saved!", 4),
        ("return_password", 4),
        ("Password saved!", 5),
        ("return_password", 5),
        ("Password saved!", None),
        ("return_number_of_users", None),
        ("return_password", 5),
    ]


def test_reads_go_together(late: Late) -> None:
    """Consecutive reads of a connection wait for one round trip and not for one each."""
    late.send(GET, GET, GET)
    assert late.reader.asked == 3
    late.send(SAVE)
    assert not late.commit(), "the save waits for the reads before it"
    assert [reply["message"] for reply in late.settle()] == ["return_password"] * 3 + [
        "Password saved!"
    ]


def test_nothing_is_read_for_who_is_being_identified(late: Late, tmp_path: Path) -> None:
    """A wrong token takes the rights before it from the read after it, however late it is known."""
    late.context.registry = Registry(late.reader, BOTH_KEYS, tmp_path / "late.revisions")
    late.send(GET, WRONG_TOKEN, GET)
    assert late.reader.asked == 1
    late.finish()
    assert [reply["message"] for reply in late.settle()] == ["return_password"] + ["Denied!"] * 2


def test_guesses_sent_together_are_limited(late: Late) -> None:
    """Each is compared only after those before it have counted, however late the answers come."""
    late.send(*[WRONG_PASSWORD] * (NAME.allowance + 10))
    assert late.reader.asked == NAME.allowance + 10
    late.context.now += 0.01
    late.finish()
    late.later(60.0)
    messages = [reply["message"] for reply in late.received()]
    delayed = NAME.allowance + len(DELAYS_S)
    assert messages == ["return_verify_password"] * delayed + ["Unavailable!"] * (
        10 - len(DELAYS_S)
    )


def test_each_is_counted_once(late: Late) -> None:
    """When its reply is known, also if a delay is added to the wait for the store."""
    block = Scoreboard(1).block(1)
    late.context.tally = Tally(block)
    late.send(GET, encode("get_password", username="nobody"))
    late.send(*[WRONG_PASSWORD] * (NAME.allowance + 1))

    def counted(command: str, outcome: int) -> int:
        late.context.tally.publish(1, 0, 0, 0)
        return Counts([block]).requests(COMMANDS.index(command), outcome)

    assert counted("get_password", OK) == 0
    late.context.now += 0.01
    late.finish()
    assert counted("get_password", OK) == 1
    assert sum(counted("get_password", outcome) for outcome in range(len(OUTCOMES))) == 2
    assert counted("verify_password", OK) == NAME.allowance, "one is delayed"
    late.later(60.0)
    assert counted("verify_password", OK) == NAME.allowance + 1


def test_a_reading_that_fails_later_is_refused(late: Late) -> None:
    """The read, and the save that was planned from it; the connection goes on."""
    late.send(GET, encode("save_password", password="pw3", **ALICE))
    late.reader.answer(Unavailable("The database is away."))
    late.connection.flush()
    late.reader.answer(Unavailable("The database is away."))
    late.connection.flush()
    assert [reply["message"] for reply in late.received()] == ["Unavailable!", "Not saved!"]
    late.send(GET)
    assert [reply["message"] for reply in late.settle()] == ["return_password"]


def test_a_client_that_is_gone_keeps_nothing(late: Late) -> None:
    """What it has read is dropped, and what it saves is saved all the same."""
    late.send(GET, encode("save_password", password="pw3", **ALICE))
    late.client.close()
    late.connection.lose()
    late.finish()
    assert late.planner.row("alice").version == 3

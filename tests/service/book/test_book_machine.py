"""Any sequence of requests by several applications is answered as plain dictionaries would.

Two applications share the common book, two more have books of their own; each has a connection to
each worker. Hypothesis makes up sequences. Requests go out one at a time or in bursts, those for
different books at once, and the replies must be those that the model (`book_model`) gave
when they were written down. Now and then a process is killed, or the service is stopped or killed
and started again; what was acknowledged must be there as if nothing had happened.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import new_url
from tests.service.book.company import COMMON, OWN, WORKERS, Premises, Seat, premises
from tests.support.book_model import Model, composed, refused
from tests.support.books_wire import (
    COUNT,
    Request,
    ask_all,
    delete,
    get,
    history,
    label,
    listing,
    names,
    restore,
    save,
    verify,
)
from tests.support.engines import BOTH_ENGINES
from tests.support.harness import Peer

pytestmark = BOTH_ENGINES

KEPT = 2
"""Older versions that are kept."""

WRONG_MAX = 9
"""Wrong passwords of one application that are answered at once."""

BURST_MAX = 25
RARELY = 25
"""One in so many draws has a fault done."""

_examples = itertools.count()


# --- Sequences of requests. ---

WHO = st.integers(0, len(WORKERS) * (COMMON + OWN) - 1)
NAMES = st.sampled_from(
    ["a", "b", "B", "b c", "caf\xe9", "cafe\u0301", "user-", "user-0123456789abc", "\u4e2d"]
)
NAME = st.one_of(
    st.sampled_from(["a", "b"]), NAMES, st.integers(0, 2)
)  # a number is one of those the service made
LABEL = st.sampled_from(["x", "y", "\xe9t\xe9", "e\u0301te\u0301"])
LABELS = st.one_of(st.none(), st.lists(LABEL, max_size=3))
PASSWORD = st.sampled_from(["one", "two", "three \N{SNOWMAN}"])
VERSION = st.integers(1, 4)
IF_VERSION = st.one_of(st.none(), st.none(), st.integers(0, 3))
ID = st.one_of(st.none(), st.integers(0, 5))

Fault = Callable[[Premises], None]
FAULTS: tuple[Fault, ...] = (
    Premises.kill_writer,
    Premises.kill_worker,
    Premises.stop_and_start,
    Premises.kill_and_start,
)


class Book:
    """A book: what must be in it, who speaks of it at present, and what has not been sent yet."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.model = Model(KEPT)
        self.waiting: list[tuple[Request, Request]] = []
        self.generated: set[str] = set()  # names that the service made
        self.real: dict[str, str] = {}  # what stands for a generated password: the password


class Machine(RuleBasedStateMachine):
    """Sends requests, one at a time or in bursts, and compares replies with the models'."""

    def __init__(self, service: Premises) -> None:
        super().__init__()
        self.service = service
        self.books: list[Book] = []
        self.bursts = False
        self.counting: Book | None = None  # a count is in its burst
        self.example = next(_examples)
        self.counter = itertools.count()
        self.wrong: Counter[int] = Counter()  # passwords, by application
        self.untouched = True  # no fault was done in this example

    @initialize()
    def begin(self) -> None:
        self.service.move_in()
        seats = {seat.book: seat for seat in self.service.seats}
        self.books = [Book(seats[number]) for number in sorted(seats)]
        self.book = self.books[0]
        for book in self.books:
            peer = book.seat.peer
            ask_all(peer, [delete(name) for name in names(peer)])
        self.others = self.peer.count()  # users of companies that are gone

    @property
    def peer(self) -> Peer:
        return self.book.seat.peer

    @property
    def model(self) -> Model:
        return self.book.model

    def do(self, request: Request, expected: Request) -> None:
        """Send a request, now or with the burst; its reply must be what is expected."""
        if self.counting not in (None, self.book):
            self.flush()
        self.book.waiting.append(({**request, "id": next(self.counter)}, expected))
        if not self.bursts or len(self.book.waiting) == BURST_MAX:
            self.flush()

    def flush(self) -> None:
        """Send what waits, for all books at once, and then read all replies."""
        self.counting = None
        sent = [(book, book.waiting) for book in self.books]
        for book, waiting in sent:
            book.seat.peer.send(*[request for request, _ in waiting])
            book.waiting = []
        for book, waiting in sent:
            for request, expected in waiting:
                self.compare(book, request, expected, book.seat.peer.reply())

    def compare(self, book: Book, request: Request, expected: Request, reply: Request) -> None:
        assert reply.pop("id") == request["id"]
        for each in (reply, *reply.get("versions", ()), *reply.get("users", ())):
            each.pop("time_saved", None)
        if refused(expected):
            assert reply.pop("error")
        if "after" in reply:
            expected, reply = {**expected}, {**reply}
            if expected.pop("more"):
                assert reply["after"] == reply["users"][-1]["username"]
            else:
                full = len(reply["users"]) == request["limit"]  # then it has not looked further
                assert reply["after"] is None or full
            del reply["after"]
        made = expected.get("password", "")
        if made.startswith("made "):
            known = book.real.setdefault(made, reply.get("password", ""))
            expected = {**expected, "password": known}
        assert reply == expected, request

    def named(self, name: str | int) -> tuple[str, str]:
        """Return a name as it is typed, and as it is kept."""
        if isinstance(name, int):
            made = sorted(set(self.model.users) & self.book.generated) or ["nobody"]
            name = made[name % len(made)]
        return name, composed(name)

    def do_once(self, request: Request, number: int | None, act: Callable[[], Request]) -> None:
        """Send a request that saves, with a `request_id` where there is a number.

        Of two saves under one id and different names in one burst, either may be the first.
        """
        if number is not None:
            id = f"{self.example} {number}"
            request = {**request, "request_id": id}
            same = [sent for sent, _ in self.book.waiting if sent.get("request_id") == id]
            if any(sent.get("username") != request.get("username") for sent in same):
                self.flush()
        self.do(request, self.model.once(request, act))

    def learn_names(self) -> None:
        """Find out which names the service made."""
        if not self.model.nameless:
            return
        self.flush()
        for name in set(names(self.peer, prefix="user-")) - set(self.model.users):
            password = self.peer.ask(get(name, version=1))["password"]
            self.model.users[name] = self.model.nameless.pop(password)
            self.book.generated |= {name}
        assert not self.model.nameless

    # --- How requests go out. ---

    @rule(who=WHO, bursts=st.booleans())
    def go_on_elsewhere(self, who: int, bursts: bool) -> None:
        seat = self.service.seats[who]
        self.book = self.books[seat.book]
        if seat is not self.book.seat:
            self.flush()  # only what comes over one connection is in its order
        self.book.seat = seat
        self.bursts = bursts

    @precondition(lambda self: self.untouched)
    @rule(draw=st.integers(1, RARELY), fault=st.sampled_from(FAULTS))
    def go_wrong(self, draw: int, fault: Fault) -> None:
        if draw == RARELY:
            self.untouched = False
            self.outlive(fault)

    def outlive(self, fault: Fault) -> None:
        """Have all answered, do something to the service, and go on where it was."""
        self.flush()
        fault(self.service)
        for number, book in enumerate(self.books):
            book.seat = next(seat for seat in self.service.seats if seat.book == number)

    # --- The requests. ---

    @rule(name=NAME, password=PASSWORD, labels=LABELS, if_version=IF_VERSION, number=ID)
    def save(
        self,
        name: str | int,
        password: str,
        labels: list[str] | None,
        if_version: int | None,
        number: int | None,
    ) -> None:
        typed, kept = self.named(name)
        more = {"labels": labels, "if_version": if_version}
        given = {field: value for field, value in more.items() if value is not None}
        kept_labels = None if labels is None else [composed(each) for each in labels]
        self.do_once(
            save(typed, password, **given),
            number,
            lambda: self.model.save(kept, password, kept_labels, if_version),
        )

    @rule(number=ID, other=st.booleans())
    def save_nameless(self, number: int | None, other: bool) -> None:
        unique = f"{other} {number}" if number is not None else f"{next(self.counter)}"
        password = f"nameless {unique}"
        self.do_once(save(password=password), number, lambda: self.model.save(None, password))

    @rule(name=NAME, if_version=IF_VERSION, number=ID)
    def generate(self, name: str | int, if_version: int | None, number: int | None) -> None:
        typed, kept = self.named(name)
        request: Request = {"message": "generate_password", "username": typed}
        if if_version is not None:
            request["if_version"] = if_version
        made = f"made {next(self.counter)}"
        self.do_once(request, number, lambda: self.model.generate(kept, made, if_version))

    @rule(name=NAME, version=VERSION, number=ID)
    def restore(self, name: str | int, version: int, number: int | None) -> None:
        typed, kept = self.named(name)
        self.do_once(restore(typed, version), number, lambda: self.model.restore(kept, version))

    @rule(name=NAME, version=st.one_of(st.none(), VERSION))
    def get(self, name: str | int, version: int | None) -> None:
        typed, kept = self.named(name)
        more = {} if version is None else {"version": version}
        self.do(get(typed, **more), self.model.get(kept, version))

    @rule(name=NAME, password=PASSWORD, right=st.booleans())
    def verify(self, name: str | int, password: str, right: bool) -> None:
        typed, kept = self.named(name)
        user = self.model.users.get(kept)
        expected = self.model.verify(kept, password)
        if user is not None and right:
            password = user.versions[user.newest]
            expected = self.model.verify(kept, password)
            if password.startswith("made "):
                self.flush()
                password = self.book.real[password]
        application = self.book.seat.application
        if expected["valid"] or self.wrong[application] < WRONG_MAX:
            self.wrong[application] += not expected["valid"]
            self.do(verify(typed, password), expected)

    @rule(name=NAME)
    def history(self, name: str | int) -> None:
        typed, kept = self.named(name)
        self.do(history(typed), self.model.history(kept))

    @rule(name=NAME, labels=st.lists(LABEL, max_size=3))
    def label(self, name: str | int, labels: list[str]) -> None:
        typed, kept = self.named(name)
        self.do(label(typed, *labels), self.model.label(kept, [composed(each) for each in labels]))

    @rule(name=NAME)
    def delete(self, name: str | int) -> None:
        typed, kept = self.named(name)
        self.do(delete(typed), self.model.delete(kept))

    @rule()
    def count(self) -> None:
        if any(book.waiting for book in self.books if book is not self.book):
            self.flush()
        self.counting = self.book
        number = self.others + sum(len(book.model) for book in self.books)
        self.do(COUNT, {"message": "return_number_of_users", "number_of_users": number})

    @rule(
        after=st.one_of(st.just(""), NAMES),
        prefix=st.sampled_from(["", "", "b", "c", "caf", "user-", "user-0", "user-3"]),
        labelled=st.one_of(st.none(), LABEL),
        limit=st.sampled_from([1, 2, 3, 100]),
    )
    def listing(self, after: str, prefix: str, labelled: str | None, limit: int) -> None:
        self.learn_names()
        more = {} if labelled is None else {"label": labelled}
        self.do(
            listing(after=after, prefix=prefix, limit=limit, **more),
            self.model.listing(
                composed(after), prefix, None if labelled is None else composed(labelled), limit
            ),
        )

    def teardown(self) -> None:
        for book in self.books:
            self.book = book
            self.learn_names()
            for name in self.model.users:
                self.do(history(name), self.model.history(name))
                self.do(get(name), self.model.get(name, None))
            self.do(listing(limit=100), self.model.listing("", "", None, 100))
            self.count()
        self.flush()
        for book in self.books:
            ask_all(book.seat.peer, [delete(name) for name in book.model.users])


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, engine: str, request: pytest.FixtureRequest
) -> Iterator[Premises]:
    """Yield a service with a short history, and the applications on it."""
    flags = ("--versions-kept", str(KEPT), "--list-users", "none")
    url = new_url(engine, request)
    with premises(tmp_path_factory.mktemp("machine"), *flags, url=url) as made:
        yield made


def test_the_books_behave_like_dictionaries(service: Premises) -> None:
    """Whatever is asked in whatever order, by whom, over whichever connection, and what dies."""

    class MachineHere(Machine):
        def __init__(self) -> None:
            super().__init__(service)

    run_state_machine_as_test(
        MachineHere,
        settings=settings(
            max_examples=60 if service.service.url_of_database == "" else 20,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_was_answered_outlives(service: Premises, fault: Fault) -> None:
    """A worker's death, the writer's, everybody's, and a stop: each change, and each request id."""
    machine = Machine(service)
    machine.begin()
    change_all(machine)
    machine.outlive(fault)
    change_all(machine)  # those with a request id were done before
    machine.outlive(fault)
    machine.teardown()


def change_all(machine: Machine) -> None:
    """Make every kind of change over each connection, in bursts for all books at once."""
    for who in range(len(machine.service.seats)):
        machine.go_on_elsewhere(who, True)
        machine.save("a", "one", ["x"], None, 0)
        machine.save("a", f"two by {who}", None, 1, None)
        machine.save_nameless(1, False)
        machine.save_nameless(None, False)
        machine.generate("b", 0, 2)
        machine.restore("a", 1, 3)
        machine.save("c", "three", ["y"], None, None)
        machine.label("c", ["x"])
        machine.save("B", "four", None, 0, None)
        machine.delete("B")
        machine.verify("a", "one", True)
        machine.count()

"""Any sequence of requests over several connections is answered as a plain dictionary would.

The model below is the book as it is described, in as few lines as it takes. Hypothesis makes up
sequences, on one running service that is emptied between them; requests go out one at a time or in
bursts, whose replies must be those that the model gave when they were written down.
"""

import itertools
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.books_wire import (
    COUNT,
    DELETED,
    UNKNOWN_USER,
    UNKNOWN_VERSION,
    Request,
    ask_all,
    delete,
    get,
    history,
    label,
    listing,
    names,
    on_each_worker,
    restore,
    save,
    verify,
)
from tests.harness import Peer, Service

KEPT = 2
APPLICATIONS = 60
WRONG_MAX = 9
"""Wrong passwords of one application that are answered at once."""
NOT_SAVED = {"message": "Not saved!"}
_examples = itertools.count()


@dataclass(eq=False)
class Kept:
    """A user of the model."""

    labels: list[str] = field(default_factory=list)
    newest: int = 0
    versions: dict[int, str] = field(default_factory=dict)

    def add(self, password: str) -> int:
        """Save a version; return its number."""
        self.newest += 1
        self.versions[self.newest] = password
        self.versions.pop(self.newest - KEPT - 1, None)
        return self.newest


class Model:
    """The book as a dictionary. Each method returns the reply, without times."""

    def __init__(self) -> None:
        self.users: dict[str, Kept] = {}
        self.nameless: dict[str, Kept] = {}  # by password: their names are not known yet
        self.requests: dict[str, tuple[Request, Request]] = {}  # by id: what was asked, the reply

    def once(self, request: Request, act: Callable[[], Request]) -> Request:
        """Do a request that saves, if none with its `request_id` was done before."""
        id = request.get("request_id")
        if id in self.requests:
            earlier, reply = self.requests[id]
            if request != earlier:
                return NOT_SAVED
            return reply if "password" not in reply or self.is_kept(reply) else NOT_SAVED
        reply = act()
        if id is not None and reply not in (UNKNOWN_USER, UNKNOWN_VERSION):
            self.requests[id] = request, reply
        return reply

    def is_kept(self, generated: Request) -> bool:
        """Tell whether a password that was generated is in the book as it was saved."""
        user = self.users.get(generated["username"])
        version, password = generated["version"], generated["password"]
        return user is not None and user.versions.get(version) == password

    def save(self, name: str | None, password: str, labels: list[str] | None = None) -> Request:
        if name is None:
            user = self.nameless[password] = Kept()
        elif name.startswith("user-0123") and name not in self.users:
            return UNKNOWN_USER
        else:
            user = self.users.setdefault(name, Kept())
        version = user.add(password)
        if labels is not None:
            user.labels = list(dict.fromkeys(labels))
        if name is None:
            return {"message": "Password saved!"}
        return {"message": "Password saved!", "username": name, "version": version}

    def generate(self, name: str, made: str) -> Request:
        reply = self.save(name, made)
        if reply == UNKNOWN_USER:
            return reply
        return {**reply, "message": "return_generated_password", "password": made}

    def restore(self, name: str, version: int) -> Request:
        user = self.users.get(name)
        if user is None:
            return UNKNOWN_USER
        if version not in user.versions:
            return UNKNOWN_VERSION
        number = user.add(user.versions[version])
        return {"message": "Password restored!", "username": name, "version": number}

    def get(self, name: str, version: int | None) -> Request:
        user = self.users.get(name)
        if user is None:
            return UNKNOWN_USER
        number = version or user.newest
        if number not in user.versions:
            return UNKNOWN_VERSION
        password = user.versions[number]
        return {
            "message": "return_password",
            "username": name,
            "password": password,
            "version": number,
        }

    def history(self, name: str) -> Request:
        user = self.users.get(name)
        if user is None:
            return UNKNOWN_USER
        versions = [{"version": number} for number in sorted(user.versions, reverse=True)]
        return {"message": "return_password_history", "username": name, "versions": versions}

    def label(self, name: str, labels: list[str]) -> Request:
        user = self.users.get(name)
        if user is None:
            return UNKNOWN_USER
        user.labels = list(dict.fromkeys(labels))
        return {"message": "User labelled!", "username": name, "labels": user.labels}

    def verify(self, name: str, password: str) -> Request:
        user = self.users.get(name)
        valid = user is not None and user.versions[user.newest] == password
        return {"message": "return_verify_password", "valid": valid}

    def delete(self, name: str) -> Request:
        return UNKNOWN_USER if self.users.pop(name, None) is None else DELETED

    def count(self) -> Request:
        number = len(self.users) + len(self.nameless)
        return {"message": "return_number_of_users", "number_of_users": number}

    def listing(self, after: str, prefix: str, labelled: str | None, limit: int) -> Request:
        assert not self.nameless
        found = [
            {"username": name, "labels": user.labels, "version": user.newest}
            for name, user in sorted(self.users.items())
            if name > after and name.startswith(prefix)
            if labelled is None or labelled in user.labels
        ]
        return {"message": "return_users", "users": found[:limit], "more": len(found) > limit}


# --- Sequences of requests. ---

WHO = st.integers(0, 3)
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
ID = st.one_of(st.none(), st.integers(0, 5))


def composed(text: str) -> str:
    """Return a text in the form in which names compare."""
    return unicodedata.normalize("NFC", text)


class Applications:
    """Connections of one application after the other, all of which use the common book.

    So none is made to wait for having been wrong too often.
    """

    def __init__(self, peers: list[Peer], tokens: list[str]) -> None:
        self.peers = peers
        self.wrong = 0
        self._tokens = itertools.cycle(tokens)

    def change(self) -> None:
        """Be the next application, which has not shown any wrong password lately."""
        self.wrong = 0
        token = next(self._tokens)
        for peer in self.peers:
            assert peer.authenticate(token)["message"] == "Authenticated!"


class Machine(RuleBasedStateMachine):
    """Sends requests, one at a time or in bursts, and compares replies with the model's."""

    def __init__(self, applications: Applications) -> None:
        super().__init__()
        self.applications = applications
        self.peer = applications.peers[0]
        self.bursts = False
        self.waiting: list[tuple[Request, Request]] = []
        self.model = Model()
        self.example = next(_examples)
        self.counter = itertools.count()
        self.generated: set[str] = set()
        self.real: dict[str, str] = {}  # what stands for a generated password: the password

    @initialize()
    def empty_the_book(self) -> None:
        ask_all(self.peer, [delete(name) for name in names(self.peer)])
        assert self.peer.count() == 0

    def do(self, request: Request, expected: Request) -> None:
        """Send a request, now or with the burst; its reply must be what is expected."""
        self.waiting.append(({**request, "id": next(self.counter)}, expected))
        if not self.bursts or len(self.waiting) == 25:
            self.flush()

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        replies = ask_all(self.peer, [request for request, _ in waiting])
        for (request, expected), reply in zip(waiting, replies, strict=True):
            self.compare(request, expected, reply)

    def compare(self, request: Request, expected: Request, reply: Request) -> None:
        assert reply.pop("id") == request["id"]
        for each in (reply, *reply.get("versions", ()), *reply.get("users", ())):
            each.pop("time_saved", None)
        if expected == NOT_SAVED:
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
            known = self.real.setdefault(made, reply.get("password", ""))
            expected = {**expected, "password": known}
        assert reply == expected, request

    def named(self, name: str | int) -> tuple[str, str]:
        """Return a name as it is typed, and as it is kept."""
        if isinstance(name, int):
            made = sorted(set(self.model.users) & self.generated) or ["nobody"]
            name = made[name % len(made)]
        return name, composed(name)

    def do_once(self, request: Request, number: int | None, act: Callable[[], Request]) -> None:
        """Send a request that saves, with a `request_id` where there is a number.

        Of two saves under one id and different names in one burst, either may be the first.
        """
        if number is not None:
            id = f"{self.example} {number}"
            request = {**request, "request_id": id}
            same = [sent for sent, _ in self.waiting if sent.get("request_id") == id]
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
            self.generated |= {name}
        assert not self.model.nameless

    # --- How requests go out. ---

    @rule(who=WHO, bursts=st.booleans())
    def go_on_elsewhere(self, who: int, bursts: bool) -> None:
        self.flush()
        self.peer = self.applications.peers[who]
        self.bursts = bursts

    # --- The requests. ---

    @rule(name=NAME, password=PASSWORD, labels=LABELS, number=ID)
    def save(
        self, name: str | int, password: str, labels: list[str] | None, number: int | None
    ) -> None:
        typed, kept = self.named(name)
        more = {} if labels is None else {"labels": labels}
        kept_labels = None if labels is None else [composed(each) for each in labels]
        self.do_once(
            save(typed, password, **more),
            number,
            lambda: self.model.save(kept, password, kept_labels),
        )

    @rule(number=ID, other=st.booleans())
    def save_nameless(self, number: int | None, other: bool) -> None:
        unique = f"{other} {number}" if number is not None else f"{next(self.counter)}"
        password = f"nameless {unique}"
        self.do_once(save(password=password), number, lambda: self.model.save(None, password))

    @rule(name=NAME, number=ID)
    def generate(self, name: str | int, number: int | None) -> None:
        typed, kept = self.named(name)
        request = {"message": "generate_password", "username": typed}
        made = f"made {next(self.counter)}"
        self.do_once(request, number, lambda: self.model.generate(kept, made))

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
                password = self.real[password]
        self.do(verify(typed, password), expected)
        self.applications.wrong += not expected["valid"]
        if self.applications.wrong == WRONG_MAX:
            self.flush()
            self.applications.change()

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
        self.do(COUNT, self.model.count())

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
        self.learn_names()
        for name in self.model.users:
            self.do(history(name), self.model.history(name))
            self.do(get(name), self.model.get(name, None))
        self.do(COUNT, self.model.count())
        self.do(listing(limit=100), self.model.listing("", "", None, 100))
        self.flush()


@pytest.fixture(scope="module")
def applications(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applications]:
    """Yield four connections to a service with a short history, two to each worker."""
    flags = ("--versions-kept", str(KEPT), "--list-users", "none")
    service = Service(tmp_path_factory.mktemp("machine"), *flags).wait_until_listening()
    tokens = [
        service.add_application(f"machine {number}", common=True) for number in range(APPLICATIONS)
    ]
    with on_each_worker(service) as one_each, on_each_worker(service) as another_each:
        yield Applications([*one_each, *another_each], tokens)
    assert service.stop() == 0
    assert "Traceback" not in service.stderr, service.stderr


def test_the_book_behaves_like_a_dictionary(applications: Applications) -> None:
    """Whatever is asked in whatever order, over whichever connection, alone or in bursts."""

    class MachineHere(Machine):
        def __init__(self) -> None:
            super().__init__(applications)

    run_state_machine_as_test(
        MachineHere,
        settings=settings(
            max_examples=120,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Applications at work in their books, over the client library, one thread an instance.

What the library raises says what is known: it repeats a save under the same request id when the
answer was lost. Each instance has names of its own, of which it knows what a reply must be, and
shares a few with the other instance of its application, where each save must get a version of its
own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial

from pwserver import (
    Client,
    Denied,
    FateUnknown,
    InvalidMessage,
    PwserverError,
    Saved,
    UnknownUser,
    UnknownVersion,
)
from tests.trials.torture import changes
from tests.trials.torture.changes import Operation
from tests.trials.torture.ledger import Ledger, Name, password_of
from tests.trials.torture.load import ANSWER_TIMEOUT_S, HOST, PAUSE_S, Source
from tests.trials.torture.state import State

SETTLING_S = 2.0
"""For as long after the book was removed, a reply may be of the one before."""

NAMES = 20
SHARED_NAMES = 3
PIPED = (2, 5, 20)
ATTEMPTS_MAX = 4
WRONG_GUESSES = 0.01
"""The share of verifications that are wrong: so few that none is held up for it."""

LABELS = ((), ("work",), ("work", "old"), ("home",))
SHARED, PLAIN, ASK = 0.2, 0.1, 0.06
"""The shares of what is not about a name of one's own."""


class Application(Source):
    """One instance of an application."""

    def __init__(
        self, application: str, instance: int, state: State, saves_per_s: float, seed: int
    ) -> None:
        super().__init__(f"{application}-{instance}", state, saves_per_s, seed)
        self.application = application
        self._numbers = itertools.count()

    def use(self) -> None:
        """Work with one client until its token is not accepted any more."""
        token = self._state.tokens.get(self.application)
        if token is None:
            time.sleep(PAUSE_S)
            return
        url = f"pwserver://{token}@{HOST}:{self._state.port}"
        with Client(url, timeout_s=ANSWER_TIMEOUT_S, attempts_max=ATTEMPTS_MAX) as client:
            while self._state.tokens.get(self.application) == token:
                self._work(client)
                self.pace(1)

    def _work(self, client: Client) -> None:
        chance = self._random.random()
        if chance < PLAIN:
            self._save_plain(client)
        elif chance < PLAIN + ASK:
            self._ask(client)
        else:
            shared = chance < PLAIN + ASK + SHARED
            begin = self._begin_shared if shared else self._begin_own
            asked_s = time.monotonic()
            with self._state.exchange(partial(self._begin, begin)) as (ledger, operation):
                problem = self._do(client, operation)
                settled = asked_s > self._state.book_since_s + SETTLING_S
                if problem and settled and self._state.ledger is ledger:
                    self.broken(f"{operation.name}: {problem}")

    def _do(self, client: Client, operation: Operation) -> str:
        """Do something to a name; return what is wrong with the reply."""
        problem, asked_s = "", time.monotonic()
        try:
            problem = operation.do(client)
        except FateUnknown:
            self.counts.unknown += 1
        except PwserverError as error:
            operation.undone()
            self.counts.refused += operation.changes
            if isinstance(error, UnknownUser | UnknownVersion | InvalidMessage):
                problem = f"{type(operation).__name__} was answered {error.message!r}"
            elif isinstance(error, Denied):
                time.sleep(PAUSE_S)  # there will be another token
        else:
            self.counts.saved += operation.changes
            self.counts.read += not operation.changes
        if time.monotonic() - asked_s > ANSWER_TIMEOUT_S:
            self.broken("a request was left hanging")
        return problem

    # --- What is to be done. ---

    def _begin(
        self, begin: Callable[[Ledger], Operation], ledger: Ledger
    ) -> tuple[Ledger, Operation]:
        operation = begin(ledger)
        operation.begin()
        return ledger, operation

    def _begin_own(self, ledger: Ledger) -> Operation:
        """Choose what to do to a name that nobody else uses; not one of which anything is open."""
        names = [f"{self.name}-{number}" for number in range(NAMES)]
        known = {name: ledger.names.get(name) for name in names}
        clear = [name for name, each in known.items() if each is None or not each.clouded]
        if not clear:
            return self._begin_shared(ledger)
        name = self._random.choice(clear)
        user = ledger.name(self.application, name)
        return self._new_operation(name, user) if user.versions else self._save(name, user, LABELS)

    def _new_operation(self, name: str, user: Name) -> Operation:
        """Choose what to do to a user that is there."""
        older = self._random.choice(sorted(user.versions))
        operations: list[tuple[float, Callable[[], Operation]]] = [
            (25, lambda: self._save(name, user, (None, *LABELS))),
            (25, lambda: changes.Get(name, user, self._random.choice([user.newest, older]))),
            (8, lambda: changes.Verify(name, user, wrong=self._random.random() < WRONG_GUESSES)),
            (8, lambda: changes.Label(name, user, self._random.choice(LABELS))),
            (8, lambda: changes.Restore(name, user, older)),
            (6, lambda: changes.Delete(name, user)),
            (6, lambda: changes.Generate(name, user)),
            (5, lambda: changes.History(name, user)),
            (5, lambda: changes.Page(name, user)),
        ]
        weights = [weight for weight, _ in operations]
        _, make = self._random.choices(operations, weights)[0]
        return make()

    def _save(self, name: str, user: Name, labels: tuple[tuple[str, ...] | None, ...]) -> Operation:
        whose = f"{name}@{self.name}"
        password = password_of(self._state.canary, whose, next(self._numbers))
        return changes.Save(name, user, password, self._random.choice(labels))

    def _begin_shared(self, ledger: Ledger) -> Operation:
        """Choose what to do to a name that the other instance uses as well."""
        name = f"{self.application}-shared-{self._random.randrange(SHARED_NAMES)}"
        user = ledger.name(self.application, name)
        if user.versions and self._random.random() < 0.5:
            return changes.GetShared(name, user, f"{self._state.canary}/{name}@")
        return self._save(name, user, (None,))

    # --- What is about no name. ---

    def _save_plain(self, client: Client) -> None:
        """Save some passwords without names, in one pipeline."""
        size = self._random.choice(PIPED)
        begin = partial(self._begin_plain, size)
        with self._state.exchange(begin) as (ledger, numbers):
            many = client.pipeline()
            for number in numbers:
                many.save_password(password_of(self._state.canary, self.name, number))
            for number, result in zip(numbers, many.execute(), strict=True):
                if isinstance(result, Saved):
                    ledger.source(self.name).saved(number)
                    self.counts.saved += 1
                    self.counts.unknown -= 1
                elif not isinstance(result, FateUnknown):
                    ledger.source(self.name).refused(number)
                    self.counts.refused += 1
                    self.counts.unknown -= 1
        self.pace(size)

    def _begin_plain(self, size: int, ledger: Ledger) -> tuple[Ledger, range]:
        self.counts.unknown += size  # until they are answered
        return ledger, ledger.source(self.name).begin(size)

    def _ask(self, client: Client) -> None:
        """Ask something that depends on no name."""
        password = password_of(self._state.canary, self.name, 0)
        asks: list[Callable[[], object]] = [
            client.number_of_users,
            client.status,
            client.generate_password,
            lambda: client.check_password(password),
        ]
        ask = self._random.choice(asks)
        with self._state.exchange(lambda ledger: ledger):
            ask()
            self.counts.read += 1

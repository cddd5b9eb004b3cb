"""Who uses the hosts: guests and applications, each at one host, and roamers, who go to all.

What is asked, and the model of what was acknowledged, are the torture's (`tests.trials.torture`):
applications save, read, label and delete names of their own, and save names that instances at
other hosts save as well. All use the client library with its default settings.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from pwserver import FateUnknown, PwserverError, Saved
from pwserver.client import commands
from pwserver.client.commands import Call
from tests.trials.failover.hosts import Host
from tests.trials.failover.watch import Watch, WatchedClient
from tests.trials.torture.applications import Application
from tests.trials.torture.ledger import Ledger, Name, Numbers, password_of
from tests.trials.torture.load import PAUSE_S, Source
from tests.trials.torture.state import Over, State

COUNTS = 0.05
"""The share of counts of what guests ask."""

AT_TWO, AGAIN, NAMED = 0.3, 0.3, 0.5
"""How often a roamer asks two hosts at once, asks again after the answer, and saves a name."""

ROAMED_NAMES = 20


class Guest(Source):
    """Saves without a name and without a request id, and counts, at one host."""

    def __init__(self, host: Host, watch: Watch, state: State, rate: float, seed: int) -> None:
        super().__init__(f"guest-{host.number}", state, rate, seed)
        self._host = host
        self._watch = watch

    def use(self) -> None:
        """Save and count until something fails."""
        with WatchedClient(self._host.url(), self._watch) as client:
            while True:
                with self._state.exchange(self._begin) as (numbers, number):
                    self._save(client, numbers, number)
                if self._random.random() < COUNTS:
                    client.number_of_users()
                self.pace(1)

    def _begin(self, ledger: Ledger) -> tuple[Numbers, int]:
        numbers = ledger.source(self.name)
        return numbers, numbers.begin(1)[0]

    def _save(self, client: WatchedClient, numbers: Numbers, number: int) -> None:
        call = without_request_id(
            commands.save_password(password_of(self._state.canary, self.name, number))
        )
        try:
            ask(client, call)
        except FateUnknown:
            self.counts.unknown += 1
            raise
        except PwserverError:
            numbers.refused(number)
            self.counts.refused += 1
            raise
        numbers.saved(number)
        self.counts.saved += 1


class Instance(Application):
    """An instance of an application at one host."""

    def __init__(  # noqa: PLR0913, PLR0917 - as `Application`, at a host
        self, application: str, host: Host, watch: Watch, state: State, rate: float, seed: int
    ) -> None:
        super().__init__(application, host.number, state, rate, seed)
        self._host = host
        self._watch = watch

    def use(self) -> None:
        """Work with one client."""
        url = self._host.url(self._state.tokens[self.application])
        with WatchedClient(url, self._watch) as client:
            while True:
                self._work(client)
                self.pace(1)


class Roamer(Source):
    """An application that asks the next host where one gives no answer, with the same request id.

    So each of its saves is acknowledged in the end, once, whichever hosts were asked.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - as `Application`, at all hosts
        self,
        application: str,
        hosts: Sequence[Host],
        watches: Sequence[Watch],
        state: State,
        rate: float,
        seed: int,
    ) -> None:
        super().__init__(f"{application}-roamer", state, rate, seed)
        self.application = application
        self._hosts = hosts
        self._watches = watches
        self._saves = 0

    def use(self) -> None:
        """Save, and never give up."""
        token = self._state.tokens[self.application]
        with ExitStack() as stack:
            self._threads = stack.enter_context(ThreadPoolExecutor(2))
            pairs = zip(self._hosts, self._watches, strict=True)
            made = [WatchedClient(host.url(token), watch) for host, watch in pairs]
            clients = [stack.enter_context(each) for each in made]
            while True:
                self._save_one(clients)
                self.counts.saved += 1
                self.pace(1)

    def _save_one(self, clients: Sequence[WatchedClient]) -> None:
        self._saves += 1
        if self._random.random() < NAMED:
            name = f"{self.name}-{self._random.randrange(ROAMED_NAMES)}"
            with self._state.exchange(partial(self._begin_named, name)) as (known, password):
                self._save_named(clients, name, known, password)
        else:
            with self._state.exchange(self._begin_plain) as (numbers, number):
                password = password_of(self._state.canary, self.name, number)
                self._save(clients, commands.save_password(password))
                numbers.saved(number)

    def _begin_plain(self, ledger: Ledger) -> tuple[Numbers, int]:
        numbers = ledger.source(self.name)
        return numbers, numbers.begin(1)[0]

    def _begin_named(self, name: str, ledger: Ledger) -> tuple[Name, str]:
        known = ledger.name(self.application, name)
        password = password_of(self._state.canary, name, self._saves)
        known.open.add(password)
        return known, password

    def _save_named(
        self, clients: Sequence[WatchedClient], name: str, known: Name, password: str
    ) -> None:
        saved = self._save(clients, commands.save_password(password, username=name))
        assert saved.version is not None
        if problem := known.saved(saved.version, password):
            self.broken(problem)

    def _save(self, clients: Sequence[WatchedClient], call: Call[Saved]) -> Saved:
        """Ask one host after the other, or two at once, until one has acknowledged it."""
        order = self._random.sample(clients, len(clients))
        saved: Saved | None = None
        if self._random.random() < AT_TWO:
            asked = [self._threads.submit(self._try, client, call) for client in order[:2]]
            for each in asked:
                saved = self._same(saved, each.result())
        while saved is None:
            if self._state.over:
                raise Over
            saved = self._try(order[0], call)
            order.append(order.pop(0))
            if saved is None:
                time.sleep(PAUSE_S)
        if self._random.random() < AGAIN:
            saved = self._same(saved, self._try(order[0], call)) or saved
        return saved

    def _try(self, client: WatchedClient, call: Call[Saved]) -> Saved | None:
        try:
            return ask(client, call)
        except FateUnknown:
            self.counts.unknown += 1
        except PwserverError:
            self.counts.refused += 1
        return None

    def _same(self, one: Saved | None, other: Saved | None) -> Saved | None:
        if one and other and one != other:
            self.broken(f"one request id was answered with versions {one.version}, {other.version}")
        return one or other


def ask(client: WatchedClient, call: Call[Saved]) -> Saved:
    """Do a call that was made by one of `commands`."""
    many = client.pipeline()
    pending = many.add(call)
    many.execute()
    return pending.result()


def without_request_id(call: Call[Saved]) -> Call[Saved]:
    """Return a save as the basic contract has it, which must not be sent again by itself."""
    request = json.loads(call.request)
    del request["request_id"]
    return dataclasses.replace(call, request=json.dumps(request).encode() + b"\n", repeatable=False)

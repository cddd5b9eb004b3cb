"""The failover trial finds what is wrong, and a short run of it: the primary is killed once."""

import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from pwserver import Client, FateUnknown, NotSaved, Saved
from pwserver.client import commands
from tests.conftest import Start
from tests.trials.failover.__main__ import SCENARIOS
from tests.trials.failover.parts import Parts, find_parts
from tests.trials.failover.watch import NOT_SAVED, OPEN, SAVED, Watch
from tests.trials.report import TrialFailed
from tests.trials.torture.inspection import look
from tests.trials.torture.ledger import Ledger, password_of

PLACE = Path("/tmp")
"""Where the user that the cluster runs as may enter, and sockets have short names."""


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Return the parts of a cluster; skip the test if one is not installed."""
    try:
        return find_parts()
    except TrialFailed as missing:
        pytest.skip(str(missing))


@pytest.mark.timeout(400)
def test_a_killed_primary_loses_nothing(parts: Parts) -> None:
    """Kill the primary once under three hosts: all promises are kept, and each saves again."""
    from tests.trials.failover.trial import Plan, run_plan  # noqa: PLC0415 - it needs psycopg

    plan = Plan(order=["postgres"], seed=1, seconds=60, within_s=30, saves_per_s=100)
    tally = run_plan(plan, parts, PLACE, Console(quiet=True))
    assert tally.broken == []
    assert tally.whole
    killed = tally.measured["postgres"]
    assert (killed.times, len(killed.resumed_s), tally.looks) == (1, 3, 2)
    assert tally.acknowledged > 50
    assert killed.outcomes[SAVED] == tally.acknowledged


GUEST = "guest"


@pytest.mark.postgres
@pytest.mark.parametrize("engine", ["postgres"], indirect=True, scope="module")
def test_what_is_lost_or_doubled_in_a_database_is_found(start: Start) -> None:
    """A row that is gone, and a number of users that is another, are found, each as what it is."""
    import psycopg  # noqa: PLC0415 - not installed everywhere

    from tests.trials.failover.looking import PostgresBook  # noqa: PLC0415

    service = start()
    ledger = Ledger()
    numbers = ledger.source(GUEST)
    known = ledger.name("red", "alice")
    token = service.add_application("red")
    with Client(f"pwserver://{token}@127.0.0.1:{service.port}") as red, service.peer() as guest:
        for number in numbers.begin(3):
            guest.save(password_of("canary", GUEST, number))
            numbers.saved(number)
        for version in (1, 2):
            red.save_password(password_of("canary", "alice", version), username="alice")
            assert not known.saved(version, password_of("canary", "alice", version))

    def found(*statements: str) -> Counter[str]:
        with psycopg.connect(service.url_of_database) as connection:
            for statement in statements:
                connection.execute(statement)
            book = PostgresBook(connection)
            findings = look(book, service.key_file, ledger, {GUEST: ""}, whole=True)
            connection.rollback()
        return findings.count

    assert found() == {}
    assert found('DELETE FROM "user" WHERE username IS NOT NULL') == {"lost": 1, "half-written": 1}
    ledger.names["alice"] = known
    one = 'SELECT min(id) FROM "user" WHERE username IS NULL'
    less = "UPDATE writer SET users = users - 1 WHERE id = (SELECT min(id) FROM writer)"
    assert found(f'DELETE FROM "user" WHERE id = ({one})', less) == {"lost": 1}


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without etcd there is one sentence that says how to install it."""
    for module in ("psycopg", "psutil"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    with pytest.raises(TrialFailed, match="etcd is missing: apt-get install etcd-server"):
        find_parts()


def test_all_scenarios_are_there() -> None:
    """What the command names is what there is."""
    pytest.importorskip("psycopg", reason="needs psycopg, which is not installed")
    from tests.trials.failover.faults import FAULTS  # noqa: PLC0415 - it needs psycopg

    assert tuple(FAULTS) == SCENARIOS


def test_a_pause_is_the_longest_between_two_saves() -> None:
    """Of those that are in the time, or reach into it."""
    watch = Watch()
    watch.acknowledged.extend([1.0, 2.0, 9.0, 9.5])
    assert watch.pause(5.0, 9.6) == 7.0
    assert watch.pause(9.2, 9.6) == 0.5
    assert watch.pause(9.2, 20.0) == 10.5
    assert watch.next_after(2.5) == 9.0
    assert watch.next_after(9.5) is None


def test_each_answer_is_counted_as_what_it_is() -> None:
    """A save is acknowledged, certainly not done, or open; what only reads is neither."""
    save, read = commands.save_password("abc123"), commands.number_of_users()
    results = [Saved(), NotSaved("no"), FateUnknown("perhaps"), 7]
    watch = Watch()
    watch.note([save, save, save, read], results, began=0.0)
    assert watch.outcomes == {SAVED: 1, NOT_SAVED: 1, OPEN: 1}
    assert len(watch.acknowledged) == 1
    assert (watch.hung, watch.reasons["NotSaved: no"]) == (1, 1)

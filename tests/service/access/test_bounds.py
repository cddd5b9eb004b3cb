"""What bounds an application while the service runs: when its token expires, from where it may
come, and how much it may use. How it is counted is the matter of `test_applications` and
`test_usage`."""

import contextlib
import itertools
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from pwserver.errors import AdministrationRefused
from pwserver.networks import stored
from pwserver.wire.messages import RIGHTS
from tests.conftest import Start
from tests.support.books_wire import (
    DENIED,
    PING,
    Request,
    ask_all,
    at_once,
    delete,
    denied,
    generated_names,
    get,
    password_of,
    peer_from,
    peers_at,
    save,
    saved,
)
from tests.support.harness import Peer, Service, eventually
from workers.auth.applications import CROWDED, EXPIRED, MISPLACED
from workers.book.models import ApplicationRow, time_saved

NOTICED_S = 1.0
"""Within which open connections notice what an administrator has done."""

_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    """Return the name of an application that no other test has."""
    return f"bounded {next(_numbers)}"


def row_of(service: Service, name: str) -> ApplicationRow:
    """Return an application's row."""
    with service.administration() as files:
        return next(row for row in files.applications() if row.name == name)


def change(service: Service, name: str, **columns: Any) -> None:
    """Change columns of an application's row, as an administrator may."""
    with service.administration() as files:
        files.set_columns(name, **columns)


def is_good(service: Service, token: str) -> bool:
    """Tell whether a token is accepted on a new connection from another address."""
    with peer_from(service, "127.0.10.1") as peer:
        return bool(peer.authenticate(token) != DENIED)


def because(reason: str) -> Request:
    """Return the reply `Denied!` with a reason."""
    return {"message": "Denied!", "error": reason}


def errors(replies: Sequence[Request]) -> set[str | None]:
    """Return the reasons of replies."""
    return {reply.get("error") for reply in replies}


# --- Until when. ---


def test_a_token_expires_on_open_connections(shared_service: Service, name: str) -> None:
    """Within a second nothing is done with it any more; `status` says before when that will be."""
    with shared_service.administration() as files:
        token = files.add(name, RIGHTS, common=False, lifetime_s=3600).reveal()
    expires_ms = row_of(shared_service, name).expires_ms
    assert 3500 < expires_ms / 1000 - time.time() <= 3600
    with shared_service.peer() as peer, shared_service.peer() as other:
        assert peer.authenticate(token)["application"] == name
        assert peer.ask(save("a", "kept")) == saved("a", 1)
        status = peer.ask({"message": "status"})
        assert status["token_expires"] == time_saved(expires_ms)
        change(shared_service, name, expires_ms=time.time_ns() // 1_000_000)
        eventually(lambda: peer.ask(get("a")) == because(EXPIRED), "it expires", NOTICED_S)
        assert ask_all(peer, [save(), save("a"), delete("a")]) == [DENIED] * 3
        assert other.authenticate(token) == because(EXPIRED)
        assert other.ask(save()) == DENIED, "not even what a guest may do"
        with shared_service.administration() as files:
            new = files.rotate(name, 3600).reveal()
        assert peer.authenticate(new)["application"] == name
        assert password_of(peer, "a") == "kept"
        assert peer.authenticate(token) == DENIED, "a grace period is no new life"
    lifetime_ms = row_of(shared_service, name).expires_ms - time.time() * 1000
    assert 3_500_000 < lifetime_ms <= 3_600_000, "the new one lives as long as the old one did"
    assert f"the token of application '{name}' expires at" in shared_service.stderr
    assert f"the token of application '{name}' expired at" in shared_service.stderr


def test_status_says_nothing_of_a_token_for_ever(shared_service: Service, name: str) -> None:
    """The member is there only for a token that expires."""
    with shared_service.peer() as peer:
        peer.authenticate(shared_service.add_application(name))
        assert "token_expires" not in peer.ask({"message": "status"})


def test_the_grace_period_ends_with_the_old_token(shared_service: Service, name: str) -> None:
    """It is not good for longer than was said when it was made."""
    with shared_service.administration() as files:
        files.add(name, RIGHTS, common=False, lifetime_s=60)
        (added,) = (row for row in files.applications() if row.name == name)
        files.rotate(name, 3600, lifetime_s=7200)
        (rotated,) = (row for row in files.applications() if row.name == name)
        files.rotate(name, 3600, lifetime_s=0)
        (endless,) = (row for row in files.applications() if row.name == name)
    assert rotated.previous_until_ms == added.expires_ms
    assert rotated.expires_ms > added.expires_ms + 3_600_000
    assert (endless.expires_ms, endless.lifetime_ms) == (0, 0)


# --- From where. ---


def test_a_token_is_good_in_its_networks_alone(shared_service: Service, name: str) -> None:
    """Elsewhere it is denied, leaves no rights, and is recorded under the application's name."""
    networks = stored(["127.0.9.0/24", "unix"])
    with shared_service.administration() as files:
        token = files.add(name, RIGHTS, common=False, networks=networks).reveal()
    with (
        peer_from(shared_service, "127.0.9.1") as here,
        peer_from(shared_service, "127.0.10.1") as there,
    ):
        assert here.authenticate(token)["application"] == name
        assert here.ask(save("a", "kept")) == saved("a", 1)
        assert there.authenticate(token) == because(MISPLACED)
        assert ask_all(there, [save(), get("a")]) == [DENIED] * 2
        record = (shared_service.folder / "user_data.audit").read_text()
        refused = [line for line in record.splitlines() if "127.0.10.1:" in line]
        assert f'"application":"{name}"' in refused[0].replace('": "', '":"')
        change(shared_service, name, networks="")
        eventually(partial(is_good, shared_service, token), "it is good anywhere")
        assert there.authenticate(token)["application"] == name
        assert password_of(there, "a") == "kept"
        change(shared_service, name, networks=networks)
        eventually(lambda: there.ask(get("a")) == because(MISPLACED), "it is lost", NOTICED_S)
        assert password_of(here, "a") == "kept"


# --- How much. ---


def known(service: Service, name: str, peers: Sequence[Peer], **quotas: int) -> str:
    """Register an application with quotas, show its token on connections and return it.

    A worker that sees the token for the first time reads the row, with the quotas in it.
    """
    service.add_application(name)
    change(service, name, **quotas)
    with service.administration() as files:
        token = files.rotate(name, 0).reveal()
    for peer in peers:
        assert peer.authenticate(token)["application"] == name
    return token


def test_a_book_gets_no_more_users_than_its_quota(shared_service: Service, name: str) -> None:
    """Exactly, although both workers save at once; what makes no user is saved nevertheless."""
    with (
        peers_at(shared_service, "worker 1") as (one,),
        peers_at(shared_service, "worker 2") as (two,),
    ):
        known(shared_service, name, [one, two], users_max=40)
        replies: list[list[Request]] = [[], []]

        def fill(index: int, peer: Peer) -> None:
            requests = [save(), save(f"{index}"), save("both"), save("one more", labels=["a"])]
            more = [save(f"{index}.{number}") for number in range(30)]
            replies[index] = ask_all(peer, [*requests, *more, *[save()] * 30])

        at_once([lambda: fill(0, one), lambda: fill(1, two)])
        listed = one.ask({"message": "list_users", "limit": 100})["users"]
        assert len(listed) == 40
        refused = [
            reply for each in replies for reply in each if reply["message"] != "Password saved!"
        ]
        assert errors(refused) == {"The application has 40 users, as many as it may have."}
        assert {reply["message"] for reply in refused} == {"Not saved!"}
        assert one.ask(save("both"))["version"] == 3
        assert two.ask(save("new"))["message"] == "Not saved!"
        assert two.ask(delete("both"))["message"] == "User deleted!"
        assert two.ask(save("new")) == saved("new", 1)
        assert one.ask(save())["message"] == "Not saved!"
        with shared_service.peer() as guest:
            assert guest.save() == {"message": "Password saved!"}, "nobody else is concerned"


def test_a_common_book_has_no_quota_of_users(shared_service: Service, name: str) -> None:
    """Nobody could tell whose users they are."""
    shared_service.add_application(name, common=True)
    with pytest.raises(AdministrationRefused, match="has no book of its own"):
        change(shared_service, name, users_max=5)


def test_saves_beyond_the_rate_are_not_saved(shared_service: Service, name: str) -> None:
    """Of all kinds and on all connections together; reading, deleting and others go on."""
    with (
        shared_service.peer() as one,
        shared_service.peer() as two,
        shared_service.peer() as guest,
    ):
        known(shared_service, name, [one, two], saves_per_s=5)
        began = time.monotonic()
        replies = ask_all(one, [save("a"), *[save()] * 50, save("b")])
        replies += ask_all(two, [{"message": "generate_password", "username": "c"}, save()])
        took_s = time.monotonic() - began
        done = [reply for reply in replies if reply["message"] != "Not saved!"]
        assert replies[0] == saved("a", 1)
        assert 5 <= len(done) <= 5 + 5 * took_s + 1
        refused = [reply for reply in replies if reply["message"] == "Not saved!"]
        assert errors(refused) == {"This application may save 5 times a second, and no more."}
        assert password_of(two, "a") == "abc123"
        assert {reply["message"] for reply in ask_all(guest, [save()] * 50)} == {"Password saved!"}
        eventually(lambda: one.ask(save("d")) == saved("d", 1), "it may save again", 5.0)
        change(shared_service, name, saves_per_s=0)
        eventually(
            lambda: errors(ask_all(two, [save()] * 50)) == {None},
            "it may save as often as it likes",
        )


def test_guests_may_be_limited_too(start: Start) -> None:
    """All of them together; applications are not concerned."""
    service = start("--guest-saves-per-s", "5")
    with service.peer() as one, service.peer() as two, service.owner() as owner:
        began = time.monotonic()
        replies = ask_all(one, [save()] * 30) + ask_all(two, [save(request_id="once"), save()])
        took_s = time.monotonic() - began
        done = [reply for reply in replies if reply["message"] == "Password saved!"]
        assert 5 <= len(done) <= 5 + 5 * took_s + 1
        refused = [reply for reply in replies if reply not in done]
        said = "Clients without a token may save 5 times a second, and no more."
        assert errors(refused) == {said}
        assert errors(ask_all(owner, [save()] * 50)) == {None}


def test_guests_may_have_a_ceiling_of_users(start: Start) -> None:
    """It is of the common book, so that whoever may delete there makes room; others are free."""
    service = start("--guest-users-max", "20")
    said = "The common book has 20 users; clients without a token may make no more."
    with service.peer() as one, service.peer() as two, service.owner() as owner:
        assert owner.ask(save("named")) == saved("named", 1)
        replies = ask_all(one, [save(request_id="first"), *[save()] * 29]) + ask_all(two, [save()])
        done = [reply for reply in replies if reply["message"] == "Password saved!"]
        assert len(done) == 19
        assert {reply["message"] for reply in replies} == {"Password saved!", "Not saved!"}
        assert errors(replies) == {None, said}
        assert one.ask(save(request_id="first")) == {"message": "Password saved!"}, "it is there"
        assert owner.ask(save("another")) == saved("another", 1)
        assert owner.ask(save()) == {"message": "Password saved!"}
        for name in ("named", "another"):
            assert owner.ask(delete(name)) == {"message": "User deleted!"}
        assert errors([two.ask(save())]) == {said}, "the owner's other user counts"
        assert owner.ask(delete(generated_names(owner)[0])) == {"message": "User deleted!"}
        assert errors([two.ask(save()), one.ask(save())]) == {None, said}


def test_connections_beyond_the_quota_are_not_let_in(shared_service: Service, name: str) -> None:
    """They have no rights at all, until another connection is closed; showing the token again, or
    a new one, takes no second place."""
    with contextlib.ExitStack() as stack:
        one, two, third = (stack.enter_context(shared_service.peer()) for _ in range(3))
        token = known(shared_service, name, [one, two], connections_max=2)
        crowded = {"message": "Unavailable!", "error": CROWDED.why_not}
        assert third.authenticate(token) == crowded
        assert ask_all(third, [save(), PING]) == [because(CROWDED.why_not), {"message": "Alive!"}]
        assert one.authenticate(token)["application"] == name
        with shared_service.administration() as files:
            new = files.rotate(name, 3600).reveal()
        assert one.authenticate(new)["application"] == name
        assert third.authenticate(new) == crowded
        other = shared_service.add_application(f"not {name}")
        assert two.authenticate(other)["application"] == f"not {name}"
        assert third.authenticate(token)["application"] == name
        assert two.authenticate(token) == crowded
        third.close()
        eventually(lambda: two.authenticate(token) != crowded, "there is a place")
        assert two.authenticate("pwserver_" + "C" * 43) == denied()
        again = stack.enter_context(shared_service.peer())
        eventually(lambda: again.authenticate(token) != crowded, "a wrong token leaves a place")

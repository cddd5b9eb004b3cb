"""A row of `request` that was altered repeats no answer: it could give out another password."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pwserver.errors import NotSaved
from pwserver.wire.messages import GeneratePassword, SavePassword
from tests.support.books import Client
from tests.support.planning import Planner
from workers.serving.mutations import Generate, Save
from workers.storage.answers import at_once
from workers.storage.operations import DONE

REQUEST = GeneratePassword(username="alice", request_id="r1")
NOT_THE_SAME = 'The "request_id" belongs to an earlier request'


@pytest.fixture
def planner(tmp_path: Path) -> Iterator[Planner]:
    """Return a book in which `REQUEST` has made the second version of alice's password."""
    with Planner(tmp_path / "user_data.db") as planner:
        planner.do(SavePassword("the first", "alice"))
        generated = Generate(planner.context, Client(), REQUEST, "the second")
        assert planner.store.commit([], [at_once(generated.plan())]) == [DONE]
        yield planner


def answer_again(planner: Planner, request: GeneratePassword = REQUEST) -> bytes:
    """Return the reply to a request that was done before; raise a `Refused`."""
    generated = Generate(planner.context, Client(), request, "never saved")
    (result,) = planner.store.commit([], [at_once(generated.plan())])
    return at_once(generated.done(result))


def test_the_password_is_given_out_again(planner: Planner) -> None:
    """As long as the row is as the service has made it."""
    assert b'"password":"the second","username":"alice","version":2' in answer_again(planner)


@pytest.mark.parametrize("altered", ["version", "user_id", "fingerprint"])
def test_an_altered_row_gives_out_nothing(planner: Planner, altered: str) -> None:
    """Neither an older version nor another user's password."""
    planner.store.connection.execute(f"UPDATE request SET {altered} = {altered} - 1")
    with pytest.raises(NotSaved, match=NOT_THE_SAME):
        answer_again(planner)


def test_a_row_of_another_request_gives_out_nothing(planner: Planner) -> None:
    """Its fingerprint is genuine, but of another `request_id`."""
    planner.do(SavePassword("the third", "alice", request_id="r2"))
    planner.store.connection.execute("DELETE FROM request WHERE request_id = 'r1'")
    planner.store.connection.execute("UPDATE request SET request_id = 'r1'")
    with pytest.raises(NotSaved, match=NOT_THE_SAME):
        answer_again(planner)


def test_the_id_of_a_message_may_change(planner: Planner) -> None:
    """A client that sends a request again may number it anew, but may change nothing else."""
    answer_again(planner, GeneratePassword(username="alice", request_id="r1", id=7))
    with pytest.raises(NotSaved, match=NOT_THE_SAME):
        answer_again(planner, GeneratePassword(username="alice", request_id="r1", length=30))


def test_a_save_is_as_strict(planner: Planner) -> None:
    """Another password under the same `request_id` is not taken for saved."""
    planner.do(SavePassword("x", "bob", request_id="r3"))
    again = Save(planner.context, Client(), SavePassword("y", "bob", request_id="r3"), "y")
    (result,) = planner.store.commit([], [at_once(again.plan())])
    with pytest.raises(NotSaved, match=NOT_THE_SAME):
        at_once(again.done(result))

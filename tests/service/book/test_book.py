"""Each command of the book and what it answers, on a real service."""

import itertools
import string
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pwserver import __version__
from pwserver.wire.messages import LABELS_MAX, REQUESTS
from tests.conftest import Start
from tests.support.books_wire import (
    COUNT,
    DELETED,
    PING,
    UNKNOWN_USER,
    UNKNOWN_VERSION,
    Request,
    ask_all,
    delete,
    generated_names,
    get,
    history,
    label,
    listing,
    names,
    password_of,
    restore,
    save,
    saved,
    verify,
    versions_of,
)
from tests.support.engines import BOTH_ENGINES
from tests.support.harness import SAVED, Peer, Service

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """Return a name that no other test uses."""
    return f"name {next(_numbers)}"


@pytest.fixture
def client(shared_service: Service) -> Any:
    """Yield a connection to the service of this file."""
    with shared_service.owner() as peer:
        yield peer


def listed(peer: Peer, username: str) -> Request:
    """Return what a listing says of a user."""
    (user,) = peer.ask(listing(prefix=username, limit=1))["users"]
    assert user["username"] == username
    found: Request = user
    return found


def moment(text: str) -> datetime:
    """Return a time on the wire, which is UTC and lately."""
    time = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=2)
    return time


# --- Saving and getting. ---


def test_a_saved_password_can_be_got(client: Peer, name: str) -> None:
    """What was saved under a name is answered for the name, with its version and time."""
    password = 'pass "\\/ \N{SNOWMAN}\N{GRINNING FACE}\n\t'
    assert client.ask(save(name, password)) == saved(name, 1)
    reply = client.ask(get(name))
    moment(reply.pop("time_saved"))
    assert reply == {
        "message": "return_password",
        "username": name,
        "password": password,
        "version": 1,
    }


def test_the_longest_password_and_name_are_kept_whole(client: Peer) -> None:
    """A value at its limit is a value like any other."""
    longest = "n" * 128
    assert client.ask(save(longest, "\N{GRINNING FACE}" * 4096)) == saved(longest, 1)
    assert password_of(client, longest) == "\N{GRINNING FACE}" * 4096


def test_a_known_name_gets_a_new_version(client: Peer, name: str) -> None:
    """The first save makes a user, the others do not; each version can still be got."""
    before = client.count()
    assert ask_all(client, [save(name, f"p{n}") for n in (1, 2, 3)]) == [
        saved(name, n) for n in (1, 2, 3)
    ]
    assert client.count() == before + 1
    assert [password_of(client, name, version=n) for n in (1, 2, 3)] == ["p1", "p2", "p3"]
    assert password_of(client, name) == "p3"


def test_a_save_without_a_name_stays_the_seeds(client: Peer) -> None:
    """Its answer is the contract's to the byte, and each makes a user with a name of its own."""
    before = generated_names(client)
    client.send(save(), save())
    assert [client.line(), client.line()] == [SAVED, SAVED]
    made = [each for each in generated_names(client) if each not in before]
    assert len(made) == 2
    assert all(password_of(client, each) == "abc123" for each in made)


def test_a_generated_name_is_a_name(client: Peer) -> None:
    """Everything that is done to a user can be done to one whose name the service made."""
    before = generated_names(client)
    client.ask(save(password="one", labels=["x"]))
    (made,) = set(generated_names(client)) - set(before)
    assert listed(client, made)["labels"] == ["x"]
    assert client.ask(save(made, "two")) == saved(made, 2)
    assert client.ask(verify(made, "two"))["valid"] is True
    assert client.ask(restore(made, 1))["version"] == 3
    assert client.ask(label(made, "y"))["labels"] == ["y"]
    assert versions_of(client, made) == [3, 2, 1]
    assert client.ask(delete(made)) == DELETED
    assert client.ask(get(made)) == UNKNOWN_USER


def test_names_of_the_generated_form_are_made_by_the_service_alone(client: Peer) -> None:
    """Nobody can take the name that a user will get; what only looks like one is a plain name."""
    before = client.count()
    assert client.ask(save("user-0123456789abc")) == UNKNOWN_USER
    generate = {"message": "generate_password", "username": "user-0123456789abc"}
    assert client.ask(generate) == UNKNOWN_USER
    assert client.count() == before
    for alike in ("user-0123456789ABC", "user-8123456789abc", "user-0123456789ab", "user-"):
        assert client.ask(save(alike)) == saved(alike, 1)
        assert password_of(client, alike) == "abc123"


def test_what_is_not_there_is_said(client: Peer, name: str) -> None:
    """Each command that needs a user says that there is none; versions likewise."""
    for request in (get(name), get(name, version=1), history(name), restore(name, 1)):
        assert client.ask(request) == UNKNOWN_USER
    for request in (label(name, "x"), delete(name)):
        assert client.ask(request) == UNKNOWN_USER
    client.ask(save(name))
    for version in (2, 2**53 - 1):
        assert client.ask(get(name, version=version)) == UNKNOWN_VERSION
        assert client.ask(restore(name, version)) == UNKNOWN_VERSION
    assert versions_of(client, name) == [1]


def test_names_compare_as_exact_text(client: Peer, name: str) -> None:
    """Case, accents and spaces within a name matter; how the letters were typed does not."""
    composed, decomposed = f"{name} \N{LATIN SMALL LETTER E WITH ACUTE}", f"{name} e\u0301"
    assert client.ask(save(decomposed, "one")) == saved(composed, 1)
    assert client.ask(save(composed, "two")) == saved(composed, 2)
    assert client.ask(get(decomposed))["username"] == composed
    assert client.ask(verify(decomposed, "two"))["valid"] is True
    assert names(client, prefix=decomposed) == [composed]
    for other in (f"{name} e", composed.upper(), composed.replace(" ", "  ")):
        assert client.ask(get(other)) == UNKNOWN_USER


def test_a_name_that_is_answered_can_be_asked_for(client: Peer) -> None:
    """The normal form of a name may be longer than what was typed: it is a name all the same."""
    typed = "\N{HEBREW LETTER SHIN WITH DAGESH AND SHIN DOT}" * 100
    assert len(unicodedata.normalize("NFC", typed)) == 300
    reply = client.ask(save(typed))
    if reply["message"] == "Invalid message!":
        return  # refused whole, which is as well
    assert client.ask(get(reply["username"]))["message"] == "return_password"
    after = client.ask(listing(after=reply["username"]))
    assert after["message"] == "return_users"


# --- Versions. ---


def test_history_shows_what_is_kept_and_no_values(client: Peer, name: str) -> None:
    """Newest first, the newest and ten older ones, each with its time."""
    ask_all(client, [save(name, f"secret{n}") for n in range(1, 15)])
    client.send(history(name))
    line = client.line()
    assert b"secret" not in line
    assert versions_of(client, name) == list(range(14, 3, -1))
    assert client.ask(get(name, version=3)) == UNKNOWN_VERSION
    assert client.ask(restore(name, 3)) == UNKNOWN_VERSION
    assert password_of(client, name, version=4) == "secret4"
    times = [moment(entry["time_saved"]) for entry in client.ask(history(name))["versions"]]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("kept", [0, 2])
def test_how_many_versions_are_kept_is_a_setting(start: Start, kept: int) -> None:
    """As many older versions as the setting says, for saves and restores; none at 0."""
    with start("--versions-kept", str(kept)).owner() as peer:
        ask_all(peer, [save("a", f"p{n}") for n in range(1, 6)])
        assert versions_of(peer, "a") == list(range(5, 4 - kept, -1))
        assert peer.ask(restore("a", 5))["version"] == 6
        assert versions_of(peer, "a") == list(range(6, 5 - kept, -1))
        assert password_of(peer, "a") == "p5"


def test_fewer_kept_versions_take_effect_with_the_next_save(start: Start) -> None:
    """Started with a smaller setting, a user's history shrinks when it is saved to."""
    service = start()
    with service.owner() as peer:
        ask_all(peer, [save("a", f"p{n}") for n in range(1, 9)])
    assert service.stop() == 0
    with start("--versions-kept", "3").owner() as peer:
        assert versions_of(peer, "a") == list(range(8, 0, -1))
        peer.ask(save("a", "p9"))
        assert versions_of(peer, "a") == [9, 8, 7, 6]


def test_a_restored_version_is_the_newest(client: Peer, name: str) -> None:
    """An old password becomes a version of its own; what it replaces is kept."""
    ask_all(client, [save(name, "one", labels=["x"]), save(name, "two")])
    assert client.ask(restore(name, 1)) == {
        "message": "Password restored!",
        "username": name,
        "version": 3,
    }
    assert [password_of(client, name, version=n) for n in (1, 2, 3)] == ["one", "two", "one"]
    assert client.ask(verify(name, "one"))["valid"] is True
    assert listed(client, name)["labels"] == ["x"]
    assert client.ask(restore(name, 3))["version"] == 4, "the newest can be restored as well"


def test_verify_knows_the_newest_password_only(client: Peer, name: str) -> None:
    """Valid is the newest, to the last character; an unknown name is answered like a wrong one."""
    ask_all(client, [save(name, "old"), save(name, "new \N{SNOWMAN}")])
    assert client.ask(verify(name, "new \N{SNOWMAN}")) == {
        "message": "return_verify_password",
        "valid": True,
    }
    client.send(verify(name, "old"), verify(f"not {name}", "old"), verify(name, "new"))
    client.send(verify(f"not {name}", "a password of nobody"), verify(name, "new \N{SNOWMAN} "))
    assert {client.line() for _ in range(5)} == {
        b'{"message": "return_verify_password", "valid": false}\n'
    }


# --- Labels. ---


def test_labels_are_set_kept_and_replaced(client: Peer, name: str) -> None:
    """A save without labels keeps them; with labels, or `label_user`, they are what was given."""
    client.ask(save(name, labels=["b", "a"]))
    assert listed(client, name)["labels"] == ["b", "a"]
    client.ask(save(name))
    assert listed(client, name)["labels"] == ["b", "a"]
    client.ask(save(name, labels=["c"]))
    assert listed(client, name)["labels"] == ["c"]
    assert client.ask(label(name, "d", "e")) == {
        "message": "User labelled!",
        "username": name,
        "labels": ["d", "e"],
    }
    assert listed(client, name)["labels"] == ["d", "e"]
    client.ask(save(name, labels=[]))
    assert listed(client, name)["labels"] == []
    assert client.ask(label(name))["labels"] == []
    assert versions_of(client, name) == [4, 3, 2, 1], "labels are not a version"


def test_a_label_is_there_once_in_normal_form(client: Peer, name: str) -> None:
    """Labels compare like names do, and each is kept once, in the order given."""
    composed = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    client.ask(save(name))
    reply = client.ask(label(name, "x", "cafe\u0301", "x", composed, "X"))
    assert reply["labels"] == ["x", composed, "X"]
    for typed in (composed, "cafe\u0301"):
        assert names(client, prefix=name, label=typed) == [name]
    assert names(client, prefix=name, label="cafe") == []


def test_a_user_may_have_sixteen_labels(client: Peer, name: str) -> None:
    """At the limit, with the longest texts."""
    labels = [f"{n:064}" for n in range(LABELS_MAX)]
    assert client.ask(save(name, labels=labels)) == saved(name, 1)
    assert listed(client, name)["labels"] == labels


# --- Deleting. ---


def test_a_deleted_user_is_gone_with_its_versions(client: Peer, name: str) -> None:
    """The total follows at once; the name is free, and begins again at version 1."""
    ask_all(client, [save(name, "one", labels=["x"]), save(name, "two")])
    replies = ask_all(client, [COUNT, delete(name), COUNT, get(name), get(name, version=1)])
    before, after = (reply["number_of_users"] for reply in replies if "number_of_users" in reply)
    assert after == before - 1
    assert replies[1] == DELETED
    assert replies[3:] == [UNKNOWN_USER, UNKNOWN_USER]
    assert client.ask(verify(name, "two"))["valid"] is False
    assert names(client, prefix=name) == []
    assert client.ask(delete(name)) == UNKNOWN_USER
    assert client.ask(save(name, "three")) == saved(name, 1)
    assert versions_of(client, name) == [1]
    assert listed(client, name)["labels"] == []


@BOTH_ENGINES
def test_the_total_follows_named_saves_and_deletes(start: Start) -> None:
    """After any of them, and after a restart, the number is how many users are listed."""
    service = start()
    with service.owner() as peer:
        ask_all(peer, [save(f"n{n % 7}") for n in range(30)] + [save()] * 5)
        assert peer.count() == 12
        for gone in ["n1", "n3", *generated_names(peer)[:2]]:
            assert peer.ask(delete(gone)) == DELETED
        assert peer.count() == 8 == len(names(peer))
    service.kill_everything()
    with start().owner() as peer:
        assert peer.count() == 8 == len(names(peer))


# --- Generating. ---


def test_a_generated_password_is_random(client: Peer) -> None:
    """Twenty letters and digits where nothing else is asked for, and never the same twice."""
    client.send(*[{"message": "generate_password"}] * 50)
    replies = [client.reply() for _ in range(50)]
    assert {tuple(reply) for reply in replies} == {("message", "password")}
    passwords = {reply["password"] for reply in replies}
    assert len(passwords) == 50
    assert {len(password) for password in passwords} == {20}
    assert set("".join(passwords)) == set(string.ascii_letters + string.digits)


@pytest.mark.parametrize("length", [4, 33, 256])
def test_a_generated_password_has_the_form_asked_for(client: Peer, length: int) -> None:
    """Of the length asked for, from the characters asked for, each as likely as the others."""
    alphabet = "aab\N{SNOWMAN}\N{GRINNING FACE}"
    request = {"message": "generate_password", "length": length, "alphabet": alphabet}
    client.send(*[request] * 200)
    passwords = [client.reply()["password"] for _ in range(200)]
    assert {len(password) for password in passwords} == {length}
    text = "".join(passwords)
    assert set(text) == set(alphabet)
    each = len(text) / 4
    assert text.count("a") < each + 6 * each**0.5, "a character given twice is not more likely"


def test_a_generated_password_can_be_saved_in_the_same_step(client: Peer, name: str) -> None:
    """With a name it is saved like any password: versions, labels, total."""
    before = client.count()
    request = {"message": "generate_password", "username": name, "labels": ["x"]}
    first = client.ask(request)
    assert (first["message"], first["username"]) == ("return_generated_password", name)
    assert first["version"] == 1
    second = client.ask({**request, "length": 8})
    assert second["version"] == 2
    assert password_of(client, name, version=1) == first["password"]
    assert password_of(client, name) == second["password"]
    assert listed(client, name)["labels"] == ["x"]
    assert client.count() == before + 1


# --- The rest. ---


def test_status_tells_how_the_service_is_doing(start: Start) -> None:
    """Users, workers that can be given work, uptime, and the versions of the parts."""
    service = start("--workers", "1")
    with service.owner() as peer:
        ask_all(peer, [save("a"), save("b"), delete("a"), save()])
        first = peer.ask({"message": "status"})
        assert first["message"] == "return_status"
        assert first["number_of_users"] == 2
        assert first["workers"] in (0, 1)  # counted once a tick
        assert first["parts"]["pwserver"] == __version__
        assert {"python", "sqlite", "apsw"} <= set(first["parts"])
        assert 0 <= first["uptime_s"] < 60
        service.replace("worker 1")
    with service.owner() as peer:
        peer.ask(save("c"))
        second = peer.ask({"message": "status"})
        assert second["number_of_users"] == 3
        assert second["workers"] == 1
        assert second["uptime_s"] >= first["uptime_s"]  # a new worker is no new service


def test_every_reply_repeats_the_id(shared_service: Service, client: Peer, name: str) -> None:
    """Whatever the command and whatever the answer."""
    client.ask(save(name))
    whole = {"username": name, "password": "abc123", "version": 1, "labels": ["x"]}
    whole["token"] = shared_service.token
    commands = [kind.__struct_config__.tag for kind in REQUESTS]
    done = [{**whole, "message": command, "id": command} for command in commands]
    unknown = [{**request, "username": f"not {name}"} for request in done]
    invalid = [{**request, "username": 5, "id": n} for n, request in enumerate(done)]
    # `delete_user` comes before some of the others: each is answered, one way or the other.
    for request, reply in zip(
        done + unknown + invalid, ask_all(client, done + unknown + invalid), strict=True
    ):
        assert reply["id"] == request["id"], request
    assert client.ask({**PING, "id": 2**60})["id"] == 2**60


@BOTH_ENGINES
def test_everything_is_there_after_a_restart(start: Start) -> None:
    """Names, versions, labels and times outlive a stop, and a kill."""
    service = start()
    with service.owner() as peer:
        ask_all(peer, [save("a", f"p{n}", labels=[f"l{n}"]) for n in range(14)])
        ask_all(peer, [save("b", "q"), delete("b"), save("\N{SNOWMAN}", "r"), restore("a", 5)])
        before = ask_all(peer, [history("a"), listing(), get("a"), get("a", version=6)])
    assert before[2]["password"] == "p4"
    service.kill_everything()
    service = start()
    with service.owner() as peer:
        assert ask_all(peer, [history("a"), listing(), get("a"), get("a", version=6)]) == before
    assert service.stop() == 0
    with start().owner() as peer:
        assert ask_all(peer, [history("a"), listing(), get("a"), get("a", version=6)]) == before
        assert peer.ask(save("a", "next")) == saved("a", 16)

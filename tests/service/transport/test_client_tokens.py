"""Tokens on the wire: said first on every connection, alone, and never to be seen elsewhere."""

import json
import socket
import threading
import time
import traceback
from pathlib import Path

import pytest

from pwserver import (
    Client,
    ConnectionFailed,
    Denied,
    FateUnknown,
    ProtocolViolation,
    Saved,
    TlsFailed,
)
from pwserver.wire import messages, scram
from tests.support.clients import Use, Work, delete, get, ping, pings, save, with_both_clients
from tests.support.fake_service import (
    ALIVE,
    AUTHENTICATE,
    AUTHENTICATED,
    DENIED,
    SAVED,
    TOKEN,
    Behaviour,
    Conversation,
    FakeService,
    Message,
    answer,
    answer_all,
    answer_then_hang_up,
    authenticate,
    echo,
    hang_up,
    silence,
)
from tests.support.harness import eventually
from tests.support.shell import Shell

UNAVAILABLE: Message = {"message": "Unavailable!", "error": "The service is starting."}
WANTS_TLS: Message = {"message": "Unavailable!", "error": messages.SPEAKS_TLS}


pytestmark = pytest.mark.usefixtures("short_pauses")


close = answer_then_hang_up()


def asked(service: FakeService) -> list[str]:
    """Return what a service was asked, in order."""
    return [request["message"] for request in service.requests]


@with_both_clients
def test_the_token_is_said_first_and_once(use: Use) -> None:
    """A new connection begins with it; what comes after goes without."""
    with FakeService(authenticate(answer_all(echo))) as service:
        use(service.url_with_token, ping, get, pings(600))
        assert service.connections == 1
    assert service.requests[0] == AUTHENTICATE
    assert asked(service)[1:] == ["ping", "get_password", *["ping"] * 600]


@with_both_clients
def test_without_a_token_nothing_is_said_of_it(use: Use) -> None:
    """Services that know no tokens are asked as ever."""
    with FakeService(answer(ALIVE)) as service:
        use(service.url, ping)
    assert asked(service) == ["ping"]


@with_both_clients
def test_nothing_is_sent_before_the_token_is_accepted(use: Use) -> None:
    """Not even in the same packet: a service that denied it would do the rest all the same."""
    arrived = []

    def wait_for_more(conversation: Conversation) -> None:
        conversation.read()
        conversation.connection.settimeout(0.3)
        try:
            arrived.append(conversation.connection.recv(1))
        except TimeoutError:
            conversation.connection.settimeout(None)
            conversation.authenticate(AUTHENTICATED)
            answer(SAVED)(conversation)

    with FakeService(wait_for_more) as service:
        assert use(service.url_with_token, save) == [Saved()]
    assert arrived == []


@with_both_clients
@pytest.mark.parametrize("work", [save, delete, get, pings(600)])
def test_a_denied_token_is_an_error_and_nothing_was_asked(use: Use, work: Work) -> None:
    """It is not tried again, and not said to have an unknown outcome: there was nothing but it."""
    with (
        FakeService(authenticate(silence, DENIED)) as service,
        pytest.raises(Denied, match=r"^The service does not accept the token\.$"),
    ):
        use(service.url_with_token, work)
    assert service.requests == [AUTHENTICATE]


@with_both_clients
def test_a_token_that_is_denied_later_leaves_open_what_was_lost(use: Use) -> None:
    """A save whose answer was lost may have been done before the token was revoked."""
    first, then = authenticate(hang_up), authenticate(silence, DENIED)
    with (
        FakeService(first, then) as service,
        pytest.raises(FateUnknown, match=r"may or may not have been saved: .* accept the token"),
    ):
        use(service.url_with_token, save)
    assert asked(service) == ["authenticate", "save_password", "authenticate"]


def test_a_pipeline_keeps_what_was_answered_before_the_token_was_denied() -> None:
    """Those behind have the denial as their result."""
    first = authenticate(answer_then_hang_up(ALIVE))
    with (
        FakeService(first, authenticate(silence, DENIED)) as service,
        Client(service.url_with_token) as book,
    ):
        first_result, *others = pings(300)(book)
    assert first_result is None
    assert {type(result) for result in others} == {Denied}


@with_both_clients
@pytest.mark.parametrize(
    "first",
    [hang_up, answer(UNAVAILABLE), authenticate(close, b'{"mess')],
    ids=["lost", "unavailable", "cut short"],
)
def test_a_connection_lost_before_the_token_was_accepted_is_replaced(
    use: Use, first: Behaviour
) -> None:
    """As one that could not be made: even a deletion is then sent, once."""
    deleted = {"message": "User deleted!"}
    with FakeService(first, first, authenticate(answer(deleted))) as service:
        use(service.url_with_token, delete)
    assert asked(service) == ["authenticate"] * 3 + ["delete_user"]


@with_both_clients
def test_a_token_that_is_never_answered_costs_the_timeout(use: Use) -> None:
    """A save was not sent then, and is not said to be open."""
    began = time.monotonic()
    with (
        FakeService(silence) as service,
        pytest.raises(ConnectionFailed, match="did not answer in time") as failure,
    ):
        use(service.url_with_token, save, timeout_s=0.2)
    assert 0.19 < time.monotonic() - began < 5
    assert not isinstance(failure.value, FateUnknown)
    assert asked(service) == ["authenticate"]


@with_both_clients
@pytest.mark.parametrize(
    "reply",
    [
        ALIVE,
        {"message": "Invalid message!"},
        b"<html>\n",
        b'{"message": "Authenticated!"}\n' * 2,
        b'{"message": "Authenticated!"}\n{"message"',
    ],
)
def test_a_peer_that_is_no_service_is_asked_nothing(use: Use, reply: Message | bytes) -> None:
    """What does not answer a token as it should gets no request, and no second token."""
    with (
        FakeService(authenticate(silence, reply)) as service,
        pytest.raises(ProtocolViolation, match=r"\.$"),
    ):
        use(service.url_with_token, save)
    assert asked(service) == ["authenticate"]


@with_both_clients
@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("work", [save, get, delete])
def test_a_service_that_wants_tls_says_so(use: Use, token: bool, work: Work) -> None:
    """The sentence says what to write; nothing was done, and it is not tried again."""
    with (
        FakeService(answer_then_hang_up(WANTS_TLS)) as service,
        pytest.raises(TlsFailed, match="speaks TLS there; use a URL with pwservers://"),
    ):
        use(service.url_with_token if token else service.url, work)
    assert service.connections == len(service.requests) == 1


@with_both_clients
def test_the_token_is_in_no_error(use: Use, tmp_path: Path) -> None:
    """Whatever goes wrong on the way, neither the sentence nor the traceback repeats it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"127.0.0.1:{server.getsockname()[1]}"
    urls = [f"pwserver://{TOKEN}@{nobody}", f"pwserver+unix://{TOKEN}@{tmp_path}/none"]
    with (
        FakeService(authenticate(silence, DENIED)) as denies,
        FakeService(hang_up) as loses,
        FakeService(authenticate(silence, b"\xff\n")) as babbles,
        FakeService(authenticate(hang_up)) as loses_requests,
    ):
        services = (denies, loses, babbles, loses_requests)
        for url in [*urls, *[service.url_with_token for service in services]]:
            with pytest.raises((ConnectionFailed, Denied)) as failure:
                use(url, save, attempts_max=2)
            assert TOKEN not in "".join(traceback.format_exception(failure.value))


def test_threads_that_wait_for_the_token_do_not_hold_each_other_up() -> None:
    """Each connection says its own, and a late answer to one is nothing to another."""
    go_on = threading.Event()

    def late(conversation: Conversation) -> None:
        conversation.read()
        go_on.wait(20)
        conversation.authenticate(AUTHENTICATED)
        answer_all(echo)(conversation)

    with (
        FakeService(late, authenticate(answer_all(echo))) as service,
        Client(service.url_with_token) as book,
    ):
        waiting = threading.Thread(target=book.ping)
        waiting.start()
        eventually(lambda: service.requests, "the first token was sent")
        book.ping()
        assert waiting.is_alive()
        go_on.set()
        waiting.join()
        assert service.connections == 2


# --- The command line. ---


def test_commands_read_the_token_file(tmp_path: Path) -> None:
    """From the flag, the environment or the settings file, without a word about it."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(TOKEN)
    with FakeService(authenticate(answer(ALIVE))) as service:
        assert Shell(tmp_path).run("ping", "--url", service.url, "--token-file", "token").err == ""
        variables = {"PWSERVER_URL": service.url, "PWSERVER_TOKEN_FILE": str(file)}
        assert Shell(tmp_path, variables).run("ping").err == ""
        settings = f'url = "{service.url}"\ntoken_file = "token"\n'
        (tmp_path / "pwserver.toml").write_text(settings)
        assert Shell(tmp_path).run("ping").err == ""
    assert service.requests == [AUTHENTICATE, {"message": "ping"}] * 3


def test_a_token_in_the_arguments_is_covered(tmp_path: Path) -> None:
    """It works, the process list shows it no more, and a line says what to do instead."""
    shown: list[bytes] = []

    def look(conversation: Conversation) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink() == tmp_path:
                    shown.append((process / "cmdline").read_bytes())
            except OSError:
                continue  # it ended, or is nobody's business
        answer(ALIVE)(conversation)

    with FakeService(authenticate(look)) as service:
        ran = Shell(tmp_path).run("ping", "--url", service.url_with_token)
    assert (ran.code, ran.out) == (0, "Alive!\n")
    assert ran.err.startswith("pwserver: others could see the token in the arguments; keep it in")
    assert "PWSERVER_TOKEN_FILE" in ran.err
    assert ran.err.count("\n") == 1
    assert [title.strip(b"\0") for title in shown] == [b"pwserver"]


def test_a_denied_token_is_said_plainly(tmp_path: Path) -> None:
    """In the wire's word and one sentence, with the exit code of a refusal."""
    variables = {"PWSERVER_TOKEN_FILE": "token"}
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    with FakeService(authenticate(silence, DENIED)) as service:
        ran = Shell(tmp_path, variables).run("count", "--url", service.url)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "pwserver: Denied! The service does not accept the token.\n"


def test_what_needs_a_token_is_said_plainly(tmp_path: Path) -> None:
    """Where there is none, the sentence says what is missing."""
    with FakeService(answer(DENIED)) as service:
        ran = Shell(tmp_path).run("get", "alice", "--url", service.url)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == ("pwserver: Denied! This needs the token of an application that may do it.\n")


# --- Whoever has taken the service's port. ---


@with_both_clients
@pytest.mark.parametrize(
    "answers",
    [
        ("v=" + "A" * 43 + "=", AUTHENTICATED),  # in place of a challenge
        ("r=n,s=AAAA,i=4096", AUTHENTICATED),
        ("its own", {**AUTHENTICATED, "scram": "v=" + "A" * 43 + "="}),
        ("its own", AUTHENTICATED),  # without a proof
        ("its own", {**AUTHENTICATED, "scram": "e=unknown-user"}),
    ],
)
def test_an_impostor_gets_neither_the_token_nor_a_request(
    use: Use, answers: tuple[str, Message]
) -> None:
    """It does not know the token, so it cannot prove that it is the service."""
    arrived: list[Message] = []

    def impostor(conversation: Conversation) -> None:
        first, last = answers
        said = json.loads(conversation.line())
        arrived.append(said)
        if first == "its own":
            first = scram.Server(said["scram"]).first(scram.Verifier.of("another token"))
        conversation.say({"message": "return_scram", "scram": first})
        if line := conversation.line():
            arrived.append(json.loads(line))
            conversation.say(last)
        while line := conversation.line():
            arrived.append(json.loads(line))

    with (
        FakeService(impostor) as service,
        pytest.raises(ProtocolViolation, match="has not proved that it is the service"),
    ):
        use(service.url_with_token, save)
    assert 1 <= len(arrived) <= 2
    assert {each["message"] for each in arrived} == {"authenticate"}
    assert TOKEN not in json.dumps(arrived)

"""Tokens that are proved and not sent: what the service answers to SCRAM-SHA-256, step by step."""

import time

import pytest

from pwserver.wire import scram
from tests.support.books_wire import DENIED, UNKNOWN_TOKEN, Request, get, password_of, save
from tests.support.harness import Peer, Service, eventually

NOTICED_S = 1.0


def shown(message: str) -> Request:
    """Return a message of a proof."""
    return {"message": "authenticate", "scram": message}


def prove(peer: Peer, token: str) -> Request:
    """Prove that one has a token, and check the service's own proof; return its last reply."""
    client = scram.Client(scram.user_of(token), token)
    challenge = peer.ask(shown(client.first()))
    assert challenge["message"] == "return_scram"
    reply: Request = peer.ask(shown(client.final(challenge["scram"])))
    if "scram" in reply:
        client.check(reply.pop("scram"))
    return reply


def test_a_proof_is_as_good_as_the_token(shared_service: Service) -> None:
    """It says who the client is, and the service proves that it knows the token too."""
    token = shared_service.add_application("prover", ["save", "get"])
    with shared_service.peer() as peer:
        assert prove(peer, token) == {
            "message": "Authenticated!",
            "application": "prover",
            "may": ["save", "get"],
        }
        peer.ask(save("a", "kept"))
        assert password_of(peer, "a") == "kept"
        assert prove(peer, shared_service.token)["application"] == "owner"  # once more, as another


def test_a_wrong_proof_leaves_no_rights(shared_service: Service) -> None:
    """As a wrong token does; an unknown token is challenged as a known one is."""
    almost = shared_service.token[:-1] + ("a" if shared_service.token[-1] != "a" else "b")
    for wrong in (almost, UNKNOWN_TOKEN):
        with shared_service.owner() as peer:
            assert prove(peer, wrong) == DENIED
            assert peer.ask(get("a")) == DENIED


def test_a_proof_is_good_once(shared_service: Service) -> None:
    """What somebody has heard of another connection opens nothing."""
    client = scram.Client(scram.user_of(shared_service.token), shared_service.token)
    with shared_service.peer() as peer:
        final = client.final(peer.ask(shown(client.first()))["scram"])
        assert peer.ask(shown(final))["message"] == "Authenticated!"
    with shared_service.peer() as peer:
        peer.ask(shown(client.first()))
        assert peer.ask(shown(final)) == DENIED


def test_proofs_are_revoked_with_their_token(service: Service) -> None:
    """The old one's is good for the grace period; nobody's after `revoke`."""
    old = service.add_application("prover")
    with service.administration() as files:
        new = files.rotate("prover", 3600).reveal()
    with service.peer() as peer:
        eventually(lambda: prove(peer, new) != DENIED, "the new one is good", NOTICED_S)
        assert prove(peer, old)["application"] == "prover"
    with service.administration() as files:
        files.revoke("prover")
    time.sleep(NOTICED_S)
    for token in (old, new):
        with service.peer() as peer:
            assert prove(peer, token) == DENIED


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, '"token" is missing.'),
        ({"token": "t", "scram": "s"}, '"token" and "scram" must not be sent together.'),
        ({"scram": "n,,n=x"}, '"scram" is not the first message of SCRAM-SHA-256.'),
        ({"scram": "p=tls-unique,,n=x,r=y"}, '"scram" is not the first message of SCRAM-SHA-256.'),
    ],
)
def test_what_is_no_proof_is_invalid(
    shared_service: Service, fields: dict[str, str], error: str
) -> None:
    """It is said why, and the client stays who it was."""
    with shared_service.owner() as peer:
        reply = peer.ask({"message": "authenticate", **fields})
        assert reply == {"message": "Invalid message!", "error": error}
        assert peer.ask(get("nobody"))["message"] == "Unknown user!"

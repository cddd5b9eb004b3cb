"""SCRAM-SHA-256: the exchange of RFC 7677, and what neither side accepts of the other."""

from base64 import b64decode

import pytest

from pwserver.wire.scram import Client, ScramError, Server, Verifier, user_of

TOKEN = "pwserver_" + "A" * 43

# The exchange in section 3 of RFC 7677.
CLIENT_NONCE, SERVER_NONCE = "rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_FIRST = f"n,,n=user,r={CLIENT_NONCE}"
SERVER_FIRST = f"r={CLIENT_NONCE}{SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = (
    f"c=biws,r={CLIENT_NONCE}{SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_both_sides_say_what_the_rfc_says() -> None:
    """Byte for byte."""
    client = Client("user", "pencil", CLIENT_NONCE)
    server = Server(CLIENT_FIRST, SERVER_NONCE)
    assert client.first() == CLIENT_FIRST
    assert server.user == "user"
    assert server.first(Verifier.of("pencil", SALT)) == SERVER_FIRST
    assert client.final(SERVER_FIRST) == CLIENT_FINAL
    assert server.final(CLIENT_FINAL) == SERVER_FINAL
    client.check(SERVER_FINAL)


def begun(token: str = TOKEN, verifier: Verifier | None = None) -> tuple[Client, Server, str]:
    """Return both sides of an exchange, and the service's first message."""
    client = Client(user_of(token), token)
    server = Server(client.first())
    return client, server, server.first(verifier or Verifier.of(token))


def test_who_has_the_token_is_accepted_by_who_has_its_verifier() -> None:
    """And every exchange differs from all others."""
    said = set()
    for _ in range(3):
        client, server, first = begun()
        final = client.final(first)
        client.check(server.final(final))
        said |= {client.first(), first, final}
    assert len(said) == 9
    assert not any(TOKEN in message for message in said)


def test_another_token_is_refused() -> None:
    """So is one for which there is no verifier at all."""
    others = [Verifier.of("pwserver_" + "B" * 43), Verifier.of_nobody(user_of(TOKEN), b"key")]
    for verifier in others:
        client, server, first = begun(verifier=verifier)
        with pytest.raises(ScramError, match="does not know the token"):
            server.final(client.final(first))


def test_what_was_heard_before_is_refused() -> None:
    """The proof of another exchange, and one that was changed."""
    client, _, first = begun()
    heard = client.final(first)
    _, server, _ = begun()
    with pytest.raises(ScramError, match="not of this exchange"):
        server.final(heard)
    client, server, first = begun()
    final = client.final(first)
    for changed in (final[:-3] + "A==", final[:-2], final.replace("p=", "p=A"), final + ",x=1", ""):
        with pytest.raises(ScramError):
            server.final(changed)


def test_what_is_stored_does_not_serve_to_authenticate() -> None:
    """Who has the verifier can play the service; as the client it would need the client's key."""
    verifier = Verifier.of(TOKEN)
    for stolen in (verifier.stored_key, verifier.server_key, verifier.stored_key.hex()):
        client = Client(user_of(TOKEN), str(stolen))
        server = Server(client.first())
        with pytest.raises(ScramError, match="does not know the token"):
            server.final(client.final(server.first(verifier)))


def test_who_plays_the_service_is_noticed() -> None:
    """It can say anything but the signature."""
    client, _, first = begun()
    client.final(first)
    for answer in ("v=" + "A" * 43 + "=", "v=", "e=other-error", SERVER_FINAL, "v=====", ""):
        with pytest.raises(ScramError):
            client.check(answer)
    client, _, _ = begun()
    with pytest.raises(ScramError):  # before it has sent its proof
        client.check("v=" + "A" * 43 + "=")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "r=other,s=AAAA,i=4096",  # not the client's nonce
        "r={nonce},s=AAAA,i=4096",  # nothing of the service's own
        "r={nonce}x,s=AAAA,i=1",  # weak
        "r={nonce}x,s=AAAA,i=4095",
        "r={nonce}x,s=AAAA,i=100001",  # would keep the client busy
        "r={nonce}x,s=AAAA,i=999999999999",
        "r={nonce}x,s=?,i=4096",
        "r={nonce}x,s=A,i=4096",
        "r={nonce}x,i=4096",
        "m=x,r={nonce}x,s=AAAA,i=4096",  # an extension that must be understood
    ],
)
def test_a_client_refuses_what_is_no_first_answer(answer: str) -> None:
    """Also where it would weaken the proof or keep the client busy."""
    client = Client("user", TOKEN, "abc")
    with pytest.raises(ScramError):
        client.final(answer.format(nonce="abc"))


@pytest.mark.parametrize(
    "said",
    [
        "",
        "n=user,r=abc",
        "y,,n=user,r=abc",  # the client would support channel binding
        "p=tls-exporter,,n=user,r=abc",
        "n,a=other,n=user,r=abc",
        "n,,n=us er,r=abc",
        "n,,n=user,r=",
        "n,,n=user,r=a,b",
        "n,,n=user,r=abc\n",
        "n,,n=" + "u" * 65 + ",r=abc",
        "n,,n=user,r=" + "x" * 257,
    ],
)
def test_the_service_refuses_what_is_no_first_message(said: str) -> None:
    """With an error, whatever it is."""
    with pytest.raises(ScramError):
        Server(said)


def test_whether_there_is_a_user_is_not_told() -> None:
    """The salt of a user that does not exist is the same each time, as a stored one is."""
    one, again, other = (Verifier.of_nobody(user, b"key").salt for user in ("a", "a", "b"))
    assert one == again != other
    assert len(one) == len(Verifier.of(TOKEN).salt)

"""Answers `authenticate`, and refuses requests that a client has no right to make.

A right token is never delayed: nobody can guess 256 bits, and clients that share an address with
somebody who tries must not suffer. The answer to a wrong token is delayed more with each wrong one
before it. A wrong token leaves the connection without any rights, so that the requests after it do
not go to the common book. After `WRONG_TOKENS_MAX` of them the connection is closed.
"""

from typing import Any

from msgspec import UNSET, UnsetType

from pwserver.errors import InvalidMessage, Unavailable
from pwserver.tokens import TOKEN
from pwserver.wire import messages, scram
from pwserver.wire.messages import Authenticate, Id
from pwserver.wire.scram import ScramError
from workers.auth.applications import (
    CROWDED,
    WRONG_CERTIFICATE,
    WRONG_TOKEN,
    Caller,
    token_hash,
)
from workers.auth.peers import Peer
from workers.auth.throttle import DELAY_S_MAX
from workers.serving.awaited import Awaited, Waiter
from workers.serving.context import Context
from workers.storage.answers import Steps

WRONG_TOKENS_MAX = 3
"""Wrong tokens of one connection. An application has two, while its token is being changed, and may
have a third that is older. Who has more knows none, and must not keep a place while it waits."""

_NOT_ACCEPTED = "The service does not accept the token."
_TOO_MANY = "Too many tokens were wrong; the connection is closed."


def authenticate(context: Context, waiter: Waiter, request: Authenticate) -> Steps[bytes | Awaited]:
    """Give a client the identity of the application whose token it shows, or proves to have."""
    peer = waiter.peer
    if request.token is UNSET and request.scram is UNSET:
        raise InvalidMessage('"token" is missing.')
    if request.token is not UNSET and request.scram is not UNSET:
        raise InvalidMessage('"token" and "scram" must not be sent together.')
    if peer.wrong_tokens >= WRONG_TOKENS_MAX:  # it was sent together with those before it
        return messages.denied(request.id, _TOO_MANY)
    proof: str | UnsetType = UNSET
    if request.scram is UNSET:
        assert request.token is not UNSET
        shown = token_hash(request.token)
    elif peer.exchange is None:
        return (yield from _challenge(context, peer, request.id, request.scram))
    else:
        (server, shown), peer.exchange = peer.exchange, None
        try:
            proof = server.final(request.scram)
        except ScramError:
            shown = b""  # nobody's
    with peer.being_identified():
        caller = yield from context.registry.by_token_hash(shown, peer.origin, context.now_ms)
    if caller is not None and caller.is_admitted:
        if not _admit(context, peer, caller):
            return messages.refusal(Unavailable(CROWDED.why_not), request.id)
        return messages.encode(
            "Authenticated!",
            request.id,
            application=caller.application,
            may=caller.may,
            scram=proof,
        )
    return _deny(context, waiter, caller, request.id)


def _challenge(context: Context, peer: Peer, id: Id, client_first: str) -> Steps[bytes]:
    """Answer the first message of a proof, whether there is such a token or not."""
    try:
        server = scram.Server(client_first)
    except ScramError:
        raise InvalidMessage('"scram" is not the first message of SCRAM-SHA-256.') from None
    verifier, shown = yield from context.registry.verifier_of(server.user, context.now_ms)
    peer.exchange = server, shown
    return messages.encode("return_scram", id, scram=server.first(verifier))


def _deny(context: Context, waiter: Waiter, caller: Caller | None, id: Id) -> bytes | Awaited:
    """Turn away a client with a wrong token, later if it has shown many."""
    peer = waiter.peer
    _turn_away(context, peer, caller or WRONG_TOKEN)
    peer.wrong_tokens += 1
    if peer.wrong_tokens == WRONG_TOKENS_MAX:
        waiter.end()
    limit = peer.authenticating
    delay_s = limit.delay_s(context.now)
    if delay_s is None:  # too many: it gets the same answer, but is not counted
        delay_s = DELAY_S_MAX
    else:
        limit.charge(context.now)
    denied = messages.denied(id, _NOT_ACCEPTED if caller is None else caller.why_not)
    if not delay_s:
        return denied
    return context.delays.add(waiter, id, denied, context.now + delay_s)


def authenticate_by_certificate(context: Context, peer: Peer, key_hash: bytes) -> Steps[None]:
    """Give a client the identity of the application that its verified certificate stands for.

    `key_hash` is that of the certificate's public key.
    """
    with peer.being_identified():
        caller = yield from context.registry.by_certificate(key_hash, peer.origin, context.now_ms)
    if caller is not None and caller.is_admitted:
        _admit(context, peer, caller, certificate=key_hash.hex())
    else:
        _turn_away(context, peer, caller or WRONG_CERTIFICATE, certificate=key_hash.hex())


def _admit(context: Context, peer: Peer, caller: Caller, **more: str) -> bool:
    """Give a client its identity, unless its application has too many connections."""
    usage = context.registry.usage
    if peer.counted != caller.number:
        if not usage.enter(caller.number, caller.connections_max):
            _turn_away(context, peer, CROWDED, **more)
            return False
        usage.leave(peer.counted)
        peer.counted = caller.number
    peer.become(caller)
    context.note(peer, "authentication", None, "ok", **more)
    return True


def _turn_away(context: Context, peer: Peer, caller: Caller, **more: str) -> None:
    """Leave a client without rights; if it was recognised, the record names its application."""
    if caller.application is not None:
        peer.become(caller)
    context.note_refusal(peer, "authentication", None, "denied", **more)
    peer.become(caller)
    context.registry.usage.leave(peer.counted)
    peer.counted = 0


def denied(context: Context, peer: Peer, right: str, requests: list[Any]) -> list[bytes]:
    """Refuse requests of one kind, without looking up the user that they name.

    So the reason is the same whether the user exists or not.
    """
    reason = peer.caller.denial(right)
    first = requests[0]
    username = getattr(first, "username", UNSET)
    context.note_refusal(
        peer,
        "denied",
        None if username is UNSET else TOKEN.sub("(a token)", username),
        "denied",
        times=len(requests),
        command=first.__struct_config__.tag,
    )
    return [messages.denied(request.id, reason) for request in requests]

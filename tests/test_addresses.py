"""Until there are permissions, only the seed's commands are done on addresses that others reach."""

import ipaddress
import socket
from collections.abc import Iterator

import msgspec
import pytest

from pwserver.protocol import REQUESTS
from tests.books_wire import EXAMPLES, PING, Request, ask_all, get, names, save, saved
from tests.conftest import Start
from tests.harness import SAVED, Peer, Service

ANYWHERE = {"number_of_users", "ping", "status"}


def own_address(family: socket.AddressFamily, somewhere: str) -> str:
    """Return the address this machine would send from; nothing is sent to find that out."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((somewhere, 9))
            address = str(probe.getsockname()[0])
        except OSError:
            pytest.skip(f"this machine has no address of its own but loopback ({family.name})")
    if ipaddress.ip_address(address).is_loopback:
        pytest.skip(f"this machine has no address of its own but loopback ({family.name})")
    return address


@pytest.fixture
def open_service(start: Start) -> Service:
    """Return a service that listens on every IPv4 address."""
    return start("--host", "0.0.0.0")


@pytest.fixture
def outside(open_service: Service) -> Iterator[Peer]:
    """Yield a connection to the machine's own address that other machines reach it by."""
    address = own_address(socket.AF_INET, "192.0.2.1")
    with Peer(open_service.port, address) as peer:
        yield peer


def is_denied(reply: Request) -> bool:
    """Tell whether a reply is the refusal, with a reason and nothing else."""
    return set(reply) - {"id"} == {"message", "error"} and reply["message"] == "Denied!"


def test_from_outside_everything_of_the_book_is_denied(
    open_service: Service, outside: Peer
) -> None:
    """Each command but the seed's, `ping` and `status` is refused, and nothing is done."""
    with open_service.peer() as local:
        assert local.ask(save("example", labels=["x"])) == saved("example", 1)
        before = local.ask(EXAMPLES["list_users"])
        denied = [request for name, request in EXAMPLES.items() if name not in ANYWHERE]
        for request in denied:
            reply = outside.ask({**request, "id": 7})
            assert is_denied(reply), (request, reply)
            assert reply["id"] == 7
            if request["message"] != "save_password":
                assert is_denied(outside.ask(_least(request))), request
        assert local.ask(EXAMPLES["list_users"]) == before
        assert local.count() == 1
        assert local.ask(get("example"))["version"] == 1


def _least(request: Request) -> Request:
    """Return a request with the fields only that its command needs."""
    kind = next(kind for kind in REQUESTS if kind.__struct_config__.tag == request["message"])
    fields = msgspec.structs.fields(kind)
    needed = {"message", *[field.name for field in fields if field.required]}
    return {field: value for field, value in request.items() if field in needed}


@pytest.mark.parametrize("extra", ["username", "labels", "request_id"])
def test_from_outside_only_the_seeds_save_is_done(outside: Peer, extra: str) -> None:
    """Any of the fields that the seed does not have makes it a save of the book."""
    request = {key: EXAMPLES["save_password"][key] for key in ("message", "password", extra)}
    assert is_denied(outside.ask(request))
    assert outside.count() == 0


def test_from_outside_the_seed_is_served(open_service: Service, outside: Peer) -> None:
    """Its three exchanges are the contract's, and so are `ping`, `status` and bad input."""
    outside.send(save(), {"message": "number_of_users"}, {"message": "other"}, PING)
    assert outside.line() == SAVED
    assert outside.line() == b'{"message": "return_number_of_users", "number_of_users": 1}\n'
    assert outside.line() == b'{"message": "Invalid message!"}\n'
    assert outside.line() == b'{"message": "Alive!"}\n'
    assert outside.ask({"message": "status"})["number_of_users"] == 1
    assert outside.ask({"message": "get_password"})["error"] == '"username" is missing.'
    outside.send(b"hello\n")
    assert outside.reply()["message"] == "Invalid message!"
    with open_service.peer() as local:
        assert len(names(local)) == 1


def test_denied_requests_keep_their_place(outside: Peer) -> None:
    """In a burst, what is denied and what is done are answered in their order."""
    burst = [save(), get("a"), PING, save("a"), save(), {"message": "number_of_users"}] * 20
    replies = [reply["message"] for reply in ask_all(outside, burst)]
    assert (
        replies
        == [
            "Password saved!",
            "Denied!",
            "Alive!",
            "Denied!",
            "Password saved!",
            "return_number_of_users",
        ]
        * 20
    )


def test_on_loopback_everything_is_done(open_service: Service) -> None:
    """The same service, asked at 127.0.0.1 or another loopback address, does every command."""
    for address in ("127.0.0.1", "127.1.2.3"):
        with Peer(open_service.port, address) as local:
            for reply in ask_all(local, list(EXAMPLES.values())):
                assert reply["message"] not in ("Denied!", "Invalid message!")


def test_ipv6_is_told_apart_as_well(start: Start) -> None:
    """Listening on `::`, the loopback addresses of both kinds are served, others are denied."""
    address = own_address(socket.AF_INET6, "2001:db8::1")
    service = start("--host", "::")
    with Peer(service.port, "::1") as local:
        assert local.ask(save("a")) == saved("a", 1)
    with Peer(service.port, address) as outside:
        assert is_denied(outside.ask(get("a")))
        assert outside.count() == 1
    try:
        mapped = Peer(service.port)
    except ConnectionRefusedError:
        return  # the system keeps the two kinds apart
    with mapped:
        assert mapped.ask(get("a"))["password"] == "abc123"

"""Another machine that a kernel lets through to a loopback address is no local one.

Container tools set `route_localnet`, which does that (the kind of CVE-2020-8558).
"""

from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support import needs
from tests.support.books_wire import ALIVE, DENIED, PING, save
from tests.support.harness import Peer
from tests.support.network import CLIENT_ADDRESS, SERVICE_ADDRESS, Network, network

pytestmark = pytest.mark.root("to make machines out of network namespaces")

LOOPBACK = "127.0.0.1"


def route_loopback(cabled: Network) -> None:
    """Have packets of the client to 127.0.0.1 reach the service's machine, and be let in there."""

    def allow() -> str:
        for switch in Path("/proc/sys/net/ipv4/conf").glob("*/route_localnet"):
            try:
                switch.write_text("1")
            except OSError:
                return "the right to set route_localnet"
        return ""

    for machine in (cabled.service, cabled.client):
        if lacking := machine.do(allow):
            needs.lacks(lacking)
    cabled.client.ip("address", "flush", "dev", "lo")
    way = ("via", SERVICE_ADDRESS, "src", CLIENT_ADDRESS)
    cabled.client.ip("route", "add", f"{LOOPBACK}/32", *way)


def test_who_is_routed_to_loopback_is_a_stranger(start: Start) -> None:
    """It may ping, and needs a token for everything else; who is on the machine is a guest."""
    with network() as cabled:
        route_loopback(cabled)
        service = start(preexec_fn=cabled.service.enter)
        with cabled.client.do(lambda: Peer(service.port, LOOPBACK)) as outside:
            assert outside.socket.getsockname()[0] == CLIENT_ADDRESS
            assert outside.socket.getpeername()[0] == LOOPBACK
            assert outside.ask(PING) == ALIVE
            assert outside.ask(save()) == DENIED
        with cabled.service.do(lambda: Peer(service.port, LOOPBACK)) as local:
            assert local.save() == {"message": "Password saved!"}
            assert local.count() == 1

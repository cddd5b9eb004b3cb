"""Two machines with a cable between them, made of network namespaces; a test can pull the cable.

This machine's own network is not touched. A socket belongs for ever to the namespace that its
thread was in when it was made, so a test can have sockets in both. The addresses belong to a
network for documentation (RFC 5737).
"""

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.support import needs
from tests.support.harness import Peer, eventually
from tests.support.processes import launched

SERVICE_ADDRESS, CLIENT_ADDRESS = "192.0.2.1", "192.0.2.2"
_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """A network namespace, kept by a process that does nothing."""

    process: "subprocess.Popen[bytes]"

    def ip(self, *arguments: str) -> None:
        """Run `ip` on this machine."""
        command = ["nsenter", f"--net={self._path}", "ip", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    @property
    def _path(self) -> str:
        return f"/proc/{self.process.pid}/ns/net"

    def enter(self) -> None:
        """Move this thread, and programs that it starts, to this machine from now on."""
        with open(self._path, "rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def do(self, task: Callable[[], T]) -> T:
        """Run a task on this machine and return its result."""
        results: list[T] = []

        def work() -> None:
            self.enter()
            results.append(task())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return results[0]


@dataclass(frozen=True)
class Network:
    """A machine for the service, one for its clients, and the cable."""

    service: Machine
    client: Machine
    ends: tuple[str, str] = field(default=("near", "far"))

    def peer(self, port: int) -> Peer:
        """Return a connection from the clients' machine."""
        return self.client.do(lambda: Peer(port, SERVICE_ADDRESS))

    def peer_at_home(self, port: int) -> Peer:
        """Return a connection from the service's own machine, which needs no cable."""
        return self.service.do(lambda: Peer(port, SERVICE_ADDRESS))

    def pull_the_cable(self) -> None:
        """Lose every packet between the two machines from now on."""
        self.client.ip("link", "set", self.ends[1], "down")

    def mend_the_cable(self) -> None:
        """Let packets arrive again."""
        self.client.ip("link", "set", self.ends[1], "up")


@contextlib.contextmanager
def _machine() -> Iterator[Machine]:
    before = os.readlink("/proc/self/ns/net")
    with launched(["unshare", "--net", "sleep", "infinity"], stderr=subprocess.PIPE) as process:
        there = Path(f"/proc/{process.pid}/ns/net")
        try:
            eventually(
                lambda: process.poll() is not None or os.readlink(there) != before,
                "the namespace is made",
            )
            if process.poll() is not None:
                needs.lacks("the right to make network namespaces")
            yield Machine(process)
        finally:
            process.kill()


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Make two machines and connect them; skip the test if that is impossible."""
    needs.tool("ip", "unshare", "nsenter")
    with _machine() as one, _machine() as other:
        made = Network(one, other)
        near, far = made.ends
        client = str(other.process.pid)
        one.ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", client)
        for machine, end, address in ((one, near, SERVICE_ADDRESS), (other, far, CLIENT_ADDRESS)):
            machine.ip("address", "add", f"{address}/24", "dev", end)
            machine.ip("link", "set", end, "up")
            machine.ip("link", "set", "lo", "up")
        yield made

"""A network of our own, to lose packets in: a namespace, and a cable that can be pulled.

The ends of the cable are two virtual interfaces; one stays here, the other is in the namespace. It
needs root and Debian's `iproute2`; `missing` says what is not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

from benchmarks.client.wire import BenchmarkFailed

HERE, THERE = "198.51.100.1", "198.51.100.2"
"""Of a network for documentation (RFC 5737), which is nobody's."""


def missing() -> str:
    """Return why there can be no such network here, or nothing."""
    if shutil.which("ip") is None:
        return "`ip` is not installed (Debian's iproute2)"
    return "" if os.geteuid() == 0 else "only root may make a network"


class Network:
    """The cable and the namespace, for as long as it is entered; `prefix` runs a command there."""

    def __init__(self) -> None:
        number = os.getpid()
        self._space, self._near, self._far = f"pw{number}", f"pwa{number}", f"pwb{number}"
        self.prefix = ("ip", "netns", "exec", self._space)

    def __enter__(self) -> Self:
        _ip("netns", "add", self._space)
        try:
            _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far)
            _ip("link", "set", self._far, "netns", self._space)
            _ip("addr", "add", f"{HERE}/24", "dev", self._near)
            _ip("link", "set", self._near, "up")
            _ip("-n", self._space, "addr", "add", f"{THERE}/24", "dev", self._far)
            _ip("-n", self._space, "link", "set", self._far, "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def pull(self) -> None:
        """Pull the cable: from now on every packet is lost, and nobody is told."""
        _ip("-n", self._space, "link", "set", self._far, "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("-n", self._space, "link", "set", self._far, "up")

    def _remove(self) -> None:
        subprocess.run(["ip", "link", "delete", self._near], check=False, capture_output=True)
        _ip("netns", "delete", self._space)


def _ip(*arguments: str) -> None:
    ran = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if ran.returncode:
        raise BenchmarkFailed(f"ip {' '.join(arguments)}: {ran.stderr.strip()}")

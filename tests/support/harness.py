"""A real service for tests, started as a user starts it, on a free port in a folder of its own."""

import contextlib
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import pytest

from pwserver.config import StoreSettings
from pwserver.secret import Secret
from pwserver.wire.messages import RIGHTS, Right
from tests.support import needs
from tests.support.forked import COMMAND
from tests.support.processes import end_session, is_alive, keeper, launch_pwserver, session
from workers.admin.administration import Administration, administration

READY = re.compile(
    r"(?m)listening on (?:(\S+):(\d+)(?: \(TLS\))?(?: and .+)?|.+), database (.*), (\d+) workers?$"
)
PATIENCE_S = 60.0
"""How long a test waits for something that must happen: long enough for slow, busy machines."""

_MOMENT_S = 2.0
"""How long the children may run on after their listener has ended."""

SAVED = b'{"message": "Password saved!"}\n'


def eventually(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Poll a condition and return its first true value; fail if there is none in time."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        threading.Event().wait(0.01)
    raise AssertionError(f"within {patience_s} s not: {what}")


def steady(value: Callable[[], Any], what: str, for_s: float = 0.5) -> Any:
    """Return a value after it has been the same for longer than a tick, or `for_s`."""
    last, since = value(), time.monotonic()

    def unchanged() -> bool:
        nonlocal last, since
        if (now := value()) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > for_s

    eventually(unchanged, f"{what} is steady")
    return last


def own_address(family: socket.AddressFamily = socket.AF_INET) -> str:
    """Return an address at which other machines reach this one; skip the test if there is none.

    It is the address that this machine would send from; finding it sends nothing.
    """
    somewhere = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((somewhere, 9))
            address = str(probe.getsockname()[0])
        except OSError:
            address = "::1"
    if ipaddress.ip_address(address).is_loopback:
        pytest.skip(f"this machine has no address of its own but loopback ({family.name})")
    return address


def free_port() -> int:
    """Return a port that nobody listens on, for a service whose output cannot be read."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Peer:
    """A client with a plain socket, like a main application."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        connected = socket.create_connection((host, port), PATIENCE_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._use(connected)

    @classmethod
    def over(cls, connected: socket.socket) -> Self:
        """Return a client on a connected socket, for example one with TLS or a Unix socket."""
        peer = cls.__new__(cls)
        peer._use(connected)
        return peer

    def _use(self, connected: socket.socket) -> None:
        self.socket = connected
        self._file = connected.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *messages: object, newline: bytes = b"\n") -> None:
        """Send messages: bytes as they are, anything else as JSON."""
        self.socket.sendall(
            b"".join(
                message if isinstance(message, bytes) else json.dumps(message).encode() + newline
                for message in messages
            )
        )

    def line(self) -> bytes:
        """Return the next reply as bytes, or nothing at the end."""
        return self._file.readline()

    def reply(self) -> Any:
        """Return the next reply."""
        line = self.line()
        assert line.endswith(b"\n"), f"the connection ended after {line!r}"
        return json.loads(line)

    def ask(self, message: object) -> Any:
        """Send one message and return its reply."""
        self.send(message)
        return self.reply()

    def authenticate(self, token: str) -> Any:
        """Show a token and return the reply."""
        return self.ask({"message": "authenticate", "token": token})

    def save(self, password: str = "abc123") -> Any:
        """Save a password and return the reply."""
        return self.ask({"message": "save_password", "password": password})

    def count(self) -> int:
        """Return the number of users."""
        return int(self.ask({"message": "number_of_users"})["number_of_users"])

    def no_more_to_send(self) -> None:
        """Close the sending half."""
        self.socket.shutdown(socket.SHUT_WR)

    def ended(self) -> bool:
        """Wait for the end of the connection or for bytes; tell whether it was the end."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()


def unix_peer(path: Path) -> Peer:
    """Return a new connection over a Unix socket."""
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(PATIENCE_S)
    try:
        connected.connect(str(path))
    except OSError:
        connected.close()
        raise
    return Peer.over(connected)


class Service:
    """A running `pwserver serve`, in a session of its own that identifies its processes.

    Use it in a `with`, which calls `end`. `url` is that of a database on a server, if it has one:
    the settings file in its folder names it. Unless the flags say how many `workers` it has, tests
    have two, because the passage from one to the other needs tests; None leaves it to the settings.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        port: int = 0,
        url: str = "",
        program: Sequence[str] = COMMAND,
        workers: int | None = 2,
        **popen: Any,
    ) -> None:
        self.folder = folder
        self.url_of_database = url
        if url:
            (folder / "pwserver.toml").write_text(f"database = {json.dumps(url)}\n")
        self.database = folder / "user_data.db"
        self.key_file = folder / "user_data.key"
        self._errors = open(folder / "stderr", "ab")  # noqa: SIM115 - closed in `ended`
        command = [*program, "serve", "--port", str(port), *flags]
        if workers is not None and "--workers" not in flags:
            command += ["--workers", str(workers)]
        own = {"stdout": subprocess.PIPE, "stderr": self._errors, "cwd": folder}
        self.process = launch_pwserver(command, **{**own, **popen})
        self.port = self.workers = 0
        self.banner = ""  # the first line it prints
        self._token = ""
        self._registering = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait_until_listening(self) -> Self:
        """Read the first line of standard output, and the port from it."""
        assert self.process.stdout is not None
        self.banner = self.process.stdout.readline().decode().rstrip("\n")
        found = READY.search(self.banner)
        if not found:
            self.kill_everything()
            raise AssertionError(f"{self.banner!r}\n{self.stderr}")
        self.port, self.workers = int(found[2] or 0), int(found[4])
        return self

    @property
    def stderr(self) -> str:
        """The log so far."""
        return (self.folder / "stderr").read_text()

    def peer(self) -> Peer:
        """Return a new connection of a guest: a main application without a token."""
        return Peer(self.port)

    def owner(self) -> Peer:
        """Return a new connection of an application that may do everything in the common book."""
        token = self.token
        peer = self.peer()
        try:
            assert peer.authenticate(token)["message"] == "Authenticated!"
        except BaseException:
            peer.close()
            raise
        return peer

    @property
    def token(self) -> str:
        """The token of an application that may do everything in the common book."""
        with self._registering:  # threads may ask at once
            if not self._token:
                self._token = self._registered_owner().reveal()
            return self._token

    def _registered_owner(self) -> Secret[str]:
        with self.administration() as files:
            if any(row.name == "owner" for row in files.applications()):
                return files.rotate("owner", grace_s=3600.0)  # an earlier service here made it
            return files.add("owner", RIGHTS, common=True)

    def add_application(
        self, name: str, may: Sequence[Right] = RIGHTS, *, common: bool = False
    ) -> str:
        """Register an application and return its token."""
        with self.administration() as files:
            return files.add(name, may, common=common).reveal()

    def administration(self) -> AbstractContextManager[Administration]:
        """Return the service's `Administration`, to be used in a `with`."""
        if self.url_of_database:
            return self._administration_here()
        return administration(StoreSettings(database=str(self.database)))

    @contextlib.contextmanager
    def _administration_here(self) -> Iterator[Administration]:
        """Administer a book on a server from the folder of the service, where its files are."""
        with (
            contextlib.chdir(self.folder),
            administration(StoreSettings(database=self.url_of_database)) as files,
        ):
            yield files

    @property
    def url(self) -> str:
        """The URL of the service for the application that may do everything."""
        return f"pwserver://{self.token}@127.0.0.1:{self.port}"

    def children(self) -> dict[str, int]:
        """Return the process id of every named child that is alive."""
        needs.sight_of(self.process)
        return named_children(self.process.pid)

    def all_children(self) -> dict[str, int]:
        """Wait until all children are started, and return their process ids."""
        others = {"fork server", "checker", "console"}
        expected = others | {f"worker {number}" for number in range(1, self.workers + 1)}
        eventually(lambda: set(self.children()) == expected, "all children run")
        return self.children()

    def child(self, name: str) -> int:
        """Wait until a child is started, and return its process id."""
        return int(eventually(lambda: self.children().get(name), f"{name} runs"))

    def replace(self, name: str, signal_number: int = signal.SIGKILL) -> int:
        """Send a signal to a child; return the process id of its successor."""
        old = self.child(name)
        os.kill(old, signal_number)

        def successor() -> int | None:
            now = self.children().get(name)
            return now if now != old else None

        return int(eventually(successor, f"{name} is replaced"))

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Stop the service and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.ended()

    def ended(self) -> int:
        """Wait until the service ends; return its exit code."""
        try:
            with contextlib.suppress(ValueError):
                self.process.communicate(timeout=PATIENCE_S)
            code = self.process.wait(PATIENCE_S)
        finally:
            self._errors.close()
        if not session(self.process.pid):  # otherwise `end`, or the keeper, kills what is left
            keeper().forget(self.process.pid)
        return code

    def kill_everything(self) -> None:
        """End every process of the service by force."""
        left = end_session(self.process)
        self.ended()
        eventually(lambda: not any(map(is_alive, left)), "every process ended")

    def end(self) -> None:
        """Stop the service if it runs; fail if a process is left or it has logged a traceback."""
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            left = self.left_over()
            self.kill_everything()
        assert not left, "processes outlived the service"
        assert "Traceback" not in self.stderr, self.stderr

    def left_over(self) -> list[int]:
        """Give the processes a moment to end; return those that are still alive."""
        with contextlib.suppress(AssertionError):
            eventually(lambda: not session(self.process.pid), "all have ended", _MOMENT_S)
        return session(self.process.pid)


def named_children(pid: int) -> dict[str, int]:
    """Return the process id of every named child of a service with this process id."""
    return named(_descendants(pid))


def named(pids: Iterable[int]) -> dict[str, int]:
    """Return the processes that have a name of the service, by their names."""
    titles = {pid: process_title(pid) for pid in pids}
    return {
        title.removeprefix("pwserver: "): pid
        for pid, title in titles.items()
        if title.startswith("pwserver: ")
    }


def process_title(pid: int) -> str:
    """Return the title of a process in the process list."""
    try:
        shown = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return shown.split(b"\0")[0].decode(errors="replace").strip()


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from _descendants(child)


@contextlib.contextmanager
def meanwhile(*tasks: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run each task in a thread during a `with`; its end sets their event and joins them."""
    over = threading.Event()
    threads = [threading.Thread(target=task, args=(over,)) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()

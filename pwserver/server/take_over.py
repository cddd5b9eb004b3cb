"""Take-over: a new program goes on where the old one stops, and no client notices.

The new program (`serve --take-over`) makes a Unix socket beside the book, `user_data.take-over`,
and sends SIGUSR2 to the process that has the book's lock. That one connects. Its side is in
`hand_over`; this file has the protocol, and the side of the new program. If one side ends, the
other notices. The messages, in this order:

| from | message | with it | says |
| --- | --- | --- | --- |
| new | `H` and the protocol's version | | Here I am. |
| old | `L` and a list in JSON | the listening sockets | Here you will listen. |
| new | `R` | | My settings are good, my modules are loaded: let go of the book. |
| old | `B` | the lock | The book is yours. |
| new | `S` | | My workers are ready. From now on I accept, and nothing leads back. |
| old | `C`, a number, addresses | connections | Go on with these. Any number of such messages. |
| old | (the end) | | I am gone. |

After `R` the old program accepts nobody: new clients wait in the kernel. Its workers answer what
they have received, and end. What a client without a token has sent and they have not received stays
in its socket, which the new program gets. Other clients' connections have a state that cannot be
handed over, of TLS or of an application. They are told the end after their last reply, and come
again.

Until `S`, the old program has all it needs to go on: its lock, its listening sockets and its
clients' connections. So where the new one ends, or says `X` and a reason, it starts its workers
again. Only one process has the database open for writing: between `B` and the end of the new
program's workers, that is the new program's.

Knows nothing of workers and clients.
"""

import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pwserver.accepted import Accepted, accepted_from
from pwserver.errors import ListenError, PwserverError, ServiceFailed
from pwserver.ipc import receive_control, send_control
from pwserver.server.instance import TAKE_OVER, Instance, Running, lock_path
from pwserver.server.sockets import NOT_OURS, Listening
from workers.auth.peers import process_and_user

HELLO = b"H"
LISTEN = b"L"
LOADED = b"R"
BOOK = b"B"
SERVING = b"S"
CLIENTS = b"C"
FAILED = b"X"

REASON_BYTES_MAX = 1000

_JOIN_S = 10.0
"""How long the old program may take to connect. It does so in a turn of its loop."""

_ADDRESS_BYTES_MAX = 107


def meeting_path(database: Path) -> Path:
    """Return where the two programs meet."""
    return lock_path(database).with_suffix(".take-over")


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Yield an address for the socket at a path, which may be too long for one (unix(7))."""
    if len(os.fsencode(path)) <= _ADDRESS_BYTES_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def about_sockets(listening: list[Listening]) -> bytes:
    """Return what the new program must know of the listening sockets that it gets."""
    about = [[each.name, each.path, *each.inode, each.given] for each in listening]
    return json.dumps(about).encode()


class Predecessor:
    """The old program, as the new one sees it. To be used in a `with`.

    Raises a `PwserverError` where it cannot be taken over from. An error in the `with` before
    `serving` is called is reported to the old program.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._serving = False
        with Running(database) as running:
            if running.holder.take_over != TAKE_OVER:
                raise ServiceFailed(
                    f"process {running.holder.number} serves {database} with a version of pwserver "
                    "that cannot be taken over from: stop it, and start this one."
                )
            self.channel = _meet(meeting_path(database), running)
        send_control(self.channel, HELLO + TAKE_OVER.encode())
        text, descriptors = self._receive(LISTEN)
        self._inodes = {}
        self.listening: list[Listening] = []
        for about, fd in zip(json.loads(text), descriptors, strict=True):
            name, path, device, inode, given = about
            each = Listening(socket.socket(fileno=fd), name, path, NOT_OURS, given)
            self._inodes[each] = device, inode
            self.listening.append(each)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Say why it came to nothing. The channel stays open until this process ends."""
        if not self._serving:
            reason = str(error) if isinstance(error, PwserverError) else ""
            reason = reason or (kind.__name__ if kind else "it was told to stop")
            with contextlib.suppress(OSError):
                send_control(self.channel, FAILED + reason.encode()[:REASON_BYTES_MAX])

    def fileno(self) -> int:
        """Return the descriptor on which its messages arrive."""
        return self.channel.fileno()

    def take_book(self) -> Instance:
        """Have the old program let go of the book, wait for that, and return the lock."""
        send_control(self.channel, LOADED)
        _, (descriptor,) = self._receive(BOOK)
        return Instance(self._database, descriptor)

    def serving(self, instance: Instance, used: Sequence[Listening]) -> None:
        """Take over for good: claim the lock, close the sockets that are not used, say so."""
        self._serving = True
        instance.claim()
        for each in self.listening:
            each.inode = self._inodes[each]
            if not any(each.socket is other.socket for other in used):
                each.close()
        with contextlib.suppress(OSError):  # it may have died: the book is this program's anyway
            send_control(self.channel, SERVING)

    def clients(self) -> list[Accepted] | None:
        """Return the connections that have arrived; None once the old program has ended."""
        arrived: list[Accepted] = []
        while (message := receive_control(self.channel)) is not None:
            text, descriptors = message
            if text[:1] != CLIENTS:
                return arrived or None
            arrived += accepted_from(text[1:], descriptors)
        return arrived

    def _receive(self, kind: bytes) -> tuple[bytes, list[int]]:
        """Wait for a message of this kind; return what follows, and the descriptors."""
        select.select([self.channel], [], [])
        message = receive_control(self.channel)
        text, descriptors = message or (b"", [])
        if text[:1] == FAILED:
            raise ServiceFailed(f"the old program goes on: {text[1:].decode(errors='replace')}.")
        if text[:1] != kind:
            raise ServiceFailed("the old program ended before this one could take over from it.")
        return text[1:], descriptors


def _meet(path: Path, running: Running) -> socket.socket:
    """Make the socket, call the old program there, and return the channel to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as meeting, address_of(path) as at:
        before = os.umask(0o177)  # nobody else may connect
        try:
            meeting.bind(at)
        except OSError as error:
            raise ListenError(
                f"{path} cannot be made: {error.strerror}. Another program may be taking over; if "
                "none is, remove it."
            ) from None
        finally:
            os.umask(before)
        try:
            meeting.listen(1)
            running.send(signal.SIGUSR2)
            either = [meeting.fileno(), running.fileno()]
            ready = select.select(either, [], [], _JOIN_S)[0]
            if meeting.fileno() not in ready:
                raise ServiceFailed(f"process {running.holder.number} does not answer.")
            channel = meeting.accept()[0]
        finally:
            os.unlink(path)
    if process_and_user(channel)[0] != running.holder.number:
        raise ServiceFailed(f"another process than {running.holder.number} has answered.")
    channel.setblocking(False)
    return channel

"""The old program's side of a take-over; `take_over` has the protocol.

SIGUSR2 begins it: a new program waits beside the book, or none does and this one starts it, as it
was started itself. Until the new one serves, this program can go on, and does so if that one ends.
The listener says what its children do; this file only tells it when.
"""

import contextlib
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial

from pwserver import trust
from pwserver.accepted import Accepted, accepted_from, told
from pwserver.config import Settings
from pwserver.ipc import SOCKETS_MAX, receive_control, send_control
from pwserver.limits import LINGER_S
from pwserver.memory import file_of
from pwserver.server import take_over
from pwserver.server.instance import TAKE_OVER, Instance
from pwserver.server.loop import Loop
from pwserver.server.sockets import NOT_OURS, Listening
from workers.admin.passphrase import given_passphrase
from workers.auth.peers import process_and_user

log = logging.getLogger(__name__)

START_S_MAX = 300.0
"""How long the new program may take to serve once it has the book: it looks at every page. After
that it is killed, and this one goes on."""

_PASSPHRASE_FLAG = "--key-passphrase"


class State(Enum):
    """How far it has come."""

    NONE = auto()  # nobody wants to take over
    JOINED = auto()  # the new program starts; this one serves
    LETTING_GO = auto()  # the workers finish
    GIVEN = auto()  # the new program has the book
    DONE = auto()  # it serves


class HandOver:
    """The new program, as the old one sees it.

    `begin` is called when the children are to end, and `go_on` when they are needed again after
    all, with the clients' connections; `served`, when the new program serves.
    """

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        begin: Callable[[], None],
        go_on: Callable[[list[Accepted]], None],
        served: Callable[[], None],
    ) -> None:
        self.state = State.NONE
        self.pid = 0  # of the new program, once it has joined
        self._settings = settings
        self._loop = loop
        self._begin = begin
        self._go_on = go_on
        self._on_served = served
        self._channel: socket.socket | None = None
        self._child = 0  # the process that this one has started, until it joins or ends
        self._reason = ""  # the last words of the new program
        self._kept: list[Accepted] = []  # for the new program
        self._ending: list[Accepted] = []  # are told the end, and have a moment to read it
        self._outbox: deque[list[Accepted]] = deque()
        self._listening: list[Listening] = []
        self._instance: Instance | None = None
        self._until = 0.0

    # --- How it begins. ---

    def asked(self, refusal: str, listening: Sequence[Listening]) -> None:
        """Look who wants to take over; start the program if nobody does. Called at SIGUSR2."""
        refusal = refusal or ("" if self.state is State.NONE else "it is being taken over already")
        joined = self._joined()
        if joined is None:
            if refusal or self._child:
                log.warning("SIGUSR2: not now, %s", refusal or "the new program is starting")
            elif os.getpid() == 1:
                log.warning("SIGUSR2: process 1 cannot be replaced; start a new container")
            else:
                self._start()
        elif refusal:
            log.warning("SIGUSR2: not now, %s", refusal)
            with joined, contextlib.suppress(OSError):
                send_control(joined, take_over.FAILED + refusal.encode())
        else:
            self.state, self._channel, self._reason = State.JOINED, joined, ""
            self.pid = process_and_user(joined)[0]
            self._listening = list(listening)
            self._loop.watch(joined.fileno(), self._on_message)

    def _joined(self) -> socket.socket | None:
        """Return a channel to the program that waits beside the book; None if none does."""
        path = take_over.meeting_path(self._settings.path)
        own = (os.geteuid(), trust.ROOT)
        try:
            found = os.lstat(path)
            if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in own:
                log.warning("SIGUSR2: %s is not this user's socket", path)
                return None
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                channel.setblocking(False)
                with take_over.address_of(path) as address:
                    channel.connect(address)
                if process_and_user(channel)[1] not in own:
                    raise ConnectionRefusedError
            except BaseException:
                channel.close()
                raise
        except ConnectionRefusedError:  # a program that was killed has left it
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        except OSError:
            return None
        return channel

    def _start(self) -> None:
        """Start the program as this one was started, to take over."""
        arguments = [each for each in sys.orig_argv[1:] if each != "--take-over"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WATCHDOG_PID")}
        with contextlib.ExitStack() as opened:
            inherited = []
            if passphrase := given_passphrase(self._settings):  # nobody could give it once more
                file = opened.enter_context(file_of(passphrase.reveal().encode()))
                inherited = [file.fileno()]
                arguments = [
                    *_without_passphrase(arguments),
                    f"{_PASSPHRASE_FLAG}=fd:{inherited[0]}",
                ]
            try:
                process = subprocess.Popen(
                    [sys.executable, *arguments, "--take-over"],
                    env=environment,
                    pass_fds=inherited,
                )
            except OSError as error:
                log.error("SIGUSR2: the new program cannot be started: %s", error.strerror)
                return
        process.returncode = 0  # `Popen` is not to reap it: `_ended` or the listener does
        log.info("SIGUSR2: process %d is started to take over", process.pid)
        self._child = process.pid
        handle = os.pidfd_open(process.pid)
        self._loop.watch(handle, partial(self._on_child_ended, handle, process.pid))

    def _on_child_ended(self, handle: int, child: int) -> None:
        self._loop.forget(handle)
        os.close(handle)
        if self._child == child:
            self._child = 0
        code = ""
        with contextlib.suppress(ChildProcessError):
            status = os.waitpid(child, os.WNOHANG)[1]
            code = f" with exit code {os.waitstatus_to_exitcode(status)}"
        if child != self.pid:  # it has never joined
            log.error("the new program ended%s before it took over; this one goes on", code)

    # --- How it goes on. ---

    def _on_message(self) -> None:
        assert self._channel is not None
        while self._channel is not None:
            message = receive_control(self._channel)
            if message is None:
                return
            text = message[0]
            if text[:1] == take_over.HELLO:
                self._greet(text[1:].decode(errors="replace"))
            elif text == take_over.LOADED and self.state is State.JOINED:
                self.state = State.LETTING_GO
                log.info("process %d takes over: the clients wait for it", self.pid)
                self._begin()
            elif text == take_over.SERVING and self.state is State.GIVEN:
                self._served()
            elif text[:1] == take_over.FAILED:
                self._reason = text[1:].decode(errors="replace")
            else:
                self._lost()

    def _greet(self, version: str) -> None:
        assert self._channel is not None
        if version != TAKE_OVER:
            self.refuse(f"it does not know the protocol {version!r}")
            return
        sockets = [each.socket.fileno() for each in self._listening]
        self._send(take_over.LISTEN + take_over.about_sockets(self._listening), sockets)

    def refuse(self, reason: str) -> None:
        """Tell the new program why this one goes on, or ends, without it."""
        self._send(take_over.FAILED + reason.encode())
        self._close()
        self.state = State.NONE

    def keep(self, text: bytes, descriptors: list[int], *, ending: bool) -> None:
        """Take connections that a worker has finished with, for the new program or to end them."""
        clients = accepted_from(text[1:], descriptors)
        if lost := text[1] - len(clients):
            log.warning("%d connections were dropped: too many open files", lost)
        (self._ending if ending else self._kept).extend(clients)

    def let_go(self, instance: Instance) -> None:
        """Give the book to the new program: no process of this one has it open any more."""
        if self._channel is None:  # the new program has ended meanwhile
            self._resume()
            return
        self.state = State.GIVEN
        self._until = time.monotonic() + START_S_MAX
        self._instance = instance
        self._send(take_over.BOOK, [instance.descriptor])

    def _served(self) -> None:
        """Leave everything to the new program."""
        self.state = State.DONE
        self._until = time.monotonic() + LINGER_S
        assert self._instance is not None
        self._instance.leave()
        for each in self._listening:
            each.inode = NOT_OURS
        kept, self._kept = self._kept, []
        groups = range(0, len(kept), SOCKETS_MAX)
        self._outbox.extend(kept[at : at + SOCKETS_MAX] for at in groups)
        log.info("process %d has taken over", self.pid)
        self._on_served()

    def step(self) -> bool:
        """Do what is due; return whether nothing is left to do for this program."""
        if self.state is State.GIVEN and time.monotonic() > self._until:
            log.error("process %d does not serve after %g s: it is killed", self.pid, START_S_MAX)
            self.pass_on(signal.SIGKILL)
            self._until = float("inf")
        while self.state is State.DONE and self._outbox and self._channel is not None:
            clients = self._outbox[0]
            text = take_over.CLIENTS + told(clients)
            try:
                send_control(self._channel, text, [each.socket.fileno() for each in clients])
            except (BrokenPipeError, ConnectionError):  # it has died since
                self._outbox.clear()
                break
            except OSError:  # there is no room for more at present
                break
            for each in self._outbox.popleft():
                each.socket.close()
        return self.state is State.DONE and not self._outbox and time.monotonic() > self._until

    def pass_on(self, number: signal.Signals) -> None:
        """Send the new program a signal."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, number)

    def _send(self, text: bytes, descriptors: Sequence[int] = ()) -> None:
        assert self._channel is not None
        with contextlib.suppress(OSError):  # if it is gone, the loop notices
            send_control(self._channel, text, descriptors)

    def _close(self) -> None:
        if self._channel is not None:
            self._loop.forget(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _lost(self) -> None:
        """Note that the new program has ended; go on without it, if it does not serve yet."""
        self._close()
        if self._child == self.pid:
            self._child = 0
        if self.state is State.DONE:
            return
        log.error(
            "process %d did not take over; this one goes on: %s",
            self.pid,
            self._reason or "it has ended",
        )
        if self.state is State.JOINED:
            self.state = State.NONE
        elif self.state is State.GIVEN:
            self._resume()

    def _resume(self) -> None:
        self.state = State.NONE
        for each in self._ending:
            each.socket.close()
        self._ending.clear()
        kept, self._kept = self._kept, []
        self._go_on(kept)


def _without_passphrase(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without the flag that says where the passphrase comes from."""
    left, waiting = [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == _PASSPHRASE_FLAG:
            del waiting[:1]
        elif not argument.startswith(f"{_PASSPHRASE_FLAG}="):
            left.append(argument)
    return left

"""The service as a whole: checks the store, starts the children, listens, and stops in order.

The main loop waits for the listening sockets, the children's control channels and signals. It looks
at everything else once a tick and never waits for it: a process or a terminal that hangs holds
nobody up. In `pwserver`, only this file, `sockets` and some commands import `workers`.

A stop loses nothing because of its order. The listener accepts the clients that already wait and
stops listening. The workers finish what they received, answer it and end, and the console ends its
page. Worker 1 ends after them: it writes for the others, and who closes the database last copies
the log into it. Then the checker has no more work.
"""

import contextlib
import functools
import itertools
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import setproctitle

from pwserver import __version__, logs
from pwserver.accepted import Accepted
from pwserver.config import Settings, settings_file
from pwserver.errors import ConfigError, ExitCode, KeyRefused, PwserverError, ServiceFailed
from pwserver.ipc import Scoreboard, control_channel, frame_channel, receive_control
from pwserver.limits import LISTING_PAGE, TICK_S
from pwserver.protection import lock_memory, protect_memory
from pwserver.server import console
from pwserver.server.children import FAILED_STARTS_MAX, Child, Pool, reap
from pwserver.server.hand_over import HandOver, State
from pwserver.server.instance import Instance
from pwserver.server.listener import OWN_FILES, Listener, connections_per_worker, raise_file_limit
from pwserver.server.loop import Loop
from pwserver.server.reload import Changes, changes
from pwserver.server.service_manager import ServiceManager, given_sockets, microseconds
from pwserver.server.sockets import Listening, adopt, open_all, open_http
from pwserver.server.take_over import Predecessor
from pwserver.server.terminal import Terminal
from workers import checker, process, worker
from workers.admin import setup
from workers.auth import throttle, usage
from workers.book import models, names
from workers.book.keyring import Keyring, read_keyring_again
from workers.loop import WorkerStart
from workers.storage.stores import store_of

if TYPE_CHECKING:
    from workers.tls.certificates import TlsFiles

log = logging.getLogger(__name__)

_PRELOAD = [
    "pwserver.server.console",
    "workers.worker",
    "workers.checker",
]
_FULL_PAUSE_S = 0.01
"""How long the listener waits after it found no room for a connection, before it tries again."""

_FAILURE_STOP_S = 0.5
"""How long the workers have to answer their clients after the disk has failed."""

_SAME_REQUEST_S = 1.0
"""A second signal to stop within this time is the same request: wrappers pass on a signal that the
whole group was already sent."""


def read_certificates(settings: Settings) -> "TlsFiles | None":
    """Return the certificates that the settings name, if any; raise `ConfigError`."""
    if not settings.tls_cert:
        return None
    from workers.tls import certificate_files  # noqa: PLC0415 - a service without TLS has no need of it

    return certificate_files.read(settings)


def serve(
    settings: Settings,
    read_again: Callable[[], Settings] | None = None,
    *,
    takes_over: bool = False,
) -> ExitCode:
    """Run the service until it is told to stop. Raises a `PwserverError` if it cannot start.

    `read_again` returns the settings as they are now, for SIGHUP. With `takes_over`, the service
    that runs on the book hands it over to this one.
    """
    logs.configure("listener", settings.log_style)
    terminal = Terminal()
    loop = Loop()
    loop.catch((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2))
    protect_memory()
    if not lock_memory() and settings.require_locked_memory:
        raise ConfigError(
            "require_locked_memory is set, and the limit does not allow it. Run `ulimit -l "
            "unlimited` as root before, or set LimitMEMLOCK=infinity in the systemd unit."
        )
    process.adopt_orphans()
    per_worker_max = connections_per_worker(settings)
    scoreboard = Scoreboard(settings.workers + 4)
    lines = _lines(settings)
    with contextlib.ExitStack() as opened:
        given = given_sockets(os.environ)
        # Its modules are loaded while the store is checked.
        pool = _pool(scoreboard, settings.log_style, lines)
        opened.callback(pool.close)
        tls = read_certificates(settings)
        manager = opened.enter_context(contextlib.closing(ServiceManager(os.environ)))
        predecessor = None
        if takes_over:
            predecessor = opened.enter_context(Predecessor(settings.path))
            raise_file_limit(settings.connections_max + OWN_FILES)  # clients come from there
            listening = _listening(opened, open_all(settings, predecessor.listening))
            http = _listening(opened, open_http(settings, predecessor.listening))
            _wait_until_loaded(pool)
            setup.check_keys(settings)  # may ask for a passphrase, for which no client should wait
            instance = opened.enter_context(predecessor.take_book())
        else:
            instance = opened.enter_context(Instance(settings.path))
            # Before the store: if this fails, no file was made.
            opens = adopt(settings, given) if given else open_all(settings)
            listening = _listening(opened, opens)
            http = _listening(opened, open_http(settings))
        keyring, made = setup.prepare(settings, to_serve=True)
        for sentence in made:
            log.info("%s", sentence)
        setproctitle.setproctitle("pwserver: listener")
        listener = Listener(
            listening, scoreboard, per_worker_max, process.CLIENTS, tls=tls is not None
        )
        server = Supervisor(
            settings,
            keyring,
            tls,
            loop,
            listener,
            pool,
            scoreboard,
            terminal,
            Surroundings(instance, manager, read_again, predecessor),
        )
        if lines is not None:
            server.add_monitor(http, lines[0])
        return server.run()


def _lines(settings: Settings) -> tuple[socket.socket, socket.socket] | None:
    """Return where the monitor reads the log lines of all processes, and where they are sent."""
    if not settings.http:
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    logs.copy_to(theirs.fileno())
    return ours, theirs


def _pool(
    scoreboard: Scoreboard, style: logs.Style, lines: tuple[socket.socket, socket.socket] | None
) -> Pool:
    modules = _PRELOAD if lines is None else [*_PRELOAD, "workers.monitor"]
    try:
        return Pool(modules, scoreboard, style, lines and lines[1])
    except OSError as error:
        raise ServiceFailed(f"no process can be started: {error.strerror}.") from None


def _listening(opened: contextlib.ExitStack, listening: list[Listening]) -> list[Listening]:
    """Have the sockets closed at the end."""
    for each in listening:
        opened.callback(each.close)
    return listening


def _wait_until_loaded(pool: Pool) -> None:
    """Wait until the fork server has its modules: no client waits for them then."""
    while not pool.fork_server.ready:
        select.select([pool.fork_server], [], [])
        try:
            pool.read_fork_server()
        except EOFError:
            raise ServiceFailed(
                f"the service cannot be started: {pool.fork_server.failure}."
            ) from None


@dataclass(frozen=True)
class Surroundings:
    """What a service has around it."""

    instance: Instance
    manager: ServiceManager
    read_again: Callable[[], Settings] | None  # returns the settings as they are now
    predecessor: Predecessor | None  # the program that this one takes over from


def _say(line: str) -> None:
    """Print a line, or log that standard output does not accept it."""
    try:
        os.write(1, line.encode() + b"\n")
    except OSError as error:
        log.warning("standard output cannot be written to: %s", error.strerror)


def pages_of_lines(settings: Settings) -> Iterator[list[console.Line]]:
    """Yield the lines of the users that the console prints, a page at a time."""
    newest = None if settings.list_users == "all" else int(settings.list_users)
    for page in store_of(settings).pages_of_users(newest, LISTING_PAGE):
        yield [
            (user_id, name or names.generated_name(user_id), models.time_saved(saved_at_ms))
            for user_id, name, saved_at_ms in page
        ]


class Supervisor:
    """The listener process: its children, its sockets and its loop."""

    def __init__(  # noqa: PLR0913, PLR0917 - it is what puts all of these together
        self,
        settings: Settings,
        keyring: Keyring,
        tls: "TlsFiles | None",
        loop: Loop,
        listener: Listener,
        pool: Pool,
        scoreboard: Scoreboard,
        terminal: Terminal,
        surroundings: Surroundings,
    ) -> None:
        self._settings = settings
        self._instance = surroundings.instance
        self._manager = surroundings.manager
        self._read_again = surroundings.read_again
        self._predecessor = surroundings.predecessor
        self._hand_over = HandOver(settings, loop, self._let_go, self._go_on, self._handed_over)
        self._tls = tls
        self._keyring = keyring
        self._loop = loop
        self._pool = pool
        self._scoreboard = scoreboard
        self._terminal = terminal
        self._listener = listener
        self._writer_keys = keyring.check_values  # as the worker that writes was given them
        self._guess_table = throttle.GuessTable(settings.workers)
        self._usage_table = usage.UsageTable(settings.workers)
        self._serials = itertools.count(1)
        self._bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._bell[1].setblocking(False)
        self._workers = [self._worker(number) for number in range(1, settings.workers + 1)]
        self._writing = self._workers[worker.WRITES - 1]
        self._checker = Child(
            "checker", settings.workers + 1, checker.main, lambda: (), watched=False
        )
        self._console = self._make_console(settings.workers + 2)
        self._backups = self._make_backups(settings.workers + 3)
        self._monitor: list[Child] = []  # one, if there is HTTP
        self._http: list[Listening] = []
        pool.children = [*self._workers, self._checker, *self._console, *self._backups]
        self._listener.writing = self._writing
        self._announced = False
        self._accepting = False
        self._accept_at = 0.0
        self._stop_by: float | None = None  # set while stopping
        self._stop_asked_at = 0.0
        self._stopping = False  # for good, as the user has asked
        self._last_message = process.STOP
        self._last_told = False  # the worker that writes knows that the others have ended
        self._exit_code = ExitCode.OK

    # --- The children and what they are started with. ---

    def _keys(self) -> Keyring:
        """Return the keys that are in the file now; there may be more than at the start."""
        try:
            self._keyring = read_keyring_again(self._settings.key_path, self._keyring)
        except KeyRefused as error:
            log.warning("%s The keys known so far are used.", error)
        return self._keyring

    def _worker(self, number: int) -> Child:
        def arguments() -> tuple[object, ...]:
            keyring = self._keys()
            if number == worker.WRITES:
                self._writer_keys = keyring.check_values
            start = WorkerStart(
                number,
                next(self._serials),
                self._settings,
                keyring,
                self._tls,
                self._guess_table,
                self._usage_table,
                self._listener.per_worker_max,
            )
            return self._bell[1], self._scoreboard, start

        return Child(f"worker {number}", number, worker.main, arguments)

    def _make_console(self, number: int) -> list[Child]:
        """Return the console, or nothing if the settings exclude listings."""
        if self._settings.list_users in ("none", "0"):
            self._scoreboard.listing_wanted = True  # so that no worker asks for one
            return []
        pages = functools.partial(pages_of_lines, self._settings)
        start = console.ConsoleStart(process.become_child, pages)
        arguments = (self._bell[0], self._scoreboard, start)
        return [Child("console", number, console.main, lambda: arguments, watched=False)]

    def _make_backups(self, number: int) -> list[Child]:
        """Return the process that makes backups, or nothing if the settings want none."""
        if not self._settings.backup_every:
            return []
        from workers import backups  # noqa: PLC0415 - a service without backups has no need of it

        def arguments() -> tuple[object, ...]:
            start = backups.BackupsStart(number, self._settings, self._keys())
            return self._scoreboard, start

        return [Child("backup", number, backups.main, arguments)]

    def add_monitor(self, listening: list[Listening], lines: socket.socket) -> None:
        """Have the monitor started, which listens for HTTP and reads the log lines."""
        from workers import monitor  # noqa: PLC0415 - asyncio takes time to import

        number = self._settings.workers + 4
        sockets = [each.socket for each in listening]

        def arguments() -> tuple[object, ...]:
            names = {child.number: child.name for child in self._pool.children}
            start = monitor.MonitorStart(
                number,
                self._settings,
                sockets,
                listening[0].name,
                self._tls_of_monitor(),
                lines,
                names,
            )
            return self._scoreboard, start

        self._http = listening
        self._monitor = [Child("monitor", number, monitor.main, arguments)]
        self._pool.children += self._monitor

    def _tls_of_monitor(self) -> "TlsFiles | None":
        """Return the certificate, with its key only if the monitor encrypts."""
        if self._tls is None or self._http[0].name.startswith("https:"):
            return self._tls
        return self._tls.without_keys()

    # --- The loop. ---

    def run(self) -> ExitCode:
        """Serve until stopped; return how that went."""
        next_tick = 0.0
        self._loop.handle_signals(self._on_signal)
        self._loop.watch(self._pool.fork_server.fileno(), self._on_fork_server)
        while not self._ended():
            self._loop.turn(self._patience_s())
            self._pool.flush()
            self._look_for_room()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                self._tick()
            self._start_due()
        return self._exit_code

    def _tick(self) -> None:
        self._scoreboard.ticks += 1
        self._scoreboard.crowded = self._stop_by is None and self._listener.is_crowded
        self._manager.tick(time.monotonic(), self._works)
        self._pool.kill_hanging(self._settings.hang_timeout_s)
        if self._pool.fork_server_hangs(time.monotonic(), self._settings.hang_timeout_s):
            log.error("the fork server does not answer: another one is started")
            self._replace_fork_server()
        reap()

    def _works(self) -> bool:
        """Tell whether changes are made, or another program is about to make them."""
        return self._writing.responsive or self._hand_over.state not in (State.NONE, State.JOINED)

    def _on_fork_server(self) -> None:
        try:
            self._pool.read_fork_server()
        except EOFError:
            failure = self._pool.fork_server.failure
            if failure and not self._announced:
                self._fail(ExitCode.FAILED, f"the service cannot be started: {failure}")
            else:
                log.warning("the fork server died: another one is started")
            self._replace_fork_server()

    def _replace_fork_server(self) -> None:
        self._loop.forget(self._pool.fork_server.fileno())
        try:
            self._pool.replace_fork_server()
        except OSError as error:
            self._fail(ExitCode.FAILED, f"no process can be started: {error.strerror}")
        else:
            self._loop.watch(self._pool.fork_server.fileno(), self._on_fork_server)

    def _announce(self) -> None:
        """Print where the service listens, as soon as a request would be answered there."""
        if self._announced or not all(each.ready for each in self._workers):
            return
        self._announced = True
        if self._predecessor is not None:
            self._predecessor.serving(self._instance, [*self._listener.listening, *self._http])
            self._loop.watch(self._predecessor.fileno(), self._on_predecessor)
        self._manager.tell("READY=1", f"STATUS=Listening on {self._listener.names}.")
        workers = self._settings.workers
        _say(
            f"pwserver {__version__} listening on {self._listener.names}, database "
            f"{self._settings.book_name}, {workers} worker{'s' if workers > 1 else ''}"
        )

    def _on_predecessor(self) -> None:
        """Take the clients of the old program, until it ends."""
        assert self._predecessor is not None
        clients = self._predecessor.clients()
        if clients is None:
            self._loop.forget(self._predecessor.fileno())
        else:
            self._listener.add(clients)

    def _patience_s(self) -> float:
        """Return how long to wait for events: not longer than until a child is due to start."""
        if self._accepting and self._listener.has_clients:
            return 0.0
        pause_s = TICK_S if self._accepting else _FULL_PAUSE_S
        if self._stop_by is not None:  # most children are not started again
            return pause_s
        return self._pool.until_start_s(time.monotonic(), pause_s)

    def _start_due(self) -> None:
        """Start the children that are due; during a stop only the worker that writes."""
        due = self._pool.children
        if self._stop_by is not None:
            needed = self._exit_code == ExitCode.OK and any(w.running for w in self._workers)
            needed = needed and self._hand_over.state is not State.GIVEN
            due = [self._writing] if needed else []
        self._pool.start_due(due, time.monotonic(), self._started)

    def _started(self, child: Child) -> None:
        assert child.control is not None
        self._loop.watch(child.control.fileno(), functools.partial(self._on_message, child))
        if child in self._workers:
            self._listener.restarted(child)
            if self._checker.running:
                self._connect(child, self._checker)
            if child is not self._writing and self._writing.running:
                self._connect(child, self._writing)
        if child in (self._writing, self._checker):
            for each in self._workers:
                if each.running and each is not child:
                    self._connect(each, child)
        if self._stop_by is not None:
            child.post(self._last_message)
            self._last_told = False

    def _connect(self, child: Child, server: Child) -> None:
        """Connect a worker with the one that writes, or with the checker, by a channel."""
        to_writer = server is self._writing
        ends = frame_channel() if to_writer else control_channel()
        server.post(process.CHANNEL, ends[:1])
        child.post(process.WRITER if to_writer else process.CHECKER, ends[1:])

    def _on_message(self, child: Child) -> None:
        """Handle a child's messages, and their end, which is its death."""
        while child.control is not None:
            message = receive_control(child.control)
            if message is None:
                return
            text = message[0]
            if text == process.READY:
                child.became_ready()
                self._count_workers()
                self._announce()
            elif text[:1] == process.FATAL:
                self._child_failed(ExitCode(text[1]), text[2:].decode(errors="replace"))
            elif text[:1] == process.VISITOR:
                for fd in message[1]:
                    visitor = Accepted(socket.socket(fileno=fd), text[1:].decode())
                    self._listener.hand_over(visitor)
            elif text[:1] == process.ENDING:
                self._child_ends(child, text[1:].decode(errors="replace"))
            elif text[:1] in (process.MOVED, process.ENDED):
                self._hand_over.keep(*message, ending=text[:1] == process.ENDED)
            elif not text:
                self._note_death(child)

    def _child_ends(self, child: Child, reason: str) -> None:
        """Log why a child ends by itself. If another start would fail as well, end the service."""
        log.error("%s ends: %s", child.name, reason)
        if child.ready or child in self._monitor:  # the service does without it
            return
        child.failed_starts += 1
        if not self._announced or child.failed_starts > FAILED_STARTS_MAX:
            self._fail(ExitCode.FAILED, f"{child.name} cannot be started: {reason}")

    def _child_failed(self, code: ExitCode, reason: str) -> None:
        """End the service, unless worker 1 only lacked a key that was added during its start."""
        if code == ExitCode.STORE and self._keys().check_values != self._writer_keys:
            log.info("%s is started once more: the key file has changed", self._writing.name)
        else:
            self._fail(code, reason)

    def _note_death(self, child: Child) -> None:
        assert child.control is not None
        self._loop.forget(child.control.fileno())
        pause = child.exited(time.monotonic())
        self._count_workers()
        if self._stop_by is None:
            log.warning(
                "%s died; it is started again%s", child.name, f" in {pause:g} s" if pause else ""
            )

    def _count_workers(self) -> None:
        self._scoreboard.workers = sum(each.ready for each in self._workers)

    # --- Accepting. ---

    def _look_for_room(self) -> None:
        """Watch the listening sockets only while there is room for a connection."""
        paused = self._stop_by is not None or time.monotonic() < self._accept_at
        paused = paused or (self._predecessor is not None and not self._announced)
        room = not paused and self._listener.has_room
        for fd in self._listener.filenos():
            if room and not self._accepting:
                self._loop.watch(fd, self._accept)
            elif self._accepting and not room:
                self._loop.forget(fd)
        self._accepting = room
        if room and self._listener.has_clients:
            self._accept()

    def _accept(self) -> None:
        if self._stop_by is not None:  # since this turn began: the workers take no more
            return
        self._listener.accept()
        if self._listener.stuck:
            self._accept_at = time.monotonic() + _FULL_PAUSE_S

    # --- Signals. ---

    def _on_signal(self, name: str) -> None:
        if name == signal.SIGHUP.name and not self._terminal.gone:
            self._read_all_again()
            return
        if name == signal.SIGUSR2.name:
            self._hand_over.asked(self._why_not(), [*self._listener.listening, *self._http])
            return
        if name == signal.SIGHUP.name:
            name = "the terminal was closed"
        now = time.monotonic()
        if self._hand_over.state in (State.GIVEN, State.DONE):
            log.info("%s: passed on to the new program", name)
            self._stopping = True
            self._hand_over.pass_on(signal.SIGTERM)
            return
        if self._hand_over.state is not State.NONE:
            self._hand_over.refuse("it was told to stop")
        if self._stop_by is None or not self._stopping:
            log.info("%s: stopping", name)
            self._manager.tell("STOPPING=1")
            self._stopping = True
            self._stop_asked_at = now
            self._stop(self._settings.stop_timeout_s)
        elif now > self._stop_asked_at + _SAME_REQUEST_S:
            log.warning("%s again: what was not finished is given up", name)
            self._give_up()

    def _why_not(self) -> str:
        """Return why no program can take over now; empty if one can."""
        if self._stop_by is not None and self._hand_over.state is State.NONE:
            return "it is stopping"
        return "" if self._announced else "it is starting itself"

    def _read_all_again(self) -> None:
        """Read settings and certificates again; if anything is bad, all stays as it was."""
        self._manager.tell("RELOADING=1", microseconds())
        try:
            read = self._read_again() if self._read_again is not None else self._settings
            found = changes(self._settings, read)
            tls = read_certificates(found.settings)
        except PwserverError as error:
            log.error("SIGHUP: everything stays as it was, because %s", error)
        else:
            self._apply(found, tls)
        self._manager.tell("READY=1")

    def _apply(self, found: Changes, tls: "TlsFiles | None") -> None:
        """Use other settings and certificates from now on, and say which."""
        if found.made:
            self._settings = found.settings
            self._pool.style = found.settings.log_style
            logs.set_level(found.settings.log_level)
            for each in self._workers:
                each.post(process.SETTINGS, [settings_file(found.settings)])
            log.info("SIGHUP: changed: %s", ", ".join(found.made))
        if found.needed:
            log.warning(
                "SIGHUP: not changed, because a new program is needed (kill -USR2 %d): %s",
                os.getpid(),
                ", ".join(found.needed),
            )
        if tls is not None:
            self._tls = tls
            for each in self._workers:
                each.post(process.TLS, [tls.to_descriptor()])
            for each in self._monitor:
                shown = self._tls_of_monitor()
                assert shown is not None
                each.post(process.TLS, [shown.to_descriptor()])
            log.info("SIGHUP: new connections get the certificate that is in the file now")
        elif not (found.made or found.needed):
            log.info("SIGHUP: nothing has changed")

    # --- Stopping. ---

    def _fail(self, code: ExitCode, reason: str) -> None:
        """End the service, because it cannot go on."""
        log.error("%s", reason)
        if self._hand_over.state in (State.JOINED, State.LETTING_GO):
            self._hand_over.refuse(reason)
        if self._exit_code == ExitCode.OK:
            self._exit_code = code
            self._stop(_FAILURE_STOP_S)

    def _stop(self, timeout_s: float) -> None:
        self._stop_by = time.monotonic() + timeout_s
        told = self._last_message == process.HAND_OVER  # the workers finish already
        if self._exit_code == ExitCode.OK and not told:
            while self._listener.accept():  # who waits by now is still served
                pass
        for fd in self._listener.filenos():
            self._loop.forget(fd)
        self._listener.close()
        if not told:
            self._tell([*self._workers, *self._others(), *self._monitor])

    def _let_go(self) -> None:
        """Have the children end, and keep their clients for the program that takes over."""
        raise_file_limit(self._settings.connections_max + OWN_FILES)
        self._stop_by = time.monotonic() + self._settings.stop_timeout_s
        self._last_message = process.HAND_OVER
        self._tell([*self._workers, *self._others(), *self._monitor])

    def _handed_over(self) -> None:
        """Tell the service manager which process it is to look after now."""
        self._manager.tell(f"MAINPID={self._hand_over.pid}")

    def _go_on(self, clients: list[Accepted]) -> None:
        """Start the children again: no program takes over after all."""
        self._last_message = process.STOP
        self._last_told = False
        if self._stopping:
            return
        self._stop_by = None
        self._listener.add(clients)
        for child in self._pool.children:
            if not child.running:
                child.restart_at = 0.0

    def _others(self) -> list[Child]:
        """Return the children, other than the workers, that end when they are told to."""
        return [*self._console, *self._backups]

    def _end_monitor(self) -> None:
        """End what has told until now that the service stops; from now on nobody can ask it."""
        if self._hand_over.state is State.NONE:
            for each in self._http:
                each.close()
        for child in self._monitor:
            child.kill()

    def _tell(self, children: list[Child]) -> None:
        for child in children:
            child.post(self._last_message)

    def _give_up(self) -> None:
        if self._exit_code == ExitCode.OK:
            self._exit_code = ExitCode.STOP_TIMEOUT
        self._pool.kill_all()
        for child in self._pool.children:
            child.restart_at = None

    def _ended(self) -> bool:
        """Take a stop one step further; return whether it is done."""
        if self._stop_by is None:
            return False
        if self._hand_over.state in (State.GIVEN, State.DONE):
            return self._hand_over.step()
        if time.monotonic() > self._stop_by:
            running = [child.name for child in self._pool.children if child.running]
            log.warning("the deadline for stopping passed: %s killed", ", ".join(running))
            if self._hand_over.state is not State.LETTING_GO:
                self._give_up()
                return True
            self._pool.kill_all()
            self._stop_by = float("inf")
        if not self._children_ended():
            return False
        if self._hand_over.state is State.LETTING_GO:
            self._hand_over.let_go(self._instance)
            return False
        return True

    def _children_ended(self) -> bool:
        """Have the children end in their order; return whether all have."""
        others = [child for child in self._workers if child is not self._writing]
        others += self._others()
        if any(child.running for child in others):
            return False
        if any(child.running for child in self._monitor):
            self._end_monitor()
            return False
        if self._writing.running:
            if not self._last_told:
                self._last_told = True
                self._tell([self._writing])
            return False
        if self._checker.running:
            self._checker.kill()  # nobody waits for what it is at
        return not self._checker.running

"""Clients that mean no good, in a process of their own.

    python -m tests.trials.abuse.abusers KIND HOST PORT NUMBER

    guess      guesses tokens, and the passwords of a user, as fast as it is answered; the token of
               the application that guesses passwords comes first on standard input
    slow       begins a message and sends a byte of it every three seconds
    silent     asks until nothing more is taken, and never reads a reply
    greedy     asks as much as is answered, without end
    half-open  asks something now and then; whoever started it takes its link down
    idle       connects and says nothing
    denied, counts, saves, pages, hot, wrong, checks, unread
               a flood (`FLOODS`); the token of the application that floods comes first on standard
               input

It prints a line when all its connections are open, keeps their number up when the service closes
some, and ends at a second line of standard input, with a line of JSON that says what it came to.
`__main__.py` and `floods.py` run it, and say what others notice.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

CONNECT_TIMEOUT_S = 30.0
BYTE_EVERY_S = 3.0
ASK_EVERY_S = 1.0
LOOK_EVERY_S = 0.2
FULL_S = 0.5
"""So long nothing more is to be taken before silent clients count as full."""

TURN_S = 0.05
"""How often it looks after its connections."""

SLOW_MESSAGE = b'{"message": "save_password", "password": "' + b"x" * 60_000
PING = b'{"message": "ping"}\n'
PIPELINE = PING * 512
RECEIVE_BUFFER_BYTES = 4096


Address = tuple[str, int]


class Abuser:
    """One connection; a new one where the service has closed it. `act` is done every turn."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.acts = 0
        self.closed = 0
        self.connect()

    def connect(self) -> None:
        """Open the connection."""
        self.socket = socket.create_connection(self._address, CONNECT_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.next_act = 0.0
        self.begin()

    def begin(self) -> None:
        """Do what comes first on a connection."""

    def act(self) -> None:
        """Do what it does next; raise OSError where the connection is gone."""

    def turn(self, now: float) -> None:
        """Act if it is time, and connect again where the service has had enough."""
        if now < self.next_act:
            return
        try:
            self.act()
        except BlockingIOError:
            pass
        except OSError:
            self.closed += 1
            self.socket.close()
            self.connect()

    def look(self) -> None:
        """See at the end whether the service has closed it."""
        try:
            while self.hears():
                pass
        except OSError:
            self.closed += 1

    def hears(self) -> bytes:
        """Return what the service has said, nothing if nothing; raise where it has closed."""
        try:
            said = self.socket.recv(65536)
        except BlockingIOError:
            return b""
        if not said:
            raise ConnectionResetError
        return said


class Guesser(Abuser):
    """Guesses a token, and hears that it is wrong."""

    token = ""

    def begin(self) -> None:
        """Show the right token, where passwords are guessed, and guess for the first time."""
        if self.token:
            message = {"message": "authenticate", "token": self.token}
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        self._guess()

    def act(self) -> None:
        """Guess again once the answer is there."""
        if b"\n" in self.hears():
            self._guess()

    def _guess(self) -> None:
        self.acts += 1
        guess = f"{self.acts:043}"
        if self.token:
            message = {"message": "verify_password", "username": "alice", "password": guess}
        else:
            message = {"message": "authenticate", "token": f"pwserver_{guess}"}
        self.socket.sendall(json.dumps(message).encode() + b"\n")


class Slow(Abuser):
    """Sends a byte of a long message every few seconds."""

    def begin(self) -> None:
        """Send what makes it a message."""
        self.socket.sendall(SLOW_MESSAGE[:20])
        self._at = 20
        self.next_act = time.monotonic() + BYTE_EVERY_S

    def act(self) -> None:
        """Send one byte more."""
        self.hears()
        self.socket.sendall(SLOW_MESSAGE[self._at : self._at + 1])
        self._at += 1
        self.acts += 1
        self.next_act = time.monotonic() + BYTE_EVERY_S


class Silent(Abuser):
    """Asks as much as the service takes, and reads nothing. Once it was cut off, it asks less."""

    filling = True

    def begin(self) -> None:
        """Have little room for replies."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._asked = False

    def act(self) -> None:
        """Send until there is no room, or once, and see whether the service has closed it."""
        if hung_up(self.socket):
            raise ConnectionResetError
        while self.filling or not self._asked:
            self._asked = True
            self.acts += 1
            self.socket.send(PIPELINE)
        self.next_act = time.monotonic() + LOOK_EVERY_S

    def look(self) -> None:
        """See at the end whether the service has closed it, without reading."""
        self.closed += hung_up(self.socket)


def hung_up(connection: socket.socket) -> bool:
    """Tell whether the other side has closed a connection, whatever there is to be read."""
    closed = select.poll()
    closed.register(connection, select.POLLRDHUP)
    return bool(closed.poll(0))


class Greedy(Abuser):
    """Asks without end, and reads what it is answered."""

    def act(self) -> None:
        """Read what there is, and send what is taken."""
        self.hears()
        self.socket.send(PIPELINE)
        self.acts += 1


class HalfOpen(Abuser):
    """Asks now and then, until nothing comes through any more."""

    def act(self) -> None:
        """Ask, and read what there is."""
        self.next_act = time.monotonic() + ASK_EVERY_S
        self.hears()
        self.socket.sendall(PING)
        self.acts += 1

    def turn(self, now: float) -> None:
        """Act if it is time; its connections are not replaced, because no packet comes through."""
        with suppress(OSError):
            super().turn(now)

    def connect(self) -> None:
        """Open the connection, once."""
        if not self.closed:
            super().connect()


class Idle(Abuser):
    """Says nothing, and comes again when it was told to go."""

    def act(self) -> None:
        """Hear whether it must go."""
        self.next_act = time.monotonic() + LOOK_EVERY_S
        self.hears()


class Flood(Abuser):
    """Sends packet after packet, as fast as the service takes them."""

    def __init__(self, address: Address, opening: bytes, packet: bytes, *, reads: bool) -> None:
        self._opening = opening
        self._packet = packet
        self._reads = reads
        super().__init__(address)

    def begin(self) -> None:
        """Say who it is."""
        if not self._reads:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._left = memoryview(self._opening + self._packet)

    def act(self) -> None:
        """Read what there is, and send what is taken."""
        if self._reads:
            self.hears()
        self._left = self._left[self.socket.send(self._left) :]
        if not self._left:
            self._left = memoryview(self._packet)
            self.acts += 1


def line(message: str, **fields: object) -> bytes:
    """Return a request."""
    return json.dumps({"message": message, **fields}).encode() + b"\n"


SLOW_TO_CHECK = ("4@8({[<369&#!1|0$5+7%2" * 3)[:64]
AS_GUEST, AS_STRANGER, AS_APPLICATION = range(3)
FLOODS: dict[str, tuple[int, bytes]] = {
    "denied": (AS_STRANGER, line("get_password", username="a") * 300),
    "counts": (AS_GUEST, line("number_of_users") * 300),
    "saves": (AS_GUEST, line("save_password", password="x" * 20) * 300),
    "pages": (AS_APPLICATION, line("list_users", label="x")[:-1] * 444),
    "hot": (AS_APPLICATION, line("save_password", username="hot", password="x" * 20) * 200),
    "wrong": (AS_APPLICATION, line("verify_password", username="alice", password="x") * 300),
    "checks": (AS_GUEST, line("check_password", password=SLOW_TO_CHECK) * 100),
    "unread": (AS_APPLICATION, line("list_users", limit=1000) * 100),
}
"""Each flood: who sends it, and its packet."""


def floods(kind: str, address: Address, number: int, token: str) -> list[Abuser]:
    """Return connections that flood the service."""
    who, packet = FLOODS[kind]
    shown = {AS_GUEST: "", AS_STRANGER: "wrong", AS_APPLICATION: token}[who]
    opening = line("authenticate", token=shown) if shown else b""
    return [Flood(address, opening, packet, reads=kind != "unread") for _ in range(number)]


def guessers(address: Address, number: int, token: str) -> list[Abuser]:
    """Return as many that guess tokens as passwords."""

    class PasswordGuesser(Guesser):
        pass

    PasswordGuesser.token = token
    half = number // 2
    return [
        *(Guesser(address) for _ in range(half)),
        *(PasswordGuesser(address) for _ in range(half)),
    ]


MAKERS: dict[str, Callable[[Address], Abuser]] = {
    "slow": Slow,
    "silent": Silent,
    "greedy": Greedy,
    "half-open": HalfOpen,
    "idle": Idle,
}


def fill(abusers: Sequence[Abuser]) -> None:
    """Have silent ones ask until nothing more is taken of any, or the first is cut off."""
    full_since = time.monotonic()
    while time.monotonic() < full_since + FULL_S and not any(each.closed for each in abusers):
        before = sum(abuser.acts for abuser in abusers)
        for abuser in abusers:
            abuser.turn(time.monotonic())
        if sum(abuser.acts for abuser in abusers) > before + len(abusers):  # a try counts
            full_since = time.monotonic()
    Silent.filling = False


def main() -> None:
    """Abuse a service until told to end."""
    kind, host, port, number = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    address = host, int(port)
    token = sys.stdin.readline().strip()
    if kind == "guess":
        abusers = guessers(address, int(number), token)
    elif kind in FLOODS:
        abusers = floods(kind, address, int(number), token)
    else:
        abusers = [MAKERS[kind](address) for _ in range(int(number))]
    if kind == "silent":
        fill(abusers)
    print("ready", flush=True)
    pause_s = 0.0 if kind == "greedy" or kind in FLOODS else TURN_S
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        now = time.monotonic()
        for abuser in abusers:
            abuser.turn(now)
    for abuser in abusers:
        abuser.look()
    acts, closed = (
        sum(values) for values in zip(*((a.acts, a.closed) for a in abusers), strict=True)
    )
    print(json.dumps({"acts": acts, "closed": closed}), flush=True)


if __name__ == "__main__":
    main()

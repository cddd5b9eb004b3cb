"""Opening the sockets that are listened on: where the settings say, and nowhere that is not safe.

Who is accepted there, and what becomes of them, is the listener's business.
"""

import errno
import logging
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pwserver.config import NO_HOST, Settings, host_in_url
from pwserver.errors import ConfigError, ListenError
from pwserver.limits import BACKLOG
from workers.auth.peers import is_loopback

log = logging.getLogger(__name__)

_KEEPALIVE_PROBES = 6
"""How often a silent machine is asked, in the second half of the time that it has."""

_UNIX_PATH_BYTES_MAX = 107
"""What fits into a `sockaddr_un` (unix(7)), with the NUL behind it."""


PORT, HTTP = "port", "http"
"""The settings that choose an address of TCP."""

NOT_OURS = (0, 0)
"""Instead of an inode: the file belongs to another process, which removes it."""


@dataclass(eq=False)
class Listening:
    """A socket that is listened on, and its file where it is a Unix socket."""

    socket: socket.socket
    name: str  # as people are told
    path: str = ""
    inode: tuple[int, int] = NOT_OURS  # of the file at the path, if we have made it
    given: bool = False  # the service manager has opened it

    def close(self) -> None:
        """Stop listening: who comes from now on is refused. The file goes if it still is ours."""
        try:
            if self.path and _inode(self.path) == self.inode:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("the socket file %s cannot be removed: %s", self.path, error.strerror)
        self.socket.close()


def open_all(settings: Settings, inherited: Sequence[Listening] = ()) -> list[Listening]:
    """Listen wherever the settings say, on the sockets that are `inherited` if these fit.

    Raises `ListenError` where that cannot be done, and `ConfigError` where it must not.
    """
    if given := [(each.socket, each.name) for each in inherited if each.given]:
        return adopt(settings, given)
    opened: list[Listening] = []
    try:
        if settings.host != NO_HOST:
            host, port = settings.host, settings.port
            fitting = _fitting(settings, inherited, host, port)
            opened.append(fitting or _open_tcp(settings, host, port))
        if settings.unix:
            mode = int(settings.unix_mode, 8)
            same = [each for each in inherited if each.path == settings.unix]
            if same:
                os.chmod(settings.unix, mode)
            opened.append(same[0] if same else _open_unix(settings.unix, mode))
    except BaseException as error:
        for each in opened:
            if each not in inherited:
                each.close()
        if isinstance(error, OSError):
            raise ListenError(f"{settings.unix} cannot be used: {error.strerror}.") from None
        raise
    return opened


def open_http(settings: Settings, inherited: Sequence[Listening] = ()) -> list[Listening]:
    """Listen for HTTP: on a TCP address, and on the socket of the owner of the files.

    Takes and raises what `open_all` does.
    """
    if not settings.http:
        return []
    host, port = settings.http_address
    fitting = _fitting(settings, inherited, host, port, HTTP)
    opened = [fitting or _open_tcp(settings, host, port, HTTP)]
    path = str(settings.http_path)
    same = [each for each in inherited if each.path == path]
    try:
        opened.append(same[0] if same else _open_unix(path, 0o600))
    except BaseException:
        if fitting is None:
            opened[0].close()
        raise
    return opened


def _fitting(
    settings: Settings, inherited: Sequence[Listening], host: str, port: int, flag: str = PORT
) -> Listening | None:
    """Return the inherited socket that listens at an address, as it is to be now."""
    family, _, _, _, address = _address_of(host, port)
    for each in inherited:
        if each.path or each.socket.family != family:
            continue
        if (flag == HTTP) != each.name.startswith("http"):  # with port 0 either would fit
            continue
        its_host, its_port = each.socket.getsockname()[:2]
        if its_host == address[0] and port in (0, its_port):
            _check_exposure(settings, its_host, its_port, flag)
            _set_options(each.socket, settings.peer_timeout_s)
            each.name = _tcp_name(each.socket, settings, flag)
            return each
    return None


def adopt(settings: Settings, given: Sequence[tuple[socket.socket, str]]) -> list[Listening]:
    """Listen on the sockets that the service manager has opened, and on no others.

    Their names are in errors. Raises `ConfigError` for an address that must not be listened on.
    """
    adopted = []
    for opened, name in given:
        if opened.family == socket.AF_UNIX:
            shown = os.fsdecode(opened.getsockname()) or name
        elif opened.family in (socket.AF_INET, socket.AF_INET6):
            host, port = opened.getsockname()[:2]
            _check_exposure(settings, host, port)
            _set_options(opened, settings.peer_timeout_s)
            shown = _tcp_name(opened, settings)
        else:
            raise ListenError(f"{name} of the service manager is no address of TCP or a path.")
        opened.setblocking(False)
        adopted.append(Listening(opened, shown, given=True))
    return adopted


# --- TCP. ---


def _address_of(host: str, port: int) -> tuple[Any, ...]:
    """Return what `socket.getaddrinfo` returns for an address to listen on."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError):
        raise ListenError(f"{host!r} is not an address of this machine.") from None


def _set_options(listening: socket.socket, timeout_s: float) -> None:
    """Set the options that accepted connections inherit.

    There is no delay for small replies, and a machine that has vanished is given up, whether it
    owes nothing (keepalive) or has not acknowledged what was sent to it (the user timeout, RFC
    5482: else the kernel goes on sending for a quarter of an hour).
    """
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    half_s, probe_s = timeout_s / 2, timeout_s / 2 / _KEEPALIVE_PROBES
    for option, value in (
        (socket.TCP_KEEPIDLE, max(1, round(half_s))),
        (socket.TCP_KEEPINTVL, max(1, round(probe_s))),
        (socket.TCP_KEEPCNT, _KEEPALIVE_PROBES),
        (socket.TCP_USER_TIMEOUT, round(timeout_s * 1000)),
    ):
        listening.setsockopt(socket.IPPROTO_TCP, option, value)


def _tcp_name(listening: socket.socket, settings: Settings, flag: str = PORT) -> str:
    host, port = listening.getsockname()[:2]
    shown = f"{host_in_url(host)}:{port}"
    if flag == HTTP:
        return f"http{'' if is_loopback(host) else 's'}://{shown}/"
    return f"{shown} (TLS)" if settings.tls_cert else shown


def _open_tcp(settings: Settings, host: str, port: int, flag: str = PORT) -> Listening:
    """Listen on a TCP address, which the setting `flag` has chosen."""
    family, kind, protocol, _, address = _address_of(host, port)
    where = f"{host_in_url(host)}:{port}"
    _check_exposure(settings, str(address[0]), port, flag)
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _set_options(listening, settings.peer_timeout_s)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenError(
                f"{where} is in use by another program; stop it, or choose another --{flag}."
            ) from None
        raise ListenError(f"{where} cannot be listened on: {error.strerror}.") from None
    return Listening(listening, _tcp_name(listening, settings, flag))


def _check_exposure(settings: Settings, address: str, port: int, flag: str = PORT) -> None:
    """Make sure that who can be reached from other machines has TLS, or was told to do without.

    Nobody can be told to show metrics and the page without it.
    """
    if is_loopback(address):
        return
    where = f"{host_in_url(address)}:{port}"
    if flag == HTTP:
        if not settings.tls_cert:
            raise ConfigError(f"other machines can reach {where}: give --tls-cert and --tls-key.")
        return
    if settings.insecure:
        may = ["save and count without a token"] if settings.guests == "all" else []
        if not settings.tls_cert:
            may.append("read what others send there, passwords included")
        if may:
            log.warning("insecure: everybody who reaches %s can %s", where, ", and ".join(may))
    elif not settings.tls_cert:
        raise ConfigError(
            f"other machines can reach {where}: give --tls-cert and --tls-key, or --insecure if "
            "whoever does so may read everything."
        )


# --- Unix sockets. ---


def _open_unix(path: str, mode: int) -> Listening:
    """Listen on a Unix socket. Until `listen`, nobody gets in by whatever mode the file has."""
    if len(os.fsencode(path)) > _UNIX_PATH_BYTES_MAX or "\0" in path:
        raise ListenError(
            f"{path!r} cannot be the path of a Unix socket: it may have "
            f"{_UNIX_PATH_BYTES_MAX} bytes and no NUL character."
        )
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made = False
    try:
        _remove_stale(path)
        listening.bind(path)
        made = True
        os.chmod(path, mode)
        listening.listen(BACKLOG)
        listening.setblocking(False)
        return Listening(listening, path, path, _inode(path))
    except OSError as error:
        if made:
            os.unlink(path)
        listening.close()
        raise ListenError(f"{path} cannot be listened on: {error.strerror}.") from None
    except ListenError:
        listening.close()
        raise


def _remove_stale(path: str) -> None:
    """Remove what a service that was killed has left at a path; raise `ListenError` if it lives.

    Whatever is not a socket is somebody's, and is left alone.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenError(f"{path} is there already, and is no socket; choose another --unix.")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # so many wait there that one more would have to
            pass
    raise ListenError(f"{path} is in use by another program; stop it, or choose another --unix.")


def _inode(path: str) -> tuple[int, int]:
    """Return what tells a file from one that is at the same path later."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino

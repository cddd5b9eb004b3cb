"""Opening the sockets that are listened on: where the settings say, and nowhere that is not safe.

Who is accepted there, and what becomes of them, is the listener's business.
"""

import errno
import logging
import os
import socket
import stat
from dataclasses import dataclass

from pwserver.config import NO_HOST, Settings, host_in_url
from pwserver.errors import ConfigError, ListenError
from pwserver.limits import BACKLOG
from workers.auth.peers import is_loopback

log = logging.getLogger(__name__)

_KEEPALIVE_PROBES = 6
"""How often a silent machine is asked, in the second half of the time that it has."""

_UNIX_PATH_BYTES_MAX = 107
"""What fits into a `sockaddr_un` (unix(7)), with the NUL behind it."""


@dataclass(frozen=True)
class Listening:
    """A socket that is listened on, and its file where it is a Unix socket."""

    socket: socket.socket
    name: str  # as people are told
    path: str = ""
    inode: tuple[int, int] = (0, 0)  # of the file that we made at the path

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


def open_all(settings: Settings) -> list[Listening]:
    """Listen wherever the settings say.

    Raises `ListenError` where that cannot be done, and `ConfigError` where it must not.
    """
    opened: list[Listening] = []
    try:
        if settings.host != NO_HOST:
            opened.append(_open_tcp(settings, settings.host, settings.port))
        if settings.unix:
            opened.append(_open_unix(settings.unix, int(settings.unix_mode, 8)))
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def open_http(settings: Settings) -> list[Listening]:
    """Listen for HTTP: on a TCP address, and on the socket of the owner of the files.

    Raises as `open_all` does.
    """
    if not settings.http:
        return []
    opened = [_open_tcp(settings, *settings.http_address, flag="http")]
    try:
        opened.append(_open_unix(str(settings.http_path), 0o600))
    except BaseException:
        opened[0].close()
        raise
    return opened


# --- TCP. ---


def _open_tcp(settings: Settings, host: str, port: int, flag: str = "port") -> Listening:
    """Listen on a TCP address, which the setting `flag` has chosen.

    The options are set here, because accepted connections inherit them: no delay for small replies,
    and a machine that has vanished is given up, whether it owes nothing (keepalive) or has not
    acknowledged what was sent to it (the user timeout, RFC 5482: else the kernel goes on sending
    for a quarter of an hour).
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ListenError(f"{host!r} is not an address of this machine.") from None
    where = f"{host_in_url(host)}:{port}"
    if flag == "http":
        _check_exposure_of_http(settings, where, str(address[0]))
    else:
        _check_exposure(settings, where, str(address[0]))
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        timeout_s = settings.peer_timeout_s
        half_s, probe_s = timeout_s / 2, timeout_s / 2 / _KEEPALIVE_PROBES
        for option, value in (
            (socket.TCP_KEEPIDLE, max(1, round(half_s))),
            (socket.TCP_KEEPINTVL, max(1, round(probe_s))),
            (socket.TCP_KEEPCNT, _KEEPALIVE_PROBES),
            (socket.TCP_USER_TIMEOUT, round(timeout_s * 1000)),
        ):
            listening.setsockopt(socket.IPPROTO_TCP, option, value)
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
    host, port = listening.getsockname()[:2]
    shown = f"{host_in_url(host)}:{port}"
    if flag == "http":
        return Listening(listening, f"http{'' if is_loopback(host) else 's'}://{shown}/")
    return Listening(listening, f"{shown} (TLS)" if settings.tls_cert else shown)


def _check_exposure_of_http(settings: Settings, where: str, address: str) -> None:
    """Make sure that what other machines can see is encrypted."""
    if not is_loopback(address) and not settings.tls_cert:
        raise ConfigError(f"other machines can reach {where}: give --tls-cert and --tls-key.")


def _check_exposure(settings: Settings, where: str, address: str) -> None:
    """Make sure that who can be reached from other machines has TLS, or was told to do without."""
    if is_loopback(address):
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

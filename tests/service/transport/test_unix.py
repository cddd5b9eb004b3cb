"""Ways in: Unix sockets, and TCP addresses that other machines reach."""

import contextlib
import select
import socket
import stat
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support.books_wire import ALIVE, PING
from tests.support.harness import PATIENCE_S, SAVED, Peer, Service, unix_peer
from tests.support.tls import Authority, tls_flags, tls_peer, trusting


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the Unix socket is to be."""
    return tmp_path / "socket"


def refused(folder: Path, *flags: str, code: int = 4) -> str:
    """Return what a service says that cannot listen, and leaves no database behind."""
    with Service(folder, *flags) as service:
        assert service.ended() == code
    assert not (folder / "user_data.db").exists()
    return service.stderr


# --- Unix sockets. ---


def test_both_ways_lead_to_one_book(start: Start, path: Path) -> None:
    """Beside TCP, the Unix socket is served alike; the first line names both."""
    service = start("--unix", str(path))
    assert f"listening on 127.0.0.1:{service.port} and {path}, database" in service.banner
    with unix_peer(path) as here, service.peer() as there:
        here.send({"message": "save_password", "password": "abc123"})
        assert here.line() == SAVED
        assert there.save() == {"message": "Password saved!"}
        assert here.count() == there.count() == 2


def test_a_service_may_do_without_tcp(start: Start, path: Path) -> None:
    """With `--host none` there is the Unix socket alone, on which a stop loses nothing."""
    service = start("--host", "none", "--unix", str(path))
    assert f"listening on {path}, database" in service.banner
    with unix_peer(path) as peer:
        peer.send(*[{"message": "save_password", "password": "abc123"}] * 2000)
        peer.no_more_to_send()
        assert [peer.line() for _ in range(2000)] == [SAVED] * 2000
        assert peer.ended()
    assert service.stop() == 0


def test_there_is_no_tls_on_it(start: Start, path: Path, authority: Authority) -> None:
    """A service with TLS speaks it over TCP; the Unix socket needs none."""
    service = start("--unix", str(path), *tls_flags(authority.issue("localhost")))
    with unix_peer(path) as here, tls_peer(service, trusting(authority)) as there:
        assert here.ask(PING) == there.ask(PING) == ALIVE


@pytest.mark.parametrize("mode", ["600", "0660", "777"])
def test_its_mode_is_as_set(start: Start, path: Path, mode: str) -> None:
    """Who may connect is what the setting says, and not what the umask leaves of it."""
    start("--unix", str(path), "--unix-mode", mode, umask=0o077)
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)


def test_its_mode_is_closed_by_default(start: Start, path: Path) -> None:
    """Without a setting it is the owner's alone, whatever the umask is."""
    start("--unix", str(path), umask=0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_gone_after_a_stop(start: Start, path: Path) -> None:
    """A clean stop removes the file."""
    service = start("--unix", str(path))
    assert path.exists()
    assert service.stop() == 0
    assert not path.exists()


def test_what_a_killed_service_left_is_replaced(start: Start, path: Path) -> None:
    """A socket file on which nobody listens is in nobody's way."""
    killed = start("--unix", str(path))
    killed.kill_everything()
    assert path.exists()
    start("--unix", str(path))
    with unix_peer(path) as peer:
        assert peer.ask(PING) == ALIVE


def test_a_socket_in_use_is_left_alone(start: Start, path: Path, tmp_path: Path) -> None:
    """A second service is refused, whether the first has clients or is too busy to answer."""
    (tmp_path / "second").mkdir()
    start("--unix", str(path))
    with unix_peer(path) as peer:
        said = refused(tmp_path / "second", "--unix", str(path))
        assert f"{path} is in use by another program; stop it, or choose another --unix." in said
        assert peer.ask(PING) == ALIVE
    with unix_peer(path) as peer:
        assert peer.ask(PING) == ALIVE


def test_a_full_backlog_is_in_use(path: Path, tmp_path: Path) -> None:
    """A socket whose program accepts nobody at the moment is not stale."""
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        assert "is in use" in refused(tmp_path, "--unix", str(path))
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_never_touched(path: Path, tmp_path: Path, kind: str) -> None:
    """A file, a folder or a link of that name is somebody's: the service does not start."""
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = path.lstat()
    said = refused(tmp_path, "--unix", str(path))
    assert f"{path} is there already, and is no socket; choose another --unix." in said
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_size, after.st_mtime_ns) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
        before.st_mtime_ns,
    )


def test_what_others_put_in_its_place_stays(start: Start, path: Path) -> None:
    """A stop removes the service's own file only."""
    service = start("--unix", str(path))
    path.rename(path.with_name("moved"))
    path.write_text("precious")
    assert service.stop() == 0
    assert path.read_text() == "precious"


def test_places_that_cannot_be(tmp_path: Path) -> None:
    """A path that is too long, or leads nowhere, is refused with the reason."""
    long = tmp_path / ("x" * 108)
    assert "it may have 107 bytes and no NUL character." in refused(tmp_path, "--unix", str(long))
    nowhere = tmp_path / "none" / "socket"
    said = refused(tmp_path, "--unix", str(nowhere))
    assert f"{nowhere} cannot be listened on: No such file or directory." in said


def test_a_refused_start_leaves_no_file(tmp_path: Path, path: Path) -> None:
    """Where the store is refused after the socket was opened, its file is gone again."""
    (tmp_path / "user_data.key").write_text("no key")
    with Service(tmp_path, "--unix", str(path)) as service:
        assert service.ended() == 5
    assert not path.exists()


def test_neither_way_starves_the_other(start: Start, path: Path) -> None:
    """Where there is room for one client only, those who wait at the two sockets take turns."""
    service = start("--unix", str(path), "--workers", "1", "--connections-max", "1")
    with service.peer() as first, contextlib.ExitStack() as stack:
        assert first.ask(PING) == ALIVE
        waiting = [stack.enter_context(service.peer()) for _ in range(6)]
        here = [stack.enter_context(unix_peer(path)) for _ in range(2)]
        waiting += here
        for peer in waiting:
            peer.send(PING)
        first.close()
        order = []
        while waiting:
            served = _first_served(waiting)
            order.append(served)
            waiting.remove(served)
            served.close()
    assert max(order.index(peer) for peer in here) <= 3


def _first_served(peers: list[Peer]) -> Peer:
    readable, _, _ = select.select([peer.socket for peer in peers], [], [], PATIENCE_S)
    assert len(readable) == 1
    return next(peer for peer in peers if peer.socket is readable[0])


# --- Addresses that other machines reach. ---


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_other_addresses_need_tls(tmp_path: Path, host: str) -> None:
    """On an address that is not loopback a service without TLS does not start by itself."""
    said = refused(tmp_path, "--host", host, code=2)
    assert "give --tls-cert and --tls-key, or --insecure" in said


def test_insecure_is_said_at_every_start(start: Start) -> None:
    """Who wants it all the same gets it, and is told each time what it means."""
    for starts in (1, 2):
        service = start("--host", "0.0.0.0", "--insecure")
        with service.peer() as peer:
            assert peer.ask(PING) == ALIVE
        warnings = [line for line in service.stderr.splitlines() if "WARNING" in line]
        assert len(warnings) == starts
        assert "insecure: everybody who reaches 0.0.0.0:0 can save and count" in warnings[-1]
        assert "read what others send there, passwords included" in warnings[-1]
        assert service.stop() == 0


def test_with_tls_any_address_will_do(start: Start, authority: Authority) -> None:
    """With TLS a service listens on all addresses, and need not warn of anything."""
    service = start("--host", "0.0.0.0", *tls_flags(authority.issue("localhost")))
    with tls_peer(service, trusting(authority)) as peer:
        assert peer.ask(PING) == ALIVE
    assert "WARNING" not in service.stderr


@pytest.mark.parametrize("host", ["localhost", "127.1.2.3"])
def test_loopback_needs_nothing(start: Start, host: str) -> None:
    """Every address of loopback, also by name, is this machine's own."""
    assert "WARNING" not in start("--host", host).stderr

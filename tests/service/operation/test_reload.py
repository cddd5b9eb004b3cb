"""SIGHUP reads the settings again: some change at once, others are named."""

import signal

from tests.conftest import Start
from tests.support.harness import Peer, Service, eventually

DENIED = "Denied!"


def hang_up(service: Service, words: str) -> None:
    """Send SIGHUP and wait until something is logged of it."""
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: words in service.stderr, words)


def test_settings_change_without_a_restart(start: Start) -> None:
    """Each is said by name, those too that need a new program; guests that may no more are told."""
    service = start(workers=None)
    children = service.all_children()
    file = service.folder / "pwserver.toml"
    with service.peer() as before:
        assert before.save() == {"message": "Password saved!"}
        file.write_text('guests = "none"\nworkers = 5\nlog_level = "debug"\n')
        hang_up(service, "SIGHUP: changed: guests (all -> none), log_level (info -> debug)")
        needed = f"a new program is needed (kill -USR2 {service.process.pid}): workers"
        assert needed in service.stderr
        assert before.ended()
    eventually(lambda: _save(service) == DENIED, "no worker has guests")
    assert service.children() == children
    service.replace("worker 1")
    eventually(lambda: _save(service) == DENIED, "nor has one that is started now")


def test_a_mistake_changes_nothing(start: Start) -> None:
    """The sentence says what is wrong, and the next SIGHUP takes what is right."""
    service = start()
    file = service.folder / "pwserver.toml"
    file.write_text('guests = "none"\nversions_kept = -1\n')
    hang_up(service, "SIGHUP: everything stays as it was, because versions_kept is -1")
    assert _save(service) == "Password saved!"
    file.write_text("guests = \n")
    hang_up(service, "because pwserver.toml is not a TOML file")
    assert _save(service) == "Password saved!"
    file.write_text("versions_kept = 1\n")
    hang_up(service, "SIGHUP: changed: versions_kept (10 -> 1)")


def _save(service: Service) -> str:
    with Peer(service.port) as peer:
        return str(peer.save()["message"])

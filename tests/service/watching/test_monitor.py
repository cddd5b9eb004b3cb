"""Metrics and health of a running service, and what goes wrong with who asks for them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Start
from tests.support import needs
from tests.support.harness import (
    PATIENCE_S,
    Service,
    eventually,
    own_address,
    unix_peer,
)
from tests.support.http import ask, samples, url_of_monitor
from tests.support.shell import Shell, write_token
from tests.support.tls import Authority, tls_flags, tls_peer, trusting

HTTP = ("--http", "127.0.0.1:0")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return one service with a monitor, for the tests that leave it as it was."""
    with Service(tmp_path_factory.mktemp("watched"), *HTTP) as service:
        yield service.wait_until_listening()
        assert service.stop() == 0


def metrics(service: Service) -> dict[tuple[str, ...], float]:
    """Return the metrics of a service that shows them to this machine."""
    answer = ask(f"{url_of_monitor(service)}metrics")
    assert (answer.status, answer.headers["content-security-policy"] is not None) == (200, True)
    return samples(answer.text)


def test_it_is_no_process_that_hangs(start: Start) -> None:
    """The listener hears from it, and never replaces one that is well."""
    service = start(
        *HTTP, "--hang-timeout-s", "5", "--backup-every", "1h", "--backup-dir", "copies"
    )
    monitor, backup = service.child("monitor"), service.child("backup")
    time.sleep(7)  # longer than the listener waits for a sign of life
    assert (service.child("monitor"), service.child("backup")) == (monitor, backup)
    assert "sign of life" not in service.stderr


def test_the_metrics_say_what_was_done(start: Start) -> None:
    """Each request is counted once, by command and outcome, whichever way it went."""
    service = start(*HTTP)
    with service.owner() as owner, service.peer() as guest:
        for number in range(3):
            assert owner.save()["message"] == "Password saved!"
            named = {"message": "save_password", "username": f"u{number}", "password": "x"}
            assert owner.ask(named)["version"] == 1
        owner.count()
        guest.send(
            *[{"message": "save_password", "password": "x"}] * 50, {"message": "number_of_users"}
        )
        assert [guest.reply()["message"] for _ in range(51)][-1] == "return_number_of_users"
        owner.ask({"message": "get_password", "username": "nobody"})
        owner.ask({"message": "get_password", "username": "u0"})
        guest.ask({"message": "get_password", "username": "u0"})
        guest.ask({"message": "nonsense"})
        owner.ask({"message": "verify_password", "username": "u0", "password": "x"})
        owner.ask({"message": "check_password", "password": "x"})

        expected = {
            ("save_password", "ok"): 56,
            ("number_of_users", "ok"): 2,
            ("get_password", "ok"): 1,
            ("get_password", "unknown_user"): 1,
            ("get_password", "denied"): 1,
            ("invalid", "invalid"): 1,
            ("verify_password", "ok"): 1,
            ("check_password", "ok"): 1,
            ("authenticate", "ok"): 1,
        }

        def counted() -> bool:
            found = metrics(service)
            return all(
                found.get(("pwserver_requests_total", *labels)) == number
                for labels, number in expected.items()
            )

        eventually(counted, "all is counted")
        found = metrics(service)
        open_now = sum(found["pwserver_connections", each] for each in "12")
    assert open_now == 2
    assert found["pwserver_request_duration_seconds_count", "save"] == 56
    assert found["pwserver_request_duration_seconds_count", "read"] == 4, "the denied one, too"
    assert found["pwserver_commit_changes_sum",] == 56
    assert found["pwserver_users",] == 56
    assert found["pwserver_restarts_total", "worker 1"] == 0
    assert found["pwserver_commit_duration_seconds_sum",] > 0


def test_promtool_accepts_the_metrics(watched: Service) -> None:
    """Names, units and types are as Prometheus's own linter wants them."""
    needs.tool("promtool")
    service = watched
    text = ask(f"{url_of_monitor(service)}metrics").text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_numbers_go_on_when_a_worker_is_killed(start: Start) -> None:
    """A restart is counted, and what was counted before it is not lost."""
    service = start(*HTTP)
    with service.peer() as peer:
        peer.save()
        eventually(lambda: _saves(service) == 1, "the save is counted")
    service.replace("worker 1")
    service.replace("worker 2")

    def counted() -> bool:
        found = metrics(service)
        restarts = [found["pwserver_restarts_total", f"worker {each}"] for each in "12"]
        return restarts == [1, 1] and found["pwserver_workers_ready",] == 2

    eventually(counted, "both are counted and ready")
    with service.peer() as peer:
        peer.save()
    eventually(lambda: _saves(service) == 2, "it goes on from there")


def _saves(service: Service) -> float:
    return metrics(service)["pwserver_requests_total", "save_password", "ok"]


def test_health_and_readiness(start: Start, tmp_path: Path) -> None:
    """An idle service commits when it is asked whether it can; a hung worker is named."""
    service = start(*HTTP, "--hang-timeout-s", "600")
    url, shell = url_of_monitor(service), Shell(tmp_path)
    assert ask(f"{url}healthz").text == "All processes answer.\n"
    for _ in range(2):
        ready = ask(f"{url}readyz")
        assert (ready.status, ready.text) == (200, "Changes are saved.\n")
    well = shell.run("health")
    assert (well.code, well.out) == (0, "All processes answer.\nChanges are saved.\n")
    hung = service.child("worker 1")
    os.kill(hung, signal.SIGSTOP)
    try:
        silent = eventually(lambda: ask(f"{url}healthz").status == 503, "it is noticed")
        assert silent
        assert ask(f"{url}healthz").text == "These do not answer: worker 1.\n"
        ready = ask(f"{url}readyz")
        assert ready.text == "Nothing can be saved. There was no commit within 2 s.\n"
        ill = shell.run("health")
        assert (ill.code, ill.out) == (1, "")
        assert ill.err == "pwserver: these do not answer: worker 1.\n"
    finally:
        os.kill(hung, signal.SIGCONT)
    eventually(lambda: ask(f"{url}healthz").status == 200, "it is well again")


def test_a_service_that_stops_is_not_ready(start: Start) -> None:
    """Until it has ended a balancer is told so; the database is left as without a monitor."""
    service = start(*HTTP)
    url = url_of_monitor(service)
    with service.peer() as peer:
        assert peer.save() == {"message": "Password saved!"}
    headers = {"authorization": f"Bearer {service.token}"}
    assert ask(f"{url}page/data", headers=headers).status == 200, "it has read the database"
    slow = service.child("worker 2")
    os.kill(slow, signal.SIGSTOP)
    try:
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: ask(f"{url}readyz").status == 503, "it is told")
        assert ask(f"{url}readyz").text == "Nothing can be saved. The service is stopping.\n"
    finally:
        os.kill(slow, signal.SIGCONT)
    assert service.ended() == 0
    assert not Path(f"{service.database}-wal").exists()
    with pytest.raises(OSError, match="refused"):
        ask(f"{url}readyz")


def test_a_check_of_a_balancer_needs_no_name(watched: Service) -> None:
    """HTTP/1.0 has no `Host`, and HAProxy's checks speak that."""
    address = urlsplit(url_of_monitor(watched))
    with socket.create_connection((address.hostname, address.port or 0)) as check:
        check.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert check.makefile("rb").readline().split()[1] == b"200"


def test_a_disk_without_room_is_not_ready(start: Start, tmp_path: Path) -> None:
    """The processes are well, and yet nothing can be saved: both are said."""
    service = start(*HTTP, "--disk-reserve-mib", "1000000")
    url = url_of_monitor(service)
    eventually(lambda: ask(f"{url}readyz").status == 503, "it is noticed")
    assert "Nothing can be saved. " in ask(f"{url}readyz").text
    assert ask(f"{url}healthz").status == 200
    assert samples(ask(f"{url}metrics").text)["pwserver_disk_low",] == 1
    ran = Shell(tmp_path).run("health", "--json")
    assert ran.code == 6
    assert json.loads(ran.out)["changes_are_saved"] is False


def test_without_http_there_is_nothing_to_ask(service: Service, tmp_path: Path) -> None:
    """The commands say so in a sentence; no process is started, and no file made."""
    for command in ("health", "page"):
        ran = Shell(tmp_path).run(command)
        sentence = "pwserver: no pwserver with --http runs on user_data.db.\n"
        assert (ran.code, ran.out, ran.err) == (3, "", sentence)
    assert "monitor" not in service.all_children()
    assert not (tmp_path / "user_data.http").exists()


def test_an_address_in_use_is_a_sentence(tmp_path: Path) -> None:
    """The service does not start, says which setting it is, and has made no database."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        ran = Shell(tmp_path).run("serve", "--port", "0", "--http", where)
    sentence = f"pwserver: {where} is in use by another program; stop it, or choose another --http."
    assert (ran.code, ran.err.splitlines()[-1]) == (4, sentence)
    assert not (tmp_path / "user_data.db").exists()


def test_other_machines_get_nothing_without_tls(tmp_path: Path) -> None:
    """Without a certificate the service does not begin to show itself to a network."""
    ran = Shell(tmp_path).run("serve", "--port", "0", "--http", "0.0.0.0:0")
    sentence = "other machines can reach 0.0.0.0:0: give --tls-cert and --tls-key."
    assert (ran.code, ran.err.splitlines()[-1]) == (2, f"pwserver: {sentence}")


def test_elsewhere_metrics_need_a_token(start: Start, authority: Authority) -> None:
    """Only of an application that may count, where its token is good, and as long as it is."""
    address = own_address()
    issued = authority.issue("book", ["127.0.0.1", address])
    service = start("--http", "0.0.0.0:0", *tls_flags(issued))
    context = trusting(authority)
    port = url_of_monitor(service).rstrip("/").rpartition(":")[2]
    url = f"https://{address}:{port}/"

    def status(token: str = "", path: str = "metrics") -> int:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return ask(url + path, context=context, headers=headers).status

    assert [status(), status("x"), status("pwserver_" + "x" * 43)] == [401] * 3
    assert [status(path="healthz"), status(path="readyz"), status(path="page")] == [200] * 3
    assert status(path="page/data") == 401
    assert status(service.add_application("saver", ["save"])) == 401
    with service.administration() as files:
        elsewhere = files.add("elsewhere", ["count"], common=False, networks="127.0.0.0/8").reveal()
    assert status(elsewhere) == 401, "it comes from another address"
    token = service.add_application("watcher", ["count"])
    assert [status(token), status(token, "page/data")] == [200, 200]
    certificate = samples(
        ask(f"{url}metrics", context=context, headers={"authorization": f"Bearer {token}"}).text
    )["pwserver_certificate_expiry_timestamp_seconds",]
    assert 0 < certificate - time.time() < 2 * 86_400
    service.replace("worker 1")
    service.replace("worker 2")
    eventually(lambda: status(token) == 200, "the token is shown again to another worker")
    with service.administration() as files:
        files.revoke("watcher")
    eventually(lambda: status(token) == 401, "what is revoked shows nothing more")


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_silent_crowd_keeps_nobody_out(
    start: Start, authority: Authority, *, encrypted: bool
) -> None:
    """The oldest of them end, also those that have not begun the handshake."""
    host = own_address() if encrypted else "127.0.0.1"
    flags = tls_flags(authority.issue("book", [host])) if encrypted else []
    service = start("--http", f"{host}:0", *flags)
    url = url_of_monitor(service)
    place = (host, urlsplit(url).port)
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(socket.create_connection(place)) for _ in range(80)]
        assert ask(f"{url}healthz", context=trusting(authority)).status == 200
        for first in crowd[:16]:
            first.settimeout(PATIENCE_S)
            assert first.recv(1) == b""


def test_a_new_certificate_is_shown(start: Start, authority: Authority, tmp_path: Path) -> None:
    """After SIGHUP the monitor has it too, and the metrics say when it expires."""
    issued = authority.issue("book", days=1)
    service = start("--http", f"{own_address()}:0", *tls_flags(issued))
    url = url_of_monitor(service)
    context = trusting(authority)
    context.check_hostname = False
    newer = authority.issue("book", days=30)
    issued.key.write_bytes(newer.key.read_bytes())
    issued.cert.write_bytes(newer.cert.read_bytes())
    service.process.send_signal(signal.SIGHUP)
    headers = {"authorization": f"Bearer {service.token}"}

    def days() -> float:
        found = samples(ask(f"{url}metrics", context=context, headers=headers).text)
        ends_s = found["pwserver_certificate_expiry_timestamp_seconds",]
        return (ends_s - time.time()) / 86_400

    eventually(lambda: days() > 20, "the new one is shown")
    with tls_peer(service, trusting(authority)) as peer:
        assert peer.ask({"message": "ping"}) == {"message": "Alive!"}


def test_another_name_for_this_machine_is_refused(watched: Service) -> None:
    """A site on the network that has its name lead to 127.0.0.1 reads nothing."""
    url = url_of_monitor(watched)
    assert ask(f"{url}metrics", headers={"host": "evil.example"}).status == 421
    assert ask(f"{url}metrics", headers={"host": "localhost"}).status == 200


def test_it_watches_a_service_without_a_port(start: Start, tmp_path: Path) -> None:
    """With Unix sockets only, and on them alone, the token of the page is checked as well."""
    folder = tmp_path / "sockets"
    folder.mkdir(0o700)
    path = folder / "pw"
    service = start("--host", "none", "--unix", str(path), *HTTP)
    url = url_of_monitor(service)
    body = json.dumps({"token": service.add_application("watcher", ["count"])}).encode()
    assert ask(f"{url}page/session", method="POST", body=body).status == 204
    with unix_peer(path) as peer:
        assert peer.save()["message"] == "Password saved!"


# --- The page, without a browser. ---


def test_a_link_is_good_once(start: Start, tmp_path: Path) -> None:
    """It shows everything to one browser, by a cookie that scripts cannot read."""
    service = start(*HTTP)
    url = url_of_monitor(service)
    link = Shell(tmp_path).run("page").out.strip()
    assert link.startswith(f"{url}page#")
    body = json.dumps({"link": link.partition("#")[2]}).encode()
    entered = ask(f"{url}page/session", method="POST", body=body)
    cookie = entered.headers["set-cookie"]
    assert entered.status == 204
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert ask(f"{url}page/session", method="POST", body=body).status == 403
    headers = {"cookie": cookie.partition(";")[0]}
    told = json.loads(ask(f"{url}page/data", headers=headers).text)
    assert told["troubles"] == []
    assert any("metrics, health and the page are at" in line for line in told["log"])
    assert ask(f"{url}page/session", method="DELETE", headers=headers).status == 204
    assert ask(f"{url}page/data", headers=headers).status == 401


def test_the_page_tells_what_applications_do(start: Start, tmp_path: Path) -> None:
    """By their names, with what is no secret; nothing that is shown has a token in it."""
    service = start(*HTTP)
    url = url_of_monitor(service)
    token = service.add_application("web", ["save", "count"])
    write_token(tmp_path, token)
    with service.peer() as peer:
        peer.authenticate(token)
        peer.save()
        peer.ask({"message": "get_password", "username": "x"})

    def told() -> dict[str, object]:
        answer = ask(f"{url}page/data", headers={"authorization": f"Bearer {token}"})
        assert token not in answer.text
        applications = {each["name"]: each for each in json.loads(answer.text)["applications"]}
        return dict(applications.get("web", {}))

    eventually(lambda: told().get("did", 0) >= 3, "its requests are counted")  # type: ignore[operator]
    assert (told()["may"], told()["book"]) == (["save", "count"], "its own")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"token": 5}', b'{"link": "x"}', b"[" * 4000, b"x" * 100_000],
    ids=["nothing", "a list", "a number", "no link", "deep", "long"],
)
def test_who_shows_nothing_gets_no_session(watched: Service, body: bytes) -> None:
    """Whatever is sent instead of a token is refused."""
    url = url_of_monitor(watched)
    assert ask(f"{url}page/session", method="POST", body=body).status == 403


def test_the_alert_rules_are_rules() -> None:
    """`promtool` accepts them, and each names metrics that there are."""
    needs.tool("promtool")
    rules = Path(__file__).parents[3] / "docs" / "alerts.yaml"
    subprocess.run(["promtool", "check", "rules", str(rules)], check=True, capture_output=True)

"""Two hosts on one PostgreSQL database: two services, each with a folder of its own."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import run_sql
from tests.support.harness import Peer, Service, eventually
from tests.support.postgres import Postgres
from tests.support.shell import Shell
from workers.book.keyring import create_keyring

pytestmark = pytest.mark.postgres

Pair = tuple[Service, Service]


@pytest.fixture(scope="module")
def hosts(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Return two hosts with the same key that were started at once on an empty database."""
    url = postgres.new_url()
    folders = [tmp_path_factory.mktemp("host") for _ in range(2)]
    create_keyring(folders[0] / "user_data.key")
    shutil.copy(folders[0] / "user_data.key", folders[1])
    with contextlib.ExitStack() as ends:
        first, second = [ends.enter_context(Service(folder, url=url)) for folder in folders]
        first.wait_until_listening()
        second.wait_until_listening()
        yield first, second
        assert (first.stop(), second.stop()) == (0, 0)


@pytest.fixture
def owners(hosts: Pair) -> Iterator[tuple[Peer, Peer]]:
    """Return a connection to each host with all rights in the common book."""
    token = hosts[0].token
    with hosts[0].peer() as here, hosts[1].peer() as there:
        for peer in (here, there):
            assert peer.authenticate(token)["message"] == "Authenticated!"
        yield here, there


def save(name: str, password: str, **more: object) -> dict[str, object]:
    """Return the request to save a user's password."""
    return {"message": "save_password", "username": name, "password": password, **more}


def get(peer: Peer, name: str, **more: object) -> Any:
    """Return the reply to the question for a user's password."""
    return peer.ask({"message": "get_password", "username": name, **more})


def test_what_one_host_saves_the_other_reads_at_once(owners: tuple[Peer, Peer]) -> None:
    """A password, and that it is deleted."""
    here, there = owners
    assert here.ask(save("alice", "secret"))["version"] == 1
    assert get(there, "alice")["password"] == "secret"
    assert there.ask({"message": "delete_user", "username": "alice"})["message"] == "User deleted!"
    assert get(here, "alice")["message"] == "Unknown user!"


def test_the_number_of_users_is_exact_on_each_host(hosts: Pair) -> None:
    """Also while both save; and what a host has acknowledged, it counts at once."""
    replies: list[int] = []

    def fill(host: Service) -> None:
        with host.peer() as peer:
            for _ in range(50):
                assert peer.save()["message"] == "Password saved!"
                replies.append(peer.count())

    threads = [threading.Thread(target=fill, args=(host,)) for host in hosts]
    before = run_sql(hosts[0], 'SELECT count(*) FROM "user"')[0][0]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 100
    assert min(replies) > before
    for host in hosts:
        with host.peer() as peer:
            eventually(lambda: peer.count() == before + 100, "it counts all")
    rows = run_sql(hosts[0], 'SELECT (SELECT sum(users) FROM writer), count(*) FROM "user"')
    assert rows == [(before + 100, before + 100)]


def test_no_version_of_a_name_that_both_save_is_lost(owners: tuple[Peer, Peer]) -> None:
    """They make as many versions as there are saves, in whatever order."""
    versions: list[list[int]] = [[], []]

    def fill(number: int) -> None:
        for times in range(20):
            reply = owners[number].ask(save("both", f"{number} {times}"))
            versions[number].append(reply["version"])

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions[0] + versions[1]) == [*range(1, 41)]
    assert versions[0] == sorted(versions[0])
    newest = 0 if versions[0][-1] == 40 else 1
    assert get(owners[1 - newest], "both")["password"] == f"{newest} 19"


def test_a_request_id_is_done_once_whichever_host_is_asked(owners: tuple[Peer, Peer]) -> None:
    """At the same time, and after the other has answered."""
    replies: list[Any] = []

    def ask(peer: Peer) -> None:
        for number in range(20):
            replies.append(peer.ask(save(f"once {number}", "x", request_id=f"id {number}")))

    threads = [threading.Thread(target=ask, args=(peer,)) for peer in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {reply.get("version") for reply in replies} == {1}, replies
    again = owners[1].ask(save("once 7", "x", request_id="id 7"))
    assert (again["message"], again["version"]) == ("Password saved!", 1)


def test_a_revoked_token_is_gone_on_the_other_host_within_a_second(hosts: Pair) -> None:
    """On open connections, without anybody telling it; so it is with new rights."""
    token = hosts[0].add_application("shop")
    with hosts[1].peer() as peer:
        assert peer.authenticate(token)["message"] == "Authenticated!"
        assert peer.ask(save("a", "b"))["message"] == "Password saved!"
        with hosts[0].administration() as files:
            files.revoke("shop")
        since = time.monotonic()
        eventually(lambda: peer.ask(save("a", "b"))["message"] == "Denied!", "it is denied")
        assert time.monotonic() - since < 1.0


def test_an_old_row_revives_nothing_on_the_other_host(hosts: Pair) -> None:
    """What one host has decided, each keeps: who writes to the database cannot put it back."""
    token = hosts[0].add_application("thief")
    select = "SELECT * FROM application WHERE name = 'thief'"
    (old,) = run_sql(hosts[0], select)
    with hosts[1].peer() as peer:
        assert peer.authenticate(token)["message"] == "Authenticated!"
        with hosts[0].administration() as files:
            files.revoke("thief")
        eventually(lambda: peer.ask(save("a", "b"))["message"] == "Denied!", "it is denied")
    first, second = [host.folder / "user_data.revisions" for host in hosts]
    eventually(lambda: first.read_bytes() == second.read_bytes(), "both know")
    run_sql(hosts[0], "DELETE FROM application WHERE name = 'thief'")
    run_sql(hosts[0], f"INSERT INTO application VALUES ({', '.join(['%s'] * len(old))})", *old)
    run_sql(hosts[0], "UPDATE pwserver SET generation = generation + 1")
    eventually(lambda: "old copy that was put back" in hosts[1].stderr, "the host says so")
    with hosts[1].peer() as peer:
        assert peer.authenticate(token)["message"] == "Denied!"
    with hosts[0].administration() as files:
        files.rotate("thief", 0)


def test_ids_of_all_workers_differ(hosts: Pair) -> None:
    """Each has a number of its own from the database, which is in the low bits of its ids."""
    for host in hosts:
        with contextlib.ExitStack() as peers:
            for peer in [peers.enter_context(host.peer()) for _ in range(40)]:
                assert peer.save()["message"] == "Password saved!"
    ids = [row[0] for row in run_sql(hosts[0], 'SELECT id FROM "user" WHERE username IS NULL')]
    assert len(ids) == len(set(ids))
    serials = {number & 0x7FF for number in ids}
    assert 2 <= len(serials) <= 4, "one for each worker that has saved something"
    ((last,),) = run_sql(hosts[0], "SELECT last_value FROM worker_serial")
    assert last == 4


def test_a_host_that_lacks_a_key_is_named(hosts: Pair, owners: tuple[Peer, Peer]) -> None:
    """Nothing is sealed with a key that somebody could not open; then all goes on with it."""
    first, second = hosts
    shell = Shell(first.folder)
    assert owners[0].ask(save("kept", "old"))["message"] == "Password saved!"
    assert shell.run("key", "add").code == 0
    refused = shell.run("key", "rotate")
    assert refused.code == 1
    assert f":{second.folder}. Copy the key file there first; nothing was done." in refused.err
    assert f":{first.folder}" not in refused.err
    assert run_sql(first, "SELECT id FROM key WHERE seals") == [(1,)]
    shutil.copy(first.folder / "user_data.key", second.folder)
    rotated = shell.run("key", "rotate")
    assert (rotated.code, rotated.err) == (0, "Every password is sealed with key 2.\n")
    assert get(owners[1], "kept")["password"] == "old"
    assert owners[1].ask(save("kept", "new"))["version"] == 2
    assert shell.run("key", "retire", "1").code == 0
    assert get(owners[0], "kept")["password"] == "new"
    assert run_sql(first, 'SELECT DISTINCT key_id FROM "user"') == [(2,)]


def test_a_host_with_another_key_is_refused(hosts: Pair, tmp_path: Path) -> None:
    """With one that it has, and with one that it would make: it says where to get the right one."""
    shell = Shell(tmp_path)
    (tmp_path / "pwserver.toml").write_text((hosts[0].folder / "pwserver.toml").read_text())
    missing = shell.run("serve", "--port", "0")
    assert (missing.code, missing.out) == (5, "")
    assert "there is no key file user_data.key" in missing.err
    create_keyring(tmp_path / "user_data.key")
    wrong = shell.run("serve", "--port", "0")
    assert (wrong.code, wrong.out) == (5, "")
    assert "key" in wrong.err


def test_check_finds_all_in_order(hosts: Pair) -> None:
    """It opens every password that either host has sealed, and counts what their writers have."""
    ran = Shell(hosts[0].folder).run("check", "--json")
    assert (ran.code, ran.record["findings"]) == (0, []), ran

"""The wire contract, on a real service."""

import json
import threading

from tests.conftest import Start
from tests.support.engines import BOTH_ENGINES
from tests.support.harness import SAVED, Peer, Service, eventually

pytestmark = BOTH_ENGINES

SAVE = {"message": "save_password", "password": "abc123"}
COUNT = {"message": "number_of_users"}


def test_the_exchanges_of_the_basic_contract_are_exact(peer: Peer) -> None:
    """The three replies are the contract's, byte for byte."""
    peer.send(SAVE, COUNT, {"message": "another_message", "data": "some_data"})
    assert peer.line() == b'{"message": "Password saved!"}\n'
    assert peer.line() == b'{"message": "return_number_of_users", "number_of_users": 1}\n'
    assert peer.line() == b'{"message": "Invalid message!"}\n'


def test_every_save_makes_one_user(peer: Peer) -> None:
    """The same password saved three times is three users."""
    assert [peer.save("same")["message"] for _ in range(3)] == ["Password saved!"] * 3
    assert peer.count() == 3


def test_a_message_needs_no_newline(peer: Peer) -> None:
    """A complete object is acted on at once, without anything behind it."""
    peer.send(SAVE, newline=b"")
    assert peer.line() == SAVED
    peer.send(COUNT, newline=b"")
    assert peer.reply()["number_of_users"] == 1


def test_objects_back_to_back_are_all_done(peer: Peer) -> None:
    """Objects with no separator between them are messages like any other."""
    peer.send(SAVE, SAVE, COUNT, newline=b"")
    assert [peer.reply()["message"] for _ in range(3)] == [
        "Password saved!",
        "Password saved!",
        "return_number_of_users",
    ]


def test_a_message_may_come_a_byte_at_a_time(peer: Peer) -> None:
    """However slowly a message trickles in, it is one message."""
    for byte in json.dumps({"message": "save_password", "password": 'a"}{\\é'}).encode():
        peer.send(bytes([byte]))
    assert peer.line() == SAVED


def test_a_reply_repeats_the_id(peer: Peer) -> None:
    """Whatever the answer is, it carries the request's id."""
    peer.send({**SAVE, "id": 7}, {**COUNT, "id": "a" * 128}, {"message": "other", "id": -1})
    peer.send({"message": "save_password", "id": 9}, {"message": "ping", "id": "p"})
    assert peer.reply() == {"message": "Password saved!", "id": 7}
    assert peer.reply()["id"] == "a" * 128
    assert peer.reply() == {"message": "Invalid message!", "id": -1}
    assert peer.reply()["id"] == 9
    assert peer.reply() == {"message": "Alive!", "id": "p"}


def test_pipelined_replies_come_in_order(peer: Peer) -> None:
    """Each request sees the saves before it on its connection, and none behind it."""
    rounds = 300
    messages: list[object] = []
    for number in range(rounds):
        messages += [{**SAVE, "id": number}, {**COUNT, "id": number}, {"message": "?"}]
    peer.send(*messages)
    for number in range(rounds):
        assert peer.reply() == {"message": "Password saved!", "id": number}
        assert peer.reply() == {
            "message": "return_number_of_users",
            "number_of_users": number + 1,
            "id": number,
        }
        assert peer.reply() == {"message": "Invalid message!"}


def test_half_close_still_gets_every_reply(peer: Peer) -> None:
    """A client that has sent all may close its half and read for as long as there is something."""
    peer.send(*[SAVE] * 5000, COUNT)
    peer.no_more_to_send()
    assert [peer.line() for _ in range(5000)] == [SAVED] * 5000
    assert peer.reply()["number_of_users"] == 5000
    assert peer.ended()


def test_send_and_close_saves_all_the_same(service: Service, peer: Peer) -> None:
    """A client that closes at once without reading has its passwords saved."""
    for _ in range(20):
        with service.peer() as hasty:
            hasty.send(SAVE, SAVE, newline=b"")
    assert eventually(lambda: peer.count() == 40, "all forty are saved")


def test_extra_keys_are_ignored(peer: Peer) -> None:
    """A key that a command does not know changes nothing."""
    assert peer.ask({**SAVE, "data": {"nested": [1, None]}}) == {"message": "Password saved!"}


def test_a_message_over_the_limit_is_refused_whole(start: Start) -> None:
    """The size limit is a setting, and a message over it is answered before the close."""
    service = start("--message-bytes-max", "300")
    with service.peer() as peer:
        assert peer.save("x" * 200) == {"message": "Password saved!"}
        peer.send({"message": "save_password", "password": "x" * 300}, SAVE)
        assert "300 bytes" in peer.reply()["error"]
        assert peer.ended()
    with service.peer() as peer:
        assert peer.count() == 1


def test_two_hundred_connections_at_once_are_all_served(service: Service) -> None:
    """With 2 workers and 100 idle connections, 200 busy ones all get their turn."""
    idle = [service.peer() for _ in range(100)]
    peers = [service.peer() for _ in range(200)]
    done: list[int] = []

    def use(peer: Peer) -> None:
        for _ in range(10):
            assert peer.save() == {"message": "Password saved!"}
        done.append(1)

    threads = [threading.Thread(target=use, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 200
    assert idle[0].count() == 2000
    for peer in idle + peers:
        peer.close()


def test_a_long_pipeline_before_reading_is_served(service: Service) -> None:
    """A client may send far more than may be in flight before it reads its first reply."""
    with service.peer() as peer:
        peer.send(*[SAVE] * 20_000)
        assert [peer.line() for _ in range(20_000)] == [SAVED] * 20_000
        assert peer.count() == 20_000
